"""Calls of a node's HTTP API without a socket: the ASGI app is called as the server calls it.

A call takes no virtual time of its own.  A client that goes away while it waits is seen by the app
as the server would have it seen: there is nothing more to receive, and nobody to send to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import trio

from peernode.http_stream import Disconnected

CLIENT: Final = "127.0.0.1"
"""Where calls come from: this machine, whose anonymous calls are not counted."""
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Answer:
    """What a node answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """By name, in small letters."""
    body: bytes = b""

    def json(self) -> Any:
        """Return the value in the body; `None` for an empty one."""
        return msgspec.json.decode(self.body) if self.body else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call that a client made."""

    node: int
    method: str
    path: str
    """With its query."""
    body: bytes
    token: str | None
    headers: Mapping[str, str] | None
    begun_s: float
    """When, in the clock's time."""


class Exchange:
    """One call: what the app is given, and what it sends."""

    __slots__ = ("_body", "_gone", "answer", "done", "is_gone", "parts")

    def __init__(self, body: bytes) -> None:
        self.answer = Answer()
        self.parts: list[bytes] = []
        self.done = trio.Event()
        self.is_gone = False
        self._body: bytes | None = body
        self._gone: trio.Event | None = None

    def leave(self) -> None:
        """Be a client that has gone away."""
        self.is_gone = True
        if self._gone is not None:
            self._gone.set()

    async def receive(self) -> dict[str, Any]:
        """Return the body, and then wait for a client that stays."""
        if self._body is None:
            if not self.is_gone:
                self._gone = trio.Event()
                await self._gone.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take a part of the answer. Raises `Disconnected` when nobody is there to take it."""
        if self.is_gone:
            raise Disconnected
        if message["type"] == "http.response.start":
            self.answer.status = message["status"]
            self.answer.headers = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in message["headers"]
            }
            return
        self.parts.append(message.get("body", b""))
        if not message.get("more_body"):
            self.answer.body = b"".join(self.parts)
            self.done.set()


def scope_of(
    method: str,
    path: str,
    size_bytes: int,
    *,
    token: str | None,
    headers: Mapping[str, str] | None,
    client: str = CLIENT,
) -> dict[str, Any]:
    """Return what the server would say of a call. `path` may have a query."""
    target, _, query = path.partition("?")
    sent = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    if token is not None:
        sent.append((b"authorization", b"Bearer " + token.encode()))
    sent.append((b"content-length", b"%d" % size_bytes))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(target),
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": sent,
        "client": (client, 1),
        "server": ("node", 80),
        "extensions": {},
        "state": {},
    }


def encode_body(body: Any) -> bytes:
    """Return a body's bytes: bytes as they are, nothing for `None`, JSON for all else."""
    if body is None:
        return b""
    return body if isinstance(body, bytes) else _encode(body)
