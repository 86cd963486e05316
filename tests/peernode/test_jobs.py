"""Handing in jobs: accepted when durable, withdrawn when not, taken up again after a restart."""

from typing import Any

import pytest
import trio

from peernode import job_rows
from storage import ids
from storage.store import Table
from tests.peernode.nodes import ECHO, Lab, finished, held, reopen, settle
from worker import protocol


def rows_of_jobs(lab: Lab) -> list[dict[bytes, bytes]]:
    rows = lab.disk.snapshot()
    tables = (Table.JOBS, Table.LIVE, Table.OUTCOMES, Table.PROJECT_JOBS, Table.IDEMPOTENCY)
    return [rows[table] for table in tables]


class Posting:
    """A `POST /job` on its way."""

    def __init__(self, lab: Lab, path: str = "/job", body: Any = None, **headers: str) -> None:
        self.status = 0
        self.body: dict[str, Any] = {}
        self._lab = lab
        self._path = path
        self._body = body if body is not None else {"function": lab.echo, "input": 1}
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        lab.nursery.start_soon(self._run)

    async def _run(self) -> None:
        answer = await self._lab.ada.http.post(self._path, json=self._body, headers=self._headers)
        self.body, self.status = answer.json(), answer.status_code

    @property
    def answered(self) -> bool:
        return self.status != 0


# --- accepting ------------------------------------------------------------------------------------


async def test_202_comes_when_the_job_is_durable_and_not_before(lab: Lab) -> None:
    lab.disk.gate.hold()
    posting = Posting(lab)
    await settle()
    assert not posting.answered
    lab.disk.gate.release()
    await settle()
    assert posting.status == 202
    job = int(posting.body["id"])
    assert lab.disk.copy().get(Table.JOBS, ids.key(job)) is not None
    assert lab.disk.copy().get(Table.LIVE, ids.key(job)) == job_rows.NO_LEASE


async def test_a_worker_may_have_the_job_before_it_is_durable(lab: Lab) -> None:
    worker = await lab.worker()
    lab.disk.gate.hold()
    posting = Posting(lab)
    await settle()
    lease = worker.lease()
    assert not posting.answered
    await worker.finish(lease, 2)
    assert not posting.answered
    assert worker.all(protocol.Acked) == []
    lab.disk.gate.release()
    await settle()
    assert posting.status == 202
    assert worker.all(protocol.Acked) == [protocol.Acked(held(lease))]
    assert (await lab.ada.get(f"/job/{lease.job}"))["result"] == 2


async def test_a_job_that_does_not_fit_the_disk_never_was(lab: Lab) -> None:
    worker = await lab.worker(slots=2)
    before = rows_of_jobs(lab)
    lab.disk.pause()
    lab.disk.fill()
    posting = Posting(lab)
    await settle()
    lease = worker.lease()  # It was sent out early.
    lab.disk.resume()
    await settle()
    assert (posting.status, posting.body["code"]) == (507, "storage_full")
    assert worker.all(protocol.Kill) == [protocol.Kill(lease.job, lease.fence, "withdrawn")]
    await lab.ada.get(f"/job/{lease.job}", 404)
    await worker.started(lease)
    await worker.finish(lease, 3)
    assert worker.all(protocol.Refused)[-1] == protocol.Refused(lease.job, lease.fence)
    lab.disk.make_room()
    assert rows_of_jobs(lab) == before
    assert (len(lab.node.live), lab.node.jobs.accepted) == (0, 0)
    assert lab.node.live.unfinished(int(lab.project)) == 0
    lab.node.dispatch.scheduler.check()
    job = await lab.job()  # And its slot is free again.
    await settle()
    assert worker.lease(job)


async def test_a_job_that_ended_before_it_was_withdrawn_never_was_either(lab: Lab) -> None:
    worker = await lab.worker()
    before = rows_of_jobs(lab)
    lab.disk.pause()
    lab.disk.fill()
    posting = Posting(lab)
    await settle()
    await worker.finish(worker.lease(), 2)  # Its outcome does not fit either, for now.
    lab.disk.resume()
    await settle()
    assert posting.status == 507
    lab.disk.make_room()
    await trio.sleep(5)
    assert rows_of_jobs(lab) == before
    assert lab.node.dispatch.ended == 0
    lab.node.dispatch.scheduler.check()


