"""The worker's end of a link over a WebSocket: outbound, so a worker needs no open port.

`GET /worker/ID/attach` with a bearer token; then each binary message is one batch.  The stream is
trio's, with TLS where the address says so; wsproto speaks the protocol.  A dead network shows by
the kernel's own means (`TCP_USER_TIMEOUT` on what we send, keep-alive when nothing is sent), so no
message has to wait for a pong.

Whom it reaches is known before it says who it is: by the certificate's pin where there is one
(`worker.certificate_pin`), else by the system's authorities.  Plain HTTP is for the loopback only,
where any user's program may have the port: a node that its token names proves itself there first
(`ask`, which the caller brings along).
"""

import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import trio
import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from worker.certificate_pin import pin_of, pinned_context
from worker.link import (
    LinkBroken,
    LinkClosed,
    LinkRefused,
    ToWorkerBatch,
    decode_batch,
    encode_batch,
)
from worker.protocol import MESSAGE_SIZE_MAX_BYTES, Message

READ_SIZE_BYTES: Final = 256 * 1024
"""Most bytes of one read. Source: a socket's buffer."""

CONNECT_TIMEOUT_S: Final = 10.0
"""For name, connection, TLS and the answer to the upgrade together. Source: guess."""

UNSENT_TIMEOUT_S: Final = 20.0
"""After this long without acknowledgement of what was sent the network is dead. Source: guess,
two thirds of a lease."""

REFUSALS: Final = frozenset({401, 403, 404, 410, 421, 426})
"""Statuses after which trying again with this token is pointless."""


Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
Ask: TypeAlias = Callable[[trio.abc.Stream, str], Awaitable[None]]
"""Has whoever answers on a plain stream, to the host given, prove who it is, or raises."""


class WrongNode(LinkClosed):
    """Somebody else than the node answered, or the node has another key; nothing was said."""


