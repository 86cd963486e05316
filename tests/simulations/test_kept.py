"""What is counted anew of a node's rows: the right passes, and each wrong row ends a run."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import trio

from peernode import content
from peernode.node import Node
from simulations.committed import Broken
from simulations.world import Caller, World
from storage import cid, ids
from storage.cid import CHUNK_SIZE_BYTES, Cid
from storage.store import Batch, Put, Table
from tests.simulations.test_invariants import play_checked
from tests.simulations.test_world import create

LARGE = bytes(range(256)) * (CHUNK_SIZE_BYTES // 256) + b"and a second leaf"


async def keep(world: World, ada: Caller) -> tuple[str, str]:
    """Return a project and a blob of it at node 0 that node 1 has fetched, with one beside it."""
    project = await create(world, 0, "p", ada)
    await trio.sleep(1)
    path, token = f"/blob?project={project}", ada.tokens[0]
    made = await world.request(0, "POST", path, LARGE, token=token)
    await world.request(0, "POST", path, b"a second, small one", token=token)
    assert made.status == 201, made.body
    read = await world.request(1, "GET", f"/blob/{made.json()['id']}/content", token=ada.tokens[1])
    assert read.body == LARGE
    await trio.sleep(1)
    # That all of it is here may wait for another commit.
    node_of(world, 1).store.apply(Batch(deletes=[(Table.META, b"nothing")]))
    return project, str(made.json()["id"])


def node_of(world: World, number: int) -> Node:
    found = world.node(number)
    assert found is not None
    return found


def blocks(node: Node) -> list[Cid]:
    return [Cid(key) for key, _ in node.store.scan(Table.BLOCK_REFS)]


def look(world: World) -> None:
    assert world.invariants is not None
    world.invariants.at_end()


def test_what_is_kept_deleted_and_fetched_is_counted_right() -> None:
    async def act(world: World, ada: Caller) -> None:
        _, blob = await keep(world, ada)
        look(world)
        assert len(blocks(node_of(world, 0))) == 4
        assert len(blocks(node_of(world, 1))) == 3
        await world.crash(1)
        await world.start(1)
        gone = await world.request(0, "DELETE", f"/blob/{blob}", token=ada.tokens[0])
        assert gone.status == 204
        await trio.sleep(60)
        assert world.invariants is not None
        world.invariants.at_rest()
        assert len(blocks(node_of(world, 0))) == 1

    play_checked(act)


def changed(table: Table, key: bytes, value: bytes) -> Batch:
    return Batch(puts=[(table, key, value)])


def one_more_reference(node: Node) -> Batch:
    return Batch(adds=[(Table.BLOCK_REFS, blocks(node)[0], 1)])


def one_reference_less(node: Node) -> Batch:
    return Batch(adds=[(Table.BLOCK_REFS, blocks(node)[-1], -1)])


def a_reference_of_nothing(node: Node) -> Batch:
    return Batch(adds=[(Table.BLOCK_REFS, cid.raw_leaf(b"nothing"), 1)])


def a_block_that_is_gone(node: Node) -> Batch:
    return Batch(deletes=[(Table.BLOCKS, blocks(node)[0])])


def a_block_of_other_bytes(node: Node) -> Batch:
    return changed(Table.BLOCKS, next(b for b in blocks(node) if cid.is_leaf(b)), b"other bytes")


def usage_that_was_forgotten(node: Node) -> Batch:
    ((key, _), *_) = node.store.scan(Table.USAGE)
    return Batch(adds=[(Table.USAGE, key, -1)])


def a_blob_that_no_list_names(node: Node) -> Batch:
    ((key, _), *_) = node.store.scan(Table.PROJECT_BLOBS)
    return Batch(deletes=[(Table.PROJECT_BLOBS, key)])


def a_blob_of_another_size(node: Node) -> Batch:
    ((key, row), *_) = node.store.scan(Table.BLOBS)
    wrong = row.replace(b'"size_bytes":%d' % len(LARGE), b'"size_bytes":%d' % (len(LARGE) + 1))
    assert wrong != row
    return changed(Table.BLOBS, key, wrong)


def a_part_that_was_not_counted(node: Node) -> Batch:
    ((key, _), *_) = node.store.scan(Table.FOREIGN_PARTS)
    return Batch(deletes=[(Table.FOREIGN_PARTS, key)], adds=[(Table.BLOCK_REFS, key[36:], -1)])


def content_that_is_not_known(node: Node) -> Batch:
    ((key, _), *_) = node.store.scan(Table.FOREIGN_CONTENT)
    return Batch(deletes=[(Table.FOREIGN_CONTENT, key)])


@pytest.mark.parametrize(
    ("number", "wrong", "says"),
    [
        (0, one_more_reference, "2 are counted, and there are 1"),
        (0, one_reference_less, "0 are counted, and there are 1"),
        (1, one_reference_less, "0 are counted, and there are 1"),
        (0, a_reference_of_nothing, "1 are counted, and there are 0"),
        (0, a_block_that_is_gone, "is referred to, and not there"),
        (1, a_block_that_is_gone, "is referred to, and not there"),
        (0, a_block_of_other_bytes, "does not hash to its name"),
        (0, usage_that_was_forgotten, "usage of"),
        (0, a_blob_that_no_list_names, "lists of blobs"),
        (0, a_blob_of_another_size, "has not the"),
        (1, a_part_that_was_not_counted, "is not complete"),
        (1, content_that_is_not_known, "which is not known"),
    ],
)
def test_a_row_that_is_wrong_ends_the_run(
    number: int, wrong: Callable[[Node], Batch], says: str
) -> None:
    async def act(world: World, ada: Caller) -> None:
        await keep(world, ada)
        # Not through the node, whose own checks would see some of it first.
        memory = world.disk(number)._memory
        assert memory is not None
        memory.submit(wrong(node_of(world, number)), lambda _: None)
        look(world)

    with pytest.raises(Broken, match=f"node {number}: .*{says}"):
        play_checked(act)


def test_content_of_other_nodes_that_is_miscounted_in_memory_ends_the_run() -> None:
    async def act(world: World, ada: Caller) -> None:
        await keep(world, ada)
        foreign = node_of(world, 1).foreign
        assert foreign is not None
        (entry,) = foreign.cache._entries.values()
        entry.kept_bytes += 1
        look(world)

    with pytest.raises(Broken, match="node 1: content of other nodes: an assertion"):
        play_checked(act)


def test_what_is_wrong_is_found_when_a_life_begins_too() -> None:
    async def act(world: World, ada: Caller) -> None:
        await keep(world, ada)
        memory, wrong = world.disk(0)._memory, one_more_reference(node_of(world, 0))
        await world.crash(0)
        assert memory is not None
        memory.submit(wrong, lambda _: None)
        await world.start(0)

    with pytest.raises(Broken, match="node 0: references of"):
        play_checked(act)


def test_a_block_that_nothing_refers_to_may_be_there_and_not_at_rest() -> None:
    async def act(world: World, ada: Caller) -> None:
        await keep(world, ada)
        left = b"left behind"
        put: Put = (Table.BLOCKS, cid.raw_leaf(left), left)
        node_of(world, 0).store.apply(Batch(puts=[put]))
        look(world)
        await trio.sleep(60)
        assert world.invariants is not None
        world.invariants.at_rest()

    with pytest.raises(Broken, match="is left, and nothing refers to it"):
        play_checked(act)


def test_a_quota_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(world: World, ada: Caller) -> None:
        project, _ = await keep(world, ada)
        used = node_of(world, 0).content.usage(int(project), content.METER_BLOB_BYTES)
        body = {"quota": {"blob_bytes": used + 3}}
        operator = world.operator_token(0)
        limited = await world.request(0, "POST", f"/project/{project}", body, token=operator)
        assert limited.status == 200
        path = f"/blob?project={project}"
        refused = await world.request(0, "POST", path, b"four", token=ada.tokens[0])
        assert refused.status == 429
        look(world)
        monkeypatch.setattr("peernode.quotas.check", lambda *_: None)
        taken = await world.request(0, "POST", path, b"four", token=ada.tokens[0])
        assert taken.status == 201
        look(world)

    with pytest.raises(Broken, match=f"and may have {len(LARGE) + 19 + 3}"):
        play_checked(act)


def test_a_blob_that_was_accepted_and_is_lost_ends_the_run() -> None:
    async def act(world: World, ada: Caller) -> None:
        _, blob = await keep(world, ada)
        key, memory = ids.key(int(blob)), world.disk(0)._memory
        assert memory is not None
        await world.crash(0)
        memory.submit(Batch(deletes=[(Table.BLOBS, key)]), lambda _: None)
        await world.start(0)

    with pytest.raises(Broken, match=r"blob [0-9]+ is lost"):
        play_checked(act)


def test_all_of_a_large_content_is_looked_at() -> None:
    async def act(world: World, ada: Caller) -> None:
        _, blob = await keep(world, ada)
        rows: dict[bytes, Any] = dict(node_of(world, 0).store.scan(Table.BLOBS))
        held = content.decode_row(rows[ids.key(int(blob))])
        assert not cid.is_leaf(Cid(held.cid))
        assert math.ceil(held.size_bytes / CHUNK_SIZE_BYTES) == 2
        look(world)

    play_checked(act)