async def test_a_caller_who_leaves_while_the_job_is_written_changes_nothing(lab: Lab) -> None:
    lab.disk.gate.hold()
    scope = trio.CancelScope()

    async def post() -> None:
        with scope:
            await lab.ada.http.post("/job", json={"function": lab.echo})

    lab.nursery.start_soon(post)
    await settle()
    scope.cancel()
    lab.disk.gate.release()
    await settle()
    (job,) = (await lab.ada.get("/job"))["items"]
    assert job["state"] == "queued"


async def test_a_node_that_stops_takes_no_jobs(lab: Lab) -> None:
    lab.node.jobs.draining = True
    refused = await lab.ada.post("/job", {"function": lab.echo}, 503)
    assert refused["code"] == "draining"


async def test_a_node_holds_a_bounded_number_of_jobs(autojump_clock: Any) -> None:
    from tests.peernode.nodes import open_lab

    async with open_lab(jobs_live_max=2) as lab:
        job = await lab.job()
        await lab.job()
        refused = await lab.ada.post("/job", {"function": lab.echo}, 503)
        assert (refused["code"], refused["limit"]) == ("overloaded", 2)
        await lab.ada.post(f"/job/{job}/cancel")
        await lab.job()


async def test_a_project_has_a_quota_of_unfinished_jobs(lab: Lab) -> None:
    await lab.operator.post(f"/project/{lab.project}", {"quota": {"jobs_unfinished": 1}})
    job = await lab.job()
    refused = await lab.ada.post("/job", {"function": lab.echo}, 429)
    assert (refused["code"], refused["limit"]) == ("quota_exceeded", 1)
    await lab.ada.post(f"/job/{job}/cancel")
    await lab.job()


@pytest.mark.parametrize("name", ["memory_bytes", "output_bytes"])
async def test_who_states_more_than_the_node_lets_a_job_have_is_told_the_most(
    name: str, autojump_clock: Any
) -> None:
    from tests.peernode.nodes import open_lab

    most = 32 << 20
    async with open_lab(job_memory_max_bytes=most, job_output_max_bytes=most) as lab:
        over, fits = {"limits": {name: most + 1}}, {"limits": {name: most}}
        code = {"project": lab.project, "runtime": "python", "source": ECHO}
        calls: list[tuple[str, dict[str, Any], int]] = [
            ("/job", {"function": lab.echo}, 202),
            (f"/function/{lab.echo}", {}, 200),
            (f"/function/{lab.echo}/call", {}, 202),
            ("/function", code | {"name": "another"}, 201),
        ]
        for path, body, status in calls:
            refused = await lab.ada.post(path, body | over, 422)
            found = refused["code"], refused["field"], refused["limit"]
            assert found == ("invalid_field", f"limits.{name}", most)
            await lab.ada.post(path, body | fits, status)


async def test_of_what_nobody_states_a_job_gets_no_more_than_the_node_lets_it_have(
    autojump_clock: Any,
) -> None:
    from tests.peernode.nodes import open_lab

    most = 32 << 20
    async with open_lab(job_memory_max_bytes=most, job_output_max_bytes=most) as lab:
        worker = await lab.worker()
        job = await lab.job()
        await settle()
        limits = worker.lease(job).limits
        assert (limits.memory_bytes, limits.output_bytes) == (most, most)


# --- idempotency ----------------------------------------------------------------------------------


async def test_the_same_key_and_body_is_one_job(lab: Lab) -> None:
    body = {"function": lab.echo, "input": 1}
    first = await lab.ada.post("/job", body, 202, Idempotency_Key="k")
    assert await lab.ada.post("/job", body, 202, Idempotency_Key="k") == first
    await lab.ada.post("/job", body | {"input": 2}, 422, Idempotency_Key="k")
    other = await lab.ada.post("/job", body, 202, Idempotency_Key="other")
    assert other["id"] != first["id"]
    async with reopen(lab) as again:
        found = await again.ada.post("/job", body, 202, Idempotency_Key="k")
        assert found["id"] == first["id"]


