"""Placing jobs in processes: warmth, writing ahead, taking back, and idle ends."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.worker.fake_node import ECHO, FakeNode, Space, open_worker
from tests.worker.processes import all_gone, call_it, named
from tests.worker.test_agent import lease_gate, open_gate
from worker.process_tree import process_table
from worker.protocol import Finished, Isolation, Kill, Limits, Recall, Returned
from worker.sandbox import native

pytestmark = pytest.mark.slow

SWITCH = """
import edge, os
ME = os.urandom(8).hex()
def handler(input):
    if input == "wait":
        return edge.kv("gate").get("open")
    return [input, ME]
"""
"""Short jobs of one program, one of which waits for the node."""


async def warm_up(node: FakeNode, jobs: int = 40) -> None:
    """Let the worker learn that these jobs are short, in all its slots."""
    await node.say(*[message for _ in range(jobs) for message in node.lease(SWITCH, "warm")])
    await node.until(lambda: len(node.said(Finished)) == jobs)


async def lease_switch(node: FakeNode, inputs: list[str]) -> list[int]:
    """Lease several jobs in one message; return their numbers."""
    messages, jobs = [], []
    for value in inputs:
        messages += node.lease(SWITCH, value)
        jobs.append(node.number)
    await node.say(*messages)
    return jobs


async def test_a_job_that_turns_out_long_holds_nobody_up(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level, slots=2) as (node, _):
        node.spaces["gate"] = Space()
        await warm_up(node)
        node.answers = False
        waiting, *others = await lease_switch(node, ["wait"] + ["go"] * 30)
        for job in others:
            assert (await node.finished(job)).error_code is None
        assert node.said(Finished, waiting) == []
        await open_gate(node)
        assert (await node.finished(waiting)).payload == b"null"


async def test_jobs_behind_one_that_is_killed_run_as_if_nothing_was(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        node.spaces["gate"] = Space()
        await warm_up(node)
        node.answers = False
        waiting, *others = await lease_switch(node, ["wait"] + ["go"] * 30)
        await node.until(lambda: node.unanswered)
        await node.say(Kill(waiting, waiting, "cancelled"))
        finished = [await node.finished(job) for job in others]
        assert [outcome.error_code for outcome in finished] == [None] * 30
        processes = {json.loads(outcome.payload)[1] for outcome in finished}
        assert len(processes) == 1, "one new process ran them all"
        assert node.said(Finished, waiting) == []
        order = [outcome.job for outcome in node.said(Finished)][-30:]
        assert order == others


async def test_jobs_behind_one_that_crashes_or_overruns_run_too(
    tmp_path: Path, level: Isolation
) -> None:
    source = """
import os
def handler(input):
    if input == "crash": os._exit(1)
    while input == "loop": pass
    return input
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        limits = Limits(run_s=0.3)
        await node.say(*[m for _ in range(40) for m in node.lease(source, "warm", limits=limits)])
        await node.until(lambda: len(node.said(Finished)) == 40)
        values = ["a", "crash", "b", "loop", "c", "crash", "crash", "d"]
        first = node.number + 1
        await node.say(*[m for value in values for m in node.lease(source, value, limits=limits)])
        codes = [(await node.finished(first + number)).error_code for number in range(8)]
        assert codes == [
            None,
            "exited",
            None,
            "run_timeout",
            None,
            "exited",
            "exited",
            None,
        ]
        assert len(node.said(Finished)) == 48, "each ended once"


async def test_a_lease_written_ahead_can_be_recalled(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        node.spaces["gate"] = Space()
        await warm_up(node)
        node.answers = False
        waiting, one, two, three = await lease_switch(node, ["wait", "go", "go", "go"])
        await node.say(Recall(two, two))
        await node.until_said(Returned, two)
        await open_gate(node)
        for job in (waiting, one, three):
            assert (await node.finished(job)).error_code is None
        assert node.said(Finished, two) == []


async def test_output_of_jobs_written_ahead_goes_to_the_right_job(
    tmp_path: Path, level: Isolation
) -> None:
    source = "def handler(x):\n    print(f'this is {x}')\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        for number in range(100):
            await node.say(*node.lease(source, number))
        await node.finished(node.number)
        for number in range(100):
            assert node.lines(101 + number) == [("stdout", f"this is {number}")]


async def test_two_slots_work_at_once(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level, slots=2) as (node, _):
        one = await lease_gate(node)
        two = await lease_gate(node)
        await node.until(lambda: node.lines(one) and node.lines(two))
        assert node.lines(one) != node.lines(two), "two processes"
        await open_gate(node)
        await node.finished(one)
        await node.finished(two)


async def test_a_large_input_and_a_large_result_pass(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        value = ["x" * 1000] * 900
        first = await node.run(ECHO, value)
        assert json.loads(first.payload) == value
        await node.say(*[m for _ in range(8) for m in node.lease(ECHO, value)])
        assert json.loads((await node.finished(node.number)).payload) == value


async def test_a_large_input_reaches_a_process_that_is_just_being_started(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_worker(tmp_path, slots=3, level=level) as (node, _):
        value = ["x" * 1000] * 900
        messages = []
        for number in range(3):  # one blank process is there at most
            messages += node.lease(f"# {number}\n{ECHO}", value)
        await node.say(*messages)
        for job in range(node.number - 2, node.number + 1):
            assert json.loads((await node.finished(job)).payload) == value


async def test_a_child_without_work_is_ended(tmp_path: Path, level: Isolation) -> None:
    source = f"def handler(x):\n    {call_it('without work')}\n"
    async with open_worker(tmp_path, level=level, child_idle_max_s=0.0) as (node, _):
        await node.run(source)
        await all_gone("without work")


async def test_warm_children_are_few(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        for number in range(12):
            await node.run(f"def handler(x):\n    {call_it(f'warm {number}')}\n")
        for number in range(3):  # eight are kept
            await all_gone(f"warm {number}")
        assert named("warm 11")


async def test_a_process_is_replaced_after_as_many_jobs_as_it_may_run(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_worker(tmp_path, slots=2, level=level) as (node, _):
        for most in (1, 3):
            limits = Limits(jobs_per_process=most)
            messages = [m for _ in range(12) for m in node.lease(SWITCH, 0, limits=limits)]
            first = node.number - 11
            await node.say(*messages)
            outcomes = [await node.finished(first + number) for number in range(12)]
            assert [outcome.error_code for outcome in outcomes] == [None] * 12
            processes = Counter(json.loads(outcome.payload)[1] for outcome in outcomes)
            assert max(processes.values()) <= most
            assert len(processes) <= 12 / most + 2, "no more new ones than are needed"


async def test_a_level_that_cannot_be_given_fails_its_jobs_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_worker(tmp_path, level="sandbox") as (node, _):
        monkeypatch.setattr(native, "ZYGOTE_PATH", tmp_path / "no zygote")
        for pid in forked_and_zygote():
            os.kill(pid, signal.SIGKILL)
        limits = Limits(jobs_per_process=1)
        finished = await node.run(ECHO, limits=limits)
        if finished.error_code == "exited":  # it was sent to one that was killed
            finished = await node.run(ECHO, limits=limits)
        assert finished.error_code == "setup_failed"
        assert finished.payload.startswith(b"level sandbox: ")
        monkeypatch.undo()
        assert (await node.run(ECHO)).error_code is None, "it is tried again"


def forked_and_zygote() -> list[int]:
    """Return the zygote that this process started, and what it forked."""
    ours = [row.pid for row in process_table().values() if row.parent == os.getpid()]
    return [pid for pid in ours if b"zygote.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
