"""What comes from elsewhere is kept whatever its order, or refused for good, or waits."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from gossip.sync_messages import Stratum
from peernode.records_in import OFFLOADED_MIN, Checker, Ingestion
from peernode.waiting import Item
from storage import records
from storage.errors import InvalidData, StoreFull
from storage.facts import Fact
from storage.places import Class
from storage.records import Record
from storage.store import Table
from tests.peernode.federated import Federated, genesis, open_federated
from tests.peernode.meshes import keypair
from tests.peernode.nodes import ECHO, START_MS, settle

MESH = genesis().id


def ingestion(mesh: Federated, name: str = "b") -> Ingestion:
    federation = mesh.nodes[name].federation
    assert federation is not None
    return federation.ingestion


def items_of(mesh: Federated, name: str) -> list[Item]:
    """Return everything that a node knows, checked as if it came from elsewhere."""
    rows, checker = mesh.disks[name].snapshot(), Checker(MESH)
    found = [(Stratum.FACTS, row) for row in rows[Table.FACTS].values()]
    for table in (Table.RECORDS, Table.ENTRIES):
        found += [(Stratum.RECORDS, row) for row in rows[table].values()]
    return checker.check_all(found)


async def write_things(mesh: Federated) -> tuple[str, str]:
    """Have "a" know something of every kind; return a global namespace and a function."""
    ada, bob = await mesh.sign_up("ada", "a"), await mesh.sign_up("bob", "a")
    project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
    path = f"/project/{project}"
    await ada.post(f"{path}/add_member", {"user": bob.id, "role": "admin"})
    await bob.post(path, {"display_name": "Bob's"})
    body = {"project": project, "name": "echo", "runtime": "python", "source": ECHO}
    function = (await ada.post("/function", body, 201))["id"]
    await bob.post("/function", body | {"name": "bobs"}, 201)
    body = {"owner": {"project": project}, "name": "state", "scope": "global"}
    space = (await ada.post("/kv", body, 201))["id"]
    for caller in (ada, bob):
        await caller.post(f"/kv/{space}/put", {"key": "k", "value": 1})
    gone = (await ada.post("/kv", body | {"name": "gone", "mode": "cas"}, 201))["id"]
    await ada.post(f"/kv/{gone}/put", {"key": "k", "value": 1})
    await ada.delete(f"/kv/{gone}")
    await ada.post(f"{path}/remove_member", {"user": bob.id})
    await ada.post(f"{path}/add_member", {"user": bob.id, "role": "developer"})
    await bob.post(f"/kv/{space}/put", {"key": "k", "value": 2})
    return space, function


def same(mesh: Federated, one: str = "a", other: str = "b") -> bool:
    ours, theirs = mesh.disks[one].snapshot(), mesh.disks[other].snapshot()
    tables = (Table.FACTS, Table.RECORDS, Table.ENTRIES, Table.KV_KEYS)
    return all(ours[table] == theirs[table] for table in tables)


@pytest.mark.parametrize("seed", range(12))
async def test_the_order_in_which_things_come_does_not_matter(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_federated(2, connected=False) as mesh:
        await write_things(mesh)
        items, chance = items_of(mesh, "a"), Random(seed)
        chance.shuffle(items)
        items += chance.choices(items, k=5)
        while items:
            count = chance.randint(1, 7)
            assert await ingestion(mesh).take(items[:count], "peer") == []
            del items[:count]
            ingestion(mesh).waiting.check()
        assert same(mesh)
        assert len(ingestion(mesh).waiting) == 0
        for class_ in (Class.USER, Class.PROJECT, Class.FUNCTION, Class.KV_SPACE):
            ours, theirs = mesh.nodes["a"].registry, mesh.nodes["b"].registry
            assert theirs.all(class_) == ours.all(class_)
            assert all(theirs.get(class_, one) == ours.get(class_, one) for one in ours.all(class_))


async def test_what_is_known_is_no_news_and_changes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        await write_things(mesh)
        items = items_of(mesh, "a")
        intake = ingestion(mesh)
        assert sum(map(intake.is_news, items)) == len(items) - 2
        """All but the two facts that both nodes began with."""
        await intake.take(items, "peer")
        assert not any(map(intake.is_news, items))
        kept, batches = intake.kept, mesh.disks["b"].snapshot()
        await intake.take(items, "peer")
        assert (intake.kept, mesh.disks["b"].snapshot()) == (kept, batches)


async def test_what_waits_is_no_news_either(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(2, connected=False) as mesh:
        await write_things(mesh)
        found = [item for item in items_of(mesh, "a") if isinstance(item, Record)]
        # The founder's own are good at once.
        last = [item for item in found if not item.body.by_node]
        intake = ingestion(mesh)
        assert await intake.take(last, "peer") == []
        assert len(intake.waiting) == len(last)
        assert not any(map(intake.is_news, last))
        assert not mesh.disks["b"].snapshot()[Table.RECORDS]


async def test_it_is_shown_when_it_is_durable_and_not_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        _, function = await write_things(mesh)
        items, registry = items_of(mesh, "a"), mesh.nodes["b"].registry
        facts = [item for item in items if isinstance(item, Fact)]
        await ingestion(mesh).take(facts, "peer")
        rest = [item for item in items if isinstance(item, Record)]
        mesh.disks["b"].gate.hold()
        mesh.nursery.start_soon(ingestion(mesh).take, rest, "peer")
        await settle()
        assert registry.get(Class.FUNCTION, int(function)) is None
        mesh.disks["b"].gate.release()
        await settle()
        assert registry.get(Class.FUNCTION, int(function)) is not None


async def test_a_greater_version_of_ones_own_that_is_on_its_way_is_not_overwritten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The disk is slow, and the same user writes here while an older write comes from elsewhere."""
    async with open_federated(2, connected=False) as mesh:
        space, _ = await write_things(mesh)
        await ingestion(mesh).take(items_of(mesh, "a"), "peer")
        ada, there = mesh.caller("ada", "a"), mesh.caller("ada", "b")
        await ada.post(f"/kv/{space}/put", {"key": "k", "value": "older"})
        mesh.clock.advance(1)
        mesh.disks["b"].pause()
        mesh.nursery.start_soon(there.post, f"/kv/{space}/put", {"key": "k", "value": "newer"})
        await settle()
        mesh.nursery.start_soon(ingestion(mesh).take, items_of(mesh, "a"), "peer")
        await settle()
        mesh.disks["b"].resume()
        await settle()
        assert (await there.post(f"/kv/{space}/get", {"key": "k"}))["value"] == "newer"
        await ingestion(mesh, "a").take(items_of(mesh, "b"), "peer")
        assert same(mesh)


