"""The store on disk: LMDB.

Reads run in the caller's thread, each in a transaction of its own (about a microsecond).  Writes
are gathered by one thread (`group_commit`); here a group becomes one transaction.

Rules beyond the seam's:

1. Full is not broken.  MDB_MAP_FULL, ENOSPC, EDQUOT and EFBIG abort the transaction; its batches
   are tried again in halves until those that do not fit stand alone and get `StoreFull`.  LMDB
   reports a *short write*, which is how a full disk most often shows, as EIO; it is told from a
   true EIO by asking the filesystem for the space.
2. Deleting needs pages too (LMDB copies what it changes).  So a reserve is kept allocated in the
   file, and a batch that grows the store is refused before it would eat into it.
3. Any other error of a commit leaves this module as it is and ends the process (`group_commit`).
4. One opener (`lock`), until `close`.
5. `expects` of a batch are tested before its first write, so a conflict needs no nested
   transaction and leaves the other batches of the commit alone.

What it leaves out: shrinking the file (LMDB reuses pages, it never gives them back), and anything
about what rows mean.
"""

import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import lmdb

from storage.batches import Deliver, check_bounds, check_key, counter_row
from storage.errors import FormatError, StoreClosed, StoreError, StoreFull
from storage.group_commit import Entry, GroupCommit, Writer, end_process
from storage.lock import DirectoryLock
from storage.space import FULL_ERRNOS, AllocatedFile
from storage.store import Batch, Conflict, Done, Result, Statistics, Table

FORMAT_KEY = b"format"
"""The row of `Table.META` that names the format of all tables, in ASCII digits."""

FORMAT_VERSION = 1
"""The format that this program writes and reads."""

SPARE_TRANSACTIONS = 4
"""Read transactions kept open for the next read, which is then twice as fast. Source: guess at the
threads that read at once."""

Commit: TypeAlias = Callable[[lmdb.Transaction], None]
MakeWriter: TypeAlias = Callable[..., Writer]
"""`GroupCommit`, or another with its arguments."""
_Databases: TypeAlias = "tuple[lmdb._Database, ...]"  # noqa: SLF001  (the stub's only name for it)


@dataclass(frozen=True, slots=True)
class Config:
    """Limits of an `LmdbStore`."""

    map_size_max_bytes: int = 64 << 30
    """Largest the file grows. Sparse, so a large one costs address space only. Source: guess."""
    reserve_size_bytes: int = 1 << 20
    """Kept allocated for batches that delete. Source: a delete copies a path of 4 KiB pages in
    each of 20 tables at most 6 deep, about half of this; the rest is LMDB's list of free pages."""
    transaction_batches_max: int = 4096
    """Most batches in one commit. Source: at 10 us a batch, 40 ms between two reports."""
    transaction_size_max_bytes: int = 64 << 20
    """A commit takes no further batch at this size. Source: an eighth of LMDB's limit on the
    pages that one transaction may change (131,072 of 4 KiB)."""
    queue_batches_max: int = 65536
    """Batches waiting; one more is refused as `StoreFull`. Source: two seconds' work."""
    readers_max: int = 126
    """Read transactions open at once, one for each thread that reads. Source: LMDB's default."""


