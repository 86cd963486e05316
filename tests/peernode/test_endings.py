"""How jobs end: once, with their writes or without, and not before it is durable."""

from typing import Any

import pytest
import trio

from storage import ids
from storage.store import Table
from tests.peernode.nodes import START_MS, Lab, Worker, finished, held, settle
from worker import protocol
from worker.protocol import BlobKeep, KvDelete, KvIncrement, KvPut, Usage


async def leased(lab: Lab, worker: Worker, **fields: Any) -> protocol.Lease:
    job = await lab.job(**fields)
    await settle()
    return worker.lease(job)


async def shown(lab: Lab, lease: protocol.Lease) -> Any:
    return await lab.ada.get(f"/job/{lease.job}")


async def value(lab: Lab, space: str, key: str) -> Any:
    return (await lab.ada.post(f"/kv/{space}/get", {"key": key}))["value"]


# --- outcomes -------------------------------------------------------------------------------------


async def test_an_outcome_is_seen_when_it_is_durable_and_not_before(lab: Lab) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    await worker.started(lease)
    lab.disk.gate.hold()
    await worker.finish(lease, {"n": 1})
    assert worker.all(protocol.Acked) == []
    lab.disk.gate.release()
    await settle()
    found = await shown(lab, lease)
    assert (found["state"], found["result"]) == ("succeeded", {"n": 1})
    assert worker.all(protocol.Acked) == [protocol.Acked(held(lease))]
    rows = lab.disk.snapshot()
    assert rows[Table.LIVE] == {}
    assert set(rows[Table.OUTCOMES]) == {ids.key(lease.job)}


