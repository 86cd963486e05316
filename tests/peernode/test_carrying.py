"""A strict rotation keeps what is the user's, and nothing that the thief of the old key writes."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from peernode.carrying import RETRY_S, ROW
from peernode.node import Node
from storage import codec, facts, hlc, records
from storage.facts import Member, Role
from storage.places import Class
from storage.records import NO_FLAGS, Flag, Record, decode_record
from storage.signing import Keypair
from storage.store import Batch, Done, Table
from tests.peernode.federated import open_federated
from tests.peernode.nodes import PASSWORD, Caller, Disk, Lab, open_lab, reopen, sign_up
from tests.peernode.test_mesh_nodes import deploy, make_project, make_space, put, read
from tests.peernode.test_registry import view

KEYS = 300
LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.fixture
async def lab(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Lab]:
    async with open_lab() as made:
        yield made


async def rotate(node: Node, caller: Caller, **fields: Any) -> Caller:
    """Return the caller with a token by its new key."""
    body = {"password": PASSWORD, "strict": True, **fields}
    fresh = Caller(node, (await caller.post(f"/user/{caller.id}/rotate", body))["token"])
    fresh.id = caller.id
    return fresh


def objects(node: Node) -> Any:
    """Return all that is shown but users: with a new key comes a new record of the user."""
    return {class_: found for class_, found in view(node.registry).items() if class_ != Class.USER}


def of_author(disk: Disk, author: str, table: Table = Table.ENTRIES) -> list[Record]:
    found = [decode_record(row) for _, row in disk.scan(table, limit=10_000)]
    return [record for record in found if record.body.author == int(author)]


def is_pending(disk: Disk) -> bool:
    return bool(disk.scan(Table.META, ROW, ROW + b"\xff" * 9))


def stolen_key(node: Node, user: Caller) -> Keypair:
    seeds = node.vault.open(node.vault.row(int(user.id)), PASSWORD)
    return Keypair.from_seed(seeds.key)


def forge(node: Node, key: Keypair, stolen: Record, **changes: Any) -> Record:
    """Return a record that the thief of a key makes out of another."""
    body = replace(stolen.body, flags=NO_FLAGS, orig=None, **changes)
    return records.sign_record(key, node.identity.mesh, body, birth=stolen.birth)


async def test_projects_functions_keys_and_members_outlive_a_strict_rotation(lab: Lab) -> None:
    bob = await sign_up(lab.node, "bob")
    await lab.ada.post(f"/project/{lab.project}/add_member", {"user": "bob", "role": "developer"})
    space = await lab.space("state", "global")
    exact = await lab.space("exact", "global", mode="cas")
    for number in range(KEYS):
        await put(lab.ada, space, f"k{number}", number)
    await lab.ada.post(f"/kv/{space}/delete", {"key": "k0"})
    await put(lab.ada, exact, "k", 1)
    await put(bob, space, "bob", "his")
    theirs = await lab.function("bobs")
    shown = objects(lab.node)
    before = of_author(lab.disk, lab.ada.id)

    ada = await rotate(lab.node, lab.ada)
    await lab.ada.get(f"/project/{lab.project}", 401)
    assert objects(lab.node) == shown
    members = (await ada.get(f"/project/{lab.project}"))["members"]
    assert {member["name"]: member["role"] for member in members} == {
        "ada": "owner",
        "bob": "developer",
    }
    assert [await read(ada, space, f"k{number}") for number in (0, 1, KEYS - 1)] == [404, 1, 299]
    assert (await read(ada, space, "bob"), await read(bob, exact, "k")) == ("his", 1)
    await put(bob, space, "k1", "newer")
    assert await read(ada, space, "k1") == "newer"
    await bob.post("/job", {"function": theirs, "input": 1}, 202)
    assert not is_pending(lab.disk)

    after = of_author(lab.disk, ada.id)
    assert [r.body.hlc for r in after] == [r.body.hlc for r in before]
    assert {r.body.epoch for r in after} == {1}
    assert all(Flag.CARRY in r.body.flags for r in after)
    assert [r.body.orig for r in after] == [r.rid[:16] for r in before]


async def test_a_second_strict_rotation_carries_what_the_first_did(lab: Lab) -> None:
    space = await lab.space("state", "global")
    await put(lab.ada, space, "k", 1)
    again = await rotate(lab.node, await rotate(lab.node, lab.ada))
    assert await read(again, space, "k") == 1
    assert {r.body.epoch for r in of_author(lab.disk, again.id)} == {2}


class Remembering(Disk):
    """A disk that keeps what was on it after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.past: list[Disk] | None = None

    def submit(self, batch: Batch, done: Done | None = None, *, lazy: bool = False) -> None:
        super().submit(batch, done, lazy=lazy)
        if self.past is not None:
            self.past.append(self.copy())


