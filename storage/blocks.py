"""Blocks: the pieces of content, each kept under the CID of its bytes.

A block of at most `row_size_max_bytes` is a row of `Table.BLOCKS`; a larger one is a file:

    DIRECTORY/blocks/5f/bafkrei...   a block; the folder is the digest's last byte, 256 of them
    DIRECTORY/incoming/17            being written; emptied at the start
    DIRECTORY/quarantine/bafkrei...  bytes that did not hash to their name, for people to look at

Who needs a block: `Table.BLOCK_REFS` counts the content that refers to it, in the caller's own
transactions; *pins*, in memory, count the uploads and readers at work.  Rules:

1. A block is durable before the batch that counts a reference to it commits: its file is synced
   (fdatasync), renamed into place, and its folder synced.
2. A block is removed only while nothing refers to it and nothing pins it, and both are looked at
   under one lock.  So a pin taken *before* the first look keeps a block until it is given back,
   and whoever gives back the last pin looks again.
3. Only a block with a reference may be relied on to be durable: one without may be another
   upload's, not synced yet.
4. A crash at any point leaves at most blocks that nothing refers to; `collect` finds them.
5. No byte leaves before its whole block hashed to its CID.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage import cid as cids
from storage.cid import Cid
from storage.errors import BlobError, BlockCorrupt, BlockMissing, InvalidData, StoreFull
from storage.space import FULL_ERRNOS
from storage.store import Batch, Put, Store, Table


@dataclass(frozen=True, slots=True)
class Config:
    """Limits of content."""

    size_max_bytes: int = 64 << 30
    """Largest content. Source: guess; its batch counts a reference to each of 65,536 blocks."""
    row_size_max_bytes: int = 64 << 10
    """Largest block that is a row and not a file. Source: measurement, from here on files are as
    fast to write; and a node of a tree is never larger."""
    sweep_blocks_max: int = 16
    """Blocks removed under one hold of the lock. Source: measurement, half a millisecond each."""
    rows_scanned_max: int = 64
    """Rows of blocks read at once by `collect`. Source: 4 MiB of memory."""
    quarantine_files_max: int = 64
    """Corrupt blocks kept to be looked at; more are removed. Source: guess, 64 MiB."""


class Blocks:
    """The blocks of one node, in `store` and `directory`; from any thread.

    `directory=None` keeps every block as a row, for nodes without a disk.
    """

    def __init__(self, store: Store, directory: Path | None, config: Config) -> None:
        self._store = store
        self._config = config
        self._lock = threading.Lock()
        self._pins: dict[Cid, int] = {}
        self._names = itertools.count()
        self._directory = directory
        self._shards: set[str] = set()
        if directory is not None:
            with _translated(directory):
                for name in ("blocks", "incoming", "quarantine"):
                    (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
                for left in sorted((directory / "incoming").iterdir()):
                    left.unlink()

    def pin(self, cid: Cid) -> None:
        """Keep `cid` from being removed until it is unpinned as often."""
        with self._lock:
            self._pins[cid] = self._pins.get(cid, 0) + 1

    def unpin(self, pinned: Iterable[Cid]) -> None:
        """Give pins back, and remove those blocks that nothing needs any more."""
        free = []
        with self._lock:
            for cid in pinned:
                self._pins[cid] -= 1
                if not self._pins[cid]:
                    del self._pins[cid]
                    free.append(cid)
        self.sweep(free)

    def is_referenced(self, cid: Cid) -> bool:
        """Tell whether committed content refers to `cid`."""
        return self._store.get(Table.BLOCK_REFS, cid) is not None

    def keep(
        self, cid: Cid, data: bytes | bytearray | memoryview, *, is_synced: bool = True
    ) -> Put | Path | None:
        """Keep the bytes of a *pinned* `cid`.

        Returns the row to put, or the file whose folder is to be synced (`sync`), before or in the
        batch that counts the reference; or `None` where the block is durable already.  Without
        `is_synced` the file itself is to be synced too.  Raises `StoreFull`.
        """
        if self._directory is None or len(data) <= self._config.row_size_max_bytes:
            return (Table.BLOCKS, cid, bytes(data))
        path = self._path(cid)
        with _translated(path):
            if self.is_referenced(cid) and _size_bytes(path) == len(data):
                return None
            self._make_shard(path.parent)
            incoming = self._directory / "incoming" / str(next(self._names))
            try:
                _write(incoming, data, is_synced=is_synced)
                with self._lock:  # So that quarantine cannot take this file for the corrupt one.
                    if is_synced or not self._is_good(cid, len(data)):
                        incoming.rename(path)
                    else:
                        # It may be an upload's, and synced: its reference will rely on that.
                        incoming.unlink()
            except BaseException:
                incoming.unlink(missing_ok=True)
                raise
        return path

    def sync(self, files: Iterable[Path]) -> None:
        """Make the names of `files` durable."""
        for folder in dict.fromkeys(file.parent for file in files):
            with _translated(folder):
                _sync(folder, os.O_DIRECTORY)

    def sync_contents(self, files: Iterable[Path]) -> None:
        """Make the bytes of `files` durable. Raises `BlobError` if one is gone, and `StoreFull`."""
        for file in files:
            with _translated(file):
                _sync(file)

    def read(self, cid: Cid) -> bytes:
        """Return the bytes of `cid`, which hash to it.

        Raises `BlockMissing`, or `BlockCorrupt` after putting the block in quarantine.
        """
        data = self._read(cid)
        if data is None:
            raise BlockMissing(f"block {cids.text(cid)} is not here")
        if not cids.matches(cid, data):
            self._quarantine(cid)
            raise BlockCorrupt(f"block {cids.text(cid)} does not hash to its name")
        return data

    def sweep(self, candidates: Sequence[Cid]) -> int:
        """Remove those of `candidates` that nothing refers to and nothing pins; return how many.

        Call it when the batch that took references away is durable.
        """
        removed = 0
        step = self._config.sweep_blocks_max
        for at in range(0, len(candidates), step):
            with self._lock:
                removed += self._sweep(candidates[at : at + step])
        return removed

    def collect(self) -> int:
        """Look at every block and remove what a crash left behind; return how many.

        Safe at any time; meant for the start.
        """
        removed = 0
        start = b""
        while rows := self._store.scan(Table.BLOCKS, start, limit=self._config.rows_scanned_max):
            removed += self.sweep([Cid(key) for key, _ in rows])
            start = rows[-1][0] + b"\0"
        if self._directory is not None:
            for shard in sorted((self._directory / "blocks").iterdir()):
                names = sorted(path.name for path in shard.iterdir())
                removed += self.sweep(list(_named(names)))
        return removed

    def _read(self, cid: Cid) -> bytes | None:
        row = self._store.get(Table.BLOCKS, cid)
        if row is not None or self._directory is None:
            return row
        path = self._path(cid)
        with _translated(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def _is_good(self, cid: Cid, size_bytes: int) -> bool:
        """Tell whether the file of a block is there, and right."""
        path = self._path(cid)
        return _size_bytes(path) == size_bytes and cids.matches(cid, path.read_bytes())

    def _sweep(self, candidates: Sequence[Cid]) -> int:
        removed = 0
        rows = []
        for cid in candidates:
            if cid in self._pins or self.is_referenced(cid):
                continue
            if self._store.get(Table.BLOCKS, cid) is not None:
                rows.append(cid)
            elif self._directory is not None:
                path = self._path(cid)
                with _translated(path), contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    removed += 1
        if rows:
            self._store.apply(Batch(deletes=[(Table.BLOCKS, cid) for cid in rows]))
        return removed + len(rows)

    def _quarantine(self, cid: Cid) -> None:
        """Take a corrupt block out of the way, unless good bytes have replaced it meanwhile."""
        with self._lock:
            data = self._read(cid)
            if data is None or cids.matches(cid, data):
                return
            row = self._store.get(Table.BLOCKS, cid)
            if row is not None:
                self._store.apply(
                    Batch(deletes=[(Table.BLOCKS, cid)], expects=[(Table.BLOCKS, cid, row)])
                )
            if self._directory is None:
                return
            with _translated(self._directory):
                quarantine = self._directory / "quarantine"
                kept = quarantine / cids.text(cid)
                if row is not None:
                    kept.write_bytes(row)
                else:
                    self._path(cid).replace(kept)
                if len(list(quarantine.iterdir())) > self._config.quarantine_files_max:
                    kept.unlink()

    def _path(self, cid: Cid) -> Path:
        assert self._directory is not None
        return self._directory / "blocks" / f"{cid[-1]:02x}" / cids.text(cid)

    def _make_shard(self, shard: Path) -> None:
        if shard.name not in self._shards:
            shard.mkdir(mode=0o700, exist_ok=True)
            _sync(shard.parent, os.O_DIRECTORY)
            self._shards.add(shard.name)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Translate what the disk says into this package's words, once."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise StoreFull(f"no room for {path}: {error.strerror}") from error
        raise BlobError(f"{path} cannot be used: {error.strerror}") from error


def _write(path: Path, data: bytes | bytearray | memoryview, *, is_synced: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with memoryview(data) as view:
            written = 0
            while written < len(view):
                written += os.write(file, view[written:])
        if is_synced:
            os.fdatasync(file)
    finally:
        os.close(file)


def _sync(path: Path, flags: int = 0) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _named(names: Iterable[str]) -> Iterator[Cid]:
    """Yield the CIDs among `names`; what is not ours is left alone."""
    for name in names:
        with contextlib.suppress(InvalidData):
            yield cids.parse(name)
