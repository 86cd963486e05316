"""What this node offers others in reconciliation, kept in step with the disk.

`gossip.Sync` compares items (time and id); here is told which those are: facts that are known, and
records that are admissible by the facts known now.  It is built from the disk when a mesh node
starts, entries in a thread and page by page, because there may be a million; until that is done no
session begins.  From then on the registry tells of each change, and a fact that may change what is
admissible has those records looked at again that it may concern.

A record lies in the store under its slot and author, which its id does not tell; so beside the
machine's own there is one more index of 40 bytes a record, from short id to place.

What it leaves out: sessions (`peernode.sync_driver`).
"""

from collections.abc import Iterable
from typing import Final, assert_never

import trio

from gossip.sync import Sync
from gossip.sync_events import Insert, Remove
from gossip.sync_index import SHORT_ID_SIZE_BYTES, Index, Item, item
from gossip.sync_messages import Stratum
from peernode.content import Offload
from peernode.entries import entry_place
from peernode.registry import Registry
from peernode.spaces import AUTHORS_MAX
from storage import facts, ids
from storage.facts import Fact
from storage.places import Class, Place
from storage.records import Record, decode_record
from storage.store import Store, Table

PAGE_LENGTH: Final = 512
"""Rows decoded or looked at before others have their turn. Source: some 15 ms of decoding."""


def item_of(record: Record) -> Item:
    """Return what stands for a record in reconciliation."""
    return item(record.body.hlc, record.rid)


class Offering:
    """The items of the machine, and where each lies."""

    def __init__(self, sync: Sync, store: Store, registry: Registry, offload: Offload) -> None:
        """Offer facts and objects at once; `load` the entries. Tells the registry to tell it."""
        self.loaded = trio.Event()
        """Everything is offered that is on the disk."""
        self._sync = sync
        self._store = store
        self._registry = registry
        self._offload = offload
        self._places = Index()
        self._stale: dict[int, Place] = {}
        """Namespaces with entries to be looked at again."""
        self._all_stale = False
        self._wake = trio.Event()
        for fact in registry.authority:
            if registry.authority.known(fact):
                self._insert(Stratum.FACTS, item(fact.signed_at, fact.id))
        for record in registry.records():
            self._place(record)
            self._look(record)
        registry.hear(self)

    # --- reading --------------------------------------------------------------------------

    def read(self, stratum: Stratum, wanted: Item) -> bytes | None:
        """Return the bytes of an item, or `None` if it is no longer here."""
        if stratum is Stratum.FACTS:
            return self._store.get(Table.FACTS, wanted[8:])
        place = self._find(wanted[8 : 8 + SHORT_ID_SIZE_BYTES])
        if place is None:
            return None
        for table in (Table.ENTRIES, Table.RECORDS):
            if (row := self._store.get(table, place)) is not None:
                return row
        return None

    def holds(self, stratum: Stratum, short: bytes) -> bool:
        """Tell whether a record is kept, by its short id. Of facts, which are few, it says no."""
        return stratum is Stratum.RECORDS and self._find(short) is not None

    def _find(self, short: bytes) -> bytes | None:
        """Return where a record is kept."""
        rank = self._places.rank(short)
        found = self._places.items(rank, min(rank + 1, len(self._places)))
        if not found or not found[0].startswith(short):
            return None
        return found[0][SHORT_ID_SIZE_BYTES:]

    # --- listening ------------------------------------------------------------------------

    def fact_kept(self, fact: Fact) -> None:
        """Offer a fact, and look again at what it may concern."""
        self._insert(Stratum.FACTS, item(fact.signed_at, fact.id))
        match fact.statement:
            case facts.Genesis() | facts.NodeGrant():
                pass
            case facts.NodeRevoke(distrust=distrust):
                # What a node wrote: entries, of any namespace.
                self._all_stale |= distrust
                self._wake.set()
            case facts.UserKey() as key:
                if key.strict:
                    self._look_all(self._registry.records())
                    self._all_stale = True
                    self._wake.set()
            case facts.ProjectOwner(project=project):
                self._look_all(self._registry.records(project))
            case facts.Member(project=project) | facts.MemberRevoke(project=project):
                self._look_all(self._registry.records(project))
            case _:
                assert_never(fact.statement)

    def record_kept(self, record: Record, replaced: Record | None) -> None:
        """Offer a record in the place of its author's last one."""
        if replaced is not None:
            self._sync.handle(Remove(Stratum.RECORDS, item_of(replaced)), 0)
            self._places.remove(_located(replaced))
        self._place(record)
        self._look(record)
        if record.body.place.class_ is Class.KV_SPACE and replaced is None:
            # Its entries may have come before it, and with them facts that concern them.
            self._look_later(record.body.place)

    # --- keeping --------------------------------------------------------------------------

    async def run(self) -> None:
        """Offer all entries, and look again at those that a fact may concern, until cancelled."""
        await self._load()
        self.loaded.set()
        while True:
            if self._all_stale:
                self._all_stale = False
                self._stale.clear()
                await self._load()
            elif self._stale:
                await self._look_space(self._stale.pop(next(iter(self._stale))))
            else:
                self._wake = trio.Event()
                await self._wake.wait()

    async def _load(self) -> None:
        start = b""
        while rows := self._store.scan(Table.ENTRIES, start, limit=PAGE_LENGTH):
            found = await self._offload(_decode_all, [row for _, row in rows])
            for (key, row), record in zip(rows, found, strict=True):
                # It may have been written again while a thread decoded it.
                if self._store.get(Table.ENTRIES, key) == row:
                    self._place(record)
                    self._look(record)
            start = rows[-1][0] + b"\0"
            await trio.lowlevel.checkpoint()

    async def _look_space(self, space: Place) -> None:
        start, stop = ids.key(space.id), ids.key(space.id + 1)
        while rows := self._store.scan(Table.KV_KEYS, start, stop, limit=PAGE_LENGTH):
            for key, _ in rows:
                slot = entry_place(space, key[8:]).slot
                end = slot + b"\xff" * 9
                for _, row in self._store.scan(Table.ENTRIES, slot, end, limit=AUTHORS_MAX):
                    self._look(decode_record(row))
            start = rows[-1][0] + b"\0"
            await trio.lowlevel.checkpoint()

    def _look_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self._look(record)
            if record.body.place.class_ is Class.KV_SPACE:
                self._look_later(record.body.place)

    def _look_later(self, space: Place) -> None:
        self._stale[space.id] = space
        self._wake.set()

    def _look(self, record: Record) -> None:
        """Offer a record that is kept, or do not, as the facts say."""
        if self._registry.authority.admissible(record):
            self._insert(Stratum.RECORDS, item_of(record))
        else:
            self._sync.handle(Remove(Stratum.RECORDS, item_of(record)), 0)

    def _place(self, record: Record) -> None:
        self._places.insert(_located(record))

    def _insert(self, stratum: Stratum, one: Item) -> None:
        self._sync.handle(Insert(stratum, one), 0)


def _located(record: Record) -> Item:
    return Item(record.rid[:SHORT_ID_SIZE_BYTES] + record.store_key)


def _decode_all(rows: list[bytes]) -> list[Record]:
    return [decode_record(row) for row in rows]
