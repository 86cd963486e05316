"""Links of workers: taken, replaced, refused and broken, without harm to anything else."""

from typing import Any

import msgspec
import pytest
import trio

from peernode.attachments import CALLS_ACTIVE_MAX, HELLO_TIMEOUT_S
from peernode.timestamps import rfc3339
from storage.codec import dump_message
from tests.peernode.nodes import OFFER, Lab, held, reopen, settle
from worker import protocol
from worker.protocol import BATCH_LENGTH_MAX, MESSAGE_SIZE_MAX_BYTES


async def state(lab: Lab, worker: int) -> Any:
    return await lab.operator.get(f"/worker/{worker}")


async def test_a_worker_is_welcomed_and_shown(lab: Lab) -> None:
    worker = await lab.worker(slots=3, labels={"room": "3"})
    assert worker.heard == [
        protocol.Welcome(protocol.VERSION, worker.id, lab.node.config.lease_s / 3)
    ]
    found = await state(lab, worker.id)
    assert (found["state"], found["leased"], found["running"]) == ("attached", 0, 0)
    assert found["offer"]["slots"] == 3
    await worker.detach()
    assert (await state(lab, worker.id))["state"] == "detached"
    assert worker.ended == [""]


async def test_the_operators_labels_win_over_the_workers_own(lab: Lab) -> None:
    worker = await lab.worker(labels={"room": "3"}, attach=False)
    worker.offer = msgspec.structs.replace(OFFER, labels={"room": "1", "colour": "red"})
    await worker.attach()
    offer = lab.node.attachments.offer(worker.id)
    assert offer is not None
    assert offer.labels == {"room": "3", "colour": "red"}
    red = await lab.job(requires={"labels": {"room": "3", "colour": "red"}})
    blue = await lab.job(requires={"labels": {"colour": "blue"}})
    await settle()
    assert worker.lease(red)
    found = await lab.ada.get(f"/job/{blue}")
    assert found["state"] == "queued"
    assert found["pending_reasons"]


@pytest.mark.parametrize(
    "first",
    [protocol.Beat(), protocol.Returned(1, 1), protocol.Call(1, 1, 1, "kv.open", {"name": "a"})],
)
async def test_who_does_not_say_hello_first_is_not_taken(lab: Lab, first: protocol.Message) -> None:
    worker = await lab.worker(attach=False)
    await worker.attach(hello=first)
    assert worker.ended == ["LinkBroken"]
    assert worker.heard == []
    assert (await state(lab, worker.id))["state"] == "detached"


async def test_who_says_nothing_is_not_waited_for(lab: Lab) -> None:
    worker = await lab.worker(attach=False)
    sending, receiving = trio.open_memory_channel[bytes](1)
    lab.nursery.start_soon(worker._serve, receiving)
    await trio.sleep(HELLO_TIMEOUT_S - 1)
    assert worker.ended == []
    await trio.sleep(2)
    assert worker.ended == ["TooSlowError"]
    sending.close()


async def test_another_version_is_refused_by_name(lab: Lab) -> None:
    worker = await lab.worker(attach=False)
    await worker.attach(hello=protocol.Hello(99, OFFER, []))
    (reason,) = worker.ended
    assert "99" in reason
    assert str(protocol.VERSION) in reason
    assert worker.heard == []


MEASURED = {
    "slots": 2,
    "cores": 2,
    "memory_bytes": 1 << 30,
    "arch": "x86_64",
    "runtimes": ["python"],
    "isolation": ["process"],
}


def hello(**offer: object) -> bytes:
    return dump_message([[10, protocol.VERSION, MEASURED | offer, []]])


async def test_all_that_a_worker_measured_is_shown(lab: Lab) -> None:
    worker = await lab.worker(attach=False)
    worker.offer = msgspec.structs.replace(
        OFFER,
        accelerators=[protocol.Accelerator(kind="cuda", name="H200", memory_bytes=1 << 37)],
        backends=["CUDAExecutionProvider", "CPUExecutionProvider"],
        pythons=["3.11", "3.13"],
        wasm_engine="wasmtime 30.0.0",
        processor="AMD EPYC",
        system="Linux",
        libc="glibc 2.36",
        speed_rounds_per_s=7500,
    )
    await worker.attach()
    offer = (await state(lab, worker.id))["offer"]
    assert offer == msgspec.to_builtins(worker.offer)
    assert offer["accelerators"] == [{"kind": "cuda", "name": "H200", "memory_bytes": 1 << 37}]


