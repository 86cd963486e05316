"""The worker's WebSocket, against a node that is not always friendly."""

import ssl
from pathlib import Path

import pytest
import trio
import trustme
from outcome import acapture
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from tests.worker.certificates import new_key, server_context, write_pair
from tests.worker.websocket_node import TARGET, TOKEN, WebSocketNodeEnd, open_websocket_node
from worker.certificate_pin import pin_of_file
from worker.link import LinkBroken, LinkClosed, LinkRefused
from worker.protocol import MESSAGE_SIZE_MAX_BYTES, Acked, Beat
from worker.websocket_link import WrongNode, check_address, open_websocket_link

pytestmark = pytest.mark.slow


async def test_it_asks_for_its_path_with_its_token() -> None:
    async def handle(end: WebSocketNodeEnd) -> None:
        request = await end.accept()
        assert request.target == TARGET
        assert (b"authorization", f"Bearer {TOKEN}".encode()) in request.extra_headers
        await end.receive()
        await end.send([Acked([])])
        await trio.sleep_forever()

    async with open_websocket_node(handle) as url:
        link = await open_websocket_link(url, TOKEN)
        await link.send([Beat()])
        assert await link.receive() == [Acked([])]
        await link.aclose()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_is_final(status: int) -> None:
    async def handle(end: WebSocketNodeEnd) -> None:
        await end.accept(status)

    async with open_websocket_node(handle) as url:
        with pytest.raises(LinkRefused, match=str(status)):
            await open_websocket_link(url, TOKEN)


async def test_a_node_that_is_busy_may_be_asked_again() -> None:
    async def handle(end: WebSocketNodeEnd) -> None:
        await end.accept(503)

    async with open_websocket_node(handle) as url:
        with pytest.raises(LinkClosed, match="503"):
            await open_websocket_link(url, TOKEN)


async def test_nobody_there_is_a_closed_link() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(LinkClosed, match="no connection"):
        await open_websocket_link(f"ws://127.0.0.1:{port}/worker/7/attach", TOKEN)


async def test_a_server_of_something_else_is_broken() -> None:
    async def handle(end: WebSocketNodeEnd) -> None:
        await end.stream.receive_some()
        await end.stream.send_all(b"220 mail.example ESMTP\r\n\r\n")

    async with open_websocket_node(handle) as url:
        with pytest.raises(LinkBroken):
            await open_websocket_link(url, TOKEN)


