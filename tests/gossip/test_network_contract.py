"""The seam `Network`: one contract over all implementations.

Every wait has a bound that only a failure reaches.
"""

from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

from gossip.errors import (
    PeerClosed,
    PeerError,
    PeerRefused,
    PeerTimeout,
    PeerUnreachable,
    RemoteProtocolError,
)
from gossip.network import Network, PeerDown, PeerEvent, PeerUp, Stream
from tests.gossip.networks import World, open_memory_world
from tests.peernode.libp2p_world import marks as libp2p_marks, open_libp2p_world

PROTOCOL = "/peernode/test/1"
OTHER = "/peernode/other/1"
WAIT_S = 20


@pytest.fixture(
    params=[
        pytest.param(open_memory_world, id="memory"),
        pytest.param(open_libp2p_world, id="libp2p", marks=libp2p_marks),
    ]
)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Three nodes that are not connected yet."""
    async with request.param(3) as world:
        yield world


async def until(happened: Callable[[], object]) -> None:
    """Wait until something is so."""
    with trio.fail_after(WAIT_S):
        while not happened():
            await trio.lowlevel.checkpoint()


async def echo(peer: str, frame: bytes) -> bytes:
    return peer.encode() + b" said " + frame


async def ask(network: Network, peer: Network, frame: bytes, protocol: str = PROTOCOL) -> bytes:
    return await network.request(
        peer.peer, protocol, frame, reply_size_max_bytes=1000, timeout_s=WAIT_S
    )


async def open_stream(network: Network, peer: Network, size_max_bytes: int = 1000) -> Stream:
    return await network.open_stream(
        peer.peer, PROTOCOL, size_max_bytes=size_max_bytes, timeout_s=WAIT_S
    )


# --- peers --------------------------------------------------------------------------------------


async def test_peers_come_and_go(world: World) -> None:
    one, other, third = world.networks
    events: list[PeerEvent] = []
    one.watch(events.append)
    assert one.peers() == []
    await world.connect(one, other)
    await world.connect(third, one)
    await until(lambda: len(events) == 2)
    assert one.peers() == [other.peer, third.peer]
    await until(lambda: other.peers() == [one.peer])
    await world.disconnect(one, other)
    await until(lambda: len(events) == 3)
    await world.connect(other, one)
    await until(lambda: len(events) == 4)
    assert events == [
        PeerUp(other.peer),
        PeerUp(third.peer),
        PeerDown(other.peer),
        PeerUp(other.peer),
    ]


async def test_every_watcher_hears_of_it(world: World) -> None:
    one, other, _ = world.networks
    first: list[PeerEvent] = []
    second: list[PeerEvent] = []
    other.watch(first.append)
    other.watch(second.append)
    await world.connect(one, other)
    await until(lambda: first and second)
    assert first == second == [PeerUp(one.peer)]


async def test_who_comes_up_says_what_it_is_and_who_dialled(world: World) -> None:
    one, other, _ = world.networks
    events: list[PeerEvent] = []
    one.watch(events.append)
    other.watch(events.append)
    await world.connect(one, other)
    await until(lambda: len(events) == 2)
    ups = {event.peer: event for event in events if isinstance(event, PeerUp)}
    assert ups[other.peer].is_outbound
    assert not ups[one.peer].is_outbound
    assert all(event.agent.startswith("peernode/") for event in ups.values())


async def test_a_peer_that_is_cut_off_has_no_link_until_it_is_taken_back(world: World) -> None:
    one, other, third = world.networks
    events: list[PeerEvent] = []
    one.watch(events.append)
    await world.connect(one, other)
    await world.connect(one, third)
    await until(lambda: len(events) == 2)
    one.cut_off(other.peer)
    one.cut_off(other.peer)
    await until(lambda: events[2:] == [PeerDown(other.peer)])
    await until(lambda: not other.peers())
    assert not await world.try_to_connect(other, one)
    assert not await world.try_to_connect(one, other)
    assert not one.send(other.peer, b"x")
    with pytest.raises(PeerUnreachable):
        await ask(one, other, b"x")
    assert one.peers() == [third.peer]
    one.take_back(other.peer)
    one.take_back(third.peer)
    assert await world.try_to_connect(other, one)
    assert one.peers() == [third.peer, other.peer]


# --- faults -------------------------------------------------------------------------------------


class Faults:
    """What a node was told of others."""

    def __init__(self, network: Network) -> None:
        self.told: list[tuple[str, type[PeerError]]] = []
        network.watch_faults(lambda peer, error: self.told.append((peer, type(error))))


async def test_what_a_handler_holds_against_its_peer_is_told(world: World) -> None:
    one, other, _ = world.networks
    faults = Faults(other)

    async def handle(_: str, frame: bytes) -> bytes:
        raise RemoteProtocolError("that is no request") if frame == b"bad" else PeerRefused("no")

    async def talk(stream: Stream) -> None:
        raise RemoteProtocolError("no") if await stream.receive() == b"bad" else PeerRefused("no")

    def hear(_: str, frame: bytes) -> None:
        raise RemoteProtocolError("no") if frame == b"bad" else PeerRefused("no")

    other.serve_requests(PROTOCOL, handle, size_max_bytes=100)
    other.serve_streams(OTHER, talk, size_max_bytes=100)
    other.serve_frames(hear, size_max_bytes=100)
    await world.connect(one, other)
    await until(one.peers)
    for said in (b"fair", b"bad"):
        with pytest.raises(PeerClosed):
            await ask(one, other, said)
        stream = await one.open_stream(other.peer, OTHER, size_max_bytes=9, timeout_s=WAIT_S)
        await stream.send(said)
        with pytest.raises(PeerClosed):
            await stream.receive()
        assert one.send(other.peer, said)
    await until(lambda: len(faults.told) == 3)
    assert faults.told == [(one.peer, RemoteProtocolError)] * 3
    assert world.reported == [], "and none of it is a fault of ours"
    assert one.peers() == [other.peer]


async def test_frames_over_a_limit_are_told(world: World) -> None:
    one, other, third = world.networks
    faults = Faults(other)

    async def talk(stream: Stream) -> None:
        await stream.receive()

    other.serve_requests(PROTOCOL, echo, size_max_bytes=10)
    other.serve_streams(OTHER, talk, size_max_bytes=10)
    other.serve_frames(lambda *_: None, size_max_bytes=10)
    await world.connect(one, other)
    await world.connect(third, other)
    await until(lambda: len(other.peers()) == 2)
    with pytest.raises(PeerClosed):
        await ask(one, other, bytes(100))
    stream = await one.open_stream(other.peer, OTHER, size_max_bytes=9, timeout_s=WAIT_S)
    await stream.send(bytes(100))
    with pytest.raises(PeerClosed):
        await stream.receive()
    assert one.send(other.peer, bytes(100))
    await until(lambda: len(faults.told) == 3)
    assert faults.told == [(one.peer, RemoteProtocolError)] * 3


# --- frames -------------------------------------------------------------------------------------


async def test_frames_arrive_in_order_with_their_sender(world: World) -> None:
    one, other, third = world.networks
    got: list[tuple[str, bytes]] = []
    other.serve_frames(lambda peer, frame: got.append((peer, frame)), size_max_bytes=100)
    await world.connect(one, other)
    await world.connect(third, other)
    frames = [b"%d" % number for number in range(50)]
    assert all(one.send(other.peer, frame) for frame in frames)
    assert third.send(other.peer, b"from the third")
    await until(lambda: len(got) == 51)
    assert [frame for peer, frame in got if peer == one.peer] == frames
    assert (third.peer, b"from the third") in got


async def test_nothing_is_sent_to_who_is_not_up(world: World) -> None:
    one, other, _ = world.networks
    assert not one.send(other.peer, b"x")
    assert not one.send("nobody", b"x")
    await world.connect(one, other)
    await until(one.peers)
    assert one.send(other.peer, b"x")
    await world.disconnect(one, other)
    await until(lambda: not one.peers())
    assert not one.send(other.peer, b"x")


async def test_a_sender_never_waits_for_a_reader_and_loses_instead(world: World) -> None:
    one, other, _ = world.networks
    await world.connect(one, other)
    await until(one.peers)
    taken = [one.send(other.peer, bytes(1000)) for _ in range(100_000)]
    assert taken[0]
    assert not taken[-1]


async def test_a_frame_over_the_limit_reaches_nobody(world: World) -> None:
    one, other, _ = world.networks
    got: list[bytes] = []
    other.serve_frames(lambda _, frame: got.append(frame), size_max_bytes=10)
    await world.connect(one, other)
    await until(one.peers)
    one.send(other.peer, bytes(11))

    def sent() -> bool:
        # The link may have been made anew after that.
        return one.send(other.peer, b"small") or bool(got)

    await until(lambda: sent() and got)
    assert set(got) == {b"small"}


async def test_a_handler_of_frames_that_fails_is_reported_and_goes_on(world: World) -> None:
    one, other, _ = world.networks
    got: list[bytes] = []

    def handle(_: str, frame: bytes) -> None:
        if frame == b"bad":
            raise LookupError("a fault of ours")
        got.append(frame)

    other.serve_frames(handle, size_max_bytes=10)
    await world.connect(one, other)
    await until(one.peers)
    one.send(other.peer, b"bad")
    await until(lambda: world.reported)
    await until(lambda: one.send(other.peer, b"good") and got)
    assert world.reported[0][0] == other.peer
    assert isinstance(world.reported[0][1], LookupError)


# --- requests -----------------------------------------------------------------------------------


async def test_a_request_gets_its_reply(world: World) -> None:
    one, other, _ = world.networks
    other.serve_requests(PROTOCOL, echo, size_max_bytes=100)
    await world.connect(one, other)
    await until(one.peers)
    assert await ask(one, other, b"hello") == one.peer.encode() + b" said hello"


async def test_a_slow_reply_keeps_no_other_waiting(world: World) -> None:
    one, other, _ = world.networks
    slow = trio.Event()

    async def handle(_: str, frame: bytes) -> bytes:
        if frame == b"slow":
            await slow.wait()
        return frame

    other.serve_requests(PROTOCOL, handle, size_max_bytes=100)
    await world.connect(one, other)
    await until(one.peers)
    got: list[bytes] = []

    async def request(frame: bytes) -> None:
        got.append(await ask(one, other, frame))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, b"slow")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            nursery.start_soon(request, b"%d" % number)
        await until(lambda: len(got) == 20)
        slow.set()
    assert got[-1] == b"slow"
    assert sorted(got[:-1]) == sorted(b"%d" % number for number in range(20))


async def test_who_is_not_up_or_does_not_serve_is_unreachable(world: World) -> None:
    one, other, _ = world.networks
    other.serve_requests(OTHER, echo, size_max_bytes=100)
    with pytest.raises(PeerUnreachable):
        await ask(one, other, b"x")
    with pytest.raises(PeerUnreachable):
        await open_stream(one, other)
    await world.connect(one, other)
    await until(one.peers)
    with pytest.raises(PeerUnreachable):
        await ask(one, other, b"x")
    with pytest.raises(PeerUnreachable):
        await open_stream(one, other)


async def test_a_reply_that_does_not_come_in_time(world: World) -> None:
    one, other, _ = world.networks

    async def never(_: str, __: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    other.serve_requests(PROTOCOL, never, size_max_bytes=100)
    other.serve_requests(OTHER, echo, size_max_bytes=100)
    await world.connect(one, other)
    await until(one.peers)
    with pytest.raises(PeerTimeout):
        await one.request(other.peer, PROTOCOL, b"x", reply_size_max_bytes=9, timeout_s=0.05)
    assert await ask(one, other, b"still here", OTHER)


async def test_a_link_that_breaks_ends_what_is_open(world: World) -> None:
    one, other, _ = world.networks
    asked = trio.Event()

    async def never(_: str, __: bytes) -> bytes:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    other.serve_requests(PROTOCOL, never, size_max_bytes=100)
    await world.connect(one, other)
    await until(one.peers)

    async def request() -> None:
        with pytest.raises(PeerClosed):
            await ask(one, other, b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        await asked.wait()
        await world.disconnect(one, other)


async def test_a_handler_of_requests_that_fails_ends_that_request_only(world: World) -> None:
    one, other, _ = world.networks

    async def handle(_: str, frame: bytes) -> bytes:
        if frame == b"bad":
            raise LookupError("a fault of ours")
        return frame

    other.serve_requests(PROTOCOL, handle, size_max_bytes=100)
    await world.connect(one, other)
    await until(one.peers)
    with pytest.raises(PeerClosed):
        await ask(one, other, b"bad")
    assert await ask(one, other, b"good") == b"good"
    assert [type(error) for _, error in world.reported] == [LookupError]
    assert one.peers() == [other.peer]


async def test_requests_and_replies_have_limits(world: World) -> None:
    one, other, _ = world.networks
    seen: list[bytes] = []

    async def handle(_: str, frame: bytes) -> bytes:
        seen.append(frame)
        return bytes(1001)

    other.serve_requests(PROTOCOL, handle, size_max_bytes=10)
    await world.connect(one, other)
    await until(one.peers)
    with pytest.raises(PeerClosed):
        await ask(one, other, bytes(11))
    assert seen == []
    with pytest.raises(RemoteProtocolError):
        await ask(one, other, b"x")


async def test_a_request_that_is_cancelled_leaves_nothing_behind(world: World) -> None:
    one, other, _ = world.networks
    go = trio.Event()

    async def handle(_: str, frame: bytes) -> bytes:
        if frame == b"slow":
            await go.wait()
        return frame

    other.serve_requests(PROTOCOL, handle, size_max_bytes=10)
    await world.connect(one, other)
    await until(one.peers)
    with trio.move_on_after(0.05) as scope:
        await ask(one, other, b"slow")
    assert scope.cancelled_caught
    go.set()
    assert await ask(one, other, b"next") == b"next"


# --- streams ------------------------------------------------------------------------------------


async def test_a_conversation(world: World) -> None:
    one, other, _ = world.networks
    said: list[tuple[str, bytes]] = []

    async def talk(stream: Stream) -> None:
        while True:
            frame = await stream.receive()
            said.append((stream.peer, frame))
            await stream.send(b"yes, " + frame)

    other.serve_streams(PROTOCOL, talk, size_max_bytes=1000)
    await world.connect(one, other)
    await until(one.peers)
    stream = await open_stream(one, other)
    assert stream.peer == other.peer
    for number in range(30):
        await stream.send(b"%d" % number)
        assert await stream.receive() == b"yes, %d" % number
    assert said == [(one.peer, b"%d" % number) for number in range(30)]
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(PeerClosed):
        await stream.send(b"x")
    with pytest.raises(PeerClosed):
        await stream.receive()


async def test_what_was_sent_before_the_end_arrives(world: World) -> None:
    one, other, _ = world.networks

    async def talk(stream: Stream) -> None:
        for number in range(5):
            await stream.send(b"%d" % number)

    other.serve_streams(PROTOCOL, talk, size_max_bytes=1000)
    await world.connect(one, other)
    await until(one.peers)
    stream = await open_stream(one, other)
    assert [await stream.receive() for _ in range(5)] == [b"%d" % number for number in range(5)]
    with pytest.raises(PeerClosed):
        await stream.receive()


async def test_who_does_not_read_makes_the_sender_wait(world: World) -> None:
    one, other, _ = world.networks
    got: list[bytes] = []
    go = trio.Event()
    count = 200

    async def talk(stream: Stream) -> None:
        await go.wait()
        while len(got) < count:
            got.append(await stream.receive())

    other.serve_streams(PROTOCOL, talk, size_max_bytes=100_000)
    await world.connect(one, other)
    await until(one.peers)
    stream = await open_stream(one, other)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(count):
            await stream.send(number.to_bytes(4, "big") * 25_000)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        with trio.move_on_after(0.2):
            await until(lambda: sent == count)
        assert sent < count
        go.set()
        await until(lambda: len(got) == count)
    assert [frame[:4] for frame in got] == [number.to_bytes(4, "big") for number in range(count)]


async def test_a_broken_link_ends_streams_at_both_ends(world: World) -> None:
    one, other, third = world.networks
    ended: list[str] = []

    async def talk(stream: Stream) -> None:
        try:
            await stream.receive()
        except PeerClosed:
            ended.append(stream.peer)
            raise

    other.serve_streams(PROTOCOL, talk, size_max_bytes=100)
    await world.connect(one, other)
    await world.connect(third, other)
    await until(lambda: one.peers() and third.peers())
    stream, spared = await open_stream(one, other), await open_stream(third, other)
    await world.disconnect(one, other)
    with pytest.raises(PeerClosed):
        await stream.receive()
    await until(lambda: ended == [one.peer])
    await spared.send(b"still here")
    await spared.aclose()


async def test_a_handler_of_streams_that_fails_ends_that_stream_only(world: World) -> None:
    one, other, _ = world.networks

    async def talk(stream: Stream) -> None:
        frame = await stream.receive()
        if frame == b"bad":
            raise LookupError("a fault of ours")
        await stream.send(frame)

    other.serve_streams(PROTOCOL, talk, size_max_bytes=100)
    await world.connect(one, other)
    await until(one.peers)
    good, bad = await open_stream(one, other), await open_stream(one, other)
    await bad.send(b"bad")
    with pytest.raises(PeerClosed):
        await bad.receive()
    await good.send(b"good")
    assert await good.receive() == b"good"
    assert [type(error) for _, error in world.reported] == [LookupError]


async def test_frames_of_streams_have_limits_both_ways(world: World) -> None:
    one, other, _ = world.networks
    errors: list[Exception] = []

    async def talk(stream: Stream) -> None:
        await stream.send(bytes(20))
        try:
            await stream.receive()
        except RemoteProtocolError as error:
            errors.append(error)

    other.serve_streams(PROTOCOL, talk, size_max_bytes=30)
    await world.connect(one, other)
    await until(one.peers)
    stream = await open_stream(one, other, size_max_bytes=20)
    assert await stream.receive() == bytes(20)
    await stream.send(bytes(31))
    await until(lambda: errors)
    small = await open_stream(one, other, size_max_bytes=19)
    with pytest.raises(RemoteProtocolError):
        await small.receive()


async def test_what_is_wrong_from_the_start(world: World) -> None:
    one, other, _ = world.networks

    async def talk(stream: Stream) -> None:
        await stream.receive()

    other.serve_requests(OTHER, echo, size_max_bytes=10)
    other.serve_streams(PROTOCOL, talk, size_max_bytes=10)
    other.serve_frames(lambda _, __: None, size_max_bytes=10)
    with pytest.raises(ValueError, match="already"):
        other.serve_requests(OTHER, echo, size_max_bytes=10)
    with pytest.raises(ValueError, match="already"):
        other.serve_streams(PROTOCOL, talk, size_max_bytes=10)
    with pytest.raises(ValueError, match="already"):
        other.serve_frames(lambda _, __: None, size_max_bytes=10)
    await world.connect(one, other)
    await until(one.peers)
    stream = await open_stream(one, other)
    with pytest.raises(ValueError, match="at least one byte"):
        await stream.send(b"")
    with pytest.raises(ValueError, match="at least one byte"):
        one.send(other.peer, b"")
    with pytest.raises(ValueError, match="at least one byte"):
        await ask(one, other, b"", OTHER)
