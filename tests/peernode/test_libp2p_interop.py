"""Our network against py-libp2p's own host: it finds in us what it expects of any libp2p node."""

import gc
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as Noise
from multiaddr import Multiaddr

from gossip.wire import PROTOCOL as GOSSIP
from peernode.libp2p_network import Libp2pNetwork
from tests.peernode.libp2p_world import ANYWHERE, open_node, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _sockets_are_collected() -> Iterator[None]:
    """Have what libp2p leaves open closed in this test, where the warnings are ignored."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
    gc.collect()


class Host:
    """A host of py-libp2p that answers gossip with what it gets."""

    def __init__(self, host: IHost) -> None:
        self.host = host
        self.got = b""
        host.set_stream_handler(TProtocol(GOSSIP), self.hear)

    async def hear(self, stream: INetStream) -> None:
        try:
            while True:
                self.got += await stream.read(1000)
        except Exception:  # noqa: BLE001  (whatever ends the stream ends the test)
            await stream.reset()

    async def say(self, data: bytes, node: Libp2pNetwork) -> INetStream:
        stream = await self.host.new_stream(ID.from_string(node.peer), [TProtocol(GOSSIP)])
        await stream.write(data)
        return stream


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Libp2pNetwork, Host, list[bytes]]]:
    key = create_new_key_pair(bytes([50]) * 32)
    host = new_host(
        key_pair=key,
        muxer_opt=create_yamux_muxer_option(),
        sec_opt={NOISE: Noise(libp2p_keypair=key, noise_privkey=create_noise_key().private_key)},
        listen_addrs=[Multiaddr(ANYWHERE)],
    )
    heard: list[bytes] = []
    async with host.run(listen_addrs=[Multiaddr(ANYWHERE)]), open_node(1) as node:
        node.serve_frames(lambda _, frame: heard.append(frame), size_max_bytes=1000)
        yield node, Host(host), heard


async def talk(node: Libp2pNetwork, theirs: Host, heard: list[bytes]) -> None:
    """Let frames go both ways over their streams of pubsub."""
    peer = str(theirs.host.get_id())
    await until(lambda: node.peers() == [peer])
    assert node.send(peer, b"ours")
    await until(lambda: theirs.got == b"\x04ours")
    await theirs.say(b"\x06theirs\x00\x03too", node)
    await until(lambda: heard == [b"theirs", b"too"])


async def test_it_dials_us() -> None:
    async with both() as (node, theirs, heard):
        await theirs.host.connect(info_from_p2p_addr(Multiaddr(node.addresses()[0])))
        await talk(node, theirs, heard)


async def test_we_dial_it() -> None:
    async with both() as (node, theirs, heard):
        peer = str(theirs.host.get_id())
        node.add_peer(peer, [str(each) for each in theirs.host.get_addrs()])
        await talk(node, theirs, heard)


async def test_it_identifies_and_pings_us() -> None:
    async with both() as (node, theirs, _):
        await theirs.host.connect(info_from_p2p_addr(Multiaddr(node.addresses()[0])))
        us = ID.from_string(node.peer)
        stream = await theirs.host.new_stream(us, [TProtocol("/ipfs/id/1.0.0")])
        said = b""
        try:
            while True:
                said += await stream.read(1000)
        except Exception:  # noqa: BLE001  (the end)
            pass
        identity = parse_identify_response(said)
        assert GOSSIP in identity.protocols
        assert identity.agent_version == "peernode/1"
        addresses = [str(Multiaddr(each)) for each in identity.listen_addrs]
        assert [f"{each}/p2p/{node.peer}" for each in addresses] == node.addresses()

        stream = await theirs.host.new_stream(us, [TProtocol("/ipfs/ping/1.0.0")])
        for _ in range(3):
            await stream.write(b"p" * 32)
            with trio.fail_after(10):
                assert await stream.read(32) == b"p" * 32
