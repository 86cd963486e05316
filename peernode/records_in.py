"""Facts and records from other nodes: from bytes to what this node knows.

    bytes -> size, layout, payload, signatures        `Checker`: of the bytes alone
          -> facts they rest on, keys, time            `Ingestion`: of what is known here
          -> merge rule -> one durable batch -> the view, and whoever listens to the registry

What is wrong in the first step, or has somebody else's keys, is wrong for good and everywhere: its
sender is to blame.  What rests on facts that are not here, or is ahead of our clock, waits
(`peernode.waiting`) and nobody is to blame.  Whether the author *may* write is not asked here: that
never decides what is kept, only what is seen (`storage.merge`).

A node's admission says how many users it may make (`users_max`), and it keeps to that.  A receiver
takes in twice as many from it, the new ones of a node's own beyond that from nobody, and each is
held against that node.  So a dishonest node can have others keep so much and no more.  Up to twice
the number all nodes come to know the same users, whatever the order; beyond it each knows those
that reached it first, and nodes go on offering them to each other, until that node is evicted, or
admitted anew with a higher number.

One call of `take` at a time; its items go to the disk in batches, each in a transaction of its own.
A fact counts once it is durable, and only then are those looked at that rest on it: so what is on
the disk is a state by itself at every moment.  An object that was deleted elsewhere gives back its
name at its home, and the content that is held of it.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from gossip.sync_messages import Stratum
from peernode import names
from peernode.content import Content
from peernode.entries import keep_entry
from peernode.payloads import check_payload
from peernode.registry import Entry, Registry
from peernode.transactions import Transaction, Transactions
from peernode.waiting import Item, Waiting, name, signed_at, subject
from storage import hlc, ids, merge, places, signing
from storage.authority import Unverifiable
from storage.blobs import Release
from storage.certificates import Certificate, decode_certificate
from storage.errors import SignatureError
from storage.facts import FACT_SIZE_MAX_BYTES, Fact, UserKey, decode_fact
from storage.places import Class
from storage.records import RECORD_SIZE_MAX_BYTES, Flag, Record, decode_record
from storage.store import Store, Table

ITEM_SIZE_MAX_BYTES: Final = max(FACT_SIZE_MAX_BYTES, RECORD_SIZE_MAX_BYTES)
BATCH_ITEMS_MAX: Final = 128
"""Most items of one transaction. Source: a batch keeps the loop for under 10 ms."""
OFFLOADED_MIN: Final = 16
"""Items from which on a thread checks them. Source: 16 take some 2 ms; a hop takes 0.1."""
CHECKED_MAX: Final = 65_536
"""Births remembered as good. Source: as `storage.authority.CHECKED_MAX`."""
CERTIFICATES_MAX: Final = 4096
"""Certificates remembered as good. Source: guess; 12 MiB of the largest."""
USERS_FACTOR: Final = 2
"""Times its `users_max` that is taken in of a node's users. Source: security brief, 3.3."""
EARLY_RETRY_S: Final = 10.0
"""Pause between looks at what is ahead of our clock. Source: a sixth of what may be ahead."""


