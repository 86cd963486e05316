"""Asking to be let in: what `peernode join` does with an invite, and what it keeps afterwards.

    ask -> Admitted -> everything checked, then one batch -> a member

Nothing that the inviter says is believed because it says so: the genesis must be the one that the
invite names, and the admission must lead from there to this node's own key.  Until the batch is
durable nothing has changed here, and asking again with the same key gets the same answer, so it may
be killed at any moment and run again.
"""

from dataclasses import dataclass
from typing import Final

import trio

from gossip.errors import PeerError
from gossip.network import Network
from peernode import address_book, identity, join_messages, mesh_invites
from peernode.join_messages import Admitted, Ask, Whereabouts
from peernode.mesh_invites import Invite
from storage import facts, signing
from storage.authority import Authority
from storage.errors import InvalidData
from storage.facts import Fact
from storage.signing import Keypair
from storage.store import Store

ASK_TIMEOUT_S: Final = 5.0
"""How long the inviter may take to answer. Source: guess; it commits once."""
AGAIN_AFTER_S: Final = 0.25
"""Pause after an attempt that did not reach the inviter, or found it busy. Source: guess."""


class JoinError(Exception):
    """This node was not let in; the message says why."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A node's place in a mesh, with what proves it."""

    genesis: Fact
    facts: tuple[Fact, ...]
    number: int
    known: tuple[Whereabouts, ...]
    """Where members may be reached, the inviter first."""


async def ask(
    network: Network, invite: Invite, keypair: Keypair, timeout_s: float
) -> Admission:
    """Return this node's admission, or raise `JoinError`. The network knows where the inviter is."""
    proof = mesh_invites.proof(invite.secret, invite.mesh, invite.inviter_key, keypair.public_key)
    frame = join_messages.encode(Ask(invite.name, invite.expires_ms, proof))
    inviter, why = signing.peer_id(invite.inviter_key), "it cannot be reached"
    with trio.move_on_after(timeout_s):
        while True:
            try:
                reply = await network.request(
                    inviter,
                    join_messages.JOIN_PROTOCOL,
                    frame,
                    reply_size_max_bytes=join_messages.ANSWER_SIZE_MAX_BYTES,
                    timeout_s=ASK_TIMEOUT_S,
                )
                answer = join_messages.decode_answer(reply)
            except PeerError as error:
                why = str(error) or why
            except InvalidData as error:
                raise JoinError(f"{inviter} answered what makes no sense: {error}") from error
            else:
                if isinstance(answer, Admitted):
                    return check(answer, invite, keypair.public_key)
                why = answer.detail
                if not answer.again:
                    raise JoinError(f"{inviter} refused: {why}")
            await trio.sleep(AGAIN_AFTER_S)
    where = ", ".join(invite.addresses)
    raise JoinError(f"no admission from {inviter} at {where} within {timeout_s:g} s: {why}")


def check(answer: Admitted, invite: Invite, public_key: bytes) -> Admission:
    """Return the admission of the node of this key that is in `answer`, or raise `JoinError`."""
    try:
        genesis = facts.decode_genesis(answer.genesis)
        if genesis.id != invite.mesh:
            raise JoinError("the inviter answered for another mesh than the invite's")
        found = tuple(facts.decode_fact(encoded, invite.mesh) for encoded in answer.facts)
    except InvalidData as error:
        raise JoinError(f"the inviter's answer is forged or damaged: {error}") from error
    authority = Authority(invite.mesh, (genesis, *found))
    node, inviter = authority.node_by_key(public_key), authority.node_by_key(invite.inviter_key)
    if node is None or not node.is_member or inviter is None or not inviter.is_member:
        raise JoinError("the inviter's answer does not show that it, and this node, are members")
    known = [where for where in answer.known if where.public_key != invite.inviter_key]
    first = Whereabouts(invite.inviter_key, invite.addresses)
    # What nothing supports yet is left for reconciliation to bring again.
    supported = tuple(fact for fact in found if authority.known(fact))
    return Admission(genesis, supported, node.number, (first, *known))


def keep(store: Store, admission: Admission) -> None:
    """Make the node of `store` what it was admitted as, durably. Raises `InvalidData`."""
    identity.enter_mesh(
        store,
        admission.genesis,
        admission.number,
        admission.facts,
        address_book.rows(admission.known),
    )
