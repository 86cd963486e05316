"""What the parts of the HTTP server share: its limits, its refusals, and one server's state.

The server is five small parts.  `http_request` turns bytes into requests and `http_response` turns
ASGI messages into bytes; both are machines without I/O.  `http_stream` moves bytes and keeps
deadlines, `http_connection` and `http_websocket` drive one connection, `http_server` accepts them.

Every limit of the server stands in `Config`.  Whatever the server itself answers (the application
never saw the request) is a `Refusal`: a `problem+json` body (RFC 9457) whose `code` comes from the
closed list `Code` and whose `limit`, where one applies, is that limit's value; the detail names its
field of `Config`.
"""

import http
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
import trio

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application. Starlette's own types are structurally the same."""

OnError: TypeAlias = Callable[[Exception], None]
OnRequest: TypeAlias = Callable[[Scope, int, float], None]
"""Called with the scope, the status (0: none was sent) and the duration in seconds."""

Code: TypeAlias = Literal[
    "bad_request",
    "forbidden",
    "headers_too_large",
    "http_version",
    "internal",
    "not_implemented",
    "overloaded",
    "pipeline_too_long",
    "request_timeout",
    "target_too_long",
    "upgrade_required",
]


class TaskStatus(Protocol):
    """What `trio.Nursery.start` hands to a task; it is told the bound addresses."""

    def started(self, value: list[Any], /) -> None:
        """Say that the server accepts connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every limit of the server. Times in seconds, sizes in bytes; all are positive."""

    header_size_max_bytes: int = 32 * 1024
    """Request line and header fields together; more is 431. Source: the HTTP contract."""
    header_count_max: int = 100
    """Header fields of a request; more is 431. Source: Apache's LimitRequestFields."""
    target_size_max_bytes: int = 8 * 1024
    """Request target; more is 414. Source: nginx's large_client_header_buffers, Apache's 8190."""
    requests_pipelined_max: int = 16
    """Requests that may wait behind the one being answered. Source: guess, wrk's usual depth."""
    header_timeout_s: float = 10.0
    """From a request's first byte (or from accept) to its complete head; then 408. Source: guess,
    between Apache's 20 s and hypercorn's 5 s."""
    idle_timeout_s: float = 75.0
    """A kept connection without a request. Source: nginx's keepalive_timeout."""
    body_idle_timeout_s: float = 20.0
    """Waiting for more of a body; then 408. Source: Apache's RequestReadTimeout body=20."""
    body_rate_min_bytes_per_s: int = 500
    """Each this many bytes of body received buy one more second of waiting in all; time that the
    application spends does not count. Source: Apache's RequestReadTimeout MinRate=500."""
    unread_body_max_bytes: int = 1024 * 1024
    """Body the application left unread that is read and thrown away to keep the connection; with
    more to come it is closed. Source: guess, the largest JSON body."""
    write_stall_timeout_s: float = 30.0
    """A peer that takes no byte of what we send. Source: guess, half of nginx's send_timeout."""
    linger_timeout_s: float = 2.0
    """After a last answer with unread input: how long to read on, so that a reset does not eat the
    answer (RFC 9112 section 9.6). Source: guess, nginx's lingering_timeout is 5 s."""
    connections_max: int = 1000
    """Open connections; one more gets 503. Source: the security brief."""
    connections_per_address_max: int = 64
    """Open connections from one IPv4 address or IPv6 /64; one more gets 503. Source: guess; behind
    a proxy all connections share an address, so set it to `connections_max` there."""
    accept_backlog: int = 1024
    """The kernel's queue of connections not yet accepted. Source: guess, below somaxconn (4096)."""
    head_read_size_bytes: int = 64 * 1024
    """One read while a head is awaited, and of a WebSocket. Source: guess."""
    body_read_size_bytes: int = 256 * 1024
    """One read of a body. Source: measured, 200 MB at 3 GB/s with 1 MB of memory."""
    tls_handshake_timeout_s: float = 10.0
    """Source: as `header_timeout_s`."""
    websocket_message_max_bytes: int = 4 * 1024 * 1024
    """A whole message from the peer; more closes with 1009. Source: guess, inputs are <= 1 MiB."""
    websocket_ping_interval_s: float = 20.0
    """Silence after which we ping. Source: the websockets library's default."""
    websocket_ping_timeout_s: float = 20.0
    """Silence after our ping that makes a peer dead. Source: the websockets library's default."""
    websocket_close_timeout_s: float = 5.0
    """Waiting for the peer's half of the closing handshake. Source: guess, half the grace."""
    shutdown_grace_s: float = 10.0
    """What requests in flight have left when the server shuts down. Source: guess, Docker's 10 s
    before SIGKILL."""
    deadline_scan_interval_s: float = 0.5
    """How often deadlines are looked at: a time-out is late by up to this much. Source: guess; a
    scan of 1000 connections takes about 0.1 ms."""

    def __post_init__(self) -> None:
        """Raise `ValueError` naming the first field that is not positive."""
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive")


