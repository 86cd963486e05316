"""Server-sent events (WHATWG HTML, section 9.2), parsed without I/O.

Bytes go in, in pieces of any size; events come out.  Kept: `id`, `event`, `data`.  Left out:
`retry` and a byte order mark, which a node does not send.  An event longer than
`EVENT_SIZE_MAX_BYTES` is refused.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from peernode.client.errors import ProblemError

EVENT_SIZE_MAX_BYTES = 4 * 1024 * 1024
"""Largest event. Source: an inline result of 1 MiB, escaped, with room to spare."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job: `id` to resume after, `name`, and its data (JSON, already decoded)."""

    id: str
    name: str
    data: Any


class Parser:
    """Bytes to events."""

    def __init__(self, last_id: str = "") -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size_bytes = 0
        self._name = ""
        self._id = last_id
        self.last_id = last_id
        """The id to send as `Last-Event-ID` when the connection is cut."""

    def feed(self, piece: bytes) -> list[Event]:
        """Take the next bytes, return the events they complete."""
        buffer = self._buffer + piece
        # A CR at the very end may be half of a CRLF: it waits for the next piece.
        held = b"\r" if buffer.endswith(b"\r") else b""
        lines = buffer.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._buffer = lines.pop() + held
        events = [event for line in lines if (event := self._line(line)) is not None]
        if len(self._buffer) + self._size_bytes > EVENT_SIZE_MAX_BYTES:
            raise ProblemError(200, "event_too_large", "an event is larger than this client takes")
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"data":
                self._data.append(value)
                self._size_bytes += len(value)
            case b"event":
                self._name = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
            case _:  # comments (keep-alive) and fields that are not known
                pass
        return None

    def _dispatch(self) -> Event | None:
        data, name = b"\n".join(self._data), self._name
        empty = not self._data
        self._data, self._name, self._size_bytes = [], "", 0
        self.last_id = self._id  # only now: an event that was cut must come again
        if empty:
            return None
        try:
            value = msgspec.json.decode(data)
        except msgspec.DecodeError:
            value = data.decode("utf-8", "replace")
        return Event(self.last_id, name or "message", value)
