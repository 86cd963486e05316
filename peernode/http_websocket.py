"""One WebSocket (RFC 6455) as ASGI knows it; wsproto knows the frames.

`receive` reads the socket itself and hands out all messages of one read without waiting again, so
batches of small frames cost one wake-up.  Beside the application runs one task, `_tend`: it pings a
silent peer, reads in the application's stead now and then so that pings, pongs and a close are
seen even by one that only sends, ends a dead peer, and says 1001 when the server shuts down.

Bounds: a read happens only when every message of the one before was taken, so what waits is at
most one read's messages and one unfinished message of `websocket_message_max_bytes`.

Closing codes: the peer's arrives in `websocket.disconnect`; 1002 and 1007 answer malformed frames
and text, 1009 a message too large, 1011 an exception in the application, 1000 its return.  A peer
that is gone without a word is 1006, as the RFC has it.

What it leaves out: permessage-deflate (memory and CPU at the peer's will).
"""

from collections import deque
from typing import Final

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as Protocol, ConnectionState
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import generate_accept_token

from peernode.http_response import Response
from peernode.http_service import INTERNAL, ApplicationError, Message, Refusal, Scope, Service
from peernode.http_stream import Disconnected, Stream, is_disconnect

_FORBIDDEN: Final = Refusal(403, "forbidden", "The WebSocket was not accepted.")
_TENDS_PER_PING: Final = 4
"""How often `_tend` looks, in a ping interval. Source: guess; 5 s by default."""


