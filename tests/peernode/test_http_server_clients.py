"""The server under what people use: Starlette on it, httpx against it, TLS around it."""

import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
import trio
import trio.testing
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from wsproto.events import CloseConnection, TextMessage

from peernode.http_server import Server, open_server
from peernode.http_service import Receive, Scope, Send
from tests.peernode.raw_http import (
    PATIENCE_S,
    Client,
    Errors,
    connected,
    echo as echo_request,
    get,
    post,
    serving,
)
from tests.peernode.test_http_server_websocket import UPGRADE, Peer


class Site:
    """A Starlette application with one of everything."""

    def __init__(self) -> None:
        self.proceed = trio.Event()
        self.ended = trio.Event()
        self.app = Starlette(
            routes=[
                Route("/json/{name}", self.json),
                Route("/upload", self.upload, methods=["POST"]),
                Route("/download", self.download),
                Route("/events", self.events),
                Route("/fault", self.fault),
                WebSocketRoute("/echo", self.echo),
            ],
        )

    async def json(self, request: Request) -> Response:
        return JSONResponse({"name": request.path_params["name"], "q": dict(request.query_params)})

    async def upload(self, request: Request) -> Response:
        size = 0
        async for part in request.stream():
            size += len(part)
        return JSONResponse({"size": size})

    async def download(self, request: Request) -> Response:
        size = int(request.query_params["size"])

        async def parts() -> AsyncIterator[bytes]:
            for begin in range(0, size, 65536):
                yield b"x" * min(65536, size - begin)

        return StreamingResponse(parts(), headers={"content-length": str(size)})

    async def events(self, request: Request) -> Response:
        async def lines() -> AsyncIterator[str]:
            try:
                yield "data: 1\n\n"
                await self.proceed.wait()
                yield "data: 2\n\n"
                await trio.sleep_forever()
            finally:
                self.ended.set()

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def fault(self, request: Request) -> Response:
        raise LookupError

    async def echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)


def url(server: Server, path: str, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.port}{path}"


async def test_starlette_and_httpx_get_along() -> None:
    async with serving(Site().app) as server, httpx.AsyncClient(timeout=PATIENCE_S) as client:
        answer = await client.get(url(server, "/json/ada?x=%C3%A9"))
        assert answer.json() == {"name": "ada", "q": {"x": "é"}}
        assert (await client.get(url(server, "/none"))).status_code == 404
        assert (await client.head(url(server, "/json/ada"))).content == b""
        assert (await client.post(url(server, "/upload"), content=b"abc")).json() == {"size": 3}

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 1000

        assert (await client.post(url(server, "/upload"), content=parts())).json() == {"size": 3000}
        assert server.statistics().connections_accepted == 1


async def test_server_sent_events_arrive_at_once_and_end_with_the_client() -> None:
    site = Site()
    async with serving(site.app) as server:
        async with connected(server) as client:
            await client.send(get("/events"))
            assert (await client.head()).headers["content-type"].startswith("text/event-stream")
            await client.until(b"data: 1\n\n")
            site.proceed.set()
            await client.until(b"data: 2\n\n")
        with trio.fail_after(PATIENCE_S):
            await site.ended.wait()


async def test_a_starlette_websocket_echoes() -> None:
    async with serving(Site().app) as server, connected(server) as client:
        assert (await client.ask(get("/echo", *UPGRADE))).status == 101
        peer = Peer(client)
        await peer.send(*(TextMessage(data=str(number)) for number in range(20)))
        assert [await peer.message() for _ in range(20)] == [str(number) for number in range(20)]
        await peer.send(CloseConnection(code=1000))
        assert (await peer.closed()).code == 1000


async def test_a_fault_in_starlette_is_reported_and_starlettes_answer_sent() -> None:
    async with (
        serving(Site().app, errors=[LookupError]) as server,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):
        assert (await client.get(url(server, "/fault"))).status_code == 500
        assert (await client.get(url(server, "/json/x"))).status_code == 200


async def test_a_starlette_upload_that_is_given_up_bothers_nobody() -> None:
    async with serving(Site().app) as server:
        async with connected(server) as client:
            await client.send(get("/upload", "content-length: 9", method="POST"), b"abc")
            while server.statistics().requests < 1:
                await trio.testing.wait_all_tasks_blocked()
        while server.statistics().connections_open:
            await trio.testing.wait_all_tasks_blocked()


