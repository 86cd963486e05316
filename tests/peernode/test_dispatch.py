"""The driver of the scheduler: leases, retries, time-outs, and what is written down of them."""

from typing import Any

import pytest
import trio

from peernode import job_rows
from storage import ids
from storage.store import Table
from tests.peernode.nodes import START_MS, Lab, open_lab, reopen, settle
from worker import protocol


async def shown(lab: Lab, job: str) -> Any:
    return await lab.ada.get(f"/job/{job}")


def states(found: Any) -> list[str]:
    return [change["state"] for change in found["history"]]


async def test_a_lease_carries_what_the_worker_has_to_know(lab: Lab) -> None:
    blob = (await lab.ada.blob(b"model", lab.project))["id"]
    function = await lab.function(
        "full", entry="handler", limits={"run_s": 60, "memory_bytes": 1 << 28}
    )
    worker = await lab.worker()
    job = await lab.job(
        {"x": 1.5}, function, inputs={"model": {"blob": blob}}, limits={"run_s": 5, "total_s": 90}
    )
    await settle()
    program = worker.all(protocol.Program)[0]  # type: ignore[type-var]
    assert (program.program, program.entry, program.runtime) == (
        f"{function}.1",
        "handler",
        "python",
    )
    lease = worker.lease(job)
    assert (lease.attempt, lease.program) == (1, f"{function}.1")
    assert lease.input.replace(b" ", b"") == b'{"x":1.5}'
    assert lease.blobs == {"model": int(blob)}
    assert lease.limits == protocol.Limits(run_s=5.0, memory_bytes=1 << 28)
    assert (lease.isolation, lease.deadline_ms) == ("process", START_MS + 90_000)


async def test_no_job_runs_weaker_than_its_node_asks_for() -> None:
    async with open_lab(isolation="sandbox", jobs_per_process=7) as lab:
        function = await lab.function("own", isolation="process", limits={"jobs_per_process": 9})
        job = await lab.job(None, function, isolation="process", limits={"jobs_per_process": 8})
        weak = await lab.worker()
        await settle()
        (reason,) = (await shown(lab, job))["pending_reasons"]
        assert reason["worker"] == str(weak.id)
        assert reason["detail"] == "needs isolation sandbox or stronger, has process"
        strong = await lab.worker(levels=["process", "wasm"])
        await settle()
        lease = strong.lease(job)
        assert (lease.isolation, lease.limits.jobs_per_process) == ("wasm", 7)
        assert (await shown(lab, job))["isolation"] == "wasm", "as it ran"


async def test_a_job_keeps_the_version_it_was_handed_in_for(lab: Lab) -> None:
    job = await lab.job()
    await lab.ada.post(f"/function/{lab.echo}", {"source": "def handler(input): return 2"})
    newer = await lab.job()
    worker = await lab.worker(slots=2)
    await settle()
    assert worker.lease(job).program.endswith(".1")
    assert worker.lease(newer).program.endswith(".2")
    assert (await shown(lab, newer))["function_version"] == 2


async def test_a_job_whose_function_is_deleted_while_it_waits_is_cancelled(lab: Lab) -> None:
    job = await lab.job()
    await lab.ada.delete(f"/function/{lab.echo}")
    assert (await shown(lab, job))["state"] == "queued"
    worker = await lab.worker()
    await settle()
    found = await shown(lab, job)
    assert (found["state"], found["error"]["message"]) == (
        "cancelled",
        "the function was deleted",
    )
    assert worker.all(protocol.Lease) == []
    lab.node.dispatch.scheduler.check()


