"""A child process as the agent holds it: start, frames, tickets, limits, end.

Jobs are written ahead: a child may have several in its socket, and runs one after another.  It may
start one only after drawing its *ticket* from a pipe.  The agent holds that pipe's reading end
too, and so can take back exactly those jobs that have not begun (`take_back`), at any moment,
without asking a process that may be busy for ever.

`Child` waits for nothing; `worker.supervisor` does.
"""

import math
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from worker import frames
from worker.output import Output
from worker.process_tree import kill_tree
from worker.protocol import Isolation, Lease, Program

PROGRAM_PATH: Final = Path(__file__).parent / "runtimes" / "python_child.py"

FILES_MAX: Final = 1024
"""Open files of a child. Source: the usual soft limit."""

READ_SIZE_BYTES: Final = 64 * 1024
"""Most bytes of one read of a pipe. Source: a pipe's capacity."""

PROCESSES_SLACK: Final = 16
"""By how much the kernel's own limit on processes is above ours. Source: guess; see `_limit`."""


Key = tuple[str, int, int, int, str]
"""What jobs must have in common to share a child: program, limits, isolation."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a child process is started: which program, what it sees, what is around it."""

    argv: tuple[str, ...]
    """The program and its first arguments; the socket's and the ticket pipe's descriptors and the
    agent's process number come behind them."""
    environment: Mapping[str, str]
    """All of its environment, beside `HOME` and `TMPDIR`, which are its scratch directory."""
    level: Isolation


ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}
"""All that a child may see of the environment: no token, no name of its owner."""


def start_python() -> Start:
    """Return how a blank native Python child is started at level `process`."""
    return Start((sys.executable, "-I", str(PROGRAM_PATH)), ENVIRONMENT, "process")


@dataclass(slots=True, eq=False)
class LoadedProgram:
    """A program, and what its jobs showed so far."""

    program: Program
    run_s: float = math.inf
    """Moving average of run times; infinite until one is known."""
    prints_raw: bool = False
    """Its output once came through the pipes, where only time tells whose it is."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of a job at this worker."""

    lease: Lease
    program: LoadedProgram
    key: Key
    output: Output = field(default_factory=Output)
    started_at_s: float = 0.0
    """Monotonic time at which it began, as far as known."""
    started_sent: bool = False
    heartbeat_at_s: float = 0.0
    progress: tuple[float | None, str] | None = None
    """Reported and not yet sent."""
    progress_at_s: float = -math.inf
    cpu_s: float = 0.0
    rss_max_bytes: int = 0
    """Measured from outside, for jobs that run long enough."""
    sequence: int = 0
    pinned: list[str] = field(default_factory=list)
    """Contents that must stay in the cache while it runs."""


def make_attempt(lease: Lease, program: LoadedProgram) -> Attempt:
    """Return a new attempt."""
    limits = lease.limits
    key = (
        lease.program,
        limits.memory_bytes,
        limits.output_bytes,
        limits.processes,
        lease.isolation,
    )
    return Attempt(lease, program, key)


