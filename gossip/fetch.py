"""Fetching: how a node gets a job or a blob that another one has, or learns that it cannot.

`Fetch` is a machine: it is told what happened (`handle`, with the time) and answers what is to be
done.  It reads no clock, draws no lots and does no I/O; which peer is asked for which block next is
in `fetch_transfer`.  Its rules:

* Every waiter gets one answer, at its deadline at the latest: it is found, nobody has it (and who
  was asked), or who should have been asked and could not be.
* Content comes block by block, and every block is verified against its CID and kept before it
  counts (`Verify`).  What is here already is never asked for (`LookUp`), so a fetch that was broken
  off goes on where it was.
* Equal things asked for with equal rights are fetched once, however many wait.  With other rights
  it is another fetch: each reader's right is for the provider to judge.
* A peer that lies costs its own penalty, and nobody else anything but time.

What it leaves out: finding out who may have a thing (the driver names them), rights, and where
blocks are kept.
"""

from itertools import count
from typing import assert_never

import msgspec

from gossip.fetch_events import (
    Answer,
    Ask,
    Bad,
    Effect,
    FetchConfig,
    Input,
    LookedUp,
    Outcome,
    Overloaded,
    Replied,
    Tick,
    Unanswered,
    Unusable,
    Verified,
    Withdraw,
)
from gossip.fetch_messages import Kind, Thing
from gossip.fetch_transfer import Transfer
from gossip.timetable import FOREVER, Timetable
from storage import cid as cids
from storage.errors import InvalidData


class _Waiter(msgspec.Struct):
    fetch: int
    deadline: float


