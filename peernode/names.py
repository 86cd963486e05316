"""Names: unique at an object's home node, within its owner."""

import re
from typing import Final

from peernode.problems import Problem
from peernode.registry import Entry
from peernode.transactions import Transaction
from storage import ids
from storage.authority import Authority
from storage.places import Class
from storage.store import Put, Store, Table

NAME_LENGTH_MAX: Final = 64
"""Source: API contract."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


def check(name: str) -> str:
    """Return `name`; raises a `Problem` unless it is a good one."""
    if _NAME.fullmatch(name) is None or name.isdigit():
        raise Problem(
            "invalid_field",
            f"name: {name[:80]!r} is not 1 to {NAME_LENGTH_MAX} of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit and not all digits",
            field="name",
            limit=NAME_LENGTH_MAX,
        )
    return name


def of_entry(authority: Authority, entry: Entry, number: int) -> tuple[Class, int, str]:
    """Return under which class and owner an object of node `number` has which name there."""
    place = entry.place
    match place.class_:
        case Class.USER:
            chain = authority.user(place.id)
            return place.class_, number, chain.current.name if chain else ""
        case Class.PROJECT:
            return place.class_, authority.owner(place.id) or 0, entry.attributes.name
        case Class.KV_SPACE:
            owner = entry.attributes.function or place.owner
            return place.class_, owner, entry.attributes.name
        case _:
            return place.class_, place.owner, entry.attributes.name


def row(class_: Class, owner: int, name: str, id: int) -> Put:
    """Return the row by which an object has its name."""
    return Table.NAMES, _key(class_, owner, name), ids.key(id)


def _key(class_: Class, owner: int, name: str) -> bytes:
    return bytes([class_]) + ids.key(owner) + name.encode()


def claim(transaction: Transaction, class_: Class, owner: int, name: str, id: int) -> None:
    """Take `name` for an object; raises a `Problem` if it is taken."""
    key = _key(class_, owner, name)
    if transaction.get(Table.NAMES, key) is not None:
        raise Problem("name_taken", f"name: {name!r} is taken", field="name")
    transaction.put(Table.NAMES, key, ids.key(id))


def release(transaction: Transaction, class_: Class, owner: int, name: str, id: int) -> None:
    """Give the name of an object back, if this node is its home: elsewhere it may be another's."""
    key = _key(class_, owner, name)
    if transaction.get(Table.NAMES, key) == ids.key(id):
        transaction.delete(Table.NAMES, key)


def find(store: Store, class_: Class, owner: int, name: str) -> int | None:
    """Return the id of the object called `name`, or `None`."""
    if _NAME.fullmatch(name) is None:
        return None
    row = store.get(Table.NAMES, _key(class_, owner, name))
    return None if row is None else int.from_bytes(row, "big")
