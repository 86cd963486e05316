"""WebSocket over real sockets; the client is wsproto's other half, or bytes made by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from wsproto import ConnectionType
from wsproto.connection import Connection as Protocol
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Message as MessageEvent,
    Ping,
    Pong,
    TextMessage,
)

from peernode.http_server import Server, bind, open_server
from peernode.http_service import ApplicationError, Receive, Scope, Send
from peernode.http_stream import Disconnected
from tests.peernode.raw_http import PATIENCE_S, Client, connected, get, respond, serving

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Key and answer of RFC 6455 section 1.3."""
UPGRADE = (
    "upgrade: websocket",
    "connection: Upgrade",
    "sec-websocket-version: 13",
    f"sec-websocket-key: {KEY}",
)


class Peer:
    """The client's side of an accepted WebSocket."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.protocol = Protocol(ConnectionType.CLIENT)
        self.events: list[Event] = []

    async def send(self, *events: Event) -> None:
        """Send all frames in one packet."""
        await self.client.send(b"".join(bytes(self.protocol.send(event)) for event in events))

    async def event(self) -> Event:
        while True:
            if self.client.buffer:
                self.protocol.receive_data(self.client.take(len(self.client.buffer)))
                self.events += self.protocol.events()
            if self.events:
                return self.events.pop(0)
            assert await self.client._more(), "ended"

    async def message(self) -> Any:
        whole: Any = None
        while True:
            event = await self.event()
            assert isinstance(event, MessageEvent), event
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return whole

    async def closed(self) -> CloseConnection:
        event = await self.event()
        assert isinstance(event, CloseConnection), event
        return event


@asynccontextmanager
async def accepted(server: Server, *fields: str) -> AsyncIterator[Peer]:
    async with connected(server) as client:
        answer = await client.ask(get("/ws", *UPGRADE, *fields))
        assert answer.status == 101, answer
        yield Peer(client)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "websocket"
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


class Recorder:
    """An application that accepts, then remembers what it receives until the end."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.ended = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.messages.append((message["code"], message["reason"]))
                assert await receive() == message
                self.ended.set()
                return
            self.messages.append(message.get("bytes", message.get("text")))

    async def wait(self) -> None:
        with trio.fail_after(PATIENCE_S):
            await self.ended.wait()


async def test_the_handshake_is_that_of_the_rfc() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await receive()
        headers = [(b"x-mine", b"1")]
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": headers})

    async with serving(app) as server, connected(server) as client:
        offer = ("sec-websocket-protocol: a, b", "sec-websocket-protocol: c")
        answer = await client.ask(get("/w%20s?x", *UPGRADE, *offer))
        assert answer.status == 101
        assert answer.headers["sec-websocket-accept"] == ACCEPT
        assert answer.headers["sec-websocket-protocol"] == "b"
        assert answer.headers["x-mine"] == "1"
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["connection"].lower() == "upgrade"
        assert (await Peer(client).closed()).code == 1000
    (scope,) = scopes
    assert (scope["type"], scope["scheme"]) == ("websocket", "ws")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/w s", b"/w%20s", b"x")
    assert scope["subprotocols"] == ["a", "b", "c"]
    assert "method" not in scope


async def test_messages_go_both_ways_as_bytes_and_text() -> None:
    async with serving(echo) as server, accepted(server) as peer:
        for data in (b"", b"\x00\xff", b"x" * 126, b"y" * 70_000):
            await peer.send(BytesMessage(data=data))
            assert await peer.message() == data
        for text in ("", "grüße", "☃" * 50_000):
            await peer.send(TextMessage(data=text))
            assert await peer.message() == text


async def test_fragments_become_one_message_with_a_ping_in_between() -> None:
    async with serving(echo) as server, accepted(server) as peer:
        snowman = "☃".encode()
        fragments = [(0x01, snowman[:1]), (0x89, b"hm"), (0x00, snowman[1:2]), (0x80, snowman[2:])]
        for opcode, payload in fragments:
            await peer.client.send(frame(opcode, payload))
        assert isinstance(await peer.event(), Pong)
        assert await peer.message() == "☃"


def frame(first: int, payload: bytes) -> bytes:
    """A client's frame, masked with zeros."""
    assert len(payload) < 126
    return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload


