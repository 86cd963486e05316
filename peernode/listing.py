"""Lists: newest first, filtered by attributes, in pages that stay stable under inserts.

A cursor is the id of the last object looked at, so what is made while someone pages appears before
the first page and moves nothing.  A page looks at a bounded number of objects: one that filters
almost everything may be short, or empty, and still name a `next`.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from peernode.calls import (
    PAGE_LENGTH_DEFAULT,
    PAGE_LENGTH_MAX,
    Answer,
    Call,
    ObjectView,
    Page,
    number,
)
from peernode.problems import Problem
from storage import ids
from storage.errors import InvalidData

SCAN_LENGTH: Final = 256
"""Rows read at a time. Source: guess."""
LOOKED_AT_MAX: Final = 5_000
"""Objects one page looks at. Source: about 50 ms of this process' time."""
PAGE_CONTENT_AIM_BYTES: Final = 4 << 20
"""Inputs, results and schemas after which a page ends. Source: guess; a page of large jobs would
otherwise take gigabytes."""
_RESERVED: Final = frozenset({"limit", "cursor", "wait"})


async def page(
    call: Call,
    view: type[ObjectView],
    candidates: Callable[[int], Iterable[ObjectView]],
    *,
    applied: frozenset[str] = frozenset(),
) -> Answer:
    """Answer with one page of `candidates(before)`: views of ids below `before`, newest first.

    `applied` are the parameters that `candidates` has seen to.
    """
    query = call.query
    limit = int(number(query, "limit", PAGE_LENGTH_DEFAULT, 1, PAGE_LENGTH_MAX))
    before = _before(query.get("cursor"))
    filters = _filters(call, view, applied)
    items: list[Any] = []
    last = size = 0
    for looked_at, candidate in enumerate(candidates(before)):
        full = len(items) == limit or size >= PAGE_CONTENT_AIM_BYTES
        if full or looked_at == LOOKED_AT_MAX:
            return Answer(value=Page(items=items, next=str(last)))
        last = int(candidate.id)
        if all(_text(getattr(candidate, name)) == wanted for name, wanted in filters):
            items.append(candidate)
            size += _content_bytes(candidate)
    return Answer(value=Page(items=items, next=None))


def _content_bytes(shown: ObjectView) -> int:
    """Return the bytes of what an object shows as it was handed in."""
    fields = (getattr(shown, name) for name in shown.__struct_fields__)
    return sum(len(bytes(value)) for value in fields if isinstance(value, msgspec.Raw))


def _before(cursor: str | None) -> int:
    if cursor is None or cursor == "":
        return ids.ID_END
    try:
        return ids.parse_id(cursor)
    except InvalidData:
        raise Problem(
            "invalid_field", "cursor: not a `next` of a page before", field="cursor"
        ) from None


def _filters(call: Call, view: type[ObjectView], applied: frozenset[str]) -> list[tuple[str, str]]:
    renamed = dict(zip(view.__struct_encode_fields__, view.__struct_fields__, strict=True))
    filters = []
    for name, wanted in call.query.items():
        if name in _RESERVED or name in applied:
            continue
        if name not in renamed:
            raise Problem("unknown_field", f"{name}: no such attribute to filter by", field=name)
        filters.append((renamed[name], wanted))
    return filters


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
