"""Several whole nodes are one mesh: what is changed at one is known at all."""

import dataclasses
import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from gossip import sync_messages, wire_encode
from gossip.batcher import pack
from gossip.errors import PeerClosed
from gossip.network import Stream
from gossip.sync import Sync
from gossip.sync_events import Applied, Apply, Give, Given, Open, Receive, Send, SyncConfig
from gossip.sync_index import item
from gossip.sync_messages import FRAME_SIZE_MAX_BYTES, PROTOCOL, Stratum
from peernode.gossip_driver import encode_item, topic_of
from peernode.offering import item_of
from storage import facts, records
from storage.facts import NodeGrant
from storage.places import Class
from storage.records import Record, decode_record
from storage.signing import Keypair
from storage.store import Table
from tests.peernode.federated import Federated, genesis, open_federated
from tests.peernode.meshes import keypair, peer_id
from tests.peernode.nodes import ECHO, PASSWORD, START_MS, Caller, Disk, WallClock
from tests.peernode.test_registry import view

CANARY = "yellow-bird-that-stays-at-home"
SHARED = (Table.FACTS, Table.RECORDS, Table.ENTRIES, Table.KV_KEYS)


async def make_project(ada: Caller) -> str:
    return str((await ada.post("/project", {"name": "lab"}, 201))["id"])


async def deploy(caller: Caller, project: str, name: str, source: str = ECHO) -> str:
    body = {"project": project, "name": name, "runtime": "python", "source": source}
    return str((await caller.post("/function", body, 201))["id"])


async def make_space(caller: Caller, project: str, **fields: Any) -> str:
    body = {"owner": {"project": project}, "name": "state", "scope": "global"}
    return str((await caller.post("/kv", body | fields, 201))["id"])


async def put(caller: Caller, space: str, key: str, value: Any) -> None:
    await caller.post(f"/kv/{space}/put", {"key": key, "value": value})


async def read(caller: Caller, space: str, key: str) -> Any:
    answer = await caller.http.post(f"/kv/{space}/get", json={"key": key})
    return answer.json()["value"] if answer.status_code == 200 else answer.status_code


def shared(disk: Disk) -> list[dict[bytes, bytes]]:
    """Return what must be the same everywhere."""
    rows = disk.snapshot()
    return [rows[table] for table in SHARED]


def assert_same(mesh: Federated, *names: str) -> None:
    first, *others = names or tuple(mesh.nodes)
    for other in others:
        assert shared(mesh.disks[other]) == shared(mesh.disks[first])
        assert view(mesh.nodes[other].registry) == view(mesh.nodes[first].registry)
        for stratum in Stratum:
            counts = {mesh.nodes[n].federation.sync.sync.count(stratum) for n in (first, other)}  # type: ignore[union-attr]
            assert len(counts) == 1


async def test_a_function_made_at_one_node_is_called_at_another_in_two_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        function = await deploy(ada, project, "echo")
        await trio.sleep(2)
        there = mesh.caller("ada", "b")
        job = await there.post(f"/function/{function}/call", {"input": 1}, 202)
        assert (await there.get(f"/job/{job['id']}"))["state"] == "queued"
        version = mesh.nodes["b"].programs.get(int(function), None)
        assert version is not None
        assert version.source == ECHO.encode()
        assert_same(mesh)


async def test_a_function_is_known_where_its_maker_is_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "a")
        function = await deploy(ada, await make_project(ada), "echo")
        await trio.sleep(2)
        await mesh.stop("a")
        there = mesh.caller("ada", "b")
        await there.post(f"/function/{function}/call", {"input": 1}, 202)


async def test_a_global_key_put_at_one_node_is_read_at_another_that_is_no_neighbour(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3, connected=False) as mesh:
        mesh.join("a", "b")
        mesh.join("b", "c")
        await trio.sleep(5)
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        space = await make_space(ada, project)
        await put(ada, space, "k", {"n": 1.5})
        await trio.sleep(2)
        there = mesh.caller("ada", "c")
        assert await read(there, space, "k") == {"n": 1.5}
        assert (await there.post(f"/kv/{space}/list"))["items"] == ["k"]
        await put(there, space, "k", "later")
        await there.post(f"/kv/{space}/put", {"key": "other", "value": 1})
        await trio.sleep(2)
        assert await read(ada, space, "k") == "later"
        await ada.post(f"/kv/{space}/delete", {"key": "k"})
        await trio.sleep(2)
        assert await read(there, space, "k") == 404
        assert_same(mesh)


