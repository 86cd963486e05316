"""A swarm: the gossip machines of thousands of nodes on one event heap, under virtual time.

What is stepped is `gossip.mesh.Mesh` itself, one for each node, with its own key, real signatures
and the bytes that would go over the wire.  A swarm is its driver: it carries what one machine sends
over a link to the next, when the link says that it arrives, and ticks each when it is due.

    swarm = Swarm(seed, lines)
    for _ in range(1000):
        swarm.add()
    swarm.connect(0, 1)                 # node 0 dials node 1
    swarm.say(0, Subscribe("topic"))
    swarm.run(3.0)

Rules:

* A link is two ways.  Each is a stream: `Lines` keeps its order, and what is on its way when the
  link breaks is lost.  What is sent counts as written (`Written`) when it has arrived, as it does
  in TCP's buffers, and is told in portions: an idle link costs nothing.
* Everything random is drawn from generators named after the seed, the node and the purpose.
* With `checking`, every machine asserts its invariants after each of its steps.
* The trace has every message sent (when it arrives, from whom to whom, a sum of its bytes) and
  every delivery, packed: a million messages must not be a million lines.  Lines are made of them
  only when somebody keeps them, and make no difference to the hash.

What it leaves out: everything around the machines.  There are no daemons, stores or clocks that go
wrong here (`simulations.world` has them), connections come and go at once, and bytes are those of
RPCs, without what transport and encryption add.
"""

import gc
import hashlib
import math
import random
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from gossip.config import Config
from gossip.intake import Judgement, accept
from gossip.mesh import Mesh
from gossip.mesh_events import (
    Connected,
    Deliver,
    Disconnect,
    Disconnected,
    Effect,
    Exchange,
    Input,
    Publish,
    Reset,
    Send,
    Subscribe,
    Tick,
    Written,
)
from simulations import chance
from simulations.agenda import Agenda
from simulations.swarm_links import Lines, Node, Watcher, Way, messages_bytes
from simulations.trace import Trace
from simulations.verification import Verification
from storage.signing import Keypair

NODES_MAX: Final = 65_536
"""Source: two numbers in four bytes of the trace."""
TRACED_AT_ONCE: Final = 8192
"""Messages and deliveries that are hashed together. Source: as little as need be."""
RECONNECT_S: Final = 1.0
"""When a link that was reset is there again. Source: guess."""
YOUNG_MAX: Final = 1_000_000
"""New objects before the collector looks for cycles. Source: machines make none (a test sees to
that), and a million is more than is on its way at one time."""
_TICK: Final = Tick()
_DELIVERED: Final = 1 << 63


Who: TypeAlias = Way | Node | Callable[[], None]
"""An RPC arrives over a way; a node may be due; anything else."""


