"""Who this node is: its key, its number, its mesh, and the secrets beside them.

A first start makes the key and founds a mesh of one.  A node that has made nothing yet may enter
another mesh instead (`enter_mesh`), with the number that its admission gives it; it stays there.
Secrets are files of their own (mode 0600), outside the database, so that a copy of the database
alone opens no vault and signs nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from peernode.sessions import OPERATOR_PREFIX
from peernode.vault import load_secret_file, load_secret_text
from peernode.workers import WORKERS_MAX, WorkerRow
from storage import facts, signing
from storage.clock import Clock, Entropy
from storage.errors import InvalidData
from storage.store import Batch, Put, Store, Table

KEY_FILE: Final = "node.key"
PEPPER_FILE: Final = "pepper.key"
OPERATOR_FILE: Final = "operator.token"
MESH_KEY: Final = b"mesh"
"""Row of `Table.META`: the mesh's genesis."""
NUMBER_KEY: Final = b"node_number"
"""Row of `Table.META`: the node's number (2 bytes); none is the founder's."""
BOOT_KEY: Final = b"boot"
"""Row of `Table.META`: how often this node has started."""
OBJECTS: Final[dict[Table, str]] = {
    Table.RECORDS: "users, projects, functions or namespaces",
    Table.ENTRIES: "keys and values",
    Table.KV_SPACES: "local namespaces",
    Table.KV_LOCAL: "keys and values",
    Table.BLOBS: "blobs",
    Table.LIVE: "jobs",
    Table.JOBS: "jobs",
    Table.OUTCOMES: "jobs",
    Table.VAULT: "users",
    Table.NAMES: "names",
    Table.DEAD: "deleted objects",
}
"""Tables whose rows belong to the mesh a node is in, and what they hold."""


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
    number = store.get(Table.META, NUMBER_KEY)
    return Identity(
        keypair,
        facts.FOUNDER_NUMBER if number is None else int.from_bytes(number, "big"),
        genesis.id,
        genesis,
        boot,
        secrets.pepper,
        secrets.operator_token,
    )


def find_objects(store: Store) -> str:
    """Return what keeps a node in the mesh it is in: what it holds, in words; "" for nothing."""
    for table, what in OBJECTS.items():
        if store.scan(table, limit=1):
            return what
    for _, row in store.scan(Table.WORKERS, limit=WORKERS_MAX):
        if not msgspec.json.decode(row, type=WorkerRow).local:
            return "workers of other machines"
    if len(store.scan(Table.FACTS, limit=2)) > 1:
        return "facts of a mesh"
    return ""


def enter_mesh(
    store: Store,
    genesis: facts.Fact,
    number: int,
    mesh_facts: Iterable[facts.Fact],
    rows: Iterable[Put] = (),
) -> None:
    """Make a node without objects a member of another mesh, all at once, durably.

    `rows` are written with it.  Raises `InvalidData` if the node holds something.
    """
    if found := find_objects(store):
        raise InvalidData(f"this node holds {found}")
    puts: list[Put] = [
        (Table.META, MESH_KEY, genesis.encoded),
        (Table.META, NUMBER_KEY, number.to_bytes(2, "big")),
        (Table.FACTS, genesis.id, genesis.encoded),
        *((Table.FACTS, fact.id, fact.encoded) for fact in mesh_facts),
        *rows,
    ]
    # What a mesh of one leaves behind: its genesis, and workers whose ids hold the old number.
    gone = [
        (table, key)
        for table in (Table.FACTS, Table.WORKERS)
        for key, _ in store.scan(table)
        if key != genesis.id
    ]
    written = {(table, key) for table, key, _ in puts}
    store.apply(Batch(puts=puts, deletes=[place for place in gone if place not in written]))
