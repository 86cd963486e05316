"""A job reads the blobs of other nodes that its input names, with its caller's right."""

from typing import Any

import trio
import trio.testing

from gossip.fetch_messages import VERSION, Data, Get, Kind, Missing, Refused, decode_reply, encode
from peernode.job_rows import Request
from storage.cid import CHUNK_SIZE_BYTES
from tests.peernode.foreign_mesh import Mesh, fetch, open_mesh, peer_of, secrets
from tests.peernode.nodes import Caller, Worker, open_memory_node, settle
from worker import protocol

Clock = trio.testing.MockClock
CONTENT = b"a" * CHUNK_SIZE_BYTES + b"the end"


async def put(mesh: Mesh, data: bytes = CONTENT, user: str = "ada", project: str = "") -> int:
    return int((await mesh.users[user].blob(data, project))["id"])


async def worker_at(mesh: Mesh, number: int) -> Worker:
    node = mesh.nodes[number]
    made = await Caller(node, secrets(number).operator_token).post("/worker", {}, 201)
    worker = Worker(node, mesh.lab.nursery, int(made["id"]))
    await worker.attach()
    return worker


async def run_at(mesh: Mesh, number: int, blob: int, **fields: Any) -> tuple[Worker, Any]:
    """Return a worker of a node, and its lease of a job there whose input names a blob."""
    worker = await worker_at(mesh, number)
    caller = await mesh.caller(number)
    body = {"function": mesh.lab.echo, "input": {"image": {"blob": str(blob)}}, **fields}
    job = (await caller.post("/job", body, 202))["id"]
    await settle()
    return worker, worker.lease(job)


async def read(worker: Worker, lease: protocol.Lease, blob: int, **fields: int) -> Any:
    where = {"offset": 0, "length": CHUNK_SIZE_BYTES, **fields}
    return await ask(worker, lease, "blob.read", blob=blob, **where)


async def ask(worker: Worker, lease: protocol.Lease, operation: str, **arguments: Any) -> Any:
    """Return the answer to a call, or its error code; other nodes may have to answer first."""
    number = 1_000_000 + len(worker.heard)
    await worker.say(protocol.Call(number, lease.job, lease.fence, operation, arguments))
    with trio.move_on_after(60):
        while True:
            for message in worker.heard:
                if isinstance(message, protocol.Reply) and message.call == number:
                    return message.error or message.answer
            await trio.sleep(0.1)
    raise AssertionError("no answer")


def request_of(mesh: Mesh, number: int, job: int) -> Request:
    request = mesh.nodes[number].live.request(job)
    assert request is not None
    return request