async def test_frames_that_arrive_together_are_received_without_waiting() -> None:
    steps: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        with trio.CancelScope() as scope_of_no_wait:
            scope_of_no_wait.cancel()
            for _ in range(99):
                await receive()
                steps.append(1)
        await send({"type": "websocket.send", "text": "all"})

    async with serving(app) as server, accepted(server) as peer:
        await peer.send(*(BytesMessage(data=b"%d" % number) for number in range(100)))
        assert await peer.message() == "all"
        assert len(steps) == 99


async def test_frames_sent_along_with_the_handshake_are_not_lost() -> None:
    async with serving(echo) as server, connected(server) as client:
        assert (await client.ask(get("/", *UPGRADE) + frame(0x81, b"early"))).status == 101
        assert await Peer(client).message() == "early"


async def test_a_ping_is_answered_with_its_payload() -> None:
    async with serving(echo) as server, accepted(server) as peer:
        await peer.send(Ping(payload=b"hello"))
        assert await peer.event() == Pong(payload=b"hello")


async def test_a_ping_is_answered_even_if_the_application_never_receives() -> None:
    stop = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await stop.wait()

    async with serving(app, websocket_ping_interval_s=0.04) as server, accepted(server) as peer:
        await peer.send(Ping(payload=b"hello"))
        assert await peer.event() == Pong(payload=b"hello")
        stop.set()


async def test_a_silent_peer_is_pinged_and_kept_while_it_answers() -> None:
    limits: dict[str, Any] = {"websocket_ping_interval_s": 0.02}
    async with serving(echo, **limits) as server, accepted(server) as peer:
        for _ in range(5):
            ping = await peer.event()
            assert isinstance(ping, Ping)
            await peer.send(ping.response())
        await peer.send(TextMessage(data="still here"))
        while not isinstance(event := await peer.event(), TextMessage):
            assert isinstance(event, Ping)
        assert event.data == "still here"


async def test_a_peer_that_does_not_answer_a_ping_is_dead() -> None:
    app = Recorder()
    limits: dict[str, Any] = {"websocket_ping_interval_s": 0.02, "websocket_ping_timeout_s": 0.05}
    async with serving(app, **limits) as server, accepted(server) as peer:
        await app.wait()
        assert app.messages == [(1006, "no answer to a ping")]
        assert await peer.client.rest() == frame_of_ping()
        while server.statistics().connections_open:
            await trio.testing.wait_all_tasks_blocked()


def frame_of_ping() -> bytes:
    return b"\x89\x00"


async def test_the_peer_closes_with_a_code() -> None:
    app = Recorder()
    async with serving(app) as server, accepted(server) as peer:
        await peer.send(TextMessage(data="last"), CloseConnection(code=4321, reason="bye"))
        assert (await peer.closed()).code == 4321
        await app.wait()
        assert app.messages == ["last", (4321, "bye")]
        assert await peer.client.rest() == b""


async def test_a_close_without_a_code_is_1005() -> None:
    app = Recorder()
    async with serving(app) as server, accepted(server) as peer:
        await peer.client.send(frame(0x88, b""))
        await app.wait()
        assert app.messages == [(1005, "")]


async def test_a_peer_that_leaves_without_a_word_is_1006() -> None:
    app = Recorder()
    async with serving(app) as server:
        async with accepted(server):
            pass
        await app.wait()
        assert app.messages == [(1006, "")]


async def test_the_application_closes_with_a_code() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        assert (await receive())["code"] == 4000
        with pytest.raises(Disconnected):
            await send({"type": "websocket.send", "text": "too late"})

    async with serving(app) as server, accepted(server) as peer:
        close = await peer.closed()
        assert (close.code, close.reason) == (4000, "enough")
        await peer.send(close.response())
        assert await peer.client.rest() == b""


async def test_a_peer_that_does_not_answer_a_close_is_not_waited_for_long() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    async with serving(app, websocket_close_timeout_s=0.05) as server, accepted(server) as peer:
        assert (await peer.closed()).code == 1000
        assert await peer.client.rest() == b""


async def test_an_exception_closes_with_1011() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise KeyError("secret")

    async with serving(app, errors=[KeyError]) as server, accepted(server) as peer:
        close = await peer.closed()
        assert (close.code, close.reason) == (1011, "")
        await peer.send(close.response())


