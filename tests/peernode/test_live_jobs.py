"""What is told of jobs while they are not over, and who is woken when."""

import gc
import json
from typing import Any

import trio

from peernode.classes.job import SSE_PING_S, _stream
from peernode.live_jobs import EVENTS_KEPT_MAX, LiveJob, LiveJobs
from storage.memory_store import MemoryStore
from tests.peernode.nodes import Lab, settle
from worker import protocol


def events(data: bytes) -> list[tuple[int, str, Any]]:
    """Return the (id, name, data) of server-sent events; comments are left out."""
    found = []
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "id" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


async def read(lab: Lab, job: str, after: int | None = None) -> list[tuple[int, str, Any]]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    answer = await lab.ada.http.get(f"/job/{job}/events", headers=headers)
    assert answer.headers["content-type"] == "text/event-stream"
    return events(answer.content)


class Follower:
    """Somebody who follows a job's events as they come."""

    def __init__(self, lab: Lab, job: str, after: int = 0) -> None:
        self.data = b""
        self.over = False
        self._stream = _stream(lab.node, int(job), after)
        lab.nursery.start_soon(self._run)

    async def _run(self) -> None:
        async for piece in self._stream:
            self.data += piece
        self.over = True

    @property
    def states(self) -> list[str]:
        return [
            data["state"] if name == "state" else f"{data['message']}"
            for _, name, data in events(self.data)
        ]


async def test_events_come_as_they_happen_and_end_with_the_job(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    follower = Follower(lab, job)
    await settle()
    assert follower.states == ["queued", "leased"]
    lease = worker.lease(job)
    await worker.started(lease)
    await worker.say(protocol.Progress(lease.job, lease.fence, 0.5, "half way"))
    assert follower.states == ["queued", "leased", "running", "half way"]
    assert not follower.over
    lab.disk.gate.hold()
    await worker.finish(lease)
    assert follower.states[-1] == "half way", "what is not durable is not told"
    lab.disk.gate.release()
    await settle()
    assert follower.states[-1] == "succeeded"
    assert follower.over
    numbers = [number for number, _, _ in events(follower.data)]
    assert numbers == sorted(set(numbers))


async def test_who_comes_back_goes_on_where_it_was(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    await worker.finish(lease)
    whole = await read(lab, job)
    assert [data["state"] for _, _, data in whole] == ["queued", "leased", "running", "succeeded"]
    for number, _, _ in whole:
        assert await read(lab, job, number) == [event for event in whole if event[0] > number]
    by_query = await lab.ada.http.get(f"/job/{job}/events?after={whole[1][0]}")
    assert events(by_query.content) == whole[2:]
    refused = await lab.ada.get(f"/job/{job}/events", 422, **{"Last-Event-ID": "x"})
    assert refused["field"] == "Last-Event-ID"


async def test_followers_that_come_at_any_time_end_up_with_the_same_events(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    followers = [Follower(lab, job)]
    await settle()
    lease = worker.lease(job)
    for step in range(5):
        await worker.say(protocol.Progress(lease.job, lease.fence, step / 10, str(step)))
        followers.append(Follower(lab, job))
        await settle()
    await worker.finish(lease)
    assert all(follower.over for follower in followers)
    (states,) = {tuple(follower.states) for follower in followers}
    assert states == ("queued", "leased", "running", "0", "1", "2", "3", "4", "succeeded")


async def test_each_progress_event_has_its_own_fraction(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    for fraction in (0.1, None, 0.3):
        await worker.say(protocol.Progress(lease.job, lease.fence, fraction, "x"))
    follower = Follower(lab, job)
    await settle()
    found = [data["fraction"] for _, name, data in events(follower.data) if name == "progress"]
    assert found == [0.1, None, 0.3]


async def test_a_silent_stream_is_kept_alive(lab: Lab) -> None:
    job = await lab.job()
    follower = Follower(lab, job)
    await settle()
    quiet = follower.data
    await trio.sleep(2 * SSE_PING_S + 1)
    assert follower.data[len(quiet) :] == b": still here\n\n" * 2
    await lab.ada.post(f"/job/{job}/cancel")
    await settle()
    assert follower.states == ["queued", "cancelled"]
    assert follower.over


async def test_a_reader_who_leaves_leaves_nothing_behind(lab: Lab) -> None:
    job = await lab.job()
    stream = _stream(lab.node, int(job), 0)
    assert b"queued" in await anext(stream)
    await stream.aclose()
    gc.collect()  # A generator that was only forgotten would warn, and warnings are errors.


async def test_of_many_reports_the_last_few_are_kept_and_every_state(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    for number in range(EVENTS_KEPT_MAX + 10):
        await worker.say(protocol.Progress(lease.job, lease.fence, None, str(number)))
    follower = Follower(lab, job)
    await settle()
    assert follower.states[:3] == ["queued", "leased", "running"]
    assert follower.states[3:] == [str(number) for number in range(10, EVENTS_KEPT_MAX + 10)]
    found = await lab.ada.get(f"/job/{job}")
    assert [change["state"] for change in found["history"]] == ["queued", "leased", "running"]


async def test_a_long_message_is_cut(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.say(protocol.Progress(lease.job, lease.fence, 0.5, "x" * 100_000))
    found = await lab.ada.get(f"/job/{job}")
    assert len(found["progress"]["message"]) <= 1024


async def test_every_change_has_its_own_revision(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    revisions = []

    async def look() -> None:
        answer = await lab.ada.http.get(f"/job/{job}")
        assert answer.headers["etag"] == f'"{answer.json()["revision"]}"'
        revisions.append(answer.json()["revision"])

    await look()
    await worker.started(lease)
    await look()
    await worker.say(protocol.Progress(lease.job, lease.fence, 0.5, ""))
    await look()
    await worker.finish(lease)
    await look()
    assert len(set(revisions)) == 4


async def test_jobs_are_counted_by_project(lab: Lab) -> None:
    project = int(lab.project)
    jobs = [await lab.job() for _ in range(3)]
    assert lab.node.live.unfinished(project) == 3
    for job in jobs:
        await lab.ada.post(f"/job/{job}/cancel")
    assert lab.node.live.unfinished(project) == 0
    assert lab.node.live._of_project == {}


async def test_waiting_for_a_job_ends_in_time(lab: Lab) -> None:
    job = await lab.job()
    before = trio.current_time()
    found = await lab.ada.get(f"/job/{job}?wait=7")
    assert (found["state"], trio.current_time() - before) == ("queued", 7)
    await lab.ada.get(f"/job/{job}?wait=-1", 422)
    await lab.ada.get(f"/job/{job}?wait=1e9", 422)


def test_letting_go_twice_is_letting_go_once() -> None:
    jobs = LiveJobs(MemoryStore())
    live = LiveJob(1, 2, 3, None)
    jobs.enter(live)
    ended = live.when_ended()
    jobs.leave(live)
    jobs.leave(live)
    assert ended.is_set()
    assert (len(jobs), jobs.unfinished(2), jobs.get(1)) == (0, 0, None)


def test_a_job_that_was_only_handed_in_has_one_event() -> None:
    live = LiveJob(1, 2, 3, None)
    assert [change.state for change in live.history()] == ["queued"]
    live.report(0.5, "")
    assert [change.state for change in live.history()] == ["queued"]
    assert live.sequence == 2
