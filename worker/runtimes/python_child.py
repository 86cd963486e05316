"""The process that runs functions: started by the agent, one program for life.

Run as `python -I python_child.py SOCKET TICKETS`, two file descriptors:

* the socket carries frames both ways: four bytes of length, then a CBOR array whose first element
  is the kind (`worker.frames` has the agent's side of them);
* the ticket pipe carries eight bytes, a sequence number, for each job that may start.  The agent
  writes jobs ahead; one whose ticket it has taken back is never started, and is dropped here.

It first waits blank, without a program: starting an interpreter is most of a cold call, and so
can be done before anybody asks.  Then it gets a program (`SETUP`), loads it when its first job
runs, and calls the handler for one job after another.  A native Python program is called by
`handling`; what runs those of other runtimes stands in the files that `PROGRAMS` names, each with
a `load`, and is loaded by its path when a program wants it.  What a job leaves behind (threads,
processes, a working directory that cannot be emptied) is reported with its outcome, and the agent
then ends this process.

It imports as little as possible, and of the platform only `edge` and `handling`, by their paths;
that is why it is one long file, and speaks CBOR by itself.  Foreign code
runs in this very process and can break anything here; what must hold is held by the agent.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import ctypes
import errno
import importlib.util
import io
import os
import resource
import sys
import time
import types

import cbor2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, BinaryIO

    from typing_extensions import Buffer

# From the agent.
SETUP = 1
RUN = 2
REPLY = 3
# To the agent.
DONE = 1
OUTPUT = 2
PROGRESS = 3
REQUEST = 4

LOG, STDOUT, STDERR = 0, 1, 2

TICKET_BYTES = 8
READ_BYTES = 65536
OUTPUT_SIZE_MAX_BYTES = 64 * 1024
"""Most output in one frame. Source: a pipe's capacity."""
FAULTS_MAX = 2048
"""Page faults in a job from which its peak memory is looked up. Source: 8 MiB of pages."""
TICK_NS = 50_000_000
"""Longer than any kernel's tick. Source: 10 ms, the slowest, with room."""

PROGRAMS = {
    "wasm": "wasm_module.py",
    "wasm-python": "wasm_python.py",
    "onnx": "onnx_model.py",
    "exec": "exec_program.py",
}
"""Runtime, as `SETUP` names it -> the file here whose `load(runtime)` returns what runs its jobs:
an object with the method `outcome` of `handling.Function`."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SIGKILL = 9


class Channel:
    """The socket to the agent: whole frames, safe for threads; `edge` calls go through it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = bytearray()
        self._ahead: collections.deque[list[Any]] = collections.deque()
        self._writing = _thread.allocate_lock()
        self._asking = _thread.allocate_lock()
        self._number = 0
        self.engine: Callable[[], Any] | None = None

    def next_frame(self) -> list[Any]:
        """Return the next frame for the main loop."""
        return self._ahead.popleft() if self._ahead else self._read()

    def write(self, frame: list[Any]) -> None:
        """Send one frame."""
        body = cbor2.dumps(frame)
        data = len(body).to_bytes(4, "big") + body
        with self._writing:
            sent = os.write(self._descriptor, data)
            while sent < len(data):
                sent += os.write(self._descriptor, data[sent : sent + READ_BYTES])

    def request(self, operation: str, arguments: dict[str, Any]) -> tuple[str, Any]:
        """Ask the agent and wait for its answer."""
        with self._asking:
            self._number += 1
            self.write([REQUEST, self._number, operation, arguments])
            while True:
                frame = self._read()
                if frame[0] != REPLY:
                    self._ahead.append(frame)
                elif frame[1] == self._number:
                    return frame[2], frame[3]

    def progress(self, fraction: float | None, message: str) -> None:
        """Send progress."""
        self.write([PROGRESS, fraction, message.encode("utf-8", "replace").decode()])

    def log(self, text: str) -> None:
        """Send a line of `edge.log`."""
        self.output(LOG, text.encode("utf-8", "replace") + b"\n")

    def output(self, stream: int, data: bytes) -> None:
        """Send what was printed."""
        for start in range(0, len(data), OUTPUT_SIZE_MAX_BYTES):
            self.write([OUTPUT, stream, data[start : start + OUTPUT_SIZE_MAX_BYTES]])

    def infer(
        self, cid: str, path: str, inputs: Mapping[str, Any], strict: bool
    ) -> tuple[dict[str, Any], str]:
        """Run a model in this process."""
        if self.engine is None:
            raise RuntimeError("no program is loaded")
        outputs, backend = self.engine().run(cid, path, inputs, strict)
        return outputs, backend

    def open(self, path: str) -> BinaryIO:
        """Open a local copy of a content."""
        return open(path, "rb")

    def close(self) -> None:
        """Let go of the agent: what a forked process does first."""
        os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> list[Any]:
        unread = self._unread
        while True:
            if len(unread) >= 4:
                end = 4 + int.from_bytes(unread[:4], "big")
                if len(unread) >= end:
                    frame: list[Any] = cbor2.loads(bytes(unread[4:end]))
                    del unread[:end]
                    return frame
            data = os.read(self._descriptor, READ_BYTES)
            if not data:
                os._exit(0)
            unread += data


