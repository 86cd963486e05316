"""Content of other nodes on this one's disk: kept block by block, bounded, oldest use out first.

A *part* is a block that one content has here: a row of `Table.FOREIGN_PARTS`, written in the batch
that counts its reference, so whatever was fetched stays when a fetch ends early, or the node (but
for the last few parts, `foreign_parts`), and is not asked for again.  Blocks are shared with the
node's own content as all blocks are.  Who reads content while it comes is handed the verified bytes
themselves, as far as there is room for them, and does not have them read back and hashed again.

Rules:

* Only content that nobody holds is given up, and all of it at once.
* Room for all of the content is set aside before its first block is kept.
* What is *lasting*, the source of a function, is not given up and not counted: it is what the node
  needs to run what it knows, and is bounded by what functions there are.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import trio

from gossip.fetch_events import Block
from gossip.fetch_messages import Kind, Thing
from peernode.committer import Committer
from peernode.content import Offload
from peernode.foreign_parts import Parts
from peernode.problems import Problem
from storage import cid as cids, codec
from storage.blobs import BlobStore
from storage.cid import CID_SIZE_BYTES, NODE_SIZE_MAX_BYTES, Cid, decode_node, is_leaf
from storage.clock import Clock
from storage.errors import BlobError, InvalidData, StorageError, StoreFull
from storage.store import Add, Batch, Delete, Store, Table

LOADED_AT_ONCE: Final = 1000
FRESH_SIZE_MAX_BYTES: Final = 8 << 20
"""Most bytes held for readers of content that comes. Source: formula; two fetches' windows."""


_FORGED: Final = "a block does not hash to its CID"


