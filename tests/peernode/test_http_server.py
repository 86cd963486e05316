"""HTTP over real sockets: what a client and an application may count on."""

import json
import socket
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from peernode.http_server import Config, Server, bind, open_server
from peernode.http_service import ApplicationError, Receive, Scope, Send
from peernode.http_stream import Disconnected
from tests.peernode.raw_http import (
    PATIENCE_S,
    Client,
    Errors,
    chunked,
    connected,
    echo,
    get,
    post,
    read_body,
    respond,
    serving,
)


async def test_a_get_is_answered_with_length_and_date() -> None:
    async with serving(echo) as server, connected(server) as client:
        answer = await client.ask(get("/a/b?x=1&y"))
        assert (answer.status, answer.version) == (200, "HTTP/1.1")
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.headers["date"].endswith("GMT")
        assert "connection" not in answer.headers
        assert answer.json() == {
            "method": "GET",
            "path": "/a/b",
            "raw_path": "/a/b",
            "query": "x=1&y",
            "version": "1.1",
            "headers": [["host", "test"]],
            "body": "",
        }


async def test_the_scope_is_what_asgi_says() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send)

    async with serving(app) as server, connected(server) as client:
        await client.ask(get("/caf%C3%A9%2F?q=%20", "X-Some: Thing"))
        local = client.stream.socket.getsockname()  # type: ignore[attr-defined]
    (scope,) = scopes
    assert scope["type"] == "http"
    assert scope["asgi"]["version"] == "3.0"
    assert scope["path"] == "/café/"
    assert scope["raw_path"] == b"/caf%C3%A9%2F"
    assert scope["query_string"] == b"q=%20"
    assert scope["headers"] == [(b"host", b"test"), (b"x-some", b"Thing")]
    assert (scope["scheme"], scope["root_path"]) == ("http", "")
    assert scope["client"] == local
    assert scope["server"] == ("127.0.0.1", server.port)


async def test_a_connection_carries_many_requests() -> None:
    async with serving(echo) as server, connected(server) as client:
        for number in range(5):
            assert (await client.ask(get(f"/{number}"))).json()["path"] == f"/{number}"
        assert server.statistics().requests == 5
        assert server.statistics().connections_accepted == 1
        assert server.statistics().connections_open == 1


async def test_pipelined_requests_never_mix() -> None:
    async with serving(echo) as server, connected(server) as client:
        await client.send(
            get("/1", "x: one"),
            post(b"two", "x: two", target="/2"),
            chunked(b"th", b"ree"),
            get("/4", "x: four"),
        )
        seen = [(await client.answer()).json() for _ in range(4)]
    assert [one["path"] for one in seen] == ["/1", "/2", "/", "/4"]
    assert [one["body"] for one in seen] == ["", "two", "three", ""]
    marks = [[value for name, value in one["headers"] if name == "x"] for one in seen]
    assert marks == [["one"], ["two"], [], ["four"]]


async def test_pipelined_requests_in_one_packet_never_mix() -> None:
    async with serving(echo) as server, connected(server) as client:
        await client.send(b"".join(post(b"%d" % n, f"x: {n}", target=f"/{n}") for n in range(10)))
        for number in range(10):
            seen = (await client.answer()).json()
            assert (seen["path"], seen["body"]) == (f"/{number}", str(number))
            assert ["x", str(number)] in seen["headers"]


async def test_state_is_copied_for_each_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen = sorted(scope["state"])
        scope["state"][scope["path"]] = "mine"
        await respond(send, json.dumps(seen).encode())

    async with (
        open_server(app, state={"shared": 1}) as server,
        connected(server) as client,
    ):
        assert (await client.ask(get("/a"))).json() == ["shared"]
        assert (await client.ask(get("/b"))).json() == ["shared"]


async def test_http_1_0_closes_unless_it_asks_to_be_kept() -> None:
    async with serving(echo) as server:
        async with connected(server) as client:
            answer = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert answer.headers["connection"] == "close"
            assert await client.rest() == b""
        async with connected(server) as client:
            asked = b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
            for _ in range(2):
                answer = await client.ask(asked)
                assert answer.headers["connection"] == "keep-alive"


async def test_connection_close_is_honoured_from_both_sides() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"x", headers=[(b"connection", b"close")])

    async with serving(echo) as server, connected(server) as client:
        answer = await client.ask(get("/", "connection: close"))
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""
    async with serving(app) as server, connected(server) as client:
        assert (await client.ask(get())).headers["connection"] == "close"
        assert await client.rest() == b""


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_has_none(status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"dropped", status)

    async with serving(app) as server, connected(server) as client:
        for _ in range(2):
            answer = await client.ask(get())
            assert answer.status == status
            assert "content-length" not in answer.headers
            assert "transfer-encoding" not in answer.headers


