"""`Idempotency-Key`: the same request handed in twice makes one object.

A claim is a row written in the same batch as the object it is for, under a key that hashes the
scope (a project, or else a user) and the caller's text.  Finding the row there is how the second
request learns of the first: same body, same object; other body, a refusal.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from peernode.problems import Problem
from peernode.transactions import Transaction
from storage.store import Expect, Put, Store, Table

KEPT_MS: Final = 24 * 3600 * 1000
"""How long a claim is kept. Source: API contract, 24 h."""
KEY_LENGTH_MAX: Final = 255
"""Longest key, in bytes. Source: what other APIs take."""
EXPIRY_KIND: Final = b"i"
"""Kind of a claim's row in `Table.EXPIRIES`."""
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Claim:
    """One idempotency key, and the body it came with."""

    key: bytes
    digest: bytes

    @property
    def expect(self) -> Expect:
        """What has to hold for the claim to be new."""
        return Table.IDEMPOTENCY, self.key, None

    def puts(self, object_id: int, now_ms: int) -> list[Put]:
        """Return the rows that make the claim stand for `object_id`."""
        due = (now_ms + KEPT_MS).to_bytes(8, "big")
        return [
            (Table.IDEMPOTENCY, self.key, object_id.to_bytes(8, "big") + self.digest + due),
            (Table.EXPIRIES, due + EXPIRY_KIND + self.key, b""),
        ]

    def find(self, store: Store) -> bytes | None:
        """Return the row of an earlier claim of this key, if there is one."""
        return store.get(Table.IDEMPOTENCY, self.key)

    def match(self, row: bytes | None) -> int:
        """Return the object of an earlier claim; raises `Problem` if its body was another."""
        if row is None:
            raise Problem("overloaded", "the request with this Idempotency-Key is being undone")
        if row[8 : 8 + _DIGEST_BYTES] != self.digest:
            raise Problem(
                "idempotency_mismatch",
                "this Idempotency-Key came with another body before",
                hint="use a new key for a new request",
            )
        return int.from_bytes(row[:8], "big")


def claim(header: bytes | None, scope: int, path: str, body: bytes) -> Claim | None:
    """Return the claim that `header` makes in `scope`, or `None` without one."""
    if header is None:
        return None
    if not 1 <= len(header) <= KEY_LENGTH_MAX:
        raise Problem(
            "invalid_field",
            f"Idempotency-Key: 1 to {KEY_LENGTH_MAX} bytes, not {len(header)}",
            field="Idempotency-Key",
            limit=KEY_LENGTH_MAX,
        )
    place = scope.to_bytes(8, "big") + path.encode() + b"\0" + header
    return Claim(
        blake2b(place, digest_size=_DIGEST_BYTES).digest(),
        blake2b(body, digest_size=_DIGEST_BYTES).digest(),
    )


def take(transaction: Transaction, claim: Claim | None, object_id: int, now_ms: int) -> int:
    """Return `object_id`, or the object that an earlier claim of the same key made."""
    if claim is None:
        return object_id
    row = transaction.get(Table.IDEMPOTENCY, claim.key)
    if row is not None:
        return claim.match(row)
    for table, key, value in claim.puts(object_id, now_ms):
        transaction.put(table, key, value)
    return object_id
