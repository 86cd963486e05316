"""Swarms of `Mesh` machines in a weather of their own, and one machine with hand-made peers."""

import hashlib
import math
import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import nacl.bindings
import nacl.exceptions

from gossip import wire, wire_encode
from gossip.config import Config
from gossip.mesh import Mesh
from gossip.mesh_events import (
    Disconnect,
    Effect,
    Exchange,
    Input,
    Judge,
    Reset,
    Send,
    Tick,
    Verdict,
)
from gossip.wire import Message
from simulations.swarm import Swarm
from simulations.swarm_links import Node

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


class Weather:
    """Lines that delay each RPC by 20 to 80 ms, mostly about 40, in order; a test may worsen them.

    What no stream does, to see that the machines stand it: `loss` of what is under way, and with
    `shuffle` no order.
    """

    def __init__(self, rng: random.Random) -> None:
        self.loss = 0.0
        self.shuffle = False
        self._rng = rng
        self._last: dict[tuple[int, int], float] = {}

    def arrival_s(self, source: int, target: int, size_bytes: int, now: float) -> float:
        if self.loss and self._rng.random() < self.loss:
            return math.inf
        at = now + min(0.08, max(0.02, self._rng.lognormvariate(-3.2, 0.35)))
        if not self.shuffle:
            at = self._last[source, target] = max(at, self._last.get((source, target), 0.0) + 1e-6)
        return at

    def steady_s(self, source: int, target: int) -> None:
        return None

    def reset(self, one: int, other: int) -> None:
        for way in ((one, other), (other, one)):
            self._last.pop(way, None)


class Diary:
    """What each node of a swarm was delivered, and whom it reset; and late verdicts."""

    def __init__(self, swarm: Swarm) -> None:
        self.delivered: defaultdict[int, list[Message]] = defaultdict(list)
        self.resets: defaultdict[int, list[str]] = defaultdict(list)
        self.judge_later: Callable[[Message], Verdict] | None = None
        self._swarm = swarm

    def receivers(self, data: bytes) -> int:
        """Return how many nodes were delivered these data."""
        return sum(any(m.data == data for m in found) for found in self.delivered.values())

    def deliver(self, node: Node, message: Message, source: Node, awaited: bool) -> None:
        self.delivered[node.number].append(message)
        if awaited and self.judge_later is not None:
            judged = Judge(message.id, self.judge_later(message))
            self._swarm.at(self._swarm.now + 0.05, lambda: self._swarm.say(node.number, judged))

    def refused(self, node: Node, effect: Reset | Exchange | Disconnect) -> None:
        if isinstance(effect, Reset):
            self.resets[node.number].append(effect.reason)

    def linked(self, dialler: Node, listener: Node) -> None: ...

    def parted(self, one: Node, other: Node) -> None: ...


def make_swarm(seed: int, config: Config | None = None, *, checking: bool = True) -> Swarm:
    """Return a swarm without nodes, in its weather, with a diary."""
    swarm = Swarm(seed, Weather(random.Random(seed)), config=config, checking=checking)
    swarm.watcher = Diary(swarm)
    return swarm


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