async def test_what_a_crash_interrupts_is_completed_after_the_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Remembering()
    async with open_lab(disk) as lab:
        space = await lab.space("state", "global")
        for number in range(KEYS):
            await put(lab.ada, space, f"k{number}", number)
        shown = objects(lab.node)
        disk.past = []
        ada = await rotate(lab.node, lab.ada)
        moments = [past for past in disk.past if is_pending(past)]
        disk.past = None
        left = []
        for moment in moments:
            carried = [r for r in of_author(moment, ada.id) if r.body.epoch == 1]
            left.append(KEYS - len(carried))
            async with reopen(lab, moment) as again:
                await again.node.carrying.finished(int(ada.id))
                assert not is_pending(moment)
                assert objects(again.node) == shown
                # Nothing is done twice.
                kept = of_author(moment, ada.id)
                assert {record.rid for record in carried} <= {record.rid for record in kept}
                assert {record.body.epoch for record in kept} == {1}
                assert len(kept) == KEYS
        assert left[0] == KEYS
        assert len({*left}) >= 3


async def test_a_full_disk_delays_what_is_carried_and_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Remembering()
    async with open_lab(disk) as lab:
        space = await lab.space("state", "global")
        for number in range(KEYS):
            await put(lab.ada, space, f"k{number}", number)
        disk.past = []
        await rotate(lab.node, lab.ada)
        begun = next(past for past in disk.past if is_pending(past))
        begun.fill()
        async with reopen(lab, begun) as again:
            await trio.sleep(RETRY_S * 5.5)
            assert is_pending(begun)
            body = {"password": PASSWORD, "strict": True}
            login = {"password": PASSWORD}
            begun.make_room()
            token = (await Caller(again.node).post("/user/ada/login", login))["token"]
            fresh = Caller(again.node, token)
            refused = await fresh.post(f"/user/{lab.ada.id}/rotate", body, 409)
            assert "not all carried yet" in refused["detail"]
            await trio.sleep(60)
            assert not is_pending(begun)
            assert await read(fresh, space, "k7") == 7


async def test_since_a_time_only_what_this_node_signed_until_then_is_carried(lab: Lab) -> None:
    for name in ("bob", "eve"):
        await sign_up(lab.node, name)
    members = f"/project/{lab.project}/add_member"
    await lab.ada.post(members, {"user": "bob", "role": "viewer"})
    space = await lab.space("state", "global")
    await put(lab.ada, space, "hers", 1)
    await put(lab.ada, space, "replaced", 1)
    await lab.ada.post(f"/project/{lab.project}", {"egress": ["example.com"]})
    key, theft = stolen_key(lab.node, lab.ada), lab.clock.now_ms
    lab.clock.advance(3600)
    since = "2027-01-15T08:00:01Z"
    assert theft < 1_800_000_001_000 < lab.clock.now_ms

    # The thief has a token, and the bare key.
    await lab.ada.post(members, {"user": "eve", "role": "admin"})
    await put(lab.ada, space, "replaced", "by the thief")
    other = await lab.function("trojan")
    await lab.ada.post(f"/project/{lab.project}", {"egress": ["evil.example"]})
    (own,) = [r for r in of_author(lab.disk, lab.ada.id) if r.body.place.key == b"hers"]
    back_dated = forge(lab.node, key, own, hlc=own.body.hlc + 1, signed_at=own.body.hlc + 1)
    lab.disk.apply(Batch([(Table.ENTRIES, own.store_key, back_dated.encoded)]))

    ada = await rotate(lab.node, lab.ada, since=since)
    project = await ada.get(f"/project/{lab.project}")
    assert (project["name"], project["egress"]) == ("lab", [])
    assert {m["name"] for m in project["members"]} == {"ada", "bob"}
    await ada.get(f"/function/{lab.echo}")
    await ada.get(f"/function/{other}", 404)
    assert await read(ada, space, "hers") == 404
    assert await read(ada, space, "replaced") == 404
    # What is gone can be made again, by its name.
    body = {"project": lab.project, "name": "trojan", "runtime": "python"}
    await ada.post("/function", body | {"source": "def handler(input):\n    return 1\n"}, 201)
    await put(ada, space, "replaced", "hers again")
    await ada.post(members, {"user": "eve", "role": "viewer"})


async def test_since_long_ago_nothing_is_carried_but_the_names_of_projects(lab: Lab) -> None:
    space = await lab.space("state", "global")
    ada = await rotate(lab.node, lab.ada, since=LONG_AGO)
    project = await ada.get(f"/project/{lab.project}")
    assert (project["name"], project["owner"]) == ("lab", ada.id)
    await ada.get(f"/function/{lab.echo}", 404)
    await ada.get(f"/kv/{space}", 404)
    for name in ("echo", "again"):
        body = {"project": lab.project, "name": name, "runtime": "python"}
        await ada.post("/function", body | {"source": "def handler(input):\n    return 1\n"}, 201)
    body = {"owner": {"project": lab.project}, "name": "state", "scope": "global"}
    await ada.post("/kv", body, 201)


