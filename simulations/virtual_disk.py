"""A disk under virtual time: a store whose commits take a while, may not fit, and may never come.

    disk = VirtualDisk(clock)
    store = disk.open()         what a node is given, for one life of it
    disk.lose_power()           what was not committed is gone; the store is dead
    disk.open()                 what is left

Commits are as in `storage.group_commit`: what is submitted while one is under way goes together
into the next.  `commit_s` is how long each takes; with 0 it comes at the same virtual time, but
later than `submit` all the same, so that nobody comes to rely on the contrary.  `full` refuses what
would make the store grow, as LMDB does: `StoreFull`, and what was there stays readable.

The rows are in a `storage.memory_store.MemoryStore`, or in LMDB (`open_lmdb`), each of whose
commits happens at once in the caller's thread.

What it leaves out: blocking.  `apply` is over at once, since nothing else could run meanwhile.
Nor are there torn writes: a store's transactions are what there is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from simulations.clock import SimClock
from storage import lmdb_store
from storage.batches import measure
from storage.errors import StoreClosed, StoreError, StoreFull
from storage.group_commit import InlineCommit
from storage.memory_store import MemoryStore
from storage.store import Batch, Conflict, Done, Result, Statistics, Store, Table

CommitTime: TypeAlias = float | Callable[[], float]
"""How long each commit takes, or what draws it."""


def _at_once(callback: Callable[[], object]) -> None:
    callback()


class VirtualDisk:
    """What outlives a node's process."""

    def __init__(
        self,
        clock: SimClock,
        backing: Callable[[], Store] | None = None,
        usual_s: CommitTime = 0.0,
    ) -> None:
        """`backing` opens the rows anew; it reports what it is given before `submit` returns."""
        self.clock = clock
        self.usual_s: Final = usual_s
        """`commit_s` of this disk when nothing is wrong with it."""
        self.commit_s = usual_s
        self.full = False
        """Nothing can be added."""
        self.commits = 0
        self.committed: Callable[[Batch], object] | None = None
        """Is told of each batch that is committed, in order."""
        self._memory = MemoryStore(deliver=_at_once) if backing is None else None
        self._backing = backing
        self._store: VirtualStore | None = None

    def open(self) -> "VirtualStore":
        """Return the store for one life of a node. Raises `ValueError` while another is open."""
        if self._store is not None and not self._store.closed:
            raise ValueError("the disk is in use")
        rows: Store
        if self._backing is not None:
            rows = self._backing()
        else:
            assert self._memory is not None
            rows = self._memory
        self._store = VirtualStore(self, rows, owns_rows=self._backing is not None)
        return self._store

    def lose_power(self) -> None:
        """End the life that is: what is not committed never will be; nothing if there is none."""
        if self._store is not None:
            self._store.die()

    def next_commit_s(self) -> float:
        """Return how long the next commit takes."""
        return self.commit_s() if callable(self.commit_s) else self.commit_s


