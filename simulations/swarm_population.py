"""The nodes of a swarm as they live: linked as a graph has it, up or down, each with its records.

    population = Population(swarm, graph, metrics, records=100)
    population.settle()
    population.make(3, "kv", 100)               # node 3 makes a record, and publishes it

A record goes out by gossip; who has it already passes no second copy on (IGNORE), who is brought
one that is not right says so (REJECT).  What gossip missed comes by reconciliation.  A node that
crashes keeps its records and nothing else.  Links come back as the graph has them, but for those
that a fault holds cut and those of a peer that was thrown out for what it did.

Times are seconds since the nodes were settled: `now`.
"""

from collections import Counter, deque
from typing import Final

from gossip.mesh_events import Disconnect, Exchange, Reset, Subscribe, Verdict
from gossip.sync_events import Done
from gossip.sync_index import Item
from gossip.sync_messages import Stratum
from gossip.wire import Message
from simulations import chance, swarm_records
from simulations.metrics import Metrics
from simulations.spreading import Spread
from simulations.swarm import Swarm
from simulations.swarm_links import Node
from simulations.swarm_records import Archive, Reader, Views
from simulations.swarm_sync import INTERVAL_S, Reconciliation
from simulations.topology import Graph

TOPIC: Final = "peernode/records"
SETTLE_S: Final = 3.0
"""Until all meshes are there. Source: two heartbeats and what links take."""
OVERHEARD_MAX: Final = 64
"""Messages that a byzantine node has at hand. Source: guess."""


