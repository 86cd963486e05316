"""Runs attempts in child processes, within their limits: the worker's own small scheduler.

At most `slots` children run jobs at once.  Attempts wait in the order of their leases; one that
can be placed is written to a child that is warm for it (same program, limits and isolation), or
to the *spare*, a blank interpreter started ahead, or else to a new child.  When all slots are
taken, jobs of a program whose run times are short are written ahead into a busy child, about
`AHEAD_S` of work, so that it need not wait for us between two jobs; what was written behind a job
that then takes long is taken back (`Child.take_back`) and placed anew.

Limits are held here, in one tick: run time, heartbeat, output, and those of whole trees
(`worker.tree_limits`).  The kernel's own limits (`worker.child`) come first where they can.  Ending
an attempt kills its child's whole tree at once; other jobs in that child that had not begun run
elsewhere and nobody notices.

All state changes are synchronous; the tasks (`_serve` and below) only wait and call in.  They stand
in one module, although it is long, because they share one invariant: each attempt is in exactly
one place, waiting, in one child, or reported.
"""

import math
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from storage.clock import Clock
from worker import frames
from worker.child import Attempt, Child, describe_exit, start_python
from worker.process_tree import kill_orphans, process_table
from worker.protocol import STARTED_DELAY_S, ErrorCode, Isolation, Usage
from worker.reports import Outcome, Reports
from worker.sandbox.cell import Sandbox, Start
from worker.sandbox.errors import SandboxBroken
from worker.sandbox.native import NativeSandbox
from worker.sandbox.plain import PlainSandbox
from worker.scratch import remove_tree
from worker.tree_limits import TreeLimits

TICK_S: Final = 0.02
"""Time between two looks while jobs run. Source: `STARTED_DELAY_S`."""
IDLE_TICK_S: Final = 0.1
"""Time between two looks while none does. Source: guess; a limit is kept this late at most."""
AHEAD_S: Final = 0.01
"""Work written ahead into a busy child. Source: guess, some tens of trips to it and back."""
AHEAD_LENGTH_MAX: Final = 32
"""Most jobs in one child. Source: the gain of more was not measurable."""
AHEAD_RUN_MAX_S: Final = 0.005
"""Average run time from which nothing is written ahead. Source: guess, half of `AHEAD_S`."""
AHEAD_INPUT_MAX_BYTES: Final = 32 * 1024
"""Largest input written ahead. Source: a sixth of a socket's buffer."""
AVERAGE_WEIGHT: Final = 0.2
"""Weight of the newest run time in a program's average. Source: guess."""
CHILD_IDLE_MAX_S: Final = 60.0
"""A child without a job for this long is ended. Source: guess."""
CHILDREN_IDLE_MAX: Final = 8
"""Most warm children beside those that run jobs. Source: guess, 15 MB each."""
CLOSED_GRACE_S: Final = 0.1
"""How long a process may live without a connection to us. Source: guess, an exit takes 10 ms."""
REQUESTS_MAX: Final = 4
"""Most unanswered requests of one child; ours has at most one. Source: guess."""
PROGRESS_INTERVAL_S: Final = 0.1
"""Least time between two progress messages of a job. Source: the protocol."""
READ_SIZE_BYTES: Final = 256 * 1024
"""Most bytes of one read from a child's socket. Source: a socket's buffer."""
ERROR_SIZE_MAX_BYTES: Final = 64 * 1024
"""Largest error message of a child. Source: four times what ours sends, in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a supervisor works."""

    slots: int
    scratch: Path
    """An existing directory; each child gets one of its own in it."""
    levels: tuple[Isolation, ...] = ("process",)
    """Isolation levels that are offered, most usual first."""
    backends: tuple[str, ...] = ()
    adopts_orphans: bool = False
    """This process is a worker and nothing else: children that it did not start are orphans of
    functions, and are killed."""
    child_idle_max_s: float = CHILD_IDLE_MAX_S
    children_idle_max: int = CHILDREN_IDLE_MAX