class Child:
    """A process that is blank at first and then runs jobs of one key."""

    def __init__(self, start: Start, scratch: Path) -> None:
        """Start the process, with `scratch` (a directory of its own) to work in."""
        self.start = start
        self.scratch = scratch
        self.key: Key | None = None
        self.sent: deque[Attempt] = deque()
        """Jobs written to it and not over: the first runs, as far as anybody can tell."""
        self.unsent = bytearray()
        self.unread = bytearray()
        self.idle_at_s = 0.0
        self.ending = False
        """It gets nothing more, and is being ended."""
        self.closed = False
        """It has closed its socket."""
        self.fault = ""
        """What it did that made us end it, where only its exit status shows the outcome."""
        self.ready = False
        """It has finished a job."""
        self.pushing = False
        """Somebody waits to send `unsent`."""
        self.requests = 0
        """Requests without an answer."""
        self.known: list[int] = []
        """Processes below it, when last looked for."""
        self.nursery: trio.Nursery | None = None
        """Where tasks that end with it run."""
        self._runs: list[bytes] = []
        self._tickets: list[int] = []
        self._sequence = 0
        here, there = socket.socketpair()
        read, self._ticket_writer = os.pipe()
        # A description of its own: not blocking for the agent, blocking for the child.
        self._ticket_reader = os.open(f"/proc/self/fd/{read}", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._ticket_writer, False)
        here.setblocking(False)
        self.socket = here
        self._process = subprocess.Popen(
            [*start.argv, str(there.fileno()), str(read), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(there.fileno(), read),
            cwd=scratch,
            env={**start.environment, "HOME": str(scratch), "TMPDIR": str(scratch)},
            start_new_session=True,
            bufsize=0,
        )
        there.close()
        os.close(read)
        self.pid = self._process.pid
        self.exit_descriptor = os.pidfd_open(self.pid)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.pipes = (self._process.stdout.fileno(), self._process.stderr.fileno())
        self._pipes = select.poll()
        for pipe in self.pipes:
            os.set_blocking(pipe, False)
            self._pipes.register(pipe, select.POLLIN)

    @property
    def running(self) -> Attempt | None:
        """Return the job that runs, as far as can be told."""
        return self.sent[0] if self.sent else None

    def assign(self, attempt: Attempt, backends: list[str]) -> None:
        """Make a blank child one for jobs like `attempt`."""
        self.key = attempt.key
        _limit(self.pid, attempt)
        program = attempt.program.program
        setup = frames.Setup(
            program.program, program.entry, program.source, backends, str(self.scratch)
        )
        self._runs.append(frames.encode_frame(setup))

    def run(self, attempt: Attempt, now_s: float) -> None:
        """Write a job; `flush` sends it."""
        self._sequence += 1
        attempt.sequence = self._sequence
        if not self.sent:
            attempt.started_at_s = attempt.heartbeat_at_s = now_s
        lease = attempt.lease
        limits = lease.limits
        run = frames.Run(
            self._sequence,
            str(lease.job),
            lease.attempt,
            lease.deadline_ms,
            lease.input,
            lease.blobs,
            limits.result_bytes,
            limits.output_bytes,
        )
        self._runs.append(frames.encode_frame(run))
        self._tickets.append(self._sequence)
        self.sent.append(attempt)

    def flush(self) -> bool:
        """Send what was written; return whether something had to stay."""
        if self._runs:
            self.unsent += b"".join(self._runs)
            self._runs.clear()
        left = self.push()
        if self._tickets:
            # After the jobs: an idle child waits for a ticket, and should be woken once.
            tickets = b"".join(
                number.to_bytes(frames.TICKET_BYTES, "big") for number in self._tickets
            )
            self._tickets.clear()
            with suppress(BrokenPipeError):
                os.write(self._ticket_writer, tickets)
        return left

    def reply(self, reply: frames.Reply) -> bool:
        """Send an answer; return whether something had to stay."""
        self._runs.append(frames.encode_frame(reply))
        return self.flush()

    def push(self) -> bool:
        """Send what the socket takes of `unsent`; return whether something had to stay."""
        if self.unsent:
            try:
                sent = self.socket.send(self.unsent)
                del self.unsent[:sent]
            except BlockingIOError:
                pass
            except OSError:  # it is gone; its end is seen elsewhere
                self.unsent.clear()
        return bool(self.unsent)

    def take_back(self) -> list[Attempt]:
        """Take back all jobs that have not begun and return them, in their order."""
        drawn = b""
        with suppress(BlockingIOError):
            drawn = os.read(self._ticket_reader, READ_SIZE_BYTES)
        size = frames.TICKET_BYTES
        numbers = {
            int.from_bytes(drawn[at : at + size], "big") for at in range(0, len(drawn), size)
        }
        back = [attempt for attempt in self.sent if attempt.sequence in numbers]
        for attempt in back:
            self.sent.remove(attempt)
        return back

    def read_pipe(self, stream: int, wall_ms: int) -> bool:
        """Give what stands in a pipe (1: stdout, 2: stderr) to the running job, in one read.

        Returns whether there was anything.
        """
        try:
            data = os.read(self.pipes[stream - 1], READ_SIZE_BYTES)
        except OSError:
            return False
        if data and self.sent:
            attempt = self.sent[0]
            attempt.program.prints_raw = True
            attempt.output.feed(stream, data, wall_ms)
        return bool(data)

    def piped(self) -> bool:
        """Return whether anything stands in the pipes. One system call."""
        return bool(self._pipes.poll(0))

    def is_over(self) -> bool:
        """Return whether the process has ended."""
        return bool(select.select([self.exit_descriptor], [], [], 0)[0])

    def kill(self) -> None:
        """Kill the process and everything below it; its end is then seen by who waits for it."""
        self.ending = True
        kill_tree(self.pid)

    def reap(self) -> int:
        """Wait for the process, which is over, release all, and return its exit status.

        Negative: the signal that ended it.
        """
        status = self._process.wait()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()
        self.socket.close()
        for descriptor in (self._ticket_writer, self._ticket_reader, self.exit_descriptor):
            os.close(descriptor)
        return status


def describe_exit(status: int) -> str:
    """Return an exit status in words."""
    if status >= 0:
        return f"its process exited with status {status}"
    with suppress(ValueError):
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process was ended by signal {-status}"


def _limit(pid: int, attempt: Attempt) -> None:
    """Set the kernel's limits of a blank child."""
    limits = attempt.lease.limits
    wanted = {
        resource.RLIMIT_DATA: limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.output_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: FILES_MAX,
    }
    if os.geteuid() != 0:
        # The kernel counts all of a user's processes, and takes root's for unlimited. This is a
        # second wall: the first is counting, which names the limit that was broken.
        wanted[resource.RLIMIT_NPROC] = _own_tasks() + limits.processes + PROCESSES_SLACK
    with suppress(ProcessLookupError):
        for name, value in wanted.items():
            _, hard = resource.prlimit(pid, name)
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, name, (most, most))


def _own_tasks() -> int:
    user = os.geteuid()
    return sum(1 for task in _task_directories() if task.stat().st_uid == user)


def _task_directories() -> Iterable[os.DirEntry[str]]:
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                with suppress(OSError), os.scandir(f"{entry.path}/task") as tasks:
                    yield from tasks