@pytest.mark.parametrize("kind", [0x01, 0x02])
async def test_a_message_over_the_limit_closes_with_1009(kind: int) -> None:
    app = Recorder()
    async with serving(app, websocket_message_max_bytes=200) as server, accepted(server) as peer:
        await peer.client.send(frame(0x80 | kind, b"x" * 100))
        await peer.client.send(frame(kind, b"x" * 100), frame(0x80, b"x" * 101))
        close = await peer.closed()
        assert close.code == 1009
        assert "websocket_message_max_bytes" in (close.reason or "")
        await app.wait()
        assert len(app.messages) == 2
        assert app.messages[1][0] == 1009
        await peer.send(close.response())


async def test_text_is_measured_in_bytes() -> None:
    app = Recorder()
    async with serving(app, websocket_message_max_bytes=120) as server, accepted(server) as peer:
        await peer.send(TextMessage(data="☃" * 40))
        await peer.send(TextMessage(data="☃" * 41))
        assert (await peer.closed()).code == 1009


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(0x81, b"\xff"), 1007),
        (frame(0x01, b"\xe2\x98") + frame(0x80, b"x"), 1007),
        (frame(0x88, b"\x03\xe8\xff"), 1007),
        (frame(0x80, b"nothing to continue"), 1002),
        (frame(0x01, b"a") + frame(0x81, b"b"), 1002),
        (frame(0x83, b""), 1002),
        (frame(0xC1, b"reserved bit"), 1002),
        (frame(0x09, b"fragmented ping"), 1002),
        (frame(0x88, b"\x00"), 1002),
        (frame(0x88, b"\x03\xee"), 1002),
        (b"\x81\x05hello", 1002),
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1002),
    ],
)
async def test_malformed_frames_close_with_the_right_code(sent: bytes, code: int) -> None:
    app = Recorder()
    async with serving(app) as server, accepted(server) as peer:
        await peer.client.send(sent, b"and then rubbish" * 10)
        assert (await peer.closed()).code == code
        await app.wait()
        assert app.messages[-1][0] == code
        assert await peer.client.rest() == b""


async def test_a_close_before_the_accept_is_a_403() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})
        assert (await receive())["type"] == "websocket.disconnect"

    async with serving(app) as server, connected(server) as client:
        answer = await client.ask(get("/", *UPGRADE))
        assert (answer.status, answer.json()["code"]) == (403, "forbidden")
        assert await client.rest() == b""


async def test_an_application_can_reject_with_a_response_of_its_own() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "websocket.http.response" in scope["extensions"]
        await receive()
        start = {"status": 401, "headers": [(b"www-authenticate", b"Bearer")]}
        await send({"type": "websocket.http.response.start", **start})
        await send({"type": "websocket.http.response.body", "body": b"to", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"ken"})

    async with serving(app) as server, connected(server) as client:
        answer = await client.ask(get("/", *UPGRADE))
        assert (answer.status, answer.body) == (401, b"token")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert await client.rest() == b""