class Checker:
    """Says of bytes, and of nothing else, whether they are a fact or record of this mesh.

    May be used from several threads: what it remembers are answers that cannot change.
    """

    def __init__(self, mesh: bytes) -> None:
        self._mesh = mesh
        self._good: dict[tuple[bytes, bytes], None] = {}
        self._certificates: dict[bytes, Certificate] = {}
        """Good ones, by their bytes."""

    def check(self, stratum: Stratum, encoded: bytes) -> Item:
        """Return what `encoded` is, its signatures good. Raises `InvalidData`'s subclasses only."""
        if stratum is Stratum.FACTS:
            return decode_fact(encoded, self._mesh)
        record = decode_record(encoded, self._certificate)
        check_payload(record)
        record.verify_author(self._mesh)
        if record.certificate is not None and record.certificate.encoded not in self._certificates:
            record.certificate.verify(self._mesh)
            if len(self._certificates) >= CERTIFICATES_MAX:
                self._certificates.clear()
            self._certificates[record.certificate.encoded] = record.certificate
        if record.birth is not None:
            key = (
                record.birth.public_key + record.birth.signature,
                record.body.place.birth_statement,
            )
            if key not in self._good:
                places.verify_birth(record.birth, self._mesh, record.body.place)
                self._remember(key)
        return record

    def check_all(self, items: Iterable[tuple[Stratum, bytes]]) -> list[Item]:
        """Return what all of them are; raises as `check` for the first that is none."""
        return [self.check(stratum, encoded) for stratum, encoded in items]

    def check_bounds(self) -> None:
        """Assert that what is remembered is bounded."""
        assert len(self._good) <= CHECKED_MAX
        assert len(self._certificates) <= CERTIFICATES_MAX

    def _certificate(self, encoded: bytes) -> Certificate:
        return self._certificates.get(encoded) or decode_certificate(encoded)

    def _remember(self, key: tuple[bytes, bytes]) -> None:
        if len(self._good) >= CHECKED_MAX:
            self._good.clear()
        self._good[key] = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that is wrong for good, though its signatures are good."""

    item: Item
    sender: str
    reason: str


class Ingestion:
    """Takes in what other nodes know."""

    def __init__(
        self,
        *,
        checker: Checker,
        store: Store,
        transactions: Transactions,
        registry: Registry,
        content: Content,
        timestamps: hlc.HybridClock,
        number: int,
    ) -> None:
        """`number` is this node's."""
        self.waiting = Waiting()
        self.kept = 0
        """Facts and records from elsewhere that were kept since the start."""
        self._checker = checker
        self._store = store
        self._transactions = transactions
        self._registry = registry
        self._content = content
        self._timestamps = timestamps
        self._number = number
        self._turn = trio.Lock()
        self._arriving: dict[bytes, None] = {}
        """What is on its way to the disk."""

    async def check(self, items: Sequence[tuple[Stratum, bytes]]) -> list[Item]:
        """Return what bytes are, many of them checked in a thread; raises `InvalidData`."""
        if len(items) < OFFLOADED_MIN:
            return self._checker.check_all(items)
        return await self._content.offload(self._checker.check_all, items)

    def is_arriving(self, name: bytes) -> bool:
        """Tell, while a fact or record becomes durable, whether it is another node's."""
        return name in self._arriving

    def is_news(self, item: Item) -> bool:
        """Tell whether an item would change what this node knows, or what waits."""
        if item in self.waiting:
            return False
        if isinstance(item, Fact):
            return item.id not in self._registry.authority
        row = self._store.get(_table(item), item.store_key)
        return row is None or (row != item.encoded and merge.beats(item, decode_record(row)))

    async def take(self, items: Iterable[Item], sender: str) -> list[Refusal]:
        """Keep what is to be kept of checked items, durably; return what is wrong for good.

        Items that waited and rest on these are looked at again: a refusal names its own sender.
        Raises `StoreFull` or `StoreClosed`; what was kept by then stays.
        """
        refused: list[Refusal] = []
        async with self._turn:
            todo = deque((item, sender) for item in items)
            while todo:
                batch = [todo.popleft() for _ in range(min(len(todo), BATCH_ITEMS_MAX))]
                ready = self._sort(batch, refused)
                if ready:
                    await self._keep_all(ready)
                    learnt = [subject(item) for item in ready if isinstance(item, Fact)]
                    todo.extend(self.waiting.take(dict.fromkeys(learnt)))
        return refused

    async def retry_early(self) -> list[Refusal]:
        """Take what was ahead of our clock and is not any more."""
        refused = []
        due = self.waiting.take_early(lambda item: not self._timestamps.is_ahead(signed_at(item)))
        for sender, items in due.items():
            refused += await self.take(items, sender)
        return refused

    # --- deciding -------------------------------------------------------------------------

    def _sort(self, batch: list[tuple[Item, str]], refused: list[Refusal]) -> list[Item]:
        """Return what can be kept now; put the rest where it belongs."""
        ready: list[Item] = []
        making: dict[int, int] = {}
        for item, sender in batch:
            try:
                is_known = self._is_known(item)
            except SignatureError as error:
                refused.append(Refusal(item, sender, str(error)))
                continue
            if not is_known:
                self.waiting.add(item, sender)
            elif (home := self._overdrawn(item, making)) is not None:
                refused.append(Refusal(item, home, "its home has made more users than it may"))
            elif not self._is_due(item):
                self.waiting.add(item, sender, early=True)
            else:
                ready.append(item)
        return ready

    def _overdrawn(self, item: Item, making: dict[int, int]) -> str | None:
        """Return the peer that made a user beyond all it may, or `None`.

        `making` counts those of this batch, by home.
        """
        if not isinstance(item, Fact) or not isinstance(item.statement, UserKey):
            return None
        number, authority = ids.node_number(item.statement.user), self._registry.authority
        home = authority.node(number)
        if (
            home is None
            or home.users_max is None
            or number == self._number
            or item.statement.epoch > 0
            or item.id in authority
        ):
            return None
        made = authority.users_made_at(number) + making.get(number, 0)
        if made >= USERS_FACTOR * home.users_max:
            return signing.peer_id(home.public_key)
        making[number] = making.get(number, 0) + 1
        return None

    def _is_known(self, item: Item) -> bool:
        """Tell whether all is here that an item rests on; raises `SignatureError`."""
        authority = self._registry.authority
        if isinstance(item, Fact):
            return authority.known(item)
        try:
            authority.verify_keys(item)
        except Unverifiable:
            return False
        return True

    def _is_due(self, item: Item) -> bool:
        return self._timestamps.observe(signed_at(item)) is hlc.Observation.MERGED

    # --- keeping --------------------------------------------------------------------------

    async def _keep_all(self, items: list[Item]) -> None:
        facts = {item.id: item for item in items if isinstance(item, Fact)}
        best: dict[bytes, Record] = {}
        for item in items:
            if isinstance(item, Record) and merge.beats(item, best.get(item.store_key)):
                best[item.store_key] = item
        releases: list[Release] = []
        kept = 0

        def body(transaction: Transaction) -> None:
            nonlocal kept
            releases.clear()
            kept = 0
            for fact in facts.values():
                if fact.id not in self._registry.authority:
                    self._registry.add_fact(transaction, fact)
                    kept += 1
            for record in best.values():
                kept += self._keep(transaction, record, releases)

        self._arriving = dict.fromkeys(map(name, items))
        try:
            await self._transactions.run(body)
        finally:
            self._arriving = {}
        self.kept += kept
        for release in releases:
            await self._content.sweep(release)

    def _keep(self, transaction: Transaction, record: Record, releases: list[Release]) -> bool:
        table = _table(record)
        row = transaction.get(table, record.store_key)
        held = None if row is None else decode_record(row)
        # One that is disowned never counts again, and neither does any that it would replace.
        if not merge.beats(record, held) or self._registry.authority.is_disowned(record):
            return False
        if table is Table.ENTRIES:
            keep_entry(transaction, record)
            transaction.after.append(partial(self._registry.note, record, held))
            return True
        transaction.put(table, record.store_key, record.encoded)
        transaction.after.append(partial(self._registry.apply, record))
        if Flag.TERMINAL in record.body.flags:
            self._bury(transaction, record, releases)
        return True

    def _bury(self, transaction: Transaction, record: Record, releases: list[Release]) -> None:
        """Give back what this node holds for an object that is deleted."""
        place = record.body.place
        transaction.put(Table.DEAD, ids.key(place.id), b"")
        entry = self._registry.get(place.class_, place.id)
        if entry is None or not self._registry.authority.admissible(record):
            return
        if place.class_ is Class.FUNCTION:
            releases.extend(self._content.release_sources(transaction, place.id))
        if place.home == self._number:
            self._release_name(transaction, entry)

    def _release_name(self, transaction: Transaction, entry: Entry) -> None:
        if entry.place.class_ is Class.USER:
            transaction.delete(Table.VAULT, ids.key(entry.id))
        held = names.of_entry(self._registry.authority, entry, self._number)
        names.release(transaction, *held, entry.id)


def _table(record: Record) -> Table:
    return Table.ENTRIES if record.body.place.class_ is Class.KV_ENTRY else Table.RECORDS
