"""The seam `Network` over libp2p: nodes that know each other by their keys.

    async with open_libp2p_network(seed, "/ip4/0.0.0.0/tcp/4001", allowed, chance) as network:
        network.serve_requests(...)
        await network.listen()
        network.add_peer(peer, addresses)

Transport is TCP with Noise and Yamux, nothing else is offered.  Gossip goes over raw streams of
`/meshsub/1.1.0`: any libp2p node that speaks pubsub can be a peer.

Rules:

* A *member* is who proves a key that is `allowed`.  It is asked when somebody connects and again
  for every stream and request; `review` asks it for all links.
* Everybody else is a *stranger*.  A stranger may ask for the protocols that are served
  `open_to_strangers`, for a short while and rarely, and sees no other; if there are none, its
  connection ends at once.
* A peer has one link.  Of two that crossed, both ends keep the one that the smaller id dialled;
  otherwise a new one takes the place of the old, unless there are too many such
  (`libp2p_arrivals`).
* Peers that were added are dialled, address by address, until they are up, and again when they are
  not, after delays that double.

The library is imported when a network is opened, not before: it costs 80 MB.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from gossip.errors import PeerError, PeerTimeout, PeerUnreachable
from gossip.memory_stream import require_frame
from gossip.network import (
    FaultWatcher,
    FrameHandler,
    PeerDown,
    PeerEvent,
    PeerUp,
    RequestHandler,
    Stream,
    StreamHandler,
    Watcher,
)
from peernode.libp2p_address import Address, parse_address, reachable
from peernode.libp2p_arrivals import Arrivals
from peernode.libp2p_config import AGENT, Libp2pConfig
from peernode.libp2p_supervisor import ADDRESSES_MAX, Supervisor
from peernode.traffic import Traffic
from storage import signing

if TYPE_CHECKING:
    from peernode.libp2p_connection import Connection, Connector
    from peernode.libp2p_link import Link, Services
    from peernode.libp2p_strangers import Strangers

BACKLOG: Final = 128
"""Connections that the kernel holds for us. Source: Linux's old SOMAXCONN."""


