"""Who this node is: its key, its number, its mesh, and the secrets beside them.

A first start makes the key and founds a mesh of one.  Secrets are files of their own (mode 0600),
outside the database, so that a copy of the database alone opens no vault and signs nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peernode.sessions import OPERATOR_PREFIX
from peernode.vault import load_secret_file, load_secret_text
from storage import facts, signing
from storage.clock import Clock, Entropy
from storage.store import Batch, Store, Table

KEY_FILE: Final = "node.key"
PEPPER_FILE: Final = "pepper.key"
OPERATOR_FILE: Final = "operator.token"
MESH_KEY: Final = b"mesh"
"""Row of `Table.META`: the mesh's genesis."""
BOOT_KEY: Final = b"boot"
"""Row of `Table.META`: how often this node has started."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's name and keys."""

    keypair: signing.Keypair
    number: int
    mesh: bytes
    """The mesh's id."""
    genesis: facts.Fact
    boot: int
    pepper: bytes = field(repr=False)
    operator_token: str = field(repr=False)

    @property
    def peer_id(self) -> str:
        """The node's name among libp2p peers."""
        return signing.peer_id(self.keypair.public_key)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is kept in files beside the database."""

    seed: bytes = field(repr=False)
    pepper: bytes = field(repr=False)
    operator_token: str = field(repr=False)


def load_secrets(directory: Path, entropy: Entropy) -> Secrets:
    """Return the secrets in `directory`, made if they are not there yet."""
    return Secrets(
        load_secret_file(directory / KEY_FILE, entropy),
        load_secret_file(directory / PEPPER_FILE, entropy),
        load_secret_text(
            directory / OPERATOR_FILE, lambda: OPERATOR_PREFIX + entropy.token_bytes(24).hex()
        ),
    )


def open_identity(store: Store, secrets: Secrets, mesh_name: str, clock: Clock) -> Identity:
    """Return the identity kept in `store`; a first start founds a mesh. Counts the start."""
    keypair = signing.Keypair.from_seed(secrets.seed)
    row = store.get(Table.META, MESH_KEY)
    if row is None:
        genesis = facts.found_mesh(keypair, mesh_name, clock.wall_ms())
        row = genesis.encoded
    genesis = facts.decode_genesis(row)
    boot = int.from_bytes(store.get(Table.META, BOOT_KEY) or b"", "big") + 1
    store.apply(
        Batch(
            puts=[
                (Table.META, MESH_KEY, row),
                (Table.META, BOOT_KEY, boot.to_bytes(8, "big")),
                (Table.FACTS, genesis.id, row),
            ]
        )
    )
    return Identity(
        keypair,
        facts.FOUNDER_NUMBER,
        genesis.id,
        genesis,
        boot,
        secrets.pepper,
        secrets.operator_token,
    )
