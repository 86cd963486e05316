"""Connections: TCP, Noise, Yamux, and streams that agree on a protocol. Over libp2p's parts.

A connection proves who is at its other end: the peer id is the Ed25519 key that signed the keys of
Noise.  Peers with keys of another kind are refused.

The library raises what it likes, down to `KeyError`, at bytes from outside.  All of that is
translated here, in `translated`, and nowhere else.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import ProtocolNotSupportedError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as Noise
from libp2p.security.secure_session import SecureSession
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, YamuxStream

from gossip.errors import PeerClosed, PeerError, PeerTimeout, PeerUnreachable
from gossip.wire import PEER_ID_PREFIX
from peernode.libp2p_address import Address
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_patches import GuardedYamux, Negotiated, Substream, TcpStream
from peernode.libp2p_secured import Secured
from peernode.traffic import LINE, PINGS, Traffic
from storage import signing

_CLOSE_TIMEOUT_S: Final = 1.0
"""How long the end of a stream may take to get out. Source: guess; it waits behind other frames."""


@contextmanager
def translated(peer: str) -> Iterator[None]:
    """Turn whatever libp2p raises into `PeerClosed` or, for a protocol, `PeerUnreachable`."""
    try:
        yield
    except PeerError:
        raise
    except ProtocolNotSupportedError as error:
        raise PeerUnreachable(f"{peer} does not serve that") from error
    except Exception as error:
        raise PeerClosed(f"the connection with {peer} broke: {error!r}") from error


class Connection:
    """A connection to a peer that has proved its key. Runs in `run`."""

    def __init__(
        self,
        tcp: TcpStream,
        line: Secured,
        muxer: GuardedYamux,
        public_key: bytes,
        *,
        is_ours: bool,
    ) -> None:
        self._tcp = tcp
        self._line = line
        self._muxer = muxer
        self.public_key = public_key
        self.peer = signing.peer_id(public_key)
        self.is_ours = is_ours
        """Whether we dialled."""
        address = tcp.get_remote_address()
        self.host = address[0] if address else ""
        """Where the peer is, as far as TCP knows."""
        self.started = muxer.event_started

    @property
    def latency_s(self) -> float | None:
        """Round trip time as measured lately."""
        return self._muxer.rtt() or None

    async def goes_on(self) -> bool:
        """Return whether the other end keeps the connection, once it shows. Not after `run`.

        Who keeps it says something at once, and who does not ends it.
        """
        return await self._line.more_comes()

    def break_off(self) -> None:
        """End the connection at once; `run` returns soon after."""
        self._tcp.break_off()

    async def run(self, config: Libp2pConfig) -> None:
        """Carry frames until the connection ends. Never raises."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, config)
                with translated(self.peer):
                    await self._muxer.start()
                nursery.cancel_scope.cancel()
        except* PeerError:
            pass
        finally:
            self._tcp.break_off()

    async def _watch(self, config: Libp2pConfig) -> None:
        """Break the connection when nothing is heard any more."""
        async with trio.open_nursery() as nursery:
            pinging: list[None] = []

            async def ping() -> None:
                # It may get stuck behind what the peer does not read.
                with translated(self.peer):
                    await self._muxer.ping()
                pinging.clear()

            await trio.sleep(min(1.0, config.health_interval_s))
            while trio.current_time() - self._tcp.heard_at < config.silence_max_s:
                if not pinging:
                    pinging.append(None)
                    nursery.start_soon(ping)
                await trio.sleep(config.health_interval_s)
            self.break_off()

    async def open_stream(self, protocol: str, timeout_s: float) -> Substream:
        """Return a stream of this protocol. Raises `PeerUnreachable` and `PeerClosed`."""
        with translated(self.peer):
            stream = Substream(await self._muxer.open_stream())
            is_open = False
            try:
                with trio.move_on_after(timeout_s):
                    await _ask_for(protocol, stream)
                    is_open = True
                    return stream
            finally:
                if not is_open:
                    await end_stream(stream)
        raise PeerUnreachable(f"{self.peer} does not say whether it serves {protocol}")

    async def accept_stream(self) -> Substream:
        """Return the next stream that the peer opens. Raises `PeerClosed` at the end."""
        with translated(self.peer):
            stream = await self._muxer.accept_stream()
        assert isinstance(stream, YamuxStream)
        return Substream(stream)

    async def agree(self, stream: Substream, served: Iterable[str], timeout_s: float) -> str:
        """Return which of the protocols that are `served` the peer wants on its stream.

        Raises `PeerClosed`.
        """
        with translated(self.peer):
            return await _agree(served, stream, timeout_s)