class Supervisor:
    """Attempts and the children that run them."""

    def __init__(
        self, config: Config, reports: Reports, clock: Clock, nursery: trio.Nursery
    ) -> None:
        self._config = config
        self._reports = reports
        self._clock = clock
        self._nursery = nursery
        self._waiting: deque[Attempt] = deque()
        self._children: list[Child] = []
        self._started = 0
        self._orphans = False
        here = os.getpid()
        self._foreign: list[int] = []
        """Children of this process that were there before us."""
        if config.adopts_orphans:
            rows = process_table().values()
            self._foreign = [process.pid for process in rows if process.parent == here]
        self._trees = TreeLimits()
        self._sandboxes: dict[Isolation, Sandbox] = {
            "process": PlainSandbox(),
            "sandbox": NativeSandbox(config.scratch),
            "wasm": PlainSandbox(),  # the walls are the virtual machine's
        }
        self._kinds = {start_python(level): None for level in config.levels[:1]}
        """How children are started that jobs asked for, or will at first."""
        self._broken: dict[Isolation, str] = {}
        """Levels that could not be given, and why: until a job tries again, and fails of it."""

    @contextmanager
    def knowing(self, pid: int) -> Iterator[None]:
        """Leave a child of this process that is not ours alone, for as long as the block runs."""
        self._foreign.append(pid)
        try:
            yield
        finally:
            self._foreign.remove(pid)

    # --- what the agent asks ------------------------------------------------------------------

    def submit(self, attempt: Attempt) -> None:
        """Take an attempt; `pump` places it."""
        self._waiting.append(attempt)

    def pump(self) -> None:
        """Place what waits, as far as there is room, and send it."""
        now_s = trio.current_time()
        touched: dict[Child, None] = {}
        while self._waiting:
            child = self._place(self._waiting[0], now_s)
            if child is None:
                why = self._broken.pop(self._waiting[0].lease.isolation, None)
                if why is None:
                    break
                attempt = self._waiting.popleft()
                attempt.started_at_s = now_s
                self._fail(attempt, "setup_failed", why)
                continue
            child.run(self._waiting.popleft(), now_s)
            touched[child] = None
        for child in touched:
            if child.flush():
                self._push_later(child)
        if any(child.is_spent(child.sent[-1]) for child in touched if child.sent):
            self._start_spares()  # while these run

    def take_back(self, attempt: Attempt) -> bool:
        """Take `attempt` out if it has not begun; return whether it had not."""
        if attempt in self._waiting:
            self._waiting.remove(attempt)
            return True
        child = self._holder(attempt)
        if child is None:
            return False
        back = child.take_back()
        found = attempt in back
        self._requeue([other for other in back if other is not attempt])
        self._rest(child)
        return found

    def kill(self, attempt: Attempt) -> None:
        """End `attempt` and all it started, and report nothing."""
        if self.take_back(attempt):
            return
        child = self._holder(attempt)
        if child is None:
            return
        self._read_frames(child)
        if attempt in child.sent:  # it has not just ended
            child.sent.remove(attempt)
            self._end(child)

    def drain(self) -> list[Attempt]:
        """Take out and return everything that has not begun."""
        back: list[Attempt] = []
        for child in self._children:
            back += child.take_back()
            self._rest(child)
        back += self._waiting
        self._waiting.clear()
        return back

    def packages(self) -> list[str]:
        """Return the directories of packages that living children use, and what waits for one."""
        used = [child.packages for child in self._children]
        used += [attempt.program.packages for attempt in self._waiting]
        return list(filter(None, used))

    def close(self) -> None:
        """Start no child any more."""
        for sandbox in self._sandboxes.values():
            sandbox.close()

    # --- placing ------------------------------------------------------------------------------

    def _place(self, attempt: Attempt, now_s: float) -> Child | None:
        """Return the child that shall run `attempt` now, or `None`."""
        start = start_python(attempt.lease.isolation)
        self._kinds[start] = None
        busy = 0
        ahead: Child | None = None
        warm: Child | None = None
        spare: Child | None = None
        for child in self._children:
            if child.ending or child.closed:
                continue
            if child.sent:
                busy += 1
                if self._takes_ahead(child, attempt, now_s) and (
                    ahead is None or len(child.sent) < len(ahead.sent)
                ):
                    ahead = child
            elif child.takes(attempt):
                warm = child
            elif child.key is None and child.start == start:
                spare = child
        if busy >= self._config.slots:
            return ahead
        if warm is not None:
            return warm
        if spare is None:
            spare = self._start_child(start)
        if spare is not None:
            spare.assign(attempt, list(self._config.backends))
        return spare

    def _takes_ahead(self, child: Child, attempt: Attempt, now_s: float) -> bool:
        program = attempt.program
        return (
            child.takes(attempt)
            and child.ready
            and program.run_s < AHEAD_RUN_MAX_S
            and not program.prints_raw
            and len(child.sent) < min(AHEAD_LENGTH_MAX, 2 + int(AHEAD_S / (program.run_s + 1e-6)))
            and len(attempt.lease.input) <= AHEAD_INPUT_MAX_BYTES
            and now_s - child.sent[0].started_at_s < STARTED_DELAY_S
        )

    def _start_child(self, start: Start) -> Child | None:
        """Start a blank child; `None` when the machine has no room, to be tried again later."""
        self._started += 1
        directory = self._config.scratch / str(self._started)
        try:
            child = Child(start, self._sandboxes[start.level], directory)
        except SandboxBroken as error:
            self._broken[start.level] = str(error)
            return None
        except OSError:
            remove_tree(directory)
            return None
        child.idle_at_s = trio.current_time()
        self._children.append(child)
        self._nursery.start_soon(self._serve, child)
        return child

    def _start_spares(self) -> list[Child]:
        """Have a spare of each kind; return the living children beside those just started."""
        living = [child for child in self._children if not (child.ending or child.closed)]
        spares = {child.start for child in living if child.key is None}
        for start in self._kinds:
            if start not in spares and start.level not in self._broken:
                self._start_child(start)
        return living

    def _requeue(self, attempts: list[Attempt]) -> None:
        """Put attempts back where they were: before all that wait."""
        self._waiting.extendleft(reversed(attempts))

    def _holder(self, attempt: Attempt) -> Child | None:
        return next((child for child in self._children if attempt in child.sent), None)

    def _rest(self, child: Child) -> None:
        if not child.sent:
            child.idle_at_s = trio.current_time()

    # --- the ends of attempts -------------------------------------------------------------------

    def _end(self, child: Child, code: ErrorCode | None = None, message: str = "") -> None:
        """Kill a child; with a `code`, that is the outcome of the job that runs in it."""
        if child.ending:
            return
        attempt = child.running if code is not None else None
        self._requeue([other for other in child.take_back() if other is not attempt])
        child.kill()
        if attempt is not None and code is not None:
            with suppress(ValueError):
                child.sent.remove(attempt)
            self._fail(attempt, code, message)

    def _fail(self, attempt: Attempt, code: ErrorCode, message: str) -> None:
        wall_s = trio.current_time() - attempt.started_at_s
        usage = Usage(self._started_ms(wall_s), wall_s, attempt.cpu_s, attempt.rss_max_bytes)
        self._finish(attempt, Outcome(code, message.encode(), usage))

    def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        output = attempt.output
        if output.total_bytes:
            output.close(self._clock.wall_ms())
            for lines in output.take():
                self._reports.printed(attempt, lines)
        if attempt.progress is not None:
            self._reports.progressed(attempt, *attempt.progress)
            attempt.progress = None
        self._reports.finished(attempt, outcome.redacted(output.redaction))

    def _started_ms(self, wall_s: float) -> int:
        return self._clock.wall_ms() - int(wall_s * 1000)

    def _over(self, child: Child) -> None:
        """A child's process has ended: report its job, run the others elsewhere."""
        # What it wrote before its end still counts.
        self._read_frames(child)
        self._read_pipes(child)
        self._requeue(child.take_back())
        left = list(child.sent)
        child.sent.clear()
        self._children.remove(child)
        status = child.reap()
        if self._config.adopts_orphans:
            self._kill_orphans()
        if child.ending and not child.fault:
            # We ended it, for another job's sake: what had begun since then begins again.
            self._requeue(left)
            return
        child.ending = True
        self._requeue(left[1:])
        for attempt in left[:1]:
            if status == -signal.SIGXFSZ:
                self._fail(attempt, "output_limit", "a file over output_bytes")
            elif child.fault and status == -signal.SIGKILL:
                self._fail(attempt, "exited", child.fault)
            else:
                self._fail(attempt, "exited", describe_exit(status))

    def _kill_orphans(self) -> None:
        """Kill what children left that have ended; the next tick looks whether it is gone."""
        ours = [child.pid for child in self._children]
        for sandbox in self._sandboxes.values():
            ours += sandbox.pids
        self._orphans = kill_orphans(ours + self._foreign)

    # --- what children say ----------------------------------------------------------------------

    def _read_frames(self, child: Child) -> None:
        """Take the frames that have arrived. Not from within `_take_frames`."""
        try:
            while data := child.socket.recv(READ_SIZE_BYTES):
                child.unread += data
                self._take_frames(child)
        except OSError:  # nothing more, or nobody there
            pass
        except frames.FrameError as error:
            child.fault = f"its process broke into its connection to the worker: {error}"

    def _take_frames(self, child: Child) -> None:
        for frame in frames.take_frames(child.unread):
            if isinstance(frame, frames.Done):
                self._done(child, frame)
            elif child.sent and not child.ending:
                match frame:
                    case frames.Printed():
                        wall_ms = self._clock.wall_ms()
                        child.sent[0].output.feed(frame.stream, frame.data, wall_ms)
                        self._check_output(child)
                    case frames.Progressed():
                        self._progressed(child.sent[0], frame)
                    case frames.Request():
                        self._requested(child, child.sent[0], frame)

    def _done(self, child: Child, done: frames.Done) -> None:
        if not child.sent or child.sent[0].sequence != done.sequence:
            if child.ending:  # the outcome of a job that was ended meanwhile
                return
            raise frames.FrameError("the outcome of a job that it does not run")
        attempt = child.sent[0]
        succeeded = done.error_code is None
        limit = attempt.lease.limits.result_bytes if succeeded else ERROR_SIZE_MAX_BYTES
        if len(done.payload) > limit:
            raise frames.FrameError("an outcome over its limit")
        if child.piped():
            self._read_pipes(child)
            if child.running is not attempt:  # that was over its limit
                return
        child.sent.popleft()
        child.over()
        child.ready = True
        now_s = trio.current_time()
        if child.sent:
            child.sent[0].started_at_s = child.sent[0].heartbeat_at_s = now_s
        else:
            child.idle_at_s = now_s
        program = attempt.program
        if math.isinf(program.run_s):
            program.run_s = done.wall_s
        else:
            program.run_s += AVERAGE_WEIGHT * (done.wall_s - program.run_s)
        if done.dirty or child.is_spent(attempt):
            self._end(child)
        usage = Usage(
            self._started_ms(done.wall_s),
            done.wall_s,
            done.cpu_s,
            max(done.rss_max_bytes, attempt.rss_max_bytes),
        )
        writes = tuple(done.writes) if succeeded else ()
        self._finish(
            attempt,
            Outcome(done.error_code, done.payload, usage, done.traceback, done.backend, writes),
        )

    def _progressed(self, attempt: Attempt, frame: frames.Progressed) -> None:
        now_s = trio.current_time()
        attempt.heartbeat_at_s = now_s
        attempt.progress = (frame.fraction, attempt.output.redaction.text(frame.message))
        self._send_progress(attempt, now_s)

    def _send_progress(self, attempt: Attempt, now_s: float) -> None:
        if attempt.progress is None or not self._reports.online:
            return
        if now_s - attempt.progress_at_s >= PROGRESS_INTERVAL_S:
            attempt.progress_at_s = now_s
            self._reports.progressed(attempt, *attempt.progress)
            attempt.progress = None

    def _requested(self, child: Child, attempt: Attempt, request: frames.Request) -> None:
        child.requests += 1
        if child.requests > REQUESTS_MAX:
            raise frames.FrameError("more requests than answers")
        if child.nursery is None:  # it is over
            return
        child.nursery.start_soon(self._answer, child, attempt, request)

    async def _answer(self, child: Child, attempt: Attempt, request: frames.Request) -> None:
        reply = await self._reports.answer(attempt, request)
        child.requests -= 1
        if child.ending or child.running is not attempt:
            return
        if request.operation == "blob.path" and not reply.problem:
            reply = _admit(child, reply)
        if child.reply(reply):
            self._push_later(child)

    def _check_output(self, child: Child) -> None:
        attempt = child.running
        if attempt is not None:
            limit = attempt.lease.limits.output_bytes
            if attempt.output.total_bytes > limit:
                self._end(child, "output_limit", f"it printed more than {limit} bytes")

    def _read_pipes(self, child: Child) -> None:
        """Read all that stands in the pipes, bounded by the job's limit."""
        for stream in (1, 2):
            while child.read_pipe(stream, self._clock.wall_ms()) and not child.ending:
                self._check_output(child)

    # --- limits, by the clock -------------------------------------------------------------------

    async def run(self) -> None:
        """Hold limits until cancelled."""
        while True:
            busy = self._tick(trio.current_time())
            await trio.sleep(TICK_S if busy else IDLE_TICK_S)

    def _tick(self, now_s: float) -> bool:
        """Look at everything once; return whether jobs run."""
        long: list[Child] = []
        for child in list(self._children):
            if child.ending or child.running is None:
                continue
            if now_s - child.running.started_at_s >= STARTED_DELAY_S:
                self._look(child, child.running, now_s)
                long.append(child)
        if long:
            living = [child for child in long if not child.ending]
            for child, code, message in self._trees.measure(living, now_s):
                self._end(child, code, message)
        if self._orphans and self._config.adopts_orphans:
            self._kill_orphans()
        self._tend(now_s)
        self.pump()
        return any(child.sent for child in self._children)

    def _look(self, child: Child, attempt: Attempt, now_s: float) -> None:
        """Report a job that runs for some time, and hold its limits of time."""
        elapsed_s = now_s - attempt.started_at_s
        limits = attempt.lease.limits
        if len(child.sent) > 1:
            self._requeue(child.take_back())
        if child.running is not attempt:  # the child has not come to it yet
            return
        if not attempt.started_sent:
            attempt.started_sent = True
            self._reports.started(attempt, elapsed_s)
        self._send_progress(attempt, now_s)
        if self._reports.online:
            for lines in attempt.output.take():
                self._reports.printed(attempt, lines)
        late = limits.run_s is not None and elapsed_s > limits.run_s
        if late or self._is_silent(attempt, now_s):
            # If this process was held up, what the child said in time has not been read yet.
            self._read_frames(child)
            if child.running is not attempt:
                return
            if late:
                self._end(child, "run_timeout", f"it ran for more than {limits.run_s} s")
            elif self._is_silent(attempt, now_s):
                message = f"it reported no progress for {limits.heartbeat_s} s"
                self._end(child, "heartbeat_timeout", message)

    def _is_silent(self, attempt: Attempt, now_s: float) -> bool:
        heartbeat_s = attempt.lease.limits.heartbeat_s
        return heartbeat_s is not None and now_s - attempt.heartbeat_at_s > heartbeat_s

    def _tend(self, now_s: float) -> None:
        """Keep a spare of each kind, and end children that nobody needs."""
        living = self._start_spares()
        idle = sorted(
            (child for child in living if child.key is not None and not child.sent),
            key=lambda child: child.idle_at_s,
        )
        surplus = len(idle) - self._config.children_idle_max
        for number, child in enumerate(idle):
            if number < surplus or now_s - child.idle_at_s > self._config.child_idle_max_s:
                self._end(child)

    # --- waiting --------------------------------------------------------------------------------

    async def _serve(self, child: Child) -> None:
        """Wait for all that a child does, to its end."""
        try:
            async with trio.open_nursery() as nursery:
                child.nursery = nursery
                if child.unsent:  # written before there was anybody to wait for its socket
                    self._push_later(child)
                nursery.start_soon(self._read_socket, child)
                nursery.start_soon(self._read_pipe, child, 1)
                nursery.start_soon(self._read_pipe, child, 2)
                await trio.lowlevel.wait_readable(child.exit_descriptor)
                nursery.cancel_scope.cancel()
        finally:
            child.nursery = None
            if not child.is_over():  # we are, and it must be
                child.kill()
            self._over(child)
        self.pump()
        if not child.remove():
            await trio.to_thread.run_sync(remove_tree, child.directory)

    async def _read_socket(self, child: Child) -> None:
        while True:
            await trio.lowlevel.wait_readable(child.socket.fileno())
            try:
                data = child.socket.recv(READ_SIZE_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                # Most likely it is ending; `_serve` then ends this task, and its exit status says
                # more than we can.
                child.closed = True
                await trio.sleep(CLOSED_GRACE_S)
                child.fault = "its process closed its connection to the worker"
                break
            child.unread += data
            try:
                self._take_frames(child)
            except frames.FrameError as error:
                child.fault = f"its process broke into its connection to the worker: {error}"
                break
            self.pump()
            if child.ending:
                return
        # Its exit status, if it has one of its own, is the better reason: see `_over`.
        self._end(child)
        self.pump()

    async def _read_pipe(self, child: Child, stream: int) -> None:
        pipe = child.pipes[stream - 1]
        while True:
            await trio.lowlevel.wait_readable(pipe)
            if not child.read_pipe(stream, self._clock.wall_ms()):
                return
            self._check_output(child)

    def _push_later(self, child: Child) -> None:
        if not child.pushing and child.nursery is not None:
            child.pushing = True
            child.nursery.start_soon(self._push, child)

    async def _push(self, child: Child) -> None:
        while child.push():
            await trio.lowlevel.wait_writable(child.socket.fileno())
        child.pushing = False


def _admit(child: Child, reply: frames.Reply) -> frames.Reply:
    """Return an answer that names a file as one whose file the child can read."""
    try:
        path = child.admit(reply.answer["path"])
    except OSError:
        return frames.Reply(reply.number, "worker_disk_full", None)
    return frames.Reply(reply.number, "", {**reply.answer, "path": path})


@asynccontextmanager
async def open_supervisor(
    config: Config, reports: Reports, clock: Clock
) -> AsyncIterator[Supervisor]:
    """Run a supervisor; at the end of the block all its children are dead."""
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(config, reports, clock, nursery)
        nursery.start_soon(supervisor.run)
        try:
            yield supervisor
        finally:
            nursery.cancel_scope.cancel()
            supervisor.close()