async def test_two_with_one_key_in_flight_are_one_job_that_runs_once(lab: Lab) -> None:
    worker = await lab.worker(slots=4)
    lab.disk.pause()
    first = Posting(lab, Idempotency_Key="k")
    await settle()
    second = Posting(lab, Idempotency_Key="k")
    await settle()
    assert len(worker.all(protocol.Lease)) == 1, "the second is not sent out early"
    lab.disk.resume()
    await settle()
    assert (first.status, second.status) == (202, 202)
    assert first.body["id"] == second.body["id"]
    assert len(worker.all(protocol.Lease)) == 1
    assert lab.node.jobs.accepted == 1
    assert len(lab.node.live) == 1


async def test_when_the_first_of_two_does_not_fit_the_second_is_not_told_of_it(lab: Lab) -> None:
    lab.disk.gate.hold()
    lab.disk.fill()
    first = Posting(lab, Idempotency_Key="k")
    await settle()
    lab.disk.make_room()
    second = Posting(lab, Idempotency_Key="k")
    await settle()
    lab.disk.gate.release()
    await settle()
    assert (first.status, second.status) == (507, 202)
    assert (await lab.ada.get(f"/job/{second.body['id']}"))["state"] == "queued"


async def test_one_key_at_two_functions_is_not_one_request(lab: Lab) -> None:
    other = await lab.function("other")
    path = "/function/{}/call"
    await lab.ada.post(path.format(lab.echo), {"input": 1}, 202, Idempotency_Key="k")
    refused = await lab.ada.post(path.format(other), {"input": 1}, 422, Idempotency_Key="k")
    assert refused["code"] == "idempotency_mismatch"


async def test_two_projects_have_their_own_keys(lab: Lab) -> None:
    project = (await lab.ada.post("/project", {"name": "second"}, 201))["id"]
    other = await lab.function("echo", project)
    one = await lab.ada.post("/job", {"function": lab.echo}, 202, Idempotency_Key="k")
    two = await lab.ada.post("/job", {"function": other}, 202, Idempotency_Key="k")
    assert one["id"] != two["id"]


# --- cancelling and priorities --------------------------------------------------------------------


async def test_cancel_answers_when_the_outcome_is_durable(lab: Lab) -> None:
    job = await lab.job()
    lab.disk.gate.hold()
    cancelling = Posting(lab, f"/job/{job}/cancel", {})
    await settle()
    assert not cancelling.answered
    assert (await lab.ada.get(f"/job/{job}"))["finished_at"] is None
    lab.disk.gate.release()
    await settle()
    assert (cancelling.status, cancelling.body["state"]) == (200, "cancelled")
    assert cancelling.body["error"]["code"] == "cancelled"
    again = await lab.ada.post(f"/job/{job}/cancel")
    assert again == cancelling.body, "asking twice is no error"