async def test_what_is_local_never_leaves(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        local = await make_space(ada, project, name=CANARY, scope="local")
        await put(ada, local, f"key-{CANARY}", f"value-{CANARY}")
        seen = await make_space(ada, project, name="seen")
        await put(ada, seen, "k", "value-that-everybody-knows")
        worker = {"labels": {"where": CANARY}}
        await Caller(mesh.nodes["a"], mesh.nodes["a"].identity.operator_token).post(
            "/worker", worker, 201
        )
        await trio.sleep(120)
        assert any(b"value-that-everybody-knows" in frame for frame in mesh.frames)
        assert not any(CANARY.encode() in frame for frame in mesh.frames)
        await mesh.caller("ada", "b").post(f"/kv/{local}/get", {"key": "k"}, 404)


async def test_who_deletes_deletes_everywhere(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        function = await deploy(ada, project, "echo")
        space = await make_space(ada, project)
        await trio.sleep(2)
        there = mesh.caller("ada", "b")
        await there.delete(f"/function/{function}")
        await there.delete(f"/kv/{space}")
        await trio.sleep(2)
        await ada.get(f"/function/{function}", 404)
        await mesh.caller("ada", "c").get(f"/kv/{space}", 404)
        # Their names are free again at their home, and nothing is held for them.
        again = await deploy(ada, project, "echo")
        await make_space(ada, project)
        await ada.delete(f"/function/{again}")
        await trio.sleep(2)
        assert_same(mesh)
        for disk in mesh.disks.values():
            rows = disk.snapshot()
            assert not rows[Table.SOURCES]
            assert not rows[Table.BLOCK_REFS]


async def test_a_name_at_a_foreign_node_is_its_own(autojump_clock: trio.testing.MockClock) -> None:
    """Two nodes may each have a function of one name: deleting one leaves the other its name."""
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        await trio.sleep(2)
        there = mesh.caller("ada", "b")
        ours, theirs = await deploy(ada, project, "echo"), await deploy(there, project, "echo")
        await trio.sleep(2)
        await there.delete(f"/function/{ours}")
        await trio.sleep(2)
        body = {"project": project, "name": "echo", "runtime": "python", "source": ECHO}
        await there.post("/function", body, 409)
        await ada.post("/function", body, 201)
        assert await there.get(f"/function/{theirs}")


async def test_a_member_who_is_removed_at_one_node_is_refused_at_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        bob = await mesh.sign_up("bob", "a")
        project = await make_project(ada)
        space = await make_space(ada, project)
        path = f"/project/{project}"
        await trio.sleep(2)
        there = mesh.caller("bob", "b")
        await there.get(path, 404)
        await ada.post(f"{path}/add_member", {"user": bob.id, "role": "developer"})
        await trio.sleep(2)
        await put(there, space, "bobs", 1)
        bobs = await deploy(there, project, "bobs")
        await trio.sleep(2)
        assert await read(ada, space, "bobs") == 1
        before = mesh.nodes["c"].federation.sync.sync.count(Stratum.RECORDS)  # type: ignore[union-attr]
        await ada.post(f"{path}/remove_member", {"user": bob.id, "adopt": False})
        await trio.sleep(2)
        await there.get(path, 404)
        await there.post(f"/kv/{space}/put", {"key": "bobs", "value": 2}, 404)
        await ada.get(f"/function/{bobs}", 404)
        assert await read(mesh.caller("ada", "c"), space, "bobs") == 404
        # What does not count is not offered any more, entries included.
        assert mesh.nodes["c"].federation.sync.sync.count(Stratum.RECORDS) == before - 2  # type: ignore[union-attr]
        assert_same(mesh)
        await ada.post(f"{path}/add_member", {"user": bob.id, "role": "viewer"})
        await trio.sleep(2)
        await there.get(path)
        await there.post(f"/kv/{space}/put", {"key": "bobs", "value": 2}, 403)


@pytest.mark.slow
async def test_two_halves_that_were_apart_come_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(5) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        space = await make_space(ada, project)
        old = await deploy(ada, project, "old")
        await trio.sleep(2)
        for one, other in itertools.product("ab", "cde"):
            mesh.part(one, other)
        mesh.clock.advance(60)
        here, there = mesh.caller("ada", "b"), mesh.caller("ada", "d")
        for number in range(30):
            await put(here, space, f"here-{number}", number)
            await put(there, space, f"there-{number}", number)
            await put(here, space, "both", number)
            await put(there, space, "both", -number)
        await here.delete(f"/function/{old}")
        await there.post(f"/function/{old}", {"description": "still here"})
        new = await deploy(there, project, "new")
        mesh.clock.advance(600)
        await trio.sleep(60)
        assert await read(here, space, "there-3") == 404
        mesh.wire.connect(peer_id("b"), peer_id("c"))
        await trio.sleep(30)
        assert_same(mesh)
        for name in "abcde":
            caller = mesh.caller("ada", name)
            assert await read(caller, space, "there-29") == 29
            assert await read(caller, space, "here-29") == 29
            await caller.get(f"/function/{old}", 404)
            await caller.post(f"/function/{new}/call", {"input": 1}, 202)


async def test_a_node_that_was_away_catches_up_when_it_starts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        space = await make_space(ada, await make_project(ada))
        await put(ada, space, "k", 1)
        await trio.sleep(2)
        await mesh.stop("c")
        await put(ada, space, "k", 2)
        mesh.clock.advance(60)
        await trio.sleep(60)
        await mesh.start("c")
        assert await read(mesh.caller("ada", "c"), space, "k") == 1
        mesh.join("a", "b", "c")
        await trio.sleep(5)
        assert await read(mesh.caller("ada", "c"), space, "k") == 2
        # And what it says after its restart is new to the others.
        await put(mesh.caller("ada", "c"), space, "k", 3)
        await trio.sleep(1)
        assert await read(ada, space, "k") == 3
        assert_same(mesh)


@pytest.mark.slow
async def test_all_nodes_may_write_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        space = await make_space(ada, await make_project(ada))
        await trio.sleep(2)

        async def write(name: str) -> None:
            for number in range(20):
                await put(mesh.caller("ada", name), space, f"k{number % 7}", f"{name}{number}")
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for name in mesh.nodes:
                nursery.start_soon(write, name)
        await trio.sleep(5)
        assert_same(mesh)


@pytest.mark.slow
async def test_gossip_that_is_lost_is_made_up_for(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        space = await make_space(ada, await make_project(ada))
        await trio.sleep(2)
        mesh.overheard.loss = itertools.repeat(True)
        for number in range(20):
            await put(ada, space, f"k{number}", number)
        await trio.sleep(10)
        assert await read(mesh.caller("ada", "b"), space, "k3") == 404
        await trio.sleep(180)
        assert_same(mesh)


class Hostile:
    """A member of the mesh that says what it likes, in good form."""

    def __init__(self, mesh: Federated, name: str = "h") -> None:
        self.mesh = mesh
        self.network = mesh.wire.join(peer_id(name))
        self.keys = keypair(name)
        self._me = bytes.fromhex("002408011220") + self.keys.public_key
        self._seqno = itertools.count(1 << 60)
        mesh.wire.connect(peer_id("a"), peer_id(name))

    def say(self, *items: bytes) -> None:
        """Publish a batch of these items, well signed, to node "a"."""
        self.say_bytes(pack(items))

    def say_bytes(self, data: bytes) -> bytes:
        topic = topic_of(genesis().id)
        unsigned = wire_encode.message(self._me, next(self._seqno), topic, data)
        signature = self.keys.sign_bytes(b"libp2p-pubsub:" + unsigned)
        (rpc,) = wire_encode.pack([wire_encode.publish(unsigned, signature)], [], 1 << 20)
        self.network.send(peer_id("a"), rpc)
        return rpc

    async def penalty(self) -> float:
        """Return how many penalties "a" has for it, once everything has arrived."""
        await trio.sleep(1)
        standing = self.mesh.nodes["a"].federation.standing  # type: ignore[union-attr]
        return float(standing.penalty(self.network.peer, trio.current_time()))

    async def score(self) -> float:
        """Return what gossip at "a" thinks of it, once everything has arrived."""
        await trio.sleep(2)
        return float(self.mesh.nodes["a"].federation.gossip.mesh.score(self._me))  # type: ignore[union-attr]


async def assert_unmoved(mesh: Federated, ada: Caller, space: str, before: list[Any]) -> None:
    """Assert that nothing has changed, and that what is honest still arrives everywhere."""
    assert shared(mesh.disks["a"]) == before
    await put(ada, space, "honest", str(trio.current_time()))
    await trio.sleep(2)
    for name in mesh.nodes:
        found = await read(mesh.caller("ada", name), space, "honest")
        assert found == await read(ada, space, "honest")
    assert_same(mesh)


@asynccontextmanager
async def open_besieged() -> AsyncIterator[tuple[Federated, Caller, str, Hostile]]:
    async with open_federated(3, also=("h",)) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        space = await make_space(ada, project)
        await put(ada, space, "k", 1)
        await deploy(ada, project, "echo")
        hostile = Hostile(mesh)
        await trio.sleep(2)
        yield mesh, ada, space, hostile


def record_item(mesh: Federated, class_: Class = Class.FUNCTION) -> Record:
    registry = mesh.nodes["a"].registry
    return next(r for r in registry.records() if r.body.place.class_ is class_)


def wrong(mesh: Federated) -> dict[str, bytes]:
    """Return batches that are wrong in themselves."""
    good = encode_item(record_item(mesh))
    other = facts.found_mesh(keypair("z"), "other", 1)
    return {
        "random": Random(7).randbytes(300),
        "empty": b"",
        "no kind": pack([b"\x07" + good[1:]]),
        "nothing": pack([b""]),
        "truncated": pack([good[:-1]]),
        "padded": pack([good + b"\0"]),
        "a bit changed": pack([good[:-70] + bytes([good[-70] ^ 1]) + good[-69:]]),
        "oversized": pack([b"\x02" + bytes(90_000)]),
        "a fact of another mesh": pack([encode_item(other)]),
        "a good one and a bad one": pack([good, good[:-1]]),
    }


WRONG = (
    "random",
    "empty",
    "no kind",
    "nothing",
    "truncated",
    "padded",
    "a bit changed",
    "oversized",
    "a fact of another mesh",
    "a good one and a bad one",
)


@pytest.mark.parametrize("kind", WRONG)
async def test_a_batch_that_is_wrong_changes_nothing_and_costs_its_sender(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_besieged() as (mesh, ada, space, hostile):
        before = shared(mesh.disks["a"])
        hostile.say_bytes(wrong(mesh)[kind])
        assert await hostile.score() < 0
        await assert_unmoved(mesh, ada, space, before)


def signed_by(
    mesh: Federated, keys: Keypair, class_: Class = Class.FUNCTION, **changes: Any
) -> bytes:
    """Return a record of an object of ada's, changed and signed with other keys."""
    record = record_item(mesh, class_)
    mesh_id = genesis().id
    body = dataclasses.replace(record.body, hlc=record.body.hlc + 1, signed_at=record.body.hlc + 1)
    body = dataclasses.replace(body, **changes)
    return encode_item(records.sign_record(keys, mesh_id, body, birth=record.birth))


async def test_a_record_with_somebody_elses_keys_changes_nothing_and_costs_its_sender(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_besieged() as (mesh, ada, space, hostile):
        before = shared(mesh.disks["a"])
        hostile.say(signed_by(mesh, hostile.keys, payload=record_item(mesh).body.payload))
        assert await hostile.penalty() > 10
        await assert_unmoved(mesh, ada, space, before)


async def test_who_goes_on_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with open_besieged() as (mesh, ada, space, hostile):
        before = shared(mesh.disks["a"])
        for step in range(1, 6):
            at = record_item(mesh).body.hlc + step
            hostile.say(signed_by(mesh, hostile.keys, hlc=at, signed_at=at))
        assert await hostile.penalty() > 79
        assert hostile.network.peers() == []
        assert not mesh.wire.connect(hostile.network.peer, peer_id("a"))
        await assert_unmoved(mesh, ada, space, before)


async def test_what_rests_on_nothing_waits_in_bounds_and_costs_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A node that nobody let in may be let in yet; until then nothing of it counts."""
    async with open_besieged() as (mesh, ada, space, hostile):
        before = shared(mesh.disks["a"])
        stranger = NodeGrant(
            number=90,
            public_key=keypair("z").public_key,
            block=None,
            roles=(),
            users_max=None,
            not_before_ms=START_MS,
            expires_ms=START_MS + 1000,
            by=77,
            signed_at=START_MS << 16,
        )
        mesh_id = genesis().id
        fact = facts.assemble(stranger, facts.sign(stranger, keypair("z"), mesh_id), mesh_id)
        hostile.say(encode_item(fact))
        assert await hostile.penalty() == 0
        status = mesh.nodes["a"].mesh_status()
        assert status is not None
        assert status.waiting == 1
        await assert_unmoved(mesh, ada, space, before)


async def test_an_old_message_sent_again_ends_at_the_first_node(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_besieged() as (mesh, ada, space, hostile):
        old = encode_item(record_item(mesh))
        await ada.post(f"/function/{record_item(mesh).body.place.id}", {"description": "new"})
        await trio.sleep(2)
        before = shared(mesh.disks["a"])
        heard = mesh.nodes["b"].federation.gossip.mesh.statistics().received  # type: ignore[union-attr]
        del mesh.frames[:]
        hostile.say(old)
        await trio.sleep(0.5)
        assert not any(old in frame for frame in mesh.frames[1:])
        assert heard
        await assert_unmoved(mesh, ada, space, before)


async def test_what_is_ahead_of_the_clock_waits_for_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        await trio.sleep(2)
        fast = WallClock(START_MS + 300_000)
        await mesh.stop("b")
        await mesh.start("b", clock=fast)
        mesh.join("a", "b")
        await trio.sleep(5)
        there = mesh.caller("ada", "b")
        await there.post(f"/project/{project}", {"display_name": "early"})
        await trio.sleep(60)
        assert (await ada.get(f"/project/{project}"))["display_name"] == ""
        status = mesh.nodes["a"].mesh_status()
        assert status is not None
        assert status.waiting == 1
        assert all(peer.penalty == 0 for peer in status.peers)
        mesh.clock.advance(250)
        await trio.sleep(15)
        assert (await ada.get(f"/project/{project}"))["display_name"] == "early"
        assert_same(mesh)


async def test_a_stream_of_nonsense_ends_and_costs_its_sender(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_besieged() as (mesh, ada, space, hostile):
        before = shared(mesh.disks["a"])
        for frame in (b"\xff" * 50, sync_messages.encode(sync_messages.Items(Stratum.FACTS, []))):
            stream = await hostile.network.open_stream(
                peer_id("a"), PROTOCOL, size_max_bytes=FRAME_SIZE_MAX_BYTES, timeout_s=1
            )
            await stream.send(frame)
            with pytest.raises(PeerClosed):
                await stream.receive()
        assert await hostile.penalty() > 5
        await assert_unmoved(mesh, ada, space, before)


async def lie(stream: Stream, liar: Sync, forged: bytes) -> None:
    """Reconcile in good form, and give `forged` for whatever is asked for."""
    todo: deque[Any] = deque([Open(1, peer_id("a"), bytes(16))])
    while True:
        while todo:
            for effect in liar.handle(todo.popleft(), trio.current_time()):
                if isinstance(effect, Send):
                    await stream.send(effect.frame)
                elif isinstance(effect, Give):
                    todo.append(Given(1, (forged,)))
                elif isinstance(effect, Apply):
                    todo.append(Applied(1))
        todo.append(Receive(1, await stream.receive()))


async def test_a_node_that_gives_what_is_forged_is_blamed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It offers an item as everybody does, and gives other bytes for it."""
    async with open_besieged() as (mesh, ada, space, hostile):
        before = shared(mesh.disks["a"])
        forged = signed_by(mesh, hostile.keys)[1:]
        one = item_of(decode_record(forged))
        facts_known = [item(f.signed_at, f.id) for f in mesh.nodes["a"].registry.authority]
        liar = Sync(SyncConfig(), hostile.network.peer, genesis().id, facts_known, [one])
        stream = await hostile.network.open_stream(
            peer_id("a"), PROTOCOL, size_max_bytes=FRAME_SIZE_MAX_BYTES, timeout_s=1
        )
        with pytest.raises(PeerClosed):
            await lie(stream, liar, forged)
        assert await hostile.penalty() > 15
        await assert_unmoved(mesh, ada, space, before)


async def test_who_writes_with_an_older_key_than_is_known_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is signed under an older key can never replace what is signed under a newer one."""
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(ada)
        space = await make_space(ada, project)
        await trio.sleep(2)
        there = mesh.caller("ada", "b")
        token = (await ada.post(f"/user/{ada.id}/rotate", {"password": PASSWORD}))["token"]
        fresh = Caller(mesh.nodes["a"], token)
        await put(fresh, space, "k", "newer key")
        await fresh.post(f"/project/{project}", {"display_name": "newer key"})
        await trio.sleep(2)
        await there.post(f"/kv/{space}/put", {"key": "k", "value": "older key"}, 409)
        await there.post(f"/project/{project}", {"display_name": "older key"}, 409)
        await put(there, space, "other", "older key")
        await trio.sleep(2)
        assert await read(fresh, space, "k") == "newer key"
        assert await read(fresh, space, "other") == "older key"
        assert_same(mesh)