class Stream(io.RawIOBase):
    """Standard output or error of Python code, as frames: in order with the outcomes."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel = channel
        self._number = number

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Buffer) -> int:
        """Send bytes."""
        view = bytes(data)
        self._channel.output(self._number, view)
        return len(view)

    def fileno(self) -> int:
        """Return the descriptor that programs started from here inherit."""
        return self._number


class Runtime:
    """The main loop."""

    def __init__(
        self,
        socket: int,
        tickets: int,
        harden: Callable[[str, int, int, int, int], str] | None = None,
        proc: tuple[int, int] | None = None,
    ) -> None:
        """`harden` is called before foreign code is there: with the directory of the program's
        packages, the descriptor of the one program that may be run (-1: none), bytes of memory and
        of output, and a number of processes.  It returns where the packages are from then on.

        `proc` are descriptors of this process's `status` and `clear_refs`, where `/proc` is not.
        """
        self.channel = Channel(socket)
        self._harden = harden
        self._proc = proc
        self.full = (errno.EFBIG, errno.ENOSPC) if harden else (errno.EFBIG,)
        """What errors say that the job wrote too much: elsewhere the disk is others' too."""
        self.channel.engine = self.engine
        self._tickets = tickets
        self.edge = load_edge()
        self.handling = load_beside("edge_handling", "handling.py")
        self.beside = load_beside
        self.runtime = "python"
        self.program: tuple[str, str, bytes] = ("", "", b"")
        """Name, entry and source."""
        self.artifact = ""
        """The path of what runs, where that is not the source: a model, a compiled module."""
        self.image, self.unfit = -1, ""
        """A descriptor of the executable, or why there is none."""
        self.memory_bytes = 0
        self.output_bytes = 0
        self._backends: list[str] = []
        self._scratch = ""
        self._mark: tuple[int, int, int, int] | None = None
        """What the scratch directory's status is as long as it is empty."""
        self._function: Any = None
        self._inference: Any = None
        self._streams: list[io.TextIOWrapper] = []
        self._children_cpu_s = 0.0
        self._open_streams()
        compile("", "<nothing>", "exec")  # the first makes a hundred classes: 1.4 ms

    def run(self) -> None:
        """Be the process that runs jobs, until the agent is gone."""
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._peak_bytes = peak_memory_bytes(self._proc)
        os.register_at_fork(after_in_child=self._forked)
        sys.stdout, sys.stderr = self._streams
        while True:
            ticket = os.read(self._tickets, TICKET_BYTES)
            if len(ticket) != TICKET_BYTES:
                os._exit(0)
            self._run(self._take(int.from_bytes(ticket, "big")))

    def _take(self, sequence: int) -> list[Any]:
        """Return the job of that number, dropping those whose tickets were taken back."""
        while True:
            frame = self.channel.next_frame()
            if frame[0] == SETUP:
                self._set_up(*frame[1:])
            elif frame[0] == RUN and frame[1] == sequence:
                return frame

    def _set_up(
        self,
        name: str,
        entry: str,
        source: bytes,
        backends: list[str],
        scratch: str,
        runtime: str,
        artifact: str,
        packages: str,
        memory_bytes: int,
        output_bytes: int,
        processes: int,
    ) -> None:
        """Be the process of one program from now on: `worker.frames.Setup` says what each is."""
        self.program = (name, entry, source)
        self.runtime, self.artifact = runtime, artifact
        self.memory_bytes, self.output_bytes = memory_bytes, output_bytes
        self._backends, self._scratch = backends, scratch
        if runtime == "exec":  # while it can be read
            program = load_beside("exec", PROGRAMS["exec"])
            self.image, self.unfit = program.open_image(self)
        if self._harden is not None:
            packages = self._harden(packages, self.image, memory_bytes, output_bytes, processes)
        if packages:
            bring(packages)
        os.chdir(scratch)

    def _run(self, frame: list[Any]) -> None:
        _, sequence, job, attempt, deadline_ms, text, blobs, result_max, output_max = frame
        edge = self.edge
        session = edge.Session(self.channel, (job, attempt, deadline_ms), output_max)
        edge.bind(session)
        begin_s = time.perf_counter()
        code, payload, trace = self._outcome(session, text, blobs, result_max, output_max)
        dirty = code in ("memory_limit", "exited", "setup_failed")
        if self._function is not None and self._function.fresh:
            dirty = False
        try:
            for stream in self._streams:
                stream.flush()
        except ValueError:  # the function closed it
            self._open_streams()
            sys.stdout, sys.stderr = self._streams
        session.close()
        edge.bind(None)
        wall_s = time.perf_counter() - begin_s
        cpu_s, peak_bytes = self._measure(wall_s)
        dirty = self._leftovers() or dirty
        writes = session.writes if code is None else []
        outcome = [DONE, sequence, code, payload, trace]
        outcome += [wall_s, cpu_s, peak_bytes, session.backend, writes, dirty]
        self.channel.write(outcome)
        while dirty:  # this process is ended now, and must begin no other job
            self.channel.next_frame()

    def _outcome(
        self, session: Any, text: bytes, blobs: dict[str, int], result_max: int, output_max: int
    ) -> tuple[str | None, bytes, str]:
        """Run a job; return the error code or `None`, the payload and the traceback."""
        if self._function is None:
            try:
                self._function = self._open()
            except self.handling.Ended as error:
                return error.code, str(error).encode(), error.trace
            except BaseException as error:  # noqa: BLE001  (a program may be anything)
                return ("setup_failed", *self.handling.describe(error, self.program))
        outcome: tuple[str | None, bytes, str] = self._function.outcome(
            session, text, blobs, result_max, output_max
        )
        return outcome

    def _open(self) -> Any:
        """Return what runs the program's jobs, by its runtime."""
        file = PROGRAMS.get(self.runtime)
        if file is None:
            return self.handling.Function(self.edge, self.program, full=self.full)
        return load_beside(self.runtime, file).load(self)

    def engine(self) -> Any:
        """Return what runs models in this process."""
        if self._inference is None:
            module = load_beside("edge_inference", os.path.join("..", "inference.py"))
            self._inference = module.Engine(self._backends)
        return self._inference

    def _measure(self, wall_s: float) -> tuple[float, int]:
        """Return the CPU seconds since the last call, and the peak memory in bytes."""
        before, usage = self._usage, resource.getrusage(resource.RUSAGE_SELF)
        self._usage = usage
        cpu_s = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
        if wall_s > 0.005 or usage.ru_minflt - before.ru_minflt > FAULTS_MAX:
            # Looked up only where it can have changed; the peak is then reset for the next job.
            self._peak_bytes = peak_memory_bytes(self._proc)
            below = resource.getrusage(resource.RUSAGE_CHILDREN)
            children_cpu_s = below.ru_utime + below.ru_stime
            cpu_s += children_cpu_s - self._children_cpu_s
            self._children_cpu_s = children_cpu_s
        return max(cpu_s, 0.0), self._peak_bytes

    def _leftovers(self) -> bool:
        """Tidy up after a job; return whether something is left that this process cannot end."""
        dirty = _thread._count() > 0  # noqa: SLF001  (20 ns; `threading` costs an import)
        try:
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
                if found is None:  # a living child
                    dirty = True
                    break
        except ChildProcessError:
            pass
        return self._untidy() or dirty

    def _untidy(self) -> bool:
        """Empty the scratch directory and go back there; return whether that failed."""
        try:
            here = os.stat(".")
            if self._mark == (here.st_ino, here.st_dev, here.st_nlink, here.st_mtime_ns):
                return False
            os.chdir(self._scratch)
            if os.listdir(self._scratch):
                wipe(self._scratch)
            here = os.stat(".")
        except OSError:
            return True
        # A directory's time moves with the kernel's tick: only an old one tells that nothing
        # happened since, and saves listing the directory after each job.
        if time.clock_gettime_ns(time.CLOCK_REALTIME) - here.st_mtime_ns > TICK_NS:
            self._mark = (here.st_ino, here.st_dev, here.st_nlink, here.st_mtime_ns)
        return False

    def _open_streams(self) -> None:
        self._streams = [
            io.TextIOWrapper(
                io.BufferedWriter(Stream(self.channel, number), OUTPUT_SIZE_MAX_BYTES),
                encoding="utf-8",
                errors="backslashreplace",
                line_buffering=True,
            )
            for number in (STDOUT, STDERR)
        ]

    def _forked(self) -> None:
        """A process forked by the function: it prints to the pipes and has no agent."""
        self.edge.bind(None)
        self.channel.close()
        os.close(self._tickets)
        self._tickets = -1
        for name, number in (("stdout", STDOUT), ("stderr", STDERR)):
            file = os.fdopen(number, "w", 1, "utf-8", "backslashreplace", closefd=False)
            setattr(sys, name, file)


