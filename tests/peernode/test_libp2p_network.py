"""What the network over libp2p does beyond the seam's contract: finding, keeping, refusing."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gossip.errors import PeerClosed, PeerTimeout, PeerUnreachable
from gossip.network import PeerDown, PeerEvent, PeerUp
from peernode.libp2p_address import parse_address
from peernode.libp2p_connection import Connector
from peernode.libp2p_network import Libp2pNetwork
from peernode.traffic import LINE, PINGS, Traffic
from storage import signing
from storage.errors import InvalidData
from tests.peernode.libp2p_world import ANYWHERE, QUICK, join, marks, open_node, seed, until

pytestmark = marks

ROOT = Path(__file__).parents[2]
WAIT_S = 10


def key(number: int) -> bytes:
    return signing.Keypair.from_seed(seed(number)).public_key


def name(number: int) -> str:
    return signing.peer_id(key(number))


async def echo(_: str, frame: bytes) -> bytes:
    return frame


async def ask(
    network: Libp2pNetwork, peer: str, frame: bytes = b"hello", timeout_s: float = WAIT_S
) -> bytes:
    return await network.request(
        peer, "/echo/1", frame, reply_size_max_bytes=1000, timeout_s=timeout_s
    )


def serve_echo(network: Libp2pNetwork) -> None:
    network.serve_requests("/echo/1", echo, size_max_bytes=1000)


class Child:
    """A node in another process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        self.peer: str = said["peer"]
        self.addresses: list[str] = said["addresses"]
        self.cpu_s: float = said["cpu_s"]
        self.resident_mb: float = said["resident_mb"]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextmanager
def child(number: int, listened: str = ANYWHERE) -> Iterator[Child]:
    command = [sys.executable, "-m", "tests.peernode.libp2p_child", str(number), listened]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


# --- who is there -------------------------------------------------------------------------------


async def test_nodes_find_each_other_at_the_addresses_they_tell() -> None:
    async with open_node(1) as one, open_node(2) as other:
        assert other.addresses()[0].endswith(f"/p2p/{other.peer}")
        serve_echo(other)
        await join(one, other)
        assert await ask(one, other.peer) == b"hello"


async def test_addresses_that_are_announced_take_the_place_of_those_listened_on() -> None:
    config = replace(QUICK, announced=("/dns/node.example/tcp/4001",))
    async with open_node(1, config=config) as one:
        assert one.addresses() == [f"/dns/node.example/tcp/4001/p2p/{one.peer}"]


async def test_every_address_of_a_peer_is_tried() -> None:
    async with open_node(1) as one, open_node(2) as other, open_node(3) as third:
        wrong = third.addresses()[0].partition("/p2p/")[0]
        one.add_peer(other.peer, ["/ip4/127.0.0.1/tcp/1", wrong, *other.addresses()])
        await until(one.peers)
        assert one.peers() == [other.peer]
        assert third.peers() == []


async def test_who_has_another_key_is_nobody() -> None:
    async with open_node(1) as one, open_node(2) as other:
        address = other.addresses()[0].partition("/p2p/")[0]
        with pytest.raises(PeerClosed):
            await one.request_as_stranger(
                name(3), [address], "/join/1", b"x", reply_size_max_bytes=9, timeout_s=WAIT_S
            )
        assert other.peers() == one.peers() == []


async def test_two_that_dial_each_other_at_once_end_with_one_link() -> None:
    async with open_node(1) as one, open_node(2) as other:
        serve_echo(one)
        serve_echo(other)
        for _ in range(10):
            one.add_peer(other.peer, other.addresses())
            other.add_peer(one.peer, one.addresses())
            await until(lambda: one.peers() and other.peers())
            with trio.fail_after(WAIT_S):
                while True:
                    try:
                        assert await ask(one, other.peer) == await ask(other, one.peer)
                        break
                    except (PeerClosed, PeerUnreachable):
                        await trio.sleep(0.01)
            one.forget_peer(other.peer)
            other.forget_peer(one.peer)
            await until(lambda: not one.peers() and not other.peers())