class Fetch:
    """All fetching of one node."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._waiters: dict[int, _Waiter] = {}
        self._transfers: dict[int, Transfer] = {}
        self._waiting: dict[int, dict[int, None]] = {}
        """The waiters of each fetch."""
        self._by_thing: dict[tuple[Thing, bytes], int] = {}
        self._keys: dict[int, tuple[Thing, bytes]] = {}
        self._owners: dict[int, Transfer] = {}
        """The fetch of each request that is not over."""
        self._dues = Timetable()
        """When each fetch has something to do, if nothing else happens."""
        self._deadlines = Timetable()
        """When each waiter is told what there is to say by then."""
        self._fetch_numbers = count(1)
        self._request_numbers = count(1)

    def handle(self, input: Input, now: float) -> list[Effect]:
        """Take in what happened at `now` and return what is to be done.

        What comes for a request or fetch that is over changes nothing.  Raises `ValueError` for
        what a driver must not do.
        """
        out: list[Effect] = []
        transfer: Transfer | None
        match input:
            case Ask():
                transfer = self._ask(input, now, out)
            case Withdraw(waiter):
                transfer = self._withdraw(waiter, out)
            case LookedUp(fetch, look, leaves, nodes):
                transfer = self._transfers.get(fetch)
                if transfer:
                    transfer.looked_up(look, leaves, nodes, out)
            case Replied(request, frame):
                transfer = self._owners.get(request)
                if transfer:
                    transfer.replied(request, frame, now, out)
            case Unanswered(request, error):
                transfer = self._owners.get(request)
                if transfer:
                    transfer.unanswered(request, error, out)
            case Verified(request):
                transfer = self._owners.get(request)
                if transfer:
                    transfer.verified(request, out)
            case Bad(request, reason):
                transfer = self._owners.get(request)
                if transfer:
                    transfer.bad(request, reason, out)
            case Tick():
                transfer = None
                self._tick(now, out)
            case _:
                assert_never(input)
        if transfer:
            self._go_on(transfer, now, out)
        return out

    @property
    def deadline(self) -> float | None:
        """When to send `Tick` next, in the time of `now`; `None`: no need to."""
        due = min(self._dues.soonest, self._deadlines.soonest)
        return None if due == FOREVER else due

    @property
    def fetches(self) -> int:
        """How many fetches there are."""
        return len(self._transfers)

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._transfers) <= self._config.fetches_max
        assert len(self._waiters) <= self._config.waiters_max
        assert self._transfers.keys() == self._waiting.keys() == self._keys.keys()
        assert {key: fetch for fetch, key in self._keys.items()} == self._by_thing
        for fetch, transfer in self._transfers.items():
            transfer.check()
            assert transfer.outcome is None
            assert self._waiting[fetch], "a fetch that nobody waits for"
            deadlines = [self._waiters[waiter].deadline for waiter in self._waiting[fetch]]
            assert transfer.deadline >= max(deadlines)
        dues = [transfer.due() for transfer in self._transfers.values()]
        assert self._dues.soonest == min(dues, default=FOREVER)
        deadlines = [waiter.deadline for waiter in self._waiters.values()]
        assert self._deadlines.soonest == min(deadlines, default=FOREVER)
        self._dues.check()
        self._deadlines.check()
        waiting = [waiter for waiters in self._waiting.values() for waiter in waiters]
        assert sorted(waiting) == sorted(self._waiters)
        owners = [owner.number for owner in self._owners.values()]
        assert all(self._transfers[owner].number == owner for owner in owners)

    # --- waiters --------------------------------------------------------------------------

    def _ask(self, ask: Ask, now: float, out: list[Effect]) -> Transfer | None:
        if ask.waiter in self._waiters:
            raise ValueError(f"waiter {ask.waiter} waits already")
        key = ask.thing, ask.auth
        fetch = self._by_thing.get(key)
        is_full = fetch is None and len(self._transfers) >= self._config.fetches_max
        if is_full or len(self._waiters) >= self._config.waiters_max:
            out.append(Answer(ask.waiter, 0, Overloaded()))
            return None
        root = None
        if ask.thing.kind is Kind.BLOB:
            try:
                root = cids.from_bytes(ask.thing.name)
            except InvalidData as error:
                out.append(Answer(ask.waiter, 0, Unusable(str(error))))
                return None
        if fetch is None:
            fetch = next(self._fetch_numbers)
            transfer = Transfer(fetch, ask.thing, ask.auth, self._config, self._owners)
            self._transfers[fetch] = transfer
            self._waiting[fetch] = {}
            self._by_thing[key] = fetch
            self._keys[fetch] = key
            transfer.begin(root, out)
        transfer = self._transfers[fetch]
        transfer.add(ask.providers)
        transfer.deadline = max(transfer.deadline, ask.deadline)
        self._waiters[ask.waiter] = _Waiter(fetch, ask.deadline)
        self._deadlines.set(ask.waiter, ask.deadline)
        self._waiting[fetch][ask.waiter] = None
        return transfer

    def _withdraw(self, waiter: int, out: list[Effect]) -> Transfer | None:
        gone = self._waiters.pop(waiter, None)
        if gone is None:
            return None
        self._deadlines.drop(waiter)
        del self._waiting[gone.fetch][waiter]
        return self._left(gone.fetch, out)

    def _left(self, fetch: int, out: list[Effect]) -> Transfer | None:
        """Return a fetch that somebody waits for still; end it if nobody does."""
        if self._waiting[fetch]:
            return self._transfers[fetch]
        self._transfers[fetch].close(out)
        self._remove(fetch)
        return None

    def _tick(self, now: float, out: list[Effect]) -> None:
        late = [number for number, waiter in self._waiters.items() if waiter.deadline <= now]
        for number in late:
            fetch = self._waiters.pop(number).fetch
            self._deadlines.drop(number)
            out.append(Answer(number, fetch, self._transfers[fetch].timed_out()))
            del self._waiting[fetch][number]
            self._left(fetch, out)
        for transfer in list(self._transfers.values()):
            self._go_on(transfer, now, out)

    # --- fetches --------------------------------------------------------------------------

    def _go_on(self, transfer: Transfer, now: float, out: list[Effect]) -> None:
        transfer.go_on(now, self._request_numbers, out)
        if transfer.outcome is None:
            self._dues.set(transfer.number, transfer.due())
        else:
            self._answer(transfer.number, transfer.outcome, out)

    def _answer(self, fetch: int, outcome: Outcome, out: list[Effect]) -> None:
        for waiter in self._waiting[fetch]:
            del self._waiters[waiter]
            self._deadlines.drop(waiter)
            out.append(Answer(waiter, fetch, outcome))
        self._remove(fetch)

    def _remove(self, fetch: int) -> None:
        self._dues.drop(fetch)
        del self._by_thing[self._keys.pop(fetch)]
        del self._transfers[fetch], self._waiting[fetch]
