"""A node's end of a WebSocket link, for tests: one connection, straight over trio and wsproto."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Pong,
    RejectConnection,
    Request,
)

from worker.link import FromWorkerBatch, Link, LinkClosed, decode_batch, encode_batch
from worker.protocol import Message
from worker.websocket_link import open_websocket_link

TARGET = "/worker/7/attach"
TOKEN = "t0ken"


class WebSocketNodeEnd:
    """The node's end, accepted or rejected by `accept`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self.pongs = 0
        self._parts: list[bytes] = []
        self._messages: list[Message] = []

    async def accept(self, status: int = 101) -> Request:
        """Answer the upgrade; 101 accepts it."""
        while True:
            self.connection.receive_data(await self.stream.receive_some())
            for event in self.connection.events():
                assert isinstance(event, Request)
                answer = (
                    AcceptConnection() if status == 101 else RejectConnection(status_code=status)
                )
                await self.stream.send_all(self.connection.send(answer))
                return event

    async def send(self, messages: Sequence[Message]) -> None:
        for part in encode_batch(messages):
            await self.write(self.connection.send(BytesMessage(data=part)))

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkClosed from error

    async def receive(self) -> list[Message]:
        while not self._messages:
            try:
                data = await self.stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise LinkClosed from error
            self.connection.receive_data(data or None)
            for event in self.connection.events():
                match event:
                    case BytesMessage():
                        self._parts.append(bytes(event.data))
                        if event.message_finished:
                            whole = b"".join(self._parts)
                            self._parts.clear()
                            self._messages += decode_batch(whole, FromWorkerBatch)
                    case CloseConnection():
                        raise LinkClosed
                    case Pong():
                        self.pongs += 1
        ready, self._messages = self._messages, []
        return ready

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


@asynccontextmanager
async def open_websocket_node(
    handle: Callable[[WebSocketNodeEnd], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Listen on this machine; yields the address to attach to."""

    async def serve(stream: trio.abc.Stream) -> None:
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        async with stream:
            await handle(WebSocketNodeEnd(stream))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}{TARGET}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_websocket_pair() -> AsyncIterator[tuple[Link, Link]]:
    """Yield both ends of a link over a real connection."""
    sending, receiving = trio.open_memory_channel[WebSocketNodeEnd](0)

    async def handle(end: WebSocketNodeEnd) -> None:
        await end.accept()
        await sending.send(end)
        await trio.sleep_forever()

    async with open_websocket_node(handle) as url:
        worker = await open_websocket_link(url, TOKEN)
        yield worker, await receiving.receive()
        await worker.aclose()
