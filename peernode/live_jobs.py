"""Jobs that are not over, and what can be read of all jobs.

A job that is not over has a `LiveJob` in memory: its timeline, its progress and who waits for it.
Everything else about a job is on the disk, and is read when it is asked for.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple

import trio

from peernode import job_rows
from peernode.job_rows import Change, Outcome, Request
from peernode.recent_jobs import RecentJobs
from storage import ids
from storage.store import Store, Table

EVENTS_KEPT_MAX: Final = 64
"""Progress events of one live job kept for readers that come later. Source: guess."""
MESSAGE_LENGTH_MAX: Final = 1024
"""Longest message of a report; the rest is cut. Source: what a worker takes of a function."""


class Report(NamedTuple):
    """Progress, as a function reported it; numbered with the job's states, and not kept."""

    sequence: int
    fraction: float | None
    message: str


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
        "row",
        "sequence",
        "timeline",
    )

    def __init__(self, job: int, project: int, created_ms: int, request: Request | None) -> None:
        self.job = job
        self.project = project
        self.created_ms = created_ms
        self.request = request
        """The request until it is durable; `None` after, when the disk has it."""
        self.row = b""
        """The request's row until it is durable; empty after."""
        self.priority = 0
        self.leased_ms = 0
        self.isolation = ""
        self.log_bytes = 0
        self.log_sequence = 0
        self.sequence = 1
        self.progress: tuple[float | None, str] | None = None
        self.timeline: list[Change | Report] | None = None
        """States (kept) and progress (the last few), oldest first; `None`: only queued."""
        self.ended: trio.Event | None = None
        self.changed: trio.Event | None = None
        self.cause = ""

    def note(self, state: str, at_ms: int, attempt: int, worker: int, cause: str = "") -> None:
        """Add to the timeline and wake who follows it."""
        self._append(Change(self.sequence + 1, state, at_ms, attempt, worker, cause))

    def _append(self, event: "Change | Report") -> "list[Change | Report]":
        if self.timeline is None:
            self.timeline = [Change(1, "queued", self.created_ms, 0, 0, "")]
        self.sequence = event.sequence
        self.timeline.append(event)
        if self.changed is not None:
            self.changed.set()
            self.changed = None
        return self.timeline

    def history(self) -> list[Change]:
        """Return the states so far, oldest first."""
        if self.timeline is None:
            return [Change(1, "queued", self.created_ms, 0, 0, "")]
        return [event for event in self.timeline if isinstance(event, Change)]

    def report(self, fraction: float | None, message: str) -> None:
        """Take note of the function's progress; of old reports only the last few are kept."""
        message = message[:MESSAGE_LENGTH_MAX]
        self.progress = (fraction, message)
        timeline = self._append(Report(self.sequence + 1, fraction, message))
        reports = [event for event in timeline if isinstance(event, Report)]
        if len(reports) > EVENTS_KEPT_MAX:
            timeline.remove(reports[0])

    def when_ended(self) -> trio.Event:
        """Return what is set once the job is over."""
        if self.ended is None:
            self.ended = trio.Event()
        return self.ended

    def wake(self) -> None:
        """Wake everyone who waits for this job: it is over, or never was."""
        for event in (self.ended, self.changed):
            if event is not None:
                event.set()


class LiveJobs:
    """All jobs of this node: the live ones in memory, the others on the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live: dict[int, LiveJob] = {}
        self._of_project: dict[int, int] = {}
        self.recent = RecentJobs()

    def __len__(self) -> int:
        return len(self._live)

    def __getitem__(self, job: int) -> LiveJob:
        return self._live[job]

    def enter(self, live: LiveJob) -> None:
        """Take up a job."""
        self._live[live.job] = live
        self._of_project[live.project] = self._of_project.get(live.project, 0) + 1

    def leave(self, live: LiveJob) -> None:
        """Let go of a job, and wake who waits for it."""
        if self._live.pop(live.job, None) is None:
            return
        self._of_project[live.project] -= 1
        if not self._of_project[live.project]:
            del self._of_project[live.project]
        live.wake()

    def get(self, job: int) -> LiveJob | None:
        """Return what is held of `job` if it is not over."""
        return self._live.get(job)

    def unfinished(self, project: int) -> int:
        """Return how many jobs of `project` are not over."""
        return self._of_project.get(project, 0)

    def request(self, job: int) -> Request | None:
        """Return what was asked for, or `None` if there is no such job."""
        live = self._live.get(job)
        if live is not None and live.request is not None:
            return live.request
        found = self._kept(job)
        return None if found is None else found[0]

    def request_cid(self, job: int) -> str:
        """Return the CID of a durable request, by which any node can verify it."""
        found = self._kept(job)
        return "" if found is None else found[1]

    def outcome(self, job: int) -> Outcome | None:
        """Return how `job` ended, once that is durable."""
        found = self.recent.outcome(job)
        if found is None:
            row = self._store.get(Table.OUTCOMES, ids.key(job))
            if row is not None:
                found = job_rows.decode_outcome(row)
                self.recent.keep_outcome(job, found)
        return found

    def _kept(self, job: int) -> tuple[Request, str] | None:
        found = self.recent.request(job)
        if found is None:
            row = self._store.get(Table.JOBS, ids.key(job))
            if row is not None:
                found = self.recent.keep_request(job, job_rows.decode_request(row), row)
        return found

    async def wait_ended(self, job: int, timeout_s: float) -> None:
        """Return when `job` is over, or after `timeout_s`."""
        live = self._live.get(job)
        if live is None or timeout_s <= 0:
            return
        with trio.move_on_after(timeout_s):
            await live.when_ended().wait()

    async def changes(self, job: int, after: int) -> AsyncGenerator[Change | Report, None]:
        """Yield the events of `job` with a sequence above `after`, until it is over."""
        while (live := self._live.get(job)) is not None:
            events: Sequence[Change | Report] = live.timeline or live.history()
            for event in [event for event in events if event.sequence > after]:
                after = event.sequence
                yield event
            if live.changed is None:
                live.changed = trio.Event()
            await live.changed.wait()
        outcome = self.outcome(job)
        for fields in outcome.history if outcome else []:
            change = Change._make(fields)
            if change.sequence > after:
                yield change
