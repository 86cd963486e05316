"""What the store costs: `python -m tests.benchmarks.bench_store [DIRECTORY]`.

One JSON line a figure.  Rates are of durable batches of three rows of 300 bytes, with the disk of
DIRECTORY (default: a temporary one); "floor" is the same bytes by `pwrite` and `fdatasync`, one at
a time, which no store without group commit can better.
"""

import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from storage.lmdb_store import Config, LmdbStore
from storage.store import Batch, Result, Table

ROUNDS = 3
SECONDS = 1.0
VALUE = bytes(range(250)) + bytes(50)


def emit(name: str, value: float, unit: str, **more: object) -> None:
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, **more}), flush=True)


def batch_of_three(number: int) -> Batch:
    key = number.to_bytes(8, "big")
    return Batch(
        puts=(
            (Table.JOBS, key, VALUE),
            (Table.LIVE, key, VALUE),
            (Table.PROJECT_JOBS, key + key, VALUE),
        )
    )


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure_floor(directory: Path) -> None:
    file = os.open(directory / "floor", os.O_RDWR | os.O_CREAT)
    took = []
    for at in range(300):
        start = time.perf_counter()
        os.pwrite(file, bytes(4096), at * 4096)
        os.fdatasync(file)
        took.append(time.perf_counter() - start)
    os.close(file)
    emit("floor_pwrite_fdatasync", median(took) * 1e3, "ms", p99=sorted(took)[297] * 1e3)


class Writers:
    """`count` batches in flight for a while: a new one from the `done` of each."""

    def __init__(self, store: LmdbStore, count: int) -> None:
        self.latencies_s: list[float] = []
        self._store = store
        self._numbers = itertools.count()
        self._finished = threading.Semaphore(0)
        start = time.perf_counter()
        self._stop = start + SECONDS
        for _ in range(count):
            self._again()
        for _ in range(count):
            self._finished.acquire()
        figures = store.statistics()
        self.rate = figures.committed_batches / (time.perf_counter() - start)
        self.batches_per_commit = figures.committed_batches / figures.commits

    def _again(self) -> None:
        began = time.perf_counter()
        if began > self._stop:
            self._finished.release()
            return

        def done(result: Result) -> None:
            assert result is None
            self.latencies_s.append(time.perf_counter() - began)
            self._again()

        self._store.submit(batch_of_three(next(self._numbers)), done)


def measure_durable_rate(directory: Path, writers: int) -> None:
    runs = []
    for attempt in range(ROUNDS):
        path = directory / f"rate-{writers}-{attempt}"
        store = LmdbStore(path, config=Config(), deliver=lambda run: run())
        runs.append(Writers(store, writers))
        store.close()
    run = sorted(runs, key=lambda run: run.rate)[ROUNDS // 2]
    latencies_s = sorted(run.latencies_s)
    emit(
        f"durable_batches_{writers}_writers",
        run.rate,
        "1/s",
        p50_ms=round(latencies_s[len(latencies_s) // 2] * 1e3, 3),
        p99_ms=round(latencies_s[len(latencies_s) * 99 // 100] * 1e3, 3),
        batches_per_commit=round(run.batches_per_commit, 1),
    )


def cost_us(call: Callable[[int], object], count: int) -> float:
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for number in range(count):
            call(number)
        took.append((time.perf_counter() - start) / count * 1e6)
    return median(took)


def measure_costs(directory: Path) -> None:
    store = LmdbStore(directory / "costs", config=Config(), deliver=lambda run: run())
    batches = [batch_of_three(number) for number in range(3000)]
    for batch in batches:
        store.submit(batch)
    store.apply(Batch())
    keys = [number.to_bytes(8, "big") for number in range(3000)]
    emit("get", cost_us(lambda number: store.get(Table.JOBS, keys[number]), 3000), "us")
    emit("scan_100", cost_us(lambda _: store.scan(Table.JOBS, limit=100), 300), "us")
    # Lazy, so that the writer sleeps and the caller's side is measured alone.
    emit("submit", cost_us(lambda number: store.submit(batches[number], lazy=True), 3000), "us")
    store.apply(Batch())
    store.close()


def measure_writer(directory: Path) -> None:
    """The writer's own CPU time for a batch, the commit left out: what it takes from the loop."""
    commit_s = 0.0

    def commit(transaction: object) -> None:
        nonlocal commit_s
        start = time.thread_time()
        transaction.commit()  # type: ignore[attr-defined]
        commit_s += time.thread_time() - start

    spent: list[float] = []

    def deliver(run: Callable[[], object]) -> None:
        run()
        spent.append(time.thread_time())

    store = LmdbStore(directory / "writer", config=Config(), deliver=deliver, commit=commit)
    for number in range(20000):
        store.submit(batch_of_three(number), lambda _: None, lazy=True)
    store.apply(Batch())
    store.submit(Batch(), lambda _: None)
    store.close()
    emit("writer_cpu_per_batch", (spent[-1] - commit_s) / 20000 * 1e6, "us")
    emit("commit_cpu_per_batch", commit_s / 20000 * 1e6, "us", note="without the GIL")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        directory = Path(name)
        measure_floor(directory)
        measure_costs(directory)
        measure_writer(directory)
        for writers in (1, 10, 100, 1000):
            measure_durable_rate(directory, writers)


if __name__ == "__main__":
    main()