class LmdbStore:
    """A `storage.store.Store` in directory `path` (made with mode 0700 if missing).

    `deliver` runs a callback in the loop's thread and is called from the writer's: trio's
    `TrioToken.run_sync_soon`, or a function that calls it at once where there is no loop.  Close
    the store before the loop ends.  `fail` is called once, from the writer's thread, when what the
    disk holds is unknown; if it returns, the store is closed, and a `done` that was not called yet
    never is.  `commit` is the seam for faults, `make_writer` that for who writes: a thread, unless
    a simulation can have none.

    Raises `StoreLocked`, `FormatError`, `StoreFull`, and `StoreError` for a file that is not a
    store or may not be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: Config,
        deliver: Deliver,
        fail: Callable[[BaseException], None] = end_process,
        commit: Commit = lmdb.Transaction.commit,
        make_writer: MakeWriter = GroupCommit,
    ) -> None:
        self._path = path
        self._config = config
        self._commit = commit
        self._commits = 0
        self._committed_batches = 0
        self._freed_released = False
        self._lock = DirectoryLock(path)
        try:
            self._environment, self._databases = _open(path, config)
            self._data_file = AllocatedFile(path / "data.mdb")
        except BaseException:
            self._lock.release()
            raise
        self._page_bytes = int(self._environment.stat()["psize"])
        self._writer = make_writer(
            self._settle,
            deliver=deliver,
            fail=fail,
            batches_max=config.transaction_batches_max,
            size_max_bytes=config.transaction_size_max_bytes,
            queue_batches_max=config.queue_batches_max,
        )

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the committed value of `key`, or `None`."""
        check_key(key)
        try:
            with self._environment.begin(self._databases[table]) as transaction:
                return transaction.get(key)
        except lmdb.Error as error:
            raise self._reading_failed(error) from error

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
        check_bounds(start, stop, limit)
        try:
            with self._environment.begin(self._databases[table]) as transaction:
                cursor = transaction.cursor()
                if reverse:
                    return _backward(cursor, start, stop, limit)
                return _forward(cursor, start, stop, limit)
        except lmdb.Error as error:
            raise self._reading_failed(error) from error

    def submit(self, batch: Batch, done: Done | None = None, *, lazy: bool = False) -> None:
        """Queue `batch`; call `done` once, through `deliver`, with what became of it.

        The batch's sequences must not change afterwards.  Raises `ValueError` for a key that no
        store takes and `StoreClosed`.  A `done` must not raise.
        """
        self._writer.submit(batch, done, lazy=lazy)

    def apply(self, batch: Batch) -> Conflict | None:
        """Commit `batch` now and block until it is durable; from any thread.

        Raises `StoreFull`, `StoreClosed`, and `StoreError` where the commit failed.
        """
        return self._writer.apply(batch)

    def statistics(self) -> Statistics:
        """Return figures about this store; `used_bytes` counts whole pages in use."""
        try:
            with self._environment.begin() as transaction:
                used_bytes = self._live_bytes(transaction)
        except lmdb.Error as error:
            raise self._reading_failed(error) from error
        return Statistics(
            used_bytes=used_bytes,
            capacity_bytes=self._config.map_size_max_bytes,
            queued_batches=self._writer.queued_batches,
            commits=self._commits,
            committed_batches=self._committed_batches,
        )

    def close(self) -> None:
        """Commit what is queued, lazy batches too, and release the files.

        No other thread may be reading.  A second call does nothing.
        """
        self._writer.close()
        self._environment.close()
        self._data_file.close()
        self._lock.release()

    # In the writer's thread.

    def _settle(self, group: list[Entry]) -> list[Result]:
        """Commit `group`, or as much of it as there is room for; return each batch's result."""
        try:
            results = self._transact(group)
        except _Full as full:
            if len(group) == 1:
                if self._release_freed_pages():
                    return self._settle(group)
                return [StoreFull(f"the store at {self._path} is full: {full}")]
            middle = len(group) // 2
            return self._settle(group[:middle]) + self._settle(group[middle:])
        self._commits += 1
        self._committed_batches += results.count(None)
        self._freed_released = False
        return results

    def _release_freed_pages(self) -> bool:
        """Make usable what the last commit freed; tell whether that may have helped.

        LMDB reuses pages two commits after the one that freed them, so after a large delete on a
        full disk nothing would fit until something did.  One small commit breaks that circle.
        """
        if self._freed_released:
            return False
        self._freed_released = True
        same = Batch(puts=((Table.META, FORMAT_KEY, str(FORMAT_VERSION).encode()),))
        try:
            self._transact([(same, None, 0)])
        except _Full:
            return False
        return True

    def _transact(self, group: list[Entry]) -> list[Result]:
        try:
            transaction = self._environment.begin(write=True)
            try:
                results: list[Result] = [
                    _write(transaction, self._databases, batch) for batch, _, _ in group
                ]
                self._require_room(transaction)
                self._commit(transaction)
            finally:
                transaction.abort()  # Nothing, after a commit.
        except (lmdb.MapFullError, lmdb.TxnFullError) as error:
            raise _Full(str(error)) from error
        except lmdb.Error as error:
            if self._means_full(error, sum(size for _, _, size in group)):
                raise _Full(str(error)) from error
            raise
        return results

    def _require_room(self, transaction: lmdb.Transaction) -> None:
        """Raise `_Full` if `transaction` would grow the store into its reserve."""
        reserve_bytes = self._config.reserve_size_bytes
        end_bytes = (self._environment.info()["last_pgno"] + 1) * self._page_bytes
        if end_bytes + reserve_bytes <= self._data_file.allocated_bytes:
            return
        target_bytes = min(end_bytes + 2 * reserve_bytes, self._config.map_size_max_bytes)
        if self._data_file.grow(target_bytes):
            return
        live_bytes = self._live_bytes(transaction)
        if live_bytes + reserve_bytes > self._data_file.allocated_bytes:
            with self._environment.begin() as before:
                if live_bytes > self._live_bytes(before):
                    raise _Full(f"{live_bytes} bytes in use of {self._data_file.allocated_bytes}")

    def _means_full(self, error: lmdb.Error, size_bytes: int) -> bool:
        """Tell whether a transaction that carries `size_bytes` failed for lack of room."""
        code = getattr(error, "code", 0)
        if code == errno.EIO:  # A short write, if the disk does not take as much again now.
            room_bytes = 2 * size_bytes + self._config.reserve_size_bytes
            return not self._data_file.has_room_for(room_bytes)
        return code in FULL_ERRNOS

    def _live_bytes(self, transaction: lmdb.Transaction) -> int:
        """Return the size of the pages that hold rows, as `transaction` sees them."""
        pages = 0
        for database in self._databases:
            stat = transaction.stat(database)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return pages * self._page_bytes

    def _reading_failed(self, error: lmdb.Error) -> StoreError:
        if self._writer.closed:
            return StoreClosed(f"the store at {self._path} is closed")
        return StoreError(f"the store at {self._path} cannot be read: {error}")


