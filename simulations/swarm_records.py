"""What the nodes of a swarm know: signed records, by time and hash, and a digest of all.

A record is bytes:

    public key (32)   signature (64)   made at, ms (8)   content

signed by the node that made it, as the daemon's are; its item (what `gossip.sync` compares) is the
time and the hash of all of it.  Whoever is brought one checks the signature, and one that is not
right is no record.  Records are a set: nothing replaces anything, so two nodes know the same when
their sets are equal, and then their digests are.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from gossip.sync_index import Item, item, short_id
from simulations.verification import Memory, Verification
from storage.signing import Keypair

SIGNED_AS: Final = b"peernode-swarm-record:"
"""Before what is signed, so that it is nothing else."""
HEAD_SIZE_BYTES: Final = 32 + 64 + 8


def make(keypair: Keypair, made_ms: int, content: bytes) -> bytes:
    """Return a record."""
    body = made_ms.to_bytes(8, "big") + content
    return keypair.public_key + keypair.sign_bytes(SIGNED_AS + body) + body


class Reader:
    """Tells records from other bytes, and what their items are; each is looked at once."""

    def __init__(self, verification: Verification) -> None:
        self._verification = verification
        self._items: Memory[bytes, Item | None] = Memory(self._look)
        self.read = self._items.recall
        """Returns the item of a record; `None` for what is none. Raises `AuditError`."""

    def _look(self, record: bytes) -> Item | None:
        if len(record) < HEAD_SIZE_BYTES:
            return None
        public_key, signature, body = record[:32], record[32:96], record[96:]
        if not self._verification.verify(public_key, signature, SIGNED_AS + body):
            return None
        return _item(record)


def _item(record: bytes) -> Item:
    return item(int.from_bytes(record[96:104], "big"), hashlib.sha256(record).digest())


class Archive:
    """The records that one node keeps."""

    __slots__ = ("_held", "digest")

    def __init__(self) -> None:
        self._held: dict[Item, bytes] = {}
        self.digest = 0
        """Equal for equal sets, and for others by an accident of one in 2^128 only."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, one: Item) -> bool:
        return one in self._held

    def __iter__(self) -> Iterator[Item]:
        return iter(self._held)

    def get(self, one: Item) -> bytes | None:
        """Return a record that is kept."""
        return self._held.get(one)

    def keep(self, one: Item, record: bytes) -> None:
        """Keep a record that is not kept yet."""
        self._held[one] = record
        self.digest ^= int.from_bytes(short_id(one), "big")

    def forget(self, items: Iterable[Item]) -> None:
        """Have records no longer."""
        for one in items:
            if self._held.pop(one, None) is not None:
                self.digest ^= int.from_bytes(short_id(one), "big")


class Views:
    """How many different sets of records there are among some nodes."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    @property
    def distinct(self) -> int:
        """How many."""
        return len(self._counts)

    def add(self, digest: int) -> None:
        """A node counts from now on."""
        self._counts[digest] += 1

    def drop(self, digest: int) -> None:
        """A node counts no longer."""
        if self._counts[digest] == 1:
            del self._counts[digest]
        else:
            self._counts[digest] -= 1
