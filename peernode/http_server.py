"""A small ASGI server on trio: HTTP/1.1, WebSocket, TLS; HTTP/1.0 for those who still speak it.

Why our own: hypercorn, the one maintained server on trio, costs about ten times the CPU a request,
and the node's job rate is bound by CPU.  Any other ASGI server runs the same application.

`Server.serve` accepts, watches deadlines and shuts down; a connection's life is in
`http_connection`.  Shutdown: listeners close, connections without a request close, requests in
flight have the grace to finish, WebSockets are told 1001; then what is left is cancelled.

Nothing that happens on one connection ends the server: its task is a named boundary whose errors go
to `on_error`.  Cancellation passes through it.

What it leaves out: HTTP/2 and HTTP/3, sendfile (measured: no gain), more than one process.
"""

import contextlib
import email.utils
import errno
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from peernode.http_connection import Connection
from peernode.http_lifespan import lifespan as run_lifespan
from peernode.http_service import (
    Application,
    Config,
    OnError,
    OnRequest,
    Refusal,
    Service,
    TaskStatus,
    log_error,
    overloaded,
)
from storage.clock import Clock, SystemClock

__all__ = ["Config", "Server", "Statistics", "bind", "open_server"]

_ACCEPTS_PER_TURN: Final = 64
"""Connections accepted before others get a turn. Source: guess."""
_ACCEPT_RETRY_S: Final = 0.1
"""Wait after running out of file descriptors or memory. Source: trio's `serve_listeners`."""
_ACCEPT_RETRYABLE: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start, and what is open now."""

    connections_open: int
    connections_accepted: int
    connections_refused: int
    websockets_open: int
    requests: int


async def bind(host: str, port: int, backlog: int = 1024) -> list[socket.socket]:
    """Listen on every address of `host`, all with one port (0: any free one).

    Raise `OSError` if any of them cannot be had; then none is kept.
    """
    found = await trio.socket.getaddrinfo(
        host,
        port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for family, kind, protocol, _, address in found:
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if listeners:
                port = listeners[0].getsockname()[1]
            listener.bind((address[0], port, *address[2:]))
            listener.listen(backlog)
            listeners.append(listener)
        stack.pop_all()
    return listeners


def _origin(address: Any) -> str:
    """Return what connections are counted by: the IPv4 address, or the IPv6 /64 one host has."""
    if not isinstance(address, tuple):
        return ""
    text = str(address[0])
    if ":" not in text:
        return text
    return str(
        ipaddress.IPv6Address(int(ipaddress.IPv6Address(text.partition("%")[0])) >> 64 << 64)
    )


class Server:
    """Serves one application; `serve` once."""

    def __init__(
        self,
        app: Application,
        config: Config | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
        state: dict[str, Any] | None = None,
        lifespan: bool = False,
        on_error: OnError = log_error,
        on_request: OnRequest | None = None,
    ) -> None:
        """Take what to serve.

        `state` is copied (shallow) into each request's scope. `lifespan`: run the application's
        lifespan around serving. `on_error` hears of applications' and our own errors, never of
        clients'. `on_request` is called after each request.
        """
        self.config = config or Config()
        self._tls = tls
        self._clock = clock or SystemClock()
        self._lifespan = lifespan
        self._service = Service(
            app,
            self.config,
            state={} if state is None else state,
            on_error=on_error,
            on_request=on_request,
        )
        self._connections: dict[Connection, None] = {}
        self._origins: Counter[str] = Counter()
        self._accepted_count = 0
        self._refused_count = 0
        self.addresses: list[Any] = []
        """What the listeners are bound to, as `getsockname` gives it; known once serving."""

    @property
    def port(self) -> int:
        """Return the port of the first listener."""
        return int(self.addresses[0][1])

    def statistics(self) -> Statistics:
        """Return the counters of this moment."""
        return Statistics(
            connections_open=len(self._connections),
            connections_accepted=self._accepted_count,
            connections_refused=self._refused_count,
            websockets_open=self._service.websockets_open,
            requests=self._service.requests_count,
        )

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        *,
        shutdown: trio.Event,
        task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `shutdown` is set and what was in flight is done; closes `listeners`.

        Reports the bound addresses when it is ready. Raise `ApplicationError` if the lifespan
        fails.
        """
        try:
            self.addresses = [listener.getsockname() for listener in listeners]
            for listener in listeners:
                listener.setblocking(False)
            async with contextlib.AsyncExitStack() as stack:
                if self._lifespan:
                    await stack.enter_async_context(
                        run_lifespan(self._service.app, self._service.state),
                    )
                await self._serve_until(listeners, shutdown, task_status)
        finally:
            for listener in listeners:
                listener.close()

    async def _serve_until(
        self,
        listeners: Sequence[socket.socket],
        shutdown: trio.Event,
        task_status: TaskStatus,
    ) -> None:
        self._set_date()
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self._watch_deadlines)
            async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept, listener, connections)
                task_status.started(self.addresses)
                await shutdown.wait()
                accepting.cancel_scope.cancel()
                for listener in listeners:
                    listener.close()
                self._service.closing.set()
                for connection in self._connections:
                    connection.close_if_idle()
                connections.cancel_scope.deadline = (
                    trio.current_time() + self.config.shutdown_grace_s
                )
            tasks.cancel_scope.cancel()

    async def _watch_deadlines(self) -> None:
        while True:
            await trio.sleep(self.config.deadline_scan_interval_s)
            self._set_date()
            now = trio.current_time()
            for connection in self._connections:
                connection.expire_if_due(now)

    def _set_date(self) -> None:
        date = email.utils.formatdate(self._clock.wall_ms() / 1000, usegmt=True)
        self._service.date_line = b"date: %b\r\n" % date.encode("ascii")

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener.fileno())
            for _ in range(_ACCEPTS_PER_TURN):
                try:
                    accepted, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno not in _ACCEPT_RETRYABLE:
                        continue  # The client left the queue (ECONNABORTED and the like).
                    self._service.report(error)
                    await trio.sleep(_ACCEPT_RETRY_S)
                    break
                self._admit(accepted, address, nursery)

    def _admit(self, accepted: socket.socket, address: Any, nursery: trio.Nursery) -> None:
        accepted.setblocking(False)
        origin = _origin(address)
        total, per_address = self.config.connections_max, self.config.connections_per_address_max
        if len(self._connections) >= total:
            self._turn_away(accepted, overloaded("connections_max", total))
        elif self._origins[origin] >= per_address:
            self._turn_away(accepted, overloaded("connections_per_address_max", per_address))
        else:
            nursery.start_soon(self._run, accepted, address, origin)

    def _turn_away(self, accepted: socket.socket, refusal: Refusal) -> None:
        self._refused_count += 1
        with accepted, contextlib.suppress(OSError):
            if self._tls is None:
                accepted.send(refusal.encode(self._service.date_line))
                accepted.shutdown(socket.SHUT_WR)

    async def _run(self, accepted: socket.socket, address: Any, origin: str) -> None:
        with accepted:
            client = server = None
            try:
                if accepted.family != socket.AF_UNIX:
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client = (address[0], address[1])
                    server = accepted.getsockname()[:2]
            except OSError:
                return  # Gone already.
            connection = Connection(self._service, accepted, client, server, self._tls)
            self._accepted_count += 1
            self._connections[connection] = None
            self._origins[origin] += 1
            try:
                await connection.run()
            except* Exception as group:  # noqa: BLE001  (boundary: a connection)
                only = len(group.exceptions) == 1
                self._service.report(group.exceptions[0] if only else group)
            finally:
                del self._connections[connection]
                self._origins[origin] -= 1
                if not self._origins[origin]:
                    del self._origins[origin]


@asynccontextmanager
async def open_server(
    app: Application,
    host: str = "127.0.0.1",
    port: int = 0,
    config: Config | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    state: dict[str, Any] | None = None,
    lifespan: bool = False,
    on_error: OnError = log_error,
    on_request: OnRequest | None = None,
) -> AsyncIterator[Server]:
    """Serve `app` around the block, and shut down as `Server.serve` does at its end."""
    server = Server(
        app,
        config,
        tls=tls,
        state=state,
        lifespan=lifespan,
        on_error=on_error,
        on_request=on_request,
    )
    listeners = await bind(host, port, backlog=server.config.accept_backlog)
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, listeners, shutdown=shutdown))
        yield server
        shutdown.set()
