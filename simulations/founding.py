"""A mesh that is there from the start: each node's secrets, and the founder's word for all others.

Nobody joins by an invite here: node 0 is the founder, and what a mesh of so many nodes knows of its
members lies on every disk before the first node starts.
"""

from dataclasses import dataclass
from typing import Final

from peernode.identity import Secrets, enter_mesh
from peernode.sessions import OPERATOR_PREFIX
from simulations.chance import START_MS, SeededEntropy
from storage import facts, signing
from storage.facts import Fact, NodeGrant
from storage.signing import Keypair
from storage.store import Store

FOUNDED_MS: Final = START_MS - 60_000
"""When the mesh was founded: a minute before a run begins, so that clocks may be a little slow."""
LASTS_MS: Final = 10 * 366 * 86_400_000
"""How long a node is a member."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """What all nodes of a run have to begin with. Nodes are numbered from 0, as in a scenario."""

    secrets: tuple[Secrets, ...]
    peers: tuple[str, ...]
    genesis: Fact
    grants: tuple[Fact, ...]
    """Of all nodes but the founder."""

    @staticmethod
    def node_number(node: int) -> int:
        """Return the number that the mesh knows a node by."""
        return node + facts.FOUNDER_NUMBER

    def enter(self, store: Store, node: int) -> None:
        """Write on a new node's disk what it knows of the mesh."""
        enter_mesh(store, self.genesis, self.node_number(node), self.grants)


def found(size: int, seed: int) -> Mesh:
    """Return a mesh of `size` nodes."""
    secrets = tuple(_secrets(seed, node) for node in range(size))
    keypairs = [Keypair.from_seed(each.seed) for each in secrets]
    genesis = facts.found_mesh(keypairs[0], "mesh", FOUNDED_MS)
    grants = tuple(_grant(genesis, keypairs[0], keypairs[node], node) for node in range(1, size))
    peers = tuple(signing.peer_id(each.public_key) for each in keypairs)
    return Mesh(secrets, peers, genesis, grants)


def _secrets(seed: int, node: int) -> Secrets:
    entropy = SeededEntropy(seed, "secrets", node)
    operator = OPERATOR_PREFIX + entropy.token_bytes(24).hex()
    return Secrets(entropy.token_bytes(32), entropy.token_bytes(32), operator)


def _grant(genesis: Fact, founder: Keypair, admitted: Keypair, node: int) -> Fact:
    statement = NodeGrant(
        number=Mesh.node_number(node),
        public_key=admitted.public_key,
        block=None,
        roles=(),
        users_max=None,
        not_before_ms=FOUNDED_MS,
        expires_ms=FOUNDED_MS + LASTS_MS,
        by=facts.FOUNDER_NUMBER,
        signed_at=(FOUNDED_MS + 1) << 16,
    )
    seal = facts.sign(statement, founder, genesis.id)
    return facts.assemble(statement, seal, genesis.id)
