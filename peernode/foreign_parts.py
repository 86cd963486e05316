"""Parts of other nodes' content on their way to the disk: readable at once, durable together.

A part is one block that one content has here (`foreign_cache`).  To make each durable by itself
takes a disk 5 ms, eight together 9 (measured): so a part waits for up to `WAITING_MAX` others, or
for the moment in which nobody wants its content any more, whichever comes first.  What a crash
takes is fetched again; a reference is never on the disk before what it refers to.

What it leaves out: whose they are and how much room they may take.
"""

from collections.abc import Callable
from typing import Final

import trio

from peernode.content import Offload
from storage import cid as cids
from storage.blobs import Arrival, BlobStore
from storage.cid import Cid
from storage.errors import StorageError, StoreFull
from storage.store import Add, Batch, Expect, Put, Store, Table

WAITING_MAX: Final = 8
"""Most parts that wait to be durable. Source: measurement; 8 take 1.2 ms each, 32 no less."""
ATTEMPTS_MAX: Final = 3
"""Tries to commit. Source: guess; content that is given up meanwhile costs one."""


class Parts:
    """What waits to be durable. Everything but the work of threads happens in the loop."""

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        offload: Offload,
        kept: Callable[[Cid, Cid, int], None],
        lost: Callable[[Cid, Cid], None],
    ) -> None:
        """`kept(root, block, size)` is told what is durable now and was not counted before,
        `lost(root, block)` what could not be made so.
        """
        self._store = store
        self._blobs = blobs
        self._offload = offload
        self._kept = kept
        self._lost = lost
        self._waiting: dict[tuple[Cid, Cid], Arrival] = {}
        """(root, block) of those that are not durable yet, in the order they came."""
        self._turn = trio.Lock()

    def of(self, root: Cid) -> list[Cid]:
        """Return the blocks of a content that are not durable yet."""
        return [cid for owner, cid in self._waiting if owner == root]

    @property
    def is_full(self) -> bool:
        """Tell whether it is time to `flush`."""
        return len(self._waiting) >= WAITING_MAX

    async def take_in(self, root: Cid, cid: Cid, data: bytes, *, is_checked: bool) -> bool | None:
        """Keep a block if it hashes to its CID; tell whether it can be read before it is durable.

        `None`: it does not hash to its CID.  Raises `StoreFull` or `BlobError`.
        """
        place = root, cid
        if place in self._waiting:
            if not (is_checked or await self._offload(cids.matches, cid, data)):
                return None
            waiting = self._waiting.get(place)
            return waiting is None or waiting.row is None
        arrival = await self._offload(self._write, cid, data, is_checked)
        if arrival is None:
            return None
        if place in self._waiting:  # Another fetch of it was faster by a moment.
            await self._offload(self._blobs.let_go, [arrival])
        else:
            self._waiting[place] = arrival
        return arrival.row is None

    async def flush(self) -> None:
        """Make all durable that waits, also what another task has begun to.

        Raises `StoreFull`, `StoreClosed` or `BlobError`; the parts are lost then.
        """
        async with self._turn:
            going = dict(self._waiting)
            if not going:
                return
            try:
                with trio.CancelScope(shield=True):
                    new = await self._offload(self._commit, going)
            except StorageError:
                for place in going:
                    del self._waiting[place]
                    self._lost(*place)
                raise
            for place in going:
                del self._waiting[place]
            for place, size_bytes in new.items():
                self._kept(*place, size_bytes)

    # --- in a thread ------------------------------------------------------------------------

    def _write(self, cid: Cid, data: bytes, is_checked: bool) -> Arrival | None:
        if not is_checked and not cids.matches(cid, data):
            return None
        return self._blobs.take_in(cid, data)

    def _commit(self, going: dict[tuple[Cid, Cid], Arrival]) -> dict[tuple[Cid, Cid], int]:
        arrivals = list(going.values())
        try:
            rows = self._blobs.settle(arrivals)
            for _ in range(ATTEMPTS_MAX):
                new: dict[tuple[Cid, Cid], int] = {}
                puts: list[Put] = list(rows)
                adds: list[Add] = []
                expects: list[Expect] = []
                for (root, cid), arrival in going.items():
                    held = self._store.get(Table.FOREIGN_PARTS, root + cid)
                    expects.append((Table.FOREIGN_PARTS, root + cid, held))
                    if held is None:  # Else its bytes had been lost.
                        new[root, cid] = arrival.size_bytes
                        size = arrival.size_bytes.to_bytes(4, "big")
                        puts.append((Table.FOREIGN_PARTS, root + cid, size))
                        adds.append((Table.BLOCK_REFS, cid, 1))
                batch = Batch(puts=puts, adds=adds, expects=expects)
                if self._store.apply(batch) is None:
                    return new
            raise StoreFull("content is given up as fast as it comes")
        finally:
            self._blobs.let_go(arrivals)
