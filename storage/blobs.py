"""Content of any size, streamed in and out, under the CID that other IPFS tools print for it.

Content is cut into leaves of 1 MiB under a tree of nodes (`cid`); leaves and nodes are blocks
(`blocks`), shared by all content that has them.  Here content is written, read and given up; *who*
has it (a blob's row, its rights, its deletion) is the caller's.  References are counted flatly:
content counts one on each *distinct* block of its tree, in the batch that writes or deletes the
caller's row.  That makes adding and releasing plain additions, which need no expectation, commute,
and let equal content come and go at once:

    with blobs.begin() as upload:                     with-block's end gives the pins back
        upload.write(data) ...
        content = upload.finish()                     everything large is durable now
        commit(Batch(puts=[row, *content.puts], adds=[*content.adds]))

    release = blobs.release(cid)
    commit(Batch(deletes=[row], adds=[*release.adds]))
    blobs.sweep(release.blocks)                       once that is durable

Everything blocks and is made to be called from a thread other than the loop's; an `Upload` or a
`Reader` is used by one thread at a time.

What it leaves out: encryption, compression, and content-defined cutting.  If a *node* of a tree is
lost to a bad disk, the leaves below it keep their references when the content is released: space
is lost then, never data.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from storage.blocks import Blocks, Config
from storage.cid import (
    CHUNK_SIZE_BYTES,
    LEVELS_MAX,
    Cid,
    TreeBuilder,
    decode_node,
    is_leaf,
    raw_leaf,
    text,
)
from storage.errors import BlobTooLarge, BlockCorrupt, BlockMissing, InvalidData, StoreClosed
from storage.store import Add, Put, Store, Table


@dataclass(frozen=True, slots=True)
class Content:
    """Finished content, and what the caller's batch must carry for it to stay."""

    cid: Cid
    size_bytes: int
    puts: tuple[Put, ...]
    adds: tuple[Add, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """What the caller's batch must carry to give content up, and what to sweep after it."""

    adds: tuple[Add, ...]
    blocks: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block that is here, but not durable yet."""

    cid: Cid
    size_bytes: int
    file: Path | None
    row: Put | None
    """With neither, it was durable before."""


class BlobStore:
    """Content in `store` and `directory` (`None`: all of it in `store`).

    One for each store: pins are in its memory.  Raises `BlobError` for a directory that cannot
    be used.
    """

    def __init__(self, store: Store, directory: Path | None, config: Config) -> None:
        self._blocks = Blocks(store, directory, config)
        self._config = config

    def begin(self) -> "Upload":
        """Begin new content."""
        return Upload(self._blocks, self._config)

    def open(self, cid: Cid) -> "Reader":
        """Open content for reading; what is open stays readable when it is released meanwhile.

        Raises `BlockMissing` if nothing refers to it or a node of its tree is not here, and
        `BlockCorrupt`.
        """
        return Reader(self._blocks, self._config, cid)

    def has(self, cid: Cid) -> bool:
        """Tell whether committed content is, or contains, the block `cid`."""
        return self._blocks.is_referenced(cid)

    def read_block(self, cid: Cid) -> bytes:
        """Return the verified bytes of one block, leaf or node, as another node asks for it.

        Raises `BlockMissing` or `BlockCorrupt`.
        """
        return self._blocks.read(cid)

    def take_in(self, cid: Cid, data: bytes) -> "Arrival":
        """Keep a block, which hashes to `cid`, of content that comes block by block.

        It may be read at once, unless it is a row, but is durable only when the batch is that
        `settle` tells of; until `let_go` it stays.  Raises `StoreFull` or `BlobError`.
        """
        self._blocks.pin(cid)
        try:
            kept = self._blocks.keep(cid, data, is_synced=False)
        except BaseException:
            self._unpin([cid])
            raise
        if isinstance(kept, Path):
            return Arrival(cid, len(data), kept, None)
        return Arrival(cid, len(data), None, kept)

    def settle(self, arrivals: Sequence["Arrival"]) -> tuple[Put, ...]:
        """Make blocks durable together, but for the rows that are returned for the batch.

        That batch counts a reference to each.  A disk takes several at once in the time of one.
        Raises `StoreFull` or `BlobError`.
        """
        files = [arrival.file for arrival in arrivals if arrival.file is not None]
        self._blocks.sync_contents(files)
        self._blocks.sync(files)
        return tuple(arrival.row for arrival in arrivals if arrival.row is not None)

    def let_go(self, arrivals: Sequence["Arrival"]) -> None:
        """Remove those blocks again that nothing refers to by now."""
        self._unpin([arrival.cid for arrival in arrivals])

    def _unpin(self, pinned: Sequence[Cid]) -> None:
        with suppress(StoreClosed):  # Then the next start collects.
            self._blocks.unpin(pinned)

    def release(self, cid: Cid) -> Release:
        """Return how to give up the content `cid`, once for each time it was committed."""
        blocks: dict[Cid, None] = {cid: None}
        todo = [cid]
        while todo:
            at = todo.pop()
            # Without a node's bytes what is below it is unknown: that stays.
            with suppress(BlockMissing, BlockCorrupt):
                for child, _ in _children(self._blocks, at):
                    if child not in blocks:
                        blocks[child] = None
                        todo.extend(() if is_leaf(child) else (child,))
        return Release(
            adds=tuple((Table.BLOCK_REFS, block, -1) for block in blocks), blocks=tuple(blocks)
        )

    def sweep(self, blocks: Sequence[Cid]) -> int:
        """Remove those of `blocks` that nothing needs any more; return how many."""
        return self._blocks.sweep(blocks)

    def collect(self) -> int:
        """Remove what a crash left behind, at the start or at any time; return how many blocks."""
        return self._blocks.collect()


class Upload:
    """Content on its way in. Keeps at most one leaf, and the open nodes of the tree, in memory.

    Close it (or leave its `with`) when the batch that carries `Content` is durable or has failed,
    and to give up.  One that raised is closed.
    """

    def __init__(self, blocks: Blocks, config: Config) -> None:
        self._blocks = blocks
        self._config = config
        self._builder = TreeBuilder(self._keep)
        self._chunk = bytearray()
        self._size_bytes = 0
        self._pinned: dict[Cid, None] = {}
        self._puts: list[Put] = []
        self._files: list[Path] = []
        self._writable = True
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`, of any size.

        Raises `BlobTooLarge`, `StoreFull`, `BlobError`, and `ValueError` when finished or closed.
        """
        self._require_writable()
        view = memoryview(data).cast("B")
        with self._closed_by_errors():
            self._size_bytes += len(view)
            if self._size_bytes > self._config.size_max_bytes:
                raise BlobTooLarge(f"content is over {self._config.size_max_bytes} bytes")
            at = 0
            while at < len(view):
                if not self._chunk and len(view) - at >= CHUNK_SIZE_BYTES:
                    end = at + CHUNK_SIZE_BYTES
                    self._add_leaf(view[at:end])
                else:
                    end = min(len(view), at + CHUNK_SIZE_BYTES - len(self._chunk))
                    self._chunk += view[at:end]
                    if len(self._chunk) == CHUNK_SIZE_BYTES:
                        self._add_leaf(self._chunk)
                        self._chunk = bytearray()
                at = end

    def finish(self) -> Content:
        """End the content and make durable all of it that does not ride in the batch.

        Raises as `write`.
        """
        self._require_writable()
        with self._closed_by_errors():
            if self._chunk or not self._size_bytes:
                self._add_leaf(self._chunk)
                self._chunk = bytearray()
            root = self._builder.finish()
            self._blocks.sync(self._files)
        self._writable = False
        return Content(
            cid=root.cid,
            size_bytes=root.size_bytes,
            puts=tuple(self._puts),
            adds=tuple((Table.BLOCK_REFS, block, 1) for block in self._pinned),
        )

    def close(self) -> None:
        """Remove what no committed content refers to. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._writable = False
            with suppress(StoreClosed):  # Then the next start collects.
                self._blocks.unpin(self._pinned)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_leaf(self, data: bytearray | memoryview) -> None:
        cid = raw_leaf(data)
        self._keep(cid, data)
        self._builder.add(cid, len(data))

    def _keep(self, cid: Cid, data: bytes | bytearray | memoryview) -> None:
        if cid in self._pinned:
            return
        self._pinned[cid] = None
        self._blocks.pin(cid)
        kept = self._blocks.keep(cid, data)
        if isinstance(kept, Path):
            self._files.append(kept)
        elif kept is not None:
            self._puts.append(kept)

    def _require_writable(self) -> None:
        if not self._writable:
            raise ValueError("the upload is finished or closed")

    @contextmanager
    def _closed_by_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


class Reader:
    """Content open for reading. Close it, or leave its `with`."""

    def __init__(self, blocks: Blocks, config: Config, cid: Cid) -> None:
        self._blocks = blocks
        self._pinned: list[Cid] = []
        self._leaves: list[Cid] = []
        self._only_leaf: bytes | None = None
        self._closed = False
        self.cid = cid
        self.size_bytes = 0
        try:
            self._load(cid, config.size_max_bytes)
            # Whoever takes away the root's reference takes away all: if it stands now, with
            # everything pinned, nothing has been removed.
            if not blocks.is_referenced(cid):
                raise BlockMissing(f"nothing refers to {text(cid)}")
        except BaseException:
            self.close()
            raise

    def read_chunk(self, index: int) -> bytes:
        """Return the verified bytes of leaf `index`: 1 MiB, the last one less.

        Raises `BlockMissing`, `BlockCorrupt`, and `IndexError` past the end.
        """
        if self._closed:
            raise ValueError("the reader is closed")
        if self._only_leaf is not None:
            return (self._only_leaf,)[index]
        data = self._blocks.read(self._leaves[index])
        if len(data) != min(CHUNK_SIZE_BYTES, self.size_bytes - index * CHUNK_SIZE_BYTES):
            raise BlockCorrupt(f"leaf {index} of {text(self.cid)} has another size")
        return data

    def chunks(self, offset_bytes: int = 0, length_bytes: int | None = None) -> Iterator[bytes]:
        """Yield `length_bytes` (default: the rest) from `offset_bytes` on, at most 1 MiB a piece.

        What lies past the end is left out.  Raises as `read_chunk`, and `ValueError` for an offset
        below 0.
        """
        if offset_bytes < 0:
            raise ValueError("an offset is at least 0")
        end = self.size_bytes
        if length_bytes is not None:
            end = min(end, offset_bytes + length_bytes)
        at = offset_bytes
        while at < end:
            index, start = divmod(at, CHUNK_SIZE_BYTES)
            data = self.read_chunk(index)[start : start + end - at]
            yield data
            at += len(data)

    def close(self) -> None:
        """Give the content back. A second call does nothing."""
        if not self._closed:
            self._closed = True
            with suppress(StoreClosed):  # Then the next start collects.
                self._blocks.unpin(self._pinned)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, cid: Cid, size_max_bytes: int) -> None:
        """Pin the whole tree, and learn its leaves and the content's size."""
        self._pin(cid)
        if is_leaf(cid):
            self._only_leaf = self._blocks.read(cid)
            self.size_bytes = len(self._only_leaf)
            return
        children = _children(self._blocks, cid)
        self.size_bytes = sum(size for _, size in children)
        if self.size_bytes > size_max_bytes:
            raise BlobTooLarge(f"content is over {size_max_bytes} bytes")
        self._descend(children, LEVELS_MAX)

    def _descend(self, children: list[tuple[Cid, int]], levels: int) -> None:
        for child, size_bytes in children:
            self._pin(child)
            if is_leaf(child):
                self._leaves.append(child)
                continue
            below = _children(self._blocks, child)
            # Looked at before going deeper: a tree cannot have more leaves than its root says.
            if levels == 1 or sum(size for _, size in below) != size_bytes:
                raise BlockCorrupt(f"node {text(child)} is not what its parent says")
            self._descend(below, levels - 1)

    def _pin(self, cid: Cid) -> None:
        self._blocks.pin(cid)
        self._pinned.append(cid)


def _children(blocks: Blocks, cid: Cid) -> list[tuple[Cid, int]]:
    """Return the children of a block with the bytes below each; a leaf has none."""
    if is_leaf(cid):
        return []
    try:
        return decode_node(blocks.read(cid))
    except InvalidData as error:
        raise BlockCorrupt(f"node {text(cid)} is not a tree's: {error}") from error
