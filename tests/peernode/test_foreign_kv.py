"""Keys of `cas` namespaces are read and written at their home, from wherever the call comes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from gossip.errors import PeerError, PeerRefused, PeerUnreachable, RemoteProtocolError
from peernode.foreign_kv import (
    METHODS,
    PROTOCOL,
    REPLY_SIZE_MAX_BYTES,
    Ask,
    Done,
    ForeignKv,
    Refusal,
    Reply,
    decode_ask,
    decode_reply,
    encode,
)
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.spaces import Space
from storage.records import decode_record
from storage.store import Table
from tests.peernode.federated import Federated, open_federated
from tests.peernode.meshes import peer_id, secrets
from tests.peernode.nodes import ECHO, Caller, Worker, settle
from worker import protocol

Clock = trio.testing.MockClock
GOLDEN = Path(__file__).parent / "golden" / "foreign_kv_frames.hex"
SPACE = 1 << 40
ASKS = [Ask(1, method, SPACE, b'{"key":"k"}', b"right") for method in METHODS]
REPLIES: list[Reply] = [
    Refusal("version_mismatch", b'{"detail":"no","version":"7"}'),
    Done(b'{"key":"k","version":"7"}'),
]


@dataclass
class World:
    """A project of ada's at node a, with a `cas` namespace that all nodes know."""

    mesh: Federated
    home: Caller
    project: str
    space: str

    @property
    def path(self) -> str:
        return f"/kv/{self.space}"

    def at(self, node: str, user: str = "ada") -> Caller:
        return self.mesh.caller(user, node)

    def kv(self, node: str) -> ForeignKv:
        foreign = self.mesh.nodes[node].foreign
        assert foreign is not None
        return foreign.kv

    def seen(self, node: str) -> Space:
        space = self.mesh.nodes[node].spaces.get(int(self.space))
        assert space is not None
        return space

    def actor(self, node: str, user: str = "ada") -> Actor:
        token = self.mesh.tokens[user][node]
        return self.mesh.nodes[node].sessions.authenticate(f"Bearer {token}".encode())

    def part(self, one: str, other: str) -> None:
        self.mesh.part(one, other)


@asynccontextmanager
async def open_world(count: int = 2, mode: str = "cas") -> AsyncIterator[World]:
    async with open_federated(count) as mesh:
        home = await mesh.sign_up("ada", "a")
        project = (await home.post("/project", {"name": "lab"}, 201))["id"]
        body = {"owner": {"project": project}, "name": "state", "scope": "global", "mode": mode}
        space = (await home.post("/kv", body, 201))["id"]
        await trio.sleep(2)
        yield World(mesh, home, project, space)


# --- what a caller gets ---------------------------------------------------------------------------


async def test_every_call_about_a_key_is_answered_as_at_home(autojump_clock: Clock) -> None:
    async with open_world() as world:
        there, path = world.at("b"), world.path
        put = await there.post(f"{path}/put", {"key": "k", "value": {"x": [1.5, None, "é"]}})
        for caller in (world.home, there):
            assert await caller.post(f"{path}/get", {"key": "k"}) == {
                "key": "k",
                "value": {"x": [1.5, None, "é"]},
                "version": put["version"],
                "expires_at": None,
            }
            assert await caller.post(f"{path}/list", {"prefix": "k"}) == {
                "items": ["k"],
                "next": None,
            }
        assert (await there.post(f"{path}/increment", {"key": "n", "by": 3}))["value"] == 3
        assert (await world.home.post(f"{path}/increment", {"key": "n"}))["value"] == 4
        deleted = await there.post(f"{path}/delete", {"key": "k", "if_version": put["version"]})
        assert int(deleted["version"]) > int(put["version"])
        for caller in (world.home, there):
            assert (await caller.post(f"{path}/get", {"key": "k"}, 404))["field"] == "key"
        answer = await there.http.post(f"{path}/get", json={"key": "n"})
        assert answer.headers["origin-node"] == "1"
        assert "origin-node" not in (await world.home.http.get(path)).headers


