"""Asking to be let in: what `peernode join` does with an invite, and what it keeps afterwards.

    ask -> Admitted -> everything checked, then one batch -> a member

Nothing that the inviter says is believed because it says so: the genesis must be the one that the
invite names, and the admission must lead from there to this node's own key.  Until the batch is
durable nothing has changed here, and asking again with the same key gets the same answer, so it may
be killed at any moment and run again.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import trio

from gossip.errors import PeerError
from peernode import address_book, identity, join_messages, mesh_invites
from peernode.identity import MESH_KEY, NUMBER_KEY
from peernode.join_messages import Admitted, Ask, Whereabouts
from peernode.libp2p_network import open_libp2p_network
from peernode.mesh_invites import Invite
from peernode.node import STORE_DIRECTORY
from storage import facts, lmdb_store, signing
from storage.authority import Authority
from storage.clock import SystemEntropy
from storage.errors import InvalidData
from storage.facts import Fact
from storage.signing import Keypair
from storage.store import Store, Table

ASK_TIMEOUT_S: Final = 5.0
"""How long the inviter may take to answer. Source: guess; it commits once."""
AGAIN_AFTER_S: Final = 0.25
"""Pause after an attempt that did not reach the inviter, or found it busy. Source: guess."""
NOT_LISTENED: Final = "/ip4/127.0.0.1/tcp/0"
"""A network needs an address; who asks does not listen at it."""


class JoinError(Exception):
    """This node was not let in; the message says why."""


class NotEmpty(JoinError):
    """This node belongs to another mesh already, since it holds something."""


class AskingNetwork(Protocol):
    """A network over which somebody can be asked who does not know us."""

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
        """Return the reply. Raises `PeerError`, and `InvalidData` for an address that is none."""
        ...


@dataclass(frozen=True, slots=True)
class Admission:
    """A node's place in a mesh, with what proves it."""

    genesis: Fact
    facts: tuple[Fact, ...]
    number: int
    known: tuple[Whereabouts, ...]
    """Where members may be reached, the inviter first."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node is after it has joined."""

    number: int
    peer_id: str
    mesh: bytes
    inviter: str
    """The inviter's peer id."""


def join(directory: Path, invite: Invite, timeout_s: float) -> Joined:
    """Make the node in `directory` a member of the invite's mesh.

    Raises `JoinError`, `SecretFileError`, or `StorageError` (`StoreLocked` while the node runs).
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = lmdb_store.LmdbStore(
        directory / STORE_DIRECTORY, config=lmdb_store.Config(), deliver=_at_once
    )
    try:
        entropy = SystemEntropy()
        keypair = Keypair.from_seed(identity.load_secrets(directory, entropy).seed)
        if keypair.public_key == invite.inviter_key:
            raise JoinError("this node made the invite; another one joins with it")
        number = _number_in(store, invite.mesh)
        if number is None:
            if found := identity.find_objects(store):
                raise NotEmpty(f"it holds {found}")
            chance = random.Random(entropy.token_bytes(16))
            admission = trio.run(_ask_over_libp2p, keypair, invite, chance, timeout_s)
            if isinstance(admission, JoinError):
                raise admission
            keep(store, admission)
            number = admission.number
    finally:
        store.close()
    peer = signing.peer_id(keypair.public_key)
    return Joined(number, peer, invite.mesh, signing.peer_id(invite.inviter_key))


def _at_once(callback: Callable[[], object]) -> None:
    callback()


def _number_in(store: Store, mesh: bytes) -> int | None:
    """Return the number of a node that is in this mesh already: joining twice is joining once."""
    genesis, number = (store.get(Table.META, key) for key in (MESH_KEY, NUMBER_KEY))
    if genesis is None or number is None or facts.decode_genesis(genesis).id != mesh:
        return None
    return int.from_bytes(number, "big")


async def _ask_over_libp2p(
    keypair: Keypair, invite: Invite, chance: random.Random, timeout_s: float
) -> Admission | JoinError:
    """Return what came of it; an error as a value, since a nursery would wrap it."""

    def nobody(_: bytes) -> bool:
        return False

    def report(_: str, error: Exception) -> None:
        raise error

    async with open_libp2p_network(
        keypair.seed, NOT_LISTENED, nobody, chance, report=report
    ) as network:
        try:
            return await ask(network, invite, keypair, timeout_s)
        except JoinError as error:
            return error


async def ask(
    network: AskingNetwork, invite: Invite, keypair: Keypair, timeout_s: float
) -> Admission:
    """Return the admission of the node with this key, or raise `JoinError`."""
    proof = mesh_invites.proof(invite.secret, invite.mesh, invite.inviter_key, keypair.public_key)
    frame = join_messages.encode(Ask(invite.name, invite.expires_ms, proof))
    inviter, why = signing.peer_id(invite.inviter_key), "it cannot be reached"
    with trio.move_on_after(timeout_s):
        while True:
            try:
                reply = await network.request_as_stranger(
                    inviter,
                    invite.addresses,
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
