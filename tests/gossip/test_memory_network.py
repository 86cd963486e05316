"""What is particular to the network in memory: time, loss, and lines that are cut."""

import random

import pytest
import trio
import trio.testing

from gossip.errors import PeerClosed, PeerTimeout, PeerUnreachable
from gossip.memory_network import MemoryNetwork, Wire, open_wire
from gossip.network import PeerDown, PeerEvent, PeerUp, Stream

PROTOCOL = "/peernode/test/1"
SILENCE_MAX_S = 10.0


class BadLine:
    """Delays and losses drawn from a seed."""

    def __init__(self, seed: int, loss: float = 0.0) -> None:
        self._rng = random.Random(seed)
        self._loss = loss

    def delay_s(self, source: str, target: str, size_bytes: int) -> float:
        return self._rng.uniform(0.01, 0.2) + size_bytes / 1e6

    def is_lost(self, source: str, target: str, size_bytes: int) -> bool:
        return self._rng.random() < self._loss


def pair(wire: Wire) -> tuple[MemoryNetwork, MemoryNetwork, list[tuple[float, bytes]]]:
    """Join two connected nodes; the second notes what it gets, and when."""
    one, other = wire.join("one"), wire.join("other")
    got: list[tuple[float, bytes]] = []
    other.serve_frames(lambda _, frame: got.append((trio.current_time(), frame)), size_max_bytes=99)

    async def echo(_: str, frame: bytes) -> bytes:
        return frame

    async def talk(stream: Stream) -> None:
        while True:
            await stream.send(await stream.receive())

    other.serve_requests(PROTOCOL, echo, size_max_bytes=99)
    other.serve_streams(PROTOCOL + "/stream", talk, size_max_bytes=99)
    assert wire.connect("one", "other")
    return one, other, got


async def request(network: MemoryNetwork, frame: bytes = b"x", timeout_s: float = 99.0) -> bytes:
    return await network.request(
        "other", PROTOCOL, frame, reply_size_max_bytes=99, timeout_s=timeout_s
    )


async def test_frames_take_their_time_and_keep_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(BadLine(1)) as wire:
        one, _, got = pair(wire)
        began = trio.current_time()
        for number in range(50):
            one.send("other", b"%d" % number)
        await trio.sleep(1)
    assert [frame for _, frame in got] == [b"%d" % number for number in range(50)]
    assert all(0.01 <= at - began <= 0.21 for at, _ in got)
    assert got[0][0] < got[-1][0]


async def run_once(seed: int) -> list[tuple[float, bytes]]:
    async with open_wire(BadLine(seed, loss=0.3)) as wire:
        one, _, got = pair(wire)
        began = trio.current_time()
        for number in range(100):
            one.send("other", b"%d" % number)
            await trio.sleep(0.01)
        await request(one)
        await trio.sleep(1)
    return [(round(at - began, 9), frame) for at, frame in got]


async def test_one_seed_is_one_run(autojump_clock: trio.testing.MockClock) -> None:
    first, again, other = await run_once(1), await run_once(1), await run_once(2)
    assert first == again
    assert first != other
    assert 50 < len(first) < 90


async def test_requests_and_streams_lose_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wire(BadLine(3, loss=0.9)) as wire:
        one, _, got = pair(wire)
        for number in range(20):
            assert await request(one, b"%d" % number) == b"%d" % number
            one.send("other", b"x")
        await trio.sleep(1)
    assert len(got) < 10


async def test_a_short_cut_delays_what_is_reliable_and_loses_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(silence_max_s=SILENCE_MAX_S) as wire:
        one, _, got = pair(wire)
        stream = await one.open_stream(
            "other", PROTOCOL + "/stream", size_max_bytes=99, timeout_s=9
        )
        wire.cut("one", "other")
        began = trio.current_time()
        one.send("other", b"lost")
        await stream.send(b"late")

        async def heal() -> None:
            await trio.sleep(5)
            wire.heal("one", "other")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heal)
            assert await stream.receive() == b"late"
        assert trio.current_time() - began == pytest.approx(5)
        one.send("other", b"arrives")
        await trio.sleep(2 * SILENCE_MAX_S)
        assert [frame for _, frame in got] == [b"arrives"]
        assert one.peers() == ["other"]