async def test_an_early_answer_to_a_large_upload_reaches_the_client() -> None:
    async with serving(Site().app) as server, connected(server) as client:
        with suppress(trio.BrokenResourceError):  # The server need not read all of that.
            await client.send(post(bytes(16 << 20), target="/json/ada"))
        assert (await client.answer()).status == 405


@pytest.mark.slow
async def test_large_bodies_take_no_memory() -> None:
    size = 100 << 20
    async with (
        serving(Site().app, deadline_scan_interval_s=0.5) as server,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(size >> 20):
                yield bytes(1 << 20)

        await client.post(url(server, "/upload"), content=b"warm")
        tracemalloc.start()
        try:
            answer = await client.post(url(server, "/upload"), content=parts())
            assert answer.json() == {"size": size}
            received = 0
            async with client.stream("GET", url(server, f"/download?size={size}")) as download:
                async for part in download.aiter_raw():
                    received += len(part)
            assert received == size
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_the_same_over_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with (
        serving(Site().app, tls=server_tls) as server,
        httpx.AsyncClient(verify=client_tls, timeout=PATIENCE_S) as client,
    ):
        assert (await client.get(url(server, "/json/ada", "https"))).json()["name"] == "ada"
        large = bytes(3 << 20)
        answer = await client.post(url(server, "/upload", "https"), content=large)
        assert answer.json() == {"size": len(large)}
        answer = await client.get(url(server, "/download?size=5000000", "https"))
        assert len(answer.content) == 5_000_000
        assert server.statistics().connections_accepted == 1


async def secure(server: Server, client_tls: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    return trio.SSLStream(stream, client_tls, server_hostname="127.0.0.1", https_compatible=True)


async def test_tls_scopes_say_so_and_pipelining_and_websockets_work(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    schemes: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        if scope["type"] == "http":
            await echo_request(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    async with serving(app, tls=server_tls) as server:
        client = Client(await secure(server, client_tls))
        await client.send(get("/1") + post(b"x" * 100_000, target="/2") + get("/3"))
        for path in ("/1", "/2", "/3"):
            assert (await client.answer()).json()["path"] == path
        assert (await client.ask(get("/ws", *UPGRADE))).status == 101
        peer = Peer(client)
        await peer.send(TextMessage(data="secret"))
        assert await peer.message() == "secret"
        close = await peer.closed()
        await peer.send(close.response())
        assert await client.rest() == b""
        await client.stream.aclose()
    assert schemes == ["https", "https", "https", "wss"]


async def test_the_end_of_a_tls_stream_is_authentic(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving(echo_request, tls=server_tls) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        strict = trio.SSLStream(stream, client_tls, server_hostname="127.0.0.1")
        client = Client(strict)
        await client.ask(get("/", "connection: close"))
        # Without close_notify this raises: a truncated answer would look like a whole one.
        with trio.fail_after(PATIENCE_S):
            assert await strict.receive_some(1) == b""
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", bytes(999)]
)
async def test_a_failed_or_stalled_handshake_ends_one_connection_only(
    sent: bytes, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving(echo_request, tls=server_tls, tls_handshake_timeout_s=0.2) as server:
        async with connected(server) as client:
            await client.send(sent)
            assert b"HTTP" not in await client.rest()
        client = Client(await secure(server, client_tls))
        assert (await client.ask(get())).status == 200
        await trio.aclose_forcefully(client.stream)


async def test_a_stalled_head_over_tls_is_a_408(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving(echo_request, tls=server_tls, header_timeout_s=0.2) as server:
        client = Client(await secure(server, client_tls))
        assert (await client.ask(b"GET / HTT")).status == 408
        assert await client.rest() == b""
        await trio.aclose_forcefully(client.stream)


async def test_shutdown_closes_idle_tls_connections(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with open_server(echo_request, tls=server_tls, on_error=Errors()) as server:
        client = Client(await secure(server, client_tls))
        assert (await client.ask(get())).status == 200
    assert await client.rest() == b""
    await trio.aclose_forcefully(client.stream)
