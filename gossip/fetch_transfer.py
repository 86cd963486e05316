"""One fetch: which peer to ask for which block next, until the thing is here or cannot be had.

    LookUp -> held: its children are looked up, if it has any
           -> else: todo -> asked -> being verified -> kept, and its children are looked up

Rules:

* Peers are asked in the order they were named: the first alone while there is one thing to ask
  for, others when it has its hands full, up to `providers_at_once_max` at once.
* A block is with one peer at a time.  Only when nothing is left to be asked for, another peer is
  asked for a block that has been with the last one for `copy_after_s`; the first good answer
  counts, and the other requests are abandoned, and who was too slow comes last from then on.
* A peer that cannot be reached, is silent for `silence_s`, refuses, lies or breaks the protocol is
  out, and its blocks go back.  One that lacks a block is not asked for that block again.
* A block that nobody may have any more ends the fetch.

Blocks are asked for in the order of the content, a node before what is below it, so that content
can be read while it comes.
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import assert_never

import msgspec

from gossip.errors import PENALTY_FORGED, PeerError, RemoteProtocolError
from gossip.fetch_events import (
    Abandon,
    Block,
    Effect,
    FetchConfig,
    Found,
    LookUp,
    Missing,
    Outcome,
    Penalise,
    Provider,
    Request,
    TimedOut,
    Unreachable,
    Unusable,
    Verify,
)
from gossip.fetch_messages import (
    VERSION,
    Data,
    Get,
    Missing as MissingReply,
    Refused,
    Thing,
    decode_reply,
    encode,
)
from gossip.fetch_provider import Standing
from gossip.fetch_tree import Tree, position
from storage.cid import Cid
from storage.errors import InvalidData


class _Open(msgspec.Struct):
    """A block that is with somebody."""

    requests: dict[int, Standing]
    asked_at: float
    """When the last of them was sent."""


class _Sent(msgspec.Struct):
    """A request that is not over."""

    block: Block | None
    standing: Standing
    data: bytes | None
    """The answer, while it is being verified."""


class Transfer:
    """One fetch. Methods append effects to `out`; `outcome` is set when it is over."""

    def __init__(
        self,
        number: int,
        thing: Thing,
        auth: bytes,
        config: FetchConfig,
        owners: dict[int, "Transfer"],
    ) -> None:
        """`owners` is where it enters each request of its own while that is not over."""
        self.number = number
        self.thing = thing
        self.outcome: Outcome | None = None
        self.deadline = 0.0
        """When nobody waits any more; kept by the owner."""
        self._auth = auth
        self._config = config
        self._owners = owners
        self._standings: dict[str, Standing] = {}
        self._todo: list[Block | None] = []
        """What is to be asked for, in the order of the content."""
        self._open: dict[Block | None, _Open] = {}
        self._sent: dict[int, _Sent] = {}
        self._tree = Tree(config.content_size_max_bytes)
        self._sources: dict[str, None] = {}
        self._data = b""

    def add(self, providers: Iterable[Provider]) -> None:
        """Name more peers to ask; those named before keep their place."""
        for provider in providers:
            if len(self._standings) < self._config.providers_max:
                self._standings.setdefault(provider.peer, Standing(provider))

    def begin(self, root: Cid | None, out: list[Effect]) -> None:
        """Look for the root first, or, without one, ask for the thing at once."""
        if root is None:
            self._todo.append(None)
        else:
            self._look_up([Block(root, 0, 0, -1)], out)

    # --- inputs ---------------------------------------------------------------------------

    def looked_up(
        self,
        look: int,
        leaves: Iterable[Cid],
        nodes: Iterable[tuple[Cid, bytes]],
        out: list[Effect],
    ) -> None:
        """Go on with the blocks that are not here, and below those nodes that are."""
        lacking = {block.cid: block for block in self._tree.looked_up(look)}
        for cid in leaves:
            lacking.pop(cid, None)
        for cid, data in nodes:
            block = lacking.pop(cid, None)
            if block is not None and self.outcome is None:
                self._descend(block, data, out)
        self._todo += lacking.values()
        self._todo.sort(key=position)

    def replied(self, request: int, frame: bytes, now: float, out: list[Effect]) -> None:
        """Take a reply in."""
        sent = self._sent[request]
        if sent.data is not None:
            return
        standing = sent.standing
        standing.hear(now)
        try:
            reply = decode_reply(frame)
        except RemoteProtocolError as error:
            self._cast_out(standing, error, out)
            return
        match reply:
            case Data(data):
                sent.data = data
                out.append(
                    Verify(request, self.number, standing.peer, self.thing, sent.block, data)
                )
            case MissingReply(is_final, holders):
                if is_final and standing.is_home:
                    self._end(Missing(self._answered()), out)
                    return
                self.add(Provider(peer) for peer in holders)
                standing.miss(sent.block, self._config)
                self._drop(request, out)
                if standing.is_out:
                    self._put_out(standing, out)
            case Refused(reason):
                standing.has_answered = reason != "busy"
                if reason == "right" and standing.is_home:
                    self._end(Missing(self._answered()), out)
                else:
                    self._put_out(standing, out)
            case _:
                assert_never(reply)

    def unanswered(self, request: int, error: PeerError, out: list[Effect]) -> None:
        """Give the peer up."""
        standing = self._sent[request].standing
        if error.penalty:
            self._cast_out(standing, error, out)
        else:
            standing.has_answered = False
            self._put_out(standing, out)

    def verified(self, request: int, out: list[Effect]) -> None:
        """Go on below what is kept."""
        sent = self._sent[request]
        if sent.data is None:
            raise ValueError(f"nothing of request {request} was to be verified")
        block, data = sent.block, sent.data
        sent.standing.give()
        self._sources[sent.standing.peer] = None
        for other, late in list(self._open[block].requests.items()):
            self._forget(other)
            if other != request:
                late.is_late = True
                out.append(Abandon(other))
        if block is None:
            self._data = data
        else:
            self._descend(block, data, out)

    def bad(self, request: int, reason: str, out: list[Effect]) -> None:
        """Have done with a peer that lied."""
        if self._sent[request].data is None:
            raise ValueError(f"nothing of request {request} was to be verified")
        error = RemoteProtocolError(reason, PENALTY_FORGED)
        self._cast_out(self._sent[request].standing, error, out)

    # --- going on -------------------------------------------------------------------------

    def go_on(self, now: float, requests: Iterator[int], out: list[Effect]) -> None:
        """Ask for what can be asked for now, each under one of `requests`, and see whether it ends.

        `requests` gives numbers without end.
        """
        for standing in list(self._standings.values()):
            if now >= standing.silent_at(self._config):
                standing.has_answered = False
                self._put_out(standing, out)
        while self.outcome is None and self._assign(now, requests, out):
            pass
        if self.outcome is None and not self._todo:
            self._copy(now, requests, out)
            if not self._open and not self._tree.is_looking:
                self._end(Found(self._data, tuple(self._sources)), out)

    def due(self) -> float:
        """Return when `go_on` has something to do, if nothing else happens."""
        due = min(
            (standing.silent_at(self._config) for standing in self._standings.values()),
            default=float("inf"),
        )
        if self._todo:
            return due
        for block, open_ in self._open.items():
            if self._copier(block, open_) is not None:
                due = min(due, open_.asked_at + self._config.copy_after_s)
        return due

    def timed_out(self) -> TimedOut:
        """Return what there is to say when time is over."""
        return TimedOut(self._unreached(), self._answered())

    def close(self, out: list[Effect]) -> None:
        """Abandon all that is open."""
        for request in self._sent:
            del self._owners[request]
            out.append(Abandon(request))
        self._sent.clear()
        self._open.clear()
        self._todo.clear()

    def check(self) -> None:
        """Assert the invariants."""
        config = self._config
        assert len(self._standings) <= config.providers_max
        open_requests = {request for open_ in self._open.values() for request in open_.requests}
        assert open_requests == self._sent.keys()
        mine = {request for request, owner in self._owners.items() if owner is self}
        assert mine == self._sent.keys()
        held = [request for s in self._standings.values() for request in s.requests]
        assert sorted(held) == sorted(self._sent)
        assert not {block for block in self._todo if block in self._open}, "asked for and not"
        for standing in self._standings.values():
            assert len(standing.requests) <= config.window
            assert not (standing.is_out and standing.requests)
        for open_ in self._open.values():
            peers = [standing.peer for standing in open_.requests.values()]
            assert 0 < len(peers) == len(set(peers)) <= config.providers_at_once_max

    def _assign(self, now: float, requests: Iterator[int], out: list[Effect]) -> bool:
        """Ask for one block; tell whether one could be asked for."""
        for at in range(min(len(self._todo), self._config.blocks_tried_max)):
            block = self._todo[at]
            if standing := self._choose(block):
                del self._todo[at]
                self._open[block] = _Open({}, now)
                self._ask(block, standing, now, requests, out)
                return True
            if not any(standing.may_have(block) for standing in self._standings.values()):
                self._end(self._lost(), out)
                return False
        return False

    def _choose(self, block: Block | None) -> Standing | None:
        those = [standing for standing in self._standings.values() if standing.may_have(block)]
        # Who was too slow is asked only for what nobody else has.
        those = [standing for standing in those if not standing.is_late] or those
        busy = [standing for standing in self._standings.values() if standing.requests]
        if len(busy) >= self._config.providers_at_once_max:
            those = [standing for standing in those if standing.requests]
        able = [standing for standing in those if standing.may_take(block, self._config.window)]
        return min(able, key=lambda s: (not s.has_given, len(s.requests)), default=None)

    def _copy(self, now: float, requests: Iterator[int], out: list[Effect]) -> None:
        """Ask other peers for what has been with the last one for too long."""
        for block, open_ in list(self._open.items()):
            is_late = now >= open_.asked_at + self._config.copy_after_s
            if is_late and (standing := self._copier(block, open_)):
                self._ask(block, standing, now, requests, out)

    def _copier(self, block: Block | None, open_: _Open) -> Standing | None:
        """Return whom to ask for a copy of a block, if that is allowed."""
        if len(open_.requests) >= self._config.providers_at_once_max:
            return None
        if any(self._sent[request].data is not None for request in open_.requests):
            return None
        peers = [standing.peer for standing in open_.requests.values()]
        for standing in self._standings.values():
            if standing.peer not in peers and standing.may_take(block, self._config.window):
                return standing
        return None

    def _ask(
        self,
        block: Block | None,
        standing: Standing,
        now: float,
        requests: Iterator[int],
        out: list[Effect],
    ) -> None:
        request = next(requests)
        open_ = self._open[block]
        open_.requests[request] = standing
        open_.asked_at = now
        standing.ask(request, now)
        self._sent[request] = _Sent(block, standing, None)
        self._owners[request] = self
        depth, index = (block.depth, block.index) if block else (0, 0)
        thing = self.thing
        get = Get(VERSION, thing.kind, thing.id, thing.name, depth, index, self._auth)
        out.append(Request(request, self.number, standing.peer, encode(get), self.deadline))

    def _look_up(self, blocks: Iterable[Block], out: list[Effect]) -> None:
        if looked := self._tree.look_up(blocks):
            look, fresh = looked
            out.append(LookUp(self.number, look, self.thing, fresh))

    def _descend(self, block: Block, data: bytes, out: list[Effect]) -> None:
        """Look for the children of a good node."""
        try:
            children = self._tree.children(block, data)
        except InvalidData as error:
            self._end(Unusable(str(error)), out)
        else:
            self._look_up(children, out)

    # --- ends -----------------------------------------------------------------------------

    def _forget(self, request: int) -> None:
        """Have done with a request."""
        sent = self._sent.pop(request)
        del self._owners[request]
        del sent.standing.requests[request]
        open_ = self._open[sent.block]
        del open_.requests[request]
        if not open_.requests:
            del self._open[sent.block]

    def _drop(self, request: int, out: list[Effect]) -> None:
        """Have done with a request that brought nothing; its block goes back."""
        block = self._sent[request].block
        self._forget(request)
        if block not in self._open:
            insort(self._todo, block, key=position)

    def _put_out(self, standing: Standing, out: list[Effect]) -> None:
        """Ask a peer no more."""
        standing.is_out = True
        for request in reversed(list(standing.requests)):
            out.append(Abandon(request))
            self._drop(request, out)

    def _cast_out(self, standing: Standing, error: PeerError, out: list[Effect]) -> None:
        """Ask a peer no more that broke the rules."""
        standing.has_answered = True
        out.append(Penalise(standing.peer, error))
        self._put_out(standing, out)

    def _lost(self) -> Outcome:
        unreached = self._unreached()
        asked = self._answered()
        return Unreachable(unreached, asked) if unreached else Missing(asked)

    def _unreached(self) -> tuple[str, ...]:
        """Return who was asked, or could have been, and did not say what it has."""
        return tuple(s.peer for s in self._standings.values() if not s.has_answered)

    def _answered(self) -> tuple[str, ...]:
        return tuple(s.peer for s in self._standings.values() if s.has_answered)

    def _end(self, outcome: Outcome, out: list[Effect]) -> None:
        self.outcome = self.outcome or outcome
        self.close(out)
