"""The store in memory: for simulations and for tests, with the same refusals as the one on disk.

A batch is "durable" as soon as it is applied, which is inside `submit` (or, for a lazy one, inside
the next `submit` that is not).  `done` goes through `deliver`.  The default runs it before
`submit` returns; when `submit` is called *from within* a `done`, the new one's `done` runs after
those that are already due, so results come in the order of `submit` and never nested.

What it leaves out: threads.  One thread calls it.
"""

import bisect
import functools
from collections import deque
from collections.abc import Callable

from storage.batches import Deliver, check_bounds, check_key, counter_row, measure, report
from storage.errors import StoreClosed, StoreError, StoreFull
from storage.store import Batch, Conflict, Done, Result, Statistics, Table


class MemoryStore:
    """A `storage.store.Store` in dictionaries.

    `capacity_bytes` limits the sum of all keys and values (default 64 GiB, as on disk): a batch
    that would grow the store beyond it is `StoreFull`.  `deliver` is as for `LmdbStore`.
    """

    def __init__(
        self,
        *,
        deliver: Deliver | None = None,
        capacity_bytes: int = 64 << 30,
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._deliver = _Turns() if deliver is None else deliver
        self._rows: tuple[dict[bytes, bytes], ...] = tuple({} for _ in Table)
        self._keys: tuple[list[bytes], ...] = tuple([] for _ in Table)
        self._queue: deque[tuple[Batch, Done | None]] = deque()
        self._used_bytes = 0
        self._commits = 0
        self._committed_batches = 0
        self._closed = False

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the committed value of `key`, or `None`."""
        self._require_open()
        check_key(key)
        return self._rows[table].get(key)

    def scan(
        self,
        table: Table,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` committed rows with `start <= key < stop`; `reverse`: last first."""
        self._require_open()
        check_bounds(start, stop, limit)
        keys = self._keys[table]
        rows = self._rows[table]
        first = bisect.bisect_left(keys, start)
        end = len(keys) if stop is None else bisect.bisect_left(keys, stop)
        positions = range(end - 1, first - 1, -1) if reverse else range(first, end)
        return [(keys[at], rows[keys[at]]) for at in positions[:limit]]

    def submit(self, batch: Batch, done: Done | None = None, *, lazy: bool = False) -> None:
        """Apply `batch` and everything queued before it; a lazy batch only queues.

        Raises `ValueError` for a key that no store takes and `StoreClosed`.
        """
        self._require_open()
        measure(batch)
        self._queue.append((batch, done))
        if not lazy:
            self._commit()

    def apply(self, batch: Batch) -> Conflict | None:
        """Apply `batch` now. Raises `StoreFull` or `StoreClosed`."""
        self._require_open()
        measure(batch)
        self._commit()
        result = self._settle(batch)
        self._commits += 1
        if isinstance(result, StoreError):
            raise result
        return result

    def statistics(self) -> Statistics:
        """Return figures about this store; `used_bytes` is the sum of all keys and values."""
        self._require_open()
        return Statistics(
            used_bytes=self._used_bytes,
            capacity_bytes=self._capacity_bytes,
            queued_batches=len(self._queue),
            commits=self._commits,
            committed_batches=self._committed_batches,
        )

    def close(self) -> None:
        """Apply lazy batches that still wait. A second call does nothing."""
        if not self._closed:
            self._commit()
            self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed("the store in memory is closed")

    def _commit(self) -> None:
        reports: list[tuple[Done, Result]] = []
        if self._queue:
            self._commits += 1
        while self._queue:
            batch, done = self._queue.popleft()
            result = self._settle(batch)
            if done is not None:
                reports.append((done, result))
        if reports:
            self._deliver(functools.partial(report, reports))

    def _settle(self, batch: Batch) -> Result:
        for table, key, expected in batch.expects:
            found = self._rows[table].get(key)
            if found != expected:
                return Conflict(table, key, found)
        changes = self._changes(batch)
        grown_bytes = 0
        for (table, key), value in changes.items():
            before = self._rows[table].get(key)
            grown_bytes -= 0 if before is None else len(key) + len(before)
            grown_bytes += 0 if value is None else len(key) + len(value)
        if grown_bytes > 0 and self._used_bytes + grown_bytes > self._capacity_bytes:
            return StoreFull(f"{self._used_bytes} bytes in use of {self._capacity_bytes}")
        for (table, key), value in changes.items():
            self._set(table, key, value)
        self._used_bytes += grown_bytes
        self._committed_batches += 1
        return None

    def _changes(self, batch: Batch) -> dict[tuple[Table, bytes], bytes | None]:
        """Return the value that each row touched by `batch` will have; `None` is "no row"."""
        changes: dict[tuple[Table, bytes], bytes | None] = {}
        for table, key, amount in batch.adds:
            before = changes.get((table, key), self._rows[table].get(key))
            changes[table, key] = counter_row(before, amount)
        for table, key, value in batch.puts:
            changes[table, key] = value
        for table, key in batch.deletes:
            changes[table, key] = None
        return changes

    def _set(self, table: Table, key: bytes, value: bytes | None) -> None:
        rows = self._rows[table]
        if value is None:
            if rows.pop(key, None) is not None:
                keys = self._keys[table]
                del keys[bisect.bisect_left(keys, key)]
            return
        if key not in rows:
            bisect.insort(self._keys[table], key)
        rows[key] = value


class _Turns:
    """Runs callbacks at once, but never one inside another."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], object]] = deque()
        self._running = False

    def __call__(self, callback: Callable[[], object]) -> None:
        self._due.append(callback)
        if self._running:
            return
        self._running = True
        try:
            while self._due:
                self._due.popleft()()
        finally:
            self._running = False