async def test_a_job_reads_a_blob_of_another_node_that_its_input_names(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        blob = await put(mesh)
        worker, lease = await run_at(mesh, 2, blob, inputs={"model": {"blob": str(blob)}})
        assert lease.blobs == {"model": blob}
        stat = await ask(worker, lease, "blob.stat", blob=blob)
        assert stat["cid"] == (await mesh.users["ada"].get(f"/blob/{blob}"))["cid"]
        assert stat["size_bytes"] == len(CONTENT)
        assert await read(worker, lease, blob) == CONTENT[:CHUNK_SIZE_BYTES]
        assert await read(worker, lease, blob, offset=CHUNK_SIZE_BYTES) == b"the end"
        assert await read(worker, lease, blob, offset=len(CONTENT)) == b""
        assert await read(worker, lease, blob, offset=len(CONTENT) + 5) == b""
        assert await read(worker, lease, blob, length=CHUNK_SIZE_BYTES + 1) == "invalid_field"


async def test_what_the_caller_may_not_read_is_not_there_for_its_job(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(users=("bob",)) as mesh:
        secret = await put(mesh, user="bob")
        caller = await mesh.caller(2)
        for blob in (secret, secret + 1, secret | (99 << 8)):
            body = {"function": mesh.lab.echo, "input": {"image": {"blob": str(blob)}}}
            refused = await caller.post("/job", body, 404)
            assert (refused["code"], refused["field"]) == ("not_found", "input")


async def test_a_home_that_cannot_be_asked_is_named_and_no_job_is_made(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        blob, caller = await put(mesh), await mesh.caller(2)
        await fetch(caller, f"/blob/{blob}/content")
        mesh.part(1)
        body = {"function": mesh.lab.echo, "inputs": {"model": {"blob": str(blob)}}}
        refused = await caller.post("/job", body, 504)
        assert (refused["code"], refused["nodes"]) == ("unreachable", [1])
        assert (await caller.get("/job"))["items"] == []


async def test_a_blob_of_another_node_that_no_input_names_is_refused_with_the_reason(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        named, other = await put(mesh), await put(mesh, b"x", project=mesh.lab.project)
        worker, lease = await run_at(mesh, 2, named)
        reply = await worker.call(lease, "blob.stat", blob=other)
        assert isinstance(reply, protocol.Reply)
        assert reply.error == "not_found"
        assert "only if its input names them" in str(reply.answer)


async def test_the_right_outlives_the_callers_token_and_ends_after_a_week(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        blob = await put(mesh)
        worker, lease = await run_at(mesh, 2, blob)
        mesh.clock.advance(6 * 86_400)
        assert await read(worker, lease, blob) == CONTENT[:CHUNK_SIZE_BYTES]
        mesh.clock.advance(2 * 86_400)
        assert await ask(worker, lease, "blob.stat", blob=blob) == "not_found"


async def test_a_blob_deleted_meanwhile_is_not_found_and_a_home_that_is_away_unreachable(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        gone, away = await put(mesh), await put(mesh, b"away")
        body = {"inputs": {"gone": {"blob": str(gone)}, "away": {"blob": str(away)}}}
        worker, lease = await run_at(mesh, 2, gone, **body)
        await mesh.users["ada"].delete(f"/blob/{gone}")
        assert await ask(worker, lease, "blob.stat", blob=gone) == "not_found"
        assert await read(worker, lease, gone) == "not_found"
        mesh.part(1)
        # What it is is known since the job was handed in, the bytes are not here.
        assert (await ask(worker, lease, "blob.stat", blob=away))["size_bytes"] == 4
        assert await read(worker, lease, away) == "unreachable"
        mesh.meet(1, 2)
        assert await read(worker, lease, away) == b"away"
        mesh.part(1)
        assert await read(worker, lease, away) == b"away"


async def test_without_the_home_a_neighbour_gives_a_job_what_it_has_for_a_day(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(3) as mesh:
        blob = await put(mesh)
        third = await mesh.caller(3, ttl_s=30 * 86_400)
        worker, lease = await run_at(mesh, 2, blob)
        mesh.clock.advance(3600)
        await fetch(third, f"/blob/{blob}/content")
        mesh.part(1)
        assert await read(worker, lease, blob) == CONTENT[:CHUNK_SIZE_BYTES]
        mesh.clock.advance(86_400)
        assert await read(worker, lease, blob, offset=CHUNK_SIZE_BYTES) == "unreachable"


async def test_a_pass_is_worth_nothing_to_another_node_or_for_another_blob(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(3) as mesh:
        blob, other = await put(mesh), await put(mesh, b"other")
        _, lease = await run_at(mesh, 2, blob)
        passed = request_of(mesh, 2, lease.job).pass_for(blob)
        home = mesh.lab.node.content

        async def given(number: int, wanted: int) -> Any:
            row = home.row(wanted)
            assert row is not None
            get = Get(VERSION, Kind.BLOB, wanted, row.cid, 0, 0, passed)
            return decode_reply(await mesh.foreign(1).serving.give(peer_of(number), encode(get)))

        assert isinstance(await given(2, blob), Data)
        assert await given(3, blob) == Refused("right")
        assert await given(2, other) == Refused("right")
        # The content it names, and no other.
        get = Get(VERSION, Kind.BLOB, blob, home.row(other).cid, 0, 0, passed)  # type: ignore[union-attr]
        reply = decode_reply(await mesh.foreign(1).serving.give(peer_of(2), encode(get)))
        assert isinstance(reply, Missing)


async def test_children_read_what_the_job_may_and_who_runs_it_again_asks_anew(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(users=("bob",)) as mesh:
        blob = await put(mesh)
        worker, lease = await run_at(mesh, 2, blob)
        made = await worker.ask(lease, "job.call", function="echo", input=b"null")
        await worker.finish(lease, None)
        child = worker.lease(made["job"])
        assert await read(worker, child, blob) == CONTENT[:CHUNK_SIZE_BYTES]
        await worker.finish(child, None)
        caller = await mesh.caller(2)
        again = (await caller.post(f"/job/{lease.job}/retry", status=202))["id"]
        await settle()
        assert await read(worker, worker.lease(again), blob) == CONTENT[:CHUNK_SIZE_BYTES]
        mesh.part(1)
        await worker.finish(worker.lease(again), None)
        await caller.post(f"/job/{again}/retry", status=504)


async def test_the_right_is_kept_with_the_request_and_shown_to_nobody(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        blob = await put(mesh)
        _, lease = await run_at(mesh, 2, blob)
        request = request_of(mesh, 2, lease.job)
        assert request.granted == [blob]
        passed = request.pass_for(blob)
        assert passed
        assert request.pass_for(blob + 1) == b""
        caller = await mesh.caller(2)
        shown = await fetch(caller, f"/job/{lease.job}")
        assert passed.hex() not in shown.text
        assert "pass" not in shown.json()
        async with open_memory_node(
            mesh.disks[2].copy(), mesh.clock, entropy="later", secrets=secrets(2)
        ) as again:
            assert again.live.request(lease.job) == request


async def test_an_input_names_a_bounded_number_of_blobs_of_other_nodes(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        blobs = [await put(mesh, b"%d" % at) for at in range(101)]
        caller = await mesh.caller(2)
        named = [{"blob": str(blob)} for blob in blobs]
        body = {"function": mesh.lab.echo, "input": named}
        refused = await caller.post("/job", body, 413)
        assert (refused["field"], refused["limit"]) == ("input", 100)
        await caller.post("/job", {**body, "input": [*named[:100], named[0]]}, 202)