async def test_a_write_is_read_at_once_everywhere(autojump_clock: Clock) -> None:
    async with open_world(3) as world:
        for turn, (writer, reader) in enumerate([("a", "b"), ("b", "c"), ("c", "a"), ("b", "b")]):
            began = trio.current_time()
            await world.at(writer).post(f"{world.path}/put", {"key": "k", "value": turn})
            found = await world.at(reader).post(f"{world.path}/get", {"key": "k"})
            assert found["value"] == turn
            assert trio.current_time() - began < 0.1


async def test_increments_from_two_nodes_at_once_all_count(autojump_clock: Clock) -> None:
    async with open_world(3) as world:
        values: list[int] = []

        async def increment(node: str) -> None:
            answer = await world.at(node).post(f"{world.path}/increment", {"key": "n"})
            values.append(answer["value"])

        async with trio.open_nursery() as nursery:
            for at in range(50):
                nursery.start_soon(increment, "bc"[at % 2])
        assert sorted(values) == list(range(1, 51))
        for node in "abc":
            found = await world.at(node).post(f"{world.path}/get", {"key": "n"})
            assert found["value"] == 50


async def test_of_those_who_expect_one_version_one_wins(autojump_clock: Clock) -> None:
    async with open_world(3) as world:
        statuses: list[int] = []

        async def claim(node: str) -> None:
            body = {"key": "lock", "value": node, "if_version": "0"}
            answer = await world.at(node).http.post(f"{world.path}/put", json=body)
            statuses.append(answer.status_code)
            if answer.status_code == 409:
                problem = answer.json()
                assert problem["code"] == "version_mismatch"
                assert int(problem["version"]) > 0

        async with trio.open_nursery() as nursery:
            for node in "abcabc":
                nursery.start_soon(claim, node)
        assert sorted(statuses) == [200, 409, 409, 409, 409, 409]


async def test_without_the_home_nothing_is_done_and_nothing_older_is_told(
    autojump_clock: Clock,
) -> None:
    async with open_world(3) as world:
        there, path = world.at("b"), world.path
        put = await there.post(f"{path}/put", {"key": "k", "value": 1})
        await trio.sleep(2)
        world.part("a", "b")
        for method, body in (
            ("put", {"key": "k", "value": 2}),
            ("put", {"key": "k", "value": 2, "if_version": put["version"]}),
            ("delete", {"key": "k"}),
            ("delete", {"key": "k", "if_version": put["version"]}),
            ("increment", {"key": "k"}),
            ("get", {"key": "k"}),
            ("list", {}),
        ):
            problem = await there.post(f"{path}/{method}", body, 503)
            assert (problem["code"], problem["nodes"]) == ("home_unreachable", [1])
            assert problem["retryable"]
            assert "nothing is done" in problem["detail"]
        assert (await world.home.post(f"{path}/get", {"key": "k"})) == {
            "key": "k",
            "value": 1,
            "version": put["version"],
            "expires_at": None,
        }
        world.mesh.join("a", "b")
        assert (await there.post(f"{path}/increment", {"key": "k"}))["value"] == 2


