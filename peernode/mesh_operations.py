"""The operator's calls about the mesh: nodes are no class of objects, so these stand by themselves.

| call | does |
|---|---|
| `GET /mesh/peers` | who is in the mesh, how far, how fresh |
| `POST /mesh/invite` | makes an invite for one other node |
| `POST /mesh/evict` | shuts a node out |
| `POST /mesh/resolve` | says that no other copy of this node runs any more |

Users have no say here: all four are refused to whoever does not hold the operator's token.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
import trio

from peernode import mesh_invites
from peernode.calls import Answer, Body, Call, Nothing, Operation, View
from peernode.lives import State as Standing
from peernode.mesh_invites import Addresses
from peernode.problems import Problem
from peernode.timestamps import rfc3339
from storage import signing
from storage.facts import REASON_LENGTH_MAX
from storage.nodes import Node as Member

if TYPE_CHECKING:
    from peernode.node import Node

RESOLVE_TIMEOUT_S: Final = 30.0
"""How long a call waits for the node to go on. Source: guess; its client waits a minute."""

State: TypeAlias = Literal["self", "up", "down", "cut_off", "evicted", "recovering", "cloned"]
"""The last two are this node itself, when it holds back (`lives`)."""


class MakeInvite(Body, frozen=True, kw_only=True):
    """An invite to be."""

    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=mesh_invites.TTL_MAX_S)] = (
        mesh_invites.TTL_DEFAULT_S
    )
    addresses: Addresses = ()
    """Where the node that joins reaches this one; by default where this one listens."""


class InviteView(View, frozen=True, kw_only=True):
    """An invite. Whoever has its text may join, once."""

    invite: str
    peer_id: str
    """Fingerprint of this node: the node that joins shows it too."""
    addresses: list[str]
    expires_at: str


class Evict(Body, frozen=True, kw_only=True):
    """Which node is to be shut out."""

    node: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """Its number or peer id."""
    reason: Annotated[str, msgspec.Meta(max_length=REASON_LENGTH_MAX)] = ""
    distrust: bool = False
    """Also disregard what it wrote itself: its key was stolen."""


class PeerView(View, frozen=True, kw_only=True):
    """A node of the mesh, as this one sees it."""

    node_id: str
    peer_id: str
    state: State
    addresses: list[str]
    latency_s: float | None
    """Of the last greeting, there and back."""
    seen_at: str | None
    """When it last answered, since this node started."""
    synced_at: str | None
    """When what it knows was last compared with what this node knows."""
    admitted_by: str


class PeersView(View, frozen=True, kw_only=True):
    """All nodes that are or were in the mesh, by number."""

    items: list[PeerView]


def _require_operator(call: Call) -> None:
    if call.actor.kind == "anonymous":
        raise Problem("unauthenticated", "this needs the operator's token")
    if call.actor.kind != "operator":
        raise Problem("forbidden", "the mesh is the operators' business")


async def _invite(node: "Node", call: Call) -> Answer:
    _require_operator(call)
    listening = node.peering.addresses if node.peering is not None else ()
    invite = node.membership.invite(call.body.addresses or listening, call.body.ttl_s)
    view = InviteView(
        invite=mesh_invites.write(invite),
        peer_id=node.identity.peer_id,
        addresses=list(invite.addresses),
        expires_at=rfc3339(invite.expires_ms),
    )
    return Answer(status=201, value=view)


async def _evict(node: "Node", call: Call) -> Answer:
    _require_operator(call)
    body: Evict = call.body
    found = await node.membership.evict(body.node, body.reason, distrust=body.distrust)
    return Answer(value=_view(node, found))


async def _peers(node: "Node", call: Call) -> Answer:
    _require_operator(call)
    found = [_view(node, member) for member in node.registry.authority.nodes()]
    return Answer(value=PeersView(items=found))


async def _resolve(node: "Node", call: Call) -> Answer:
    _require_operator(call)
    node.lives.resolve()
    with trio.move_on_after(RESOLVE_TIMEOUT_S):
        await node.lives.opened.wait()
    node.lives.require()
    return Answer(value=_view(node, node.membership.find(str(node.identity.number))))


def _view(node: "Node", member: Member) -> PeerView:
    peer, peering = signing.peer_id(member.public_key), node.peering
    addresses = node.membership.book.find(member.public_key)
    if member.number == node.identity.number:
        addresses = peering.addresses if peering is not None else ()
    return PeerView(
        node_id=str(member.number),
        peer_id=peer,
        state=_state(node, member, peer),
        addresses=list(addresses),
        latency_s=peering.latency_s.get(peer) if peering is not None else None,
        seen_at=_time(peering.seen_ms.get(peer)) if peering is not None else None,
        synced_at=_time(peering.synced_ms.get(peer)) if peering is not None else None,
        admitted_by=str(member.by),
    )


def _state(node: "Node", member: Member, peer: str) -> State:
    if not node.membership.is_member(member.public_key):
        return "evicted"
    if member.number == node.identity.number:
        match node.lives.state:
            case Standing.RECOVERING:
                return "recovering"
            case Standing.CLONED:
                return "cloned"
            case Standing.ASKING | Standing.FREE:
                return "self"
    if node.federation is not None and node.federation.standing.is_cut(peer, trio.current_time()):
        return "cut_off"
    is_up = node.peering is not None and peer in node.peering.network.peers()
    return "up" if is_up else "down"


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else rfc3339(time_ms)


OPERATIONS: Final[Mapping[str, Operation]] = {
    "GET /mesh/peers": Operation(
        handler=_peers,
        summary="Who is in the mesh, how far, how fresh (operator).",
        answer=PeersView,
        problems=("forbidden",),
    ),
    "POST /mesh/invite": Operation(
        handler=_invite,
        summary="Make an invite with which one node can join the mesh (operator).",
        body=MakeInvite,
        answer=InviteView,
        status=201,
        problems=("forbidden", "conflict", "invalid_field"),
    ),
    "POST /mesh/evict": Operation(
        handler=_evict,
        summary="Shut a node out of the mesh (operator).",
        body=Evict,
        answer=PeerView,
        problems=("forbidden", "not_found", "invalid_field"),
    ),
    "POST /mesh/resolve": Operation(
        handler=_resolve,
        summary="Say that no other copy of this node runs any more: this one goes on (operator).",
        body=Nothing,
        answer=PeerView,
        problems=("forbidden", "recovering", "cloned"),
        while_held_back=True,
        waits=True,
    ),
}
"""`METHOD /path` -> operation."""
