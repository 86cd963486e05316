"""Malformed, oversized, slow and random clients: each is refused, and the server lives on."""

import socket
import struct
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings, strategies as st

from peernode.http_server import Server
from peernode.http_service import Receive, Scope, Send
from peernode.http_stream import Disconnected
from tests.peernode.raw_http import (
    PATIENCE_S,
    Answer,
    Client,
    chunked,
    connected,
    echo,
    get,
    post,
    respond,
    serving,
)

HOST = b"host: test\r\n"


async def untouched(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(f"the application was asked {scope['path']}")


async def all_closed(server: Server) -> None:
    while server.statistics().connections_open:
        await trio.testing.wait_all_tasks_blocked()


async def still_answers(server: Server) -> None:
    async with connected(server) as client:
        assert (await client.ask(get("/fine"))).json()["path"] == "/fine"


def is_problem(answer: Answer, status: int, code: str, limit: str = "") -> None:
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert (answer.status, problem["status"], problem["code"]) == (status, status, code)
    assert set(problem) >= {"type", "title", "detail", "retryable"}
    if limit:
        assert limit in problem["detail"]
        assert str(problem["limit"]) in problem["detail"]


MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "unknown method": b"FOO / HTTP/1.1\r\nhost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
    "host with a space": b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n c\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\n" + HOST + b"a : b\r\n\r\n",
    "nameless header": b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n\r\n",
    "nul in a header": b"GET / HTTP/1.1\r\n" + HOST + b"a: \x00\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "bare carriage return": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\rc: d\r\n\r\n",
    "length and coding": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"content-length: 2\r\ncontent-length: 2\r\n\r\nab",
    "list of lengths": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 2, 2\r\n\r\nab",
    "signed length": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: +2\r\n\r\nab",
    "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: -2\r\n\r\nab",
    "hexadecimal length": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 0x2\r\n\r\nab",
    "endless length": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: " + b"9" * 30 + b"\r\n\r\n",
    "empty length": b"POST / HTTP/1.1\r\n" + HOST + b"content-length:\r\n\r\n",
    "coding in 1.0": b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
    "path not utf-8": b"GET /%ff HTTP/1.1\r\n" + HOST + b"\r\n",
    "path with nul": b"GET /a%00b HTTP/1.1\r\n" + HOST + b"\r\n",
    "raw bytes in the path": b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "another scheme": b"GET ftp://a/b HTTP/1.1\r\n" + HOST + b"\r\n",
    "user in the target": b"GET http://u:p@a/b HTTP/1.1\r\n" + HOST + b"\r\n",
    "star without options": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "upgrade with a body": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 30\r\n\r\n"
    + b"GET /smuggled HTTP/1.1\r\nhost: x",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_is_a_400(name: str) -> None:
    async with serving(untouched) as server, connected(server) as client:
        answer = await client.ask(MALFORMED[name])
        is_problem(answer, 400, "bad_request")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, "http_version"),
        (b"GET /\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505, "http_version"),
        (b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", 501, "not_implemented"),
        (get("/", "transfer-encoding: gzip", method="POST"), 501, "not_implemented"),
        (get("/", "transfer-encoding: gzip, chunked", method="POST"), 501, "not_implemented"),
    ],
)
async def test_what_is_not_spoken_here_is_said_so(asked: bytes, status: int, code: str) -> None:
    async with serving(untouched) as server, connected(server) as client:
        is_problem(await client.ask(asked), status, code)
        assert await client.rest() == b""


async def test_a_broken_request_is_refused_after_the_good_ones_are_answered() -> None:
    async with serving(echo) as server, connected(server) as client:
        await client.send(get("/1") + get("/2") + b"rubbish\r\n\r\n" + get("/3"))
        assert (await client.answer()).json()["path"] == "/1"
        assert (await client.answer()).json()["path"] == "/2"
        is_problem(await client.answer(), 400, "bad_request")
        assert await client.rest() == b""


