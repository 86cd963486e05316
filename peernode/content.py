"""Blobs of this node: their rows, and their bytes on the way in and out.

A blob is an id with attributes that name a CID; its bytes are `storage.blobs`' business.  All that
touches a disk for long happens in threads (`offload`), a mebibyte at a time, so memory stays flat
whatever the size.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from peernode import quotas
from peernode.pairs import ahead
from peernode.permissions import Actor, Target
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage import ids
from storage.blobs import BlobStore, Content as Finished, Release, Upload
from storage.cid import CHUNK_SIZE_BYTES, Cid
from storage.clock import Clock
from storage.store import Store, Table

if TYPE_CHECKING:
    from peernode.node import Node

EXPIRY_KIND: Final = b"b"
"""Kind of a blob's row in `Table.EXPIRIES`."""
METER_BLOB_BYTES: Final = b"b"
METER_BLOBS: Final = b"n"
SOURCES_MAX: Final = 10_000
"""Sources of one function given up at once. Source: guess; a hundred versions made many times."""
MEDIA_TYPE_DEFAULT: Final = "application/octet-stream"

T = TypeVar("T")


class Offload(Protocol):
    """Runs a blocking function somewhere else and waits for it."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Return what `function(*args)` returns."""
        ...


class BlobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A blob as it is kept."""

    cid: bytes
    size_bytes: int
    media_type: str
    name: str
    project: int
    """0: it is its owner's own."""
    owner: int
    created_ms: int
    revision: int = 1
    delete_after_ms: int = 0
    """0: it stays."""


encode_row: Final = msgspec.json.Encoder().encode
decode_row: Final = msgspec.json.Decoder(BlobRow).decode