class Connector:
    """Makes connections, with one node's key."""

    def __init__(self, seed: bytes, config: Libp2pConfig, traffic: Traffic) -> None:
        pair = create_new_key_pair(seed)
        noise = Noise(libp2p_keypair=pair, noise_privkey=create_noise_key().private_key)
        self._security = SecurityMultistream({NOISE: noise})
        self._config = config
        self._traffic = traffic
        self.peer = signing.peer_id(pair.public_key.to_bytes())
        self.identity = pair.public_key.serialize()
        """The public key as libp2p writes it."""

    async def dial(self, address: Address, peer: str) -> Connection:
        """Connect to a peer. Raises `PeerUnreachable`, `PeerTimeout` or `PeerClosed`."""
        with trio.move_on_after(self._config.dial_timeout_s):
            try:
                stream = await trio.open_tcp_stream(address.host, address.port)
            except OSError as error:
                raise PeerUnreachable(f"nobody answers at {address}: {error}") from error
            return await self._upgrade(stream, ID.from_string(peer))
        raise PeerTimeout(f"{address} did not answer in {self._config.dial_timeout_s} s")

    async def dial_any(self, peer: str, addresses: Iterable[Address]) -> Connection:
        """Connect to a peer at the first of its addresses that will do. Raises `PeerError`."""
        reason: PeerError = PeerUnreachable(f"no address of {peer} is known")
        for address in addresses:
            try:
                return await self.dial(address, peer)
            except PeerError as error:
                reason = error
        raise reason

    async def accept(self, stream: trio.SocketStream) -> Connection:
        """Let somebody connect. Raises `PeerTimeout` or `PeerClosed`."""
        with trio.move_on_after(self._config.handshake_timeout_s):
            return await self._upgrade(stream, None)
        raise PeerTimeout(f"no handshake in {self._config.handshake_timeout_s} s")

    async def _upgrade(self, stream: trio.SocketStream, wanted: ID | None) -> Connection:
        """Agree on Noise and Yamux. `wanted` is whom we dialled."""
        tcp = TcpStream(stream, self._traffic.of(LINE))
        is_ours = wanted is not None
        try:
            with translated(str(wanted or tcp.get_remote_address())):
                raw = RawConnection(tcp, is_ours)
                if wanted is not None:
                    secured = await self._security.secure_outbound(raw, wanted)
                else:
                    secured = await self._security.secure_inbound(raw)
                name = secured.get_remote_peer()
                if not (name.to_bytes().startswith(PEER_ID_PREFIX) and wanted in (None, name)):
                    raise PeerClosed(f"{name} is not a peer for us")
                if not isinstance(secured, SecureSession):
                    raise PeerClosed(f"{name} speaks no Noise")
                line = Secured(secured, tcp)
                if is_ours:
                    await _ask_for(PROTOCOL_ID, line)
                else:
                    await _agree([PROTOCOL_ID], line, self._config.handshake_timeout_s)
                pings = self._traffic.of(PINGS)
                muxer = GuardedYamux(line, name, pings, is_initiator=is_ours)
                public_key = name.to_bytes()[len(PEER_ID_PREFIX) :]
                return Connection(tcp, line, muxer, public_key, is_ours=is_ours)
        except BaseException:
            tcp.break_off()
            raise


async def end_stream(stream: Substream) -> None:
    """Let what was written arrive, end both directions, and give the stream back. Never raises."""
    with trio.CancelScope(deadline=trio.current_time() + _CLOSE_TIMEOUT_S, shield=True):
        try:
            with translated(""):
                await stream.close()
        except PeerError:
            pass


async def _ask_for(protocol: str, line: ReadWriteCloser) -> None:
    """Agree with the other end on this protocol, or raise."""
    client, talk = MultiselectClient(), MultiselectCommunicator(Negotiated(line))
    await client.handshake(talk)
    await client.try_select(talk, TProtocol(protocol))


async def _agree(served: Iterable[str], line: ReadWriteCloser, timeout_s: float) -> str:
    """Return what the other end chose of `served`, or raise."""
    choice = Multiselect({TProtocol(each): None for each in served})
    # The library knows whole seconds only.
    talk = MultiselectCommunicator(Negotiated(line))
    protocol, _ = await choice.negotiate(talk, math.ceil(timeout_s))
    if protocol is None:
        raise PeerClosed("no protocol was chosen")
    return str(protocol)
