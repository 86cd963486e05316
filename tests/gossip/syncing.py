"""Nodes that reconcile in memory: `Sync`, and as little of a driver as it takes."""

from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import count

from gossip.errors import PeerClosed
from gossip.sync import Sync
from gossip.sync_events import (
    Accept,
    Applied,
    Apply,
    Closed,
    Done,
    Effect,
    Failed,
    Forged,
    Give,
    Given,
    Input,
    Insert,
    Open,
    Pause,
    Receive,
    Remove,
    Resume,
    Send,
    SyncConfig,
)
from gossip.sync_index import Item, item, short_id
from gossip.sync_messages import PAYLOAD_OVERHEAD_BYTES, Stratum

MESH = bytes(range(32))


def make_item(number: int, time: int | None = None) -> Item:
    """Return the item of a number; numbers are in the order of time unless `time` says."""
    time = number if time is None else time
    said = number.to_bytes(8, "big")
    return item(time, sha256(time.to_bytes(8, "big") + said).digest()[:24] + said)


def is_genuine(one: bytes) -> bool:
    """Tell whether `make_item` made it, as a signature would."""
    return len(one) == 40 and sha256(one[:8] + one[-8:]).digest()[:24] == one[8:32]


class Node:
    """A node whose facts and records are items, each its own payload."""

    def __init__(
        self,
        peer: str,
        facts: Iterable[Item] = (),
        records: Iterable[Item] = (),
        config: SyncConfig | None = None,
        mesh: bytes = MESH,
    ) -> None:
        self.peer = peer
        self.held = {
            Stratum.FACTS: {short_id(one): one for one in facts},
            Stratum.RECORDS: {short_id(one): one for one in records},
        }
        self.sync = Sync(
            config or SyncConfig(),
            peer,
            mesh,
            self.held[Stratum.FACTS].values(),
            self.held[Stratum.RECORDS].values(),
        )

    def items(self, stratum: Stratum = Stratum.RECORDS) -> list[Item]:
        """Return what it holds, in order."""
        return sorted(self.held[stratum].values())

    def insert(self, one: Item, stratum: Stratum = Stratum.RECORDS) -> None:
        """Write something down."""
        self.held[stratum][short_id(one)] = one
        assert self.sync.handle(Insert(stratum, one), 0.0) == []

    def remove(self, one: Item, stratum: Stratum = Stratum.RECORDS) -> None:
        """Have something no longer."""
        del self.held[stratum][short_id(one)]
        assert self.sync.handle(Remove(stratum, one), 0.0) == []

    def answer(self, effect: Effect) -> Input | None:
        """Do what an effect says, but for sending, and return what to tell the machine."""
        match effect:
            case Pause(session):
                return Resume(session)
            case Give(session, _, stratum, items, size_max_bytes):
                fitting = size_max_bytes // (len(items[0]) + PAYLOAD_OVERHEAD_BYTES)
                held = self.held[stratum]
                return Given(session, tuple(held.get(short_id(i)) for i in items[:fitting]))
            case Apply(session, _, stratum, received):
                for short, payload in received:
                    if not is_genuine(payload) or short_id(Item(payload)) != short:
                        return Forged(session, "not what its id says")
                for _, payload in received:
                    self.insert(Item(payload), stratum)
                return Applied(session)
            case _:
                return None


class Table:
    """Nodes around a table, and the frames between them."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = {node.peer: node for node in nodes}
        self.now = 0.0
        self.done: dict[str, list[Done]] = {peer: [] for peer in self.nodes}
        self.failed: dict[str, list[Failed]] = {peer: [] for peer in self.nodes}
        self.frames: list[tuple[str, bytes]] = []
        """All frames so far: who sent them, and what."""
        self.busy: deque[tuple[str, Effect]] = deque()
        self._numbers = count(1)
        self._sessions: dict[int, tuple[str, str]] = {}

    def open(self, one: str, other: str) -> int:
        """Let `one` open a session with `other`; return its number."""
        number = next(self._numbers)
        self._sessions[number] = one, other
        nonce = number.to_bytes(16, "big")
        self.tell(other, Accept(number, one, nonce))
        self.tell(one, Open(number, other, nonce[::-1]))
        return number

    def tell(self, peer: str, input: Input) -> None:
        """Give a node's machine an input, and take its effects on."""
        for effect in self.nodes[peer].sync.handle(input, self.now):
            self.busy.append((peer, effect))

    def other(self, session: int, peer: str) -> str:
        """Return the other side of a session."""
        one, other = self._sessions[session]
        return other if peer == one else one

    def step(self, *, lose: bool = False) -> None:
        """Do the next thing; a frame that is to be lost breaks its session's stream."""
        peer, effect = self.busy.popleft()
        match effect:
            case Send(session, to, frame):
                self.frames.append((peer, frame))
                if lose:
                    for side in (peer, to):
                        self.tell(side, Closed(session, PeerClosed("the stream broke")))
                elif to in self.nodes:
                    self.tell(to, Receive(session, frame))
            case Done():
                self.done[peer].append(effect)
            case Failed(session, to, _):
                self.failed[peer].append(effect)
                if to in self.nodes:
                    # Whoever gives up closes the stream, after what was sent on it.
                    self.busy.append((peer, _Hangup(session)))  # type: ignore[arg-type]
            case _Hangup(session):
                to = self.other(session, peer)
                self.tell(to, Closed(session, PeerClosed("the other side closed the stream")))
            case _:
                answer = self.nodes[peer].answer(effect)
                assert answer is not None
                self.tell(peer, answer)

    def run(self, losses: Iterator[bool] | None = None) -> None:
        """Go on until nothing happens any more."""
        while self.busy:
            lose = isinstance(self.busy[0][1], Send) and losses is not None and next(losses, False)
            self.step(lose=lose)

    def check(self) -> None:
        """Assert all invariants."""
        for node in self.nodes.values():
            node.sync.check()
            for stratum, held in node.held.items():
                assert node.sync.count(stratum) == len(held)


class _Hangup:
    __match_args__ = ("session",)

    def __init__(self, session: int) -> None:
        self.session = session


def union(*nodes: Node, stratum: Stratum = Stratum.RECORDS) -> list[Item]:
    """Return what any of the nodes holds, in order."""
    return sorted({one for node in nodes for one in node.items(stratum)})