class Content:
    """Rows and bytes of blobs."""

    def __init__(self, store: Store, blobs: BlobStore, clock: Clock, offload: Offload) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self.offload = offload

    # --- rows -------------------------------------------------------------------------------

    def row(self, blob: int) -> BlobRow | None:
        """Return what is kept of `blob`, or `None` if there is none (any more)."""
        row = self._store.get(Table.BLOBS, ids.key(blob))
        if row is None:
            return None
        found = decode_row(row)
        if 0 < found.delete_after_ms <= self._clock.wall_ms():
            return None
        return found

    @staticmethod
    def target(
        node: "Node", actor: Actor, row: BlobRow, blob: int = 0, *, granted: bool = False
    ) -> Target:
        """Return what a blob is to `actor`."""
        role = None
        if row.project and actor.kind == "user":
            role = node.registry.role(actor.user, row.project)
        own = actor.kind == "user" and row.owner == actor.user
        if row.project and role is None:
            own = False
        return Target(
            class_name="blob", id=blob, project=row.project, role=role, own=own, granted=granted
        )

    def put(self, transaction: Transaction, blob: int, row: BlobRow, finished: Finished) -> None:
        """Write a new blob's row, and the references that keep its bytes."""
        key = ids.key(blob)
        transaction.put(Table.BLOBS, key, encode_row(row))
        transaction.put(Table.PROJECT_BLOBS, ids.key(row.project or row.owner) + key, b"")
        _refer(transaction, finished)
        self._meter(transaction, row, 1)
        self._expire(transaction, blob, row)

    def change(self, transaction: Transaction, blob: int, **changes: Any) -> BlobRow:
        """Change a blob's attributes; raises `Problem` if it is gone."""
        held = transaction.get(Table.BLOBS, ids.key(blob))
        if held is None:
            raise Problem("not_found", "the blob was deleted meanwhile")
        row = decode_row(held)
        row = msgspec.structs.replace(row, revision=row.revision + 1, **changes)
        transaction.put(Table.BLOBS, ids.key(blob), encode_row(row))
        self._expire(transaction, blob, row)
        return row

    def delete(self, transaction: Transaction, blob: int) -> Release | None:
        """Delete a blob for ever; `sweep` the result once that is durable."""
        key = ids.key(blob)
        held = transaction.get(Table.BLOBS, key)
        if held is None:
            return None
        row = decode_row(held)
        transaction.delete(Table.BLOBS, key)
        transaction.delete(Table.PROJECT_BLOBS, ids.key(row.project or row.owner) + key)
        transaction.put(Table.DEAD, key, b"")
        self._meter(transaction, row, -1)
        return self.release(transaction, row.cid)

    def expire(self, transaction: Transaction, blob: int, at_ms: int) -> Release | None:
        """Delete a blob if it is (still) to be deleted at `at_ms`."""
        held = transaction.get(Table.BLOBS, ids.key(blob))
        if held is None or decode_row(held).delete_after_ms != at_ms:
            return None
        return self.delete(transaction, blob)

    def check_quota(
        self, project: int, size_bytes: int, transaction: Transaction | None = None
    ) -> None:
        """Raise a `Problem` if that many more bytes do not fit the project's quota.

        Only within a `transaction` is it so when the bytes are counted, too.
        """
        limit = quotas.get(self._store, project).blob_bytes if project else None
        if limit is None:
            return
        if transaction is None:
            used = self.usage(project, METER_BLOB_BYTES)
        else:
            used = transaction.total(Table.USAGE, ids.key(project) + METER_BLOB_BYTES)
        quotas.check(used, size_bytes, limit, "blob_bytes")

    def release(self, transaction: Transaction, cid: bytes) -> Release:
        """Give up one reference to content; `sweep` the result once that is durable."""
        release = self._blobs.release(Cid(cid))
        for table, place, amount in release.adds:
            transaction.add(table, place, amount)
        return release

    @staticmethod
    def keep_source(transaction: Transaction, function: int, finished: Finished) -> None:
        """Refer to a source of a function, which this node now holds."""
        place = ids.key(function) + finished.cid
        if transaction.get(Table.SOURCES, place) is None:
            transaction.put(Table.SOURCES, place, b"")
            _refer(transaction, finished)

    def keep_blob(self, transaction: Transaction, function: int, blob: int, cid: bytes) -> bool:
        """Refer to a blob's content for a function; return whether the blob still has it."""
        held = transaction.get(Table.BLOBS, ids.key(blob))
        if held is None or decode_row(held).cid != cid:
            return False
        place = ids.key(function) + cid
        if transaction.get(Table.SOURCES, place) is None:
            transaction.put(Table.SOURCES, place, b"")
            # The blob's own references hold the blocks until these are durable.
            for table, block, amount in self._blobs.release(Cid(cid)).adds:
                transaction.add(table, block, -amount)
        return True

    def release_sources(self, transaction: Transaction, function: int) -> list[Release]:
        """Give up the sources of a function that this node holds; `sweep` once that is durable."""
        start, stop = ids.key(function), ids.key(function + 1)
        found = transaction.scan(Table.SOURCES, start, stop, SOURCES_MAX)
        releases = []
        for place, _ in found:
            if transaction.get(Table.SOURCES, place) is not None:
                transaction.delete(Table.SOURCES, place)
                releases.append(self.release(transaction, place[8:]))
        return releases

    async def sweep(self, release: Release | None) -> None:
        """Free the bytes that nothing refers to any more."""
        if release is not None:
            await self.offload(self._blobs.sweep, release.blocks)

    def usage(self, project: int, meter: bytes) -> int:
        """Return a counter of a project."""
        row = self._store.get(Table.USAGE, ids.key(project) + meter)
        return 0 if row is None else int.from_bytes(row, "big", signed=True)

    @staticmethod
    def _meter(transaction: Transaction, row: BlobRow, sign: int) -> None:
        place = ids.key(row.project or row.owner)
        transaction.add(Table.USAGE, place + METER_BLOB_BYTES, sign * row.size_bytes)
        transaction.add(Table.USAGE, place + METER_BLOBS, sign)

    @staticmethod
    def _expire(transaction: Transaction, blob: int, row: BlobRow) -> None:
        if row.delete_after_ms:
            due = row.delete_after_ms.to_bytes(8, "big") + EXPIRY_KIND + ids.key(blob)
            transaction.put(Table.EXPIRIES, due, b"")

    # --- bytes ------------------------------------------------------------------------------

    def read(self, cid: bytes, offset_bytes: int, length_bytes: int) -> Iterator[bytes]:
        """Yield verified bytes, in the calling thread; raises `BlobError`."""
        with self._blobs.open(Cid(cid)) as reader:
            yield from reader.chunks(offset_bytes, length_bytes)

    async def read_piece(self, cid: bytes, offset_bytes: int, length_bytes: int) -> bytes:
        """Return some verified bytes; raises `BlobError`."""

        def read() -> bytes:
            return b"".join(self.read(cid, offset_bytes, length_bytes))

        return await self.offload(read)

    async def stream(
        self, cid: bytes, offset_bytes: int, length_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield verified bytes, at most a mebibyte at a time; raises `BlobError`."""
        reader = await self.offload(self._blobs.open, Cid(cid))
        try:
            pieces = reader.chunks(offset_bytes, length_bytes)
            while (piece := await self.offload(next, pieces, None)) is not None:
                yield piece
        finally:
            reader.close()

    def begin(self) -> Upload:
        """Begin an upload that the caller closes."""
        return self._blobs.begin()

    @asynccontextmanager
    async def upload(self) -> AsyncIterator[Upload]:
        """Own an upload: what was not committed when the block ends is removed."""
        upload = self._blobs.begin()
        try:
            yield upload
        finally:
            upload.close()

    async def receive(self, upload: Upload, pieces: AsyncIterator[bytes]) -> Finished:
        """Write `pieces` as they come and return the finished content.

        Raises `BlobTooLarge`, `StoreFull`, and what `pieces` raises.
        """
        async with ahead(_gathered(pieces)) as groups:
            async for group in groups:
                await self.offload(_write_all, upload, group)
        return await self.offload(upload.finish)

    def keep_bytes(self, upload: Upload, data: bytes) -> Finished:
        """Write a small content in the calling thread."""
        return _finish(upload, [data])


def _refer(transaction: Transaction, finished: Finished) -> None:
    for table, place, value in finished.puts:
        transaction.put(table, place, value)
    for table, place, amount in finished.adds:
        transaction.add(table, place, amount)


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes], None]:
    """Yield `pieces` in groups that are worth a trip to a thread: of a leaf's size."""
    group: list[bytes] = []
    size = 0
    async for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= CHUNK_SIZE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _write_all(upload: Upload, pieces: list[bytes]) -> None:
    for piece in pieces:
        upload.write(piece)


def _finish(upload: Upload, pieces: list[bytes]) -> Finished:
    _write_all(upload, pieces)
    return upload.finish()
