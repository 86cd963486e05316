"""Nodes in memory that are peers of one another: a network that dials, over one wire.

An address is a line in a telephone book here: whoever listens there is found, and whoever is not
let in by both sides is not connected.
"""

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import trio

from gossip.errors import PeerUnreachable
from gossip.memory_network import MemoryNetwork, Wire, open_wire
from gossip.network import RequestHandler
from peernode import joining, mesh_invites
from peernode.identity import Secrets
from peernode.joining import Admission
from peernode.node import Node, Seams, open_node
from peernode.peering import PeerNetwork
from storage import signing
from storage.signing import Keypair
from tests.peernode.nodes import CONFIG, Caller, Disk, SeededEntropy, WallClock, inline, settle

JOIN_TIMEOUT_S = 5.0


def secrets(name: str) -> Secrets:
    return Secrets(name.encode().ljust(32, b"."), b"p" * 32, "pno1." + name)


def keypair(name: str) -> Keypair:
    return Keypair.from_seed(secrets(name).seed)


def peer_id(name: str) -> str:
    return signing.peer_id(keypair(name).public_key)


def address_of(name: str) -> str:
    return f"/dns4/{name}/tcp/1"


class DiallingNetwork:
    """A `PeerNetwork` over a wire in memory. Dials when told to, and no more."""

    def __init__(self, ether: "Ether", name: str) -> None:
        self.name = name
        self.added: dict[str, tuple[str, ...]] = {}
        self.let_in: Callable[[bytes], bool] = lambda key: False
        self.for_strangers: dict[str, RequestHandler] = {}
        self.is_listening = False
        self._ether = ether
        self._network = ether.wire.join(peer_id(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def addresses(self) -> Sequence[str]:
        return [f"{self._ether.listening[self._network.peer]}/p2p/{self._network.peer}"]

    def serve_requests(
        self,
        protocol: str,
        handler: RequestHandler,
        *,
        size_max_bytes: int,
        open_to_strangers: bool = False,
    ) -> None:
        self._network.serve_requests(protocol, handler, size_max_bytes=size_max_bytes)
        if open_to_strangers:
            self.for_strangers[protocol] = handler

    async def listen(self) -> None:
        self.is_listening = True

    def add_peer(self, peer: str, addresses: Sequence[str]) -> None:
        self.added[peer] = tuple(addresses)
        self._ether.dial(self, peer)

    def forget_peer(self, peer: str) -> None:
        self.added.pop(peer, None)
        self._ether.wire.disconnect(self._network.peer, peer)

    def review(self) -> None:
        for peer in self._network.peers():
            if not self.let_in(signing.parse_peer_id(peer)):
                self._ether.wire.disconnect(self._network.peer, peer)

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
        await trio.lowlevel.checkpoint()
        other = self._ether.networks[peer]
        if not other.is_listening or self._ether.listening[peer] not in addresses:
            raise PeerUnreachable(f"nobody is at {addresses}")
        reply = await other.for_strangers[protocol](self._network.peer, frame)
        assert len(reply) <= reply_size_max_bytes
        return reply


class Ether:
    """All networks of a test, and where each listens."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.networks: dict[str, DiallingNetwork] = {}
        self.listening: dict[str, str] = {}
        self.starts = itertools.count()
        """Each start of a node draws what no other has drawn."""

    def network(self, name: str) -> DiallingNetwork:
        """Return a new node's network, or an old one's again."""
        peer = peer_id(name)
        self.listening[peer] = address_of(name)
        if peer in self.networks:
            # The process is another, so what it serves is too.
            self.networks[peer]._network = MemoryNetwork(self.wire, peer)
            self.wire._nodes[peer] = self.networks[peer]._network
            self.networks[peer].added.clear()
            self.networks[peer].for_strangers.clear()
        else:
            self.networks[peer] = DiallingNetwork(self, name)
        return self.networks[peer]

    def dial(self, one: DiallingNetwork, peer: str) -> None:
        """Connect two nodes that know each other for members, if the address is right."""
        other = self.networks.get(peer)
        if other is None or self.listening[peer] not in one.added[peer]:
            return
        if other.let_in(signing.parse_peer_id(one.peer)) and one.let_in(
            signing.parse_peer_id(peer)
        ):
            self.wire.connect(one.peer, peer)

    def redial(self) -> None:
        """Have everybody try again whom they could not reach."""
        for one in self.networks.values():
            for peer in list(one.added):
                self.dial(one, peer)


@asynccontextmanager
async def open_ether() -> AsyncIterator[Ether]:
    async with open_wire() as wire:
        yield Ether(wire)


@asynccontextmanager
async def open_mesh_node(
    ether: Ether, name: str, disk: Disk, clock: WallClock | None = None, **settings: Any
) -> AsyncIterator[Node]:
    """Own a node that is reachable by others."""
    network = ether.network(name)
    seams = Seams(
        clock=clock or WallClock(),
        entropy=SeededEntropy(f"{name}/{next(ether.starts)}"),
        offload=inline,
        store=disk,
        secrets=secrets(name),
        network=cast("PeerNetwork", network),
    )
    async with open_node(msgspec.structs.replace(CONFIG, **settings), seams) as node:
        network.let_in = node.membership.is_member
        try:
            yield node
        finally:
            for peer in list(network.peers()):
                ether.wire.disconnect(network.peer, peer)
            network.let_in = lambda key: False
            network.is_listening = False
            disk.gate.release()


async def ask(ether: Ether, text: str, name: str) -> Admission:
    """Return what the inviter makes of a node that has found an invite."""
    invite = mesh_invites.read(text)
    return await joining.ask(ether.network(name), invite, keypair(name), JOIN_TIMEOUT_S)


async def invite(node: Node, **body: Any) -> str:
    answer = await Caller(node, node.identity.operator_token).post("/mesh/invite", body, 201)
    return cast("str", answer["invite"])


async def join(ether: Ether, inviter: Node, name: str) -> Disk:
    """Return the disk of a new node that another has let in."""
    disk = Disk()
    joining.keep(disk, await ask(ether, await invite(inviter), name))
    return disk


async def peers(node: Node) -> dict[str, Any]:
    """Return node number -> what a node says of its peers."""
    await settle()
    answer = await Caller(node, node.identity.operator_token).get("/mesh/peers")
    return {item["node_id"]: item for item in answer["items"]}
