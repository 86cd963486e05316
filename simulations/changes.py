"""Changes: what `[[updates]]` changes, and the call of the API that changes it once more.

Most things are changed in the same way each time.  Two kinds go through steps, so that what is hard
to get right happens often and from several callers at once: *counters*, where no write may be lost,
and *members*, whose right to what they have written ends and begins again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from simulations.scenario import Updates
from simulations.world import PASSWORD

DISPLAY_NAME_MAX: Final = 256
"""Longest name of a project or user. Source: the API's limit."""
SPACE: Final = "updates"
FILLER: Final = "x"
COUNTER_STEPS: Final = 8
"""Changes of a counter until it is deleted and begins again. Source: guess."""
MEMBER_STEPS: Final = ("put", "put", "remove", "add", "put", "rotate")


@dataclass(slots=True)
class Thing:
    """What changes: an object of the API, a key, or a member."""

    place: int
    """Among the things."""
    id: str
    """Of the object, or the member; of a key, its namespace."""
    token: Sequence[str]
    """Its owner's, one a node."""
    home: int | None = None
    """The one node where it may change; `None`: any."""
    size_bytes: int = 0
    content: str = ""
    """CID of a blob."""
    version: int = 0
    """Of a key: the greatest that was acknowledged; of a counter, the last that was heard of."""
    changes: int = 0
    space: str = ""
    """The namespace that a member writes to."""


@dataclass(frozen=True, slots=True)
class Change:
    """A call that changes a thing."""

    node: int
    token: str
    path: str
    body: Any
    refusals: tuple[int, ...] = (409,)
    """Statuses that are no surprise: two changed it at once, or it may not change now."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose project all is in."""

    project: str
    tokens: Sequence[str]
    """One a node."""


def next_change(
    described: Updates, number: int, owner: Owner, thing: Thing, node: int, size_bytes: int
) -> Change:
    """Return the next change of a thing, at a node where that can be chosen.

    `number` tells updates apart; `thing.changes` counts this one already.
    """
    filler, count = FILLER * size_bytes, thing.changes
    path: str
    body: Any
    match described.what:
        case "kv":
            path = f"/kv/{thing.id}/put"
            body = {"key": f"key-{thing.place}", "value": filler}
        case "counter":
            path, body = _count(thing)
        case "member":
            return _move(owner, thing, node, filler)
        case "function":
            path, body = f"/function/{thing.id}", {"source": source(count, size_bytes)}
        case "project" | "user" as what:
            name = f"{count} {filler}"[:DISPLAY_NAME_MAX]
            path, body = f"/{what}/{thing.id}", {"display_name": name}
        case "blob":
            # Each content is another: two blobs of one are one content to whoever fetches.
            made = f"{number}/{thing.place}/{count}/".encode()
            path = f"/blob?project={owner.project}"
            body = (made + filler.encode())[: max(size_bytes, len(made))]
    return Change(node, thing.token[node], path, body)


def _count(thing: Thing) -> tuple[str, Any]:
    """Return the next step of a counter."""
    key = f"counter-{thing.place}"
    step = thing.changes % COUNTER_STEPS
    if step == 0:
        return f"/kv/{thing.id}/delete", {"key": key}
    if step % 2:
        return f"/kv/{thing.id}/increment", {"key": key, "by": step}
    body = {"key": key, "value": 100 * step, "if_version": str(thing.version)}
    return f"/kv/{thing.id}/put", body


def _move(owner: Owner, thing: Thing, node: int, filler: str) -> Change:
    """Return the next step of a member."""
    match MEMBER_STEPS[(thing.changes - 1) % len(MEMBER_STEPS)]:
        case "remove":
            # Every other time what the member has made goes with it.
            adopt = thing.changes // len(MEMBER_STEPS) % 2 == 0
            body: dict[str, Any] = {"user": thing.id, "adopt": adopt}
            path = f"/project/{owner.project}/remove_member"
            return Change(node, owner.tokens[node], path, body)
        case "add":
            body = {"user": thing.id, "role": "developer"}
            return Change(node, owner.tokens[node], f"/project/{owner.project}/add_member", body)
        case "rotate":
            assert thing.home is not None
            body = {"password": PASSWORD, "strict": True}
            path = f"/user/{thing.id}/rotate"
            return Change(thing.home, thing.token[thing.home], path, body)
        case _:
            body = {"key": f"of-{thing.place}", "value": filler}
            path = f"/kv/{thing.space}/put"
            return Change(node, thing.token[node], path, body, refusals=(403, 409))


def source(count: int, size_bytes: int = 0) -> str:
    """Return a function's source, of about a size."""
    text = f"def handler(input):\n    return {count}\n"
    return text + "#" + FILLER * max(0, size_bytes - len(text) - 1)