class Entry:
    """One content, all or part of it here."""

    def __init__(self, root: Cid, size_bytes: int) -> None:
        self.root = root
        self.size_bytes = size_bytes
        """Of the content, as its attributes say."""
        self.is_complete = False
        self.is_lasting = False
        self.is_claimed = False
        """Whether room for all of it is set aside, while somebody holds it."""
        self.holders = 0
        self.readers = 0
        """Those of them that read it in its order, and wait for what is not here."""
        self.fresh: dict[Cid, bytes] = {}
        """Blocks that came, for the readers."""
        self.kept_bytes = 0
        self.kept: set[Cid] | None = None
        """Blocks that are here; `None`: not looked at, or all of them."""
        self._changed = trio.Event()

    @property
    def claimed_bytes(self) -> int:
        """Bytes that are taken, or set aside."""
        if self.is_claimed:
            return max(self.kept_bytes, self.size_bytes)
        return self.kept_bytes

    def has(self, cid: Cid) -> bool:
        """Tell whether a block is here."""
        return self.is_complete or (self.kept is not None and cid in self.kept)

    def lost(self, cid: Cid) -> None:
        """Take note that a block is not here after all, so that it is fetched again."""
        if self.kept is None:
            self.kept = set()
        self.kept.discard(cid)
        self.is_complete = False

    def wake(self) -> None:
        """Wake who waits for a block."""
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Return when more is here, or no more will come."""
        await self._changed.wait()


class Cache:
    """All content of other nodes."""

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        committer: Committer,
        offload: Offload,
        clock: Clock,
        *,
        size_max_bytes: int,
        entries_max: int,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._committer = committer
        self._offload = offload
        self._clock = clock
        self._size_max_bytes = size_max_bytes
        self._entries_max = entries_max
        self._parts_in = Parts(store, blobs, offload, self._note_kept, self._note_lost)
        self._fresh_bytes = 0
        self._entries: OrderedDict[Cid, Entry] = OrderedDict()
        """In the order of last use."""
        self._load()

    @property
    def size_bytes(self) -> int:
        """Bytes of what is not lasting, here or set aside."""
        return sum(entry.claimed_bytes for entry in self._entries.values() if not entry.is_lasting)

    def is_complete(self, root: Cid) -> bool:
        """Tell whether all of a content is here, and durable."""
        entry = self._entries.get(root)
        return entry is not None and entry.is_complete and not self._parts_in.of(root)

    @asynccontextmanager
    async def hold(
        self, root: Cid, size_bytes: int, *, lasting: bool = False
    ) -> AsyncIterator[Entry]:
        """Own a hold on content, be it here or not: room for it, and what there is stays.

        Raises the `Problem` `too_large`, and `StoreFull`.
        """
        if size_bytes > self._size_max_bytes and not lasting:
            raise Problem(
                "too_large",
                f"this node keeps at most {self._size_max_bytes} bytes of other nodes' content",
                hint="ask the blob's home node",
                limit=self._size_max_bytes,
            )
        entry = self._entries.get(root)
        if entry is None:
            entry = self._entries[root] = Entry(root, size_bytes)
        if not entry.is_complete:
            entry.size_bytes = size_bytes
        entry.is_lasting |= lasting
        entry.holders += 1
        self._entries.move_to_end(root)
        try:
            if entry.kept is None and not entry.is_complete:
                entry.kept = {part for part, _ in self._parts(root)}
            if not entry.is_complete:
                await self._committer.write(self._row(entry))
            yield entry
        finally:
            await self._leave(entry)

    @contextmanager
    def reading(self, entry: Entry) -> Iterator[None]:
        """Have blocks that come handed on, while the block of code runs that holds `entry`."""
        entry.readers += 1
        try:
            yield
        finally:
            entry.readers -= 1
            if not entry.readers:
                self._fresh_bytes -= sum(map(len, entry.fresh.values()))
                entry.fresh.clear()

    async def read(self, entry: Entry, cid: Cid) -> bytes:
        """Return the verified bytes of a block that is here; raises `BlobError`."""
        fresh = entry.fresh.pop(cid, None)
        if fresh is not None:
            self._fresh_bytes -= len(fresh)
            return fresh
        return await self._offload(self._blobs.read_block, cid)

    def complete(self, entry: Entry) -> None:
        """Take note that all of a content is here that somebody holds.

        It is written down when nobody holds it any more; if that is lost, it is found out again.
        """
        if not entry.is_complete:
            entry.is_complete = True
            entry.wake()

    def release(self, root: Cid) -> None:
        """Let content that was lasting be given up."""
        entry = self._entries.get(root)
        if entry is not None and entry.is_lasting:
            entry.is_lasting = False
            self._store.submit(self._row(entry), lazy=True)

    async def damaged(self, root: Cid) -> None:
        """Give up content some of which the disk has lost, once nobody holds it."""
        entry = self._entries.get(root)
        if entry is not None and not entry.holders:
            await self._give_up(entry)

    def check(self) -> None:
        """Assert the invariants."""
        for root, entry in self._entries.items():
            parts = dict(self._parts(root))
            assert sum(parts.values()) == entry.kept_bytes
            arriving = self._parts_in.of(root)
            assert entry.holders or not arriving
            assert entry.kept is None or entry.kept <= parts.keys() | set(arriving)
            assert entry.readers or not entry.fresh
            assert all(self._blobs.has(part) for part in parts)
        fresh = [len(data) for entry in self._entries.values() for data in entry.fresh.values()]
        assert sum(fresh) == self._fresh_bytes <= FRESH_SIZE_MAX_BYTES
        assert self.size_bytes <= self._size_max_bytes + NODE_SIZE_MAX_BYTES * len(self._entries)

    # --- keeping: what the driver of fetching asks for --------------------------------------

    async def look_up(
        self, thing: Thing, blocks: Sequence[Block]
    ) -> tuple[list[Cid], list[tuple[Cid, bytes]]]:
        """Return which leaves, and which nodes with their bytes, are here."""
        entry = self._entries.get(Cid(thing.name))
        if entry is None or not entry.holders:
            return [], []
        entry.holders += 1
        try:
            leaves: list[Cid] = []
            nodes: list[tuple[Cid, bytes]] = []
            for block in blocks:
                cid = block.cid
                if entry.has(cid) and is_leaf(cid):
                    leaves.append(cid)
                elif entry.has(cid) or self._blobs.has(cid):
                    data = await self._adopt(entry, cid)
                    if data is not None and is_leaf(cid):
                        leaves.append(cid)
                    elif data is not None:
                        nodes.append((cid, data))
            return leaves, nodes
        finally:
            entry.holders -= 1

    async def keep(self, thing: Thing, block: Block | None, data: bytes) -> str:
        """Keep a block if it hashes to its CID; return "" or what is wrong with it."""
        if thing.kind is not Kind.BLOB or block is None:
            raise ValueError("content comes in blocks")
        entry = self._entries.get(Cid(thing.name))
        if entry is None or not entry.holders:
            return ""  # Nobody waits for it any more.
        entry.holders += 1
        try:
            if not block.depth:
                if not await self._offload(cids.matches, block.cid, data):
                    return _FORGED
                sizes = entry.size_bytes, None
                if not entry.is_complete and _size_bytes(block.cid, data) not in sizes:
                    return "content of another size than its attributes say"
            is_good = await self._keep(entry, block.cid, data, is_checked=not block.depth)
        finally:
            await self._leave(entry)
        return "" if is_good else _FORGED

    async def _adopt(self, entry: Entry, cid: Cid) -> bytes | None:
        """Return a block that is here, if it is good, and have it stay for this content too."""
        try:
            data = await self.read(entry, cid)
        except BlobError:
            return None
        if not entry.has(cid):
            await self._keep(entry, cid, data, is_checked=True)
        return data

    async def _keep(self, entry: Entry, cid: Cid, data: bytes, *, is_checked: bool) -> bool:
        """Keep a block; tell whether it hashes to its CID."""
        await self._claim(entry)
        is_readable = await self._parts_in.take_in(entry.root, cid, data, is_checked=is_checked)
        if is_readable is None:
            return False
        if not is_readable:
            await self._parts_in.flush()
        if entry.kept is not None:
            entry.kept.add(cid)
        has_room = self._fresh_bytes + len(data) <= FRESH_SIZE_MAX_BYTES
        if entry.readers and has_room and cid not in entry.fresh:
            entry.fresh[cid] = data
            self._fresh_bytes += len(data)
        entry.wake()
        if self._parts_in.is_full:
            await self._parts_in.flush()
        return True

    def _note_kept(self, root: Cid, _: Cid, size_bytes: int) -> None:
        self._entries[root].kept_bytes += size_bytes

    def _note_lost(self, root: Cid, cid: Cid) -> None:
        self._entries[root].lost(cid)

    async def _leave(self, entry: Entry) -> None:
        """Hold `entry` no more; who is the last to do so leaves everything durable."""
        while entry.holders == 1 and self._parts_in.of(entry.root):
            with trio.CancelScope(shield=True), suppress(StorageError):
                await self._parts_in.flush()  # What is lost so is fetched again.
        entry.holders -= 1
        if not entry.holders:
            self._let_go(entry)

    # --- room -----------------------------------------------------------------------------

    async def _claim(self, entry: Entry) -> None:
        """Set room aside for all of a content. Raises `StoreFull`."""
        if entry.is_claimed or entry.is_lasting or entry.is_complete:
            return
        entry.is_claimed = True
        while self.size_bytes > self._size_max_bytes or len(self._entries) > self._entries_max:
            idle = (e for e in self._entries.values() if not e.holders and not e.is_lasting)
            oldest = next(idle, None)
            if oldest is None:
                entry.is_claimed = False
                raise StoreFull("all room for other nodes' content is in use")
            await self._give_up(oldest)

    async def _give_up(self, entry: Entry) -> None:
        """Remove content that nobody holds."""
        del self._entries[entry.root]
        parts = [part for part, _ in self._parts(entry.root)]
        deletes: list[Delete] = [(Table.FOREIGN_PARTS, entry.root + part) for part in parts]
        adds: list[Add] = [(Table.BLOCK_REFS, part, -1) for part in parts]
        gone = Batch(deletes=[*deletes, (Table.FOREIGN_CONTENT, entry.root)], adds=adds)
        # Queued before anybody else runs: what is written of this content next comes after it.
        await self._committer.begin(gone).wait()
        await self._offload(self._blobs.sweep, parts)

    def _let_go(self, entry: Entry) -> None:
        if self._entries.get(entry.root) is not entry:
            return
        entry.is_claimed = False
        if entry.is_complete:
            entry.kept = None
        if not (entry.is_complete or entry.kept or entry.kept_bytes):
            del self._entries[entry.root]
            gone = Batch(deletes=[(Table.FOREIGN_CONTENT, entry.root)])
            self._store.submit(gone, lazy=True)
            return
        self._store.submit(self._row(entry), lazy=True)

    # --- rows -----------------------------------------------------------------------------

    def _row(self, entry: Entry) -> Batch:
        row = [entry.size_bytes, entry.is_complete, entry.is_lasting, self._clock.wall_ms()]
        return Batch(puts=[(Table.FOREIGN_CONTENT, entry.root, codec.dump_row(row))])

    def _parts(self, root: Cid) -> list[tuple[Cid, int]]:
        found: list[tuple[Cid, int]] = []
        start, stop = bytes(root), root + b"\xff" * (CID_SIZE_BYTES + 1)
        while rows := self._store.scan(Table.FOREIGN_PARTS, start, stop, limit=LOADED_AT_ONCE):
            for key, size in rows:
                found.append((Cid(key[CID_SIZE_BYTES:]), int.from_bytes(size, "big")))
            start = rows[-1][0] + b"\0"
        return found

    def _load(self) -> None:
        found: list[tuple[int, Entry]] = []
        start = b""
        while rows := self._store.scan(Table.FOREIGN_CONTENT, start, limit=LOADED_AT_ONCE):
            for key, row in rows:
                entry = Entry(Cid(key), 0)
                entry.size_bytes, entry.is_complete, entry.is_lasting, used_ms = codec.load_row(row)
                entry.kept_bytes = sum(size for _, size in self._parts(entry.root))
                found.append((used_ms, entry))
            start = rows[-1][0] + b"\0"
        for _, entry in sorted(found, key=lambda one: one[0]):
            self._entries[entry.root] = entry


def _size_bytes(cid: Cid, data: bytes) -> int | None:
    """Return the size of the content whose root this is; `None` for no root of ours."""
    if is_leaf(cid):
        return len(data)
    try:
        return sum(size for _, size in decode_node(data))
    except InvalidData:
        return None  # The machine says what is wrong with it.