def load_beside(name: str, path: str) -> types.ModuleType:
    """Import a file next to this one under `name`."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(name, os.path.normpath(os.path.join(here, path)))
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_edge() -> types.ModuleType:
    """Return what function code imports as `edge`."""
    return sys.modules.get("edge") or load_beside("edge", os.path.join("..", "edge.py"))


def bring(packages: str) -> None:
    """Have what lies in a directory importable: behind the standard library, before what the
    worker has installed. `edge` is imported already, and so stays what it is; what we imported for
    ourselves is ours, and under its name stands what the program brings."""
    sites = ("site-packages", "dist-packages")
    found = [at for at, path in enumerate(sys.path) if os.path.basename(path) in sites]
    sys.path.insert(found[0] if found else len(sys.path), packages)
    sys.dont_write_bytecode = True  # It is other jobs' too.
    kept = {*sys.stdlib_module_names, "__main__"}
    brought = {name.partition(".")[0] for name in os.listdir(packages)} - kept
    for name in [name for name in sys.modules if name.partition(".")[0] in brought]:
        del sys.modules[name]


def peak_memory_bytes(proc: tuple[int, int] | None) -> int:
    """Return this process's peak resident memory since the last call, and begin anew.

    `proc`: descriptors of its `status` and `clear_refs`, if they are open.
    """
    try:
        if proc is not None:
            status = os.pread(proc[0], READ_BYTES, 0)
            os.write(proc[1], b"5")
        else:
            with open("/proc/self/status", "rb") as file:
                status = file.read()
            with open("/proc/self/clear_refs", "wb") as file:
                file.write(b"5")
        line = status[status.index(b"VmHWM:") :].split(b"\n", 1)[0]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 0


def wipe(directory: str) -> None:
    """Remove everything in a directory, however deep. Raises `OSError` if something stays.

    Deeper directories are moved up first, so neither paths nor recursion grow with the depth.
    """
    moved = 0
    while names := os.listdir(directory):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.isdir(path) or os.path.islink(path):
                os.unlink(path)
                continue
            for entry in list(os.scandir(path)):
                if entry.is_dir(follow_symlinks=False):
                    moved += 1
                    os.rename(entry.path, os.path.join(directory, f"wiped.{moved}.{os.getpid()}"))
                else:
                    os.unlink(entry.path)
            os.rmdir(path)


def main() -> None:
    """Prepare this process and run jobs."""
    library = ctypes.CDLL(None)
    library.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != int(sys.argv[3]):  # the agent ended before the first call took effect
        os._exit(0)
    for name in os.environ.pop("EDGE_PRELOAD", "").split():
        with contextlib.suppress(ImportError):  # whoever needs it says so
            importlib.import_module(name)
    runtime = Runtime(int(sys.argv[1]), int(sys.argv[2]))
    del sys.argv[1:]
    try:
        runtime.run()
    finally:
        # Reached by a process that the function forked and that came back here, or when the
        # function closed our descriptors.
        os._exit(1)


if __name__ == "__main__":
    main()
