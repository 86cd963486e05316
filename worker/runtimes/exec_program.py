"""Static executables as functions: a program of its own process, which has pipes for its world.

Standard input is the job's input, standard output the result, both JSON; no output is `null`.
Standard error goes to the job's log, and its last lines into the error where the exit status is
not 0.  Named blobs are files: `PEERNODE_INPUT_<name>` has the path of each.

The process of this file stays beside the program and is its parent: it speaks to the agent, which
the program cannot.  It runs no code of strangers itself.  The program is copied to a file in memory
before the walls close (`open_image`), and run from its descriptor, which closes at that moment:
behind walls there is nothing else that may be run, so this is the only `exec` that ever succeeds.
Each program has a parent of its own, which ends with its job: whoever shares a user with it can
change its limits.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INPUT_VARIABLE = "PEERNODE_INPUT_"
"""Before the name of a blob: the variable that has its file's path."""
TAIL_SIZE_MAX_BYTES = 2048
"""Most of standard error in an error's message. Source: half of the longest message."""
READ_BYTES = 65536
"""Source: a pipe's capacity."""
LEFT_READS_MAX = 16
"""Reads of a pipe when its program has ended: others may hold it. Source: a pipe of 1 MiB."""
MFD_CLOEXEC, MFD_EXEC = 1, 16
PR_SET_PDEATHSIG = 1
STDOUT, STDERR = 1, 2


def open_image(runtime: Any) -> tuple[int, str]:
    """Return a descriptor of a program's copy in memory, or -1 and why there is none.

    Before the walls close: behind them no memory file can be made.
    """
    elf = runtime.beside("edge_elf", os.path.join("..", "elf.py"))
    try:
        with open(runtime.artifact, "rb") as file:
            code = file.read()
        needed, here = elf.machine(code), os.uname().machine
        if needed != here:
            return -1, f"the executable is for {needed}, this worker is {here}"
        image = _memory_file()
        os.ftruncate(image, len(code))
        at = 0
        while at < len(code):
            at += os.write(image, memoryview(code)[at:])
        return image, ""
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return -1, "the executable is over output_bytes, which bounds its copy too"
        return -1, str(error)


def _memory_file() -> int:
    try:
        return os.memfd_create("program", MFD_CLOEXEC | MFD_EXEC)
    except OSError:  # before Linux 6.3 there is no such flag, and all can be run
        return os.memfd_create("program", MFD_CLOEXEC)


def load(runtime: Any) -> Any:
    """Return what runs the program for its job."""
    if runtime.image < 0:
        raise runtime.handling.Ended("setup_failed", runtime.unfit)
    return runtime.handling.Function(runtime.edge, runtime.program, lambda: Program(runtime))