class WebSocket:
    """One opening handshake and what follows; `run` ends when nothing more is to be said."""

    __slots__ = (
        "_accepted",
        "_close_code",
        "_close_reason",
        "_early",
        "_heard_at",
        "_inbox",
        "_malformed",
        "_opened",
        "_part_size",
        "_parts",
        "_pinged_at",
        "_protocol",
        "_reading",
        "_rejection",
        "_scope",
        "_sending",
        "_service",
        "_stream",
        "status",
    )

    def __init__(self, service: Service, stream: Stream, scope: Scope, early: bytes) -> None:
        self._service = service
        self._stream = stream
        self._scope = scope
        self.status = 0
        """101 once accepted, else the status of the rejection; 0 before either."""
        self._early = early
        self._opened = False
        self._accepted = False
        self._rejection: Response | None = None
        self._protocol = Protocol(ConnectionType.SERVER)
        self._inbox: deque[Message] = deque()
        self._parts: list[bytes | str] = []
        self._part_size = 0
        self._close_code: int | None = None
        """Set when it is over for the application, whoever ended it."""
        self._close_reason = ""
        self._malformed = False
        self._sending = trio.Lock()
        self._reading = False
        self._heard_at = trio.current_time()
        self._pinged_at: float | None = None

    async def run(self) -> None:
        """Run the application on this socket, with `_tend` beside it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tend)
            await self._run_application()
            await self._await_close()
            nursery.cancel_scope.cancel()

    async def _run_application(self) -> None:
        code = CloseReason.NORMAL_CLOSURE
        try:
            await self._service.app(self._scope, self.receive, self.send)
            failed = not self.status and self._close_code is None
            if failed:
                self._service.report(ApplicationError("the WebSocket was not answered"))
        except Exception as error:  # noqa: BLE001  (boundary: the application's own errors)
            failed = not (self._close_code is not None and is_disconnect(error))
            if failed:
                self._service.report(error)
                code = CloseReason.INTERNAL_ERROR
        try:
            if self._accepted:
                await self._close(code, "")
            elif failed and not self.status:
                await self._refuse(INTERNAL)
        except Disconnected:
            pass

    async def receive(self) -> Message:
        """Return `websocket.connect`, then messages, then for ever `websocket.disconnect`."""
        if not self._opened:
            self._opened = True
            return {"type": "websocket.connect"}
        while not self._inbox and self._close_code is None:
            await self._read()
        if self._inbox:
            return self._inbox.popleft()
        return {
            "type": "websocket.disconnect",
            "code": self._close_code,
            "reason": self._close_reason,
        }

    async def send(self, message: Message) -> None:
        """Accept, reject, send or close. Raise `Disconnected` when it is over."""
        if self._close_code is not None:
            raise Disconnected
        kind = message["type"]
        if self._accepted:
            match kind:
                case "websocket.send":
                    data = message.get("bytes")
                    if data is not None:
                        await self._send_event(BytesMessage(data=data))
                    else:
                        await self._send_event(TextMessage(data=message["text"]))
                case "websocket.close":
                    await self._close(message.get("code") or 1000, message.get("reason") or "")
                case _:
                    raise ApplicationError(f"unexpected ASGI message {kind!r}")
            return
        match kind:
            case "websocket.accept" if not self.status:
                await self._accept(message)
            case "websocket.close" if not self.status:
                await self._refuse(_FORBIDDEN)
            case "websocket.http.response.start" if self._rejection is None and not self.status:
                rejection = Response(head_only=False, http_1_0=False, keep_alive=False)
                rejection.start(message, self._service.date_line)
                self._rejection = rejection
                self.status = rejection.status
            case "websocket.http.response.body" if self._rejection is not None:
                for data in self._rejection.body(message):
                    if data:
                        await self._write(data)
                if self._rejection.finished:
                    self._close_code = CloseReason.ABNORMAL_CLOSURE
            case _:
                raise ApplicationError(f"unexpected ASGI message {kind!r}")

    async def _accept(self, message: Message) -> None:
        keys = [value for name, value in self._scope["headers"] if name == b"sec-websocket-key"]
        head = [
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"upgrade: websocket\r\n",
            b"connection: Upgrade\r\n",
            b"sec-websocket-accept: %b\r\n" % generate_accept_token(keys[0]),
            self._service.date_line,
        ]
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if subprotocol not in self._scope["subprotocols"]:
                raise ApplicationError(f"the client did not offer {subprotocol!r}")
            head.append(b"sec-websocket-protocol: %b\r\n" % subprotocol.encode("latin-1"))
        head.extend(b"%b: %b\r\n" % header for header in message.get("headers", ()))
        head.append(b"\r\n")
        encoded = b"".join(head)
        if not encoded.count(b"\n") == encoded.count(b"\r") == len(head):
            raise ApplicationError("a header field has a line break")
        self.status = 101
        await self._write(encoded)
        self._accepted = True
        self._heard_at = trio.current_time()
        if self._early:
            early, self._early = self._early, b""
            await self._take(early)

    async def _refuse(self, refusal: Refusal) -> None:
        self.status = refusal.status
        self._close_code = CloseReason.ABNORMAL_CLOSURE
        await self._write(refusal.encode(self._service.date_line))

    async def _read(self) -> None:
        """Wait for bytes and take them. Returns without any when the socket was closed here."""
        self._reading = True
        try:
            data = await self._stream.receive(self._service.config.head_read_size_bytes)
        except trio.ClosedResourceError:
            return
        finally:
            self._reading = False
        await self._take(data)

    async def _take(self, data: bytes) -> None:
        """Queue whole messages and answer what wants an answer; b"" is the end of the stream."""
        if not data:
            self._end(CloseReason.ABNORMAL_CLOSURE, "")
        elif self._accepted:
            self._heard_at = trio.current_time()
            self._pinged_at = None
            self._protocol.receive_data(data)
            for event in self._take_events():
                match event:
                    case CloseConnection():
                        await self._take_close(event)
                    case _:
                        await self._send_event(event)
        elif len(self._early) + len(data) > self._service.config.head_read_size_bytes:
            self._end(CloseReason.ABNORMAL_CLOSURE, "")  # A client has to wait for the 101.
        else:
            self._early += data

    def _take_events(self) -> list[Event]:
        """Queue whole messages; return what wants an answer. Never in the middle of a wait."""
        wants_answer: list[Event] = []
        for event in self._protocol.events():
            match event:
                case BytesMessage() | TextMessage():
                    if self._close_code is None and not self._take_part(event):
                        limit = self._service.config.websocket_message_max_bytes
                        detail = f"a message is over websocket_message_max_bytes, {limit}"
                        self._end(CloseReason.MESSAGE_TOO_BIG, detail)
                        wants_answer.append(CloseConnection(CloseReason.MESSAGE_TOO_BIG, detail))
                case Ping():
                    wants_answer.append(event.response())
                case CloseConnection():
                    wants_answer.append(event)
                case _:
                    pass
        return wants_answer

    def _take_part(self, event: BytesMessage | TextMessage) -> bool:
        """Queue a message if it is whole; False if it is too large."""
        data: bytes | str = event.data if isinstance(event, TextMessage) else bytes(event.data)
        if isinstance(data, str) and not data.isascii():
            self._part_size += len(data.encode())
        else:
            self._part_size += len(data)
        if self._part_size > self._service.config.websocket_message_max_bytes:
            self._parts.clear()
            return False
        if not event.message_finished:
            self._parts.append(data)
            return True
        if self._parts:
            self._parts.append(data)
            data = data[:0].join(self._parts)  # type: ignore[arg-type]
            self._parts = []
        self._part_size = 0
        key = "text" if isinstance(event, TextMessage) else "bytes"
        self._inbox.append({"type": "websocket.receive", key: data})
        return True

    async def _take_close(self, event: CloseConnection) -> None:
        """The peer's close, the answer to ours, or our own verdict on what it sent."""
        match self._protocol.state:
            case ConnectionState.OPEN:
                self._malformed = event.code != CloseReason.MESSAGE_TOO_BIG
                await self._close(event.code, event.reason or "")
            case ConnectionState.REMOTE_CLOSING:
                self._end(event.code, event.reason or "")
                await self._send_event(event.response())
            case _:
                self._end(event.code, event.reason or "")

    def _end(self, code: int, reason: str) -> None:
        if self._close_code is None:
            self._close_code = int(code)
            self._close_reason = reason
            if self._reading:
                self._stream.wake_reader()

    async def _close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; for the application it is over with this."""
        if not 1000 <= code <= 4999:
            raise ApplicationError(f"{code} is not a closing code")
        self._end(code, reason)
        await self._send_event(CloseConnection(code=code, reason=reason))

    async def _await_close(self) -> None:
        """Read until the peer's half of the closing handshake, its end, or the time-out.

        After a malformed frame no frame can be told from another: bytes are thrown away, so that
        a reset does not eat our close.
        """
        if self._protocol.state is not ConnectionState.LOCAL_CLOSING:
            return
        config = self._service.config
        if self._malformed:
            self._stream.end_writing()
        self._stream.read_deadline = trio.current_time() + config.websocket_close_timeout_s
        while self._protocol.state is ConnectionState.LOCAL_CLOSING:
            data = await self._stream.receive(config.head_read_size_bytes)
            if not data:
                return
            if not self._malformed:
                self._protocol.receive_data(data)
                self._take_events()

    async def _send_event(self, event: Event) -> None:
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            state = self._protocol.state
            if state is ConnectionState.OPEN or (
                state is ConnectionState.REMOTE_CLOSING and isinstance(event, CloseConnection)
            ):
                # Made under the lock, so that frames leave in the order they were made in.
                await self._write(bytes(self._protocol.send(event)))
        finally:
            self._sending.release()

    async def _write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data, self._service.config.write_stall_timeout_s)
        except Disconnected:
            self._end(CloseReason.ABNORMAL_CLOSURE, "")
            raise

    async def _tend(self) -> None:
        config = self._service.config
        interval_s = config.websocket_ping_interval_s / _TENDS_PER_PING
        closing = self._service.closing
        try:
            while self._close_code is None:
                with trio.move_on_after(interval_s):
                    await closing.wait()
                if not self._accepted or self._close_code is not None:
                    if closing.is_set():
                        await trio.sleep(interval_s)
                elif closing.is_set():
                    await self._close(CloseReason.GOING_AWAY, "the server shuts down")
                elif not self._inbox:
                    await self._tend_peer(trio.current_time())
        except Disconnected:
            pass

    async def _tend_peer(self, now: float) -> None:
        config = self._service.config
        if not self._reading:
            data = self._stream.receive_nowait(config.head_read_size_bytes)
            if data is not None:
                await self._take(data)
        if self._pinged_at is not None:
            if now - self._pinged_at >= config.websocket_ping_timeout_s:
                self._end(CloseReason.ABNORMAL_CLOSURE, "no answer to a ping")
                self._stream.abort()
        elif now - self._heard_at >= config.websocket_ping_interval_s:
            self._pinged_at = now
            await self._send_event(Ping())
