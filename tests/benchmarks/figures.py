"""Figures: how they are printed, and when the machine is quiet enough to take them."""

import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

BUSY_MAX = 0.2
"""Share of the cores that others may use before a run. Source: the peers' scripts use the same."""
QUIET_WAIT_MAX_S = 10.0
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
"""Factor of all amounts; below 1 only to see that the benchmarks themselves work."""


def scaled(amount: int) -> int:
    return max(1, int(amount * SCALE))


def emit(name: str, values: Sequence[float], unit: str, **more: object) -> None:
    """Print the median of `values`, one of each run, and their range."""
    line: dict[str, object] = {
        "name": name,
        "value": significant(statistics.median(values)),
        "unit": unit,
        "runs": len(values),
    }
    if len(values) > 1:
        line |= {"low": significant(min(values)), "high": significant(max(values))}
    if SCALE != 1:
        line["scale"] = SCALE
    print(json.dumps(line | more), flush=True)


def skip(name: str, reason: str) -> None:
    print(json.dumps({"name": name, "skipped": reason}), flush=True)


def significant(value: float) -> float:
    """Return `value` with as many digits as a measurement has."""
    return float(f"{value:.4g}")


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Runs:
    """Counts runs, each started when the machine is quiet; `busy` is how quiet that was."""

    def __init__(self, count: int) -> None:
        self.busy = 0.0
        self._count = count

    def __iter__(self) -> Iterator[int]:
        for run in range(self._count):
            self.busy = max(self.busy, wait_until_quiet())
            yield run


def wait_until_quiet() -> float:
    """Wait a while for the cores to be mostly idle; return the share that is used all the same."""
    deadline = time.monotonic() + QUIET_WAIT_MAX_S
    while (busy := busy_share()) > BUSY_MAX and time.monotonic() < deadline:
        pass
    return round(busy, 2)


def busy_share() -> float:
    total, idle = cpu_times()
    time.sleep(0.2)
    total_after, idle_after = cpu_times()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def cpu_times() -> tuple[int, int]:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    times = [int(field) for field in fields]
    return sum(times), times[3] + times[4]