class Program:
    """An executable: called for a job, with JSON values."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._ended = runtime.handling.Ended
        self._wake, writer = os.pipe()
        for end in (self._wake, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The first of a process namespace hears only what it has a handler for.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __call__(self, value: Any) -> Any:
        """Run the job. Raises `Ended`, and what `edge` raises."""
        edge = self._runtime.edge
        environment = {
            name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG") if name in os.environ
        }
        environment["PEERNODE_JOB"], attempt, _ = edge.running().job
        environment["PEERNODE_ATTEMPT"] = str(attempt)
        for name, blob in edge.running().inputs.items():
            if "=" in name or "\0" in name:
                message = f"inputs: {name!r} cannot be part of a variable's name"
                raise self._ended("function_error", message)
            environment[INPUT_VARIABLE + name] = blob.path()
        run = Run(self._runtime, self._wake)
        status = run.to_its_end(edge.encode(value), environment)
        tail = bytes(run.tail).decode("utf-8", "replace").strip()
        said = f":\n{tail}" if tail else ""
        if status == -signal.SIGXFSZ:
            raise self._ended("output_limit", f"it wrote a file over output_bytes{said}")
        if status < 0:
            raise self._ended("exited", f"it was ended by {_signal_name(-status)}{said}")
        if status:
            raise self._ended("function_error", f"it exited with status {status}{said}")
        if not run.result.strip():
            return None
        try:
            return json.loads(run.result.decode())
        except (ValueError, RecursionError) as error:
            raise self._ended("result_invalid", f"standard output is not JSON: {error}") from None


class Run:
    """One process of a program, and its three pipes."""

    def __init__(self, runtime: Any, wake: int) -> None:
        self._runtime = runtime
        self._wake = wake
        self._pid = 0
        self._status: int | None = None
        self._poll = select.poll()
        self.result = bytearray()
        self.tail = bytearray()
        """The last bytes of standard error."""

    def to_its_end(self, text: bytes, environment: dict[str, str]) -> int:
        """Start it, feed and hear it; return its exit status, negative: a signal's number."""
        stdin, stdout, stderr = self._start(environment)
        unsent = memoryview(text)
        poll = self._poll
        poll.register(self._wake, select.POLLIN)
        poll.register(stdin, select.POLLOUT)
        open_ends = {stdin, stdout, stderr}
        for end in open_ends:
            os.set_blocking(end, False)
        for end in (stdout, stderr):
            poll.register(end, select.POLLIN)
        while self._status is None:
            for end, _ in poll.poll():
                if end == self._wake:
                    self._reap()
                    continue
                if end == stdin:
                    unsent = self._feed(end, unsent)
                    over = not unsent
                else:
                    over = not self._hear(end, STDOUT if end == stdout else STDERR)
                if over:
                    poll.unregister(end)
                    os.close(end)
                    open_ends.discard(end)
        for end, stream in ((stdout, STDOUT), (stderr, STDERR)):
            reads = LEFT_READS_MAX if end in open_ends else 0
            try:
                while reads and self._hear(end, stream, wait=True):
                    reads -= 1
            except BlockingIOError:  # no more, for now; who still holds it is not waited for
                pass
        for end in open_ends:
            os.close(end)
        return self._status

    def _start(self, environment: dict[str, str]) -> tuple[int, int, int]:
        """Start the program; return our ends of its standard streams. Raises `Ended`."""
        stdin, our_stdin = os.pipe()
        our_stdout, stdout = os.pipe()
        our_stderr, stderr = os.pipe()
        failed, failing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._become((stdin, stdout, stderr), failing, environment)
        for end in (stdin, stdout, stderr, failing):
            os.close(end)
        # Closed, without a word, by the success of `exec`.
        why = os.read(failed, 16)
        os.close(failed)
        if why:
            message = f"the executable cannot be run: {os.strerror(int(why))}"
            raise self._runtime.handling.Ended("setup_failed", message)
        return our_stdin, our_stdout, our_stderr

    def _become(
        self, streams: tuple[int, int, int], failing: int, environment: dict[str, str]
    ) -> None:
        """Be the program. Does not return."""
        try:
            os.setsid()  # what it signals as its group is not its parent
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            for number, end in enumerate(streams):
                os.dup2(end, number)
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(ignored, signal.SIG_DFL)
            arguments = [self._runtime.program[0]]
            os.execve(self._runtime.image, arguments, environment)  # noqa: S606  (by descriptor)
        except (OSError, ValueError) as error:
            code = error.errno if isinstance(error, OSError) else None
            os.write(failing, b"%d" % (code or errno.EINVAL))
        finally:
            os._exit(127)

    def _feed(self, end: int, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(end, unsent[:READ_BYTES]) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:  # it does not want to know
            return unsent[:0]

    def _hear(self, end: int, stream: int, *, wait: bool = False) -> bool:
        """Take what it printed; return whether there may be more. Raises `Ended`."""
        try:
            data = os.read(end, READ_BYTES)
        except BlockingIOError:
            if wait:
                raise
            return True
        if stream == STDERR:
            if data:
                self._runtime.channel.output(STDERR, data)
            self.tail += data
            del self.tail[:-TAIL_SIZE_MAX_BYTES]
        else:
            self.result += data
            if len(self.result) > self._runtime.output_bytes:
                message = "it printed more than output_bytes"
                raise self._runtime.handling.Ended("output_limit", message)
        return bool(data)

    def _reap(self) -> None:
        """Take the ends of processes: its own, and those that it left to us."""
        try:
            while os.read(self._wake, READ_BYTES):
                pass
        except BlockingIOError:
            pass
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._pid:
                    self._status = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
