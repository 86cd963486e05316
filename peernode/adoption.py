"""What a member has said in a project, said again by whoever changes or ends the membership.

A record counts under the number of its author's last grant only, so a new role, or none, would take
everything away that the member has made: functions, namespaces, entries.  Whoever gives the new
role, or removes the member, therefore says the same as an own word first, each record with its time
(`Flag.CARRY`), so that it stands where it stood and hides nothing written since.  The grants of an
admin who is removed are given again, with the numbers they had.

All of that happens before the membership changes, while what is said twice shows what it showed; so
an interruption leaves nothing half done, and the call can be made again.

What it leaves out: what the member wrote at other nodes and this one has not seen yet, and what is
written in the moment of the change itself, goes with the membership.  Who leaves by himself cannot
speak for others: what he made goes with him.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from peernode.entries import entry_place, keep_entry
from peernode.permissions import Actor
from peernode.spaces import AUTHORS_MAX
from peernode.transactions import Transaction
from storage import ids, merge
from storage.certificates import Certificate, decode_certificate
from storage.places import Class, Mode
from storage.records import Record, carried, decode_record, sign_record
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

BATCH_ITEMS_MAX: Final = 128
"""Most records signed and written at a time. Source: as `peernode.carrying`."""
PAGE_LENGTH: Final = 512
"""Keys looked at before others have their turn. Source: as `peernode.offering`."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """Who takes over from whom, in which project."""

    node: "Node"
    actor: Actor
    project: int
    member: int

    async def run(self) -> None:
        """Take over all that counts of the member's. Raises what a transaction may raise."""
        await self._adopt(Table.RECORDS, list(self._objects()))
        for space in self.node.registry.owned(Class.KV_SPACE, self.project):
            await self._adopt_entries(space)

    def grant_again(self, transaction: Transaction) -> None:
        """Give again, with the numbers they had, the roles that the member has given."""
        node, authority = self.node, self.node.registry.authority
        for grant, _ in authority.last_grants_by(self.member):
            standing = authority.role(grant.project, grant.user)
            if grant.project != self.project or standing != (grant.role, grant.grant_n):
                continue
            own = authority.role(self.project, self.actor.user)
            again = msgspec.structs.replace(
                grant,
                by=self.actor.user,
                by_epoch=self._certificate.terms.epoch,
                by_grant_n=own[1] if own else 0,
                signed_at=node.timestamps.tick(),
            )
            node.registry.add_fact(transaction, node.seal(again, self._certificate))

    @property
    def _certificate(self) -> Certificate:
        return decode_certificate(self.actor.certificate)

    def _objects(self) -> Iterator[Record]:
        """Yield the member's records of objects that say how things stand, deletions too."""
        registry = self.node.registry
        for record in registry.records(self.project):
            if self._speaks(record, registry.of_slot(record.slot)):
                yield record

    async def _adopt_entries(self, id: int) -> None:
        entry = self.node.registry.get(Class.KV_SPACE, id)
        if entry is None or entry.place.mode is not Mode.LWW:
            return  # Entries of other namespaces are written by nodes.
        store, prefix = self.node.store, ids.key(id)
        start, stop = prefix, ids.key(id + 1)
        while rows := store.scan(Table.KV_KEYS, start, stop, limit=PAGE_LENGTH):
            found: list[Record] = []
            for key, _ in rows:
                slot = entry_place(entry.place, key[len(prefix) :]).slot
                held = store.scan(Table.ENTRIES, slot, slot + b"\xff" * 9, limit=AUTHORS_MAX)
                records = [decode_record(row) for _, row in held]
                found += [record for record in records if self._speaks(record, records)]
            await self._adopt(Table.ENTRIES, found)
            start = rows[-1][0] + b"\0"
            await trio.lowlevel.checkpoint()

    def _speaks(self, record: Record, held: Sequence[Record]) -> bool:
        """Tell whether a record is the member's, and the last word of its slot."""
        if record.body.author != self.member:
            return False
        return record is merge.last_word(held, self.node.registry.authority)

    async def _adopt(self, table: Table, found: Sequence[Record]) -> None:
        for at in range(0, len(found), BATCH_ITEMS_MAX):
            part = found[at : at + BATCH_ITEMS_MAX]
            await self.node.transactions.run(partial(self._write, table, part))

    def _write(self, table: Table, found: Sequence[Record], transaction: Transaction) -> None:
        for record in found:
            if transaction.get(table, record.store_key) != record.encoded:
                continue  # Written again meanwhile, and so by somebody who is still a member.
            after = self._sign(record)
            row = transaction.get(table, after.store_key)
            replaced = None if row is None else decode_record(row)
            if not merge.beats(after, replaced):
                continue
            registry = self.node.registry
            if table is Table.ENTRIES:
                keep_entry(transaction, after)
                transaction.after.append(partial(registry.note, after, replaced))
            else:
                transaction.put(table, after.store_key, after.encoded)
                transaction.after.append(partial(registry.apply, after))

    def _sign(self, record: Record) -> Record:
        node, own = self.node, self.node.registry.authority.role(self.project, self.actor.user)
        body = carried(
            record,
            self._certificate.terms.epoch,
            node.timestamps.tick(),
            author=self.actor.user,
            grant_n=own[1] if own else 0,
        )
        identity = node.identity
        return sign_record(
            identity.keypair,
            identity.mesh,
            body,
            certificate=self._certificate,
            birth=record.birth,
        )
