"""What a job costs at the worker: agent and child, without a node and without a network.

Run as `python tests/benchmarks/bench_worker.py [JOBS]`.  The node's side is a tight loop in the
same process, whose own cost is measured apart and taken off.  Figures vary with the machine's
mood; CPU per job is the one to compare.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

from storage.clock import SystemClock
from tests.worker.fake_node import ECHO, make_offer, open_worker
from worker.agent import Config, run_agent
from worker.link import FromWorkerBatch, MemoryLink, decode_batch, encode_batch, open_pair
from worker.protocol import (
    VERSION,
    Acked,
    Finished,
    Held,
    Hello,
    Lease,
    Limits,
    Program,
    Usage,
    Welcome,
)

BATCH = 64
MODEL = Path(__file__).parents[2] / "peernode" / "examples" / "data" / "centerface.onnx"


def lease(job: int) -> Lease:
    return Lease(job, job, 1, "1.1", b'{"a":1}', {}, Limits(), "process", None)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return found


async def drive(node: MemoryLink, jobs: int, window: int) -> float:
    """Run jobs with `window` of them out at once; return the seconds."""
    begin = time.perf_counter()
    sent = done = 0
    while done < jobs:
        batch = [
            lease(sent + number + 1) for number in range(min(window - (sent - done), jobs - sent))
        ]
        sent += len(batch)
        if batch:
            await node.send(batch)
        held = [
            Held(message.job, message.fence)
            for message in await node.receive()
            if isinstance(message, Finished)
        ]
        done += len(held)
        if held:
            await node.send([Acked(held)])
    return time.perf_counter() - begin


def node_cost_us(jobs: int) -> float:
    """Return what this file's own side of the link costs a job, encoding alone."""
    begin = time.process_time()
    finished = encode_batch([example()] * BATCH)[0]
    for _ in range(jobs // BATCH):
        encode_batch([lease(1)] * BATCH)
        encode_batch([Acked([Held(1, 1)] * BATCH)])
        decode_batch(finished, FromWorkerBatch)
    return (time.process_time() - begin) / jobs * 1e6


def example() -> Finished:
    return Finished(1, 1, None, b'{"a":1}', "", Usage(1, 0.1, 0.1, 1), "", [])


async def throughput(jobs: int, slots: int) -> None:
    worker, node = open_pair()
    taken = [worker]

    async def connect() -> MemoryLink:
        if not taken:
            await trio.sleep_forever()
        return taken.pop()

    with tempfile.TemporaryDirectory() as directory:
        config = Config(directory=Path(directory))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: run_agent(connect, make_offer(slots), config, clock=SystemClock())
            )
            (hello,) = await node.receive()
            assert isinstance(hello, Hello)
            await node.send(
                [Welcome(VERSION, 1, 60), Program("1.1", "python", "handler", ECHO.encode(), [])]
            )
            await drive(node, 200, BATCH)
            for window in (1, BATCH * slots):
                number = jobs // 4 if window == 1 else jobs
                own, below = time.process_time(), {pid: cpu_s(pid) for pid in children()}
                wall = await drive(node, number, window)
                own = time.process_time() - own
                child = sum(cpu_s(pid) - before for pid, before in below.items())
                print(
                    f"{slots} slots, {window:4} out: {number / wall:7.0f} jobs/s, "
                    f"{wall / number * 1e6:6.0f} us each; "
                    f"agent and driver {own / number * 1e6:5.1f}, "
                    f"children {child / number * 1e6:5.1f} us CPU a job"
                )
            nursery.cancel_scope.cancel()


async def cold(calls: int) -> None:
    """First calls of different programs: with and without a spare child ready."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_worker(Path(directory)) as (node, _):
            for label, pause in (("spare ready", 0.3), ("no spare", 0.0)):
                times = []
                for number in range(calls):
                    await trio.sleep(pause)
                    begin = time.perf_counter()
                    await node.run(f"# {label} {number}\n{ECHO}", 1)
                    times.append((time.perf_counter() - begin) * 1e3)
                middle = statistics.median(times)
                print(f"cold first call, {label}: p50 {middle:.1f} ms, max {max(times):.1f}")


INFER = """
import time, edge, numpy
pixels = numpy.zeros((1, 3, 512, 512), "float32")
def handler(input):
    model = edge.blob(input)
    name = "input.1"
    edge.infer(model, {name: pixels})
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        edge.infer(model, {name: pixels})
        times.append(time.perf_counter() - begin)
    import onnxruntime
    options = onnxruntime.SessionOptions(); options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    bare = onnxruntime.InferenceSession(model.path(), options)
    bare.run(None, {name: pixels})
    bare_times = []
    for _ in range(5):
        begin = time.perf_counter()
        bare.run(None, {name: pixels})
        bare_times.append(time.perf_counter() - begin)
    return [min(times), min(bare_times)]
"""


async def inference() -> None:
    if not MODEL.exists():
        print(f"inference: skipped, there is no {MODEL}")
        return
    with tempfile.TemporaryDirectory() as directory:
        async with open_worker(Path(directory), backends=["CPUExecutionProvider"]) as (node, _):
            node.blobs[1] = (MODEL.read_bytes(), "application/octet-stream")
            limits = Limits(memory_bytes=4 << 30)
            done = await node.run(INFER, "1", limits=limits)
            ours, bare = json.loads(done.payload)
            print(f"edge.infer {ours * 1e3:.1f} ms, onnxruntime alone {bare * 1e3:.1f} ms")


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"the driver's own encoding: {node_cost_us(jobs):.1f} us a job")
    for slots in (1, 2):
        trio.run(throughput, jobs, slots)
    trio.run(cold, 5)
    trio.run(inference)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"agent's and driver's peak memory: {usage.ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
