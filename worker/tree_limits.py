"""Limits of whole process trees, held by measuring: memory, and the number of processes.

What one process may do the kernel limits by itself (`worker.child`); what it may do together with
everything it started is measured here, for jobs that run long enough to be worth it.  Reading the
whole process table costs milliseconds, so it is read when many processes were forked on this
machine, or once in a while; in between only the processes that are known.
"""

from collections.abc import Iterable
from typing import Final

from worker.child import Attempt, Child
from worker.process_tree import (
    Process,
    descendants,
    forked_processes,
    process_table,
    read_process,
    urgent,
)
from worker.protocol import ErrorCode

MEASURE_INTERVAL_S: Final = 0.05
"""Time between two measurements of a running tree. Source: guess, a few hundred forks."""
SCAN_INTERVAL_S: Final = 1.0
"""Time between two looks at the whole process table, while few forks happen. Source: guess."""
SCAN_FORKS: Final = 8
"""Forks on this machine that make such a look due. Source: an eighth of `processes`."""

Broken = tuple[Child, ErrorCode, str]
"""A child whose job broke a limit: which one, and in words."""


class TreeLimits:
    """Measures the trees of one supervisor."""

    def __init__(self) -> None:
        self._measured_at_s = 0.0
        self._scanned_at_s = 0.0
        self._forks = 0

    def measure(self, children: Iterable[Child], now_s: float) -> list[Broken]:
        """Measure what runs in `children`, if that is due, and return who broke a limit."""
        if now_s - self._measured_at_s < MEASURE_INTERVAL_S:
            return []
        self._measured_at_s = now_s
        table = self._scan(now_s)
        broken: list[Broken] = []
        for child in children:
            attempt = child.running
            if attempt is None:
                continue
            if table is not None:
                below = descendants(table, child.pid)
                child.known = [process.pid for process in below if not process.zombie]
                own = table.get(child.pid)
            else:
                below = [row for pid in child.known if (row := read_process(pid)) is not None]
                own = read_process(child.pid)
            broken += _hold(child, attempt, below if own is None else [own, *below])
        return broken

    def _scan(self, now_s: float) -> dict[int, Process] | None:
        """Return the process table if it is time to read it."""
        forks = forked_processes()
        calm = 0 <= forks - self._forks < SCAN_FORKS
        if calm and now_s - self._scanned_at_s <= SCAN_INTERVAL_S:
            return None
        self._forks, self._scanned_at_s = forks, now_s
        with urgent():
            return process_table()


def _hold(child: Child, attempt: Attempt, tree: list[Process]) -> list[Broken]:
    limits = attempt.lease.limits
    rss_bytes = sum(process.rss_bytes for process in tree)
    attempt.rss_max_bytes = max(attempt.rss_max_bytes, rss_bytes)
    attempt.cpu_s = max(attempt.cpu_s, sum(process.cpu_s for process in tree))
    if len(child.known) > limits.processes:
        return [(child, "process_limit", f"it has more than {limits.processes} processes")]
    if rss_bytes > attempt.process_limits.memory_bytes:
        message = f"it and what it started use more than {limits.memory_bytes} bytes"
        return [(child, "memory_limit", message)]
    return []