class Population:
    """All nodes, and what becomes of them."""

    def __init__(
        self,
        swarm: Swarm,
        graph: Graph,
        metrics: Metrics,
        *,
        records: float,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Make the nodes of a graph. `records`: about how many they will make."""
        self.swarm = swarm
        self.graph = graph
        self.metrics = metrics
        self.archives = [Archive() for _ in graph.names]
        self.views = Views()
        """Of the nodes that are up and mean well."""
        self.byzantine: dict[int, deque[bytes]] = {}
        """Node -> messages it was brought."""
        self._reader = Reader(swarm.verification)
        self.spread = Spread(metrics, graph.size, records)
        self._cuts: Counter[tuple[int, int]] = Counter()
        self._mutes: Counter[tuple[int, int]] = Counter()
        self._outcasts: dict[tuple[int, int], None] = {}
        self._made = 0
        self._counted_s = 0.0
        self._control_bytes = [0] * graph.size
        self.sync = Reconciliation(swarm, self, self._reader, interval_s=interval_s)
        for number in range(graph.size):
            swarm.add(self._judge_of(number))
        for edge in graph.edges:
            swarm.connect(edge.one, edge.other)
        swarm.subscribe_all(TOPIC)
        swarm.watcher = self
        swarm.relink = self.relink

    @property
    def now(self) -> float:
        """Virtual time since the nodes were settled, seconds."""
        return self.swarm.now - self.swarm.zero_s

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return self.graph.size

    def settle(self) -> None:
        """Let meshes form; time counts from then on."""
        self.swarm.run(SETTLE_S)
        self.swarm.zero_s = self.swarm.now
        for node in self.swarm.nodes:
            node.sent_bytes = node.control_bytes = 0
            self.views.add(self.archives[node.number].digest)
            self.sync.begin(node.number)

    def make(self, number: int, label: str, size_bytes: int) -> bool:
        """Let a node make a record of so much content; return whether it is up."""
        node = self.swarm.nodes[number]
        if not node.is_up:
            return False
        self._made += 1
        content = self._made.to_bytes(8, "big").ljust(size_bytes, b"\0")
        made_ms = chance.START_MS + int(self.swarm.now * 1000)
        record = swarm_records.make(node.keypair, made_ms, content)
        one = self._reader.read(record)
        assert one is not None, "a record of our own"
        due = bytearray(
            other.is_up and other.number not in self.byzantine for other in self.swarm.nodes
        )
        self.spread.made(one, label, number, self.now, due)
        self._note("made", number, one[8:24])
        self._keep(number, one, record)
        self.swarm.publish(number, record, TOPIC)
        return True

    def take_aside(self, number: int, record: bytes) -> None:
        """Let a node have a record that gossip brings to nobody, and no metric follows."""
        one = self._reader.read(record)
        assert one is not None, "no record"
        self._keep(number, one, record)

    def forge(self, number: int, bit: int) -> None:
        """Let a node publish a record that is none, but for one bit."""
        archive = self.archives[number]
        if not len(archive) or not self.swarm.nodes[number].is_up:
            return
        record = bytearray(archive.get(next(iter(archive))) or b"")
        record[bit // 8 % len(record)] ^= 1 << bit % 8
        self.swarm.publish(number, bytes(record), TOPIC)

    # --- up and down, linked and cut ----------------------------------------------------------

    def crash(self, number: int) -> None:
        """A node loses power."""
        if not self.swarm.nodes[number].is_up:
            return
        self.swarm.crash(number)
        self.sync.end(number)
        self.spread.gone(number, self.now)
        if number not in self.byzantine:
            self.views.drop(self.archives[number].digest)
        self._record_node(number, "down")

    def start(self, number: int) -> None:
        """A node is there again, with its records."""
        node = self.swarm.nodes[number]
        if node.is_up:
            return
        self.swarm.start(number, self._judge_of(number))
        self.swarm.say(number, Subscribe(TOPIC))
        if number not in self.byzantine:
            self.views.add(self.archives[number].digest)
        self.sync.begin(number)
        self._record_node(number, "up")
        for other in self.graph.neighbours(number):
            self.relink(number, other)

    def corrupt(self, number: int) -> None:
        """A node is byzantine from now on: it counts no more among those that are to agree."""
        if number not in self.byzantine:
            self.byzantine[number] = deque(maxlen=OVERHEARD_MAX)
            self.spread.gone(number, self.now)
            if self.swarm.nodes[number].is_up:
                self.views.drop(self.archives[number].digest)

    def cut(self, one: int, other: int) -> None:
        """Have no link between two nodes, until all that cut it have healed it."""
        pair = _pair(one, other)
        self._cuts[pair] += 1
        self.swarm.disconnect(one, other)

    def heal(self, one: int, other: int) -> None:
        """Undo a cut."""
        pair = _pair(one, other)
        self._cuts[pair] -= 1
        self.relink(one, other)

    def mute(self, one: int, other: int) -> None:
        """Have nothing arrive that one sends to the other, and nobody notice."""
        self._mutes[one, other] += 1
        if (way := self.swarm.links.get((one, other))) is not None:
            way.is_mute = True

    def unmute(self, one: int, other: int) -> None:
        """Undo it: a stream that lost bytes breaks, and is there again."""
        self._mutes[one, other] -= 1
        if not self._mutes[one, other]:
            self.swarm.disconnect(one, other)
            self.relink(one, other)

    def reaches(self, one: int, other: int) -> bool:
        """Tell whether there is a way between two nodes, over links that stand."""
        nodes = self.swarm.nodes
        if not (nodes[one].is_up and nodes[other].is_up):
            return False
        if not any(self._cuts.values()):
            return True
        found, todo = {one: None}, [one]
        while todo:
            for way in nodes[todo.pop()].ways.values():
                if way.target.number not in found:
                    found[way.target.number] = None
                    todo.append(way.target.number)
        return other in found

    def relink(self, one: int, other: int) -> None:
        """Link two nodes of a link of the graph, if nothing stands against it."""
        pair = _pair(one, other)
        if not self._cuts[pair] and pair not in self._outcasts:
            self.swarm.connect(one, other)

    # --- what the swarm tells (a `Watcher`) ---------------------------------------------------

    def deliver(self, node: Node, message: Message, source: Node, awaited: bool) -> None:
        """A message came, and was found good: keep its record."""
        del awaited
        one = self._reader.read(message.data)
        assert one is not None, "judged before"
        number = node.number
        self._keep(number, one, message.data)
        self.spread.arrived(one, number, source.number, self.now)
        if number in self.byzantine:
            self.byzantine[number].append(message.fragment)
        if self.swarm.trace.is_kept:
            slot = one[8:24].hex()
            self.swarm.trace.show(self.now, "record", node=number, slot=slot, what="seen")

    def linked(self, dialler: Node, listener: Node) -> None:
        """There is a link."""
        for source, target in ((dialler, listener), (listener, dialler)):
            if self._mutes[source.number, target.number]:
                self.swarm.links[source.number, target.number].is_mute = True
        self.sync.linked(dialler, listener)
        self._record_link(dialler, listener, "up")

    def parted(self, one: Node, other: Node) -> None:
        """There is none any more."""
        self.sync.parted(one, other)
        self._record_link(one, other, "down")

    def refused(self, node: Node, effect: Reset | Exchange | Disconnect) -> None:
        """A machine throws out a peer for what it did: its driver takes it in no more."""
        if isinstance(effect, Disconnect) and effect.is_misbehaving:
            outcast = self.swarm.by_id[effect.peer].number
            self._outcasts[_pair(node.number, outcast)] = None

    # --- what reconciliation asks (a `Keeper`) ------------------------------------------------

    def archive(self, number: int) -> Archive:
        """Return what a node keeps."""
        return self.archives[number]

    def take(self, number: int, record: bytes, source: int) -> None:
        """Keep a record that reconciliation brought."""
        one = self._reader.read(record)
        assert one is not None, "looked at before"
        self._keep(number, one, record)
        self.spread.arrived(one, number, source, self.now)
        self._note("seen", number, one[8:24])

    def session_over(self, number: int, done: Done, frames: int) -> None:
        """Take note of what a reconciliation took."""
        size_bytes, name = done.sent_bytes + done.received_bytes, str(number)
        self.metrics.observe("sync.session_bytes", self.now, size_bytes, node=name)
        self.metrics.observe("sync.frames", self.now, frames, node=name)

    # --- the end ------------------------------------------------------------------------------

    def begin_counting(self) -> None:
        """What nodes send counts from now on."""
        self._counted_s = self.now
        self._control_bytes = [node.control_bytes for node in self.swarm.nodes]

    def close(self) -> None:
        """Observe what is known at the end only."""
        self.spread.close(self.now)
        counted_s = self.now - self._counted_s
        for node in self.swarm.nodes:
            if not node.is_up or node.number in self.byzantine:
                continue
            name, counts = str(node.number), node.mesh.statistics()
            if counts.delivered:
                copies = 1 + counts.duplicates / counts.delivered
                self.metrics.observe("mesh.copies", self.now, copies, node=name)
            if counted_s > 0:
                before_bytes = self._control_bytes[node.number]
                rate = (node.control_bytes - before_bytes) / counted_s
                self.metrics.observe("link.control_bytes", self.now, rate, node=name)

    def check(self) -> None:
        """Assert that machines, archives and the count of views agree."""
        self.swarm.check()
        up = [node.number for node in self.swarm.nodes if node.is_up]
        honest = [self.archives[n].digest for n in up if n not in self.byzantine]
        assert self.views.distinct == len(dict.fromkeys(honest))
        for number in up:
            machine = self.sync.machine(number)
            machine.check()
            archive = self.archives[number]
            assert machine.count(Stratum.RECORDS) == len(archive)
            assert all(machine.contains(Stratum.RECORDS, one) for one in archive)

    # --- inside -------------------------------------------------------------------------------

    def _judge_of(self, number: int) -> "_Judge":
        return _Judge(self._reader, self.archives[number])

    def _keep(self, number: int, one: Item, record: bytes) -> None:
        archive = self.archives[number]
        if number in self.byzantine:
            archive.keep(one, record)
        else:
            self.views.drop(archive.digest)
            archive.keep(one, record)
            self.views.add(archive.digest)
        self.sync.insert(number, one)

    def _note(self, what: str, number: int, slot: bytes) -> None:
        self.swarm.trace.record(self.now, "record", node=number, slot=slot.hex(), what=what)

    def _record_node(self, number: int, state: str) -> None:
        self.swarm.trace.record(self.now, "node", node=number, state=state)

    def _record_link(self, one: Node, other: Node, state: str) -> None:
        low, high = _pair(one.number, other.number)
        self.swarm.trace.record(self.now, "link", one=low, other=high, state=state)


class _Judge:
    """What a node thinks of a message: a `gossip.intake.Judgement`."""

    __slots__ = ("_archive", "_reader")

    def __init__(self, reader: Reader, archive: Archive) -> None:
        self._reader = reader
        self._archive = archive

    def __call__(self, message: Message) -> Verdict:
        one = self._reader.read(message.data)
        if one is None:
            return Verdict.REJECT
        return Verdict.IGNORE if one in self._archive else Verdict.ACCEPT


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
