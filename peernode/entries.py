"""Entries of global namespaces as they lie on the disk, written here or elsewhere."""

from peernode.transactions import Transaction
from storage import ids
from storage.places import Class, Place, Scope
from storage.records import Record
from storage.store import Table


def keep_entry(transaction: Transaction, record: Record) -> None:
    """Write the record of an entry of a global namespace, and that its key is there."""
    place = record.body.place
    transaction.put(Table.ENTRIES, record.store_key, record.encoded)
    transaction.put(Table.KV_KEYS, ids.key(place.id) + place.key, b"")


def entry_place(space: Place, key: bytes) -> Place:
    """Return the place of an entry of the global namespace at `space`."""
    return Place(
        Class.KV_ENTRY, space.id, space.owner_class, space.owner, key, space.mode, Scope.GLOBAL
    )