@pytest.mark.parametrize("wait", [True, False])
async def test_a_broken_chunk_is_a_400_and_the_application_sees_a_disconnect(wait: bool) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while seen[-1:] != ["http.disconnect"]:
            seen.append((await receive())["type"])
        with pytest.raises(Disconnected):
            await respond(send)

    head = get("/", "transfer-encoding: chunked", method="POST")
    async with serving(app) as server, connected(server) as client:
        parts = [head, b"1\r\na\r\n", b"zz\r\n"]
        await client.send(*(parts if wait else [b"".join(parts)]))
        answer = await client.answer()
        is_problem(answer, 400, "bad_request")
        assert await client.rest() == b""


async def test_the_absolute_form_names_path_and_host() -> None:
    async with serving(echo) as server, connected(server) as client:
        seen = (await client.ask(get("http://other:81/a%20b?c"))).json()
        assert (seen["path"], seen["raw_path"], seen["query"]) == ("/a b", "/a%20b", "c")
        assert seen["headers"] == [["host", "other:81"]]
        assert (await client.ask(get("https://[::1]?d"))).json()["headers"] == [["host", "[::1]"]]
        assert (await client.ask(get("http://other"))).json()["path"] == "/"


async def test_options_star_reaches_the_application() -> None:
    async with serving(echo) as server, connected(server) as client:
        assert (await client.ask(get("*", method="OPTIONS"))).json()["path"] == "*"


async def test_an_offer_to_speak_another_protocol_is_ignored() -> None:
    async with serving(echo) as server, connected(server) as client:
        offer = get("/1", "upgrade: h2c", "connection: upgrade, http2-settings")
        await client.send(offer + offer.replace(b" /1", b" /2") + get("/3"))
        for path in ("/1", "/2", "/3"):
            assert (await client.answer()).json()["path"] == path


async def test_trailers_do_not_become_headers() -> None:
    async with serving(echo) as server, connected(server) as client:
        asked = chunked(b"a")[:-2] + b"authorization: stolen\r\n\r\n"
        for _ in range(2):
            seen = (await client.ask(asked)).json()
            assert seen["body"] == "a"
            assert "authorization" not in dict(seen["headers"])


LIMITS = [
    ("header_size_max_bytes", 1000, get("/", "a: " + "x" * 1001), 431, "headers_too_large"),
    (
        "header_size_max_bytes",
        1000,
        get("/", *["a: xxxxxxxxxxxxxxx"] * 90),
        431,
        "headers_too_large",
    ),
    ("header_size_max_bytes", 1000, get("/", "x" * 5000), 431, "headers_too_large"),
    ("header_count_max", 10, get("/", *["a: b"] * 10), 431, "headers_too_large"),
    ("target_size_max_bytes", 100, get("/" + "x" * 100), 414, "target_too_long"),
]


@pytest.mark.parametrize(("limit", "value", "asked", "status", "code"), LIMITS)
async def test_a_head_over_a_limit_is_refused_by_name(
    limit: str, value: int, asked: bytes, status: int, code: str
) -> None:
    sizes: dict[str, Any] = {limit: value, "head_read_size_bytes": 64}
    async with serving(untouched, **sizes) as server:
        async with connected(server) as client:
            is_problem(await client.ask(asked), status, code, limit)
            assert await client.rest() == b""
        async with connected(server) as client:
            pieces = [asked[begin : begin + 50] for begin in range(0, len(asked), 50)]
            is_problem(await client.ask(*pieces), status, code, limit)


async def test_a_head_just_under_the_limits_is_answered() -> None:
    limits: dict[str, Any] = {
        "header_size_max_bytes": 1000,
        "header_count_max": 10,
        "target_size_max_bytes": 100,
    }
    async with serving(echo, **limits) as server, connected(server) as client:
        asked = get("/" + "x" * 99, *["a: b"] * 8, "b: " + "x" * 850)
        assert (await client.ask(asked)).status == 200


