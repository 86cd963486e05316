"""Many `Mesh` machines on one event heap, under virtual time.

A link carries RPCs in order, like a stream, each after a delay of its own.  A test may lose or
shuffle what is under way, which no stream does, to see that the machines stand it.
"""

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import nacl.bindings
import nacl.exceptions

from gossip import wire, wire_encode
from gossip.config import Config
from gossip.mesh import Mesh
from gossip.mesh_events import (
    Connected,
    Deliver,
    Disconnect,
    Disconnected,
    Effect,
    Exchange,
    Input,
    Judge,
    Publish,
    Received,
    Reset,
    Send,
    Subscribe,
    Tick,
    Verdict,
    Written,
)
from gossip.wire import Message

TOPIC = "topic"


def peer_id(name: object) -> bytes:
    """Return the peer id of a key that nobody has."""
    return wire.PEER_ID_PREFIX + hashlib.sha256(str(name).encode()).digest()


def trust(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Find every signature right."""
    return True


def scribble(signed: bytes) -> bytes:
    """Sign with nothing."""
    return bytes(wire.SIGNATURE_SIZE_BYTES)


def verify(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Verify with libsodium."""
    try:
        nacl.bindings.crypto_sign_open(signature + signed, public_key)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


@dataclass(frozen=True)
class Key:
    """A real key pair."""

    id: bytes
    secret: bytes

    @classmethod
    def of(cls, name: object) -> "Key":
        seed = hashlib.sha256(str(name).encode()).digest()
        public, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        return cls(wire.PEER_ID_PREFIX + public, secret)

    def sign(self, signed: bytes) -> bytes:
        return nacl.bindings.crypto_sign(signed, self.secret)[: wire.SIGNATURE_SIZE_BYTES]


@dataclass
class Node:
    """A machine and what it did."""

    mesh: Mesh
    id: bytes
    delivered: list[Message] = field(default_factory=list)
    resets: list[str] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    judge_later: Callable[[Message], Verdict] | None = None
    tick_at: float = -1.0


def delay_s(rng: random.Random) -> float:
    """Return 20 to 80 ms, mostly about 40."""
    return min(0.08, max(0.02, rng.lognormvariate(-3.2, 0.35)))


class Swarm:
    """Nodes, links and virtual time."""

    def __init__(self, seed: int, config: Config | None = None, *, real_keys: bool = False) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.now = 0.0
        self.config = config or Config()
        self.nodes: list[Node] = []
        self.index: dict[bytes, int] = {}
        self.links: dict[tuple[int, int], float] = {}
        """When the last RPC on its way from one to the other arrives."""
        self.loss = 0.0
        self.shuffle = False
        self.checking = True
        self.events = 0
        self.trace = hashlib.sha256()
        self.on_deliver: Callable[[int, Message, float], None] | None = None
        self._real_keys = real_keys
        self._heap: list[tuple[float, int, int, Input]] = []
        self._order = 0

    # --- making a world ---------------------------------------------------------------------

    def add(self, judge: Callable[[Message], Verdict | None] | None = None, **more: object) -> int:
        """Add a node; return its number."""
        number = len(self.nodes)
        key = Key.of(number) if self._real_keys else None
        me = key.id if key else peer_id(number)
        mesh = Mesh(
            self.config,
            me=me,
            sign=key.sign if key else scribble,
            verify=verify if key else trust,
            chance=random.Random(self.seed * 1_000_003 + number),
            seqno=1_700_000_000_000_000_000,
            now=self.now,
            **({"judge": judge} if judge else {}),
            **more,
        )
        self.nodes.append(Node(mesh, me))
        self.index[me] = number
        self._arm(number)
        return number

    def connect(self, dialler: int, listener: int) -> None:
        """Connect two nodes."""
        if (dialler, listener) in self.links:
            return
        self.links[dialler, listener] = self.links[listener, dialler] = self.now
        self.say(dialler, Connected(self.nodes[listener].id, outbound=True))
        self.say(listener, Connected(self.nodes[dialler].id, outbound=False))

    def disconnect(self, one: int, other: int) -> None:
        """Break a link, with all that is under way on it."""
        if (one, other) not in self.links:
            return
        del self.links[one, other], self.links[other, one]
        ends = {(one, self.nodes[other].id), (other, self.nodes[one].id)}
        self._heap = [
            item
            for item in self._heap
            if not (isinstance(item[3], Received) and (item[2], item[3].peer) in ends)
        ]
        heapq.heapify(self._heap)
        self.say(one, Disconnected(self.nodes[other].id))
        self.say(other, Disconnected(self.nodes[one].id))

    def random_links(self, degree: int) -> None:
        """Connect all nodes: a random tree, and random links until the mean degree is reached."""
        count = len(self.nodes)
        for number in range(1, count):
            self.connect(number, self.rng.randrange(number))
        while len(self.links) < count * degree:
            one, other = self.rng.sample(range(count), 2)
            self.connect(one, other)

    def subscribe_all(self, topic: str = TOPIC) -> None:
        for number in range(len(self.nodes)):
            self.say(number, Subscribe(topic))

    # --- letting it run ---------------------------------------------------------------------

    def say(self, number: int, input: Input) -> list[Effect]:
        """Give an input to a node now, and carry out what it wants."""
        node = self.nodes[number]
        self.events += 1
        effects = node.mesh.handle(input, self.now)
        if self.checking:
            node.mesh.check()
        for effect in effects:
            match effect:
                case Send(peer, rpc):
                    self._send(number, self.index[peer], rpc)
                    node.mesh.handle(Written(peer, len(rpc)), self.now)
                case Deliver(message, _, awaited):
                    self.trace.update(b"%d %.9f " % (number, self.now) + message.id)
                    if self.on_deliver is None:
                        node.delivered.append(message)
                    else:
                        self.on_deliver(number, message, self.now)
                    if awaited and node.judge_later is not None:
                        verdict = node.judge_later(message)
                        self.push(self.now + 0.05, number, Judge(message.id, verdict))
                case Disconnect(peer):
                    self.disconnect(number, self.index[peer])
                case Reset(_, reason):
                    node.resets.append(reason)
                case Exchange():
                    node.exchanges.append(effect)
        self._arm(number)
        return effects

    def publish(self, number: int, data: bytes, topic: str = TOPIC) -> None:
        self.say(number, Publish(topic, data))

    def push(self, at: float, number: int, input: Input) -> None:
        """Give an input to a node later."""
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, number, input))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self._heap and self._heap[0][0] <= until:
            at, _, number, told = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            if isinstance(told, Tick):
                if self.nodes[number].tick_at != at:
                    continue
                self.nodes[number].tick_at = -1.0
            self.say(number, told)
        self.now = until

    def receivers(self, data: bytes) -> int:
        """Return how many nodes were delivered these data."""
        return sum(any(m.data == data for m in node.delivered) for node in self.nodes)

    def _arm(self, number: int) -> None:
        node = self.nodes[number]
        deadline = node.mesh.deadline
        if node.tick_at != deadline:
            node.tick_at = deadline
            self.push(deadline, number, Tick())

    def _send(self, sender: int, receiver: int, rpc: bytes) -> None:
        link = sender, receiver
        if link not in self.links or (self.loss and self.rng.random() < self.loss):
            return
        at = self.now + delay_s(self.rng)
        if not self.shuffle:
            at = max(at, self.links[link] + 1e-6)
            self.links[link] = at
        self.trace.update(rpc)
        self.push(at, receiver, Received(self.nodes[sender].id, rpc))


