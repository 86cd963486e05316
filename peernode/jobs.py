"""The driver around the scheduler: jobs in, leases out, outcomes kept.

`worker.Scheduler` decides; this module makes it so.  Its promises:

1. A job is accepted when its request is durable, and not before `hand_in` returns.  It may be sent
   to a worker while it is being written: batches are applied in order, so its request is on the
   disk before its outcome can be.  If the write fails the job is withdrawn and never was.
2. An outcome is durable before anyone sees it or the worker may forget it, and it is written once,
   in the batch that applies the job's buffered writes and deletes its lease.
3. A lease is written once its job is known to run, and rides on the next commit: jobs that end
   at once never need it.  Losing one in a crash is harmless: fences grow across restarts, and a
   worker that comes back with the attempt has it adopted.
4. A full disk loses nothing: an outcome that does not fit is tried again until it does.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

import msgspec
import trio

from peernode import job_rows
from peernode.committer import Committer
from peernode.functions import FunctionVersion
from peernode.idempotency import Claim
from peernode.job_rows import Change, Outcome, Request
from peernode.problems import Problem
from peernode.terms import resolve
from peernode.transactions import Transaction
from peernode.worker_links import Receive, Send, WorkerLink
from storage import codec, ids
from storage.clock import Clock
from storage.errors import StoreError
from storage.store import Batch, Conflict, Delete, Expect, Put, Result, Store, Table
from worker import events, protocol
from worker.scheduler import Scheduler

EVENTS_KEPT_MAX: Final = 64
"""Progress events of one live job kept for readers that come later. Source: guess."""
LOG_SIZE_MAX_BYTES: Final = 1 << 20
"""Log text kept of one job. Source: a page a person can still open."""
HELLO_TIMEOUT_S: Final = 10.0
"""How long a worker may take to say Hello. Source: guess."""
STORE_RETRY_S: Final = 1.0
"""Pause before an outcome is offered again to a full disk. Source: guess."""
CALLS_ACTIVE_MAX: Final = 256
"""Calls of function code at work at once on one link. Source: guess."""
_EMPTY: Final = b""


class Effects(Protocol):
    """What function code may do besides computing, with its job's rights."""

    def prepare(self, job: int, request: Request, writes: Sequence[protocol.Write]) -> Transaction:
        """Return what `writes` come to now; raises `Problem` when one is refused."""
        ...

    async def call(self, job: int, request: Request, call: protocol.Call) -> object:
        """Return the answer to `call`; raises `Problem`."""
        ...

    def forget(self, job: int, fence: int) -> None:
        """Drop what the attempt began and did not keep."""
        ...


class LiveJob:
    """What the node holds in memory of a job that is not over."""

    __slots__ = (
        "cause",
        "changed",
        "created_ms",
        "ended",
        "isolation",
        "job",
        "leased_ms",
        "log_bytes",
        "log_sequence",
        "priority",
        "progress",
        "project",
        "request",
        "sequence",
        "timeline",
    )

    def __init__(self, job: int, project: int, created_ms: int, request: Request | None) -> None:
        self.job = job
        self.project = project
        self.created_ms = created_ms
        self.request = request
        """The request until it is durable; `None` after, when the disk has it."""
        self.priority = 0
        self.leased_ms = 0
        self.isolation = ""
        self.log_bytes = 0
        self.log_sequence = 0
        self.sequence = 1
        self.progress: tuple[float | None, str] | None = None
        self.timeline: list[Change] | None = None
        """States (kept) and progress (the last few), oldest first; `None`: only queued."""
        self.ended: trio.Event | None = None
        self.changed: trio.Event | None = None
        self.cause = ""

    def note(self, state: str, at_ms: int, attempt: int, worker: int, cause: str = "") -> None:
        """Add to the timeline and wake who follows it."""
        if self.timeline is None:
            self.timeline = [Change(1, "queued", self.created_ms, 0, 0, "")]
        self.sequence += 1
        self.timeline.append(Change(self.sequence, state, at_ms, attempt, worker, cause))
        if self.changed is not None:
            self.changed.set()
            self.changed = None

    def history(self) -> list[Change]:
        """Return the states so far, oldest first."""
        timeline = self.timeline or [Change(1, "queued", self.created_ms, 0, 0, "")]
        return [change for change in timeline if change.state != "progress"]


