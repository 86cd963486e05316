"""What isolation costs a job at the worker: level `sandbox`, warm and with a fresh process each,
and static executables.

From a lease in the agent's hands to its outcome, over a link in memory; no node, no disk.  The
node's side is a loop in the same process and costs some 20 us a job.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from tests.benchmarks.figures import Runs, emit, percentile, scaled
from tests.worker.executables import ECHO as ECHO_C, executable
from tests.worker.fake_node import ECHO, FakeNode, open_worker
from worker.protocol import Finished, Isolation, Limits

RUNS = 5
JOBS = 400
COLD_CALLS = 8
SLOTS = 2
LEVELS: tuple[Isolation, ...] = ("sandbox", "process")
"""Fresh ones at `process` are left out: a new interpreter each, with a new spare behind it."""
WARM = Limits()
FRESH = Limits(jobs_per_process=1)


async def latencies_ms(
    node: FakeNode, jobs: int, source: str | bytes = ECHO, **fields: Any
) -> list[float]:
    """Return how long each of `jobs` took, one after another."""
    found = []
    for _ in range(jobs):
        begin = time.perf_counter()
        assert (await node.run(source, 1, **fields)).error_code is None
        found.append((time.perf_counter() - begin) * 1e3)
    return found


async def rate(node: FakeNode, jobs: int, limits: Limits) -> float:
    """Return jobs a second, with enough handed in at once for all slots."""
    ended = len(node.said(Finished)) + jobs
    begin = time.perf_counter()
    leases = [node.lease(ECHO, 1, limits=limits) for _ in range(jobs)]
    await node.say(*[message for messages in leases for message in messages])
    await node.until(lambda: len(node.said(Finished)) >= ended)
    return jobs / (time.perf_counter() - begin)


async def cold_ms(node: FakeNode) -> list[float]:
    """Return how long first calls of new functions took, none of them with a spare ready."""
    found = []
    for _ in range(COLD_CALLS):
        begin = time.perf_counter()
        await node.run(f"# {node.next_number()}\n{ECHO}", 1)
        found.append((time.perf_counter() - begin) * 1e3)
    return found


async def measure(level: Isolation) -> None:
    jobs = scaled(JOBS)
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        async with open_worker(Path(directory), slots=SLOTS, level=level) as (node, _):
            await node.run(ECHO, 1)
            first_ms = (time.perf_counter() - begin) * 1e3
            emit(f"{level}_first_job_of_a_worker", [first_ms], "ms")
            emit(f"{level}_cold_call", await cold_ms(node), "ms")
            kinds = {"warm": WARM} if level == "process" else {"warm": WARM, "fresh": FRESH}
            for name, limits in kinds.items():
                middle, late, rates = [], [], []
                runs = Runs(RUNS)
                for _ in runs:
                    taken = await latencies_ms(node, jobs, limits=limits)
                    middle.append(percentile(taken, 0.5))
                    late.append(percentile(taken, 0.99))
                    rates.append(await rate(node, jobs, limits))
                    node.messages.clear()
                shape = {"jobs": jobs, "busy": runs.busy}
                emit(f"{level}_{name}_latency_p50", middle, "ms", **shape)
                emit(f"{level}_{name}_latency_p99", late, "ms", **shape)
                emit(f"{level}_{name}_rate", rates, "jobs/s", slots=SLOTS, **shape)
            if level == "sandbox":
                taken = await latencies_ms(node, jobs, executable(ECHO_C), runtime="exec")
                emit(f"{level}_executable_latency_p50", [percentile(taken, 0.5)], "ms", jobs=jobs)


def main() -> None:
    for level in LEVELS:
        trio.run(measure, level)


if __name__ == "__main__":
    main()
