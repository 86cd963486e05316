"""Handing in jobs, and taking them up again after a restart.

A job is accepted when its request is durable, and not before `hand_in` returns.  It may be sent to
a worker while it is being written: batches are applied in order, so its request is on the disk
before its outcome can be.  If the write fails the job is withdrawn, and never was.
"""

from collections.abc import Callable
from typing import Final

import trio

from peernode import job_rows, quotas
from peernode.committer import Committer
from peernode.dispatch import Dispatch
from peernode.functions import FunctionVersion
from peernode.idempotency import Claim
from peernode.job_rows import Request
from peernode.live_jobs import LiveJob, LiveJobs
from peernode.problems import Problem
from peernode.terms import NO_TERMS, Policy, resolve
from storage import ids
from storage.clock import Clock
from storage.errors import StoreError
from storage.store import Batch, Expect, Put, Store, Table
from worker import events

SEQUENCE_BITS: Final = 20
"""Bits for the events of a job between two starts of the node. Source: guess, 10 a second a day."""
_EMPTY = b""


class Jobs:
    """The way in for jobs."""

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        live: LiveJobs,
        committer: Committer,
        id_factory: ids.IdFactory,
        clock: Clock,
        functions: Callable[[int, int], FunctionVersion | None],
        policy: Policy,
        live_max: int,
        boot: int,
    ) -> None:
        self.accepted = 0
        self.draining = False
        self._dispatch = dispatch
        self._live = live
        self._store: Store = committer.store
        self._committer = committer
        self._ids = id_factory
        self._clock = clock
        self._functions = functions
        self._policy = policy
        self._live_max = live_max
        self._boot = boot
        self._claimed: set[bytes] = set()
        """Keys of claims that are being written."""

    async def hand_in(
        self,
        version: FunctionVersion,
        caller: int,
        input_json: bytes,
        *,
        blobs: list[list[object]],
        granted: list[int],
        terms: bytes,
        passes: list[list[object]] | None = None,
        certificate: bytes = b"",
        parent: int = 0,
        claim: Claim | None = None,
    ) -> tuple[int, bool]:
        """Keep a new job durably and start it; return its id and whether it is new.

        It is not new when `claim` names one handed in before.  Raises `Problem` or `StoreFull`.
        """
        early = self._is_new(claim)
        self._admit(version.project, new=early)
        now_ms, job = self._clock.wall_ms(), self._ids.next()
        key = ids.key(job)
        asked = version.function, version.version, version.project, caller, parent
        request = Request(*asked, now_ms, input_json, blobs, granted, terms)
        request = request._replace(passes=passes or [], certificate=certificate)
        row = job_rows.encode_request(request)
        puts: list[Put] = [
            (Table.JOBS, key, row),
            (Table.LIVE, key, job_rows.NO_LEASE),
            (Table.PROJECT_JOBS, ids.key(version.project) + key, _EMPTY),
        ]
        expects: list[Expect] = []
        if claim is not None:
            puts += claim.puts(job, now_ms)
            expects.append(claim.expect)
        await trio.lowlevel.checkpoint_if_cancelled()
        pending = self._committer.begin(Batch(puts=puts, expects=expects))
        # From here to the end of the wait nothing can cancel us: the job's fate will be known.
        live = LiveJob(job, version.project, now_ms, request)
        live.row = row
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
        live.request, live.row = None, b""
        self._live.recent.keep_request(job, request, row)
        if not early:
            self._submit(live, version, terms)
        self.accepted += 1
        return job, True

    def _is_new(self, claim: Claim | None) -> bool:
        """Tell whether nothing known now stands under the key of `claim`."""
        if claim is None:
            return True
        return claim.key not in self._claimed and claim.find(self._store) is None

    def _admit(self, project: int, *, new: bool) -> None:
        """Raise a `Problem` if no job, or no `new` one of `project`, is taken now."""
        if self.draining:
            raise Problem("draining", "this node is stopping; ask again in a moment")
        if len(self._live) >= self._live_max:
            raise Problem(
                "overloaded",
                f"the node holds {self._live_max} unfinished jobs",
                limit=self._live_max,
            )
        limit = quotas.get(self._store, project).jobs_unfinished if new else None
        quotas.check(self._live.unfinished(project), 1, limit, "jobs_unfinished")

    def _submit(self, live: LiveJob, version: FunctionVersion, terms_row: bytes) -> None:
        terms = resolve(version.runtime, version.terms, terms_row, self._policy, version.tags)
        self._live.enter(live)
        live.isolation = terms.isolation
        job = events.Job(
            job=live.job,
            program=version.program,
            requires=terms.requires,
            retry=terms.retry,
            timeouts=terms.timeouts,
            prefers=terms.prefers,
        )
        self._dispatch.handle(events.Submit(job))
        self._dispatch.flush()

    def _withdraw(self, live: LiveJob, *, started: bool) -> None:
        if not started:
            return
        self._dispatch.handle(events.Withdraw(live.job))
        # A lease of it may have been written after the request was refused.
        self._dispatch.drop_leases(live.job)
        self._store.submit(Batch(deletes=[(Table.LIVE, ids.key(live.job))]))
        self._live.leave(live)

    async def take_back(self, job: int, outcome_row: bytes) -> bool:
        """Give a job that is not over here the outcome that this node has told before, durably.

        Tells whether it has taken it; if not, it has one.
        """
        key = ids.key(job)
        batch = Batch(
            puts=[(Table.OUTCOMES, key, outcome_row)],
            deletes=[(Table.LIVE, key)],
            expects=[(Table.OUTCOMES, key, None)],
        )
        if await self._committer.write(batch) is not None:
            return False
        if (live := self._live.get(job)) is not None:
            self._dispatch.forget(job)
            self._live.leave(live)
        return True

    def begin(self, boot: int) -> None:
        """Go on as after start number `boot` of the node."""
        self._boot = boot
        self._dispatch.begin(boot)

    async def cancel(self, job: int) -> None:
        """Cancel `job` and return when its outcome, whichever it is, is durable."""
        live = self._live.get(job)
        if live is None:
            return
        ended = live.when_ended()
        self._dispatch.handle(events.Cancel(job))
        self._dispatch.flush()
        await ended.wait()

    async def reprioritise(self, job: int, priority: int) -> None:
        """Change the priority of a queued job, durably."""
        live = self._live[job]
        live.priority = priority
        self._dispatch.handle(events.Reprioritise(job, priority))
        await self._committer.write(Batch([self._dispatch.lease_row(live)]))
        self._dispatch.flush()

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
        self._dispatch.flush()
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
        self._live.enter(live)
        live.priority = lease.priority
        live.log_sequence = self._next_log_sequence(key)
        # Who follows the job goes on from an event of before, of which nothing is known here.
        live.sequence = self._boot << SEQUENCE_BITS
        # An attempt that ended with the node counts for nothing.
        died = int(lease.worker in local_workers)
        terms = resolve(
            version.runtime if version else "python",
            version.terms if version else NO_TERMS,
            request.terms,
            self._policy,
            version.tags if version else (),
        )
        live.isolation = terms.isolation
        restored = events.Job(
            job=job,
            program=f"{request.function}.{request.version}",
            requires=terms.requires,
            retry=terms.retry,
            timeouts=terms.timeouts,
            prefers=terms.prefers,
            priority=lease.priority,
            age_s=max(0.001, (now_ms - request.created_ms) / 1000),
            attempt=lease.attempt - died,
            fence=lease.fence,
            lost_on=tuple(lease.lost_on),
        )
        if lease.worker and lease.worker not in local_workers:
            live.leased_ms = lease.leased_ms
            live.note("leased", lease.leased_ms, lease.attempt, lease.worker)
            self._dispatch.handle(events.Restore(restored, lease.worker, lease.running))
        else:
            self._dispatch.handle(events.Submit(restored))
        return True

    def _next_log_sequence(self, key: bytes) -> int:
        last = self._store.scan(Table.LOGS, key, key + b"\xff" * 9, reverse=True, limit=1)
        return int.from_bytes(last[0][0][8:], "big") + 1 if last else 0
