"""The agent against a node that keeps the protocol: leases, links that break, orders to stop."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from storage.clock import SystemClock
from tests.worker.fake_node import ECHO, FakeNode, Space, make_offer, open_worker
from tests.worker.processes import call_it, gone, named
from tests.worker.websocket_node import TOKEN, WebSocketNodeEnd, open_websocket_node
from worker.agent import Config, run_agent
from worker.link import LinkClosed, LinkRefused, MemoryLink, open_pair
from worker.protocol import (
    VERSION,
    Acked,
    Beat,
    Drain,
    Finished,
    Held,
    Hello,
    Isolation,
    Kill,
    Lease,
    Limits,
    Progress,
    Recall,
    Refused,
    Returned,
    Started,
    Welcome,
)

pytestmark = pytest.mark.slow

GATED = "at the gate"
GATE = f"""
import edge, os
ME = os.urandom(8).hex()
def handler(input):
    edge.log(ME)
    {call_it(GATED)}
    return edge.kv("gate").get("open")
"""
"""Runs until the node answers."""


async def lease_gate(node: FakeNode, **fields: object) -> int:
    """Lease a job that waits for the node, and return its number once it does."""
    node.spaces.setdefault("gate", Space())
    node.answers = False
    messages = node.lease(GATE, **fields)  # type: ignore[arg-type]
    job = node.number
    await node.say(*messages)
    await node.until(lambda: any(call.job == job for call in node.unanswered))
    return job


async def open_gate(node: FakeNode) -> None:
    node.answers = True
    waiting, node.unanswered = node.unanswered, []
    for call in waiting:
        await node.answer(call)


async def test_it_says_hello_with_its_offer(tmp_path: Path) -> None:
    async with open_worker(tmp_path, slots=3) as (node, _):
        assert node.hello == Hello(VERSION, make_offer(3), [])


async def test_leases_run_in_their_order(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        messages = [m for number in range(50) for m in node.lease(ECHO, number)]
        await node.say(*messages)
        await node.finished(node.number)
        payloads = [int(finished.payload) for finished in node.said(Finished)]
        assert payloads == list(range(50))


async def test_its_directory_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_worker(Path("here")) as (node, _):
        await node.say(*node.lease(ECHO, 1))
        await node.finished(node.number)
        assert [finished.payload for finished in node.said(Finished)] == [b"1"]


async def test_no_more_run_at_once_than_it_has_slots(tmp_path: Path) -> None:
    async with open_worker(tmp_path, slots=2) as (node, _):
        first = await lease_gate(node)
        second = await lease_gate(node)
        await node.say(*node.lease(ECHO, "third"))
        third = node.number
        await node.until_said(Started, first)
        await node.until_said(Started, second)
        assert node.said(Finished) == []
        await open_gate(node)
        for job in (first, second, third):
            assert (await node.finished(job)).error_code is None


async def test_a_recalled_lease_comes_back_if_it_has_not_started(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        running = await lease_gate(node)
        await node.say(*node.lease(ECHO))
        waiting = node.number
        await node.say(Recall(running, running), Recall(waiting, waiting), Recall(9, 9))
        assert await node.until_said(Returned, waiting) == Returned(waiting, waiting)
        await open_gate(node)
        await node.finished(running)
        assert node.said(Returned, running) == []
        assert node.said(Finished, waiting) == []


async def test_drain_gives_back_what_waits_and_ends_what_runs(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        running = await lease_gate(node)
        for _ in range(3):
            await node.say(*node.lease(ECHO))
        await node.say(Drain())
        await node.until(lambda: len(node.said(Returned)) == 3)
        assert [m.job for m in node.said(Returned)] == [running + 1, running + 2, running + 3]
        await open_gate(node)
        assert (await node.finished(running)).error_code is None


@pytest.mark.parametrize("stop", [lambda job: Kill(job, job, "x"), lambda job: Refused(job, job)])
async def test_a_stopped_job_is_dead_and_silent(
    tmp_path: Path, level: Isolation, stop: object
) -> None:
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        job = await lease_gate(node)
        (pid,) = named(GATED)
        await node.say(stop(job))  # type: ignore[operator]
        await gone(pid)
        await node.run(ECHO)
        assert node.said(Finished, job) == []


async def test_orders_about_another_attempt_change_nothing(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        job = await lease_gate(node)
        await node.say(Kill(job, 1, "stale"), Refused(job, 2), Recall(job, 3), Kill(1, 1, ""))
        await open_gate(node)
        assert (await node.finished(job)).error_code is None


async def test_a_newer_attempt_replaces_the_older(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        job = await lease_gate(node)
        await node.say(*node.lease(ECHO, "new", job=job, fence=job + 100, attempt=2))
        finished = await node.finished(job)
        assert (finished.fence, finished.payload) == (job + 100, b'"new"')
        assert len(node.said(Finished, job)) == 1


async def test_a_lease_that_comes_twice_runs_once(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        job = await lease_gate(node)
        lease = Lease(
            job,
            job,
            1,
            "1.1",
            b"0",
            {},
            Limits(),
            "process",
            None,
        )
        await node.say(lease)
        await open_gate(node)
        await node.finished(job)
        await node.run(ECHO)
        assert len(node.said(Finished, job)) == 1


async def test_a_job_it_cannot_run_fails_at_once(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        finished = await node.run(ECHO, isolation="sandbox")
        assert finished.error_code == "setup_failed"
        assert b"sandbox" in finished.payload


async def test_an_outcome_is_kept_until_it_is_acknowledged(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, connector):
        node.acknowledge = False
        first = await node.run(ECHO, "kept")
        await connector.cut()
        await node.until(lambda: node.hellos == 2)
        assert node.hello is not None
        assert node.hello.held == [Held(first.job, first.fence)]
        await node.until(lambda: len(node.said(Finished, first.job)) == 2)
        assert node.said(Finished, first.job) == [first, first]
        await node.say(Acked([Held(first.job, first.fence)]))
        await node.run(ECHO)
        await connector.cut()
        await node.until(lambda: node.hellos == 3)
        assert [held.job for held in node.hello.held] == [node.number]


async def test_jobs_run_on_while_the_link_is_down(tmp_path: Path) -> None:
    source = (
        "import edge\ndef handler(x):\n    print(x)\n    edge.progress(1.0, 'all')\n    return x\n"
    )
    async with open_worker(tmp_path) as (node, connector):
        running = await lease_gate(node)
        await node.say(*node.lease(source, "later"))
        later = node.number
        connector.allowed = trio.Event()
        await connector.cut()
        node.answers = True
        connector.allowed.set()
        await node.until(lambda: node.hellos == 2)
        assert node.hello is not None
        assert node.hello.held == [Held(running, running), Held(later, later)]
        # The call that had no answer is made again, and so the first job ends, and the second.
        assert (await node.finished(running)).error_code is None
        assert (await node.finished(later)).payload == b'"later"'
        assert node.lines(later) == [("stdout", "later")]
        assert [(p.fraction, p.message) for p in node.said(Progress, later)] == [(1.0, "all")]


async def test_a_job_ends_while_nobody_listens(tmp_path: Path) -> None:
    done = tmp_path / "done"
    source = f"def handler(x):\n    open({str(done)!r}, 'w').close()\n    return x\n"
    async with open_worker(tmp_path / "worker") as (node, connector):
        await node.run(ECHO)
        connector.allowed = trio.Event()
        await node.say(*node.lease(source, "done"))
        job = node.number
        await connector.cut()
        with trio.fail_after(5):
            while not done.exists():
                await trio.lowlevel.checkpoint()
        connector.allowed.set()
        assert (await node.finished(job)).payload == b'"done"'


async def test_it_beats(tmp_path: Path) -> None:
    worker, node = open_pair()

    async def connect() -> MemoryLink:
        return worker

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, connect, tmp_path)
        await node.receive()
        await node.send([Welcome(VERSION, 1, 0.01)])
        with trio.fail_after(5):
            assert await node.receive() == [Beat()]
            assert await node.receive() == [Beat()]
        nursery.cancel_scope.cancel()


async def start(connect: object, directory: Path, **settings: object) -> None:
    config = Config(directory=directory, **settings)  # type: ignore[arg-type]
    await run_agent(
        connect,  # type: ignore[arg-type]
        make_offer(),
        config,
        clock=SystemClock(),
        rng=random.Random(1),
    )


async def test_a_node_of_another_version_is_final(tmp_path: Path) -> None:
    worker, node = open_pair()

    async def connect() -> MemoryLink:
        await node.send([Welcome(99, 1, 5)])
        return worker

    with pytest.raises(LinkRefused, match="version 99"):
        await start(connect, tmp_path)


async def test_a_refusal_is_final(tmp_path: Path) -> None:
    async def connect() -> MemoryLink:
        raise LinkRefused("no")

    with pytest.raises(LinkRefused, match="no"):
        await start(connect, tmp_path)


async def test_it_tries_again_and_again(tmp_path: Path) -> None:
    tries = 0

    async def connect() -> MemoryLink:
        nonlocal tries
        tries += 1
        raise LinkRefused("enough") if tries == 3 else LinkClosed("not yet")

    with pytest.raises(LinkRefused, match="enough"):
        await start(connect, tmp_path)
    assert tries == 3


async def test_told_not_to_reconnect_it_ends_with_its_link(tmp_path: Path) -> None:
    async def connect() -> MemoryLink:
        raise LinkClosed("gone")

    await start(connect, tmp_path, reconnects=False)


async def test_a_lease_without_its_program_ends_the_link(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        await node.say(node.lease(ECHO, program="99.9")[-1])
        await node.until(lambda: node.hellos == 2)
        assert (await node.run(ECHO, 1)).payload == b"1"


async def test_nothing_is_left_when_it_ends(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        pid = json.loads(
            (await node.run("import os\ndef handler(x):\n    return os.getpid()\n")).payload
        )
        await lease_gate(node)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_what_a_dead_agent_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "999999999" / "1").mkdir(parents=True)
    async with open_worker(tmp_path):
        assert [path.name for path in (tmp_path / "scratch").iterdir()] == [str(os.getpid())]


# --- as a program ------------------------------------------------------------------------------


class Program:
    """`python -m worker.agent`, its token given through the standard input."""

    def __init__(
        self, url: str, directory: Path, token: str = TOKEN, level: Isolation = "process"
    ) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "worker.agent",
                "--url",
                url,
                "--token-file",
                "-",
                "--slots",
                "1",
                "--directory",
                str(directory),
                "--isolation",
                level,
                "--die-with-parent",
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{token}\n".encode())
        self.process.stdin.flush()

    async def ended(self) -> int:
        with trio.fail_after(10):
            descriptor = os.pidfd_open(self.process.pid)
            await trio.lowlevel.wait_readable(descriptor)
            os.close(descriptor)
        status = self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        self.process.stderr.close()
        return status


@pytest.mark.parametrize("end", ["signal", "parent"])
async def test_the_program_works_and_stops(tmp_path: Path, level: Isolation, end: str) -> None:
    node = FakeNode(level)

    async def handle(stream: WebSocketNodeEnd) -> None:
        await stream.accept()
        await node.serve(stream)

    async with open_websocket_node(handle) as url:
        program = Program(url, tmp_path, level=level)
        assert program.process.stdin is not None
        await node.until(lambda: node.hello)
        assert node.hello is not None
        assert node.hello.offer.isolation[0] == level
        await node.run(f"def handler(x):\n    {call_it('will stop')}\n")
        assert named("will stop")
        if end == "signal":
            program.process.send_signal(signal.SIGTERM)
        else:
            program.process.stdin.close()
        assert await program.ended() == 0
        assert not named("will stop")


async def test_children_die_with_an_agent_that_is_killed(tmp_path: Path, level: Isolation) -> None:
    node = FakeNode(level)

    async def handle(stream: WebSocketNodeEnd) -> None:
        await stream.accept()
        await node.serve(stream)

    async with open_websocket_node(handle) as url:
        program = Program(url, tmp_path, level=level)
        await node.until(lambda: node.hello)
        await lease_gate(node)
        (pid,) = named(GATED)
        program.process.kill()
        await gone(pid)
        assert await program.ended() == -signal.SIGKILL


async def test_the_program_ends_when_it_is_refused(tmp_path: Path) -> None:
    async def handle(stream: WebSocketNodeEnd) -> None:
        await stream.accept(401)

    async with open_websocket_node(handle) as url:
        program = Program(url, tmp_path)
        assert await program.ended() == 1