class Pipe:
    """One machine and hand-made peers, for examples."""

    def __init__(self, config: Config | None = None, **more: object) -> None:
        self.key = Key.of("me")
        self.now = 100.0
        self.config = config or Config()
        arguments: dict[str, object] = {
            "me": self.key.id,
            "sign": self.key.sign,
            "verify": verify,
            "chance": random.Random(7),
            "seqno": 41,
            "now": self.now,
        }
        self.mesh = Mesh(self.config, **(arguments | more))
        self.sent: deque[Send] = deque()

    def say(self, input: Input) -> list[Effect]:
        effects = self.mesh.handle(input, self.now)
        self.mesh.check()
        return effects

    def beat(self, times: int = 1) -> list[Effect]:
        """Let heartbeats pass; return all effects."""
        effects: list[Effect] = []
        for _ in range(times):
            self.now = self.mesh.deadline
            effects += self.say(Tick())
        return effects

    def later(self, seconds: float) -> list[Effect]:
        """Let time pass, with its heartbeats; return all effects."""
        until, effects = self.now + seconds, []
        while self.mesh.deadline <= until:
            effects += self.beat()
        self.now = until
        return effects


def small(**changes: object) -> Config:
    """Return the default config with changes; those of `score` are given as a dict."""
    score = changes.pop("score", {})
    config = Config()
    return replace(config, score=replace(config.score, **score), **changes)


class Said:
    """What some effects say to one peer, RPCs merged."""

    def __init__(self, effects: list[Effect], peer: bytes) -> None:
        rpcs = [wire.decode_rpc(e.rpc) for e in effects if isinstance(e, Send) and e.peer == peer]
        found = [rpc.control for rpc in rpcs if rpc.control is not None]
        self.subscriptions = [(s.topic, s.subscribe) for rpc in rpcs for s in rpc.subscriptions]
        drafts = [draft.message("") for rpc in rpcs for draft in rpc.publish]
        self.messages = [message for message, _ in drafts]
        self.seals = [seal for _, seal in drafts]
        self.data = [message.data for message in self.messages]
        self.ihave = [(offer.topic, list(offer.ids)) for c in found for offer in c.ihave]
        self.iwant = [message_id for c in found for message_id in c.iwant]
        self.graft = [topic for c in found for topic in c.graft]
        self.prune = [(prune.topic, prune.backoff_s) for c in found for prune in c.prune]

    @property
    def nothing(self) -> bool:
        return not (self.subscriptions or self.messages or self.ihave or self.iwant) and not (
            self.graft or self.prune
        )


def publish_of(author: Key, seqno: int, data: bytes, topic: str = TOPIC) -> bytes:
    """Return an RPC with one signed message."""
    unsigned = wire_encode.message(author.id, seqno, topic, data)
    return wire_encode.publish(unsigned, author.sign(wire.SIGNED_PREFIX + unsigned))


def control_of(*fields: bytes) -> bytes:
    """Return an RPC with one control."""
    (rpc,) = wire_encode.pack([], fields, 1 << 20)
    return rpc
