"""A child process as the agent holds it: start, frames, tickets, limits, end.

Jobs are written ahead: a child may have several in its socket, and runs one after another.  It may
start one only after drawing its *ticket* from a pipe.  The agent holds that pipe's reading end
too, and so can take back exactly those jobs that have not begun (`take_back`), at any moment,
without asking a process that may be busy for ever.

`Child` waits for nothing; `worker.supervisor` does.
"""

import math
import os
import select
import signal
import socket
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import trio

from worker import frames
from worker.output import Output
from worker.protocol import Isolation, Lease, Limits, Program
from worker.redaction import Redaction
from worker.sandbox.cell import Cell, Descriptors, Sandbox, Start

PROGRAM_PATH: Final = Path(__file__).parent / "runtimes" / "python_child.py"

READ_SIZE_BYTES: Final = 64 * 1024
"""Most bytes of one read of a pipe. Source: a pipe's capacity."""

WASM_OVERHEAD_BYTES: Final = 256 * 1024 * 1024
"""What a process around WebAssembly takes beside the module's own memory. Source: 110 MB measured
with the compiled interpreter, of which most is shared by all; doubled."""

Key = tuple[str, int, int, int, int | None, str]
"""What jobs must have in common to share a child: program, limits, isolation."""


ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}
"""All that a child may see of the environment: no token, no name of its owner."""


WASM_ENVIRONMENT: Final = {**ENVIRONMENT, "EDGE_PRELOAD": "wasmtime"}
"""The same where WebAssembly runs; what is imported ahead is most of a first call."""


def start_python(level: Isolation) -> Start:
    """Return how a blank child is started at a level."""
    environment = WASM_ENVIRONMENT if level == "wasm" else ENVIRONMENT
    return Start((sys.executable, "-I", str(PROGRAM_PATH)), environment, level)


@dataclass(slots=True, eq=False)
class LoadedProgram:
    """A program, and what its jobs showed so far."""

    program: Program
    run_s: float = math.inf
    """Moving average of run times; infinite until one is known."""
    artifact: str = ""
    """Path of what runs, for programs that were prepared (`worker.preparing`)."""
    packages: str = ""
    """Path of the packages it brings, once they are installed (`worker.packages`)."""
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
    artifact: str = ""
    """Path of what runs where that is not the program's source."""
    pinned: list[str] = field(default_factory=list)
    """Contents that must stay in the cache while it runs."""

    @property
    def process_limits(self) -> Limits:
        """Return the limits of its process and all below it."""
        limits = self.lease.limits
        if self.lease.isolation != "wasm":
            return limits
        # wasmtime starts a thread for each core.
        return msgspec.structs.replace(
            limits,
            memory_bytes=limits.memory_bytes + WASM_OVERHEAD_BYTES,
            processes=limits.processes + (os.cpu_count() or 1),
        )

    @property
    def jobs_per_process(self) -> int | None:
        """Return how many jobs its process may run: an executable's parent has one."""
        if self.program.program.runtime == "exec":
            return 1
        return self.lease.limits.jobs_per_process

    @property
    def runtime(self) -> str:
        """Return what runs it, as `frames.Setup` names it."""
        runtime = self.program.program.runtime
        inside = runtime == "python" and self.lease.isolation == "wasm"
        return "wasm-python" if inside else runtime


def make_attempt(lease: Lease, program: LoadedProgram) -> Attempt:
    """Return a new attempt."""
    limits = lease.limits
    key = (
        lease.program,
        limits.memory_bytes,
        limits.output_bytes,
        limits.processes,
        limits.jobs_per_process,
        lease.isolation,
    )
    return Attempt(lease, program, key)