class Libp2pNetwork:
    """One node's `Network`. Made by `open_libp2p_network`."""

    def __init__(
        self,
        connector: "Connector",
        services: "Services",
        strangers: "Strangers",
        address: Address,
        config: Libp2pConfig,
        chance: random.Random,
        nursery: trio.Nursery,
        make_link: "Callable[[Connection], Link]",
    ) -> None:
        self._connector = connector
        self._services = services
        self._strangers = strangers
        self._listened = address
        self._config = config
        self._nursery = nursery
        self._make_link = make_link
        self._addresses: list[str] = []
        self._watchers: list[Watcher] = []
        self._links: dict[str, Link] = {}
        self._up: dict[str, Link] = {}
        self._supervisor = Supervisor(
            connector.peer, config, chance, nursery, self._links.get, self._connect
        )
        self._cut_off: dict[str, None] = {}
        self.arrivals = Arrivals(config, self._known_hosts)

    # --- the seam -------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """This node's own id."""
        return self._connector.peer

    def peers(self) -> list[str]:
        """Return the peers that are up, in the order they came."""
        return list(self._up)

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of each peer that comes or goes from now on."""
        self._watchers.append(watcher)

    def watch_faults(self, watcher: FaultWatcher) -> None:
        """Tell `watcher` of each rule that a peer breaks from now on."""
        self._services.fault_watchers.append(watcher)

    def cut_off(self, peer: str) -> None:
        """Break the link to a peer, and have none until it is taken back, and added again."""
        self._cut_off[peer] = None
        self.forget_peer(peer)

    def take_back(self, peer: str) -> None:
        """Let a peer that was cut off connect again."""
        self._cut_off.pop(peer, None)

    def serve_frames(self, handler: FrameHandler, *, size_max_bytes: int) -> None:
        """Give `handler` what peers `send`."""
        if self._services.frames is not None:
            raise ValueError("frames are served already")
        self._services.frames = handler, size_max_bytes

    def serve_requests(
        self,
        protocol: str,
        handler: RequestHandler,
        *,
        size_max_bytes: int,
        open_to_strangers: bool = False,
    ) -> None:
        """Let `handler` reply to requests; also to those of strangers, if so said."""
        self._require_unserved(protocol)
        self._services.requests[protocol] = handler, size_max_bytes
        if open_to_strangers:
            self._services.strangers[protocol] = None

    def serve_streams(self, protocol: str, handler: StreamHandler, *, size_max_bytes: int) -> None:
        """Let `handler` talk over streams that peers open."""
        self._require_unserved(protocol)
        self._services.streams[protocol] = handler, size_max_bytes

    def send(self, peer: str, frame: bytes) -> bool:
        """Hand a frame to the peer's queue; tell whether it was taken."""
        require_frame(frame)
        link = self._up.get(peer)
        return link is not None and link.send(frame)

    async def request(
        self, peer: str, protocol: str, frame: bytes, *, reply_size_max_bytes: int, timeout_s: float
    ) -> bytes:
        """Return the peer's reply. Raises `PeerBusy` too."""
        require_frame(frame)
        link = self._require_up(peer)
        with trio.move_on_after(timeout_s):
            return await link.request(protocol, frame, reply_size_max_bytes)
        raise PeerTimeout(f"{peer} did not reply in {timeout_s} s")

    async def open_stream(
        self, peer: str, protocol: str, *, size_max_bytes: int, timeout_s: float
    ) -> Stream:
        """Open a stream to the peer."""
        link = self._require_up(peer)
        with trio.move_on_after(timeout_s):
            return await link.open_stream(protocol, size_max_bytes)
        raise PeerTimeout(f"{peer} did not open a stream in {timeout_s} s")

    # --- beyond the seam ------------------------------------------------------------------

    async def listen(self) -> None:
        """Let others connect. Call it after handlers are registered.

        Raises `OSError`, and `InvalidData` if what is announced is no address.
        """
        host = self._listened.host
        listeners = await trio.open_tcp_listeners(self._listened.port, host=host, backlog=BACKLOG)
        port = listeners[0].socket.getsockname()[1]
        bound = reachable(self._listened._replace(port=port, peer=None))
        written = [str(parse_address(each)._replace(peer=None)) for each in self._config.announced]
        self._services.identity.addresses = written or [str(bound)]
        self._addresses = [f"{each}/p2p/{self.peer}" for each in self._services.identity.addresses]
        await self._nursery.start(trio.serve_listeners, self._accept, listeners)
        if self._config.mdns:
            from peernode.libp2p_mdns import run_mdns

            self._nursery.start_soon(
                run_mdns,
                self.peer,
                self._addresses,
                self._config.mdns_interfaces,
                self._find_locally,
                self._services.report,
            )

    def addresses(self) -> list[str]:
        """Return where others find this node, with its peer id; empty before `listen`."""
        return list(self._addresses)

    def add_peer(self, peer: str, addresses: Sequence[str]) -> None:
        """Be connected to a peer, from now on. Raises as `Supervisor.add`."""
        self._supervisor.add(peer, addresses)

    def forget_peer(self, peer: str) -> None:
        """Break the link to a peer and do not dial it any more."""
        self._supervisor.forget(peer)
        if peer in self._links:
            self._links[peer].end()

    def review(self) -> None:
        """Break the links to peers that are not allowed any more."""
        for link in list(self._links.values()):
            if not self._services.allowed(link.connection.public_key):
                link.end()

    @property
    def traffic(self) -> Traffic:
        """What went over its connections."""
        return self._services.traffic

    def latency_s(self, peer: str) -> float | None:
        """Return the round trip time to a peer that is up, as measured lately."""
        link = self._up.get(peer)
        return None if link is None else link.connection.latency_s

    async def request_as_stranger(
        self,
        peer: str,
        addresses: Sequence[str],
        protocol: str,
        frame: bytes,
        *,
        reply_size_max_bytes: int,
        timeout_s: float,
    ) -> bytes:
        """Ask somebody who does not know us, over a connection for this; else as `request`.

        The key at the other end is the one in the peer id. Raises `InvalidData` too.
        """
        require_frame(frame)
        if peer in self._cut_off:
            raise PeerUnreachable(f"{peer} is cut off")
        if peer in self._up:
            return await self.request(
                peer,
                protocol,
                frame,
                reply_size_max_bytes=reply_size_max_bytes,
                timeout_s=timeout_s,
            )
        parsed = [parse_address(each) for each in addresses][:ADDRESSES_MAX]
        with trio.move_on_after(timeout_s):
            connection = await self._connector.dial_any(peer, parsed)
            return await self._strangers.ask(connection, protocol, frame, reply_size_max_bytes)
        raise PeerTimeout(f"{peer} did not reply in {timeout_s} s")

    # --- connections ----------------------------------------------------------------------

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Let somebody in. Never raises."""
        connection = await self.arrivals.receive(stream, self._connector, self._links.get)
        if connection is None:
            return
        if connection.peer in self._cut_off:
            connection.break_off()
        elif not self._services.allowed(connection.public_key):
            await self._strangers.host(connection)
        elif (link := self._adopt(connection)) is not None:
            await self._run_link(link)

    def _adopt(self, connection: "Connection") -> "Link | None":
        """Return a link for a connection to a member, unless there is a better one."""
        old = self._links.get(connection.peer)
        is_better = old is None or self.arrivals.takes_over(self.peer, old.connection, connection)
        if connection.peer == self.peer or not is_better:
            connection.break_off()
            return None
        if old is not None:
            old.end()
        link = self._links[connection.peer] = self._make_link(connection)
        self._supervisor.wake(connection.peer)
        return link

    async def _run_link(self, link: "Link") -> None:
        try:
            await link.run()
        finally:
            if self._links.get(link.peer) is link:
                del self._links[link.peer]

    def _known_hosts(self) -> list[str]:
        """Return where members are, or may be."""
        linked = (link.connection.host for link in self._links.values())
        return [*linked, *self._supervisor.hosts()]

    async def _connect(self, peer: str, addresses: Sequence[Address]) -> "Link | None":
        """Return a link to a peer that has been dialled, if it came about."""
        if peer in self._cut_off or not self._services.allowed(signing.parse_peer_id(peer)):
            return None
        try:
            connection = await self._connector.dial_any(peer, addresses)
        except PeerError:
            return None
        link = self._adopt(connection)
        if link is not None:
            self._nursery.start_soon(self._run_link, link)
        return link

    def _find_locally(self, peer: str, addresses: Sequence[str]) -> None:
        """Note what somebody on this network says, who need not be that peer."""
        is_wanted = peer not in self._up and peer not in self._cut_off
        if is_wanted and self._services.allowed(signing.parse_peer_id(peer)):
            self._supervisor.suggest(peer, addresses)

    def tell(self, link: "Link", is_up: bool) -> None:
        """Tell the watchers that a link came up or went down."""
        event: PeerEvent = PeerDown(link.peer)
        if is_up:
            self._up[link.peer] = link
            event = PeerUp(link.peer, link.connection.is_ours, link.agent)
        else:
            self._up.pop(link.peer, None)
        for watcher in self._watchers:
            try:
                watcher(event)
            except Exception as error:  # noqa: BLE001  (boundary: a fault of the watcher)
                self._services.report(error)

    def _require_unserved(self, protocol: str) -> None:
        if protocol in self._services.protocols():
            raise ValueError(f"{protocol} is served already")

    def _require_up(self, peer: str) -> "Link":
        link = self._up.get(peer)
        if link is None:
            raise PeerUnreachable(f"{peer} is not up")
        return link


@asynccontextmanager
async def open_libp2p_network(
    seed: bytes,
    listened: str,
    allowed: Callable[[bytes], bool],
    chance: random.Random,
    *,
    report: Callable[[str, Exception], None],
    config: Libp2pConfig | None = None,
) -> AsyncIterator[Libp2pNetwork]:
    """Open the network of the node with this key; everything in it ends with the block.

    `listened` is an address, with port 0 for any; `allowed` tells whether the owner of a public key
    (32 bytes) may be a peer, and is asked often.  `report` is told which node's handler let which
    exception out.  Raises `InvalidData` for an address that is none.
    """
    # Not before: whoever needs no peers is spared the library.
    from peernode import libp2p_patches
    from peernode.libp2p_connection import Connector
    from peernode.libp2p_identify import Identity
    from peernode.libp2p_link import Link, Services
    from peernode.libp2p_strangers import Strangers

    libp2p_patches.silence_logs()
    config = config or Libp2pConfig()
    address = parse_address(listened)
    traffic = Traffic()
    connector = Connector(seed, config, traffic)
    services = Services(
        lambda error: report(connector.peer, error),
        allowed,
        Identity(connector.identity, AGENT),
        traffic=traffic,
    )
    async with trio.open_nursery() as nursery:
        network = Libp2pNetwork(
            connector,
            services,
            Strangers(services, config),
            address,
            config,
            chance,
            nursery,
            lambda connection: Link(connection, services, config, nursery, network.tell),
        )
        try:
            yield network
        finally:
            nursery.cancel_scope.cancel()