@dataclass(slots=True)
class _Ending:
    """An outcome on its way to the disk."""

    live: LiveJob
    worker: int
    fence: int
    outcome: bytes
    writes: Transaction | None = None
    wanted: Sequence[protocol.Write] = ()
    """What `writes` was prepared from, to prepare it again."""


class Jobs:
    """All jobs of this node that are not over, and the links to its workers."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        committer: Committer,
        id_factory: ids.IdFactory,
        clock: Clock,
        functions: Callable[[int, int], FunctionVersion | None],
        effects: Effects,
        beat_interval_s: float,
        live_max: int,
    ) -> None:
        self.scheduler = scheduler
        self.accepted = 0
        self.ended = 0
        self.draining = False
        self.links: dict[int, WorkerLink] = {}
        self._store: Store = committer.store
        self._committer = committer
        self._ids = id_factory
        self._clock = clock
        self._functions = functions
        self._effects = effects
        self._beat_interval_s = beat_interval_s
        self._live_max = live_max
        self._live: dict[int, LiveJob] = {}
        self._of_project: dict[int, int] = {}
        self._offers: dict[int, protocol.Offer] = {}
        self._ending = trio.Event()
        self._claimed: set[bytes] = set()
        self._lazy: list[Put] = []
        self._endings: list[_Ending] = []
        self._armed_s: float | None = None
        self._rearm = trio.Event()
        self._nursery: trio.Nursery | None = None

    # --- handing in ---------------------------------------------------------------------

    async def hand_in(
        self,
        version: FunctionVersion,
        caller: int,
        input_json: bytes,
        *,
        blobs: list[list[object]],
        granted: list[int],
        terms: bytes,
        parent: int = 0,
        claim: Claim | None = None,
    ) -> tuple[int, bool]:
        """Keep a new job durably and start it; return its id and whether it is new.

        It is not new when `claim` names one handed in before.  Raises `Problem` or `StoreFull`.
        """
        if self.draining:
            raise Problem("draining", "this node is stopping; ask again in a moment")
        if len(self._live) >= self._live_max:
            raise Problem(
                "overloaded",
                f"the node holds {self._live_max} unfinished jobs",
                limit=self._live_max,
            )
        now_ms = self._clock.wall_ms()
        job = self._ids.next()
        key = ids.key(job)
        request = Request(
            version.function,
            version.version,
            version.project,
            caller,
            parent,
            now_ms,
            input_json,
            blobs,
            granted,
            terms,
        )
        puts: list[Put] = [
            (Table.JOBS, key, job_rows.encode(request)),
            (Table.LIVE, key, job_rows.NO_LEASE),
            (Table.PROJECT_JOBS, ids.key(version.project) + key, _EMPTY),
        ]
        expects: list[Expect] = []
        early = True
        if claim is not None:
            puts += claim.puts(job, now_ms)
            expects.append(claim.expect)
            early = claim.key not in self._claimed and claim.find(self._store, now_ms) is None
        await trio.lowlevel.checkpoint_if_cancelled()
        pending = self._committer.begin(Batch(puts=puts, expects=expects))
        # From here to the end of the wait nothing can cancel us: the job's fate will be known.
        live = LiveJob(job, version.project, now_ms, request)
        if early:
            if claim is not None:
                self._claimed.add(claim.key)
            self._submit(live, version, terms)
        try:
            conflict = await pending.wait()
        except StoreError:
            self._withdraw(live, started=early)
            raise
        finally:
            if early and claim is not None:
                self._claimed.discard(claim.key)
        if conflict is not None:
            assert claim is not None
            self._withdraw(live, started=early)
            return claim.match(conflict.found), False
        live.request = None
        if not early:
            self._submit(live, version, terms)
        self.accepted += 1
        return job, True

    def _submit(self, live: LiveJob, version: FunctionVersion, terms_row: bytes) -> None:
        terms = resolve(version.runtime, version.terms, terms_row)
        self._enter(live)
        live.isolation = terms.isolation
        job = events.Job(
            job=live.job,
            program=version.program,
            requires=terms.requires,
            retry=terms.retry,
            timeouts=terms.timeouts,
        )
        self._handle(events.Submit(job))
        self._flush()

    def _enter(self, live: LiveJob) -> None:
        self._live[live.job] = live
        self._of_project[live.project] = self._of_project.get(live.project, 0) + 1

    def _leave(self, live: LiveJob) -> None:
        if self._live.pop(live.job, None) is not None:
            self._of_project[live.project] -= 1
            if not self._of_project[live.project]:
                del self._of_project[live.project]

    def _withdraw(self, live: LiveJob, *, started: bool) -> None:
        if not started:
            return
        self._handle(events.Withdraw(live.job))
        self._leave(live)
        # A lease of it may have been written after the request was refused.
        self._lazy = [put for put in self._lazy if put[1] != ids.key(live.job)]
        self._store.submit(Batch(deletes=[(Table.LIVE, ids.key(live.job))]))
        if live.ended is not None:
            live.ended.set()

    def restore(self, local_workers: frozenset[int]) -> int:
        """Take up every job that was not over when the node stopped; return how many.

        A job that was out on one of `local_workers` waits again at once: they died with the node.
        """
        now_ms, start, count = self._clock.wall_ms(), b"", 0
        while rows := self._store.scan(Table.LIVE, start):
            for key, row in rows:
                if self._restore_one(key, job_rows.decode_lease(row), local_workers, now_ms):
                    count += 1
            start = rows[-1][0] + b"\0"
        self._flush()
        return count

    def _restore_one(
        self, key: bytes, lease: job_rows.Lease, local_workers: frozenset[int], now_ms: int
    ) -> bool:
        row = self._store.get(Table.JOBS, key)
        if row is None:  # The lease of a job that was withdrawn, written late.
            self._store.submit(Batch(deletes=[(Table.LIVE, key)]), lazy=True)
            return False
        request, job = job_rows.decode_request(row), int.from_bytes(key, "big")
        version = self._functions(request.function, request.version)
        live = LiveJob(job, request.project, request.created_ms, None)
        self._enter(live)
        live.priority = lease.priority
        live.log_sequence = self._next_log_sequence(key)
        terms = resolve(
            version.runtime if version else "python",
            version.terms if version else b"{}",
            request.terms,
        )
        live.isolation = terms.isolation
        restored = events.Job(
            job=job,
            program=f"{request.function}.{request.version}",
            requires=terms.requires,
            retry=terms.retry,
            timeouts=terms.timeouts,
            priority=lease.priority,
            age_s=max(0.0, (now_ms - request.created_ms) / 1000),
            attempt=lease.attempt,
            fence=lease.fence,
            lost_on=tuple(lease.lost_on),
        )
        if lease.worker and lease.worker not in local_workers:
            live.leased_ms = lease.leased_ms
            live.note("leased", lease.leased_ms, lease.attempt, lease.worker)
            self._handle(events.Restore(restored, lease.worker, lease.running))
        else:
            self._handle(events.Submit(restored))
        return True

    def _next_log_sequence(self, key: bytes) -> int:
        last = self._store.scan(Table.LOGS, key, key + b"\xff" * 9, reverse=True, limit=1)
        return int.from_bytes(last[0][0][8:], "big") + 1 if last else 0

    # --- what people ask ------------------------------------------------------------------

    def live(self, job: int) -> LiveJob | None:
        """Return what is held of `job` if it is not over."""
        return self._live.get(job)

    def __len__(self) -> int:
        return len(self._live)

    def request(self, job: int) -> Request | None:
        """Return what was asked for, or `None` if there is no such job."""
        live = self._live.get(job)
        if live is not None and live.request is not None:
            return live.request
        row = self._store.get(Table.JOBS, ids.key(job))
        return None if row is None else job_rows.decode_request(row)

    def request_row(self, job: int) -> bytes:
        """Return the request as it is kept, whose CID is the job's `request_cid`."""
        live = self._live.get(job)
        if live is not None and live.request is not None:
            return job_rows.encode(live.request)
        return self._store.get(Table.JOBS, ids.key(job)) or b""

    def outcome(self, job: int) -> Outcome | None:
        """Return how `job` ended, once that is durable."""
        row = self._store.get(Table.OUTCOMES, ids.key(job))
        return None if row is None else job_rows.decode_outcome(row)

    async def wait_ended(self, job: int, timeout_s: float) -> None:
        """Return when `job` is over, or after `timeout_s`."""
        live = self._live.get(job)
        if live is None or timeout_s <= 0:
            return
        if live.ended is None:
            live.ended = trio.Event()
        with trio.move_on_after(timeout_s):
            await live.ended.wait()

    async def changes(self, job: int, after: int) -> AsyncIterator[Change]:
        """Yield the events of `job` with a sequence above `after`, until it is over."""
        while (live := self._live.get(job)) is not None:
            timeline = live.timeline or live.history()
            for change in [change for change in timeline if change.sequence > after]:
                after = change.sequence
                yield change
            if live.changed is None:
                live.changed = trio.Event()
            await live.changed.wait()
        outcome = self.outcome(job)
        for fields in outcome.history if outcome else []:
            change = Change._make(fields)
            if change.sequence > after:
                yield change

    async def cancel(self, job: int) -> None:
        """Cancel `job` and return when its outcome, whichever it is, is durable."""
        live = self._live.get(job)
        if live is None:
            return
        if live.ended is None:
            live.ended = trio.Event()
        ended = live.ended
        self._handle(events.Cancel(job))
        self._flush()
        await ended.wait()

    async def reprioritise(self, job: int, priority: int) -> None:
        """Change the priority of a queued job, durably."""
        live = self._live[job]
        live.priority = priority
        self._handle(events.Reprioritise(job, priority))
        await self._committer.write(Batch(puts=[self._lease_row(live)]))
        self._flush()

    def unfinished(self, project: int) -> int:
        """Return how many jobs of `project` are not over."""
        return self._of_project.get(project, 0)

    def offer(self, worker: int) -> protocol.Offer | None:
        """Return what `worker` last said of its machine."""
        return self._offers.get(worker)

    def worker_figures(self, worker: int) -> events.WorkerSnapshot | None:
        """Return what the scheduler knows of `worker`."""
        for figures in self.scheduler.workers():
            if figures.worker == worker:
                return figures
        return None

    async def wait_idle(self) -> None:
        """Return when no attempt is out and every outcome that was decided is durable."""
        while True:
            now = self.scheduler.statistics()
            if not (now.leased or now.running or now.settling):
                return
            self._ending = trio.Event()
            await self._ending.wait()

    # --- links ------------------------------------------------------------------------------

    async def attach(
        self, worker: int, receive: Receive, send: Send, labels: Mapping[str, str]
    ) -> str:
        """Serve the link of `worker` until it ends; return why it did.

        `labels` are what the operator says of it; they win over its own.
        """
        link = WorkerLink(worker, receive, send)
        with trio.fail_after(HELLO_TIMEOUT_S):
            hello, rest = await link.receive_hello()
        if hello.version != protocol.VERSION:
            return f"protocol version {hello.version} is not {protocol.VERSION}"
        if (old := self.links.get(worker)) is not None:
            old.close("another link of this worker took over")
        self.links[worker] = link
        link.post(protocol.Welcome(protocol.VERSION, worker, self._beat_interval_s))
        offer = msgspec.structs.replace(hello.offer, labels={**hello.offer.labels, **labels})
        self._offers[worker] = offer
        self._handle(events.Attach(worker, offer, tuple(hello.held)))
        self._flush()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_closed, link, nursery.cancel_scope)
                nursery.start_soon(link.pump)
                await self._read(link, rest, nursery)
                nursery.cancel_scope.cancel()
        finally:
            if self.links.get(worker) is link:
                del self.links[worker]
                self._handle(events.Detach(worker))
                self._flush()
        return link.reason

    @staticmethod
    async def _end_when_closed(link: WorkerLink, scope: trio.CancelScope) -> None:
        await link.closed.wait()
        scope.cancel()

    def remove_worker(self, worker: int) -> None:
        """Take note that `worker` is gone for good."""
        if (link := self.links.pop(worker, None)) is not None:
            link.close("removed")
        self._offers.pop(worker, None)
        self._handle(events.Remove(worker))
        self._flush()

    def close_link(self, worker: int, reason: str) -> None:
        """Close the link of `worker`, which may attach again at once."""
        if (link := self.links.get(worker)) is not None:
            link.close(reason)

    def cordon(self, worker: int, *, cordoned: bool) -> None:
        """Lease nothing more to `worker`, or lease to it again."""
        self._handle(events.Cordon(worker) if cordoned else events.Uncordon(worker))
        if cordoned and (link := self.links.get(worker)) is not None:
            link.post(protocol.Drain())
        self._flush()

    async def _read(
        self, link: WorkerLink, first: Sequence[protocol.FromWorker], nursery: trio.Nursery
    ) -> None:
        limit = trio.CapacityLimiter(CALLS_ACTIVE_MAX)
        batch: Sequence[protocol.FromWorker] | None = first
        while batch is not None:
            self._handle(events.Beat(link.worker))
            for message in batch:
                if isinstance(message, protocol.Call):
                    nursery.start_soon(self._call, link, message, limit)
                else:
                    self._take(link.worker, message)
            self._flush()
            batch = await link.receive()

    def _take(self, worker: int, message: protocol.FromWorker) -> None:
        match message:
            case protocol.Finished():
                self._finished(worker, message)
            case protocol.Started(job, fence, elapsed_s):
                self._handle(events.Start(worker, job, fence, elapsed_s))
            case protocol.Progress(job, fence):
                self._handle(events.Heartbeat(worker, job, fence))
                self._progress(message)
            case protocol.Log():
                self._log(worker, message)
            case protocol.Returned(job, fence):
                self._handle(events.Return(worker, job, fence))
            case protocol.Beat() | protocol.Hello() | protocol.Call():
                pass
            case _:
                assert_never(message)

    def _current(self, job: int, fence: int) -> LiveJob | None:
        snapshot = self.scheduler.snapshot(job)
        if snapshot is None or snapshot.fence != fence or snapshot.settling:
            return None
        return self._live.get(job)

    def _progress(self, message: protocol.Progress) -> None:
        live = self._current(message.job, message.fence)
        if live is None:
            return
        live.progress = (message.fraction, message.message)
        live.note("progress", self._clock.wall_ms(), 0, 0, message.message)
        assert live.timeline is not None
        progress = [change for change in live.timeline if change.state == "progress"]
        if len(progress) > EVENTS_KEPT_MAX:
            live.timeline.remove(progress[0])

    def _log(self, worker: int, message: protocol.Log) -> None:
        live = self._current(message.job, message.fence)
        if live is None or live.log_bytes >= LOG_SIZE_MAX_BYTES:
            return
        lines = [list(line) for line in message.lines]
        live.log_bytes += sum(len(text) for _, _, text in message.lines)
        if live.log_bytes >= LOG_SIZE_MAX_BYTES:
            lines.append([self._clock.wall_ms(), "log", "(the rest of the log was dropped)"])
        key = ids.key(live.job) + live.log_sequence.to_bytes(8, "big")
        live.log_sequence += 1
        self._store.submit(Batch(puts=[(Table.LOGS, key, codec.dump_row(lines))]))

    async def _call(
        self, link: WorkerLink, call: protocol.Call, limit: trio.CapacityLimiter
    ) -> None:
        async with limit:
            request = self.request(call.job) if self._current(call.job, call.fence) else None
            if request is None:
                link.post(protocol.Refused(call.job, call.fence))
                return
            try:
                answer = await self._effects.call(call.job, request, call)
            except Problem as problem:
                link.post(protocol.Reply(call.call, problem.code, problem.detail))
            except StoreError as error:
                link.post(protocol.Reply(call.call, "storage_full", str(error)))
            else:
                link.post(protocol.Reply(call.call, "", answer))

    # --- effects ----------------------------------------------------------------------------

    def _handle(
        self,
        event: events.Input,
        finished: protocol.Finished | None = None,
        writes: Transaction | None = None,
    ) -> None:
        for effect in self.scheduler.handle(event, trio.current_time()):
            match effect:
                case events.Lease():
                    self._lease(effect)
                case events.Settle():
                    self._settle(effect, finished, writes)
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
                    live = self._live[job]
                    snapshot = self.scheduler.snapshot(job)
                    assert snapshot is not None
                    live.note("running", self._clock.wall_ms(), snapshot.attempt, snapshot.worker)
                    self._lazy.append(self._lease_row(live))
                case events.Adopt(_, job):
                    self._lazy.append(self._lease_row(self._live[job]))
                case _:
                    assert_never(effect)

    def _post(self, worker: int, message: protocol.ToWorker) -> None:
        if (link := self.links.get(worker)) is not None:
            link.post(message)

    def _lease_row(self, live: LiveJob) -> Put:
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

    def _lease(self, effect: events.Lease) -> None:
        live, link = self._live[effect.job], self.links[effect.worker]
        request = self.request(effect.job)
        assert request is not None
        version = self._functions(request.function, request.version)
        if version is None:
            live.cause = "the function was deleted"
            self._handle(events.Cancel(effect.job))
            return
        if link.programs.get(version.program) is not version:
            link.programs[version.program] = version
            link.post(version.message())
        live.leased_ms = self._clock.wall_ms()
        live.note("leased", live.leased_ms, effect.attempt, effect.worker)
        terms = resolve(version.runtime, version.terms, request.terms)
        total_s = terms.timeouts.total_s
        link.post(
            protocol.Lease(
                effect.job,
                effect.fence,
                effect.attempt,
                version.program,
                request.input,
                dict(request.blobs),
                terms.limits,
                terms.isolation,
                None if total_s is None else request.created_ms + int(total_s * 1000),
            )
        )

    def _requeue(self, effect: events.Requeue) -> None:
        live = self._live[effect.job]
        live.note("queued", self._clock.wall_ms(), effect.attempt, 0, effect.cause)
        self._effects.forget(effect.job, effect.fence)
        self._lazy.append(self._lease_row(live))

    def _finished(self, worker: int, message: protocol.Finished) -> None:
        writes = None
        if message.error_code is None:
            message = _checked(message)
        if message.error_code is None and message.writes:
            live, request = self._current(message.job, message.fence), self.request(message.job)
            if live is not None and request is not None:
                try:
                    writes = self._effects.prepare(message.job, request, message.writes)
                except Problem as problem:
                    message = _refused_writes(message, problem)
        finish = events.Finish(
            worker, message.job, message.fence, message.error_code, message.usage.wall_s
        )
        self._handle(finish, message, writes)

    def _settle(
        self, effect: events.Settle, finished: protocol.Finished | None, writes: Transaction | None
    ) -> None:
        live = self._live[effect.job]
        now_ms = self._clock.wall_ms()
        own = finished is not None and finished.job == effect.job
        if own and finished is not None and effect.state in ("succeeded", "failed"):
            usage, backend = finished.usage, finished.backend
            code, payload = str(finished.error_code or ""), finished.payload
            traceback = finished.traceback
        else:
            usage, backend, traceback = protocol.Usage(0, 0.0, 0.0, 0), "", ""
            code, payload = effect.code, (live.cause or effect.detail).encode()
            if own and finished is not None:
                usage = finished.usage
        if usage.started_ms and (live.timeline is None or live.timeline[-1].state == "leased"):
            live.note(
                "running", max(usage.started_ms, live.leased_ms), effect.attempt, effect.worker
            )
        history = [
            *live.history(),
            Change(live.sequence + 1, effect.state, now_ms, effect.attempt, effect.worker, code),
        ]
        outcome = Outcome(
            effect.state,
            effect.attempt,
            effect.fence,
            effect.worker,
            code,
            payload,
            traceback,
            max(usage.started_ms, live.leased_ms) if usage.started_ms else 0,
            now_ms,
            usage.wall_s,
            usage.cpu_s,
            usage.rss_max_bytes,
            backend,
            live.isolation,
            None if live.progress is None else list(live.progress),
            [list(change) for change in history],
        )
        ending = _Ending(live, effect.worker, effect.fence, job_rows.encode(outcome))
        if writes is not None and effect.state == "succeeded":
            assert finished is not None
            ending.writes, ending.wanted = writes, finished.writes
        self._endings.append(ending)

    def _flush(self) -> None:
        """Write what the last inputs came to, and see to it that the clock is watched."""
        if self._lazy:
            lazy, self._lazy = self._lazy, []
            self._store.submit(Batch(puts=lazy), lazy=True)
        if self._endings:
            endings, self._endings = self._endings, []
            together = [ending for ending in endings if ending.writes is None]
            if together:
                self._write(together)
            for ending in endings:
                if ending.writes is not None:
                    self._write([ending])
        deadline = self.scheduler.deadline
        if deadline is not None and (self._armed_s is None or deadline < self._armed_s):
            self._rearm.set()

    def _write(self, endings: list[_Ending]) -> None:
        puts: list[Put] = []
        deletes: list[Delete] = []
        for ending in endings:
            key = ids.key(ending.live.job)
            puts.append((Table.OUTCOMES, key, ending.outcome))
            deletes.append((Table.LIVE, key))
        writes = endings[0].writes
        batch = Batch(puts, deletes) if writes is None else writes.batch(puts, deletes)
        self._store.submit(batch, lambda result: self._written(endings, result))

    def _written(self, endings: list[_Ending], result: Result) -> None:
        """Runs in the loop, between tasks: it must not raise and cannot wait."""
        if isinstance(result, Conflict):
            self._rewrite(endings[0])
            return
        if isinstance(result, StoreError):
            if self._nursery is not None:
                self._nursery.start_soon(self._write_later, endings)
            return
        acked: dict[int, list[protocol.Held]] = {}
        for ending in endings:
            live = ending.live
            self._handle(events.Settled(live.job))
            self._leave(live)
            self.ended += 1
            for event in (live.ended, live.changed):
                if event is not None:
                    event.set()
            for after in ending.writes.after if ending.writes else ():
                after()
            self._effects.forget(live.job, ending.fence)
            self._ending.set()
            if ending.worker:
                held = protocol.Held(live.job, ending.fence)
                acked.setdefault(ending.worker, []).append(held)
        for worker, attempts in acked.items():
            self._post(worker, protocol.Acked(attempts))
        self._flush()

    def _rewrite(self, ending: _Ending) -> None:
        """Something the job's writes were based on has changed: base them on what is there."""
        request, outcome = self.request(ending.live.job), None
        assert request is not None
        assert ending.writes is not None
        try:
            ending.writes = self._effects.prepare(ending.live.job, request, ending.wanted)
        except Problem as problem:
            outcome = job_rows.decode_outcome(ending.outcome)._replace(
                state="failed", code="write_refused", payload=problem.detail.encode()
            )
            ending.outcome = job_rows.encode(outcome)
            ending.writes = None
        self._write([ending])

    async def _write_later(self, endings: list[_Ending]) -> None:
        await trio.sleep(STORE_RETRY_S)
        self._write(endings)

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
                self._handle(events.Tick())
                self._flush()


def _checked(message: protocol.Finished) -> protocol.Finished:
    """Return `message`, or the same as an error if its result is not JSON text."""
    try:
        message.payload.decode()
        msgspec.json.decode(message.payload, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        return msgspec.structs.replace(
            message, error_code="result_invalid", payload=str(error).encode(), writes=[]
        )
    return message


def _refused_writes(message: protocol.Finished, problem: Problem) -> protocol.Finished:
    return msgspec.structs.replace(
        message, error_code="write_refused", payload=problem.detail.encode(), writes=[]
    )