async def test_a_full_disk_keeps_what_was_there_and_takes_the_rest_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        await write_things(mesh)
        mesh.disks["b"].fill()
        before = mesh.disks["b"].snapshot()
        with pytest.raises(StoreFull):
            await ingestion(mesh).take(items_of(mesh, "a"), "peer")
        assert mesh.disks["b"].snapshot()[Table.FACTS] == before[Table.FACTS]
        mesh.disks["b"].make_room()
        await ingestion(mesh).take(items_of(mesh, "a"), "peer")
        assert same(mesh)


async def test_many_are_checked_in_a_thread_and_few_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        await write_things(mesh)
        row = mesh.disks["a"].snapshot()[Table.FACTS]
        found = [(Stratum.FACTS, next(iter(row.values())))]
        hops: list[Callable[..., Any]] = []

        async def offload(function: Callable[..., Any], /, *args: Any) -> Any:
            hops.append(function)
            return function(*args)

        mesh.nodes["b"].content.offload = offload
        assert len(await ingestion(mesh).check(found)) == 1
        assert not hops
        assert len(await ingestion(mesh).check(found * OFFLOADED_MIN)) == OFFLOADED_MIN
        assert len(hops) == 1


async def test_somebody_elses_keys_are_refused_and_the_sender_is_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        await write_things(mesh)
        items = items_of(mesh, "a")
        record = next(
            item
            for item in items
            if isinstance(item, Record) and item.body.place.class_ is Class.FUNCTION
        )
        forged = records.sign_record(keypair("z"), MESH, record.body, birth=record.birth)
        (item,) = Checker(MESH).check_all([(Stratum.RECORDS, forged.encoded)])
        # It came before the facts by which it is wrong, from another than brings them.
        assert await ingestion(mesh).take([item], "liar") == []
        (refusal,) = await ingestion(mesh).take(items, "peer")
        assert (refusal.sender, refusal.item) == ("liar", item)
        assert same(mesh)


async def test_of_one_authors_two_versions_in_a_batch_the_greater_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        space, _ = await write_things(mesh)
        older = items_of(mesh, "a")
        ada = mesh.caller("ada", "a")
        await ada.post(f"/kv/{space}/put", {"key": "k", "value": "newer"})
        newer = items_of(mesh, "a")
        await ingestion(mesh).take([*newer, *older], "peer")
        assert same(mesh)


async def test_time_from_elsewhere_moves_our_clock(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever has seen a write writes after it, though the clock here is behind."""
    async with open_federated(2, connected=False) as mesh:
        mesh.clock.advance(30)
        await write_things(mesh)
        mesh.clock.now_ms = START_MS
        await ingestion(mesh).take(items_of(mesh, "a"), "peer")
        latest = max(i.body.hlc for i in items_of(mesh, "a") if isinstance(i, Record))
        assert mesh.nodes["b"].timestamps.tick() > latest


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 200, b"\x85" + bytes(100)])
def test_whatever_the_bytes_only_one_kind_of_error_is_raised(data: bytes) -> None:
    for stratum in Stratum:
        with pytest.raises(InvalidData):
            Checker(MESH).check(stratum, data)
