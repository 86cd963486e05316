"""The driver around the scheduler: what it decides is made so, and it is told what happens.

`worker.Scheduler` reads no clock and talks to nobody.  Here its effects become messages to workers
and rows on the disk, and the clock becomes `Tick`s.  Inputs come in turns: `handle` as many as
belong together, then `flush`, which writes what they came to.

A lease is written once its job is known to run, and rides on the next commit: jobs that end at once
never need it.  Losing one in a crash is harmless: fences grow across restarts, and a worker that
comes back with the attempt has it adopted.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, assert_never

import trio

from peernode import job_rows
from peernode.effects import Effects
from peernode.endings import Ending, Endings, checked, ending, refused_writes
from peernode.functions import FunctionVersion
from peernode.live_jobs import LiveJob, LiveJobs
from peernode.problems import Problem
from peernode.terms import Policy, Terms, resolve
from peernode.transactions import Transaction
from peernode.worker_links import WorkerLink
from storage import ids
from storage.clock import Clock
from storage.store import Batch, Put, Store, Table
from worker import events, protocol
from worker.capabilities import level_given, levels
from worker.protocol import Isolation
from worker.scheduler import Scheduler

WALL_MAX_S: Final = 366 * 86400.0
"""Longest run that is believed of a worker. Source: the longest time limit."""


class Dispatch:
    """A scheduler at work, and the links to its workers."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        store: Store,
        jobs: LiveJobs,
        clock: Clock,
        functions: Callable[[int, int], FunctionVersion | None],
        effects: Effects,
        policy: Policy,
    ) -> None:
        self.scheduler = scheduler
        self.links: dict[int, WorkerLink] = {}
        """Worker -> its link, while it is attached."""
        self.ended = 0
        self._store = store
        self._jobs = jobs
        self._clock = clock
        self._functions = functions
        self._effects = effects
        self._policy = policy
        self._endings = Endings(store, jobs, effects, self._durable, self._never_was, self._spawn)
        self._leases: list[Put] = []
        self._outcome = trio.Event()
        self._armed_s: float | None = None
        self._rearm = trio.Event()
        self._nursery: trio.Nursery | None = None

    # --- inputs -------------------------------------------------------------------------------

    def handle(
        self,
        event: events.Input,
        finished: protocol.Finished | None = None,
        writes: Transaction | None = None,
    ) -> None:
        """Tell the scheduler what happened, and do what it says.

        `finished` and `writes` come with a `Finish`: the message it is made of, and what its
        buffered writes come to.
        """
        for effect in self.scheduler.handle(event, trio.current_time()):
            match effect:
                case events.Lease():
                    self._lease(effect)
                case events.Settle():
                    live = self._jobs[effect.job]
                    now_ms = self._clock.wall_ms()
                    made = ending(effect, live, now_ms, finished, writes, self._best(effect.worker))
                    self._endings.add(made)
                case events.Kill(worker, job, fence, reason):
                    self._post(worker, protocol.Kill(job, fence, reason))
                    self._effects.forget(job, fence)
                case events.Recall(worker, job, fence):
                    self._post(worker, protocol.Recall(job, fence))
                case events.Refuse(worker, job, fence):
                    self._post(worker, protocol.Refused(job, fence))
                case events.Requeue():
                    self._requeue(effect)
                case events.Running(job):
                    self._running(self._jobs[job])
                case events.Adopt():
                    self._adopt(effect)
                case _:
                    assert_never(effect)

    def finished(self, worker: int, message: protocol.Finished) -> None:
        """Take an attempt's end."""
        writes = None
        if message.error_code is None:
            message = checked(message)
        if message.error_code is None and message.writes:
            live = self.current(message.job, message.fence)
            request = self._jobs.request(message.job)
            if live is not None and request is not None:
                try:
                    writes = self._effects.prepare(message.job, request, message.writes)
                except Problem as problem:
                    message = refused_writes(message, problem)
        wall_s = message.usage.wall_s
        finish = events.Finish(
            worker,
            message.job,
            message.fence,
            message.error_code,
            wall_s if 0 <= wall_s < WALL_MAX_S else 0.0,
        )
        self.handle(finish, message, writes)
        snapshot = self.scheduler.snapshot(message.job)
        if snapshot is not None and snapshot.state == "queued":
            # It will be tried again: what this attempt came to is counted, and nothing is kept.
            self._post(worker, protocol.Acked([protocol.Held(message.job, message.fence)]))

    def flush(self) -> None:
        """Write what the last inputs came to, and see to it that the clock is watched."""
        if self._leases:
            leases, self._leases = self._leases, []
            self._store.submit(Batch(leases), lazy=True)
        self._endings.flush()
        deadline = self.scheduler.deadline
        if deadline is not None and (self._armed_s is None or deadline < self._armed_s):
            self._rearm.set()

    # --- what others ask ------------------------------------------------------------------------

    def current(self, job: int, fence: int) -> LiveJob | None:
        """Return a job if `fence` is its present attempt, and its end is not decided."""
        snapshot = self.scheduler.snapshot(job)
        if snapshot is None or snapshot.fence != fence or snapshot.settling:
            return None
        return self._jobs.get(job)

    def figures(self, worker: int) -> events.WorkerSnapshot | None:
        """Return what the scheduler knows of `worker`."""
        return self.scheduler.worker(worker)

    async def wait_idle(self) -> None:
        """Return when no attempt is out and every outcome that was decided is durable."""
        while True:
            now = self.scheduler.statistics()
            if not (now.leased or now.running or now.settling):
                return
            if self._outcome.is_set():
                self._outcome = trio.Event()
            await self._outcome.wait()

    def lease_row(self, live: LiveJob) -> Put:
        """Return the row that says where a job stands now."""
        snapshot = self.scheduler.snapshot(live.job)
        assert snapshot is not None
        lease = job_rows.Lease(
            snapshot.attempt,
            snapshot.fence,
            snapshot.worker,
            live.leased_ms,
            snapshot.state == "running",
            list(snapshot.lost_on),
            live.priority,
        )
        return Table.LIVE, ids.key(live.job), job_rows.encode(lease)

    def keep_lease(self, live: LiveJob) -> None:
        """Have the lease written with the next commit."""
        self._leases.append(self.lease_row(live))

    def hold(self, *, held: bool) -> None:
        """Write no outcomes from now on, or write them, and those that waited, again."""
        self._endings.is_held = held
        self.flush()

    def begin(self, boot: int) -> None:
        """Go on as after start number `boot` of the node."""
        self.handle(events.Begin(boot))

    def forget(self, job: int) -> None:
        """Drop a job that is settled elsewhere, with all that was to be written of it."""
        self.handle(events.Withdraw(job))
        self.drop_leases(job)
        self._endings.drop(job)

    def drop_leases(self, job: int) -> None:
        """Have no lease of `job` written any more."""
        self._leases = [put for put in self._leases if put[1] != ids.key(job)]

    # --- effects ----------------------------------------------------------------------------

    def _post(self, worker: int, message: protocol.ToWorker) -> None:
        if (link := self.links.get(worker)) is not None:
            link.post(message)

    def _best(self, worker: int) -> str:
        """Return the first backend that a worker offers, or ""."""
        link = self.links.get(worker)
        return link.offer.backends[0] if link and link.offer and link.offer.backends else ""

    def _lease(self, effect: events.Lease) -> None:
        live, link = self._jobs[effect.job], self.links[effect.worker]
        request = self._jobs.request(effect.job)
        assert request is not None
        version = self._functions(request.function, request.version)
        if version is None:
            live.cause = "the function was deleted"
            self.handle(events.Cancel(effect.job))
            return
        if link.programs.get(version.program) is not version:
            link.programs[version.program] = version
            link.post(version.message())
        live.leased_ms = self._clock.wall_ms()
        live.note("leased", live.leased_ms, effect.attempt, effect.worker)
        terms = self._terms(version, request)
        total_s = terms.timeouts.total_s
        level = live.isolation = _level(version, terms, link)
        link.post(
            protocol.Lease(
                effect.job,
                effect.fence,
                effect.attempt,
                version.program,
                request.input,
                dict(request.blobs),
                terms.limits,
                level,
                None if total_s is None else request.created_ms + int(total_s * 1000),
            )
        )

    def _terms(self, version: FunctionVersion, request: job_rows.Request) -> Terms:
        return resolve(version.runtime, version.terms, request.terms, self._policy, version.tags)

    def _adopt(self, effect: events.Adopt) -> None:
        """A worker came back with a job, maybe after a restart of this node."""
        live = self._jobs[effect.job]
        request = self._jobs.request(effect.job)
        version = request and self._functions(request.function, request.version)
        if request and version:
            terms = self._terms(version, request)
            live.isolation = _level(version, terms, self.links[effect.worker])
        self.keep_lease(live)

    def _running(self, live: LiveJob) -> None:
        snapshot = self.scheduler.snapshot(live.job)
        assert snapshot is not None
        live.note("running", self._clock.wall_ms(), snapshot.attempt, snapshot.worker)
        self.keep_lease(live)

    def _requeue(self, effect: events.Requeue) -> None:
        live = self._jobs[effect.job]
        live.note("queued", self._clock.wall_ms(), effect.attempt, 0, effect.cause)
        self._effects.forget(effect.job, effect.fence)
        self.keep_lease(live)
        self._outcome.set()

    def _durable(self, endings: list[Ending]) -> None:
        """Runs in the loop, between tasks: outcomes are on the disk, so everybody may know."""
        acked: dict[int, list[protocol.Held]] = {}
        for made in endings:
            job = made.live.job
            self.handle(events.Settled(job))
            self.ended += 1
            for after in made.writes.after if made.writes else ():
                after()
            self._jobs.recent.keep_outcome(job, made.outcome)
            self._jobs.leave(made.live)
            self._effects.forget(job, made.fence)
            if made.worker:
                acked.setdefault(made.worker, []).append(protocol.Held(job, made.fence))
        for worker, attempts in acked.items():
            self._post(worker, protocol.Acked(attempts))
        self._outcome.set()
        self.flush()

    def _never_was(self, made: Ending) -> None:
        """A job ended and its request could not be kept: its worker may forget it."""
        job = made.live.job
        self._effects.forget(job, made.fence)
        if made.worker:
            self._post(made.worker, protocol.Refused(job, made.fence))

    # --- the clock --------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the tasks of this driver while the block runs."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_clock)
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def _spawn(self, function: Callable[..., Any], *arguments: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(function, *arguments)

    async def _watch_clock(self) -> None:
        while True:
            self._armed_s = self.scheduler.deadline
            self._rearm = trio.Event()
            if self._armed_s is None:
                await self._rearm.wait()
                continue
            with trio.move_on_at(self._armed_s) as scope:
                await self._rearm.wait()
            if scope.cancelled_caught:
                self.handle(events.Tick())
                self.flush()


def _level(version: FunctionVersion, terms: Terms, link: WorkerLink) -> Isolation:
    """Return the level at which a worker runs a job: the weakest accepted that it has for it."""
    offered = levels(link.offer, version.runtime) if link.offer else []
    return level_given(terms.isolation, offered)