async def test_a_call_whose_answer_is_lost_says_so(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.mesh.disks["a"].gate.hold()
        problems = []

        async def put() -> None:
            body = {"key": "k", "value": 1}
            problems.append(await world.at("b").post(f"{world.path}/put", body, 503))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await trio.sleep(1)
            assert not problems
            world.part("a", "b")
        assert problems[0]["code"] == "home_unreachable"
        assert "it has done it, or it has not" in problems[0]["detail"]
        world.mesh.disks["a"].gate.release()
        assert (await world.home.post(f"{world.path}/get", {"key": "k"}))["value"] == 1


# --- who may --------------------------------------------------------------------------------------


async def test_the_home_judges_who_may(autojump_clock: Clock) -> None:
    async with open_world() as world:
        bob, path = await world.mesh.sign_up("bob", "b"), world.path
        await trio.sleep(2)
        await Caller(world.mesh.nodes["b"]).post(f"{path}/get", {"key": "k"}, 401)
        await bob.post(f"{path}/get", {"key": "k"}, 404)
        await bob.post(f"{path}/put", {"key": "k", "value": 1}, 404)
        member = {"user": bob.id, "role": "viewer"}
        await world.home.post(f"/project/{world.project}/add_member", member)
        await world.home.post(f"{path}/put", {"key": "k", "value": 1})
        # What the home knows counts, not what has reached the node that is asked.
        assert (await bob.post(f"{path}/get", {"key": "k"}))["value"] == 1
        for method, body in (
            ("put", {"key": "k", "value": 2}),
            ("increment", {"key": "k"}),
            ("delete", {"key": "k"}),
        ):
            assert (await bob.post(f"{path}/{method}", body, 403))["code"] == "forbidden"
        await world.home.post(f"/project/{world.project}/remove_member", {"user": bob.id})
        await bob.post(f"{path}/get", {"key": "k"}, 404)


async def test_who_may_not_know_of_it_learns_nothing_while_the_home_is_away(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world:
        bob = await world.mesh.sign_up("bob", "b")
        await trio.sleep(2)
        world.part("a", "b")
        await bob.post(f"{world.path}/get", {"key": "k"}, 404)
        await bob.post(f"{world.path}/put", {"key": "k", "value": 1}, 404)


async def test_a_narrow_token_stays_narrow_at_the_home(autojump_clock: Clock) -> None:
    async with open_world() as world:
        body = {"audience": ["2"], "scopes": ["kv:key_get", "kv:get"]}
        token = (await world.home.post("/user/ada/delegate", body))["token"]
        narrow = Caller(world.mesh.nodes["b"], token)
        await world.home.post(f"{world.path}/put", {"key": "k", "value": 1})
        assert (await narrow.post(f"{world.path}/get", {"key": "k"}))["value"] == 1
        await narrow.post(f"{world.path}/put", {"key": "k", "value": 2}, 403)


async def test_a_right_is_worth_nothing_in_the_hands_of_another_node(autojump_clock: Clock) -> None:
    async with open_world(3) as world:
        stolen = world.actor("b").certificate
        ask = encode(Ask(1, "put", int(world.space), b'{"key":"k","value":1}', stolen))
        reply = decode_reply(await world.kv("a").answer(peer_id("c"), ask))
        assert isinstance(reply, Refusal)
        assert reply.code == "not_found"
        with pytest.raises(PeerRefused):
            await world.kv("a").answer(peer_id("z"), ask)
        assert isinstance(decode_reply(await world.kv("a").answer(peer_id("b"), ask)), Done)


async def test_who_asks_what_is_no_question_is_cut_off(autojump_clock: Clock) -> None:
    async with open_world() as world:
        good = encode(
            Ask(1, "put", int(world.space), b'{"key":"k","value":1}', world.actor("b").certificate)
        )

        async def ask(frame: bytes) -> bytes:
            network = world.mesh.wire._nodes[peer_id("b")]
            return await network.request(
                peer_id("a"), PROTOCOL, frame, reply_size_max_bytes=1000, timeout_s=1
            )

        assert isinstance(decode_reply(await ask(good)), Done)
        for _ in range(17):
            with pytest.raises(PeerError):
                await ask(b"noise")
        await trio.sleep(1)
        with pytest.raises(PeerUnreachable):
            await ask(good)


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (Ask(2, "get", 1, b"{}", b""), "not_implemented"),
        (Ask(1, "get", 7, b"{}", b""), "not_found"),
        (Ask(1, "put", 1, b'{"key":"k"}', b""), "invalid_field"),
        (Ask(1, "put", 1, b"noise", b""), "invalid_json"),
        (Ask(1, "put", 1, b'{"key":"","value":1}', b""), "invalid_field"),
        (Ask(1, "put", 1, b'{"key":"k","value":1,"if_version":"x"}', b""), "invalid_field"),
        (Ask(1, "list", 1, b'{"limit":100000}', b""), "invalid_field"),
        (Ask(1, "get", 1, b'{"key":"k","as":"root"}', b""), "unknown_field"),
    ],
)
async def test_what_a_member_asks_is_checked_as_if_a_caller_had(
    autojump_clock: Clock, ask: Ask, code: str
) -> None:
    async with open_world() as world:
        space = int(world.space) if ask.id == 1 else ask.id
        asked = Ask(ask.version, ask.method, space, ask.body, world.actor("b").certificate)
        reply = decode_reply(await world.kv("a").answer(peer_id("b"), encode(asked)))
        assert isinstance(reply, Refusal)
        assert reply.code == code
        assert not _entries(world, "a")


