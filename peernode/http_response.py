"""ASGI messages in, bytes of one response out: a machine.

Nothing is on the wire before the first body message, as ASGI wants it, so that a response whose
application fails in between can still become a 500.  Framing is the server's: a length when the
application gave one or the body came in one piece, else chunked (HTTP/1.1) or the end of the
connection (HTTP/1.0).  `Transfer-Encoding`, `Connection` and hop-by-hop words of the application's
are not passed on, except `Connection: close`.

Rules: no body with HEAD, 204 and 304; a header field cannot smuggle a line break; a body that
does not match its declared length is the application's fault (`ApplicationError`), and then the
connection cannot be used any more.
"""

from collections.abc import Iterable
from typing import Final

from peernode.http_service import ApplicationError, Message, status_line

_SPECIAL: Final = frozenset(
    (b"connection", b"content-length", b"date", b"keep-alive", b"transfer-encoding", b"upgrade"),
)
_JOIN_MAX_BYTES: Final = 64 * 1024
"""A larger body is sent by itself rather than copied behind its head. Source: guess."""


class Response:
    """One response, from `start` to `finished`."""

    __slots__ = (
        "_chunked",
        "_head",
        "_head_only",
        "_http_1_0",
        "_remaining",
        "finished",
        "keep_alive",
        "on_the_wire",
        "status",
    )

    def __init__(self, *, head_only: bool, http_1_0: bool, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        """Whether another request may follow; settled when `start` returns."""
        self.finished = False
        self.on_the_wire = False
        """Something of it was handed out: it cannot become another response."""
        self.status = 0
        self._head_only = head_only
        self._http_1_0 = http_1_0
        self._head: list[bytes] | None = None
        self._remaining: int | None = None
        self._chunked = False

    def start(self, message: Message, date_line: bytes) -> None:
        """Take `http.response.start` (or the WebSocket rejection's). Raise `ApplicationError`."""
        if self.status:
            raise ApplicationError("the response has already been started")
        status = message["status"]
        if not 200 <= status <= 999:
            raise ApplicationError(f"status {status} is not a final status")
        head = [status_line(status)]
        for name, value in message.get("headers", ()):
            lower = name.lower()
            if lower in _SPECIAL:
                if lower == b"date":
                    date_line = b""
                    head.append(b"date: %b\r\n" % value)
                else:
                    self._take_special(lower, value)
            else:
                head.append(b"%b: %b\r\n" % (lower, value))
        if date_line:
            head.append(date_line)
        self.status = status
        if status in (204, 304):
            self._head_only = True
        if self._remaining is not None and status != 204:
            head.append(b"content-length: %d\r\n" % self._remaining)
        self._head = head

    def _take_special(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            if self._remaining is not None or not value.isdigit():
                raise ApplicationError("content-length is repeated or not a number")
            self._remaining = int(value)
        elif name == b"connection" and b"close" in value.lower():
            self.keep_alive = False

    def _finish_head(self, body_size: int, *, more: bool) -> bytes:
        head = self._head
        assert head is not None
        if self._remaining is None and not self._head_only:
            if not more:
                head.append(b"content-length: %d\r\n" % body_size)
                self._remaining = body_size
            elif self._http_1_0:
                self.keep_alive = False
            else:
                head.append(b"transfer-encoding: chunked\r\n")
                self._chunked = True
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        elif self._http_1_0:
            head.append(b"connection: keep-alive\r\n")
        head.append(b"\r\n")
        encoded = b"".join(head)
        if not encoded.count(b"\n") == encoded.count(b"\r") == len(head) or b"\x00" in encoded:
            raise ApplicationError("a header field has a line break or NUL")
        return encoded

    def body(self, message: Message) -> Iterable[bytes]:
        """Take `http.response.body`; return what to send, in order. Raise `ApplicationError`."""
        if not self.status or self.finished:
            raise ApplicationError("a body before its start or after its end")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        size = len(body)
        if (
            self._remaining is not None
            and not self._head_only
            and (size > self._remaining or (not more and size < self._remaining))
        ):
            raise ApplicationError("the body does not have the declared content-length")
        head = b"" if self.on_the_wire else self._finish_head(size, more=more)
        self.on_the_wire = True
        self.finished = not more
        if self._head_only:
            return (head,)
        if self._remaining is not None:
            self._remaining -= size
        elif self._chunked:
            end = b"" if more else b"0\r\n\r\n"
            body = b"%x\r\n%b\r\n%b" % (size, body, end) if size else end
        if not head:
            return (body,)
        if size > _JOIN_MAX_BYTES:
            return (head, body)
        return (head + body,)
