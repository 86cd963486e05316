"""Contents of blobs on this worker's disk, by CID, so that a model is fetched once.

A content is written beside its place, hashed while it arrives and moved there only when its CID is
right.  Concurrent fetches of one content wait for the first.  The least recently used go when the
cache is full; what a running job opened is pinned until that job is over.  A file whose size or
time of change is not what it was when we hashed it is not trusted and fetched anew.
"""

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import trio

from storage import cid as content_id
from storage.cid import CHUNK_SIZE_BYTES, TreeBuilder
from storage.errors import InvalidData

SIZE_MAX_BYTES: Final = 4 * 1024**3
"""Most bytes kept. Source: guess, some tens of models."""

Read = Callable[[int, int], Awaitable[bytes]]
"""`(offset, length)` -> that part of the content, whole."""


class CacheError(Exception):
    """A content cannot be had; the first argument is a problem code."""


class BlobCache:
    """Files named by CID in one directory, which belongs to this object alone."""

    def __init__(self, directory: Path, size_max_bytes: int = SIZE_MAX_BYTES) -> None:
        self._directory = directory
        self._size_max_bytes = size_max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Least recently used first."""
        self._marks: dict[str, tuple[int, int]] = {}
        """Size and time of change of files that were hashed by this process."""
        self._pins: dict[str, int] = {}
        self._fetching: dict[str, trio.Lock] = {}
        self._parts = 0
        directory.mkdir(parents=True, exist_ok=True)
        found = [entry for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False)]
        for entry in sorted(found, key=lambda entry: entry.stat().st_mtime_ns):
            if ".part" in entry.name:
                os.unlink(entry.path)
            else:
                self._sizes[entry.name] = entry.stat().st_size

    async def fetch(self, cid: str, size_bytes: int, read: Read) -> Path:
        """Return the path of a content, pinned: `release` it. Raises `CacheError`.

        `read` is called for what is not here; what it raises is raised.
        """
        with self._turn(cid) as lock:
            async with lock:
                if not await self._has(cid):
                    await self._store(cid, size_bytes, read)
        self._sizes.move_to_end(cid)
        self._pins[cid] = self._pins.get(cid, 0) + 1
        return self._directory / cid

    def release(self, cid: str) -> None:
        """Undo one `fetch`: the content may go when there is no room."""
        self._pins[cid] -= 1
        if not self._pins[cid]:
            del self._pins[cid]

    @contextmanager
    def _turn(self, cid: str) -> Iterator[trio.Lock]:
        lock = self._fetching.setdefault(cid, trio.Lock())
        try:
            yield lock
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._fetching.pop(cid, None)

    async def _has(self, cid: str) -> bool:
        """Return whether the content is here and right."""
        if cid not in self._sizes:
            return False
        path = self._directory / cid
        try:
            mark = _mark(path)
            if self._marks.get(cid) == mark:
                return True
            if await trio.to_thread.run_sync(_hash_file, path) == cid:
                self._marks[cid] = mark
                return True
        except OSError:
            pass
        self._drop(cid)
        return False

    async def _store(self, cid: str, size_bytes: int, read: Read) -> None:
        self._make_room(size_bytes)
        self._parts += 1
        part = self._directory / f"{cid}.part{self._parts}"
        # Counted from the start, so that fetches at the same time share the room.
        self._sizes[cid] = size_bytes
        try:
            with open(part, "xb") as file:  # noqa: ASYNC230  (a chunk costs 0.3 ms)
                await _receive(cid, size_bytes, read, file)
            os.chmod(part, 0o444)
            os.rename(part, self._directory / cid)
            self._marks[cid] = _mark(self._directory / cid)
        except BaseException as error:
            self._sizes.pop(cid, None)
            with suppress(OSError):
                os.unlink(part)
            if isinstance(error, OSError):
                raise CacheError("worker_disk_full", str(error)) from error
            raise

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes > self._size_max_bytes:
            raise CacheError("too_large", f"over {self._size_max_bytes} bytes")
        used = sum(self._sizes.values())
        for cid in list(self._sizes):
            if used + size_bytes <= self._size_max_bytes:
                return
            if cid not in self._pins and cid not in self._fetching:
                used -= self._sizes[cid]
                self._drop(cid)
        if used + size_bytes > self._size_max_bytes:
            raise CacheError("too_large", "what running jobs use leaves no room")

    def _drop(self, cid: str) -> None:
        self._sizes.pop(cid, None)
        self._marks.pop(cid, None)
        with suppress(OSError):
            os.unlink(self._directory / cid)


async def _receive(cid: str, size_bytes: int, read: Read, file: BinaryIO) -> None:
    tree = TreeBuilder(lambda _cid, _node: None)
    for offset in range(0, size_bytes, CHUNK_SIZE_BYTES):
        length = min(CHUNK_SIZE_BYTES, size_bytes - offset)
        data = await read(offset, length)
        if len(data) != length:
            raise CacheError("content_corrupt", "a part has another length")
        tree.add(content_id.raw_leaf(data), length)
        file.write(data)
    if content_id.text(tree.finish().cid) != cid:
        raise CacheError("content_corrupt", "the content does not have its CID")


def _mark(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _hash_file(path: Path) -> str:
    """Return the CID of a file's content as text."""
    tree = TreeBuilder(lambda _cid, _node: None)
    with open(path, "rb") as file:
        while data := file.read(CHUNK_SIZE_BYTES):
            tree.add(content_id.raw_leaf(data), len(data))
    return content_id.text(tree.finish().cid)


def is_cid(written: str) -> bool:
    """Return whether a text is a CID, and so may be a file's name."""
    try:
        content_id.parse(written)
    except InvalidData:
        return False
    return True