async def test_an_evicted_home_is_not_asked(autojump_clock: Clock) -> None:
    async with open_world(3) as world:
        there = world.at("a")
        body = {"owner": {"project": world.project}, "name": "theirs", "scope": "global"}
        space = (await world.at("b").post("/kv", body | {"mode": "cas"}, 201))["id"]
        await trio.sleep(2)
        await there.post(f"/kv/{space}/put", {"key": "k", "value": 1})
        operator = Caller(world.mesh.nodes["a"], secrets("a").operator_token)
        await operator.post("/mesh/evict", {"node": "2", "reason": "sold"})
        problem = await there.post(f"/kv/{space}/get", {"key": "k"}, 503)
        assert problem["code"] == "home_unreachable"


# --- only the home writes -------------------------------------------------------------------------


def _entries(world: World, node: str) -> list[int]:
    """Return the authors of all entries that a node keeps."""
    rows = world.mesh.disks[node].scan(Table.ENTRIES, limit=1000)
    return [decode_record(row).body.author for _, row in rows]


async def test_no_other_node_ever_writes_an_entry(autojump_clock: Clock) -> None:
    async with open_world(3) as world:
        for node in "abc":
            await world.at(node).post(f"{world.path}/put", {"key": node, "value": 1})
        await trio.sleep(2)
        for node in "abc":
            assert _entries(world, node) == [1, 1, 1]
        world.part("a", "b")
        space, before = world.seen("b"), world.mesh.disks["b"].snapshot()

        def write(transaction: Any) -> None:
            world.mesh.nodes["b"].spaces.write(transaction, world.actor("b"), space, b"k", b"1")

        with pytest.raises(Problem, match="kept by node 1"):
            await world.mesh.nodes["b"].transactions.run(write)
        with pytest.raises(Problem, match="kept by node 1"):
            world.mesh.nodes["b"].spaces.read(space, b"a")
        with pytest.raises(Problem, match="kept by node 1"):
            await world.mesh.nodes["b"].spaces.keys(space, b"", b"", 10)
        after = world.mesh.disks["b"].snapshot()
        assert before[Table.ENTRIES] == after[Table.ENTRIES]


async def test_where_the_last_writer_wins_each_node_writes_for_itself(
    autojump_clock: Clock,
) -> None:
    async with open_world(mode="lww") as world:
        world.part("a", "b")
        there = world.at("b")
        await there.post(f"{world.path}/put", {"key": "k", "value": 1})
        assert (await there.post(f"{world.path}/get", {"key": "k"}))["value"] == 1
        refused = await there.post(f"{world.path}/increment", {"key": "k"}, 422)
        assert refused["code"] == "would_lose_updates"


# --- jobs -----------------------------------------------------------------------------------------


@asynccontextmanager
async def open_job() -> AsyncIterator[tuple[World, Worker, protocol.Lease]]:
    """Own a job of node b, in the project whose `cas` namespace node a keeps."""
    async with open_world() as world, trio.open_nursery() as nursery:
        node, there = world.mesh.nodes["b"], world.at("b")
        body = {"project": world.project, "name": "echo", "runtime": "python", "source": ECHO}
        function = (await there.post("/function", body, 201))["id"]
        made = await Caller(node, secrets("b").operator_token).post("/worker", {}, 201)
        worker = Worker(node, nursery, int(made["id"]))
        await worker.attach()
        job = (await there.post("/job", {"function": function, "input": 1}, 202))["id"]
        await settle()
        yield world, worker, worker.lease(job)
        nursery.cancel_scope.cancel()