@pytest.mark.parametrize(
    "endless",
    [
        get("/").rstrip() + b"\r\na: ",
        get("/").rstrip() + b"\r\n",
        b"GET /",
        b"\r\n",
        get("/", "transfer-encoding: chunked", method="POST") + b"1;",
        get("/", "transfer-encoding: chunked", method="POST") + b"0\r\na: ",
    ],
    ids=["header value", "header name", "target", "nothing", "chunk extension", "trailer"],
)
async def test_what_never_ends_is_not_kept(endless: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    filler = (b"\r\n" if endless == b"\r\n" else b"xx") * 500
    async with serving(app, unread_body_max_bytes=10_000) as server, connected(server) as client:
        await client.send(endless)
        sent = 0
        try:
            while sent < 5 << 20:
                await client.send(filler)
                sent += len(filler)
        except trio.BrokenResourceError:
            pass
        assert sent < 5 << 20
        assert b" 431 " in await client.rest() or endless == b"GET /" or not client.buffer


async def test_more_pipelined_requests_than_allowed_end_the_connection_in_order() -> None:
    async with serving(echo, requests_pipelined_max=4) as server, connected(server) as client:
        await client.send(b"".join(get(f"/{number}") for number in range(10)))
        for number in range(4):
            assert (await client.answer()).json()["path"] == f"/{number}"
        is_problem(await client.answer(), 400, "pipeline_too_long", "requests_pipelined_max")


async def test_one_connection_too_many_is_told_so() -> None:
    async with serving(echo, connections_max=2) as server:
        async with connected(server) as first, connected(server) as second:
            await first.ask(get())
            await second.ask(get())
            async with connected(server) as third:
                answer = await third.answer()
                is_problem(answer, 503, "overloaded", "connections_max")
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["retryable"] is True
            assert (await first.ask(get())).status == 200
        statistics = server.statistics()
        assert (statistics.connections_accepted, statistics.connections_refused) == (2, 1)
        await all_closed(server)
        await still_answers(server)


async def test_one_connection_too_many_from_an_address_is_told_so() -> None:
    async with serving(echo, connections_per_address_max=1) as server:
        async with connected(server) as first:
            await first.ask(get())
            async with connected(server) as second:
                answer = await second.answer()
                is_problem(answer, 503, "overloaded", "connections_per_address_max")
            other = socket.create_connection(("127.0.0.1", server.port), 1, ("127.0.0.2", 0))
            async with trio.SocketStream(trio.socket.from_stdlib_socket(other)) as stream:
                assert (await Client(stream).ask(get())).status == 200
        await all_closed(server)
        await still_answers(server)


@pytest.mark.parametrize("first", [b"", get("/fine")])
async def test_a_head_that_does_not_end_is_a_408(first: bytes) -> None:
    async with serving(echo, header_timeout_s=0.1) as server, connected(server) as client:
        if first:
            await client.ask(first)
        answer = await client.ask(b"GET / HTTP/1.1\r\nhost: ")
        is_problem(answer, 408, "request_timeout", "header_timeout_s")
        assert await client.rest() == b""


async def test_a_head_that_drips_is_a_408() -> None:
    async with (
        serving(echo, header_timeout_s=0.1) as server,
        connected(server) as client,
        trio.open_nursery() as nursery,
    ):

        async def drip() -> None:
            await client.send(b"GET / HTTP/1.1\r\n")
            while True:
                await client.send(b"a: b\r\n")
                await trio.testing.wait_all_tasks_blocked(0.002)

        nursery.start_soon(drip)
        is_problem(await client.answer(), 408, "request_timeout", "header_timeout_s")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", [b"", get("/fine"), b"\r\n"])
async def test_an_idle_connection_is_closed_without_a_word(first: bytes) -> None:
    limits: dict[str, Any] = {"idle_timeout_s": 0.1, "header_timeout_s": 0.1}
    async with serving(echo, **limits) as server, connected(server) as client:
        if first == get("/fine"):
            await client.ask(first)
        else:
            await client.send(first)
        assert await client.rest() == b""


async def test_a_body_that_stops_is_a_408_and_the_application_sees_a_disconnect() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while seen[-1:] != ["http.disconnect"]:
            seen.append((await receive())["type"])

    async with serving(app, body_idle_timeout_s=0.05) as server, connected(server) as client:
        answer = await client.ask(get("/", "content-length: 9", method="POST"), b"abc")
        is_problem(answer, 408, "request_timeout", "body_idle_timeout_s")
    assert seen[-1] == "http.disconnect"


@pytest.mark.slow
async def test_a_body_that_drips_is_a_408() -> None:
    async with (
        serving(echo, body_idle_timeout_s=0.3, body_rate_min_bytes_per_s=100_000) as server,
        connected(server) as client,
        trio.open_nursery() as nursery,
    ):

        async def drip() -> None:
            await client.send(get("/", "content-length: 99999", method="POST"))
            while True:
                await client.send(b"x")
                await trio.testing.wait_all_tasks_blocked(0.002)

        nursery.start_soon(drip)
        answer = await client.answer()
        is_problem(answer, 408, "request_timeout", "body_rate_min_bytes_per_s")
        nursery.cancel_scope.cancel()


async def test_an_unread_body_that_stops_closes_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"early")

    async with serving(app, body_idle_timeout_s=0.05) as server, connected(server) as client:
        await client.send(get("/", "content-length: 9", method="POST"), b"abc")
        assert (await client.answer()).body == b"early"
        assert await client.rest() == b""


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await respond(send, b"x" * (64 << 20))
        except OSError:
            ended.set()
            raise

    async with serving(app, write_stall_timeout_s=0.05) as server, connected(server) as client:
        await client.send(get())
        with trio.fail_after(PATIENCE_S):
            await ended.wait()
        await all_closed(server)