async def test_cancel_kills_what_runs_and_its_late_result_is_refused(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    shown = await lab.ada.post(f"/job/{job}/cancel")
    assert shown["state"] == "cancelled"
    assert shown["started_at"] is not None
    await settle()
    assert worker.all(protocol.Kill) == [protocol.Kill(lease.job, lease.fence, "cancelled")]
    await worker.finish(lease, 5)
    assert worker.all(protocol.Refused) == [protocol.Refused(lease.job, lease.fence)]
    assert await lab.ada.get(f"/job/{job}") == shown


async def test_a_job_that_ended_first_cannot_be_cancelled(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lab.disk.gate.hold()
    await worker.finish(worker.lease(job), 5)  # Decided, and not durable yet.
    cancelling = Posting(lab, f"/job/{job}/cancel", {})
    await settle()
    assert not cancelling.answered
    lab.disk.gate.release()
    await settle()
    assert (cancelling.status, cancelling.body["code"]) == (409, "conflict")
    assert (await lab.ada.get(f"/job/{job}"))["state"] == "succeeded"
    await lab.ada.post(f"/job/{job}/cancel", status=409)


async def test_of_cancel_and_result_the_first_decides(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lab.disk.gate.hold()
    cancelling = Posting(lab, f"/job/{job}/cancel", {})
    await settle()
    await worker.finish(worker.lease(job), 5)
    lab.disk.gate.release()
    await settle()
    assert cancelling.body["state"] == "cancelled"
    assert worker.all(protocol.Acked) == []


async def test_a_priority_lets_a_queued_job_go_first_and_survives_a_restart(lab: Lab) -> None:
    jobs = [await lab.job(number) for number in range(3)]
    shown = await lab.ada.post(f"/job/{jobs[2]}", {"priority": 5})
    assert shown["priority"] == 5
    await lab.ada.post(f"/job/{jobs[0]}", {"priority": -5})
    await lab.ada.post(f"/job/{jobs[0]}", {"priority": 1001}, 422)
    async with reopen(lab) as again:
        worker = await again.worker()
        order = []
        for _ in jobs:
            await settle()
            lease = worker.lease()
            order.append(str(lease.job))
            await worker.finish(lease)
        assert order == [jobs[2], jobs[1], jobs[0]]


async def test_only_a_queued_job_has_a_priority(lab: Lab) -> None:
    await lab.worker()
    job = await lab.job()
    await settle()
    await lab.ada.post(f"/job/{job}", {"priority": 5}, 409)
    await lab.ada.post(f"/job/{job}", {"state": "queued"}, 422)


# --- restarts -------------------------------------------------------------------------------------


async def test_queued_jobs_wait_again_in_their_order(lab: Lab) -> None:
    jobs = [await lab.job(number) for number in range(5)]
    async with reopen(lab) as again:
        assert len(again.node.live) == 5
        worker = await again.worker()
        for job in jobs:
            await settle()
            lease = worker.lease()
            assert str(lease.job) == job
            await worker.finish(lease)
        assert len(again.node.live) == 0
        again.node.dispatch.scheduler.check()


async def test_what_a_local_worker_ran_waits_again_at_once_and_counts_for_nothing(
    lab: Lab,
) -> None:
    from tests.peernode.nodes import Worker

    local = Worker(lab.node, lab.nursery, await lab.node.local_worker())
    await local.attach()
    job = await lab.job(retry={"max_attempts": 1})
    await settle()
    lease = local.lease(job)
    await local.started(lease)
    lab.clock.advance(1)
    await lab.job()  # The lease rides on the next commit.
    async with reopen(lab) as again:
        shown = await again.ada.get(f"/job/{job}")
        assert (shown["state"], shown["attempt"]) == ("queued", 0)
        worker = await again.worker()
        await settle()
        fresh = worker.lease(job)
        assert (fresh.attempt, fresh.fence > lease.fence) == (1, True)
        await worker.finish(fresh, "done")
        assert (await again.ada.get(f"/job/{job}"))["result"] == "done"


async def test_what_a_remote_worker_runs_goes_on_when_it_comes_back(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    await lab.job()
    async with reopen(lab) as again:
        assert (await again.ada.get(f"/job/{job}"))["state"] == "running"
        back = type(worker)(again.node, again.nursery, worker.id)
        await back.attach(*held(lease))
        assert back.all(protocol.Refused) == []
        assert back.all(protocol.Lease, job) == [], "it is not leased again"
        await back.finish(lease, "survived")
        shown = await again.ada.get(f"/job/{job}")
        assert (shown["state"], shown["result"], shown["attempt"]) == ("succeeded", "survived", 1)
        assert back.all(protocol.Acked) == [protocol.Acked(held(lease))]


async def test_a_lease_that_was_never_written_is_adopted_too(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    async with reopen(lab) as again:
        assert (await again.ada.get(f"/job/{job}"))["state"] == "queued"
        back = type(worker)(again.node, again.nursery, worker.id)
        await back.attach(*held(lease))
        assert back.all(protocol.Refused) == []
        await back.finish(lease, "survived")
        assert (await again.ada.get(f"/job/{job}"))["result"] == "survived"


async def test_a_remote_worker_that_does_not_come_back_loses_its_jobs_for_nothing(
    lab: Lab,
) -> None:
    worker = await lab.worker()
    job = await lab.job(retry={"max_attempts": 1})
    await settle()
    await worker.started(worker.lease(job))
    await lab.job()
    async with reopen(lab) as again:
        await trio.sleep(again.node.config.reconnect_s + 1)
        shown = await again.ada.get(f"/job/{job}")
        assert (shown["state"], shown["attempt"]) == ("queued", 0)
        assert [change["cause"] for change in shown["history"]][-1] == "node_restart"


async def test_an_outcome_that_was_durable_is_the_outcome(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    lab.disk.gate.hold()
    await worker.finish(lease, 7)
    async with reopen(lab) as again:  # The power fails after the commit, before anyone is told.
        shown = await again.ada.get(f"/job/{job}")
        assert (shown["state"], shown["result"]) == ("succeeded", 7)
        back = type(worker)(again.node, again.nursery, worker.id)
        await back.attach(*held(lease))
        assert back.all(protocol.Refused) == [protocol.Refused(lease.job, lease.fence)]
        assert await again.ada.get(f"/job/{job}") == shown


async def test_a_lease_without_a_request_is_swept_away_at_the_start(lab: Lab) -> None:
    disk = lab.disk.copy()
    disk._set(Table.LIVE, ids.key(12345), job_rows.NO_LEASE)
    async with reopen(lab, disk) as again:
        assert len(again.node.live) == 0
        await again.job()
        assert disk.get(Table.LIVE, ids.key(12345)) is None


async def test_a_job_whose_function_is_gone_can_still_be_read_and_ends(lab: Lab) -> None:
    function = await lab.function("brief")
    job = await lab.job(function=function)
    disk = lab.disk.copy()
    async with reopen(lab, disk) as again:
        await again.ada.delete(f"/function/{function}")
        copy = disk.copy()
    async with reopen(lab, copy) as third:
        await third.worker()
        await settle()
        shown = await third.ada.get(f"/job/{job}")
        assert shown["state"] == "cancelled"
        assert "deleted" in shown["error"]["message"]


@pytest.mark.parametrize("rounds", [3])
async def test_fences_grow_over_restarts(lab: Lab, rounds: int) -> None:
    job = await lab.job()
    fences: list[int] = []
    disk = lab.disk.copy()
    for _ in range(rounds):
        async with reopen(lab, disk) as again:
            worker = await again.worker()
            await settle()
            lease = worker.lease(job)
            fences.append(lease.fence)
            await worker.started(lease)
            await again.job()
            disk = again.disk.copy()
            # Next time its worker does not come back.
            for table in (Table.WORKERS,):
                for key, _ in disk.scan(table):
                    disk._set(table, key, None)
            lease_row = job_rows.decode_lease(disk.get(Table.LIVE, ids.key(int(job))) or b"")
            assert lease_row.fence == lease.fence
            waiting = lease_row._replace(worker=0, running=False, attempt=0)
            disk._set(Table.LIVE, ids.key(int(job)), job_rows.encode(waiting))
    assert fences == sorted(set(fences))


async def test_a_restored_job_follows_its_numbered_events(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    for _ in range(5):
        await worker.say(protocol.Progress(lease.job, lease.fence, 0.1, "more"))
    last = lab.node.live[int(job)].sequence
    await lab.job()
    async with reopen(lab) as again:
        back = type(worker)(again.node, again.nursery, worker.id)
        await back.attach(*held(lease))
        await back.say(finished(lease, 1))
        events = [change async for change in again.node.live.changes(int(job), last)]
        assert events[-1].state == "succeeded"
        assert all(event.sequence > last for event in events)


async def test_a_job_that_never_was_takes_no_other_with_it(lab: Lab) -> None:
    worker = await lab.worker(slots=2)
    kept = await lab.job()
    await settle()
    lab.disk.pause()
    posting = Posting(lab)
    await settle()
    early = worker.lease()
    assert str(early.job) != kept
    await worker.say(finished(early, 1), finished(worker.lease(kept), 2))
    lab.disk.fill()
    lab.disk.resume()
    await settle()
    assert posting.status == 507
    lab.disk.make_room()
    await trio.sleep(3)
    assert (await lab.ada.get(f"/job/{kept}"))["result"] == 2
    assert worker.all(protocol.Refused) == [protocol.Refused(early.job, early.fence)]
    assert set(lab.disk.snapshot()[Table.OUTCOMES]) == {ids.key(int(kept))}