@pytest.mark.parametrize("direction", [("one", "other"), ("other", "one")])
async def test_a_long_cut_of_either_direction_breaks_the_link(
    autojump_clock: trio.testing.MockClock, direction: tuple[str, str]
) -> None:
    async with open_wire(silence_max_s=SILENCE_MAX_S) as wire:
        one, other, _ = pair(wire)
        events: list[PeerEvent] = []
        other.watch(events.append)
        wire.cut(*direction)
        began = trio.current_time()
        with pytest.raises(PeerClosed):
            await request(one)
        assert trio.current_time() - began == pytest.approx(SILENCE_MAX_S)
        assert one.peers() == other.peers() == []
        assert not wire.connect("one", "other")
        with pytest.raises(PeerUnreachable):
            await request(one)
        wire.heal(*direction)
        assert wire.connect("one", "other")
        assert await request(one, b"again") == b"again"
    assert events == [PeerDown("one"), PeerUp("one")]


async def test_a_line_that_flaps_may_hold(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wire(silence_max_s=SILENCE_MAX_S) as wire:
        one, _, _ = pair(wire)
        for _ in range(10):
            wire.cut("one", "other")
            await trio.sleep(0.9 * SILENCE_MAX_S)
            wire.heal("one", "other")
        assert one.peers() == ["other"]


async def test_an_impatient_request_does_not_wait_for_the_link(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(silence_max_s=SILENCE_MAX_S) as wire:
        one, _, _ = pair(wire)
        wire.cut("other", "one")
        with pytest.raises(PeerTimeout):
            await request(one, timeout_s=2.0)


async def test_what_handlers_let_out_is_raised_where_nobody_asked_for_it() -> None:
    with pytest.RaisesGroup(LookupError):
        async with open_wire() as wire:
            one, other = wire.join("one"), wire.join("other")

            def fail(_: str, __: bytes) -> None:
                raise LookupError("a fault of ours")

            other.serve_frames(fail, size_max_bytes=9)
            wire.connect("one", "other")
            one.send("other", b"x")
            await trio.sleep_forever()


async def test_what_was_on_its_way_when_the_link_broke_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(BadLine(5)) as wire:
        one, _, got = pair(wire)
        one.send("other", b"lost")
        wire.disconnect("one", "other")
        wire.connect("one", "other")
        one.send("other", b"arrives")
        await trio.sleep(1)
    assert [frame for _, frame in got] == [b"arrives"]


async def test_an_id_is_taken_once() -> None:
    async with open_wire() as wire:
        wire.join("one")
        with pytest.raises(ValueError, match="there already"):
            wire.join("one")
        assert not wire.connect("one", "one")


async def test_connecting_twice_is_connecting_once() -> None:
    async with open_wire() as wire:
        one, _, _ = pair(wire)
        events: list[PeerEvent] = []
        one.watch(events.append)
        assert wire.connect("other", "one")
        wire.disconnect("other", "one")
        wire.disconnect("one", "other")
        assert events == [PeerDown("other")]


async def test_who_vanishes_is_missed_only_after_a_silence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(silence_max_s=SILENCE_MAX_S) as wire:
        one, _, _ = pair(wire)
        stream = await one.open_stream(
            "other", PROTOCOL + "/stream", size_max_bytes=99, timeout_s=9
        )
        wire.vanish("other")
        assert one.peers() == ["other"]
        with pytest.raises(PeerTimeout):
            await request(one, timeout_s=2.0)
        began = trio.current_time()
        with pytest.raises(PeerClosed):
            await stream.receive()
        assert trio.current_time() - began == pytest.approx(SILENCE_MAX_S - 2.0)
        assert one.peers() == []


async def test_who_vanished_is_somebody_else_when_it_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(silence_max_s=SILENCE_MAX_S) as wire:
        one, _, got = pair(wire)
        events: list[PeerEvent] = []
        one.watch(events.append)
        one.send("other", b"on its way")
        wire.vanish("other")
        await trio.sleep(1)
        assert got == []
        back = wire.join("other")
        taken: list[bytes] = []
        back.serve_frames(lambda _, frame: taken.append(frame), size_max_bytes=99)
        one.send("other", b"into the void")
        assert back.peers() == []
        assert wire.connect("other", "one")
        assert events == [PeerDown("other"), PeerUp("other")]
        one.send("other", b"arrives")
        await trio.sleep(2 * SILENCE_MAX_S)
        assert one.peers() == ["other"]
    assert taken == [b"arrives"]
    assert got == []
