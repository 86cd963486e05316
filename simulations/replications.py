"""Replications over all cores: tasks in, outcomes out, in processes that can be lost.

    outcomes = perform([Task(scenario=scenario, seed=seed) for seed in range(20)], jobs=2)

Each core has a process of its own (`simulations.replica`) that runs one task after another, started
with a PYTHONHASHSEED that is known.  Whatever goes wrong there is one of the errors below, with
words for the user: a scenario that cannot be run, memory or disk that do not suffice, a process
that the system ended.  An invariant that did not hold is none of them: it is an outcome.

When this process is told to end (Ctrl-C, SIGTERM) the others are ended first.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, assert_never

import msgspec
import trio

from simulations import observations
from simulations.errors import ScenarioError
from simulations.observations import Observations
from simulations.replica import Answer, Done, OutOfDisk, OutOfMemory, Progress, Refused, Task
from simulations.simulate import Failure

START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from simulations.replica import main; main()"
)
"""What a process runs: it finds modules where this one does."""
IN_MEMORY: Final = "/dev/shm"  # noqa: S108  only a directory of our own in it is used
READ_BYTES: Final = 1 << 16
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_WORDS_LINES: Final = 15
"""How much is shown of what a lost process said. Source: guess; a traceback's end."""
MEMORY_SHARE: Final = 0.9
"""Of the memory that is available, what all processes may take. Source: guess."""

Watch = Callable[[int, float], None]
"""Is told which task has come how far, in virtual seconds; infinity: it is over."""


class RunError(Exception):
    """A run that could not be carried out. `hint` says what to do, "" if there is nothing."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class MemoryShort(RunError):
    """A replication needs more memory than there is."""


class DiskFull(RunError):
    """Something could not be written."""


class ProcessLost(RunError):
    """A process ended by itself."""


class Interrupted(RunError):
    """This process was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a replication gave."""

    seed: int
    trace_hash: str
    metrics_hash: str
    virtual_s: float
    cpu_s: float
    wall_s: float
    events: int
    memory_peak_bytes: int
    observations: Observations
    failure: Failure | None = None
    topology: dict[str, Any] | None = None
    last: tuple[str, ...] = ()
    """The last events, if the task asked for them."""


def perform(
    tasks: Sequence[Task],
    *,
    jobs: int = 2,
    watch: Watch | None = None,
    stop_on_failure: bool = False,
    scratch: Path | None = None,
) -> list[Outcome]:
    """Run tasks, `jobs` at a time; return their outcomes, in the order of the tasks.

    With `stop_on_failure` nothing new is begun once an invariant did not hold; what was not begun
    is left out.  `scratch` is a directory for what the processes hand over, a temporary one else.

    Raises `ScenarioError`, `MemoryShort`, `DiskFull`, `ProcessLost` for the first task that it is
    true of, and `Interrupted`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="replications-", dir=scratch) as directory,
        tempfile.TemporaryDirectory(prefix="simulations-", dir=_in_memory()) as temporary,
    ):
        places = (Path(directory), Path(temporary))
        pool = _Pool(tasks, min(jobs, len(tasks)), watch, stop_on_failure, *places)
        trio.run(pool.run)
    if pool.error is not None:
        raise pool.error
    return [outcome for outcome in pool.outcomes if outcome is not None]


