"""What happened in a run, in order: a hash of all of it, and on request each event.

Two runs are the same if and only if their hashes are: every event goes into the hash whether or not
somebody keeps events.  A kept event is one JSON line, `{"at_s": 1.25, "kind": "message", ...}`;
docs/simulation.md lists the kinds, and the replayer draws them.

Times are rounded to a nanosecond in the hash: floating point is the same on all machines that we
know of, and printing of it is.
"""

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec

Field = str | int | float | bool | None
"""What an event may say."""

KINDS: Final = {
    "node": "node, state: up | down | isolated | syncing, x, y (once)",
    "link": "one, other, state: up | down",
    "message": "source, target, what, size_bytes, arrives_at_s, lost",
    "record": "node, slot, what: made | seen",
    "job": "node, job, state, worker, attempt",
    "request": "client, node, call, status",
    "client": "client, state: up | down",
    "fault": "what, nodes, state: begins | ends",
    "check": "what, node: an invariant that did not hold",
}
"""Every kind of event, with its fields."""

_encode: Final = msgspec.json.Encoder().encode


class Trace:
    """See the module. `keep` is given each event as one line of JSON, without its newline."""

    def __init__(self, keep: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.sha256()
        self._keep = keep
        self.length = 0

    def record(self, at_s: float, kind: str, **fields: Field) -> None:
        """Add an event. Raises `ValueError` for a kind that is none."""
        line = _line(at_s, kind, fields)
        self.length += 1
        self._hash.update(line.encode() + b"\n")
        if self._keep is not None:
            self._keep(line)

    @property
    def is_kept(self) -> bool:
        """Whether somebody keeps events."""
        return self._keep is not None

    def show(self, at_s: float, kind: str, **fields: Field) -> None:
        """Let an event be kept, if somebody does, whose essence goes into the hash by `add`."""
        if self._keep is not None:
            self._keep(_line(at_s, kind, fields))

    def add(self, data: bytes) -> None:
        """Have bytes make a difference to the hash, and to nothing else."""
        self._hash.update(data)

    def digest(self) -> str:
        """Return the hash of all so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()


def _line(at_s: float, kind: str, fields: dict[str, Field]) -> str:
    if kind not in KINDS:
        raise ValueError(f"no kind of event: {kind}")
    return _encode({"at_s": round(at_s, 9), "kind": kind, **fields}).decode()
