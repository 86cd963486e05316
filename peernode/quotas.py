"""Quotas: what an operator lets a project use of this node. Local to the node, like its disk."""

from typing import Annotated, Final

import msgspec

from peernode.problems import Problem
from peernode.transactions import Transaction
from storage import ids
from storage.store import Store, Table

_PREFIX: Final = b"quota:"
Amount = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Most that a project may use; `null` is no limit."""

    blob_bytes: Amount | None = None
    jobs_unfinished: Amount | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Quota).decode
UNLIMITED: Final = Quota()


def get(store: Store, project: int) -> Quota:
    """Return the project's quota."""
    row = store.get(Table.META, _PREFIX + ids.key(project))
    return UNLIMITED if row is None else _decode(row)


def put(transaction: Transaction, project: int, quota: Quota) -> None:
    """Set the project's quota."""
    transaction.put(Table.META, _PREFIX + ids.key(project), _encode(quota))


def check(used: int, more: int, limit: int | None, what: str) -> None:
    """Raise a `Problem` if `more` does not fit under `limit`."""
    if limit is not None and used + more > limit:
        raise Problem(
            "quota_exceeded",
            f"the project's quota of {what} is {limit}; {used} are used",
            hint="delete what is no longer needed, or ask the operator",
            field=what,
            limit=limit,
        )
