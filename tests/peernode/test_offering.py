"""What is offered is what is on the disk and counts, at every moment and after every start."""

import pytest
import trio
import trio.testing

from gossip.sync_index import item
from gossip.sync_messages import Stratum
from peernode.offering import Offering, item_of
from storage import facts
from storage.facts import NodeRevoke
from storage.places import Class
from storage.records import Record, decode_record
from storage.store import Table
from tests.peernode.federated import Federated, genesis, open_federated
from tests.peernode.meshes import keypair
from tests.peernode.nodes import ECHO, PASSWORD, START_MS
from tests.peernode.test_registry import view


def offering(mesh: Federated, name: str) -> Offering:
    federation = mesh.nodes[name].federation
    assert federation is not None
    return federation.offering


def records_on(mesh: Federated, name: str) -> list[Record]:
    rows = mesh.disks[name].snapshot()
    both = (*rows[Table.RECORDS].values(), *rows[Table.ENTRIES].values())
    return [decode_record(row) for row in both]


def assert_exact(mesh: Federated, name: str) -> None:
    """Assert that what is offered is what counts, and that each item is found."""
    made, authority = offering(mesh, name), mesh.nodes[name].registry.authority
    sync = mesh.nodes[name].federation.sync.sync  # type: ignore[union-attr]
    known = [fact for fact in authority if authority.known(fact)]
    counts = [one for one in records_on(mesh, name) if authority.admissible(one)]
    assert sync.count(Stratum.FACTS) == len(known)
    assert sync.count(Stratum.RECORDS) == len(counts)
    for fact in known:
        assert made.read(Stratum.FACTS, item(fact.signed_at, fact.id)) == fact.encoded
    for record in counts:
        assert sync.contains(Stratum.RECORDS, item_of(record))
        assert made.read(Stratum.RECORDS, item_of(record)) == record.encoded


async def test_it_is_exact_through_every_kind_of_change_and_after_a_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2) as mesh:
        ada, bob = await mesh.sign_up("ada", "a"), await mesh.sign_up("bob", "a")
        project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
        path = f"/project/{project}"
        body = {"owner": {"project": project}, "name": "state", "scope": "global"}
        space = (await ada.post("/kv", body, 201))["id"]
        function = {"project": project, "name": "bobs", "runtime": "python", "source": ECHO}

        async def grant() -> None:
            await ada.post(f"{path}/add_member", {"user": bob.id, "role": "developer"})

        async def revoke() -> None:
            await ada.post(f"{path}/remove_member", {"user": bob.id, "adopt": False})

        async def take_over() -> None:
            await ada.post(f"{path}/remove_member", {"user": bob.id})

        async def bob_writes() -> None:
            for number in range(5):
                await bob.post(f"/kv/{space}/put", {"key": f"k{number}", "value": number})

        async def bob_deploys() -> None:
            await bob.post("/function", function, 201)

        async def ada_writes() -> None:
            await ada.post(f"/kv/{space}/put", {"key": "k1", "value": "ada"})
            await ada.post(f"/kv/{space}/delete", {"key": "k2"})
            await ada.post(path, {"display_name": "Lab"})

        async def delete() -> None:
            await ada.delete(f"/kv/{space}")

        steps = (grant, bob_writes, bob_deploys, ada_writes, revoke, grant, bob_writes)
        steps = (*steps, take_over, delete)
        sizes = []
        for step in steps:
            await step()
            await trio.sleep(1)
            assert_exact(mesh, "a")
            assert_exact(mesh, "b")
            sizes.append(mesh.nodes["b"].federation.sync.sync.count(Stratum.RECORDS))  # type: ignore[union-attr]
        # What bob wrote stops counting with his grant.
        assert sizes[4] == sizes[3] - 6
        # What ada takes over has the place of what she had said of two keys herself.
        assert sizes[7] == sizes[6] - 2
        for name in "ab":
            await mesh.stop(name)
            await mesh.start(name)
            await offering(mesh, name).loaded.wait()
            assert_exact(mesh, name)


async def test_what_a_stolen_key_signed_is_not_offered_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
        body = {"owner": {"project": project}, "name": "state", "scope": "global"}
        space = (await ada.post("/kv", body, 201))["id"]
        await ada.post(f"/kv/{space}/put", {"key": "k", "value": 1})
        body = {"password": PASSWORD, "strict": True, "since": "2020-01-01T00:00:00Z"}
        await ada.post(f"/user/{ada.id}/rotate", body)
        await trio.sleep(2)
        # The view says the same at once, and again after a start.
        shown = [view(mesh.nodes[name].registry) for name in "ab"]
        await mesh.stop("b")
        await mesh.start("b")
        await offering(mesh, "b").loaded.wait()
        assert shown == [view(mesh.nodes["b"].registry)] * 2
        for name in "ab":
            assert_exact(mesh, name)
            offered = [r for r in records_on(mesh, name) if r.body.place.class_ is Class.KV_ENTRY]
            assert offering(mesh, name).read(Stratum.RECORDS, item_of(offered[0])) is not None
            sync = mesh.nodes[name].federation.sync.sync  # type: ignore[union-attr]
            assert not sync.contains(Stratum.RECORDS, item_of(offered[0]))


async def test_what_a_node_wrote_that_is_not_trusted_is_not_offered_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "b")
        project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
        body = {"owner": {"project": project}, "name": "state", "scope": "global", "mode": "cas"}
        space = (await ada.post("/kv", body, 201))["id"]
        await ada.post(f"/kv/{space}/put", {"key": "k", "value": 1})
        await trio.sleep(2)
        node, mesh_id = mesh.nodes["a"], genesis().id
        (entry,) = [r for r in records_on(mesh, "a") if r.body.place.class_ is Class.KV_ENTRY]
        sync = node.federation.sync.sync  # type: ignore[union-attr]
        assert sync.contains(Stratum.RECORDS, item_of(entry))
        key = keypair("b").public_key
        out = NodeRevoke(2, key, distrust=True, reason="", by=1, signed_at=START_MS << 16)
        fact = facts.assemble(out, facts.sign(out, keypair("a"), mesh_id), mesh_id)
        await node.transactions.run(lambda transaction: node.registry.add_fact(transaction, fact))
        await trio.sleep(1)
        assert not sync.contains(Stratum.RECORDS, item_of(entry))
        assert_exact(mesh, "a")


async def test_what_is_not_here_is_not_read(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(1) as mesh:
        made = offering(mesh, "a")
        for first in (b"\x00", b"\xff"):
            nowhere = item(1, first * 32)
            assert made.read(Stratum.RECORDS, nowhere) is None
            assert made.read(Stratum.FACTS, nowhere) is None


@pytest.mark.slow
async def test_entries_are_loaded_page_by_page_while_others_are_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
        body = {"owner": {"project": project}, "name": "state", "scope": "global"}
        space = (await ada.post("/kv", body, 201))["id"]
        for number in range(1200):
            await ada.post(f"/kv/{space}/put", {"key": f"k{number}", "value": number})
        await mesh.stop("a")
        await mesh.start("a")
        ada = mesh.caller("ada", "a")
        for number in range(0, 1200, 40):
            await ada.post(f"/kv/{space}/put", {"key": f"k{number}", "value": "again"})
        await offering(mesh, "a").loaded.wait()
        assert_exact(mesh, "a")
