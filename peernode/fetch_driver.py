"""The driver of `gossip.Fetch`: its requests on the network, its blocks in a store, its clock.

    ticket = driver.ask(thing, auth, providers, deadline_s)
    await ticket.wait()
    driver.withdraw(ticket)

A ticket is one waiter.  Whoever reads content while it comes looks at what its `Keeper` has and
waits for the ticket only to learn that no more will come.  A fetch that nobody waits for any more
ends; what it has brought stays with the keeper.

It decides nothing: which peer is asked for what is the machine's, what is good and where it is kept
the keeper's.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Protocol, assert_never

import trio

from gossip.errors import PENALTY_FORGED, PeerError, RemoteProtocolError
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
    Outcome,
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
from gossip.fetch_messages import (
    FRAME_SIZE_MAX_BYTES,
    PROTOCOL,
    VERSION,
    Data,
    Get,
    Reply,
    Thing,
    decode_reply,
    encode,
)
from gossip.network import Network
from storage.cid import Cid
from storage.errors import StorageError


class Keeper(Protocol):
    """Says what is good, and has what came."""

    async def look_up(
        self, thing: Thing, blocks: Sequence[Block]
    ) -> tuple[list[Cid], list[tuple[Cid, bytes]]]:
        """Return which leaves, and which nodes with their bytes, are here. Raises `StorageError`.

        What is said to be here has to stay until nobody waits for the thing.
        """
        ...

    async def keep(self, thing: Thing, block: Block | None, data: bytes) -> str:
        """Keep what a peer gave and return "", or return why it is bad. Raises `StorageError`."""
        ...


class Ticket:
    """Somebody who waits for a thing."""

    def __init__(self, thing: Thing, done: Callable[[], None]) -> None:
        self.thing = thing
        self.outcome: Outcome | None = None
        self.error: StorageError | None = None
        """Why this node could not keep it."""
        self._done = done
        self._ended = trio.Event()

    @property
    def is_over(self) -> bool:
        """Tell whether no more will come of it."""
        return self._ended.is_set()

    async def wait(self) -> Outcome:
        """Return what became of it. Raises `StorageError` if it could not be kept here."""
        await self._ended.wait()
        if self.error is not None:
            raise self.error
        assert self.outcome is not None
        return self.outcome

    def end(self, outcome: Outcome | None, error: StorageError | None = None) -> None:
        """Take note of the end."""
        self.outcome, self.error = outcome, error
        self._ended.set()
        self._done()


def _nothing() -> None:
    return


class FetchDriver:
    """All fetching of one node. Nothing moves but while `run` does."""

    def __init__(
        self,
        network: Network,
        keeper: Keeper,
        config: FetchConfig,
        penalise: Callable[[str, PeerError], None],
    ) -> None:
        self._network = network
        self._keeper = keeper
        self._machine = Fetch(config)
        self._penalise = penalise
        self._numbers = count(1)
        self._tickets: dict[int, Ticket] = {}
        self._requests: dict[int, trio.CancelScope] = {}
        self._inputs: deque[Input] = deque()
        self._is_handling = False
        self._effects: deque[Effect] = deque()
        """For tasks that are still to be started."""
        self._changed = trio.Event()

    def ask(
        self,
        thing: Thing,
        auth: bytes,
        providers: Sequence[Provider],
        timeout_s: float,
        done: Callable[[], None] = _nothing,
    ) -> Ticket:
        """Begin to wait for a thing; `done` is called when it is over, maybe at once."""
        ticket, number = Ticket(thing, done), next(self._numbers)
        self._tickets[number] = ticket
        deadline = trio.current_time() + timeout_s
        self._tell(Ask(number, thing, auth, tuple(providers), deadline))
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Wait no more. Twice, or after the end, does nothing."""
        for number, waiting in self._tickets.items():
            if waiting is ticket:
                del self._tickets[number]
                self._tell(Withdraw(number))
                return

    async def fetch(
        self, thing: Thing, auth: bytes, providers: Sequence[Provider], timeout_s: float
    ) -> Outcome:
        """Return what became of a thing. Raises `StorageError` if it could not be kept here."""
        ticket = self.ask(thing, auth, providers, timeout_s)
        try:
            return await ticket.wait()
        finally:
            self.withdraw(ticket)

    async def fetch_block(
        self, thing: Thing, block: Block, auth: bytes, peer: str, timeout_s: float
    ) -> Reply:
        """Return what a peer says when asked for one block; one that it gives is kept then.

        For a reader of a part, who cannot wait for what is before it.  Raises `PeerError`, also
        for a block that is bad, and `StorageError`.
        """
        name, depth, index = thing.name, block.depth, block.index
        get = Get(VERSION, thing.kind, thing.id, name, depth, index, auth)
        try:
            frame = await self._network.request(
                peer,
                PROTOCOL,
                encode(get),
                reply_size_max_bytes=FRAME_SIZE_MAX_BYTES,
                timeout_s=timeout_s,
            )
            reply = decode_reply(frame)
            if isinstance(reply, Data):
                reason = await self._keeper.keep(thing, block, reply.data)
                if reason:
                    raise RemoteProtocolError(reason, PENALTY_FORGED)
        except RemoteProtocolError as error:
            self._penalise(peer, error)
            raise
        return reply

    async def run(self) -> None:
        """Carry out what the machine decides, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                while self._effects:
                    self._start(self._effects.popleft(), nursery)
                self._changed = trio.Event()
                deadline = self._machine.deadline
                late = float("inf") if deadline is None else deadline
                with trio.move_on_at(late) as scope:
                    await self._changed.wait()
                if scope.cancelled_caught:
                    self._tell(Tick())

    def check(self) -> None:
        """Assert the invariants."""
        self._machine.check()
        assert all(not ticket.is_over for ticket in self._tickets.values())

    # --- the machine ----------------------------------------------------------------------

    def _tell(self, input: Input) -> None:
        """Have the machine take something in; what follows from that is told after it."""
        self._inputs.append(input)
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while self._inputs:
                now = trio.current_time()
                for effect in self._machine.handle(self._inputs.popleft(), now):
                    self._do(effect)
        finally:
            self._is_handling = False
        self._changed.set()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Answer(waiter, _, outcome):
                ticket = self._tickets.pop(waiter, None)
                if ticket is not None:
                    ticket.end(outcome)
            case Abandon(request):
                scope = self._requests.get(request)
                if scope is not None:
                    scope.cancel()
            case Penalise(peer, error):
                self._penalise(peer, error)
            case Request(request):
                self._requests[request] = trio.CancelScope()
                self._effects.append(effect)
            case LookUp() | Verify():
                self._effects.append(effect)
            case _:
                assert_never(effect)

    def _start(self, effect: Effect, nursery: trio.Nursery) -> None:
        match effect:
            case Request():
                nursery.start_soon(self._request, effect)
            case LookUp():
                nursery.start_soon(self._look_up, effect)
            case Verify():
                nursery.start_soon(self._verify, effect)
            case Abandon() | Penalise() | Answer():
                raise AssertionError("done at once")
            case _:
                assert_never(effect)

    # --- what takes time ------------------------------------------------------------------

    async def _request(self, request: Request) -> None:
        scope = self._requests[request.request]
        try:
            with scope:
                reply = await self._network.request(
                    request.peer,
                    PROTOCOL,
                    request.frame,
                    reply_size_max_bytes=FRAME_SIZE_MAX_BYTES,
                    timeout_s=max(0.0, request.deadline - trio.current_time()),
                )
                self._tell(Replied(request.request, reply))
        except PeerError as error:
            self._tell(Unanswered(request.request, error))
        finally:
            del self._requests[request.request]

    async def _look_up(self, look: LookUp) -> None:
        try:
            leaves, nodes = await self._keeper.look_up(look.thing, look.blocks)
        except StorageError as error:
            self._fail(look.thing, error)
        else:
            self._tell(LookedUp(look.fetch, look.look, tuple(leaves), tuple(nodes)))

    async def _verify(self, effect: Verify) -> None:
        try:
            reason = await self._keeper.keep(effect.thing, effect.block, effect.data)
        except StorageError as error:
            self._fail(effect.thing, error)
            return
        if reason:
            self._tell(Bad(effect.request, reason))
        else:
            self._tell(Verified(effect.request))

    def _fail(self, thing: Thing, error: StorageError) -> None:
        """End everyone's wait for a thing that this node cannot keep."""
        for number, ticket in list(self._tickets.items()):
            if ticket.thing == thing:
                del self._tickets[number]
                ticket.end(None, error)
                self._tell(Withdraw(number))