class _Full(Exception):
    """The transaction did not fit; nothing of it was written."""


def _open(path: Path, config: Config) -> tuple[lmdb.Environment, _Databases]:
    """Open the file, check its format, and return it with its tables in `Table`'s order."""
    try:
        environment = lmdb.open(
            os.fspath(path),
            map_size=config.map_size_max_bytes,
            mode=0o600,
            max_dbs=len(Table),
            max_readers=config.readers_max,
            max_spare_txns=SPARE_TRANSACTIONS,
        )
    except lmdb.Error as error:
        raise _opening_failed(path, error) from error
    try:
        with environment.begin(write=True) as transaction:
            meta = environment.open_db(Table.META.name.encode(), txn=transaction)
            wanted = str(FORMAT_VERSION).encode()
            found = transaction.get(FORMAT_KEY, db=meta)
            if found is None:
                transaction.put(FORMAT_KEY, wanted, db=meta)
            elif found != wanted:
                raise FormatError(
                    f"the store at {path} has format {found.decode('ascii', 'replace')}; "
                    f"this program reads format {FORMAT_VERSION}"
                )
            databases = tuple(
                environment.open_db(table.name.encode(), txn=transaction) for table in Table
            )
    except lmdb.Error as error:
        environment.close()
        raise _opening_failed(path, error) from error
    except FormatError:
        environment.close()
        raise
    return environment, databases


def _opening_failed(path: Path, error: lmdb.Error) -> StoreError:
    if isinstance(error, lmdb.MapFullError) or getattr(error, "code", 0) in FULL_ERRNOS:
        return StoreFull(f"no room to open the store at {path}: {error}")
    return StoreError(f"the store at {path} cannot be opened: {error}")


def _write(
    transaction: "lmdb.Transaction[bytes]", databases: _Databases, batch: Batch
) -> Conflict | None:
    """Apply `batch` inside `transaction`, or nothing of it. The hot path of the writer."""
    for table, key, expected in batch.expects:
        found = transaction.get(key, None, databases[table])
        if found != expected:
            return Conflict(table, key, found)
    for table, key, amount in batch.adds:
        row = counter_row(transaction.get(key, None, databases[table]), amount)
        if row is None:
            transaction.delete(key, b"", databases[table])
        else:
            transaction.put(key, row, True, True, False, databases[table])
    put = transaction.put
    for table, key, value in batch.puts:
        put(key, value, True, True, False, databases[table])
    for table, key in batch.deletes:
        transaction.delete(key, b"", databases[table])
    return None


def _forward(
    cursor: "lmdb.Cursor[bytes]", start: bytes, stop: bytes | None, limit: int
) -> list[tuple[bytes, bytes]]:
    if not (cursor.set_range(start) if start else cursor.first()):
        return []
    rows = itertools.islice(cursor.iternext(), limit)
    if stop is None:
        return list(rows)
    return list(itertools.takewhile(lambda row: row[0] < stop, rows))


def _backward(
    cursor: "lmdb.Cursor[bytes]", start: bytes, stop: bytes | None, limit: int
) -> list[tuple[bytes, bytes]]:
    # `set_range` finds the first row at or after `stop`, so the one before it is the last wanted.
    after = stop is not None and (cursor.set_range(stop) if stop else cursor.first())
    if not (cursor.prev() if after else (stop != b"" and cursor.last())):
        return []
    rows = itertools.islice(cursor.iterprev(), limit)
    return list(itertools.takewhile(lambda row: row[0] >= start, rows))