class VirtualStore:
    """A `storage.store.Store` for one life of a node. Made by `VirtualDisk.open`."""

    def __init__(self, disk: VirtualDisk, rows: Store, *, owns_rows: bool) -> None:
        self.closed = False
        self._is_dead = False
        self._disk = disk
        self._rows = rows
        self._owns_rows = owns_rows
        self._queue: list[tuple[Batch, Done | None]] = []
        self._group: list[tuple[Batch, Done | None]] = []
        """What is being committed."""
        self._is_due = False
        """A commit is to begin, or is under way."""
        self._wanted = False
        """Something in the queue wants a commit."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the committed value of `key`, or `None`."""
        self._require_not_closed()
        return self._rows.get(table, key)

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
        self._require_not_closed()
        return self._rows.scan(table, start, stop, reverse=reverse, limit=limit)

    def submit(self, batch: Batch, done: Done | None = None, *, lazy: bool = False) -> None:
        """Queue `batch`. Raises `ValueError` and `StoreClosed`.

        After a loss of power the answer is `StoreClosed`, at once: whoever waits is not to wait
        for ever, and nobody outside hears of it any more.
        """
        self._require_not_closed()
        measure(batch)
        if self._is_dead:
            if done is not None:
                done(StoreClosed("the power is lost"))
            return
        self._queue.append((batch, done))
        if not lazy:
            self._wanted = True
            self._arm()

    def apply(self, batch: Batch) -> Conflict | None:
        """Commit what is queued and `batch`, now. Raises `StoreFull` or `StoreClosed`."""
        self._require_not_closed()
        measure(batch)
        if self._is_dead:
            raise StoreClosed("the power is lost")
        self._flush()
        results: list[Result] = []
        self._settle([(batch, results.append)])
        if isinstance(results[0], StoreError):
            raise results[0]
        return results[0]

    def statistics(self) -> Statistics:
        """Return figures about this store."""
        self._require_not_closed()
        found = self._rows.statistics()
        return Statistics(
            used_bytes=found.used_bytes,
            capacity_bytes=found.capacity_bytes,
            queued_batches=len(self._queue),
            commits=self._disk.commits,
            committed_batches=found.committed_batches,
        )

    def close(self) -> None:
        """Commit what is queued, and end. A second call does nothing."""
        if not self.closed:
            self._flush()
            self._end()

    def die(self) -> None:
        """Commit nothing any more, and tell whoever waits that there is nothing to wait for."""
        if self.closed:
            return
        waiting = [*self._group, *self._queue]
        self._group, self._queue = [], []
        self._is_dead = True
        self._end()
        for _, done in waiting:
            if done is not None:
                done(StoreClosed("the power is lost"))

    def _require_not_closed(self) -> None:
        if self.closed and not self._is_dead:
            raise StoreClosed("the disk was closed")

    # --- commits --------------------------------------------------------------------------

    def _arm(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._disk.clock.call_at(self._disk.clock.now, self._begin)

    def _begin(self) -> None:
        """Begin a commit of all that is queued."""
        if self.closed:
            return
        self._group, self._queue = self._queue, []
        self._wanted = False
        commit_s = self._disk.next_commit_s()
        if commit_s > 0:
            self._disk.clock.call_at(self._disk.clock.now + commit_s, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self.closed:
            return
        group, self._group = self._group, []
        self._settle(group)
        self._is_due = False
        if self._wanted:
            self._arm()

    def _flush(self) -> None:
        """Commit all that was submitted so far."""
        while self._group or self._queue:
            group = [*self._group, *self._queue]
            self._group, self._queue = [], []
            self._settle(group)

    def _settle(self, group: list[tuple[Batch, Done | None]]) -> None:
        if not group:
            return
        self._disk.commits += 1
        results: list[Result] = []
        for batch, _ in group:
            if self._disk.full and self._grows(batch):
                results.append(StoreFull("the disk is full"))
            else:
                self._rows.submit(batch, results.append)
                if results[-1] is None and self._disk.committed is not None:
                    self._disk.committed(batch)
        for (_, done), result in zip(group, results, strict=True):
            if done is not None:
                done(result)

    def _grows(self, batch: Batch) -> bool:
        """Tell whether the rows would take more room after `batch`."""
        grown_bytes = sum(len(key) + len(value) for _, key, value in batch.puts)
        touched = [(table, key) for table, key, _ in batch.puts]
        grown_bytes += sum(len(key) + 8 for _, key, _ in batch.adds)
        touched += [(table, key) for table, key, _ in batch.adds]
        for table, key in dict.fromkeys([*touched, *batch.deletes]):
            before = self._rows.get(table, key)
            grown_bytes -= 0 if before is None else len(key) + len(before)
        return grown_bytes > 0

    def _end(self) -> None:
        self.closed = True
        if self._owns_rows:
            self._rows.close()


def open_lmdb(directory: Path) -> Store:
    """Return the real store, which commits in the caller's thread. Raises as `LmdbStore`."""
    return lmdb_store.LmdbStore(
        directory,
        config=lmdb_store.Config(map_size_max_bytes=1 << 30),
        deliver=_at_once,
        make_writer=InlineCommit,
    )
