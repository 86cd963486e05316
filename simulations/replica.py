"""A process that runs replications, one after another, for the one that started it.

    {"scenario": {...}, "seed": 7, ...}          a task, a line on stdin
    {"kind": "progress", "virtual_s": 12.5}      how far it is, a line on what was stdout
    {"kind": "done", "trace_hash": "...", ...}   its end

What a simulation prints goes to stderr, so that it cannot disturb the answers.  Whatever is not
expected ends the process with a traceback there; `simulations.replications` reads it.  When nobody
reads the answers any more, the process ends at its next progress.
"""

import errno
import importlib
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any, Final

import msgspec

from simulations.scenario import Scenario
from simulations.simulate import Failure, Options, Result

Simulator = Callable[[Scenario, int, Options], Result]

SIMULATE: Final = "simulations.simulate:simulate"
PROGRESS_INTERVAL_S: Final = 0.1
"""Between two lines of progress, in real time. Source: what an eye sees as moving."""
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One replication."""

    scenario: Scenario
    seed: int
    directory: str = "."
    """What relative paths in the scenario are relative to."""
    checking: bool = False
    events_path: str | None = None
    """The file that gets every event."""
    events_last: int = 0
    """How many of the last events the answer has."""
    topology: bool = False
    """Whether the answer has the topology."""
    simulator: str = SIMULATE
    """`module:function`, what runs a scenario."""
    hash_seed: str = "0"
    """PYTHONHASHSEED of its process."""
    fresh: bool = False
    """Whether its process may have run nothing before."""
    observations_path: str = ""
    """The file that gets what was measured."""
    memory_max_bytes: int | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="progress"):
    """How far it is, in virtual time."""

    virtual_s: float


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="done"):
    """It is over, and its observations are written."""

    trace_hash: str
    metrics_hash: str
    virtual_s: float
    cpu_s: float
    wall_s: float
    events: int
    memory_peak_bytes: int
    """Of the process until now."""
    failure: Failure | None = None
    topology: dict[str, Any] | None = None
    last: list[str] = []


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="refused"):
    """The scenario cannot be run."""

    place: str
    what: str


class OutOfMemory(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="memory"):
    """It needed more than it may have."""


class OutOfDisk(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="disk"):
    """Something could not be written."""

    what: str


Answer = Progress | Done | Refused | OutOfMemory | OutOfDisk


def main() -> None:
    """Answer tasks until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, to all; the parent ends us
    with FileIO(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        try:
            for line in sys.stdin.buffer:
                task = msgspec.json.decode(line, type=Task)
                _send(answers, answer(task, lambda progress: _send(answers, progress)))
        except BrokenPipeError:
            sys.exit(1)


def answer(task: Task, tell: Callable[[Progress], None]) -> Answer:
    """Run a task; `tell` is told its progress now and then."""
    from simulations import observations
    from simulations.errors import ScenarioError

    if task.memory_max_bytes is not None:
        _limit_memory(task.memory_max_bytes)
    last: deque[str] = deque(maxlen=task.events_last)
    started_s = time.monotonic()
    try:
        with ExitStack() as open_files:
            keep = _keeper(task, last, open_files)
            options = Options(
                checking=task.checking,
                keep=keep,
                progress=_paced(tell),
                directory=task.directory,
            )
            result = find(task.simulator)(task.scenario, task.seed, options)
        columns = observations.from_rows(result.metrics)
        if task.observations_path:
            observations.write(columns, Path(task.observations_path))
    except ScenarioError as error:
        return Refused(place=error.place, what=error.what)
    except MemoryError:
        return OutOfMemory()
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return OutOfDisk(what=place + os.strerror(error.errno or 0))
    return Done(
        trace_hash=result.trace_hash,
        metrics_hash=columns.digest(),
        virtual_s=result.virtual_s,
        cpu_s=result.cpu_s,
        wall_s=time.monotonic() - started_s,
        events=result.events,
        memory_peak_bytes=_memory_peak_bytes(),
        failure=result.failure,
        topology=topology(result) if task.topology else None,
        last=list(last),
    )


def find(simulator: str) -> Simulator:
    """Return the function that `module:function` names."""
    module, _, name = simulator.partition(":")
    found: Simulator = getattr(importlib.import_module(module), name)
    return found


def topology(result: Result) -> dict[str, Any] | None:
    """Return what topology.json holds, `None` if the run did not say who was linked with whom.

    Nodes stand in the order of their numbers, `x` and `y` are kilometres to the east and to the
    north; a link's `latency_s` is one way from `one` to `other`, and `back_s` the way back.
    """
    graph = result.graph
    if graph is None:
        return None
    places = graph.positions_km
    return {
        "format": 1,
        "nodes": [
            {"name": name} | ({"x": places[i][0], "y": places[i][1]} if places else {})
            for i, name in enumerate(graph.names)
        ],
        "links": [
            {"one": edge.one, "other": edge.other, "latency_s": edge.forth_s, "back_s": edge.back_s}
            for edge in graph.edges
        ],
    }


def _keeper(task: Task, last: deque[str], files: ExitStack) -> Callable[[str], None] | None:
    """Return what takes events, if anybody wants them; what it opens is closed with `files`."""
    if task.events_path is None:
        return last.append if task.events_last else None
    file = files.enter_context(Path(task.events_path).open("w", encoding="utf-8"))  # noqa: SIM115

    def keep(line: str) -> None:
        file.write(line + "\n")
        last.append(line)

    return keep


def _paced(tell: Callable[[Progress], None]) -> Callable[[float], None]:
    """Return what tells progress, but not more often than an eye follows."""
    due_s = 0.0

    def progress(virtual_s: float) -> None:
        nonlocal due_s
        now_s = time.monotonic()
        if now_s >= due_s:
            due_s = now_s + PROGRESS_INTERVAL_S
            tell(Progress(virtual_s=virtual_s))

    return progress


def _send(answers: FileIO, message: Answer) -> None:
    rest = memoryview(msgspec.json.encode(message) + b"\n")
    while rest:
        rest = rest[answers.write(rest) :]


def _limit_memory(most_bytes: int) -> None:
    """Have Python raise `MemoryError` at a limit, before the system ends whom it likes."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _memory_peak_bytes() -> int:
    """Return how much memory the process had at most."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name == "VmHWM":  # not `ru_maxrss`, which begins with the parent's
                    return int(rest.split()[0]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB, on a Mac bytes


if __name__ == "__main__":
    main()