class Child:
    """A process that is blank at first and then runs jobs of one key."""

    def __init__(self, start: Start, sandbox: Sandbox, directory: Path) -> None:
        """Start the process, with `directory`, which is made for it. Raises `OSError`."""
        self.start = start
        self.directory = directory
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
        self.redaction = Redaction()
        """What must not be seen of what its jobs say: the secrets that any of them was given."""
        self.nursery: trio.Nursery | None = None
        """Where tasks that end with it run."""
        self.packages = ""
        """Path of the packages that its program brings."""
        self._jobs = 0
        """Jobs given to it, beside those taken back."""
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
        stdout, child_stdout = os.pipe()
        stderr, child_stderr = os.pipe()
        self.pipes = (stdout, stderr)
        theirs = Descriptors(there.fileno(), read, child_stdout, child_stderr)
        try:
            self._cell: Cell = sandbox.start(start, directory, theirs)
        except OSError:
            self._close()
            raise
        finally:
            there.close()
            for descriptor in (read, child_stdout, child_stderr):
                os.close(descriptor)
        self.pid = self._cell.pid
        self.exit_descriptor = os.pidfd_open(self.pid)
        # Not `select`, which knows no descriptor above 1023, and 170 children have so many.
        self._exit = select.poll()
        self._exit.register(self.exit_descriptor, select.POLLIN)
        self._pipes = select.poll()
        for pipe in self.pipes:
            os.set_blocking(pipe, False)
            self._pipes.register(pipe, select.POLLIN)

    @property
    def running(self) -> Attempt | None:
        """Return the job that runs, as far as can be told."""
        return self.sent[0] if self.sent else None

    def takes(self, attempt: Attempt) -> bool:
        """Return whether it may run `attempt` too, after what it runs."""
        most = attempt.jobs_per_process
        return self.key == attempt.key and (most is None or self._jobs < most)

    def is_spent(self, attempt: Attempt) -> bool:
        """Return whether `attempt`, which is over, was the last that it may run."""
        return self._jobs == attempt.jobs_per_process

    def assign(self, attempt: Attempt, backends: list[str]) -> None:
        """Make a blank child one for jobs like `attempt`."""
        self.key = attempt.key
        limits = attempt.lease.limits
        self._cell.limit(attempt.process_limits)
        program = attempt.program.program
        self.packages = attempt.program.packages
        setup = frames.Setup(
            program.program,
            program.entry,
            b"" if attempt.program.artifact else program.source,
            backends,
            self._cell.scratch,
            attempt.runtime,
            self._artifact(attempt),
            self._cell.packages(self.packages) if self.packages else "",
            limits.memory_bytes,
            limits.output_bytes,
            limits.processes,
        )
        self._runs.append(frames.encode_frame(setup))

    def _artifact(self, attempt: Attempt) -> str:
        """Return the path of what runs, as the child sees it: readable until its first job ends."""
        if attempt.artifact:
            return attempt.artifact
        return self._cell.admit(attempt.program.artifact) if attempt.program.artifact else ""

    def run(self, attempt: Attempt, now_s: float) -> None:
        """Write a job; `flush` sends it."""
        self._jobs += 1
        self._sequence += 1
        attempt.sequence = self._sequence
        self.redaction.adopt(attempt.output.redaction)  # if it has begun elsewhere before
        attempt.output.redaction = self.redaction
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
        self._jobs -= len(back)
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
        return bool(self._exit.poll(0))

    def admit(self, path: str) -> str:
        """Let the running job read a file; return where it sees it. Raises `OSError`."""
        return self._cell.admit(path)

    def over(self) -> None:
        """A job is over: take back what it was given."""
        self._cell.clear()

    def kill(self) -> None:
        """Kill the process and everything below it; its end is then seen by who waits for it."""
        self.ending = True
        self._cell.kill()

    def reap(self) -> int:
        """Wait for the process, which is over, release all, and return its exit status.

        Negative: the signal that ended it.
        """
        status = self._cell.reap()
        os.close(self.exit_descriptor)
        self._close()
        return status

    def remove(self) -> bool:
        """Remove its directory if that is quick; return whether it is removed."""
        return self._cell.remove()

    def _close(self) -> None:
        self.socket.close()
        for descriptor in (self._ticket_writer, self._ticket_reader, *self.pipes):
            os.close(descriptor)


def describe_exit(status: int) -> str:
    """Return an exit status in words."""
    if status >= 0:
        return f"its process exited with status {status}"
    with suppress(ValueError):
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process was ended by signal {-status}"
