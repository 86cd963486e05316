"""The machine against py-libp2p's own GossipSub, over real loopback streams.

The driver here is the least that carries frames between streams and the machine.
"""

import gc
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as Noise
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from gossip import wire, wire_encode
from gossip.mesh import Mesh
from gossip.mesh_events import (
    Connected,
    Deliver,
    Input,
    Publish,
    Received,
    Send,
    Subscribe,
    Tick,
    Written,
)
from tests.gossip.mesh_swarm import TOPIC, small, verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PROTOCOL = TProtocol(wire.PROTOCOL)
LISTEN = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
PATIENCE_S = 20


@pytest.fixture(autouse=True)
def _sockets_are_collected() -> Iterator[None]:
    """Have what libp2p leaves open closed in this test, where the warnings are ignored."""
    yield
    gc.collect()


def make_host() -> tuple[IHost, Callable[[bytes], bytes]]:
    """Return a host, and what signs with its key."""
    key = create_new_key_pair()
    noise = Noise(libp2p_keypair=key, noise_privkey=create_noise_key().private_key)
    host = new_host(
        key_pair=key,
        muxer_opt=create_yamux_muxer_option(),
        sec_opt={NOISE: noise},
        listen_addrs=LISTEN,
    )
    return host, key.private_key.sign


class Driver:
    """One machine on one host."""

    def __init__(self, host: IHost, sign: Callable[[bytes], bytes], nursery: trio.Nursery) -> None:
        self.host, self.nursery = host, nursery
        self.mesh = Mesh(
            small(),
            me=host.get_id().to_bytes(),
            sign=sign,
            verify=verify,
            chance=random.Random(1),
            seqno=1_700_000_000_000_000_000,
            now=trio.current_time(),
        )
        self.delivered: list[bytes] = []
        self.happened = trio.Condition()
        self.queues: dict[bytes, trio.MemorySendChannel[bytes]] = {}
        host.set_stream_handler(PROTOCOL, self.read)

    async def say(self, input: Input) -> None:
        for effect in self.mesh.handle(input, trio.current_time()):
            match effect:
                case Send(peer, rpc):
                    self.queues[peer].send_nowait(rpc)
                case Deliver(message):
                    self.delivered.append(message.data)
                case _:
                    raise AssertionError(effect)
        self.mesh.check()
        async with self.happened:
            self.happened.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE_S):
            async with self.happened:
                while not true():
                    await self.happened.wait()

    async def beat(self) -> None:
        while True:
            await trio.sleep_until(self.mesh.deadline)
            await self.say(Tick())

    async def greet(self, peer: object, outbound: bool) -> None:
        name = peer.to_bytes()
        if name not in self.queues:
            self.queues[name], frames = trio.open_memory_channel[bytes](10_000)
            self.nursery.start_soon(self.write, peer, frames)
            await self.say(Connected(name, outbound))

    async def write(self, peer: object, frames: trio.MemoryReceiveChannel[bytes]) -> None:
        stream = await self.host.new_stream(peer, [PROTOCOL])
        async for rpc in frames:
            await stream.write(wire_encode.varint(len(rpc)) + rpc)
            await self.say(Written(peer.to_bytes(), len(rpc)))

    async def read(self, stream: object) -> None:
        peer = stream.muxed_conn.peer_id
        await self.greet(peer, outbound=False)
        buffer = b""
        try:
            while data := await stream.read(65536):
                buffer += data
                while (frame := take_frame(buffer)) is not None:
                    rpc, buffer = frame
                    if rpc:
                        await self.say(Received(peer.to_bytes(), rpc))
        except Exception:  # noqa: BLE001 - whatever ends the stream at the end of the test
            await stream.reset()


def take_frame(buffer: bytes) -> tuple[bytes, bytes] | None:
    """Return the first frame and the rest, if it is all there."""
    size = shift = 0
    for position, byte in enumerate(buffer):
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            end = position + 1 + size
            return (buffer[position + 1 : end], buffer[end:]) if len(buffer) >= end else None
    return None


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Driver, Pubsub, GossipSub, IHost]]:
    """Yield a machine of ours and a GossipSub of theirs, each on a host, not yet connected."""
    logging.disable(logging.ERROR)
    try:
        ours, sign = make_host()
        theirs, _ = make_host()
        router = GossipSub(
            protocols=[PROTOCOL],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_initial_delay=0.1,
            heartbeat_interval=1,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        pubsub = Pubsub(theirs, router, strict_signing=True)
        async with (
            ours.run(listen_addrs=LISTEN),
            theirs.run(listen_addrs=LISTEN),
            background_trio_service(pubsub),
            background_trio_service(router),
            trio.open_nursery() as nursery,
        ):
            await pubsub.wait_until_ready()
            driver = Driver(ours, sign, nursery)
            nursery.start_soon(driver.beat)
            yield driver, pubsub, router, theirs
            nursery.cancel_scope.cancel()
    finally:
        logging.disable(logging.NOTSET)


async def in_both_meshes(driver: Driver, router: GossipSub) -> None:
    await driver.until(lambda: driver.mesh.statistics().mesh == 1)
    me = driver.host.get_id()
    await driver.until(lambda: me in router.mesh.get(TOPIC, ()))


async def we_dial(driver: Driver, theirs: IHost) -> None:
    await driver.host.connect(PeerInfo(theirs.get_id(), theirs.get_addrs()))
    await driver.greet(theirs.get_id(), outbound=True)


async def they_dial(driver: Driver, theirs: IHost) -> None:
    await theirs.connect(PeerInfo(driver.host.get_id(), driver.host.get_addrs()))


@pytest.mark.parametrize("dial", [we_dial, they_dial])
async def test_both_graft_and_messages_go_both_ways(
    dial: Callable[[Driver, IHost], Awaitable[None]],
) -> None:
    async with world() as (driver, pubsub, router, theirs):
        subscription = await pubsub.subscribe(TOPIC)
        await driver.say(Subscribe(TOPIC))
        await dial(driver, theirs)
        await in_both_meshes(driver, router)

        sizes = (64, 100_000, 900_000)
        for size in sizes:
            await driver.say(Publish(TOPIC, b"o" * size))
            with trio.fail_after(PATIENCE_S):
                message = await subscription.get()
            assert message.data == b"o" * size
            assert message.from_id == driver.mesh._me
        for size in sizes:
            await pubsub.publish(TOPIC, b"t" * size)
        await driver.until(lambda: len(driver.delivered) == 3)
        assert driver.delivered == [b"t" * size for size in sizes]

        assert driver.mesh.score(theirs.get_id().to_bytes()) >= 0
        now = driver.mesh.statistics()
        assert (now.invalid, now.malformed, now.promises_broken) == (0, 0, 0)
