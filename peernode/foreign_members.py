"""Which peer is which node, for whom one may speak, and what is held against it."""

from typing import TYPE_CHECKING

import trio

from gossip.errors import PeerError, PeerRefused
from gossip.fetch_events import Provider
from gossip.network import Network
from peernode.permissions import Actor
from peernode.problems import Problem
from storage import ids, signing
from storage.certificates import decode_certificate
from storage.errors import InvalidData
from storage.nodes import Node as Member

if TYPE_CHECKING:
    from peernode.node import Node


class Members:
    """The nodes of the mesh as peers of this one."""

    def __init__(self, node: "Node", network: Network) -> None:
        self._node = node
        self._network = network
        self._peers: dict[bytes, str] = {}
        """Key -> peer id, of nodes that were asked about: as many as there are numbers."""

    def is_elsewhere(self, id: int) -> bool:
        """Tell whether an id was made by another node."""
        return ids.node_number(id) != self._node.identity.number

    def home_key(self, id: int) -> bytes | None:
        """Return the key of an id's home, whatever became of it, unless its word counts no more."""
        home = self._node.registry.authority.node(ids.node_number(id))
        return None if home is None or home.is_distrusted else home.public_key

    def home_peer(self, id: int) -> str | None:
        """Return the peer that is an id's home, or `None` if no member is."""
        home = self._node.registry.authority.node(ids.node_number(id))
        if home is None or not self._stands(home):
            return None
        peer = self._peers.get(home.public_key)
        if peer is None:
            peer = self._peers[home.public_key] = signing.peer_id(home.public_key)
        return peer

    def member(self, peer: str) -> Member | None:
        """Return which member a peer is."""
        try:
            key = signing.parse_peer_id(peer)
        except InvalidData:
            return None
        found = self._node.registry.authority.node_by_key(key)
        return found if found is not None and self._stands(found) else None

    def numbers(self, peers: tuple[str, ...]) -> list[int]:
        """Return the numbers of those peers that are members, in order."""
        found = [self.member(peer) for peer in peers]
        return [member.number for member in found if member is not None]

    def is_up(self, peer: str) -> bool:
        """Tell whether a peer can be asked."""
        return peer in self._network.peers()

    def neighbours(self, *besides: str) -> list[Provider]:
        """Return the members that are up, but for those named."""
        peers = [peer for peer in self._network.peers() if peer not in besides]
        return [Provider(peer) for peer in peers if self.member(peer) is not None]

    def providers(self, id: int) -> list[Provider]:
        """Return whom to ask for something: its home first, then who is up."""
        home = self.home_peer(id)
        if home is None or home == self._network.peer:
            return self.neighbours()
        return [Provider(home, is_home=True), *self.neighbours(home)]

    def require_member(self, peer: str) -> Member:
        """Return which member a peer is that asks for something. Raises `PeerRefused`."""
        member = self.member(peer)
        if member is None:
            raise PeerRefused(f"{peer} is no member of this mesh")
        federation = self._node.federation
        if federation is not None and federation.standing.is_cut(peer, trio.current_time()):
            raise PeerRefused(f"{peer} has given too much that was wrong")
        return member

    def blame(self, peer: str, error: PeerError) -> None:
        """Hold against a peer what it answered, if it is to blame."""
        federation = self._node.federation
        if not error.penalty:
            return
        if federation is None:
            self._node.log.warning("a node broke the protocol", peer=peer, error=str(error))
        else:
            federation.standing.blame(peer, error.penalty, str(error), trio.current_time())

    def speaker(self, member: Member, certificate: bytes) -> Actor:
        """Return whom a member asks for, by a certificate that names its key.

        There is no secret to show: that node has seen it, and a certificate is worth nothing but
        to the nodes that it names.  Raises the `Problem` of a token that is not good.
        """
        node = self._node
        refusal = Problem("unauthenticated", "this certificate does not let that node act for it")
        try:
            found = decode_certificate(certificate)
            found.verify(node.identity.mesh)
        except InvalidData:
            raise refusal from None
        terms = found.terms
        chain = node.registry.user(terms.user)
        if (
            chain is None
            or member.public_key not in terms.audience
            or chain.public_key(terms.epoch) != found.seal.public_key
        ):
            raise refusal
        node.sessions.check_current(terms, chain)
        return Actor(kind="user", user=terms.user, scopes=terms.scopes, certificate=found.encoded)

    def _stands(self, member: Member) -> bool:
        has_begun = member.not_before_ms <= self._node.timestamps.reached_ms
        has_ended = self._node.clock.wall_ms() > member.expires_ms
        return member.is_member and has_begun and not has_ended