async def test_an_offer_may_say_more_than_this_node_knows(lab: Lab) -> None:
    worker = await lab.worker(attach=False)
    more = {"kind": "cuda", "name": "x", "memory_bytes": 1, "clock_hz": 7}
    await worker.attach(hello=hello(accelerators=[more], bogomips=5000))
    assert worker.ended == []
    offer = lab.node.attachments.offer(worker.id)
    assert offer is not None
    assert offer.accelerators == [protocol.Accelerator(kind="cuda", name="x", memory_bytes=1)]


@pytest.mark.parametrize(
    "offer",
    [
        {"slots": -1},
        {"slots": 4097},
        {"slots": 1.5},
        {"memory_bytes": -1},
        {"memory_bytes": 1 << 61},
        {"arch": "x" * 257},
        {"labels": {"a": 1}},
        {"labels": {str(n): "" for n in range(65)}},
        {"accelerators": [{"name": "without a kind"}]},
        {"accelerators": [{"kind": "cuda", "memory_bytes": "much"}]},
        {"accelerators": [{"kind": "cuda", "memory_bytes": -1}]},
        {"accelerators": [{"kind": "cuda"}] * 65},
        {"runtimes": ["python"] * 65},
        {"speed_rounds_per_s": -1},
    ],
    ids=str,
)
async def test_an_offer_that_makes_no_sense_is_not_taken(lab: Lab, offer: dict[str, Any]) -> None:
    worker = await lab.worker(attach=False)
    await worker.attach(hello=hello(**offer))
    assert worker.ended == ["LinkBroken"]
    assert (await state(lab, worker.id))["state"] == "detached"
    lab.node.dispatch.scheduler.check()