async def test_head_sends_the_length_and_no_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"abc", headers=[(b"content-length", b"3")])

    async with serving(app) as server, connected(server) as client:
        for _ in range(2):
            answer = await client.ask(get(method="HEAD"), head_only=True)
            assert answer.headers["content-length"] == "3"
        assert (await client.ask(get())).body == b"abc"


async def stream_three(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"a", b"", b"bc"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


async def test_a_stream_of_unknown_length_is_chunked() -> None:
    async with serving(stream_three) as server, connected(server) as client:
        for _ in range(2):
            answer = await client.ask(get())
            assert answer.headers["transfer-encoding"] == "chunked"
            assert answer.body == b"abc"


async def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    async with serving(stream_three) as server, connected(server) as client:
        answer = await client.ask(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["connection"] == "close"
        assert answer.body == b"abc"


async def test_parts_are_sent_as_they_come() -> None:
    proceed = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await proceed.wait()
        await send({"type": "http.response.body", "body": b"second"})

    async with serving(app) as server, connected(server) as client:
        await client.send(get())
        await client.until(b"first")
        proceed.set()
        await client.until(b"second\r\n0\r\n\r\n")


@pytest.mark.parametrize("asked", [post(b"hello"), chunked(b"he", b"l", b"lo")])
async def test_a_body_arrives_however_it_is_framed_and_cut(asked: bytes) -> None:
    async with serving(echo) as server, connected(server) as client:
        assert (await client.ask(asked)).json()["body"] == "hello"
        assert (await client.ask(*(bytes([byte]) for byte in asked))).json()["body"] == "hello"


async def test_body_parts_are_delivered_before_the_body_is_complete() -> None:
    got: list[bytes] = []
    first = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            got.append(message["body"])
            first.set()
            if not message["more_body"]:
                break
        await respond(send)

    async with serving(app) as server, connected(server) as client:
        await client.send(get("/", "content-length: 6", method="POST"), b"abc")
        with trio.fail_after(PATIENCE_S):
            await first.wait()
        assert b"".join(got) == b"abc"
        assert (await client.ask(b"def")).status == 200
        assert b"".join(got) == b"abcdef"


async def test_100_continue_is_sent_only_when_the_application_wants_the_body() -> None:
    async with serving(echo) as server, connected(server) as client:
        await client.send(get("/", "expect: 100-continue", "content-length: 2", method="POST"))
        assert (await client.answer()).status == 100
        assert (await client.ask(b"hi")).json()["body"] == "hi"
        assert (await client.ask(get("/kept"))).status == 200


async def test_an_application_can_refuse_before_the_body_is_sent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"busy", 503)

    async with serving(app) as server, connected(server) as client:
        await client.send(get("/", "expect: 100-continue", "content-length: 2", method="POST"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert await client.rest() == b""


async def test_100_continue_is_not_sent_to_a_client_that_did_not_wait() -> None:
    async with serving(echo) as server, connected(server) as client:
        answer = await client.ask(post(b"hi", "expect: 100-continue"))
        assert answer.json()["body"] == "hi"
        assert (await client.ask(get())).status == 200


async def test_a_body_nobody_read_is_thrown_away_and_the_connection_kept() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, scope["path"].encode())

    async with serving(app, unread_body_max_bytes=100_000) as server, connected(server) as client:
        await client.send(post(b"x" * 90_000, target="/1"), get("/2"))
        assert (await client.answer()).body == b"/1"
        assert (await client.answer()).body == b"/2"


async def test_too_much_of_a_body_nobody_reads_closes_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", 413)

    async with (
        serving(app, unread_body_max_bytes=1000, body_read_size_bytes=500) as server,
        connected(server) as client,
    ):
        await client.send(get("/", "content-length: 10000000", method="POST"), b"x" * 2000)
        assert (await client.answer()).status == 413
        assert await client.rest() == b""


async def test_an_exception_before_the_response_is_a_500_and_reported() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("mine")

    async with serving(app, errors=[KeyError]) as server, connected(server) as client:
        answer = await client.ask(get())
        assert answer.status == 500
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["title"] == "Internal Server Error"
        assert (problem["type"], problem["status"], problem["code"]) == (
            "about:blank",
            500,
            "internal",
        )
        assert "mine" not in problem["detail"]
        assert await client.rest() == b""


async def test_a_started_response_with_nothing_sent_still_becomes_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError

    async with serving(app, errors=[KeyError]) as server, connected(server) as client:
        assert (await client.ask(get())).status == 500


async def test_an_exception_after_the_response_began_closes_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise KeyError

    async with serving(app, errors=[KeyError]) as server, connected(server) as client:
        await client.send(get())
        rest = await client.rest()
        assert rest.startswith(b"HTTP/1.1 200")
        assert not rest.endswith(b"0\r\n\r\n")


async def test_an_application_that_answers_nothing_is_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with serving(app, errors=[ApplicationError]) as server, connected(server) as client:
        assert (await client.ask(get())).status == 500


@pytest.mark.parametrize("body", [b"12", b"1234"])
async def test_a_body_of_another_length_in_one_piece_is_a_500(body: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, body, headers=[(b"content-length", b"3")])

    async with serving(app, errors=[ApplicationError]) as server, connected(server) as client:
        assert (await client.ask(get())).status == 500


@pytest.mark.parametrize("last", [b"", b"34"])
async def test_a_stream_of_another_length_closes_the_connection(last: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"12", "more_body": True})
        await send({"type": "http.response.body", "body": last})

    async with serving(app, errors=[ApplicationError]) as server, connected(server) as client:
        await client.send(get())
        assert (await client.rest()).endswith(b"\r\n\r\n12")


async def test_a_header_cannot_smuggle_a_line_break() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, headers=[(b"x", b"1\r\nset-cookie: a=b")])

    async with serving(app, errors=[ApplicationError]) as server, connected(server) as client:
        answer = await client.ask(get())
        assert answer.status == 500
        assert "set-cookie" not in answer.headers


