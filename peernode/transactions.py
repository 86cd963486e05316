"""Read, decide, write, and do it again if what was read has changed.

A transaction remembers what it read and writes on the condition that it is still so (`expects` of
the batch).  On a conflict its body runs again on what is there now; a body therefore has no effect
besides its writes.  After a first conflict the bodies that lost take turns, so that many writers of
one key cost one commit each and not one each for each.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import trio

from peernode.committer import Committer
from peernode.problems import Problem
from storage.store import Add, Batch, Delete, Expect, Put, Store, Table

ATTEMPTS_MAX: Final = 100
"""Tries before a body gives up. Source: guess; only writers outside the turn can make it lose."""

T = TypeVar("T")


class Transaction:
    """What a body read and what it wants written."""

    __slots__ = ("_adds", "_reads", "_store", "_writes", "after")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reads: dict[tuple[Table, bytes], bytes | None] = {}
        self._writes: dict[tuple[Table, bytes], bytes | None] = {}
        self._adds: dict[tuple[Table, bytes], int] = {}
        self.after: list[Callable[[], object]] = []
        """Called in order once the writes are durable, between tasks: they may not raise."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of `key`, own writes included, and hold the store to it."""
        place = table, key
        if place in self._writes:
            return self._writes[place]
        if place not in self._reads:
            self._reads[place] = self._store.get(table, key)
        return self._reads[place]

    def total(self, table: Table, key: bytes) -> int:
        """Return a counter, own additions included, and hold the store to it."""
        row = self.get(table, key)
        held = 0 if row is None else int.from_bytes(row, "big", signed=True)
        return held + self._adds.get((table, key), 0)

    def is_stale(self) -> bool:
        """Tell whether something that was read has changed since."""
        return any(self._store.get(*place) != value for place, value in self._reads.items())

    def expect(self, table: Table, key: bytes, value: bytes | None) -> None:
        """Hold the store to `value`: what was known of `key` when the body decided."""
        self._reads[table, key] = value

    def scan(
        self, table: Table, start: bytes, stop: bytes, limit: int = 1000
    ) -> list[tuple[bytes, bytes]]:
        """Return committed rows. The store is not held to them: name what matters with `get`."""
        return self._store.scan(table, start, stop, limit=limit)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set `key`."""
        self._writes[table, key] = value

    def delete(self, table: Table, key: bytes) -> None:
        """Remove `key`."""
        self._writes[table, key] = None

    def add(self, table: Table, key: bytes, amount: int) -> None:
        """Add to a counter."""
        place = table, key
        self._adds[place] = self._adds.get(place, 0) + amount

    def include(self, batch: Batch) -> None:
        """Take over the parts of `batch`."""
        for table, key, value in batch.puts:
            self.put(table, key, value)
        for table, key in batch.deletes:
            self.delete(table, key)
        for table, key, amount in batch.adds:
            self.add(table, key, amount)
        for table, key, expected in batch.expects:
            self._reads[table, key] = expected

    def batch(self, puts: Sequence[Put] = (), deletes: Sequence[Delete] = ()) -> Batch:
        """Return everything as one batch, with more puts and deletes if given."""
        own_puts: list[Put] = []
        own_deletes: list[Delete] = []
        for (table, key), value in self._writes.items():
            if value is None:
                own_deletes.append((table, key))
            else:
                own_puts.append((table, key, value))
        adds: list[Add] = [(*place, amount) for place, amount in self._adds.items() if amount]
        expects: list[Expect] = [(*place, value) for place, value in self._reads.items()]
        return Batch([*own_puts, *puts], [*own_deletes, *deletes], adds, expects)


class Transactions:
    """Runs bodies against a store."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._turn = trio.Lock()

    async def run(self, body: Callable[[Transaction], T]) -> T:
        """Return what `body` returned, once what it wrote is durable.

        Raises what `body` raises (nothing is written then), or `StoreFull`.
        """
        result = await self._try(body)
        if result is not None:
            return result[0]
        async with self._turn:
            for _ in range(ATTEMPTS_MAX):
                result = await self._try(body)
                if result is not None:
                    return result[0]
        raise Problem("overloaded", "too many writers of one object; ask again")

    async def _try(self, body: Callable[[Transaction], T]) -> tuple[T] | None:
        transaction = Transaction(self._committer.store)
        try:
            value = body(transaction)
        except Problem:
            # Its reads may be of different moments: only what still holds is a reason to refuse.
            if transaction.is_stale():
                return None
            raise
        # One that only read waits its turn too: what it saw on the disk is then known in memory.
        conflict = await self._committer.write(transaction.batch(), transaction.after)
        return None if conflict is not None else (value,)