async def test_who_waits_is_answered_when_the_job_ends(lab: Lab) -> None:
    worker = await lab.worker()
    answers: list[Any] = []

    async def post() -> None:
        answers.append(await lab.ada.http.post("/job?wait=60", json={"function": lab.echo}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(post)
        await settle()
        await worker.finish(worker.lease(), 5)
    assert (answers[0].status_code, answers[0].json()["result"]) == (200, 5)
    late = await lab.ada.http.post(
        "/job", json={"function": lab.echo}, headers={"Prefer": "respond-async, wait=1"}
    )
    assert (late.status_code, late.json()["state"]) == (202, "leased")


async def test_a_failure_says_what_the_function_said(lab: Lab) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    await worker.fail(lease)
    found = await shown(lab, lease)
    assert found["state"] == "failed"
    assert found["error"] == {
        "code": "function_error",
        "message": "it broke",
        "traceback": "line 1",
    }
    assert found["result"] is None


async def test_a_result_that_is_no_json_is_the_functions_error(lab: Lab) -> None:
    worker = await lab.worker()
    for payload in (b"", b"{", b"\xff", b"1 2", b'"\xff"'):
        lease = await leased(lab, worker)
        await worker.finish(lease, None, payload=payload)
        found = await shown(lab, lease)
        assert (found["state"], found["error"]["code"]) == ("failed", "result_invalid")


async def test_an_outcome_never_changes(lab: Lab) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    await worker.say(finished(lease, 1), finished(lease, 2))
    found = await shown(lab, lease)
    assert found["result"] == 1
    await worker.finish(lease, 3)
    await worker.fail(lease)
    assert await shown(lab, lease) == found


async def test_a_finish_said_again_before_it_is_durable_is_acknowledged_once_it_is(
    lab: Lab,
) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    lab.disk.gate.hold()
    await worker.finish(lease, 1)
    await worker.detach()
    await worker.attach(*held(lease))
    await worker.finish(lease, 1)
    assert worker.all(protocol.Refused) == []
    lab.disk.gate.release()
    await settle()
    assert worker.all(protocol.Acked) == [protocol.Acked(held(lease))]
    assert (await shown(lab, lease))["result"] == 1


async def test_what_another_fence_says_is_refused(lab: Lab) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    stale = protocol.Lease(**{f: getattr(lease, f) for f in lease.__struct_fields__ if f != "fence"}
                           | {"fence": lease.fence - 1})  # fmt: skip
    await worker.started(stale)
    await worker.finish(stale, "stale", KvPut(1, "k", b"1"))
    await worker.say(protocol.Log(stale.job, stale.fence, [(START_MS, "stdout", "stale")]))
    reply = await worker.call(stale, "kv.open", name="state")
    assert reply == protocol.Refused(stale.job, stale.fence)
    assert (await shown(lab, lease))["state"] == "leased"
    assert (await lab.ada.get(f"/job/{lease.job}/logs"))["items"] == []
    await worker.finish(lease, "current")
    assert (await shown(lab, lease))["result"] == "current"


@pytest.mark.parametrize("started_ms", [1, START_MS - 1, START_MS + 10**9, 1 << 62])
async def test_a_worker_with_a_wrong_clock_does_not_move_history(lab: Lab, started_ms: int) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    lab.clock.advance(2)
    await worker.finish(lease, None, usage=Usage(started_ms, 1.0, 1.0, 1))
    found = await shown(lab, lease)
    times = [change["at"] for change in found["history"]]
    assert times == sorted(times)
    assert found["created_at"] <= found["started_at"] <= found["finished_at"]


async def test_logs_are_kept_in_order_and_up_to_a_limit(lab: Lab) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    job, fence = lease.job, lease.fence
    await worker.say(protocol.Log(job, fence, [(START_MS, "stdout", "one"), (START_MS, "log", "")]))
    await worker.say(protocol.Log(job, fence, [(START_MS + 1, "stderr", "é")]))
    items = (await lab.ada.get(f"/job/{job}/logs"))["items"]
    assert [(line["stream"], line["text"]) for line in items] == [
        ("stdout", "one"),
        ("log", ""),
        ("stderr", "é"),
    ]
    text = await lab.ada.http.get(f"/job/{job}/logs", headers={"Accept": "text/plain"})
    assert text.text == "one\n\né\n"
    for _ in range(20):
        await worker.say(protocol.Log(job, fence, [(START_MS, "stdout", "x" * (1 << 16))]))
    await worker.say(protocol.Log(job, fence, [(START_MS, "stdout", "")] * 1000))
    items = (await lab.ada.get(f"/job/{job}/logs"))["items"]
    assert items[-1]["text"] == "(the rest of the log was dropped)"
    assert sum(len(line["text"]) for line in items) < 1 << 21
    await worker.finish(lease)
    assert (await lab.ada.get(f"/job/{job}/logs"))["items"] == items


async def test_empty_lines_are_not_free(lab: Lab) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    lab.node.live[lease.job].log_bytes = (1 << 20) - 5
    for _ in range(9):
        await worker.say(protocol.Log(lease.job, lease.fence, [(START_MS, "stdout", "")]))
    assert len((await lab.ada.get(f"/job/{lease.job}/logs"))["items"]) == 6


# --- buffered writes ------------------------------------------------------------------------------


async def test_writes_take_effect_with_the_outcome_and_in_order(lab: Lab) -> None:
    worker = await lab.worker()
    space = await lab.space("state")
    number = int(space)
    await lab.ada.post(f"/kv/{space}/put", {"key": "old", "value": 1})
    lease = await leased(lab, worker)
    lab.disk.gate.hold()
    await worker.finish(
        lease,
        "ok",
        KvPut(number, "a", b'{"x": 1}'),
        KvDelete(number, "old"),
        KvIncrement(number, "n", 5),
        KvIncrement(number, "n", -2),
        KvPut(number, "b", b"1"),
        KvDelete(number, "b"),
    )
    batch = lab.disk.submitted[-1]
    assert (Table.OUTCOMES, ids.key(lease.job)) in [(t, k) for t, k, _ in batch.puts]
    assert Table.KV_LOCAL in [table for table, _, _ in batch.puts], "one batch"
    lab.disk.gate.release()
    await settle()
    assert await value(lab, space, "a") == {"x": 1}
    assert await value(lab, space, "n") == 3
    assert (await lab.ada.post(f"/kv/{space}/list"))["items"] == ["a", "n"]


async def test_an_attempt_that_fails_or_is_refused_leaves_no_writes(lab: Lab) -> None:
    worker = await lab.worker()
    space = await lab.space("state")
    write = KvPut(int(space), "k", b"1")
    failed = await leased(lab, worker)
    await worker.finish(failed, None, write, error_code="function_error")
    cancelled = await leased(lab, worker)
    await lab.ada.post(f"/job/{cancelled.job}/cancel")
    await worker.finish(cancelled, None, write)
    assert (await lab.ada.post(f"/kv/{space}/list"))["items"] == []


async def test_writes_are_made_again_on_what_others_wrote_meanwhile(lab: Lab) -> None:
    worker = await lab.worker(slots=3)
    space = await lab.space("state")
    leases = [await leased(lab, worker) for _ in range(3)]
    lab.disk.pause()
    for lease in leases:  # All based on the same state.
        await worker.finish(lease, None, KvIncrement(int(space), "n", 1))
    lab.disk.resume()
    await settle()
    for lease in leases:
        assert (await shown(lab, lease))["state"] == "succeeded"
    assert await value(lab, space, "n") == 3


async def test_a_write_that_cannot_be_made_fails_the_job(lab: Lab) -> None:
    worker = await lab.worker()
    space = int(await lab.space("state"))
    lossy = int(await lab.space("lossy", "global"))
    await lab.ada.post(f"/kv/{space}/put", {"key": "text", "value": "x"})
    for write in (
        KvIncrement(space, "text", 1),
        KvIncrement(lossy, "n", 1),
        KvPut(12345, "k", b"1"),
        KvPut(space, "", b"1"),
        KvPut(space, "k", b"{"),
        KvPut(space, "k", b'"' + b"x" * (1 << 16) + b'"'),
        KvPut(space, "k", b"1", -1.0),
        KvPut(space, "k", b"1", float("nan")),
        KvPut(space, "k", b"1", 1e300),
        KvIncrement(space, "n", 1 << 62),
        BlobKeep(12345),
        BlobKeep(-1),
        protocol.BlobDelete(-1),
        protocol.BlobDelete((1 << 64) - 1),
        KvPut(-1, "k", b"1"),
        protocol.BlobDelete(12345),
    ):
        lease = await leased(lab, worker)
        await worker.finish(lease, "fine", KvPut(space, "first", b"1"), write)
        found = await shown(lab, lease)
        assert (found["state"], found["error"]["code"]) == ("failed", "write_refused"), write
        assert found["error"]["message"]
        assert found["history"][-1]["state"] == "failed"
    keys = await lab.ada.post(f"/kv/{space}/list")
    assert keys["items"] == ["text"]
    assert worker.ended == []


async def test_a_write_that_becomes_impossible_meanwhile_fails_the_job_too(lab: Lab) -> None:
    worker = await lab.worker()
    space = await lab.space("state")
    lease = await leased(lab, worker)
    lab.disk.pause()
    lab.nursery.start_soon(lab.ada.post, f"/kv/{space}/put", {"key": "n", "value": "text"})
    await settle()
    await worker.finish(lease, None, KvIncrement(int(space), "n", 1))  # Nothing is there yet.
    lab.disk.resume()
    await settle()
    found = await shown(lab, lease)
    assert (found["state"], found["error"]["code"]) == ("failed", "write_refused")
    assert found["history"][-1]["cause"] == "write_refused"
    assert await value(lab, space, "n") == "text"
    assert worker.all(protocol.Acked) == [protocol.Acked(held(lease))]


async def test_a_namespace_deleted_while_the_writes_are_on_their_way_refuses_them(
    lab: Lab,
) -> None:
    worker = await lab.worker()
    space = await lab.space("state")
    lease = await leased(lab, worker)
    lab.disk.pause()
    lab.nursery.start_soon(lab.ada.delete, f"/kv/{space}")
    await settle()
    await worker.finish(lease, None, KvPut(int(space), "k", b"1"))
    lab.disk.resume()
    await settle()
    found = await shown(lab, lease)
    assert (found["state"], found["error"]["code"]) == ("failed", "write_refused")
    assert lab.disk.snapshot()[Table.KV_LOCAL] == {}


# --- blobs ----------------------------------------------------------------------------------------


def blocks(lab: Lab) -> dict[bytes, bytes]:
    return lab.disk.snapshot()[Table.BLOCK_REFS]


async def test_a_blob_that_is_kept_is_its_projects(lab: Lab) -> None:
    worker = await lab.worker()
    lease = await leased(lab, worker)
    blob = await worker.upload(lease, b"bytes", media_type="text/plain", name="note")
    await lab.ada.get(f"/blob/{blob}", 404)
    await worker.finish(lease, {"blob": str(blob)}, BlobKeep(blob), BlobKeep(blob))
    found = await lab.ada.get(f"/blob/{blob}")
    assert (found["project"], found["name"], found["media_type"]) == (
        lab.project,
        "note",
        "text/plain",
    )
    assert (await lab.ada.http.get(f"/blob/{blob}/content")).content == b"bytes"
    usage = await lab.ada.post(f"/project/{lab.project}/usage")
    assert (usage["blobs"], usage["blob_bytes"]) == (1, 5), "kept once, though said twice"
    before = dict(blocks(lab))
    await lab.ada.delete(f"/blob/{blob}")
    assert len(blocks(lab)) == len(before) - 1


async def test_a_blob_that_is_not_kept_leaves_nothing(lab: Lab) -> None:
    worker = await lab.worker()
    before = lab.disk.snapshot()
    for end in ("finish", "fail", "cancel", "delete"):
        lease = await leased(lab, worker)
        blob = await worker.upload(lease, b"bytes of " + end.encode())
        if end == "finish":
            await worker.finish(lease)
        elif end == "fail":
            await worker.fail(lease)
        elif end == "cancel":
            await lab.ada.post(f"/job/{lease.job}/cancel")
        else:
            await worker.finish(lease, None, BlobKeep(blob), protocol.BlobDelete(blob))
            assert (await shown(lab, lease))["state"] == "succeeded"
        await lab.ada.get(f"/blob/{blob}", 404)
    after = lab.disk.snapshot()
    for table in (Table.BLOCKS, Table.BLOCK_REFS, Table.BLOBS, Table.USAGE):
        assert after[table] == before[table], table
    assert lab.node.dispatch._effects._blobs._drafts == {}  # type: ignore[attr-defined]


async def test_a_blob_of_the_project_is_deleted_with_the_outcome(lab: Lab) -> None:
    worker = await lab.worker()
    before = dict(blocks(lab))
    blob = (await lab.ada.blob(b"old", lab.project))["id"]
    lease = await leased(lab, worker)
    await worker.finish(lease, None, protocol.BlobDelete(int(blob)))
    await lab.ada.get(f"/blob/{blob}", 404)
    await settle()
    assert blocks(lab) == before


async def test_a_blob_over_the_quota_fails_the_job(lab: Lab) -> None:
    worker = await lab.worker()
    await lab.operator.post(f"/project/{lab.project}", {"quota": {"blob_bytes": 4}})
    lease = await leased(lab, worker)
    blob = await worker.upload(lease, b"bytes")
    await worker.finish(lease, None, BlobKeep(blob))
    assert (await shown(lab, lease))["error"]["code"] == "write_refused"


# --- a full disk ----------------------------------------------------------------------------------


async def test_an_outcome_that_does_not_fit_waits_and_nothing_is_lost(lab: Lab) -> None:
    worker = await lab.worker(slots=2)
    space = await lab.space("state")
    plain, writing = await leased(lab, worker), await leased(lab, worker)
    lab.disk.fill()
    await worker.finish(plain, "x" * 1000)
    await worker.finish(writing, "y" * 1000, KvIncrement(int(space), "n", 1))
    await trio.sleep(10)
    for lease in (plain, writing):
        assert (await shown(lab, lease))["finished_at"] is None
    assert worker.all(protocol.Acked) == []
    lab.disk.make_room()
    await lab.ada.post(f"/kv/{space}/put", {"key": "n", "value": 41})
    await trio.sleep(2)
    for lease in (plain, writing):
        assert (await shown(lab, lease))["state"] == "succeeded"
    assert await value(lab, space, "n") == 42
    assert sorted(held.job for acked in worker.all(protocol.Acked) for held in acked.attempts) == [
        plain.job,
        writing.job,
    ]
    lab.node.dispatch.scheduler.check()


async def test_a_write_that_waited_for_the_disk_does_not_undo_a_later_one(lab: Lab) -> None:
    worker = await lab.worker()
    for scope, fields in (("local", {}), ("global", {"mode": "cas"})):
        space = await lab.space(f"state-{scope}", scope, **fields)
        lease = await leased(lab, worker)
        lab.disk.fill()
        await worker.finish(lease, "x" * 1000, KvPut(int(space), "k", b'"job"'))
        lab.disk.make_room()
        between = await lab.ada.post(f"/kv/{space}/put", {"key": "k", "value": "user"})
        await trio.sleep(2)
        got = await lab.ada.post(f"/kv/{space}/get", {"key": "k"})
        assert int(got["version"]) > int(between["version"]), scope
        assert got["value"] == "job"
