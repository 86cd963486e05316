"""Strangers, and peers that break every rule they can: the node stays up and serves the others."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio

from gossip.errors import PeerBusy, PeerError, PeerTimeout, PeerUnreachable
from gossip.network import PeerEvent, PeerUp, Stream
from gossip.wire import PROTOCOL as GOSSIP
from gossip.wire_encode import varint
from peernode.libp2p_address import parse_address
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_connection import Connection, Connector
from peernode.libp2p_network import Libp2pNetwork
from peernode.libp2p_patches import Substream
from peernode.traffic import Traffic
from storage import signing
from tests.peernode.libp2p_world import (
    QUICK,
    join,
    marks,
    open_node,
    seed,
    until,
)

pytestmark = marks

REQUESTS, STREAMS, JOIN = "/requests/1", "/streams/1", "/join/1"
IDENTIFY, PING = "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"
MEMBERS = (1, 2, 3)
STRANGER = 66


def key(number: int) -> bytes:
    return signing.Keypair.from_seed(seed(number)).public_key


def name(number: int) -> str:
    return signing.peer_id(key(number))


def members_only(public_key: bytes) -> bool:
    return public_key in map(key, MEMBERS)


class Victim:
    """A node that serves something of each kind, and what reached its handlers."""

    def __init__(self, network: Libp2pNetwork) -> None:
        self.network = network
        self.heard: list[bytes] = []
        network.serve_frames(lambda _, frame: self.heard.append(frame), size_max_bytes=1000)
        network.serve_requests(REQUESTS, self.reply, size_max_bytes=1000)
        network.serve_streams(STREAMS, self.talk, size_max_bytes=1000)
        network.serve_requests(JOIN, self.reply, size_max_bytes=100, open_to_strangers=True)

    async def reply(self, _: str, frame: bytes) -> bytes:
        self.heard.append(frame)
        return b"reply to " + frame

    async def talk(self, stream: Stream) -> None:
        while True:
            self.heard.append(await stream.receive())


@asynccontextmanager
async def victim(
    *, config: Libp2pConfig = QUICK, allowed: Callable[[bytes], bool] = members_only
) -> AsyncIterator[tuple[Victim, Libp2pNetwork]]:
    """Yield a node, and an honest peer of it to tell whether it still serves."""
    async with (
        open_node(1, allowed=allowed, config=config) as network,
        open_node(2, config=config) as honest,
    ):
        node = Victim(network)
        await join(honest, network)
        yield node, honest


async def assert_serves(node: Victim, honest: Libp2pNetwork) -> None:
    await until(lambda: node.network.peer in honest.peers())
    peer = node.network.peer
    reply = await honest.request(peer, REQUESTS, b"honest", reply_size_max_bytes=100, timeout_s=10)
    assert reply == b"reply to honest"
    assert honest.send(peer, b"honest gossip")
    await until(lambda: b"honest gossip" in node.heard)
    node.heard.clear()


@asynccontextmanager
async def attached(number: int, network: Libp2pNetwork) -> AsyncIterator[Connection]:
    """Connect with that key, and do nothing by itself but carry bytes."""
    connection = await dial(number, network)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, QUICK)
        await connection.started.wait()
        yield connection
        nursery.cancel_scope.cancel()


async def dial(number: int, network: Libp2pNetwork) -> Connection:
    connector = Connector(seed(number), QUICK, Traffic())
    return await connector.dial(parse_address(network.addresses()[0]), network.peer)


async def ended(connection: Connection) -> bool:
    """Tell whether the other side ends the connection, and soon."""
    with trio.move_on_after(10):
        try:
            while True:
                await connection.accept_stream()
        except PeerError:
            return True
    return False


# --- strangers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [GOSSIP, REQUESTS, STREAMS, IDENTIFY, PING, "/no/1"])
async def test_a_stranger_is_refused_on_every_protocol(protocol: str) -> None:
    async with victim() as (node, honest), attached(STRANGER, node.network) as stranger:
        with pytest.raises(PeerUnreachable):
            await stranger.open_stream(protocol, 10)
        assert node.heard == []
        assert node.network.peers() == [honest.peer]
        await assert_serves(node, honest)


async def test_a_stranger_is_cut_where_nothing_is_open_to_it() -> None:
    async with open_node(1, allowed=members_only) as network:
        network.serve_requests(REQUESTS, Victim.reply, size_max_bytes=9)  # type: ignore[arg-type]
        async with attached(STRANGER, network) as stranger:
            assert await ended(stranger)


async def ask_as(
    stranger: Libp2pNetwork, node: Victim, protocol: str = JOIN, frame: bytes = b"please"
) -> bytes:
    return await stranger.request_as_stranger(
        node.network.peer,
        node.network.addresses(),
        protocol,
        frame,
        reply_size_max_bytes=100,
        timeout_s=10,
    )


async def test_a_stranger_may_ask_for_what_is_open_to_it() -> None:
    async with victim() as (node, honest), open_node(STRANGER) as stranger:
        assert await ask_as(stranger, node) == b"reply to please"
        with pytest.raises(PeerError):
            await ask_as(stranger, node, REQUESTS)
        assert node.heard == [b"please"]
        assert node.network.peers() == [honest.peer]
        assert stranger.peers() == []


async def test_a_stranger_may_not_ask_for_much() -> None:
    async with victim() as (node, _), open_node(STRANGER) as stranger:
        with pytest.raises(PeerError):
            await ask_as(stranger, node, frame=bytes(101))
        assert node.heard == []


async def test_a_member_asks_for_it_over_its_link() -> None:
    async with victim() as (node, honest):
        assert await ask_as(honest, node) == b"reply to please"
        assert honest.peers() == [node.network.peer]


async def test_strangers_of_one_host_may_not_ask_often() -> None:
    config = replace(QUICK, stranger_requests_burst=3, stranger_requests_per_minute=0.01)
    async with victim(config=config) as (node, honest), open_node(STRANGER) as stranger:
        for _ in range(3):
            await ask_as(stranger, node)
        with pytest.raises(PeerBusy):
            await ask_as(stranger, node)
        node.heard.clear()
        await assert_serves(node, honest)


async def test_strangers_that_stay_give_way_to_new_ones() -> None:
    config = replace(QUICK, strangers_max=2)
    async with (
        victim(config=config) as (node, _),
        open_node(STRANGER) as stranger,
        attached(71, node.network) as first,
        attached(72, node.network),
        attached(73, node.network),
    ):
        assert await ended(first)
        assert await ask_as(stranger, node) == b"reply to please"


async def test_a_stranger_does_not_stay_for_ever() -> None:
    config = replace(QUICK, stranger_lifetime_s=0.2)
    async with victim(config=config) as (node, _), attached(STRANGER, node.network) as stranger:
        assert await ended(stranger)


async def test_who_is_not_a_member_any_more_is_cut_and_heard_no_more() -> None:
    members = [key(1), key(2), key(3)]
    async with victim(allowed=lambda public_key: public_key in members) as (node, honest):
        async with attached(3, node.network) as evicted:
            gossip = await evicted.open_stream(GOSSIP, 10)
            requests = await evicted.open_stream(REQUESTS, 10)
            members.remove(key(3))
            await requests.write(frame(varint(1) + b"too late"))
            with pytest.raises(PeerError):
                await evicted.open_stream(STREAMS, 10)
            await gossip.write(frame(b"too late"))
            node.network.review()
            assert await ended(evicted)
        assert node.heard == []
        await assert_serves(node, honest)


@pytest.mark.parametrize("protocol", [GOSSIP, REQUESTS, STREAMS, IDENTIFY, PING, JOIN])
async def test_who_is_cut_off_reaches_nothing_and_is_no_stranger_either(protocol: str) -> None:
    async with victim() as (node, honest):
        async with attached(3, node.network) as peer:
            node.network.cut_off(name(3))
            assert await ended(peer)
        connection = await dial(3, node.network)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run, QUICK)
            with pytest.raises(PeerError):
                await connection.open_stream(protocol, 10)
        assert node.heard == []
        await assert_serves(node, honest)


async def test_who_was_cut_off_comes_back_by_itself_once_it_is_taken_back() -> None:
    async with victim() as (node, honest), open_node(3) as other:
        await join(other, node.network)
        node.network.cut_off(other.peer)
        await until(lambda: node.network.peer not in other.peers())
        node.network.take_back(other.peer)
        await until(lambda: other.peer in node.network.peers())
        await assert_serves(node, honest)


# --- who a peer is ------------------------------------------------------------------------------

IDENTITIES = {
    "nothing": b"",
    "no end": b"\xff" * 20,
    "a megabyte": varint(1 << 20),
    "no protobuf": varint(9) + b"\xff" * 9,
    "a long agent": varint(1003) + b"\x32\xe8\x07" + b"x" * 1000,
}


@pytest.mark.parametrize("said", IDENTITIES.values(), ids=IDENTITIES)
async def test_what_a_peer_says_it_is_is_bounded_and_keeps_it_from_nothing(said: bytes) -> None:
    config = replace(QUICK, identify_timeout_s=0.3)
    async with victim(config=config) as (node, honest), attached(3, node.network) as peer:
        events: list[PeerEvent] = []
        node.network.watch(events.append)
        for _ in range(2):
            stream = await peer.accept_stream()
            if await peer.agree(stream, [GOSSIP, IDENTIFY], 10) == IDENTIFY:
                await stream.write(said)
                if said:
                    await stream.close()
        await until(lambda: events)
        (event,) = events
        assert isinstance(event, PeerUp)
        assert event.agent == ("x" * 64 if said.endswith(b"x") else "")
        await assert_serves(node, honest)


# --- bytes --------------------------------------------------------------------------------------


def frame(data: bytes) -> bytes:
    return varint(len(data)) + data


GARBAGE = {
    "a length without end": b"\xff" * 20,
    "a frame over the limit": varint(1 << 30) + bytes(100),
    "half a frame": varint(500) + bytes(10),
    "empty frames": bytes(1000),
    "noise": random.Random(1).randbytes(5000),
    "what kills py-libp2p": frame(b"\x0a" + b"\xff" * 10),
    "a number without end": frame(b"\xff" * 40),
    "the reply to nothing": frame(varint(77) + b"\x00reply"),
    "an empty request": frame(varint(1)),
    "the same number twice": frame(varint(1) + b"a") * 2,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("protocol", [GOSSIP, REQUESTS, STREAMS, IDENTIFY, PING, JOIN])
async def test_garbage_on_a_stream(protocol: str, garbage: bytes) -> None:
    async with victim() as (node, honest):
        for ending in ("close", "reset", "leave"):
            async with attached(3, node.network) as peer:
                with suppress(Exception):  # It is cut off, as it should be.
                    stream = await peer.open_stream(protocol, 10)
                    await stream.write(garbage)
                    if ending == "close":
                        await stream.close()
                    elif ending == "reset":
                        await stream.reset()
        await assert_serves(node, honest)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13/multistream/1.0.0\n",
        b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + bytes(65535),
        b"\x13/multistream/1.0.0\n\x0b/plaintext\n",
        b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n",
        random.Random(2).randbytes(100_000),
    ],
)
async def test_garbage_on_a_socket(garbage: bytes) -> None:
    async with victim() as (node, honest):
        address = parse_address(node.network.addresses()[0])
        stream = await trio.open_tcp_stream(address.host, address.port)
        async with stream:
            with trio.move_on_after(1):
                try:
                    await stream.send_all(garbage)
                    await stream.send_eof()
                    async for _ in stream:
                        pass
                except trio.BrokenResourceError:
                    pass
        await assert_serves(node, honest)


async def test_garbage_inside_noise() -> None:
    async with victim() as (node, honest):
        chance = random.Random(3)
        for size in (1, 11, 12, 1000, 60_000):
            connection = await dial(3, node.network)
            await connection._muxer.secured_conn.write(chance.randbytes(size))
            connection.break_off()
        await assert_serves(node, honest)


async def test_a_stream_named_by_a_megabyte() -> None:
    async with victim() as (node, honest), attached(3, node.network) as peer:
        stream = await peer._muxer.open_stream()
        await stream.write(b"\x13/multistream/1.0.0\n" + varint(1_000_000))
        await until(lambda: stream.reset_received)
        await assert_serves(node, honest)


# --- floods -------------------------------------------------------------------------------------


async def test_sockets_that_say_nothing_keep_nobody_out() -> None:
    async with victim() as (node, _):
        address = parse_address(node.network.addresses()[0])
        idle = [await trio.open_tcp_stream(address.host, address.port) for _ in range(300)]
        async with open_node(3) as late:
            await join(late, node.network)
        for stream in idle:
            await stream.aclose()


async def test_four_hundred_connections_of_a_member_cost_few_handshakes_and_move_no_other() -> None:
    # So slowly that no time is measured.
    config = replace(QUICK, handshakes_per_host_per_s=0.01, replacements_per_minute=0.01)
    async with victim(config=config) as (node, honest):
        events: list[PeerEvent] = []
        node.network.watch(events.append)
        begun = node.network.arrivals.begun
        async with trio.open_nursery() as nursery:
            for _ in range(400):
                nursery.start_soon(stay, node.network, nursery)
            await until(lambda: node.network.arrivals.refused >= 400 - QUICK.handshakes_max)
            assert node.network.arrivals.begun - begun <= config.handshakes_per_host_burst
            node.network.arrivals.check()
            await assert_serves(node, honest)
            nursery.cancel_scope.cancel()
        ups = [event for event in events if isinstance(event, PeerUp)]
        assert len(ups) <= 1 + config.replacements_burst
        assert {event.peer for event in events} <= {name(3)}, "the honest link has not moved"


async def stay(network: Libp2pNetwork, nursery: trio.Nursery) -> None:
    """Connect as member 3, and hold on to it."""
    with suppress(PeerError):
        connection = await dial(3, network)
        await connection.run(QUICK)


async def test_a_member_that_connects_again_and_again_has_one_link_and_keeps_it() -> None:
    config = replace(QUICK, replacements_burst=1, replacements_per_minute=0.01)
    async with victim(config=config) as (node, honest), attached(3, node.network) as first:
        await let_gossip(first)
        await until(lambda: name(3) in node.network.peers())
        async with attached(3, node.network) as second:
            assert await ended(first)
            await let_gossip(second)
            await until(lambda: name(3) in node.network.peers())
            events: list[PeerEvent] = []
            node.network.watch(events.append)
            for _ in range(5):
                async with attached(3, node.network) as other:
                    assert await ended(other)
            assert events == []
            await assert_serves(node, honest)


async def let_gossip(peer: Connection) -> Substream:
    """Return the stream of gossip that a node opens, and answer nothing else."""
    while True:
        stream = await peer.accept_stream()
        with suppress(PeerError):
            assert await peer.agree(stream, [GOSSIP], 10) == GOSSIP
            return stream


async def test_connections_after_one_another_leave_room_for_the_next() -> None:
    async with victim() as (node, honest):
        for _ in range(100):
            with suppress(PeerError):
                (await dial(3, node.network)).break_off()
        async with open_node(3) as late:
            await join(late, node.network)
        await assert_serves(node, honest)


async def test_streams_without_end_are_refused_beyond_a_number() -> None:
    config = replace(QUICK, streams_open_max=10)
    async with victim(config=config) as (node, honest), attached(3, node.network) as peer:
        opened = 0
        try:
            for _ in range(30):
                await peer.open_stream(STREAMS, 10)
                opened += 1
        except PeerError:
            pass
        assert opened <= 10
        await assert_serves(node, honest)


async def test_requests_without_end_are_busy_beyond_a_number() -> None:
    config = replace(QUICK, requests_open_max=4)
    async with victim(config=config) as (node, honest):
        held = 0

        async def hold(_: str, __: bytes) -> bytes:
            nonlocal held
            held += 1
            await trio.sleep_forever()
            raise AssertionError

        node.network.serve_requests("/hold/1", hold, size_max_bytes=100)
        async with attached(3, node.network) as peer:
            stream = await peer.open_stream("/hold/1", 10)
            await stream.write(b"".join(frame(varint(number) + b"x") for number in range(20)))
            answers = b""
            while len(answers) < 12 * 3:
                answers += await stream.read(100)
        assert held == 8
        await assert_serves(node, honest)


async def test_a_peer_that_asks_and_reads_no_replies_has_so_many_open_and_no_more() -> None:
    config = replace(QUICK, requests_open_max=8)
    async with victim(config=config) as (node, honest):
        asked: list[None] = []

        async def reply(_: str, __: bytes) -> bytes:
            asked.append(None)
            return bytes(100_000)

        node.network.serve_requests("/large/1", reply, size_max_bytes=100)
        async with attached(3, node.network) as deaf:
            stream = await deaf.open_stream("/large/1", 10)
            for number in range(1, 1000):
                await stream.write(frame(varint(number) + b"x"))
            await until(lambda: len(asked) >= 16)
            await assert_serves(node, honest)
            # What a window and a queue hold went out; then its own replies wait, and it with them.
            assert len(asked) < 100


async def test_large_replies_that_nobody_reads_keep_further_requests_from_being_read() -> None:
    async with victim() as (node, honest):
        asked: list[None] = []

        async def reply(_: str, __: bytes) -> bytes:
            asked.append(None)
            await trio.lowlevel.checkpoint()
            return bytes(1_000_000)

        node.network.serve_requests("/large/1", reply, size_max_bytes=100)
        async with attached(3, node.network) as slow:
            stream = await slow.open_stream("/large/1", 10)
            for number in range(1, 200):
                await stream.write(frame(varint(number) + b"x"))
                await trio.lowlevel.checkpoint()
            await until(lambda: len(asked) >= 16)
            await assert_serves(node, honest)
            assert len(asked) < 100, "and not 200 MB"
            # Whoever reads after all gets everything.
            size = 199 * 1_000_000
            while size > 0:
                size -= len(await stream.read(1 << 20))
            assert len(asked) == 199


async def test_a_peer_that_reads_no_gossip_loses_it_and_is_cut() -> None:
    config = replace(QUICK, stall_max_s=0.3)
    async with victim(config=config) as (node, honest), attached(3, node.network) as deaf:
        await let_gossip(deaf)
        await until(lambda: name(3) in node.network.peers())
        while node.network.send(name(3), bytes(100_000)):
            pass
        await until(lambda: name(3) not in node.network.peers())
        await assert_serves(node, honest)


async def test_a_peer_that_never_answers_on_a_stream_keeps_nobody_waiting() -> None:
    async with victim() as (node, honest), attached(3, node.network) as mute:
        await let_gossip(mute)
        await until(lambda: name(3) in node.network.peers())
        with pytest.raises(PeerTimeout):
            await node.network.open_stream(name(3), STREAMS, size_max_bytes=9, timeout_s=0.1)
        with pytest.raises(PeerTimeout):
            await node.network.request(
                name(3), REQUESTS, b"x", reply_size_max_bytes=9, timeout_s=0.1
            )
        await assert_serves(node, honest)
