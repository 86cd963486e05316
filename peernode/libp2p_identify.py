"""What every libp2p node answers: who it is (`/ipfs/id/1.0.0`) and that it is there (ping).

Of others we ask only which software they are, and believe it as far as writing to them goes: keys
are proved by Noise, addresses come from signed records, and signs of life from Yamux.

https://github.com/libp2p/specs/tree/master/identify and /ping
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from gossip.wire_encode import varint
from peernode.libp2p_connection import translated
from peernode.libp2p_frames import FrameBuffer
from peernode.libp2p_patches import Substream

IDENTIFY: Final = "/ipfs/id/1.0.0"
PING: Final = "/ipfs/ping/1.0.0"

_PROTOCOL_VERSION: Final = "ipfs/0.1.0"
_PING_SIZE_BYTES: Final = 32
_READ_TIMEOUT_S: Final = 10.0
"""How long who asked may take to read the answer. Source: as for agreeing on a protocol."""
_ANSWER_SIZE_MAX_BYTES: Final = 8192
"""Longest answer that is read. Source: go-libp2p."""
_AGENT_LENGTH_MAX: Final = 64
"""What is kept of an agent's version. Source: guess; "js-libp2p/2.8.5 node/22.11.0" has 29."""


@dataclass(slots=True)
class Identity:
    """What a node says of itself."""

    public_key: bytes
    """As libp2p writes it."""
    agent: str
    addresses: Sequence[str] = ()
    """Where it listens, without its peer id."""


async def answer_identify(stream: Substream, identity: Identity, protocols: Sequence[str]) -> None:
    """Say who we are, once."""
    message = Identify(
        protocol_version=_PROTOCOL_VERSION,
        agent_version=identity.agent,
        public_key=identity.public_key,
        listen_addrs=[Multiaddr(each).to_bytes() for each in identity.addresses],
        protocols=protocols,
    ).SerializeToString()
    with translated("a peer"):
        await stream.write(varint(len(message)) + message)
        with trio.move_on_after(_READ_TIMEOUT_S):
            await stream.finish()


async def ask_agent(stream: Substream) -> str:
    """Return which software the other end says it is. Raises `PeerError`."""
    frames = FrameBuffer(_ANSWER_SIZE_MAX_BYTES)
    with translated("a peer"):
        while (answer := frames.take()) is None:
            frames.feed(await stream.read(_ANSWER_SIZE_MAX_BYTES))
        agent: str = Identify.FromString(answer).agent_version
    return agent[:_AGENT_LENGTH_MAX]


async def answer_pings(stream: Substream) -> None:
    """Send back what comes, until the stream ends."""
    with translated("a peer"):
        while True:
            ping = b""
            while len(ping) < _PING_SIZE_BYTES:
                ping += await stream.read(_PING_SIZE_BYTES - len(ping))
            await stream.write(ping)
