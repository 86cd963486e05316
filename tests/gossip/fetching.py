"""Peers of every kind in memory, a driver for `Fetch`, and time that is turned by hand.

Blocks are small here: leaves of `LEAF_SIZE_BYTES`, nodes of `LINKS_MAX` links.
"""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from gossip import fetch_messages, fetch_tree
from gossip.errors import PeerError, PeerUnreachable
from gossip.fetch import Fetch
from gossip.fetch_events import (
    Abandon,
    Answer,
    Ask,
    Bad,
    Block,
    Effect,
    FetchConfig,
    Input,
    LookedUp,
    LookUp,
    Penalise,
    Provider,
    Replied,
    Request,
    Tick,
    Unanswered,
    Verified,
    Verify,
    Withdraw,
)
from gossip.fetch_messages import Data, Get, Kind, Missing, Thing, decode_request, encode, path
from storage import cid as cids
from storage.cid import Cid, TreeBuilder, decode_node, is_leaf, raw_leaf

LEAF_SIZE_BYTES = 16
LINKS_MAX = 4
BLOB = 1 << 40
DATA_HEAD = b"\x82\x02"
"""How a frame of `Data` begins. Its request is not over before it is verified."""


@contextmanager
def small_blocks() -> Iterator[None]:
    """Let blocks be small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cids, "CHUNK_SIZE_BYTES", LEAF_SIZE_BYTES)
        for module in (cids, fetch_tree, fetch_messages):
            patch.setattr(module, "LINKS_MAX", LINKS_MAX)
        yield


@dataclass
class Content:
    """Content and the blocks of its tree."""

    cid: Cid
    blocks: dict[Cid, bytes]

    @property
    def thing(self) -> Thing:
        """What to ask for."""
        return Thing(Kind.BLOB, BLOB, self.cid)

    def at(self, depth: int, index: int) -> Cid:
        """Return the block at a place, as a provider finds it."""
        at = self.cid
        for child in path(depth, index):
            at = decode_node(self.blocks[at])[child][0]
        return at

    def leaves(self) -> list[Cid]:
        """Return the leaves, in the order they were made."""
        return [block for block in self.blocks if is_leaf(block)]


def make_content(leaves: int, seed: int = 0, *, repeats: bool = False) -> Content:
    """Return content of so many leaves, which all differ unless they repeat."""
    blocks: dict[Cid, bytes] = {}
    builder = TreeBuilder(blocks.__setitem__)
    for number in range(leaves):
        size_bytes = LEAF_SIZE_BYTES if number < leaves - 1 else LEAF_SIZE_BYTES // 2
        said = seed if repeats else seed + number
        data = said.to_bytes(8, "big").rjust(size_bytes, b"\0")
        blocks[raw_leaf(data)] = data
        builder.add(raw_leaf(data), size_bytes)
    return Content(builder.finish().cid, blocks)


@dataclass
class Peer:
    """A peer that has some blocks, and a way of answering."""

    name: str
    held: dict[Cid, bytes] = field(default_factory=dict)
    delay_s: float = 0.01
    silent: bool = False
    error: PeerError | None = None
    reply: Any = None
    """What it says to everything, as a message or as bytes."""
    lies: bool = False
    final: bool = False
    holders: tuple[str, ...] = ()
    answers_max: int = 1 << 30
    """After so many answers it is silent."""
    asked: list[Get] = field(default_factory=list)

    def answer(self, get: Get, cid: Cid | None) -> bytes | PeerError | None:
        """Return a frame, an error, or nothing at all."""
        self.asked.append(get)
        if self.silent or len(self.asked) > self.answers_max:
            return None
        if self.error is not None:
            return self.error
        if self.reply is not None:
            return self.reply if isinstance(self.reply, bytes) else encode(self.reply)
        if self.lies:
            return encode(Data(b"a lie"))
        if cid is None or cid not in self.held:
            return encode(Missing(self.final, list(self.holders)))
        return encode(Data(self.held[cid]))


@dataclass
class _Outstanding:
    fetch: int
    place: tuple[int, int]
    peer: str
    asked_at: float


class Simulation:
    """One node that fetches, and its peers."""

    def __init__(
        self, *peers: Peer, content: Content | None = None, config: FetchConfig | None = None
    ) -> None:
        self.fetch = Fetch(config or FetchConfig())
        self.config = config or FetchConfig()
        self.peers = {peer.name: peer for peer in peers}
        self.content = content
        self.now = 0.0
        self.held: dict[Cid, bytes] = {}
        """What the node has: kept through fetches, as a disk keeps it."""
        self.answers: dict[int, Answer] = {}
        self.answered_at: dict[int, float] = {}
        self.penalised: list[str] = []
        self.requests: list[Request] = []
        self.verified: list[Block | None] = []
        self.verify_s = 0.001
        self.lookup_s = 0.0
        self._due: list[tuple[float, int, Input]] = []
        self._numbers = count()
        self._waiters = count(1)
        self._open: dict[int, _Outstanding] = {}

    def ask(
        self,
        thing: Thing | None = None,
        *,
        providers: list[str] | None = None,
        home: str = "",
        auth: bytes = b"right",
        time_s: float = 1000.0,
    ) -> int:
        """Ask for the content, of all peers; return the waiter."""
        waiter = next(self._waiters)
        names = list(self.peers) if providers is None else providers
        if thing is None:
            assert self.content is not None
            thing = self.content.thing
        asked = tuple(Provider(name, name == home) for name in names)
        self.tell(Ask(waiter, thing, auth, asked, self.now + time_s))
        return waiter

    def withdraw(self, waiter: int) -> None:
        """Let a waiter go away."""
        self.tell(Withdraw(waiter))

    def tell(self, input: Input) -> None:
        """Give the machine an input, and do what it says."""
        match input:
            case Unanswered(request) | Verified(request) | Bad(request):
                self._open.pop(request, None)
            case Replied(request, frame) if not frame.startswith(DATA_HEAD):
                self._open.pop(request, None)
            case _:
                pass
        for effect in self.fetch.handle(input, self.now):
            self._do(effect)
        self.fetch.check()

    def run(self, until: float = float("inf")) -> None:
        """Let time pass until nothing is left to happen."""
        while True:
            deadline = self.fetch.deadline
            next_at = self._due[0][0] if self._due else float("inf")
            at = min(next_at, float("inf") if deadline is None else max(deadline, self.now))
            if at > until or at == float("inf"):
                self.now = until if until != float("inf") else self.now
                return
            self.now = at
            self.tell(heapq.heappop(self._due)[2] if next_at == at else Tick())

    def _later(self, delay_s: float, input: Input) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._numbers), input))

    def _do(self, effect: Effect) -> None:
        match effect:
            case LookUp(fetch, look, _, blocks):
                here = [block.cid for block in blocks if block.cid in self.held]
                leaves = tuple(cid for cid in here if is_leaf(cid))
                nodes = tuple((cid, self.held[cid]) for cid in here if not is_leaf(cid))
                self._later(self.lookup_s, LookedUp(fetch, look, leaves, nodes))
            case Request():
                self._request(effect)
            case Abandon(request):
                self._open.pop(request, None)
            case Verify(request, _, _, thing, block, data):
                self.verified.append(block)
                good = self._is_good(thing, block, data)
                if good and block is not None:
                    self.held[block.cid] = data
                self._later(self.verify_s, Verified(request) if good else Bad(request, "a lie"))
            case Penalise(peer, error):
                assert error.penalty > 0
                self.penalised.append(peer)
            case Answer(waiter):
                assert waiter not in self.answers
                self.answers[waiter] = effect
                self.answered_at[waiter] = self.now

    def _is_good(self, thing: Thing, block: Block | None, data: bytes) -> bool:
        if block is None:
            return data.startswith(b"signed")
        assert thing.kind is Kind.BLOB
        return cids.matches(block.cid, data)

    def _request(self, request: Request) -> None:
        get = decode_request(request.frame)
        place = get.depth, get.index
        same = [o for o in self._open.values() if (o.fetch, o.place) == (request.fetch, place)]
        # The policy: nobody else is asked for the same, but after a while, and not too many.
        assert all(self.now >= o.asked_at + self.config.copy_after_s for o in same)
        assert request.peer not in [o.peer for o in same]
        assert len(same) < self.config.providers_at_once_max
        mine = [
            o for o in self._open.values() if (o.fetch, o.peer) == (request.fetch, request.peer)
        ]
        assert len(mine) < self.config.window
        self._open[request.request] = _Outstanding(request.fetch, place, request.peer, self.now)
        self.requests.append(request)
        peer = self.peers.get(request.peer)
        if peer is None:
            self._later(0.0, Unanswered(request.request, PeerUnreachable("not connected")))
            return
        cid = None
        if get.kind is Kind.BLOB and self.content is not None and get.name == self.content.cid:
            cid = self.content.at(*place)
        elif get.kind is not Kind.BLOB:
            cid = Cid(get.name)
        answer = peer.answer(get, cid)
        if isinstance(answer, PeerError):
            self._later(peer.delay_s, Unanswered(request.request, answer))
        elif answer is not None:
            self._later(peer.delay_s, Replied(request.request, answer))