async def test_a_client_that_leaves_is_seen_and_nobody_is_bothered() -> None:
    seen: list[str] = []
    done = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        seen.append((await receive())["type"])
        try:
            await respond(send)
        except OSError:
            seen.append("OSError")
            done.set()
            raise

    async with serving(app) as server:
        async with connected(server) as client:
            await client.send(get())
        with trio.fail_after(PATIENCE_S):
            await done.wait()
    assert seen == ["http.disconnect", "OSError"]


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_seen() -> None:
    seen: list[str] = []
    done = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while seen[-1:] != ["http.disconnect"]:
            seen.append((await receive())["type"])
        done.set()

    async with serving(app) as server:
        async with connected(server) as client:
            await client.send(get("/", "content-length: 10", method="POST"), b"abc")
        with trio.fail_after(PATIENCE_S):
            await done.wait()


async def test_a_stream_to_a_client_that_left_ends_with_an_oserror() -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 9999, "more_body": True})
        except Disconnected as error:
            ended.set()
            raise RuntimeError("a framework's own word for it") from error

    async with serving(app) as server:
        async with connected(server) as client:
            await client.send(get())
            await client.until(b"xxx")
        with trio.fail_after(PATIENCE_S):
            await ended.wait()


async def test_a_receive_that_waits_ends_when_the_response_does() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)

        async def watch() -> None:
            assert (await receive())["type"] == "http.disconnect"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await respond(send, scope["path"].encode())

    async with serving(app) as server, connected(server) as client:
        assert (await client.ask(get("/1"))).body == b"/1"
        await client.send(get("/2") + get("/3"))
        assert (await client.answer()).body == b"/2"
        assert (await client.answer()).body == b"/3"


async def test_a_request_behind_a_watched_one_is_kept_for_its_turn() -> None:
    watching = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        with trio.move_on_after(0.05):
            watching.set()
            await receive()
        await respond(send, scope["path"].encode())

    async with serving(app) as server, connected(server) as client:
        await client.send(get("/1"))
        await watching.wait()
        await client.send(get("/2"), get("/3"))
        for path in (b"/1", b"/2", b"/3"):
            assert (await client.answer()).body == path


async def test_an_application_is_held_back_by_a_client_that_does_not_read() -> None:
    sent = 0
    part = b"x" * 65536

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with serving(app, deadline_scan_interval_s=1.0) as server, connected(server) as client:
        await client.send(get())
        await client.head()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert 0 < sent < 500
        size = 0
        while chunk := int(await client.until(b"\r\n"), 16):
            size += chunk
            await client.exactly(chunk + 2)
        assert size == 1000 * len(part)


async def test_a_client_is_held_back_by_an_application_that_does_not_read() -> None:
    read = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read.wait()
        size = 0
        more = True
        while more:
            message = await receive()
            size += len(message["body"])
            assert len(message["body"]) <= Config().body_read_size_bytes
            more = message["more_body"]
        await respond(send, b"%d" % size)

    total = 64 << 20
    sent = 0
    async with (
        serving(app, deadline_scan_interval_s=1.0) as server,
        connected(server) as client,
        trio.open_nursery() as nursery,
    ):

        async def upload() -> None:
            nonlocal sent
            part = b"x" * (1 << 20)
            while sent < total:
                await client.send(part)
                sent += len(part)

        await client.send(get("/", f"content-length: {total}", method="POST"))
        nursery.start_soon(upload)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sent < total / 2
        read.set()
        assert (await client.answer()).body == b"%d" % total