class Swarm:
    """Nodes, links and virtual time."""

    def __init__(
        self,
        seed: int,
        lines: Lines,
        *,
        config: Config | None = None,
        trace: Trace | None = None,
        verification: Verification | None = None,
        checking: bool = False,
    ) -> None:
        self.seed = seed
        self.lines = lines
        self.config = config or Config()
        self.trace = trace or Trace()
        self.verification = verification or Verification()
        self.checking = checking
        self.now = 0.0
        """Virtual time, seconds."""
        self.events = 0
        self.nodes: list[Node] = []
        self.by_id: dict[bytes, Node] = {}
        self.links: dict[tuple[int, int], Way] = {}
        """Both ways of each link, by the numbers of its ends."""
        self.watcher: Watcher | None = None
        self.relink: Callable[[int, int], None] = self.connect
        """Links two nodes again whose link was reset, if that is to be."""
        self.zero_s = 0.0
        """From when the times of events that are kept are counted; none is kept before."""
        self._agenda: Agenda[Who, bytes] = Agenda()
        self._is_shown = self.trace.is_kept
        self._written_bytes = self.config.queue_low_bytes // 4
        self._times = array("d")
        self._marks = array("Q")
        self._rpc = b""
        """The last that was sent, of which the next three are."""
        self._rpc_sum = 0
        self._rpc_bytes = 0
        self._rpc_control_bytes = 0

    # --- who there is -----------------------------------------------------------------------

    def add(self, judge: Judgement = accept, explicit: tuple[bytes, ...] = ()) -> int:
        """Add a node; return its number."""
        number = len(self.nodes)
        if number >= NODES_MAX:
            raise ValueError(f"more than {NODES_MAX} nodes")
        seed = hashlib.sha256(f"{self.seed}/key/{number}".encode()).digest()
        node = Node(number, Keypair.from_seed(seed))
        self.nodes.append(node)
        self.by_id[node.id] = node
        self._begin(node, judge, explicit)
        return number

    def crash(self, number: int) -> None:
        """Have a node be gone, with its links and all it did not write down."""
        node = self.nodes[number]
        for way in list(node.ways.values()):
            self.disconnect(number, way.target.number)
        node.is_up = False
        node.tick_at = -1.0

    def start(
        self, number: int, judge: Judgement = accept, explicit: tuple[bytes, ...] = ()
    ) -> None:
        """Have a node that was gone begin anew, without links."""
        node = self.nodes[number]
        if not node.is_up:
            node.is_up = True
            self._begin(node, judge, explicit)

    def connect(self, dialler: int, listener: int) -> None:
        """Link two nodes that are up, if they are not linked."""
        one, other = self.nodes[dialler], self.nodes[listener]
        if other.id in one.ways or one is other or not (one.is_up and other.is_up):
            return
        for source, target in ((one, other), (other, one)):
            way = Way(source, target, self.lines.steady_s(source.number, target.number))
            source.ways[target.id] = self.links[source.number, target.number] = way
        if self.watcher is not None:
            self.watcher.linked(one, other)
        self.say(dialler, Connected(other.id, outbound=True))
        if other.id in one.ways:  # What the first said may have been lost, and the link with it.
            self.say(listener, Connected(one.id, outbound=False))

    def disconnect(self, one: int, other: int) -> None:
        """Break a link, with all that is under way on it."""
        ends = self.nodes[one], self.nodes[other]
        if ends[1].id not in ends[0].ways:
            return
        for source, target in (ends, ends[::-1]):
            source.ways.pop(target.id).is_open = False
            del self.links[source.number, target.number]
        self.lines.reset(one, other)
        for source, target in (ends, ends[::-1]):
            self.say(source.number, Disconnected(target.id))
        if self.watcher is not None:
            self.watcher.parted(*ends)

    # --- letting it run ---------------------------------------------------------------------

    def say(self, number: int, input: Input) -> list[Effect]:
        """Give an input to a node now, and carry out what it wants."""
        node = self.nodes[number]
        effects = node.mesh.handle(input, self.now)
        if self.checking:
            node.mesh.check()
        if effects:
            self._carry_out(node, effects)
        self._arm(node)
        return effects

    def publish(self, number: int, data: bytes, topic: str) -> None:
        """Have a node publish a message."""
        self.say(number, Publish(topic, data))

    def subscribe_all(self, topic: str) -> None:
        """Have all nodes subscribe to a topic."""
        for node in self.nodes:
            self.say(node.number, Subscribe(topic))

    def at(self, at: float, act: Callable[[], None]) -> None:
        """Have something happen at a time that is not past."""
        self._agenda.push(max(at, self.now), act, b"")

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.run_until(self.now + seconds)

    def run_until(self, until: float) -> None:
        """Let time pass until then."""
        for at, who, rpc in self._agenda.due(until):
            self.now = at
            self.events += 1
            if type(who) is Way:
                if who.is_open:
                    self._receive(who, rpc)
            elif type(who) is Node:
                if who.tick_at == at:
                    who.tick_at = -1.0
                    self.say(who.number, _TICK)
            else:
                assert callable(who)
                who()
        self.now = until
        self._flush()

    def note(self, source: int, target: int, size_bytes: int, at: float) -> None:
        """Have it make a difference to the trace that something else than an RPC was sent."""
        self._times.append(at)
        self._marks.append((source << 16 | target) << 32 | size_bytes)

    def inject(self, way: Way, rpc: bytes) -> None:
        """Send bytes that no machine gave."""
        self._send(way, rpc)

    def send_over(self, way: Way, size_bytes: int, arrive: Callable[[], None]) -> None:
        """Send something else than an RPC: on arrival, if the link still stands, `arrive`."""
        source, target = way.source, way.target
        source.sent_bytes += size_bytes
        if way.is_mute:
            return
        at = self.lines.arrival_s(source.number, target.number, size_bytes, self.now)
        self.note(source.number, target.number, size_bytes, -1.0 if at is None else at)
        if at is None:
            self._reset(way)
        else:
            self._agenda.push(at, lambda: arrive() if way.is_open else None, b"")

    def check(self) -> None:
        """Assert the invariants of all machines, and that links are what both ends think."""
        for node in self.nodes:
            if not node.is_up:
                assert not node.ways
                continue
            node.mesh.check()
            assert node.mesh.statistics().peers == len(node.ways)
        for (one, other), way in self.links.items():
            assert way.is_open
            assert (way.source.number, way.target.number) == (one, other)
            assert self.nodes[one].ways[self.nodes[other].id] is way
            assert (other, one) in self.links

    # --- inside -----------------------------------------------------------------------------

    def _begin(self, node: Node, judge: Judgement, explicit: tuple[bytes, ...]) -> None:
        node.mesh = Mesh(
            self.config,
            me=node.id,
            sign=node.keypair.sign_bytes,
            verify=self.verification.verify,
            chance=chance.named(self.seed, "mesh", node.number, self.now.hex()),
            seqno=chance.START_MS * 1_000_000 + int(self.now * 1e9),
            now=self.now,
            judge=judge,
            read=self.verification.read,
            explicit=explicit,
        )
        self._arm(node)

    def _arm(self, node: Node) -> None:
        deadline = node.mesh.deadline
        if node.tick_at != deadline and node.is_up:
            node.tick_at = deadline
            self._agenda.push(deadline, node, b"")

    def _receive(self, way: Way, rpc: bytes) -> None:
        effects = way.mesh.receive(way.source_id, rpc, self.now)
        way.unwritten_bytes += len(rpc)
        if way.unwritten_bytes >= self._written_bytes:
            written, way.unwritten_bytes = way.unwritten_bytes, 0
            self.say(way.source.number, Written(way.target.id, written))
        if self.checking:
            way.mesh.check()
        if effects:
            self._carry_out(way.target, effects)
            self._arm(way.target)

    def _carry_out(self, node: Node, effects: list[Effect]) -> None:
        ways = node.ways
        for effect in effects:
            if type(effect) is Send:
                way = ways.get(effect.peer)
                if way is not None:
                    self._send(way, effect.rpc)
            elif type(effect) is Deliver:
                self._times.append(self.now)
                self._marks.append(_DELIVERED | node.number << 32 | zlib.crc32(effect.message.id))
                if self.watcher is not None:
                    source = self.by_id[effect.peer]
                    self.watcher.deliver(node, effect.message, source, effect.awaited)
            elif type(effect) is Disconnect:
                self._tell(node, effect)
                if (peer := self.by_id.get(effect.peer)) is not None:
                    self.disconnect(node.number, peer.number)
            elif type(effect) is Reset or type(effect) is Exchange:
                self._tell(node, effect)
        if len(self._times) >= TRACED_AT_ONCE:
            self._flush()

    def _tell(self, node: Node, effect: Reset | Exchange | Disconnect) -> None:
        if self.watcher is not None:
            self.watcher.refused(node, effect)

    def _send(self, way: Way, rpc: bytes) -> None:
        if rpc is not self._rpc:
            self._rpc = rpc
            self._rpc_sum = zlib.crc32(rpc)
            self._rpc_bytes = len(rpc)
            self._rpc_control_bytes = len(rpc) - messages_bytes(rpc)
        source, size_bytes = way.source, self._rpc_bytes
        source.sent_bytes += size_bytes
        if self._rpc_control_bytes:
            source.control_bytes += self._rpc_control_bytes
        at: float | None
        if way.steady_s is not None:
            at = self.now + way.steady_s
        else:
            number, target = source.number, way.target.number
            at = self.lines.arrival_s(number, target, size_bytes, self.now)
            if at is None:
                self._reset(way)
                return
        self._times.append(at)
        self._marks.append(way.mark | self._rpc_sum)
        if not way.is_mute and at != math.inf:
            self._agenda.push(at, way, rpc)
        if self._is_shown and self.now >= self.zero_s:
            self._show(way, at)

    def _show(self, way: Way, at: float) -> None:
        lost = way.is_mute or at == math.inf
        self.trace.show(
            self.now - self.zero_s,
            "message",
            source=way.source.number,
            target=way.target.number,
            what="message" if self._rpc_control_bytes < self._rpc_bytes else "control",
            size_bytes=self._rpc_bytes,
            arrives_at_s=None if lost else round(at - self.zero_s, 9),
            lost=lost,
        )

    def _reset(self, way: Way) -> None:
        one, other = way.source.number, way.target.number
        self.disconnect(one, other)
        self.at(self.now + RECONNECT_S, lambda: self.relink(one, other))

    def _flush(self) -> None:
        self.trace.add(self._times.tobytes())
        self.trace.add(self._marks.tobytes())
        del self._times[:], self._marks[:]


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from looking at what stays: nodes, from when they are made on."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def random_links(swarm: Swarm, degree: float, rng: random.Random) -> None:
    """Link all nodes: a random tree, and random links until the mean degree is reached."""
    count = len(swarm.nodes)
    degree = min(degree, count - 1)
    for number in range(1, count):
        swarm.connect(number, rng.randrange(number))
    while len(swarm.links) < count * degree:
        one, other = rng.sample(range(count), 2)
        swarm.connect(one, other)
