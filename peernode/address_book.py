"""Where other nodes can be reached: what each says of itself, and what others say of it.

A row of `Table.META`, `b"peer:"` + public key -> strict CBOR of `_Entry`.  A node's own word comes
first and displaces the one before; hearsay is kept beside it, since who has moved cannot say so.
Neither is believed further than that it may be tried: a connection proves its key.

What it leaves out: who is worth an entry.  Callers name members only, so the book is no longer than
the mesh has node numbers.
"""

from contextlib import suppress
from functools import lru_cache
from typing import Final

import msgspec

from peernode.join_messages import Whereabouts
from peernode.libp2p_address import parse_address
from peernode.mesh_invites import ADDRESSES_MAX, Addresses
from storage import codec
from storage.errors import InvalidData
from storage.store import Batch, Put, Store, Table

USABLE_KEPT_MAX: Final = 4096
"""Lists of addresses that need not be looked at again. Source: guess; each peer tells of all it
knows at every greeting, mostly the same; about 2 MB."""
PREFIX: Final = b"peer:"
_STOP: Final = b"peer;"
_ROW_SIZE_MAX_BYTES: Final = 4096
_LOADED_AT_ONCE: Final = 1000


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    own: Addresses = ()
    heard: Addresses = ()


class AddressBook:
    """Addresses by public key; in memory, and on the disk a little later."""

    def __init__(self, store: Store) -> None:
        self.revision = 0
        """Changes with every entry."""
        self._store = store
        self._entries: dict[bytes, _Entry] = {}
        start = PREFIX
        while rows := store.scan(Table.META, start, _STOP, limit=_LOADED_AT_ONCE):
            for key, row in rows:
                entry = codec.decode_struct(row, _ROW_SIZE_MAX_BYTES, _Entry)
                self._entries[key.removeprefix(PREFIX)] = entry
            start = rows[-1][0] + b"\0"

    def find(self, public_key: bytes) -> tuple[str, ...]:
        """Return where the node of this key may be reached, likeliest first."""
        entry = self._entries.get(public_key, _Entry())
        return tuple(dict.fromkeys((*entry.own, *entry.heard)))[:ADDRESSES_MAX]

    def say(self, public_key: bytes, addresses: tuple[str, ...]) -> bool:
        """Take a node's own word for where it is; tell whether that is new. None is no word."""
        addresses = _usable(addresses)
        entry = self._entries.get(public_key, _Entry())
        if not addresses or entry.own == addresses:
            return False
        self._keep(public_key, _Entry(addresses, entry.heard))
        return True

    def hear(self, public_key: bytes, addresses: tuple[str, ...]) -> bool:
        """Take another's word for where a node is; tell whether that is new."""
        addresses = _usable(addresses)
        entry = self._entries.get(public_key, _Entry())
        if not addresses or not set(addresses) - {*entry.own, *entry.heard}:
            return False
        self._keep(public_key, _Entry(entry.own, addresses))
        return True

    def forget(self, public_key: bytes) -> None:
        """Drop a node."""
        if self._entries.pop(public_key, None) is not None:
            self.revision += 1
            self._store.submit(Batch(deletes=[(Table.META, PREFIX + public_key)]), lazy=True)

    def _keep(self, public_key: bytes, entry: _Entry) -> None:
        self._entries[public_key] = entry
        self.revision += 1
        self._store.submit(Batch(puts=[_row(public_key, entry)]), lazy=True)


def rows(known: tuple[Whereabouts, ...]) -> list[Put]:
    """Return the rows of a book that begins with what others say."""
    found = ((node.public_key, _usable(node.addresses)) for node in known)
    return [_row(key, _Entry((), addresses)) for key, addresses in found if addresses]


@lru_cache(maxsize=USABLE_KEPT_MAX)
def _usable(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses that can be dialled, without anybody's peer id."""
    kept = []
    for address in addresses:
        with suppress(InvalidData):
            kept.append(str(parse_address(address)._replace(peer=None)))
    return tuple(kept)


def _row(public_key: bytes, entry: _Entry) -> Put:
    return Table.META, PREFIX + public_key, codec.encode_struct(entry)