GARBAGE = [
    b"",
    b"garbage",
    b"\xff" * 100,
    dump_message([[99]]),
    dump_message([[15, 1]]),
    dump_message([[11, "more"]]),
    dump_message([11]),
    dump_message({"a": 1}),
    dump_message([[11]] * (BATCH_LENGTH_MAX + 1)),
    bytes(MESSAGE_SIZE_MAX_BYTES + 1),
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_ends_its_link_and_nothing_else(lab: Lab, data: bytes) -> None:
    good, bad = await lab.worker(), await lab.worker()
    await bad.send(data)
    assert bad.ended == ["LinkBroken"]
    assert (await state(lab, bad.id))["state"] == "detached"
    job = await lab.job()
    await settle()
    await good.finish(good.lease(job), 1)
    assert (await lab.ada.get(f"/job/{job}"))["state"] == "succeeded"
    await bad.attach()
    assert (await state(lab, bad.id))["state"] == "attached"
    lab.node.dispatch.scheduler.check()


async def test_an_empty_batch_is_a_beat(lab: Lab) -> None:
    worker = await lab.worker()
    await worker.send(dump_message([]))
    assert worker.ended == []


@pytest.mark.parametrize(
    ("ran", "fallback_from"),
    [
        ("CUDAExecutionProvider", None),
        ("CPUExecutionProvider", "CUDAExecutionProvider"),
        ("", None),
    ],
)
async def test_a_job_says_which_backend_another_stood_in_for(
    lab: Lab, ran: str, fallback_from: str | None
) -> None:
    worker = await lab.worker()
    order = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    worker.offer = msgspec.structs.replace(worker.offer, backends=order)
    await worker.attach()
    job = await lab.job()
    await settle()
    await worker.finish(worker.lease(job), 1, backend=ran)
    found = await lab.ada.get(f"/job/{job}")
    assert (found["backend"], found["backend_fallback_from"]) == (ran or None, fallback_from)


async def test_a_new_link_takes_over_and_keeps_what_its_worker_holds(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    old = worker._to_node
    await worker.attach(*held(lease))
    assert worker.ended == ["another link of this worker took over"]
    assert (await state(lab, worker.id))["state"] == "attached"
    assert old is not None
    with pytest.raises(trio.BrokenResourceError):
        await old.send(b"")
    await worker.finish(lease, 1)
    found = await lab.ada.get(f"/job/{job}")
    assert (found["state"], found["attempt"]) == ("succeeded", 1)


async def test_what_a_new_link_does_not_hold_is_lost(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job(retry={"backoff_s": 0})
    await settle()
    first = worker.lease(job)
    await worker.started(first)
    await worker.attach()
    again = worker.lease(job)
    assert (again.fence > first.fence, again.attempt) == (True, 2)
    await worker.finish(first, "late")
    assert worker.all(protocol.Refused) == [protocol.Refused(first.job, first.fence)]
    await worker.finish(again, "right")
    assert (await lab.ada.get(f"/job/{job}"))["result"] == "right"


async def test_a_worker_that_breaks_off_keeps_its_job_for_a_while(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    await worker.detach()
    await trio.sleep(lab.node.config.reconnect_s - 1)
    assert (await lab.ada.get(f"/job/{job}"))["state"] == "running"
    await worker.attach(*held(lease))
    assert worker.all(protocol.Refused) == []
    await worker.detach()
    await trio.sleep(lab.node.config.reconnect_s + 2)
    found = await lab.ada.get(f"/job/{job}")
    assert (found["state"], found["history"][-1]["cause"]) == ("queued", "lost")
    await worker.attach(*held(lease))
    assert worker.all(protocol.Refused) == [protocol.Refused(lease.job, lease.fence)]


async def test_a_silent_worker_loses_its_leases_and_a_beating_one_does_not(lab: Lab) -> None:
    silent, beating = await lab.worker(), await lab.worker()
    jobs = [await lab.job(), await lab.job()]
    await settle()
    for worker in (silent, beating):
        await worker.started(worker.lease())
    lease = silent.lease()
    for _ in range(8):
        await trio.sleep(5)
        await beating.say(protocol.Beat())
    states = {job: (await lab.ada.get(f"/job/{job}"))["state"] for job in jobs}
    assert states.pop(str(lease.job)) == "queued"
    assert list(states.values()) == ["running"]
    assert silent.all(protocol.Kill) == [protocol.Kill(lease.job, lease.fence, "lease_lost")]


async def test_a_drained_worker_gives_back_and_gets_nothing(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    shown = await lab.operator.post(f"/worker/{worker.id}/drain")
    assert shown["state"] == "draining"
    await settle()
    assert worker.all(protocol.Recall) == [protocol.Recall(lease.job, lease.fence)]
    await worker.say(protocol.Returned(lease.job, lease.fence))
    await lab.job()
    await settle()
    assert len(worker.all(protocol.Lease)) == 1
    found = await lab.ada.get(f"/job/{job}")
    assert (found["state"], found["attempt"]) == ("queued", 0)
    await lab.operator.post(f"/worker/{worker.id}/resume")
    await settle()
    assert worker.lease(job).fence > lease.fence


async def test_a_drained_worker_stays_drained_over_restarts_and_reconnects(lab: Lab) -> None:
    worker = await lab.worker()
    await lab.operator.post(f"/worker/{worker.id}/drain")
    await worker.detach()
    await lab.job()
    await worker.attach()
    assert worker.all(protocol.Lease) == []
    async with reopen(lab) as again:
        back = type(worker)(again.node, again.nursery, worker.id)
        await back.attach()
        assert back.all(protocol.Lease) == []
        assert (await state(again, worker.id))["state"] == "drained"
        await again.operator.post(f"/worker/{worker.id}/resume")
        await settle()
        assert len(back.all(protocol.Lease)) == 1


async def test_the_states_of_a_worker_are_told(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    path = f"/worker/{worker.id}"
    told = [(await lab.operator.post(f"{path}/cordon"))["state"]]
    draining = await lab.operator.post(f"{path}/drain", {"deadline_s": 90})
    told.append(draining["state"])
    assert draining["drain_until"] == rfc3339(lab.clock.now_ms + 90_000)
    await worker.finish(lease)
    told.append((await state(lab, worker.id))["state"])
    resumed = await lab.operator.post(f"{path}/resume")
    told.append(resumed["state"])
    assert (resumed["cordoned"], resumed["drain_until"]) == (False, None)
    await lab.operator.post(f"{path}/cordon")
    await worker.detach()
    gone = await state(lab, worker.id)
    assert (gone["state"], gone["cordoned"]) == ("detached", True)
    assert told == ["cordoned", "draining", "drained", "attached"]
    await lab.operator.post(f"{path}/drain", {"deadline_s": -1}, 422)
    await lab.ada.post(f"{path}/cordon", status=404)


async def test_a_deadline_requeues_what_still_runs_and_counts_nothing(lab: Lab) -> None:
    worker, other = await lab.worker(), await lab.worker(attach=False)
    job = await lab.job(retry={"max_attempts": 1})
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    await lab.operator.post(f"/worker/{worker.id}/drain", {"deadline_s": 20})
    await other.attach()
    await trio.sleep(19)
    assert worker.all(protocol.Kill) == []
    await trio.sleep(2)
    assert worker.all(protocol.Kill) == [protocol.Kill(lease.job, lease.fence, "drained")]
    again = other.lease(job)
    assert again.attempt == 1
    await worker.finish(lease, "late")
    assert worker.all(protocol.Refused) == [protocol.Refused(lease.job, lease.fence)]
    await other.finish(again, "right")
    found = await lab.ada.get(f"/job/{job}")
    assert (found["result"], found["attempt"], found["worker"]) == ("right", 1, str(other.id))
    assert [one["cause"] for one in found["history"]].count("drained") == 1


async def test_a_deadline_goes_on_over_a_restart_with_a_moment_to_hand_in(lab: Lab) -> None:
    worker = await lab.worker(slots=2)
    late, done = await lab.job(), await lab.job()
    await settle()
    leases = [worker.lease(late), worker.lease(done)]
    for lease in leases:
        await worker.started(lease)
    await lab.operator.post(f"/worker/{worker.id}/drain", {"deadline_s": 20})
    lab.clock.advance(60)
    async with reopen(lab) as again:
        back = type(worker)(again.node, again.nursery, worker.id, 2)
        await back.attach(*(one for lease in leases for one in held(lease)))
        assert (await state(again, worker.id))["state"] == "draining"
        await back.finish(leases[1], "in time")
        await trio.sleep(2)
        assert (await state(again, worker.id))["state"] == "drained"
        assert (await again.ada.get(f"/job/{done}"))["result"] == "in time"
        waiting = await again.ada.get(f"/job/{late}")
        assert (waiting["state"], waiting["attempt"]) == ("queued", 0)
        assert [one["code"] for one in waiting["pending_reasons"]] == ["draining"]


async def test_new_labels_make_the_worker_attach_anew(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await lab.operator.post(f"/worker/{worker.id}", {"labels": {"room": "4"}})
    await settle()
    assert worker.ended == ["its labels changed"]
    await worker.attach(*held(lease))
    await worker.finish(lease, 1)
    assert (await lab.ada.get(f"/job/{job}"))["state"] == "succeeded"


async def test_an_evicted_workers_jobs_go_elsewhere(lab: Lab) -> None:
    evicted, other = await lab.worker(), await lab.worker(attach=False)
    job = await lab.job(retry={"backoff_s": 0})
    await settle()
    await evicted.started(evicted.lease(job))
    await other.attach()
    await lab.operator.delete(f"/worker/{evicted.id}")
    await settle()
    assert other.lease(job).attempt == 1, "an operator's decision is not the job's fault"
    lab.node.dispatch.scheduler.check()


async def test_progress_of_a_current_attempt_only(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.say(protocol.Progress(lease.job, lease.fence, 0.5, "half way"))
    await worker.say(protocol.Progress(lease.job, lease.fence - 1, 0.9, "stale"))
    found = await lab.ada.get(f"/job/{job}")
    assert found["progress"] == {"fraction": 0.5, "message": "half way"}
    assert found["state"] == "running", "who reports progress runs"
    await worker.finish(lease)
    found = await lab.ada.get(f"/job/{job}")
    assert found["progress"] == {"fraction": 0.5, "message": "half way"}


async def test_a_program_is_sent_once_a_link_and_anew_when_it_changes(lab: Lab) -> None:
    worker = await lab.worker()

    async def run() -> int:
        job = await lab.job()
        await settle()
        await worker.finish(worker.lease(job))
        return len(worker.all(protocol.Program))  # type: ignore[type-var]

    assert [await run() for _ in range(3)] == [1, 1, 1]
    await lab.ada.post(f"/project/{lab.project}", {"egress": ["example.org"]})
    assert await run() == 2
    assert worker.all(protocol.Program)[-1].egress == ["example.org"]  # type: ignore[type-var]
    await worker.attach()
    assert await run() == 3
    programs = [type(message).__name__ for message in worker.heard if not isinstance(
        message, protocol.Acked | protocol.Welcome)]  # fmt: skip
    assert programs[0] == "Program", "before the lease that names it"


async def test_a_flood_of_calls_is_answered_some_at_a_time(lab: Lab) -> None:
    worker = await lab.worker()
    space = int(await lab.space("state"))
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    lab.disk.gate.hold()
    number = CALLS_ACTIVE_MAX + 50
    arguments = {"space": space, "key": "n", "by": 1}
    await worker.say(
        *(
            protocol.Call(call, lease.job, lease.fence, "kv.increment", arguments)
            for call in range(number)
        )
    )
    assert worker.all(protocol.Reply) == []  # type: ignore[type-var]
    lab.disk.gate.release()
    await settle()
    replies = worker.all(protocol.Reply)  # type: ignore[type-var]
    assert sorted(reply.answer["value"] for reply in replies) == list(range(1, number + 1))


async def test_a_full_disk_is_a_calls_answer_and_the_link_goes_on(lab: Lab) -> None:
    worker = await lab.worker()
    space = int(await lab.space("state"))
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    lab.disk.fill()
    put = {"space": space, "key": "k", "value": b"1", "ttl_s": None}
    assert await worker.refused(lease, "kv.put", **put) == "storage_full"
    lab.disk.make_room()
    await worker.ask(lease, "kv.put", **put)


async def test_a_worker_that_cannot_be_written_to_is_detached(lab: Lab) -> None:
    worker = await lab.worker(attach=False)
    to_node, from_worker = trio.open_memory_channel[bytes](4)
    reasons: list[str] = []

    async def receive() -> bytes | None:
        return await from_worker.receive()

    async def send(data: bytes) -> None:
        raise ConnectionResetError("gone")

    async def serve() -> None:
        reasons.append(await lab.node.attachments.serve(worker.id, receive, send, {}))

    lab.nursery.start_soon(serve)
    hello = protocol.Hello(protocol.VERSION, OFFER, [])
    await to_node.send(dump_message([msgspec.to_builtins(hello, builtin_types=(bytes,))]))
    await settle()
    assert reasons == ["the link broke"]
    assert (await state(lab, worker.id))["state"] == "detached"


async def test_a_real_agent_and_the_node_agree_on_the_protocol(lab: Lab, tmp_path: Any) -> None:
    from storage.clock import SystemClock
    from worker.agent import Config, run_agent
    from worker.link import open_pair

    worker = await lab.worker(attach=False)
    worker_end, node_end = open_pair()

    async def receive() -> bytes | None:
        try:
            return await node_end._receiving.receive()
        except trio.EndOfChannel:
            return None

    async def connect() -> Any:
        return worker_end

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lab.node.attachments.serve, worker.id, receive, node_end._sending.send, {}
        )
        config = Config(directory=tmp_path)

        async def agent() -> None:
            await run_agent(connect, OFFER, config, clock=SystemClock())

        nursery.start_soon(agent)
        await settle()
        assert (await state(lab, worker.id))["state"] == "attached"
        nursery.cancel_scope.cancel()