@pytest.mark.parametrize(("one_number", "twin_number"), [(1, 2), (2, 1)])
async def test_two_processes_with_one_key_take_turns_whoever_dialled_first(
    one_number: int, twin_number: int
) -> None:
    async with (
        open_node(one_number) as one,
        open_node(twin_number) as first,
        open_node(twin_number) as second,
    ):
        # That it is ours tells nothing of the other: a link of another process is no crossing.
        await join(one, first)
        turns = {first: 0, second: 0}
        for twin in turns:

            def count(event: PeerEvent, twin: Libp2pNetwork = twin) -> None:
                turns[twin] += isinstance(event, PeerUp)

            twin.watch(count)
            twin.add_peer(one.peer, one.addresses())
        with trio.fail_after(QUICK.handshake_timeout_s):
            await until(lambda: min(turns.values()) >= 3)


async def test_a_connection_that_crossed_ours_and_says_nothing_does_not_stay() -> None:
    config = replace(QUICK, handshake_timeout_s=0.3)
    low, high = sorted((1, 2), key=name)
    async with open_node(low, config=config) as one, open_node(high) as other:
        await join(one, other)
        events: list[PeerEvent] = []
        one.watch(events.append)
        connector = Connector(seed(high), QUICK, Traffic())
        crossed = await connector.dial(parse_address(one.addresses()[0]), one.peer)
        with trio.fail_after(WAIT_S):
            assert not await crossed.goes_on()
        crossed.break_off()
        assert events == []


async def test_a_node_does_not_dial_itself() -> None:
    async with open_node(1) as one:
        with pytest.raises(InvalidData):
            one.add_peer(one.peer, one.addresses())


async def test_a_port_belongs_to_one_node() -> None:
    async with open_node(1) as one:
        address = one.addresses()[0].partition("/p2p/")[0]
        with pytest.raises(ExceptionGroup) as caught:
            async with open_node(2, listened=address):
                pass
        assert caught.group_contains(OSError)


async def test_how_far_a_peer_is() -> None:
    async with open_node(1) as one, open_node(2) as other:
        await join(one, other)
        await until(lambda: one.latency_s(other.peer))
        assert 0 < (one.latency_s(other.peer) or 0) < 1
        assert one.latency_s(name(3)) is None


# --- links that break ---------------------------------------------------------------------------


async def test_bytes_are_counted_by_what_they_are_for() -> None:
    async with open_node(1) as one, open_node(2) as other:

        async def echo(_: str, frame: bytes) -> bytes:
            return frame

        other.serve_requests("/echo/1", echo, size_max_bytes=100_000)
        one.add_peer(other.peer, other.addresses())
        await until(one.peers)
        said = bytes(50_000)
        await one.request(other.peer, "/echo/1", said, reply_size_max_bytes=100_000, timeout_s=20)
        for node in (one, other):
            counts = node.traffic.counts
            for count in (counts["/echo/1"], counts[LINE]):
                for size_bytes in (count.sent_bytes, count.received_bytes):
                    assert len(said) < size_bytes < len(said) + 5000
        await until(lambda: one.traffic.counts[PINGS].sent_bytes)


async def test_a_peer_that_is_killed_is_down_and_up_again_when_it_is_back() -> None:
    async with open_node(1) as one:
        events: list[PeerEvent] = []
        one.watch(events.append)
        with child(2) as other:
            one.add_peer(other.peer, other.addresses)
            await until(one.peers)
            assert await ask(one, other.peer) == b"hello"
            other.signal(signal.SIGKILL)
            killed_at = trio.current_time()
            await until(lambda: not one.peers())
            # By the end of the connection, not by silence.
            assert trio.current_time() - killed_at < QUICK.silence_max_s
            address = other.addresses[0].partition("/p2p/")[0]
        with child(2, address) as other:
            await until(one.peers)
            assert await ask(one, other.peer) == b"hello"
        assert events[:3] == [PeerUp(other.peer), PeerDown(other.peer), PeerUp(other.peer)]


async def test_a_peer_that_falls_silent_is_down() -> None:
    config = replace(QUICK, health_interval_s=0.1, silence_max_s=0.5)
    async with open_node(1, config=config) as one:
        with child(2) as other:
            one.add_peer(other.peer, other.addresses)
            await until(one.peers)
            other.signal(signal.SIGSTOP)
            await until(lambda: not one.peers())
            other.signal(signal.SIGCONT)
            await until(one.peers)


