"""WebAssembly at the worker, end to end: agent and child, without a node and without a network."""

import json
import math
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import trio

from tests.benchmarks import figures
from tests.worker.fake_node import ECHO, FakeNode, open_worker
from tests.worker.wasm_programs import ECHO as MODULE, interpreter
from worker.protocol import Finished, Limits

MODEL = Path(__file__).parents[2] / "peernode" / "examples" / "data" / "centerface.onnx"
PAUSE_S = 0.5
"""Before a first call, so that a blank process is there, as it is after any quiet moment."""

INFER = """
import array, time, edge
# Such as of a picture: what travels costs by its bytes, and zeros cost least.
pixels = array.array("f", [float(at * 7919 % 251) for at in range(3 * 512 * 16)]) * 32
pixels = memoryview(pixels).cast("B")
pixels = pixels.cast("f", (1, 3, 512, 512))
def handler(input):
    model = edge.blob(input)
    edge.infer(model, {"input.1": pixels})
    begin = time.perf_counter()
    for _ in range(5):
        edge.infer(model, {"input.1": pixels})
    return (time.perf_counter() - begin) / 5
"""
PAIRS = """
import statistics, time, edge, numpy, onnxruntime
def handler(input):
    pixels = numpy.zeros((1, 3, 512, 512), "float32")
    options = onnxruntime.SessionOptions(); options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = edge.blob(input)
    session = onnxruntime.InferenceSession(model.path(), options)
    ours, bare = [], []
    for number in range(16):
        begin = time.perf_counter()
        session.run(None, {"input.1": pixels})
        middle = time.perf_counter()
        edge.infer(model, {"input.1": pixels})
        end = time.perf_counter()
        if number:
            bare.append(middle - begin)
            ours.append(end - middle)
    added = statistics.median(one - other for one, other in zip(ours, bare))
    return [statistics.median(bare), statistics.median(ours), added]
"""
KINDS: dict[str, dict[str, Any]] = {
    "python_process": {"source": ECHO},
    "wasm_module": {"source": MODULE, "runtime": "wasm"},
    "python_wasm": {"source": ECHO, "isolation": "wasm"},
}


async def call(node: FakeNode, kind: str, **more: Any) -> float:
    """Return the seconds of one no-op job."""
    begin = time.perf_counter()
    finished = await node.run(input=1, **(KINDS[kind] | more))
    assert finished.payload == b"1", finished
    return time.perf_counter() - begin


async def latencies() -> None:
    warm: dict[str, list[float]] = {kind: [] for kind in KINDS}
    tail: dict[str, list[float]] = {kind: [] for kind in KINDS}
    first: dict[str, list[float]] = {kind: [] for kind in KINDS}
    runs = figures.Runs(5)
    with tempfile.TemporaryDirectory(prefix="peernode-bench-") as name:
        settings: dict[str, Any] = {"interpreter": interpreter()}
        async with open_worker(Path(name), slots=1, **settings) as (node, _):
            for run in runs:
                for number, kind in enumerate(KINDS):
                    await call(node, kind)  # compiled from here on
                    await trio.sleep(PAUSE_S)
                    limits = Limits(processes=10 + run * 4 + number)  # another child
                    first[kind].append(await call(node, kind, limits=limits) * 1e3)
                    amount = figures.scaled(400)
                    times = [await call(node, kind, limits=limits) * 1e3 for _ in range(amount)]
                    warm[kind].append(statistics.median(times))
                    tail[kind].append(figures.percentile(times, 0.99))
    for kind in KINDS:
        figures.emit(f"{kind}_noop_p50", warm[kind], "ms", busy=runs.busy)
        figures.emit(f"{kind}_noop_p99", tail[kind], "ms", busy=runs.busy)
        figures.emit(f"{kind}_first_call", first[kind], "ms", busy=runs.busy)


async def throughput() -> None:
    amount = figures.scaled(1000)
    for kind in KINDS:
        rates, cpu = [], []
        runs = figures.Runs(3)
        with tempfile.TemporaryDirectory(prefix="peernode-bench-") as name:
            settings: dict[str, Any] = {"interpreter": interpreter()}
            async with open_worker(Path(name), slots=2, **settings) as (node, _):
                await call(node, kind)
                for _ in runs:
                    before = len(node.said(Finished))
                    begin = time.perf_counter()
                    for _ in range(0, amount, 50):
                        messages = []
                        for _ in range(min(50, amount)):
                            messages += node.lease(input=1, **KINDS[kind])
                        await node.say(*messages)
                    done = before + math.ceil(amount / 50) * min(50, amount)
                    await node.until(lambda done=done: len(node.said(Finished)) >= done)
                    rates.append((done - before) / (time.perf_counter() - begin))
                    ended = node.said(Finished)[before:]
                    cpu.append(statistics.mean(one.usage.cpu_s for one in ended) * 1e3)
        figures.emit(f"{kind}_throughput", rates, "jobs/s", slots=2, busy=runs.busy)
        figures.emit(f"{kind}_cpu", cpu, "ms/job", of="child", busy=runs.busy)


async def inference() -> None:
    """A model through `edge.infer` in native Python and inside, against onnxruntime alone."""
    if not MODEL.exists():
        figures.skip("infer", f"there is no {MODEL.name}")
        return
    kinds: dict[str, tuple[Any, str]] = {
        "python_wasm": ("wasm", "CPUExecutionProvider"),
        "openvino": ("process", "OpenVINO"),
    }
    if find_spec("openvino") is None:
        figures.skip("infer_openvino", "openvino is not installed")
        del kinds["openvino"]
    names = ("bare", "python_process", "added", *kinds)
    found: dict[str, list[float]] = {name: [] for name in names}
    runs = figures.Runs(3)
    for _ in runs:
        # By turns in one process: what is added is less than two runs differ on a busy machine.
        pair = await infer(PAIRS, "process", "CPUExecutionProvider")
        for name, time_s in zip(names[:3], pair, strict=True):
            found[name].append(time_s * 1e3)
        for kind, (level, backend) in kinds.items():
            found[kind].append(await infer(INFER, level, backend) * 1e3)
    for kind, times in found.items():
        figures.emit(f"infer_{kind}", times, "ms", model=MODEL.name, busy=runs.busy)


async def infer(source: str, level: Any, backend: str) -> Any:
    """Return what a function that runs the model says."""
    limits = Limits(memory_bytes=4 << 30)
    settings: dict[str, Any] = {"interpreter": interpreter(), "backends": [backend]}
    with tempfile.TemporaryDirectory(prefix="peernode-bench-") as name:
        async with open_worker(Path(name), **settings) as (node, _):
            node.blobs[1] = (MODEL.read_bytes(), "application/octet-stream")
            done = await node.run(source, "1", limits=limits, isolation=level)
            assert done.error_code is None, done
            return json.loads(done.payload)


def main() -> None:
    trio.run(latencies)
    trio.run(throughput)
    trio.run(inference)


if __name__ == "__main__":
    main()