async def test_a_job_whose_function_is_deleted_while_it_runs_ends_as_it_would(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    await lab.ada.delete(f"/function/{lab.echo}")
    await worker.finish(worker.lease(job), 1)
    assert (await shown(lab, job))["state"] == "succeeded"


async def test_what_fails_is_tried_again_as_often_as_was_asked(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job(retry={"on": ["error"], "max_attempts": 3, "backoff_s": 2})
    waits = []
    for attempt in (1, 2, 3):
        await settle()
        lease = worker.lease(job)
        assert lease.attempt == attempt
        await worker.started(lease)
        await worker.fail(lease)
        if attempt < 3:
            assert (await shown(lab, job))["state"] == "queued"
            before = trio.current_time()
            while worker.lease(job) == lease:
                await trio.sleep(0.5)
                await worker.say(protocol.Beat())
            waits.append(round(trio.current_time() - before))
    found = await shown(lab, job)
    assert (found["state"], found["attempt"]) == ("failed", 3)
    assert waits == [2, 4]
    assert states(found) == [
        "queued", *["leased", "running", "queued"] * 2, "leased", "running", "failed"
    ]  # fmt: skip
    assert [change["cause"] for change in found["history"] if change["cause"]] == [
        "error",
        "error",
        "function_error",
    ]


async def test_without_being_asked_an_error_is_not_tried_again(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    await worker.fail(worker.lease(job))
    found = await shown(lab, job)
    assert (found["state"], found["attempt"]) == ("failed", 1)


async def test_two_workers_lost_while_it_ran_poison_a_job(lab: Lab) -> None:
    job = await lab.job(retry={"backoff_s": 0, "max_attempts": 9})
    lost = []
    for _ in range(2):
        worker = await lab.worker()
        await settle()
        await worker.started(worker.lease(job))
        lab.node.attachments.remove(worker.id)
        lost.append(str(worker.id))
    found = await shown(lab, job)
    assert (found["state"], found["error"]["code"]) == ("poisoned", "poisoned")
    for worker_id in lost:
        assert worker_id in found["error"]["message"]


@pytest.mark.parametrize(
    ("limits", "code"), [({"queue_s": 5}, "queue_timeout"), ({"total_s": 5}, "total_timeout")]
)
async def test_a_job_that_waits_too_long_expires(
    lab: Lab, limits: dict[str, float], code: str
) -> None:
    job = await lab.job(limits=limits)
    await trio.sleep(4)
    assert (await shown(lab, job))["state"] == "queued"
    await trio.sleep(2)
    found = await shown(lab, job)
    assert (found["state"], found["error"]["code"]) == ("expired", code)


async def test_a_deadline_set_while_the_clock_is_watched_for_a_later_one_is_kept(
    lab: Lab,
) -> None:
    late = await lab.job(limits={"queue_s": 100})
    await trio.sleep(1)
    soon = await lab.job(limits={"queue_s": 2})
    await trio.sleep(3)
    assert (await shown(lab, soon))["state"] == "expired"
    assert (await shown(lab, late))["state"] == "queued"
    await trio.sleep(100)
    assert (await shown(lab, late))["state"] == "expired"


async def test_a_function_that_reports_nothing_for_too_long_is_ended(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job(limits={"heartbeat_s": 5})
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    for _ in range(3):
        await trio.sleep(4)
        await worker.say(protocol.Progress(lease.job, lease.fence, None, "alive"))
    assert (await shown(lab, job))["state"] == "running"
    for _ in range(2):
        await trio.sleep(4)
        await worker.say(protocol.Beat())
    found = await shown(lab, job)
    assert found["error"]["code"] == "heartbeat_timeout"
    assert worker.all(protocol.Kill)


async def test_why_a_job_waits_is_said_for_every_worker(lab: Lab) -> None:
    alone = await lab.job()
    codes = {reason["code"] for reason in (await shown(lab, alone))["pending_reasons"]}
    assert codes
    worker = await lab.worker()
    await settle()
    greedy = await lab.job(requires={"cpu": 64, "arch": "riscv"})
    reasons = (await shown(lab, greedy))["pending_reasons"]
    assert {reason["worker"] for reason in reasons} >= {str(worker.id)}
    assert all(reason["detail"] for reason in reasons)
    assert (await shown(lab, alone))["pending_reasons"] == []


async def test_a_lease_is_written_once_its_job_is_known_to_run(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    key = ids.key(int(job))
    await lab.space("any")
    assert lab.disk.get(Table.LIVE, key) == job_rows.NO_LEASE
    lease = worker.lease(job)
    await worker.started(lease)
    await lab.space("other")  # It rides on the next commit.
    kept = job_rows.decode_lease(lab.disk.get(Table.LIVE, key) or b"")
    assert (kept.fence, kept.worker, kept.running) == (lease.fence, worker.id, True)
    await worker.finish(lease)
    assert lab.disk.get(Table.LIVE, key) is None


async def test_a_lost_attempt_is_written_down(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job(retry={"backoff_s": 0})
    await settle()
    await worker.started(worker.lease(job))
    lab.node.attachments.remove(worker.id)
    await lab.space("any")
    kept = job_rows.decode_lease(lab.disk.get(Table.LIVE, ids.key(int(job))) or b"")
    assert (kept.attempt, kept.worker, kept.lost_on) == (1, 0, [worker.id])
    async with reopen(lab) as again:
        found = await shown(again, job)
        assert (found["state"], found["attempt"]) == ("queued", 1)
        last = await again.worker()
        await settle()
        await last.started(last.lease(job))
        assert last.lease(job).attempt == 2
        again.node.attachments.remove(last.id)
        assert (await shown(again, job))["state"] == "poisoned"


async def test_many_jobs_run_on_few_slots_each_once(lab: Lab) -> None:
    worker = await lab.worker(slots=3)
    jobs = [await lab.job(number) for number in range(20)]
    done = 0
    while done < len(jobs):
        await settle()
        leases = worker.all(protocol.Lease)
        assert len(leases) > done
        for lease in leases[done:]:
            await worker.finish(lease, lease.job)
            done += 1
    for job in jobs:
        assert (await shown(lab, job))["result"] == int(job)
    assert len(worker.all(protocol.Lease)) == 20
    assert lab.node.dispatch.ended == 20
    lab.node.dispatch.scheduler.check()


async def test_a_node_is_idle_when_every_outcome_is_durable(lab: Lab) -> None:
    idle: list[bool] = []

    async def wait() -> None:
        await lab.node.dispatch.wait_idle()
        idle.append(True)

    await lab.node.dispatch.wait_idle()
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    for _ in range(2):
        lab.nursery.start_soon(wait)
    lab.disk.gate.hold()
    await worker.finish(worker.lease(job))
    assert idle == []
    lab.disk.gate.release()
    await settle()
    assert idle == [True, True]
