"""Workers in virtual time: `worker.agent.Agent` itself, whose attempts take time and no machine.

The agent, its link, its messages and what it does when a link breaks are the product's; only its
supervision is ours (`worker.supervision`).  An attempt of a *simulated function*, whose source is
`SIMULATED`, takes `duration_s / speed` virtual seconds, as its input says; deployed on a real
worker the same source sleeps as long.  All other source is run as it is (`inline_functions`), and
then takes the input's `duration_s`, if it has one, in the same way.

A slot runs one attempt at a time, in the order of their leases.  What is not modelled: memory and
processor of a machine (its slots do not slow each other down), the start of processes, output.

A lost worker (`crash_mean_s`) forgets everything and comes back after `back_s` as itself.  Its
clock runs only while it is up, so losses are exponential in the time that it works or waits.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import trio

from peernode.node import Node
from simulations.distributions import Distribution, draw
from simulations.inline_functions import BACKENDS, Models, run_inline
from storage.clock import Clock
from worker.agent import Config, run_agent
from worker.child import Attempt
from worker.link import Link, LinkClosed, LinkError, MemoryLink, ToWorkerBatch
from worker.protocol import STARTED_DELAY_S, Accelerator, ErrorCode, Offer, Usage
from worker.reports import Outcome, Reports
from worker.supervision import Supervision
from worker.supervisor import Config as SupervisorConfig

SIMULATED: Final = b"""import time


def handler(input):
    time.sleep(input["duration_s"])
    return "x" * input["result_bytes"]
"""
"""A function that takes time: its input is `{"duration_s": .., "result_bytes": ..}`."""
RESULT_ONLY: Final = b'def handler(input):\n    return "x" * input["result_bytes"]\n'
"""The same without the time; for results that are too large to travel in a message."""
PAIR_BUFFER_BATCHES: Final = 64
"""Batches one side of a link may send ahead. Source: `worker.link`."""


class Work(msgspec.Struct, frozen=True):
    """What an input says of its attempt; whatever else it says is the function's."""

    duration_s: float = 0.0
    result_bytes: int = 0


_decode_work = msgspec.json.Decoder(Work).decode


@dataclass(slots=True)
class Runs:
    """What workers did for one job."""

    first_at_s: float
    """Start of the first run. trio's time, as all here."""
    last_at_s: float
    """Start of the newest."""
    starts: int = 0
    ended_at_s: float | None = None
    """End of the newest, if it came to one."""
    total_s: float = 0.0
    """Of all runs that are over, whole or not."""