class _Pool:
    """The processes of one `perform`."""

    def __init__(
        self,
        tasks: Sequence[Task],
        jobs: int,
        watch: Watch | None,
        stop_on_failure: bool,
        directory: Path,
        temporary: Path,
    ) -> None:
        self.outcomes: list[Outcome | None] = [None] * len(tasks)
        self.error: Exception | None = None
        self._tasks = tasks
        self._waiting = iter(range(len(tasks)))
        self._jobs = jobs
        self._watch = watch
        self._stop_on_failure = stop_on_failure
        self._failed = False
        self._directory = directory
        self._temporary = temporary  # of the children, which are killed and tidy nothing up
        available = memory_available_bytes()
        self._memory_max_bytes = available and int(available * MEMORY_SHARE / max(1, jobs))

    async def run(self) -> None:
        """Return when all tasks are over, or with `error` set."""
        async with trio.open_nursery() as watching:
            watching.start_soon(self._hear_signals, watching.cancel_scope)
            async with trio.open_nursery() as working:
                for _ in range(self._jobs):
                    working.start_soon(self._work, working.cancel_scope)
            watching.cancel_scope.cancel()

    async def _hear_signals(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async for number in signals:
                self.error = Interrupted(number)
                scope.cancel()

    async def _work(self, scope: trio.CancelScope) -> None:
        """Take tasks until there are none, one process after another where that must be."""
        process: _Process | None = None
        try:
            for index in self._waiting:
                if self._failed and self._stop_on_failure:
                    return
                task = self._tasks[index]
                if process is None or task.fresh or process.hash_seed != task.hash_seed:
                    if process is not None:
                        await process.end()
                    process = await _Process.start(task.hash_seed, self._temporary)
                self.outcomes[index] = await self._perform(index, task, process)
        except (RunError, ScenarioError, OSError) as error:
            self.error = self.error or error
            scope.cancel()
        finally:
            if process is not None:
                with trio.CancelScope(shield=True):
                    await process.end()

    async def _perform(self, index: int, task: Task, process: "_Process") -> Outcome:
        path = self._directory / f"{index}.arrow"
        full = msgspec.structs.replace(
            task, observations_path=str(path), memory_max_bytes=self._memory_max_bytes
        )
        await process.send(full)
        while True:
            match await process.receive(task.seed):
                case Progress(virtual_s=virtual_s):
                    self._tell(index, virtual_s)
                case Done() as done:
                    self._tell(index, math.inf)
                    self._failed = self._failed or done.failure is not None
                    outcome = _outcome(task, done, observations.read(path))
                    path.unlink()
                    return outcome
                case Refused(place=place, what=what):
                    raise ScenarioError(place, what)
                case OutOfMemory():
                    raise self._memory_short(task)
                case OutOfDisk(what=what):
                    raise DiskFull(f"cannot write: {what}", "make room and run it again")
                case message:
                    assert_never(message)

    def _tell(self, index: int, virtual_s: float) -> None:
        if self._watch is not None:
            self._watch(index, virtual_s)

    def _memory_short(self, task: Task) -> MemoryShort:
        most_gb = (self._memory_max_bytes or 0) / 1e9
        return MemoryShort(
            f"the replication with seed {task.seed} needs more than the {most_gb:.1f} GB that "
            "there are for it",
            SMALLER if self._jobs == 1 else f"--jobs 1 gives it {self._jobs} times that",
        )


SMALLER: Final = "fewer nodes, or less that happens, need less"


class _Process:
    """A child that answers tasks."""

    def __init__(self, process: trio.Process, hash_seed: str, errors: IO[bytes]) -> None:
        self.hash_seed = hash_seed
        self._process = process
        self._errors = errors
        self._read = bytearray()

    @classmethod
    async def start(cls, hash_seed: str, temporary: Path) -> "_Process":
        """Start one in a session of its own: a terminal's Ctrl-C is for the parent."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "TMPDIR": str(temporary)},
            start_new_session=True,
        )
        return cls(process, hash_seed, errors)

    async def send(self, task: Task) -> None:
        """Hand in a task. One that is lost meanwhile is found out by `receive`."""
        assert self._process.stdin is not None
        with suppress(trio.BrokenResourceError):
            await self._process.stdin.send_all(msgspec.json.encode(task) + b"\n")

    async def receive(self, seed: int) -> Answer:
        """Return the next answer. Raises `ProcessLost`."""
        assert self._process.stdout is not None
        while (end := self._read.find(b"\n")) < 0:
            data = await self._process.stdout.receive_some(READ_BYTES)
            if not data:
                raise await self._lost(seed)
            self._read += data
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        return msgspec.json.decode(line, type=Answer)

    async def end(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()
        await self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                await pipe.aclose()
        self._errors.close()

    async def _lost(self, seed: int) -> ProcessLost:
        code = await self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        words = "\n".join(["", *said[-LAST_WORDS_LINES:]])
        if code == -signal.SIGKILL:
            return ProcessLost(
                f"the process of the replication with seed {seed} was killed: "
                "most likely the system ran out of memory",
                f"--jobs 1 needs less; {SMALLER}",
            )
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        return ProcessLost(
            f"the process of the replication with seed {seed} ended with {how}{words}",
            "this is a fault of the simulator; please report it",
        )


def memory_available_bytes() -> int | None:
    """Return how much memory can still be taken; `None` where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name == "MemAvailable":
                    return int(rest.split()[0]) * 1024
    except OSError:
        pass
    return None


def _in_memory() -> str | None:
    """Return where the children's own files go: into memory, if the user does not say where."""
    return IN_MEMORY if "TMPDIR" not in os.environ and Path(IN_MEMORY).is_dir() else None


def _outcome(task: Task, done: Done, measured: Observations) -> Outcome:
    return Outcome(
        seed=task.seed,
        trace_hash=done.trace_hash,
        metrics_hash=done.metrics_hash,
        virtual_s=done.virtual_s,
        cpu_s=done.cpu_s,
        wall_s=done.wall_s,
        events=done.events,
        memory_peak_bytes=done.memory_peak_bytes,
        observations=measured,
        failure=done.failure,
        topology=done.topology,
        last=tuple(done.last),
    )