def check_address(url: str, pin: str = "") -> None:
    """Raise `ValueError` if a worker may not attach there: `pin` is that of its node, or empty."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.scheme not in ("ws", "wss", "http", "https"):
        raise ValueError(f"not the address of a node: {url}")
    if parts.scheme in ("wss", "https"):
        return
    if pin:
        raise ValueError(f"{url}: this node speaks TLS (the token says so); use https://")
    if not _is_loopback(parts.hostname):
        raise ValueError(
            f"{url}: plain HTTP to another machine would show token and jobs to the network; "
            "use https:// (on the node: `peernode up --tls CERT,KEY`)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class WebSocketLink:
    """See `open_websocket_link`."""

    def __init__(self, stream: trio.abc.Stream, connection: wsproto.WSConnection) -> None:
        self._stream = stream
        self._connection = connection
        self._messages: list[Message] = []
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._writing = trio.Lock()
        """Answers to pings are written by who receives."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Send a batch."""
        parts = encode_batch(messages)
        try:
            data = b"".join(self._connection.send(BytesMessage(data=part)) for part in parts)
        except LocalProtocolError as error:
            raise LinkClosed("the link is closed") from error
        await self._write(data)

    async def receive(self) -> list[Message]:
        """Return the messages that have arrived, at least one batch."""
        while True:
            await self._take_events()
            ready, self._messages = self._messages, []
            if ready:
                return ready
            await self._fill()

    async def aclose(self) -> None:
        """Say good-bye, as far as that is possible at once, and close."""
        with trio.move_on_after(1) as scope, suppress(LinkClosed, LocalProtocolError):
            scope.shield = True
            await self._write(self._connection.send(CloseConnection(code=1000)))
        await trio.aclose_forcefully(self._stream)

    async def _take_events(self) -> None:
        for event in self._connection.events():
            match event:
                case BytesMessage():
                    self._take_part(bytes(event.data), event.message_finished)
                case Ping():
                    await self._write(self._connection.send(event.response()))
                case CloseConnection():
                    with suppress(LinkClosed, LocalProtocolError):
                        await self._write(self._connection.send(event.response()))
                    raise LinkClosed(f"the node closed the link: {event.code} {event.reason or ''}")
                case TextMessage():
                    raise LinkBroken("a text message")
                case _:  # pongs
                    pass

    def _take_part(self, data: bytes, finished: bool) -> None:
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > MESSAGE_SIZE_MAX_BYTES:
            raise LinkBroken(f"a message over {MESSAGE_SIZE_MAX_BYTES} bytes")
        if finished:
            whole = b"".join(self._parts) if len(self._parts) > 1 else data
            self._parts.clear()
            self._size_bytes = 0
            self._messages += decode_batch(whole, ToWorkerBatch)

    async def _fill(self) -> None:
        try:
            data = await self._stream.receive_some(READ_SIZE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkClosed("the connection broke") from error
        if not data:
            raise LinkClosed("the connection was closed")
        try:
            self._connection.receive_data(data)
        except RemoteProtocolError as error:
            raise LinkBroken(f"not a WebSocket: {error}") from error

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise LinkClosed("the connection broke") from error

    async def open(self, host: str, target: str, token: str, headers: Headers = ()) -> None:
        """Upgrade the connection."""
        extra = [(b"authorization", f"Bearer {token}".encode()), *headers]
        request = Request(host=host, target=target, extra_headers=extra)
        await self._write(self._connection.send(request))
        while True:
            await self._fill()
            for event in self._connection.events():
                match event:
                    case AcceptConnection():
                        return
                    case RejectConnection() | RejectData():
                        status = getattr(event, "status_code", 0)
                        if status in REFUSALS:
                            raise LinkRefused(f"the node answered {status}")
                        raise LinkClosed(f"the node answered {status}")
                    case _:
                        raise LinkBroken("no answer to the upgrade")


async def open_websocket_link(
    url: str,
    token: str,
    *,
    headers: Headers = (),
    pin: str = "",
    tls: ssl.SSLContext | None = None,
    ask: Ask | None = None,
) -> WebSocketLink:
    """Attach to a node: `url` is `ws[s]://HOST:PORT/worker/ID/attach` (`http[s]` will do).

    `headers` go out with the token: a worker that comes for the first time shows its key there.
    `pin` is that of the node's certificate and replaces the system's trust; so does `tls`.  Without
    TLS `ask` comes before all else, on the same connection.  Raises `ValueError` as `check_address`
    does, `LinkRefused` when the node does not take the token, `WrongNode` when the pin is another's
    or `ask` says so, and `LinkClosed` for what may be better next time.
    """
    check_address(url, pin)
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme in ("wss", "https")
    port = parts.port or (443 if secure else 80)
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream: trio.abc.Stream = await _connect(host, port)
            try:
                if secure:
                    stream = await _encrypted(stream, host, parts.netloc, pin, tls)
                elif ask is not None:
                    await ask(stream, parts.netloc)
                connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
                link = WebSocketLink(stream, connection)
                await link.open(parts.netloc, parts.path or "/", token, headers)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return link
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
        # trio says that a stream broke, and what broke it is the cause.
        why = error.__cause__ or error
        raise LinkClosed(f"no connection to {parts.netloc}: {why}") from error


async def _encrypted(
    stream: trio.abc.Stream, host: str, shown: str, pin: str, tls: ssl.SSLContext | None
) -> trio.SSLStream:
    """Return the stream over TLS, to whom the pin names, or else to whom the system trusts."""
    context = pinned_context() if pin else tls or ssl.create_default_context()
    encrypted = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    await encrypted.do_handshake()
    if pin:
        certificate = encrypted.getpeercert(binary_form=True)
        try:
            found = pin_of(certificate if isinstance(certificate, bytes) else b"")
        except ValueError as error:
            found = f"unreadable ({error})"
        if found != pin:
            raise WrongNode(
                f"{shown} does not have the key that the token names: expected {pin}, met {found}"
            )
    return encrypted


async def _connect(host: str, port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(host, port)
    options = stream.socket
    options.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNSENT_TIMEOUT_S * 1000))
    options.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(UNSENT_TIMEOUT_S / 2))
    options.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(UNSENT_TIMEOUT_S / 4))
    return stream