@pytest.mark.parametrize(
    ("url", "pin", "says"),
    [
        ("ws://192.0.2.1:8440/worker/1/attach", "", "plain HTTP to another machine"),
        ("http://node.example/worker/1/attach", "", "plain HTTP to another machine"),
        ("ws://localhost.example/worker/1/attach", "", "plain HTTP to another machine"),
        ("ws://127.0.0.1:1/worker/1/attach", "A" * 43, "speaks TLS"),
        ("ws://node.example/worker/1/attach", "A" * 43, "speaks TLS"),
    ],
)
async def test_nothing_is_shown_to_the_network(url: str, pin: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        await open_websocket_link(url, TOKEN, pin=pin)


@pytest.mark.parametrize(
    "url", ["ws://127.8.9.1:1", "http://[::1]:1", "http://LOCALHOST", "wss://x"]
)
def test_this_machine_and_tls_will_do(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize("url", ["ftp://x/worker/1/attach", "worker/1/attach"])
async def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a node"):
        await open_websocket_link(url, TOKEN)


async def answered_with(data: object) -> None:
    """Attach to a node that says `data` first, and receive."""

    async def handle(end: WebSocketNodeEnd) -> None:
        await end.accept()
        raw = data if isinstance(data, bytes) else end.connection.send(data)  # type: ignore[arg-type]
        await end.write(raw)
        await trio.sleep_forever()

    async with open_websocket_node(handle) as url:
        link = await open_websocket_link(url, TOKEN)
        with trio.fail_after(5):
            outcome = await acapture(link.receive)  # raised outside of the nursery
        await link.aclose()
    outcome.unwrap()


@pytest.mark.parametrize(
    "data",
    [
        TextMessage(data="hello"),
        BytesMessage(data=b"nonsense"),
        BytesMessage(data=bytes(MESSAGE_SIZE_MAX_BYTES + 1)),
    ],
    ids=["text", "nonsense", "too large"],
)
async def test_what_is_no_batch_breaks_the_link(data: object) -> None:
    with pytest.raises(LinkBroken):
        await answered_with(data)


async def test_bytes_that_are_no_frame_end_the_link() -> None:
    with pytest.raises(LinkClosed, match="1002"):
        await answered_with(b"\xff" * 64)


async def test_a_good_bye_carries_its_reason() -> None:
    with pytest.raises(LinkClosed, match="1012 restarting"):
        await answered_with(CloseConnection(code=1012, reason="restarting"))


async def test_pings_are_answered() -> None:
    done = trio.Event()

    async def handle(end: WebSocketNodeEnd) -> None:
        await end.accept()
        await end.write(end.connection.send(Ping(payload=b"alive?")))
        await end.receive()
        assert end.pongs == 1
        done.set()
        await trio.sleep_forever()

    async with open_websocket_node(handle) as url:
        link = await open_websocket_link(url, TOKEN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.receive)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await link.send([Beat()])
            with trio.fail_after(5):
                await done.wait()
            nursery.cancel_scope.cancel()
        await link.aclose()


async def test_tls_is_checked() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def handle(end: WebSocketNodeEnd) -> None:
        try:
            await end.accept()
        except trio.BrokenResourceError:  # the client did not trust us
            return
        await end.send([Acked([])])
        await trio.sleep_forever()

    async with open_websocket_node(handle, server) as url:
        with pytest.raises(LinkClosed):
            await open_websocket_link(url, TOKEN)
        link = await open_websocket_link(url, TOKEN, tls=trusting)
        assert await link.receive() == [Acked([])]
        await link.aclose()


async def test_the_node_that_the_pin_names_needs_no_authority(tmp_path: Path) -> None:
    async def handle(end: WebSocketNodeEnd) -> None:
        await end.accept()
        await end.send([Acked([])])
        await trio.sleep_forever()

    key = new_key()
    pin = pin_of_file(Path(write_pair(tmp_path, key, "first").split(",")[0]))
    for name in ("first", "renewed"):
        async with open_websocket_node(
            handle, server_context(write_pair(tmp_path, key, name))
        ) as url:
            link = await open_websocket_link(url, TOKEN, pin=pin)
            assert await link.receive() == [Acked([])]
            await link.aclose()


async def test_another_key_hears_nothing(tmp_path: Path) -> None:
    """Whoever answers in the node's place, by whatever authority, is shown no token."""
    heard: list[bytes] = []

    async def handle(end: WebSocketNodeEnd) -> None:
        try:
            while data := await end.stream.receive_some():
                heard.append(data)
        except trio.BrokenResourceError:
            pass

    pin = pin_of_file(Path(write_pair(tmp_path, new_key()).split(",")[0]))
    impostor = server_context(write_pair(tmp_path, new_key(), "impostor"))
    async with open_websocket_node(handle, impostor) as url:
        with pytest.raises(WrongNode, match=f"expected {pin}, met "):
            await open_websocket_link(url, TOKEN, pin=pin)
    assert heard == []


async def test_who_speaks_no_tls_is_no_node_with_a_pin() -> None:
    async def handle(end: WebSocketNodeEnd) -> None:
        await end.stream.receive_some()
        await end.stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    async with open_websocket_node(handle) as url:
        with pytest.raises(LinkClosed):
            await open_websocket_link(url.replace("ws:", "wss:"), TOKEN, pin="A" * 43)
