"""Who a node is: the founder of a mesh of one at first, and what it was admitted as after that."""

from pathlib import Path
from typing import Any

import pytest

from peernode import identity
from peernode.identity import OBJECTS, Identity, find_objects, open_identity
from peernode.node import Node
from storage import facts
from storage.errors import InvalidData
from storage.facts import Fact
from storage.signing import Keypair
from storage.store import Batch, Store, Table
from tests.peernode.nodes import SECRETS, Disk, SeededEntropy, WallClock, open_memory_node, sign_up

FOUNDER = Keypair.from_seed(b"f" * 32)
OWN = Keypair.from_seed(SECRETS.seed)
GENESIS = facts.found_mesh(FOUNDER, "other", 0)


def grant(number: int = 7) -> Fact:
    statement = facts.NodeGrant(number, OWN.public_key, None, (), None, 0, 1 << 46, 1, 1)
    return facts.assemble(statement, facts.sign(statement, FOUNDER, GENESIS.id), GENESIS.id)


def start(store: Store) -> Identity:
    return open_identity(store, SECRETS, "mesh", WallClock())


def all_facts(store: Store) -> set[bytes]:
    return {key for key, _ in store.scan(Table.FACTS)}


def test_a_first_start_founds_a_mesh_of_one_and_later_ones_find_it() -> None:
    disk = Disk()
    first, again = start(disk), start(disk)
    assert (first.number, first.boot) == (1, 1)
    assert (again.number, again.boot, again.mesh) == (1, 2, first.mesh)
    assert first.genesis.statement.founder_key == OWN.public_key  # type: ignore[union-attr]
    assert find_objects(disk) == ""


@pytest.mark.parametrize("has_run", [False, True])
def test_a_node_that_joins_is_what_it_was_admitted_as(has_run: bool) -> None:
    disk = Disk()
    own = start(disk) if has_run else None
    identity.enter_mesh(disk, GENESIS, 7, [grant()])
    for _ in range(2):
        found = start(disk)
        assert (found.number, found.mesh, found.genesis.id) == (7, GENESIS.id, GENESIS.id)
    assert all_facts(disk) == {GENESIS.id, grant().id}
    assert own is None or own.genesis.id not in all_facts(disk)
    assert find_objects(disk) == "facts of a mesh"


@pytest.mark.parametrize("table", OBJECTS, ids=lambda table: table.name)
def test_a_node_that_holds_something_stays(table: Table) -> None:
    disk = Disk()
    own = start(disk)
    disk.apply(Batch(puts=[(table, b"k" * 24, b"v")]))
    before = disk.snapshot()
    with pytest.raises(InvalidData, match=OBJECTS[table]):
        identity.enter_mesh(disk, GENESIS, 7, [grant()])
    assert disk.snapshot() == before
    assert start(disk).mesh == own.mesh


async def worker(node: Node, name: str, *, local: bool) -> None:
    await node.workers.create(node.ids.next(), name, {}, local=local)


async def test_its_own_worker_goes_and_others_hold_it(autojump_clock: Any) -> None:
    disk = Disk()
    async with open_memory_node(disk) as node:
        await node.local_worker()
        copy = disk.copy()
        await worker(node, "far", local=False)
        both = disk.copy()
    identity.enter_mesh(copy, GENESIS, 7, [grant()])
    assert copy.scan(Table.WORKERS) == []
    with pytest.raises(InvalidData, match="workers of other machines"):
        identity.enter_mesh(both, GENESIS, 7, [grant()])


async def test_what_a_user_leaves_is_found_and_what_a_start_leaves_is_not(
    autojump_clock: Any,
) -> None:
    disk = Disk()
    async with open_memory_node(disk) as node:
        assert find_objects(disk.copy()) == ""
        await sign_up(node, "ada")
        assert find_objects(disk.copy()) != ""


async def test_ids_of_a_node_that_joined_hold_its_new_number(autojump_clock: Any) -> None:
    disk = Disk()
    start(disk)
    identity.enter_mesh(disk, GENESIS, 7, [grant()])
    async with open_memory_node(disk) as node:
        ada = await sign_up(node, "ada")
        shown = await ada.get("/user/ada")
        assert shown["home_node"] == 7


def test_secrets_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    first = identity.load_secrets(tmp_path, SeededEntropy("1"))
    assert identity.load_secrets(tmp_path, SeededEntropy("2")) == first
    for name in (identity.KEY_FILE, identity.PEPPER_FILE, identity.OPERATOR_FILE):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert first.operator_token not in repr(first)