@pytest.mark.parametrize("error", [KeyError, ApplicationError])
async def test_a_failure_before_the_accept_is_a_500(error: type[Exception]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if error is KeyError:
            raise KeyError

    async with serving(app, errors=[error]) as server, connected(server) as client:
        answer = await client.ask(get("/", *UPGRADE))
        assert (answer.status, answer.json()["code"]) == (500, "internal")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({"type": "websocket.accept", "subprotocol": "not offered"}, 500),
        ({"type": "websocket.accept", "headers": [(b"x", b"1\r\ny: 2")]}, 500),
        ({"type": "websocket.send", "text": "too early"}, 500),
    ],
)
async def test_a_broken_contract_is_the_applications_fault(
    message: dict[str, Any], status: int
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(message)

    async with serving(app, errors=[ApplicationError]) as server, connected(server) as client:
        assert (await client.ask(get("/", *UPGRADE))).status == status


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (get("/", *UPGRADE[:3]), 400),
        (get("/", *UPGRADE[:3], "sec-websocket-key: short"), 400),
        (get("/", *UPGRADE, f"sec-websocket-key: {KEY}"), 400),
        (get("/", *UPGRADE, "content-length: 3") + b"abc", 400),
        (get("/", *UPGRADE, "transfer-encoding: chunked") + b"0\r\n\r\n", 400),
        (get("/", *UPGRADE, method="POST"), 400),
        (get("/", *UPGRADE, version="1.0"), 400),
        (get("/", *UPGRADE[:2], "sec-websocket-version: 8", UPGRADE[3]), 426),
        (get("/", *UPGRADE[:2], UPGRADE[3]), 426),
    ],
)
async def test_a_bad_handshake_does_not_reach_the_application(asked: bytes, status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async with serving(app) as server, connected(server) as client:
        answer = await client.ask(asked)
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers.get("sec-websocket-version") == ("13" if status == 426 else None)


async def test_a_handshake_waits_for_the_answers_before_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(send, b"first")
        else:
            await echo(scope, receive, send)

    async with serving(app) as server, connected(server) as client:
        await client.send(get() + get("/", *UPGRADE) + frame(0x82, b"early"))
        assert (await client.answer()).body == b"first"
        assert (await client.answer()).status == 101
        assert await Peer(client).message() == b"early"


async def test_an_application_that_sends_is_held_back_by_its_peer() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(200):
            await send({"type": "websocket.send", "bytes": b"x" * (1 << 18)})
            sent += 1

    async with serving(app, deadline_scan_interval_s=1.0) as server, accepted(server) as peer:
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sent < 100
        for _ in range(200):
            assert len(await peer.message()) == 1 << 18


async def test_a_peer_that_sends_is_held_back_by_the_application() -> None:
    begin = trio.Event()
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await begin.wait()
        for _ in range(200):
            assert len((await receive())["bytes"]) == 1 << 18
        await send({"type": "websocket.send", "text": "got them"})

    async with (
        serving(app, deadline_scan_interval_s=1.0) as server,
        accepted(server) as peer,
        trio.open_nursery() as nursery,
    ):

        async def push() -> None:
            nonlocal sent
            message = b"\x82\xff" + (1 << 18).to_bytes(8, "big") + bytes(4) + bytes(1 << 18)
            for _ in range(200):
                await peer.client.send(message)
                sent += 1

        nursery.start_soon(push)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sent < 100
        begin.set()
        assert await peer.message() == "got them"


async def test_sends_from_two_tasks_do_not_interleave() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def push(byte: bytes) -> None:
            for _ in range(20):
                await send({"type": "websocket.send", "bytes": byte * (1 << 18)})

        async with trio.open_nursery() as nursery:
            for byte in (b"a", b"b", b"c"):
                nursery.start_soon(push, byte)

    async with serving(app) as server, accepted(server) as peer:
        for _ in range(60):
            message = await peer.message()
            assert message == message[:1] * (1 << 18)


async def test_shutdown_closes_websockets_with_1001() -> None:
    receiving, busy = Recorder(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if "x-busy" in [name.decode() for name, _ in scope["headers"]]:
            await receive()
            await send({"type": "websocket.accept"})
            await busy.wait()
            with pytest.raises(Disconnected):
                await send({"type": "websocket.send", "text": "late"})
        else:
            await receiving(scope, receive, send)

    server = Server(app)
    shutdown = trio.Event()
    listeners = await bind("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.serve(listeners, shutdown=shutdown))
        await trio.testing.wait_all_tasks_blocked()
        async with accepted(server) as one, accepted(server, "x-busy: 1") as other:
            assert server.statistics().websockets_open == 2
            shutdown.set()
            for peer in (one, other):
                close = await peer.closed()
                assert close.code == 1001
                await peer.send(close.response())
            await receiving.wait()
            assert receiving.messages == [(1001, "the server shuts down")]
            busy.set()
            assert await one.client.rest() == b""
            assert await other.client.rest() == b""
    assert server.statistics().websockets_open == 0


async def test_each_websocket_is_told_to_the_hook_when_it_ends() -> None:
    told: list[tuple[str, int]] = []

    def on_request(scope: Scope, status: int, duration_s: float) -> None:
        told.append((scope["type"], status))

    async with open_server(echo, on_request=on_request) as server, accepted(server) as peer:
        await peer.send(CloseConnection(code=1000))
        await peer.closed()
        await peer.client.rest()
    assert told == [("websocket", 101)]