@pytest.mark.parametrize(
    "fields",
    [
        {"strict": False, "since": LONG_AGO},
        {"since": "yesterday"},
        {"since": "2026-11-30T12:00:00"},
        {"since": "1926-11-30T12:00:00Z"},
    ],
)
async def test_a_since_that_is_none_is_refused(lab: Lab, fields: dict[str, Any]) -> None:
    body = {"password": PASSWORD, "strict": True, **fields}
    refused = await lab.ada.post(f"/user/{lab.ada.id}/rotate", body, 422)
    assert refused["field"] == "since"
    await lab.ada.get(f"/project/{lab.project}")


async def test_a_crash_cannot_have_the_thiefs_later_grants_carried(lab: Lab) -> None:
    eve = await sign_up(lab.node, "eve")
    key = stolen_key(lab.node, lab.ada)
    ada = await rotate(lab.node, lab.ada)
    registry, at = lab.node.registry, lab.node.timestamps.tick()
    grant = Member(int(lab.project), int(eve.id), Role.ADMIN, 1, int(ada.id), 0, 0, at)
    mesh = lab.node.identity.mesh
    fact = facts.assemble(grant, facts.sign(grant, key, mesh), mesh)
    assert registry.authority.known(fact)
    await lab.node.transactions.run(lambda transaction: registry.add_fact(transaction, fact))
    # As after a crash before the end: the row is still there.
    carry = lab.node.carrying.plan(int(ada.id), key, None)
    row = codec.encode_struct(carry)
    lab.disk.apply(Batch([(Table.META, ROW + int(ada.id).to_bytes(8, "big"), row)]))
    async with reopen(lab) as again:
        await again.node.carrying.finished(int(ada.id))
        assert not is_pending(again.disk)
        assert again.node.registry.role(int(eve.id), int(lab.project)) is None


async def test_both_sides_of_a_partition_keep_what_members_wrote_and_nothing_of_the_thiefs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "a")
        bob = await mesh.sign_up("bob", "b")
        await trio.sleep(2)
        project = await make_project(ada)
        await ada.post(f"/project/{project}/add_member", {"user": bob.id, "role": "developer"})
        space = await make_space(ada, project)
        function = await deploy(ada, project, "hers")
        await put(ada, space, "hers", 1)
        await trio.sleep(2)
        key = stolen_key(mesh.nodes["a"], ada)

        mesh.part("a", "b")
        await put(bob, space, "apart", "bob at b")
        bobs = await deploy(bob, project, "his")
        await put(mesh.caller("ada", "b"), space, "lost", "ada at b")
        await put(mesh.caller("bob", "a"), space, "here", "bob at a")
        ada = await rotate(mesh.nodes["a"], ada)
        await put(ada, space, "new", "ada at a")
        await put(bob, space, "apart too", "bob at b, later")
        mesh.join("a", "b")
        await trio.sleep(120)

        at_b = {"password": PASSWORD, "audience": ["2"]}
        token = (await Caller(mesh.nodes["a"]).post("/user/ada/login", at_b))["token"]
        for caller in (ada, Caller(mesh.nodes["b"], token), bob):
            found = [await read(caller, space, k) for k in ("hers", "apart", "apart too", "here")]
            assert found == [1, "bob at b", "bob at b, later", "bob at a"]
            assert [await read(caller, space, k) for k in ("new", "lost")] == ["ada at a", 404]
            for one in (function, bobs):
                await caller.get(f"/function/{one}")
        shown = view(mesh.nodes["a"].registry)
        assert view(mesh.nodes["b"].registry) == shown

        # The thief writes, wherever and with whatever time.
        node = mesh.nodes["a"]
        (own,) = [r for r in of_author(mesh.disks["a"], ada.id) if r.body.place.key == b"hers"]
        (held,) = [
            r
            for r in of_author(mesh.disks["a"], ada.id, Table.RECORDS)
            if r.body.place.class_ is Class.FUNCTION
        ]
        for at in (own.body.hlc + 1, own.body.signed_at + hlc.first_of(30_000)):
            forged = [forge(node, key, one, epoch=0, hlc=at, signed_at=at) for one in (own, held)]
            for name in "ab":
                federation = mesh.nodes[name].federation
                assert federation is not None
                await federation.ingestion.take(forged, "thief")
        await trio.sleep(120)
        assert [view(mesh.nodes[name].registry) for name in "ab"] == [shown, shown]
        assert await read(ada, space, "hers") == 1
        for name in "ab":
            kept = [
                r
                for t in (Table.ENTRIES, Table.RECORDS)
                for r in of_author(mesh.disks[name], ada.id, t)
            ]
            assert {r.rid for r in kept}.isdisjoint({r.rid for r in forged})
