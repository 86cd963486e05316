"""The lives of other nodes, as they showed them here: what a member is reminded of.

A row of `Table.META`, `b"lives:"` + public key -> strict CBOR of the heads, each as it was signed
(`life_statements`).  A few hundred bytes for each member.
A new life is written at once, a later word of one with the next commit.
"""

from typing import Annotated, Final

import msgspec

from peernode import life_statements
from peernode.life_statements import HEADS_MAX, LIFE_SIZE_MAX_BYTES, Encoded, Life
from storage import codec
from storage.errors import InvalidData
from storage.store import Batch, Store, Table

PREFIX: Final = b"lives:"
_STOP: Final = b"lives;"
_ROW_SIZE_MAX_BYTES: Final = HEADS_MAX * (LIFE_SIZE_MAX_BYTES + 8)
_LOADED_AT_ONCE: Final = 1000


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    heads: Annotated[tuple[Encoded, ...], msgspec.Meta(max_length=HEADS_MAX)]


class HeardLives:
    """Heads by public key; in memory, and on the disk a little later.

    Callers name members only, so there are no more rows than the mesh has nodes.
    """

    def __init__(self, store: Store, mesh: bytes) -> None:
        self._store = store
        self._mesh = mesh
        self._heads: dict[bytes, list[tuple[Life, bytes]]] = {}
        start = PREFIX
        while rows := store.scan(Table.META, start, _STOP, limit=_LOADED_AT_ONCE):
            for key, row in rows:
                self._load(key.removeprefix(PREFIX), row)
            start = rows[-1][0] + b"\0"

    def find(self, public_key: bytes) -> tuple[bytes, ...]:
        """Return the heads of the node of this key, as it signed them."""
        return tuple(encoded for _, encoded in self._heads.get(public_key, ()))

    def hear(self, public_key: bytes, encoded: bytes) -> None:
        """Take a node's word for the life it is in. Raises `InvalidData`."""
        life = life_statements.verify(encoded, self._mesh, public_key)
        held = self._heads.get(public_key, [])
        heads = life_statements.merge([head for head, _ in held], life)
        if life not in heads:
            return
        by_nonce = {head.nonce: words for head, words in held} | {life.nonce: encoded}
        self._heads[public_key] = [(head, by_nonce[head.nonce]) for head in heads]
        row = codec.encode_struct(_Row(self.find(public_key)))
        is_new = all(head.nonce != life.nonce for head, _ in held)
        # A later word of a life that is kept can wait for somebody else's commit.
        self._store.submit(Batch(puts=[(Table.META, PREFIX + public_key, row)]), lazy=not is_new)

    def _load(self, public_key: bytes, row: bytes) -> None:
        try:
            found = codec.decode_struct(row, _ROW_SIZE_MAX_BYTES, _Row).heads
            self._heads[public_key] = [
                (life_statements.verify(encoded, self._mesh, public_key), encoded)
                for encoded in found
            ]
        except InvalidData:
            pass  # Of the mesh of one that this directory was before it joined.