async def test_a_client_that_pipelines_does_not_starve_the_others() -> None:
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(scope["path"])
        await respond(send)

    async with (
        serving(app, requests_pipelined_max=2000) as server,
        connected(server) as greedy,
        connected(server) as modest,
    ):
        await greedy.ask(get("/warm"))
        await modest.ask(get("/warm"))
        await greedy.send(get("/greedy") * 1000)
        await modest.ask(get("/modest"))
        assert order.index("/modest") < 900


async def test_an_error_on_one_connection_does_not_end_the_others() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            raise ValueError
        await respond(send)

    async with (
        serving(app, errors=[ValueError]) as server,
        connected(server) as good,
        connected(server) as bad,
    ):
        assert (await good.ask(get())).status == 200
        assert (await bad.ask(get("/bad"))).status == 500
        assert (await good.ask(get())).status == 200


async def test_a_fault_in_reporting_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError

    def on_error(error: Exception) -> None:
        raise ValueError("in the reporter")

    async with open_server(app, on_error=on_error) as server:
        for _ in range(2):
            async with connected(server) as client:
                assert (await client.ask(get())).status == 500
    assert "in the reporter" in caplog.text


async def test_each_request_is_told_to_the_hook() -> None:
    told: list[tuple[str, int, float]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            raise KeyError
        await respond(send, status=201)

    def on_request(scope: Scope, status: int, duration_s: float) -> None:
        told.append((scope["path"], status, duration_s))

    async with (
        open_server(app, on_request=on_request, on_error=Errors()) as server,
        connected(server) as client,
    ):
        await client.ask(get("/good"))
        await client.ask(get("/bad"))
    assert [(path, status) for path, status, _ in told] == [("/good", 201), ("/bad", 500)]
    assert all(0 <= duration_s < 5 for _, _, duration_s in told)


async def test_shutdown_lets_requests_in_flight_finish_and_closes_idle_connections() -> None:
    proceed = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proceed.wait()
        await respond(send, b"done")

    server = Server(app)
    listeners = await bind("127.0.0.1", 0)
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, listeners, shutdown=shutdown))
        async with connected(server) as idle, connected(server) as busy:
            await busy.send(get())
            while server.statistics().requests < 1:
                await trio.testing.wait_all_tasks_blocked()
            shutdown.set()
            assert await idle.rest() == b""
            with pytest.raises(OSError, match="all attempts"):
                await trio.open_tcp_stream("127.0.0.1", server.port)
            proceed.set()
            answer = await busy.answer()
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")
            assert await busy.rest() == b""
    assert server.statistics().connections_open == 0


async def test_shutdown_cancels_what_is_still_running_after_the_grace() -> None:
    cancelled = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app, shutdown_grace_s=0.05) as server:
        client = Client(await trio.open_tcp_stream("127.0.0.1", server.port))
        await client.send(get())
        while server.statistics().requests < 1:
            await trio.testing.wait_all_tasks_blocked()
    assert cancelled.is_set()
    async with client.stream:
        assert await client.rest() == b""


async def test_an_error_amid_the_cancellation_is_reported_and_ends_nothing() -> None:
    reported = Errors()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    config = Config(shutdown_grace_s=0.02)
    async with (
        open_server(app, config=config, on_error=reported) as server,
        connected(server) as client,
    ):
        await client.send(get())
        while server.statistics().requests < 1:
            await trio.testing.wait_all_tasks_blocked()
    assert [type(error) for error in reported] == [KeyError]


async def test_the_lifespan_surrounds_the_requests() -> None:
    phases: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            scope["state"]["ready"] = True
            phases.append("startup")
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            phases.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
        else:
            phases.append(f"request {scope['state']}")
            await respond(send)

    async with open_server(app, lifespan=True) as server, connected(server) as client:
        await client.ask(get())
    assert phases == ["startup", "request {'ready': True}", "shutdown"]


async def test_a_lifespan_that_fails_fails_the_server() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    with pytest.RaisesGroup(
        pytest.RaisesExc(ApplicationError, match="no disk"),
        flatten_subgroups=True,
    ):
        async with open_server(app, lifespan=True):
            pass


async def test_a_unix_socket_works_too(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "http"))
    listener.listen()
    shutdown = trio.Event()
    server = Server(echo)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.serve, [listener], shutdown=shutdown))
        async with await trio.open_unix_socket(str(tmp_path / "http")) as stream:
            await stream.send_all(get("/unix", "connection: close"))
            received = b"".join([part async for part in stream])
        assert b'"/unix"' in received
        shutdown.set()


def test_a_limit_has_to_be_positive() -> None:
    with pytest.raises(ValueError, match="idle_timeout_s"):
        Config(idle_timeout_s=0)