_STATUS_LINES: Final = MappingProxyType(
    {
        int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())
        for status in http.HTTPStatus
    },
)


def status_line(status: int) -> bytes:
    """Return the status line with its CRLF; a status without a registered phrase has none."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the server's own, after which the connection closes."""

    status: int
    code: Code
    detail: str
    limit: int | float | None = None
    """Value of the limit that was exceeded; `detail` names it."""
    retryable: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self, date_line: bytes, *, head_only: bool = False) -> bytes:
        """Return the whole response, head and `problem+json` body."""
        problem: dict[str, object] = {
            "type": "about:blank",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
        }
        if self.limit is not None:
            problem["limit"] = self.limit
        body = msgspec.json.encode(problem)
        extra = b"".join(b"%b: %b\r\n" % header for header in self.headers)
        return b"%bcontent-type: application/problem+json\r\ncontent-length: %d\r\n%b%b%b%b" % (
            status_line(self.status),
            len(body),
            extra,
            date_line,
            b"connection: close\r\n\r\n",
            b"" if head_only else body,
        )


INTERNAL: Final = Refusal(500, "internal", "The server failed to answer this request.")


def overloaded(limit_name: str, limit: int) -> Refusal:
    """Return what a connection over a limit is told."""
    detail = f"More connections are open than {limit_name}, {limit}."
    headers = ((b"retry-after", b"1"),)
    return Refusal(503, "overloaded", detail, limit=limit, retryable=True, headers=headers)


def timed_out(limit_name: str, limit: float) -> Refusal:
    """Return what a client that was too slow with its request is told."""
    detail = f"The request did not arrive in time: {limit_name} is {limit:g}."
    return Refusal(408, "request_timeout", detail, limit=limit, retryable=True)


class ApplicationError(RuntimeError):
    """The application broke the ASGI contract: its fault, not the client's."""


def log_error(error: Exception) -> None:
    """Log an error that reached a boundary of the server: what `on_error` is unless said."""
    logging.getLogger(__name__).error("%s", error, exc_info=error)


class Service:
    """What every connection of one server shares."""

    __slots__ = (
        "_on_error",
        "app",
        "closing",
        "config",
        "date_line",
        "on_request",
        "requests_count",
        "state",
        "websockets_open",
    )

    def __init__(
        self,
        app: Application,
        config: Config,
        *,
        state: dict[str, Any],
        on_error: OnError,
        on_request: OnRequest | None,
    ) -> None:
        self.app = app
        self.config = config
        self.state = state
        """Copied into each scope: one dict in two scopes lets one request read another's."""
        self.on_request = on_request
        self._on_error = on_error
        self.closing = trio.Event()
        self.date_line = b""
        self.requests_count = 0
        self.websockets_open = 0

    def report(self, error: Exception) -> None:
        """Hand an error to `on_error`. An error in there is logged and goes no further."""
        try:
            self._on_error(error)
        except Exception as fault:  # noqa: BLE001  (boundary: reporting must not end the server)
            log_error(fault)

    def scope_state(self) -> dict[str, Any]:
        """Return this request's own shallow copy of the state."""
        return self.state.copy()