async def tell(worker: Worker, lease: protocol.Lease, operation: str, **arguments: Any) -> Any:
    """Return what a call of function code comes to: the answer, or code and text of a refusal."""
    number = 1_000_000 + len(worker.heard)
    await worker.say(protocol.Call(number, lease.job, lease.fence, operation, arguments))
    with trio.fail_after(60):
        while True:
            for message in worker.heard:
                if isinstance(message, protocol.Reply) and message.call == number:
                    return (message.error, message.answer) if message.error else message.answer
            await trio.sleep(0.01)


async def test_a_job_reads_and_writes_at_once_what_another_node_keeps(
    autojump_clock: Clock,
) -> None:
    async with open_job() as (world, worker, lease):
        space = int(world.space)
        opened = await tell(worker, lease, "kv.open", name="state")
        assert opened == {"space": space, "scope": "global", "mode": "cas", "home": 1}

        async def do(operation: str, **arguments: Any) -> Any:
            return await tell(worker, lease, operation, space=space, **arguments)

        assert await do("kv.get", key="k") is None
        put = await do("kv.put", key="k", value=b'{"x":[1.5,null]}', ttl_s=60.0)
        found = await do("kv.get", key="k")
        assert found == {"value": b'{"x":[1.5,null]}', "version": put["version"]}
        at_home = await world.home.post(f"{world.path}/get", {"key": "k"})
        assert (at_home["value"], at_home["version"]) == ({"x": [1.5, None]}, str(put["version"]))
        assert [(await do("kv.increment", key="n", by=2))["value"] for _ in "ab"] == [2, 4]
        assert await do("kv.list", prefix="", cursor=None) == {"keys": ["k", "n"], "cursor": None}
        assert await do("kv.list", prefix="", cursor="k") == {"keys": ["n"], "cursor": None}
        for _ in range(2):  # Whether it is there or not, as at home.
            assert await do("kv.delete", key="k") == {}
        assert await do("kv.get", key="k") is None
        code, text = await do("kv.increment", key="n", by=1 << 60)
        assert (code, "by" in text) == ("invalid_field", True)
        # What is written there is the home's own, and names no job.
        assert set(_entries(world, "a")) == {1}


async def test_a_job_writes_only_if_a_key_is_still_what_it_read(autojump_clock: Clock) -> None:
    async with open_job() as (world, worker, lease):
        space = int(world.space)

        async def put(value: bytes, if_version: str) -> Any:
            fields = {"key": "k", "value": value, "ttl_s": None, "if_version": if_version}
            return await tell(worker, lease, "kv.put", space=space, **fields)

        first = await put(b"1", "0")
        code, text = await put(b"1", "0")  # Again, as a repeated attempt would.
        assert (code, str(first["version"]) in text) == ("version_mismatch", True)
        assert (await put(b"2", str(first["version"])))["version"] > first["version"]


async def test_what_a_job_buffers_is_refused_where_another_node_keeps_the_keys(
    autojump_clock: Clock,
) -> None:
    async with open_job() as (world, worker, lease):
        await worker.finish(lease, 1, protocol.KvPut(int(world.space), "k", b"1", None))
        ended = await world.at("b").get(f"/job/{lease.job}")
        assert (ended["state"], ended["error"]["code"]) == ("failed", "write_refused")
        assert "kept by node 1" in json.dumps(ended["error"])
        assert not _entries(world, "a")
        assert not _entries(world, "b")


async def test_without_the_home_a_job_is_told_what_a_caller_is(autojump_clock: Clock) -> None:
    async with open_job() as (world, worker, lease):
        space = int(world.space)
        world.mesh.disks["a"].gate.hold()
        async with trio.open_nursery() as nursery:

            async def put() -> None:
                fields = {"key": "k", "value": b"1", "ttl_s": None}
                code, text = await tell(worker, lease, "kv.put", space=space, **fields)
                assert code == "home_unreachable"
                assert "it has done it, or it has not" in text

            nursery.start_soon(put)
            await trio.sleep(1)
            world.part("a", "b")
        world.mesh.disks["a"].gate.release()
        code, text = await tell(worker, lease, "kv.get", space=space, key="k")
        assert (code, "nothing is done" in text) == ("home_unreachable", True)