class Ledger:
    """Exactly which job ran when, which no wall clock and no rounding touches."""

    def __init__(self, told: "Callable[[int, str, Machine, int], None]") -> None:
        """`told` hears of each start and end: job, what (`running`, `ended`, `stopped`), worker
        and the number of the start."""
        self._told = told
        self._jobs: dict[int, Runs] = {}
        self.busy: dict[str, int] = {}
        """Worker -> attempts that it runs now."""

    def begin(self, job: int, machine: "Machine") -> None:
        """A run begins."""
        now = trio.current_time()
        runs = self._jobs.get(job)
        if runs is None:
            runs = self._jobs[job] = Runs(now, now)
        runs.last_at_s, runs.ended_at_s = now, None
        runs.starts += 1
        self.busy[machine.name] = self.busy.get(machine.name, 0) + 1
        self._told(job, "running", machine, runs.starts)

    def end(self, job: int, machine: "Machine", started_at_s: float, *, whole: bool) -> None:
        """A run is over; `whole`: by itself."""
        now = trio.current_time()
        self.busy[machine.name] -= 1
        runs = self._jobs.get(job)
        if runs is None:
            return
        runs.total_s += now - started_at_s
        if whole:
            runs.ended_at_s = now
        self._told(job, "ended" if whole else "stopped", machine, runs.starts)

    def has_run(self, job: int) -> bool:
        """Tell whether a job was ever begun."""
        return job in self._jobs

    def take(self, job: int) -> Runs | None:
        """Return what is known of a job, and forget it."""
        return self._jobs.pop(job, None)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a virtual worker is."""

    node: int
    name: str
    slots: int = 1
    speed: float = 1.0
    memory_bytes: int = 1 << 30
    gpus: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    crash_mean_s: float | None = None
    back_s: Distribution = 1.0

    def offer(self) -> Offer:
        """Return what it says of itself."""
        return Offer(
            slots=self.slots,
            cores=self.slots,
            memory_bytes=self.memory_bytes,
            arch="x86_64",
            runtimes=["python"],
            isolation=["process"],
            backends=list(BACKENDS),
            accelerators=[Accelerator(kind="cuda", name="virtual")] * self.gpus,
            labels=self.labels,
            speed_rounds_per_s=max(1, int(self.speed * (1 << 20))),
            python="3.11",
            software="simulations",
        )


class VirtualSupervision:
    """Attempts in virtual time. See `worker.supervision.Supervision`."""

    def __init__(
        self,
        machine: Machine,
        ledger: Ledger,
        models: Models,
        reports: Reports,
        clock: Clock,
        nursery: trio.Nursery,
    ) -> None:
        self._machine = machine
        self._ledger = ledger
        self._models = models
        self._reports = reports
        self._clock = clock
        self._nursery = nursery
        self._waiting: deque[Attempt] = deque()
        self._running: dict[Attempt, trio.CancelScope] = {}

    def submit(self, attempt: Attempt) -> None:
        """Take an attempt; `pump` places it."""
        self._waiting.append(attempt)

    def pump(self) -> None:
        """Begin what waits, as far as there is room."""
        while self._waiting and len(self._running) < self._machine.slots:
            attempt = self._waiting.popleft()
            self._running[attempt] = scope = trio.CancelScope()
            self._nursery.start_soon(self._run, attempt, scope)

    def take_back(self, attempt: Attempt) -> bool:
        """Take `attempt` out if it has not begun; return whether it had not."""
        if attempt not in self._waiting:
            return False
        self._waiting.remove(attempt)
        return True

    def kill(self, attempt: Attempt) -> None:
        """End `attempt` and report nothing."""
        if not self.take_back(attempt) and (scope := self._running.get(attempt)) is not None:
            scope.cancel()

    def drain(self) -> list[Attempt]:
        """Take out and return everything that has not begun."""
        back = list(self._waiting)
        self._waiting.clear()
        return back

    def packages(self) -> list[str]:
        """Return nothing: functions bring no packages here."""
        return []

    @contextmanager
    def knowing(self, pid: int) -> Iterator[None]:
        """Do nothing: there are no processes."""
        yield

    async def _run(self, attempt: Attempt, scope: trio.CancelScope) -> None:
        job, machine = attempt.lease.job, self._machine
        attempt.started_at_s = trio.current_time()
        self._ledger.begin(job, machine)
        outcome: Outcome | None = None
        try:
            with scope:
                outcome = await self._outcome(attempt)
        finally:
            del self._running[attempt]
            self._ledger.end(job, machine, attempt.started_at_s, whole=outcome is not None)
        if outcome is not None:
            self._reports.finished(attempt, outcome)
        self.pump()

    async def _outcome(self, attempt: Attempt) -> Outcome:
        """Let an attempt take its time, and return how it ends."""
        lease = attempt.lease
        try:
            work = _decode_work(lease.input)
        except msgspec.MsgspecError:  # its input is not an object: it is some function's own
            work = Work()
        source = attempt.program.program.source
        is_simulated = source == SIMULATED
        fits = work.result_bytes + 2 <= lease.limits.result_bytes
        made: dict[str, Any] = {}
        if is_simulated and fits:
            code, payload = None, b'"' + b"x" * work.result_bytes + b'"'
        else:
            code, payload, made = await self._run_code(attempt, RESULT_ONLY, is_simulated)
        limit = await self._pass(attempt, work.duration_s / self._machine.speed)
        if limit is not None:
            code, payload, made = limit, b"it took too long", {}
        wall_s = trio.current_time() - attempt.started_at_s
        started_ms = self._clock.wall_ms() - round(wall_s * 1000)
        return Outcome(code, payload, Usage(started_ms, wall_s, wall_s, 0), **made)

    async def _run_code(
        self, attempt: Attempt, simulated: bytes, is_simulated: bool
    ) -> tuple[ErrorCode | None, bytes, dict[str, Any]]:
        async def answer(request: Any) -> Any:
            return await self._reports.answer(attempt, request)

        source = simulated if is_simulated else None
        ended = await run_inline(attempt, answer, self._models, source)
        for stream, data in ended.printed:
            attempt.output.feed(stream, data, self._clock.wall_ms())
        attempt.output.close(self._clock.wall_ms())
        for lines in attempt.output.take():
            self._reports.printed(attempt, lines)
        if ended.progress is not None:
            self._reports.progressed(attempt, *ended.progress)
        made = {"traceback": ended.traceback, "backend": ended.backend, "writes": ended.writes}
        return ended.error_code, ended.payload, made  # type: ignore[return-value]

    async def _pass(self, attempt: Attempt, duration_s: float) -> ErrorCode | None:
        """Have virtual time pass; return the limit that was reached first."""
        limits = attempt.lease.limits
        begun_s = trio.current_time()
        ends: list[tuple[float, ErrorCode | None]] = [(begun_s + duration_s, None)]
        if limits.run_s is not None:
            ends.append((attempt.started_at_s + limits.run_s, "run_timeout"))
        if limits.heartbeat_s is not None:
            ends.append((begun_s + limits.heartbeat_s, "heartbeat_timeout"))
        end_s, code = min(ends, key=lambda end: end[0])
        told_s = attempt.started_at_s + STARTED_DELAY_S
        if told_s < end_s:
            await trio.sleep_until(told_s)
            elapsed_s = trio.current_time() - attempt.started_at_s
            self._reports.started(attempt, elapsed_s)
        await trio.sleep_until(end_s)
        return code


class Hosts(Protocol):
    """Where workers find their nodes: a part of `simulations.world.World`."""

    def node(self, index: int) -> Node | None:
        """Return a node that is up."""
        ...

    def life(self, index: int) -> trio.Nursery | None:
        """Return what ends with that node."""
        ...


class VirtualWorker:
    """One worker, which exists already at its node under `id`."""

    def __init__(
        self,
        machine: Machine,
        id: int,
        hosts: Hosts,
        ledger: Ledger,
        *,
        models: Models,
        clock: Clock,
        chance: random.Random,
        directory: Path,
    ) -> None:
        """`directory`: of its own, for contents of blobs."""
        self.machine = machine
        self.id = id
        self.up = False
        self._hosts = hosts
        self._ledger = ledger
        self._models = models
        self._clock = clock
        self._chance = chance
        self._directory = directory

    @property
    def busy(self) -> int:
        """How many attempts it runs."""
        return self._ledger.busy.get(self.machine.name, 0)

    async def run(self) -> None:
        """Work until cancelled, with losses."""
        while True:
            machine = self.machine
            life_s = float("inf")
            if machine.crash_mean_s is not None:
                life_s = self._chance.expovariate(1 / machine.crash_mean_s)
            self.up = True
            with trio.move_on_after(life_s):
                await run_agent(
                    self._connect,
                    machine.offer(),
                    Config(directory=self._directory),
                    clock=self._clock,
                    rng=self._chance,
                    supervise=self._supervise,
                )
            self.up = False
            await trio.sleep(draw(machine.back_s, self._chance))

    @asynccontextmanager
    async def _supervise(
        self, config: SupervisorConfig, reports: Reports, clock: Clock
    ) -> AsyncIterator[Supervision]:
        async with trio.open_nursery() as nursery:
            yield VirtualSupervision(
                self.machine, self._ledger, self._models, reports, clock, nursery
            )
            nursery.cancel_scope.cancel()

    async def _connect(self) -> Link:
        node, life = self._hosts.node(self.machine.node), self._hosts.life(self.machine.node)
        if node is None or life is None or node.workers.row(self.id) is None:
            raise LinkClosed("the node is down")
        to_node, from_worker = trio.open_memory_channel[bytes](PAIR_BUFFER_BATCHES)
        to_worker, from_node = trio.open_memory_channel[bytes](PAIR_BUFFER_BATCHES)
        life.start_soon(_serve, node, self.id, from_worker, to_worker)
        return MemoryLink(to_node, from_node, ToWorkerBatch)


async def _serve(
    node: Node,
    worker: int,
    receiving: trio.MemoryReceiveChannel[bytes],
    sending: trio.MemorySendChannel[bytes],
) -> None:
    """Be the node's end of a link, as `peernode.classes.worker` is for one that comes by HTTP."""

    async def receive() -> bytes | None:
        try:
            return await receiving.receive()
        except trio.EndOfChannel:
            return None

    async def send(data: bytes) -> None:
        try:
            await sending.send(data)
        except trio.BrokenResourceError as error:
            raise BrokenPipeError("the worker closed the link") from error

    row = node.workers.row(worker)
    labels = {} if row is None else row.labels
    hold = node.workers.hold(worker)
    # Whatever ended it, the worker sees the link closed, and comes again.
    with receiving, sending, suppress(LinkError, trio.TooSlowError):
        await node.attachments.serve(worker, receive, send, labels, hold=hold)
