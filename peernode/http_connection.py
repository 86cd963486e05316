"""One connection: requests in, the application's answers out, one after the other.

`Connection.run` waits for a head, runs the application on an `Exchange` (its ASGI `receive` and
`send`), sees that the body is used up, and begins again; a WebSocket handshake hands the stream to
`http_websocket` for good.  Nothing is read from the socket unless someone waits for it, so a slow
application holds its client back and memory stays flat.

Whose fault it is decides what happens.  The client's (malformed, too large, too slow): a
`Refusal` if nothing of an answer was sent, then the connection closes.  The peer is gone: the
application sees `http.disconnect` and an `OSError` from `send`, and nobody else hears of it.  The
application's (an exception, a broken ASGI contract): it is reported, and the client gets a 500, or
a closed connection if its answer had begun.

What it leaves out: detection of a disconnect behind pipelined requests (the next `send` finds it).
"""

import math
import socket
import ssl
from typing import Final

import trio
from trio.lowlevel import checkpoint

from peernode.http_request import Request, RequestParser
from peernode.http_response import Response
from peernode.http_service import (
    INTERNAL,
    ApplicationError,
    Message,
    Refusal,
    Scope,
    Service,
    timed_out,
)
from peernode.http_stream import Disconnected, Stream, TlsStream, is_disconnect
from peernode.http_websocket import WebSocket

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection:
    """Drives one accepted socket; whoever runs it closes nothing."""

    __slots__ = (
        "_client",
        "_idle",
        "_parser",
        "_scheme_suffix",
        "_server",
        "_service",
        "_stream",
    )

    def __init__(
        self,
        service: Service,
        accepted: socket.socket,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._service = service
        self._client = client
        self._server = server
        self._scheme_suffix = "" if tls is None else "s"
        self._stream = Stream(accepted) if tls is None else TlsStream(accepted, tls)
        self._parser = RequestParser(service.config)
        self._idle = True

    def expire_if_due(self, now: float) -> None:
        """Shut down what is past its deadline."""
        self._stream.expire_if_due(now)

    def close_if_idle(self) -> None:
        """End a connection that waits for a request; one that has arrived is still answered."""
        if self._idle:
            self._stream.stop_reading()

    async def run(self) -> None:
        """Serve until either side ends it."""
        try:
            await self._stream.handshake(self._service.config.tls_handshake_timeout_s)
            await self._serve()
        except Disconnected:
            pass  # The peer left; whoever had to know has been told.
        finally:
            self._parser.close()
            self._stream.close()

    async def _serve(self) -> None:
        config = self._service.config
        timeout_s = config.header_timeout_s
        requests = self._parser.requests
        while True:
            if requests:
                await checkpoint()  # Pipelined: others get their turn here too.
            elif not await self._await_head(timeout_s):
                return
            timeout_s = config.idle_timeout_s
            request = requests.popleft()
            self._service.requests_count += 1
            if request.websocket:
                await self._run_websocket(request)
                return
            if not await self._answer(request):
                return

    async def _await_head(self, timeout_s: float) -> bool:
        """Read until a request is queued; False when the connection is to be closed."""
        parser, stream, config = self._parser, self._stream, self._service.config
        if parser.in_head:
            timeout_s = config.header_timeout_s
        stream.read_deadline = trio.current_time() + timeout_s
        self._idle = not parser.in_head
        while not parser.requests:
            if parser.refusal is not None:
                await self._refuse(parser.refusal)
                return False
            if self._idle and self._service.closing.is_set():
                stream.stop_reading()
            data = await stream.receive(config.head_read_size_bytes)
            if not data:
                if stream.expired and parser.in_head:
                    await self._refuse(timed_out("header_timeout_s", config.header_timeout_s))
                return False
            parser.feed(data)
            if self._idle and parser.in_head and not parser.requests:
                self._idle = False
                stream.read_deadline = trio.current_time() + config.header_timeout_s
        self._idle = False
        stream.read_deadline = math.inf
        return True

    async def _answer(self, request: Request) -> bool:
        """Run the application; return whether the connection may be kept."""
        service = self._service
        on_request = service.on_request
        started_at = trio.current_time() if on_request is not None else 0.0
        scope = self._scope(request)
        exchange = Exchange(service, self._stream, self._parser, request)
        response = exchange.response
        refusal = None
        try:
            await service.app(scope, exchange.receive, exchange.send)
            if not response.finished and not exchange.gone:
                service.report(ApplicationError("the application did not finish its response"))
                refusal = INTERNAL
        except Exception as error:  # noqa: BLE001  (boundary: the application's own errors)
            if not (exchange.gone and is_disconnect(error)):
                service.report(error)
                refusal = INTERNAL
        status = response.status if response.on_the_wire else 0
        refusal = exchange.refusal or refusal
        if refusal is not None and not response.on_the_wire:
            status = refusal.status
            await self._refuse(refusal, head_only=request.method == "HEAD")
        if on_request is not None:
            on_request(scope, status, trio.current_time() - started_at)
        if exchange.gone or self._stream.broken or not response.finished:
            return False
        if not response.keep_alive:
            if not request.complete or self._parser.refusal is not None:
                await self._linger()
            return False
        return request.complete or await self._discard_body(request)

    def _scope(self, request: Request) -> Scope:
        return {
            "type": "http",
            # From 2.4 on Starlette no longer watches for a disconnect while a stream is silent.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version,
            "method": request.method,
            "scheme": "http" + self._scheme_suffix,
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query_string,
            "root_path": "",
            "headers": request.headers,
            "client": self._client,
            "server": self._server,
            "extensions": {},
            "state": self._service.scope_state(),
        }

    async def _discard_body(self, request: Request) -> bool:
        """Read what the application left of the body; False if that is too much or fails."""
        parser, stream, config = self._parser, self._stream, self._service.config
        size = 0
        while not request.complete:
            size += len(request.take_body())
            if size > config.unread_body_max_bytes or parser.refusal is not None:
                await self._linger()
                return False
            stream.read_deadline = trio.current_time() + config.body_idle_timeout_s
            data = await stream.receive(config.body_read_size_bytes)
            stream.read_deadline = math.inf
            if not data:
                return False
            parser.feed(data)
        return True

    async def _refuse(self, refusal: Refusal, *, head_only: bool = False) -> None:
        answer = refusal.encode(self._service.date_line, head_only=head_only)
        await self._stream.send_all(answer, self._service.config.write_stall_timeout_s)
        await self._linger()

    async def _linger(self) -> None:
        """Read on for a little: closing with unread input would reset our last answer."""
        config, stream = self._service.config, self._stream
        stream.end_writing()
        if stream.expired:
            return
        stream.read_deadline = trio.current_time() + config.linger_timeout_s
        size = 0
        while size < config.unread_body_max_bytes:
            data = await stream.receive(config.body_read_size_bytes)
            if not data:
                return
            size += len(data)

    async def _run_websocket(self, request: Request) -> None:
        scope = self._scope(request)
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "ws" + self._scheme_suffix
        scope["extensions"] = {"websocket.http.response": {}}
        offered = [value for name, value in request.headers if name == b"sec-websocket-protocol"]
        names = b",".join(offered).decode("latin-1").split(",")
        scope["subprotocols"] = [name.strip() for name in names if name.strip()]
        websocket = WebSocket(self._service, self._stream, scope, bytes(self._parser.trailing))
        self._service.websockets_open += 1
        started_at = trio.current_time()
        try:
            await websocket.run()
        finally:
            self._service.websockets_open -= 1
        if self._service.on_request is not None:
            self._service.on_request(scope, websocket.status, trio.current_time() - started_at)
        if websocket.status != 101:
            await self._linger()


class Exchange:
    """One request and its response: the `receive` and `send` that the application is given."""

    __slots__ = (
        "_body_given",
        "_body_received",
        "_body_waited_s",
        "_done",
        "_parser",
        "_request",
        "_service",
        "_stream",
        "_watching",
        "gone",
        "refusal",
        "response",
    )

    def __init__(
        self,
        service: Service,
        stream: Stream,
        parser: RequestParser,
        request: Request,
    ) -> None:
        self._service = service
        self._stream = stream
        self._parser = parser
        self._request = request
        self.response = Response(
            head_only=request.method == "HEAD",
            http_1_0=request.http_version == "1.0",
            keep_alive=request.keep_alive,
        )
        self.gone = False
        """The peer left, or its request turned out to be broken or too slow."""
        self.refusal: Refusal | None = None
        """Why, if it was not its leaving."""
        self._body_given = False
        self._body_received = 0
        self._body_waited_s = 0.0
        self._watching = False
        self._done: trio.Event | None = None

    async def receive(self) -> Message:
        """Return the next part of the body, or in the end wait for `http.disconnect`."""
        request = self._request
        if self._body_given:
            await self._watch()
        elif not (request.body or request.complete or self.gone or self.response.finished):
            await self._read_body()
        if self.gone or self.response.finished:
            return {"type": "http.disconnect"}
        self._body_given = request.complete
        body = request.take_body()
        return {"type": "http.request", "body": body, "more_body": not request.complete}

    async def _read_body(self) -> None:
        request, parser, stream = self._request, self._parser, self._stream
        config = self._service.config
        if request.expects_continue and not self.response.status:
            request.expects_continue = False
            await self._send_bytes(_CONTINUE)
        while not (request.body or request.complete):
            if parser.refusal is not None:
                self.gone = True
                self.refusal = parser.refusal
                return
            began = trio.current_time()
            earned_s = self._body_received / config.body_rate_min_bytes_per_s
            left_s = config.body_idle_timeout_s + min(0.0, earned_s - self._body_waited_s)
            stream.read_deadline = began + left_s
            data = await stream.receive(config.body_read_size_bytes)
            stream.read_deadline = math.inf
            self._body_waited_s += trio.current_time() - began
            if not data:
                self.gone = True
                if stream.expired:
                    name = "body_idle_timeout_s"
                    if left_s < config.body_idle_timeout_s:
                        name = "body_rate_min_bytes_per_s"
                    self.refusal = timed_out(name, getattr(config, name))
                return
            parser.feed(data)
            self._body_received += len(data)

    async def _watch(self) -> None:
        """Wait until the peer leaves or the response is finished."""
        parser, stream = self._parser, self._stream
        config = self._service.config
        while not (self.gone or self.response.finished):
            if parser.requests or parser.refusal is not None or parser.upgraded:
                # More came behind this request; it waits its turn, and so does an end of file.
                self._done = self._done or trio.Event()
                await self._done.wait()
                return
            self._watching = True
            try:
                data = await stream.receive(config.head_read_size_bytes)
            except trio.ClosedResourceError:
                return
            finally:
                self._watching = False
            if data:
                parser.feed(data)
            else:
                self.gone = True

    async def send(self, message: Message) -> None:
        """Take a part of the response. Raise `Disconnected` when nobody is there to take it."""
        response = self.response
        if self.gone:
            raise Disconnected
        match message["type"]:
            case "http.response.body":
                for data in response.body(message):
                    if data:
                        await self._send_bytes(data)
                if response.finished:
                    self._wake_watcher()
                else:
                    await checkpoint()
            case "http.response.start":
                request = self._request
                if self._service.closing.is_set() or (
                    request.expects_continue and not request.complete
                ):
                    response.keep_alive = False
                response.start(message, self._service.date_line)
            case other:
                raise ApplicationError(f"unexpected ASGI message {other!r}")

    async def _send_bytes(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data, self._service.config.write_stall_timeout_s)
        except Disconnected:
            self.gone = True
            self._wake_watcher()
            raise

    def _wake_watcher(self) -> None:
        if self._watching:
            self._stream.wake_reader()
        if self._done is not None:
            self._done.set()