async def test_a_node_speaks_for_its_own_jobs_and_in_their_project_only(
    autojump_clock: Clock,
) -> None:
    async with open_job() as (world, _, lease):
        space, project = int(world.space), int(world.project)
        foreign = world.mesh.nodes["b"].foreign
        assert foreign is not None
        passes = foreign.kv._passes
        job_at_a = world.mesh.nodes["a"].ids.next()

        async def asked(peer: str, auth: bytes) -> str:
            ask = encode(Ask(1, "put", space, b'{"key":"k","value":1}', auth))
            reply = decode_reply(await world.kv("a").answer(peer_id(peer), ask))
            return reply.code if isinstance(reply, Refusal) else "done"

        def word(job: int = lease.job, project: int = project, space: int = space) -> bytes:
            return passes.state(Actor(kind="job", job=job, project=project), space)

        assert await asked("b", word()) == "done"
        for wrong in (word(job=job_at_a), word(project=project + 1), word(space=space + 1)):
            assert await asked("b", wrong) == "not_found"
        assert await asked("b", word()[:-1] + b"x") == "not_found"
        # Node a is a member too, and this is not its word.
        assert await asked("a", word()) == "not_found"


# --- what a home may not do -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"noise", "home_unreachable"),
        (encode(Done(b"noise")), "home_unreachable"),
        (encode(Done(b'{"key":"k"}')), "home_unreachable"),
        (encode(Refusal("no_such_code", b'{"detail":"x"}')), "home_unreachable"),
        (encode(Refusal("internal", b'{"detail":"x"}')), "home_unreachable"),
        (encode(Refusal("not_found", b"noise")), "home_unreachable"),
        (encode(Refusal("overloaded", b'{"detail":"busy"}')), "overloaded"),
        (encode(Refusal("storage_full", b'{"detail":"full"}')), "storage_full"),
        (bytes(REPLY_SIZE_MAX_BYTES + 1), "home_unreachable"),
    ],
)
async def test_a_home_that_talks_nonsense_is_as_good_as_away(
    autojump_clock: Clock, frame: bytes, code: str
) -> None:
    async with open_world() as world:

        async def answer(peer: str, asked: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            return frame

        network = world.mesh.wire._nodes[peer_id("a")]
        network.requests[PROTOCOL] = (answer, network.requests[PROTOCOL][1])
        problem = await world.at("b").http.post(f"{world.path}/get", json={"key": "k"})
        assert problem.json()["code"] == code


# --- frames ---------------------------------------------------------------------------------------


def test_golden_frames() -> None:
    """These bytes are what other versions read and write. A new layout is a new version."""
    lines = GOLDEN.read_text().split()
    assert lines == [encode(message).hex() for message in [*ASKS, *REPLIES]]
    assert [decode_ask(bytes.fromhex(line)) for line in lines[: len(ASKS)]] == ASKS
    assert [decode_reply(bytes.fromhex(line)) for line in lines[len(ASKS) :]] == REPLIES


@pytest.mark.parametrize(
    "bad",
    [
        Ask(1, "clear", SPACE, b"{}", b""),  # type: ignore[arg-type]
        Ask(1, "get", 0, b"{}", b""),
        Ask(1, "get", SPACE, b"{}", bytes(20_000)),
        Ask(1, "put", SPACE, bytes(90_000), b""),
    ],
)
def test_what_is_out_of_bounds_is_refused(bad: Ask) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_ask(encode(bad))


@given(st.binary(max_size=300))
def test_noise_is_refused(frame: bytes) -> None:
    for decode in (decode_ask, decode_reply):
        with pytest.raises(RemoteProtocolError):
            decode(frame)