async def test_an_idle_link_stays_up() -> None:
    config = replace(QUICK, health_interval_s=0.05, silence_max_s=1.0)
    async with open_node(1, config=config) as one, open_node(2, config=config) as other:
        await join(one, other)
        events: list[PeerEvent] = []
        one.watch(events.append)
        with trio.move_on_after(2):
            await until(lambda: events)
        assert events == []


async def test_a_forgotten_peer_is_not_dialled_again() -> None:
    async with open_node(1) as one, open_node(2) as other:
        await join(one, other)
        one.forget_peer(other.peer)
        await until(lambda: not other.peers())
        events: list[PeerEvent] = []
        other.watch(events.append)
        with trio.move_on_after(0.3):
            await until(lambda: events)
        assert events == []


async def test_new_addresses_are_dialled_at_once() -> None:
    config = replace(QUICK, retry_delay_min_s=600.0, retry_delay_max_s=600.0)
    async with open_node(1, config=config) as one, open_node(2) as other:
        one.add_peer(other.peer, ["/ip4/127.0.0.1/tcp/1"])
        with trio.move_on_after(0.1):
            await until(one.peers)
        await join(one, other)


async def test_a_peer_that_refuses_us_is_not_dialled_without_end() -> None:
    dialled = 0

    def nobody(_: bytes) -> bool:
        nonlocal dialled
        dialled += 1
        return False

    config = replace(QUICK, retry_delay_min_s=0.1, retry_delay_max_s=0.1)
    async with open_node(1, config=config) as one, open_node(2, allowed=nobody) as other:
        one.add_peer(other.peer, other.addresses())
        with trio.move_on_after(1):
            await trio.sleep_forever()
        assert 2 <= dialled <= 20
        assert one.peers() == []


# --- requests -----------------------------------------------------------------------------------


async def test_hundreds_of_requests_are_open_at_once_and_more_wait() -> None:
    config = replace(QUICK, requests_open_max=100)
    async with open_node(1, config=config) as one, open_node(2, config=config) as other:
        go, asked = trio.Event(), 0

        async def hold(_: str, frame: bytes) -> bytes:
            nonlocal asked
            asked += 1
            await go.wait()
            return frame

        other.serve_requests("/echo/1", hold, size_max_bytes=1000)
        await join(one, other)
        got: list[bytes] = []

        async def request(number: int) -> None:
            got.append(await ask(one, other.peer, b"%d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(250):
                nursery.start_soon(request, number)
            await until(lambda: asked == 100)
            go.set()
        assert sorted(got) == sorted(b"%d" % number for number in range(250))


async def test_requests_that_were_given_up_do_not_fill_the_stream() -> None:
    config = replace(QUICK, requests_open_max=10)
    async with open_node(1, config=config) as one, open_node(2, config=config) as other:

        async def handle(_: str, frame: bytes) -> bytes:
            if frame == b"never":
                await trio.sleep_forever()
            return frame

        other.serve_requests("/echo/1", handle, size_max_bytes=1000)
        await join(one, other)
        for _ in range(50):
            with pytest.raises(PeerTimeout):
                await ask(one, other.peer, b"never", timeout_s=0.01)
        assert await ask(one, other.peer) == b"hello"


async def test_a_large_reply_does_not_hold_up_gossip() -> None:
    async with open_node(1) as one, open_node(2) as other:

        async def large(_: str, __: bytes) -> bytes:
            return bytes(20_000_000)

        got: list[bytes] = []
        other.serve_requests("/large/1", large, size_max_bytes=9)
        one.serve_frames(lambda _, frame: got.append(frame), size_max_bytes=100)
        await join(one, other)
        before: list[int] = []

        async def fetch() -> None:
            await one.request(
                other.peer, "/large/1", b"x", reply_size_max_bytes=20_000_000, timeout_s=WAIT_S
            )
            before.append(len(got))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            while not before:
                assert other.send(one.peer, b"hint")
                await trio.sleep(0.005)
        assert before[0] > 3


# --- a cold start -------------------------------------------------------------------------------


def test_a_cold_start_takes_little_time_and_memory() -> None:
    with child(9) as node:
        assert node.cpu_s < 2
        assert node.resident_mb < 170