async def test_a_reset_ends_one_connection_only() -> None:
    async with serving(echo) as server:
        async with connected(server) as client:
            await client.send(get("/", "content-length: 9", method="POST"))
            client.stream.socket.setsockopt(  # type: ignore[attr-defined]
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        await still_answers(server)


async def test_a_send_that_was_given_up_half_way_ends_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.02):
            await respond(send, b"x" * (64 << 20))

    async with serving(app) as server, connected(server) as client:
        await client.send(get())
        await all_closed(server)
        assert len(await client.rest()) < 64 << 20


SAMPLES = [
    get("/a?b=c", "accept: */*"),
    post(b"hello", "x: y"),
    chunked(b"one", b"two"),
    get("/ws", "upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13").replace(
        b"\r\n\r\n", b"\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    + b"\x81\x85\x01\x02\x03\x04hello\x88\x80abcd",
    get("/", "expect: 100-continue", "content-length: 3", method="PUT") + b"abc",
    get("http://a/b") + get("/", version="1.0"),
]

PIECES = st.sampled_from(
    [
        b"\r\n", b"\n", b"\x00", b" ", b":", b"\xff", b"0", b"-1", b"chunked", b"close", b"upgrade",
        b"transfer-encoding: chunked\r\n", b"content-length: 5\r\n", b"host: b\r\n",
        b"expect: 100-continue\r\n", b"%ff", b"*", b"HTTP/1.0", b"GET / HTTP/1.1\r\n",
    ],
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """One or two good requests with a few pieces cut out, doubled, overwritten or put in."""
    data = b"".join(draw(st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 20)))
        middle = draw(st.one_of(PIECES, st.binary(max_size=4), st.just(data[begin:end] * 2)))
        data = data[:begin] + middle + data[end:]
    return data


@st.composite
def cut(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    whole = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    edges = [0, *cuts, len(whole)]
    return [whole[a:b] for a, b in pairwise(edges) if a != b]


async def both(scope: Scope, receive: Receive, send: Send) -> None:
    """An echo that also takes WebSockets, and minds nothing a client does."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        return
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    await respond(send, scope["raw_path"])


@pytest.mark.slow
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.one_of(cut(mutated()), cut(st.binary(max_size=200))), min_size=1, max_size=5))
@example([[sample] for sample in SAMPLES])
def test_no_bytes_end_the_server(clients: list[list[bytes]]) -> None:
    async def main() -> None:
        async with serving(both) as server:
            for parts in clients:
                async with connected(server) as client:
                    try:
                        await client.send(*parts)
                        await client.stream.send_eof()  # type: ignore[attr-defined]
                        answered = await client.rest()
                    except trio.BrokenResourceError:
                        continue
                    assert not answered or answered.startswith(b"HTTP/1.1 ")
            async with connected(server) as client:
                assert (await client.ask(get("/fine"))).body == b"/fine"

    trio.run(main)


async def test_the_fuzzed_requests_are_good_ones_before_they_are_mutated() -> None:
    async with serving(both) as server:
        for sample in SAMPLES:
            async with connected(server) as client:
                assert (await client.ask(sample)).status in (100, 101, 200)
