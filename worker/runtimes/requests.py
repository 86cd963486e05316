"""What a function's process may ask of its agent, and in which form.

The agent checks it of every process (`worker.frames`); a process that holds a stranger's code
inside WebAssembly checks it too, so that a wrong request is refused and the process lives on.
Stands alone, as everything here that is loaded by its path.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

INTEGER_MAX = 2**63
OMITTED = frozenset({"if_version"})
"""Arguments that need not be there, so that nodes which do not know them are not sent them."""

_OPTIONAL_TEXT = (str, type(None))
_OPTIONAL_NUMBER = (int, float, type(None))
ARGUMENTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "kv.open": {"name": str},
    "kv.get": {"space": int, "key": str},
    "kv.list": {"space": int, "prefix": str, "cursor": _OPTIONAL_TEXT},
    "kv.put": {
        "space": int,
        "key": str,
        "value": bytes,
        "ttl_s": _OPTIONAL_NUMBER,
        "if_version": str,
    },
    "kv.delete": {"space": int, "key": str},
    "kv.increment": {"space": int, "key": str, "by": int},
    "blob.stat": {"blob": int},
    "blob.path": {"blob": int},
    "blob.begin": {"media_type": str, "name": str},
    "blob.append": {"upload": int, "data": bytes},
    "blob.finish": {"upload": int},
    "secret.get": {"name": str},
    "job.call": {"function": str, "input": bytes},
    "http": {
        "method": str,
        "url": str,
        "headers": str,
        "body": bytes,
        "timeout_s": float,
    },
}
"""Operations that a process may ask for, with the types of their arguments."""


def mistake(operation: str, arguments: Mapping[str, Any]) -> str:
    """Return what is wrong with a request, or nothing."""
    types = ARGUMENTS.get(operation)
    if types is None or not types.keys() - OMITTED <= arguments.keys() <= types.keys():
        return "an unknown request"
    for name, value in arguments.items():
        if not isinstance(value, types[name]):
            return f"{operation}: {name} is of another type"
        if not within(value):
            return f"{operation}: {name} is out of bounds"
    return ""


def within(value: object) -> bool:
    """Return whether a value, if it is a number, is one of 64 bits; NaN is none."""
    return not isinstance(value, int | float) or -INTEGER_MAX <= value < INTEGER_MAX
