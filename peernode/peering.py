"""Keeping in touch with the other nodes of the mesh: whom to dial, where, and who is there.

The driver tells the network which peers there are and where each may be (`add_peer`); dialling, and
dialling again, is the network's.  As soon as a peer is up, and now and then after, it is greeted:
both tell each other where they listen, and the one that answers where it knows others to be, once a
link and whenever that has changed, so a node that has moved is found again through any third one.
A greeting is one round trip, which is the latency shown.  Both show each other the lives they have
seen of the other, too (`lives`).

A node that is not a member any more is dropped the moment its eviction is known here.  One that
gave too much that was wrong (`standing`) is cut off: it is neither dialled nor let in, not even as
a stranger may be, until its time is over; then it is dialled again as if nothing had been.

What it leaves out: what a member is (`membership`), and what else goes over the links.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from gossip.errors import PeerError, RemoteProtocolError
from gossip.network import Network, PeerEvent, PeerUp, RequestHandler
from peernode import join_messages
from peernode.config import ConfigError
from peernode.join_messages import Greeted, Greeting, Whereabouts
from peernode.mesh_invites import ADDRESSES_MAX
from storage import signing
from storage.errors import InvalidData
from storage.facts import Fact, NodeGrant, NodeRevoke
from storage.records import Record

if TYPE_CHECKING:
    from peernode.node import Node

GREETING_TIMEOUT_S: Final = 10.0
DIALLED_MAX: Final = 256
"""Most peers that this node tries to reach. Source: guess; an idle link costs memory and pings."""


class PeerNetwork(Network, Protocol):
    """A network that finds its peers by addresses it is given."""

    def serve_requests(
        self,
        protocol: str,
        handler: RequestHandler,
        *,
        size_max_bytes: int,
        open_to_strangers: bool = False,
    ) -> None:
        """Let `handler` reply to requests; also to those of whoever has proved any key."""
        ...

    async def listen(self) -> None:
        """Let others connect. Call it once handlers are registered. Raises `OSError`."""
        ...

    def addresses(self) -> list[str]:
        """Return where others find this node; empty before `listen`."""
        ...

    def add_peer(self, peer: str, addresses: Sequence[str]) -> None:
        """Be connected to a peer from now on; of one that is known, these addresses are new."""
        ...

    def forget_peer(self, peer: str) -> None:
        """Break the link to a peer and do not dial it any more."""
        ...

    def review(self) -> None:
        """Break the links to peers that may not be peers any more."""
        ...


class Peering:
    """The driver. `run` owns all that waits."""

    def __init__(self, node: "Node", network: PeerNetwork) -> None:
        self.latency_s: dict[str, float] = {}
        """Peer that is up -> how long the last greeting took, there and back."""
        self.seen_ms: dict[str, int] = {}
        """Peer -> when it last answered, since this node started."""
        self.synced_ms: dict[str, int] = {}
        """Peer -> when what it knows was last compared with what this node knows."""
        self.network = network
        self._node = node
        self._membership = node.membership
        self._added: dict[bytes, tuple[str, ...]] = {}
        self._cut_off: dict[str, None] = {}
        self._to_greet, self._arrivals = trio.open_memory_channel[str](DIALLED_MAX)
        self._stale = trio.Event()
        self._members_revision = 0
        self._told: dict[str, tuple[int, int]] = {}
        """Peer -> what it was last told of others, since it is up: the book's and the members'
        revision."""
        network.serve_requests(
            join_messages.JOIN_PROTOCOL,
            self._membership.answer_join,
            size_max_bytes=join_messages.ASK_SIZE_MAX_BYTES,
            open_to_strangers=True,
        )
        network.serve_requests(
            join_messages.PEERS_PROTOCOL,
            self._answer_greeting,
            size_max_bytes=join_messages.GREETING_SIZE_MAX_BYTES,
        )
        network.watch(self._peer_changed)
        node.registry.hear(self)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this node listens, without its peer id."""
        return tuple(a.partition("/p2p/")[0] for a in self.network.addresses())[:ADDRESSES_MAX]

    async def listen(self) -> None:
        """Let others connect. Raises `ConfigError`."""
        self._cut_and_pardon()
        try:
            await self.network.listen()
        except OSError as error:
            where = self._node.config.p2p
            raise ConfigError(f"p2p: cannot listen at {where}: {error.strerror}") from error

    def note_sync(self, peer: str) -> None:
        """Take note that a peer and this node know the same, as of now."""
        self._node.lives.synced(peer)
        self.synced_ms[peer] = self._node.clock.wall_ms()

    async def run(self) -> None:
        """Keep in touch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._greet_arrivals, nursery)
            nursery.start_soon(self._greet_all)
            while True:
                self._stale = trio.Event()
                pardon_at = self._cut_and_pardon()
                self._choose()
                with trio.move_on_at(pardon_at):
                    await self._stale.wait()

    # --- whom ------------------------------------------------------------------------------

    def look_again(self) -> None:
        """Choose anew whom to be in touch with, soon."""
        self._stale.set()

    def _cut_and_pardon(self) -> float:
        """Cut off whom to have nothing to do with, take others back; return when to look again."""
        federation = self._node.federation
        if federation is None:
            return math.inf
        cut = federation.standing.cut(trio.current_time())
        for peer in cut:
            if peer not in self._cut_off:
                self._cut_off[peer] = None
                self.network.cut_off(peer)
        for peer in [peer for peer in self._cut_off if peer not in cut]:
            del self._cut_off[peer]
            federation.gossip.pardon(peer)
            self.network.take_back(peer)
            self._node.log.info("a peer is taken back", peer=peer)
        return min(cut.values(), default=math.inf)

    def _choose(self) -> None:
        """Have the network reach the members that this node should be in touch with."""
        own = self._node.identity.keypair.public_key
        others = [
            member.public_key
            for member in self._membership.members()
            if member.public_key != own and signing.peer_id(member.public_key) not in self._cut_off
        ]
        if len(others) > DIALLED_MAX:
            # Each node its own choice, so that nobody is everybody's neighbour.
            others.sort(key=lambda key: signing.fingerprint("neighbour", own + key))
        chosen = dict.fromkeys(others[:DIALLED_MAX])
        for key in [key for key in self._added if key not in chosen]:
            del self._added[key]
            self._remove(key)
        for key in chosen:
            addresses = self._membership.book.find(key)
            if self._added.get(key) != addresses:
                self._added[key] = addresses
                self.network.add_peer(signing.peer_id(key), addresses)
        self.network.review()

    def _remove(self, public_key: bytes) -> None:
        peer = signing.peer_id(public_key)
        self.network.forget_peer(peer)
        for figures in (self.latency_s, self.seen_ms, self.synced_ms):
            figures.pop(peer, None)

    def fact_kept(self, fact: Fact) -> None:
        """Look again who is a member when a node was let in or shut out."""
        if isinstance(fact.statement, NodeGrant | NodeRevoke):
            self._members_revision += 1
            self._stale.set()

    def record_kept(self, record: Record, replaced: Record | None) -> None:
        """Records say nothing about who is a member."""

    # --- greetings -------------------------------------------------------------------------

    def _peer_changed(self, event: PeerEvent) -> None:
        self._node.lives.peer_changed(event.peer, is_up=isinstance(event, PeerUp))
        self._told.pop(event.peer, None)
        if isinstance(event, PeerUp):
            self.hurry(event.peer)
        else:
            self.latency_s.pop(event.peer, None)

    def hurry(self, peer: str) -> None:
        """Greet a peer now."""
        with suppress(trio.WouldBlock):  # The next round greets it then.
            self._to_greet.send_nowait(peer)

    async def _greet_arrivals(self, nursery: trio.Nursery) -> None:
        async for peer in self._arrivals:
            nursery.start_soon(self._greet, peer)

    async def _greet_all(self) -> None:
        while True:
            await trio.sleep(self._node.config.greeting_interval_s)
            async with trio.open_nursery() as nursery:
                for peer in self.network.peers():
                    nursery.start_soon(self._greet, peer)

    async def _greet(self, peer: str) -> None:
        lives = self._node.lives
        life = await lives.statement()
        greeting = Greeting(self.addresses, life, lives.shown_to(peer))
        frame = join_messages.encode(greeting)
        started_s = trio.current_time()
        try:
            reply = await self.network.request(
                peer,
                join_messages.PEERS_PROTOCOL,
                frame,
                reply_size_max_bytes=join_messages.ANSWER_SIZE_MAX_BYTES,
                timeout_s=GREETING_TIMEOUT_S,
            )
            greeted = _decode_greeted(reply)
            self._hear_lives(peer, greeted)
        except PeerError as error:
            self._node.log.debug("greeting failed", peer_id=peer, error=str(error))
            if self._node.foreign is not None:
                self._node.foreign.members.blame(peer, error)
            return
        self.latency_s[peer] = trio.current_time() - started_s
        self.seen_ms[peer] = self._node.clock.wall_ms()
        self._hear(peer, greeted)

    def _hear(self, peer: str, greeted: Greeted) -> None:
        own = self._node.identity.keypair.public_key
        book = self._membership.book
        moved = book.say(signing.parse_peer_id(peer), greeted.addresses)
        for other in greeted.known:
            if other.public_key != own and self._membership.is_member(other.public_key):
                moved = book.hear(other.public_key, other.addresses) or moved
        if moved:
            self._stale.set()

    async def _answer_greeting(self, peer: str, frame: bytes) -> bytes:
        key = signing.parse_peer_id(peer)
        try:
            greeting = join_messages.decode_greeting(frame)
        except InvalidData as error:
            raise RemoteProtocolError(f"not a greeting: {error}") from error
        self.seen_ms[peer] = self._node.clock.wall_ms()
        lives = self._node.lives
        if self._membership.is_member(key):
            if self._membership.book.say(key, greeting.addresses):
                self._stale.set()
            self._hear_lives(peer, greeting)
        life = await lives.statement()
        known = self._news_for(peer, key)
        return join_messages.encode(Greeted(self.addresses, known, life, lives.shown_to(peer)))

    def _news_for(self, peer: str, key: bytes) -> tuple[Whereabouts, ...]:
        """Return where others are, unless the peer was told just that since it is up."""
        revision = self._membership.book.revision, self._members_revision
        if self._told.get(peer) == revision:
            return ()
        self._told[peer] = revision
        return self._membership.whereabouts(key)

    def _hear_lives(self, peer: str, greeting: Greeting | Greeted) -> None:
        """Take in what a peer says of lives; raises `RemoteProtocolError`."""
        try:
            self._node.lives.hear(peer, greeting.life, greeting.shown)
        except InvalidData as error:
            raise RemoteProtocolError(f"not a life: {error}") from error


def _decode_greeted(reply: bytes) -> Greeted:
    """Return what a peer answered to a greeting; raises `RemoteProtocolError`."""
    try:
        return join_messages.decode_greeted(reply)
    except InvalidData as error:
        raise RemoteProtocolError(f"not an answer to a greeting: {error}") from error
