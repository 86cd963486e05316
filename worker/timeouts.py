"""The time limits of a job: which one has passed, and when to look next.

Two pure functions over the same times, so that they cannot disagree: what `due_at_s` names is what
`passed` finds at that time.
"""

from typing import NamedTuple

from worker.attempts import Attempt, Entry
from worker.roster import Worker

NEVER = float("inf")


class Passed(NamedTuple):
    """A limit that has passed."""

    code: str
    detail: str
    retried: bool
    """It ends the attempt only, and the job may be tried again."""


def due_at_s(entry: Entry, worker: Worker | None, now: float, grace_s: float) -> float | None:
    """Return when the next thing may happen to a job by itself, or `None`: nothing will.

    `worker` is the one that holds it.  May be early, when a limit has passed that does not count
    while the worker is away.
    """
    limits = entry.job.timeouts
    total_at_s = NEVER if limits.total_s is None else entry.submitted_at_s + limits.total_s
    held = entry.held
    if held is None or worker is None:
        when = NEVER if limits.queue_s is None else entry.waiting_since_s + limits.queue_s
        if entry.ready_at_s > now:
            when = min(when, entry.ready_at_s)
    else:
        when = min(_overrun_at_s(entry, held, worker, grace_s), _stalled_at_s(entry, held))
        if when <= now and not worker.attached:
            when = worker.window_until_s
    when = min(when, total_at_s)
    return when if when < NEVER else None


def passed(entry: Entry, worker: Worker | None, now: float, grace_s: float) -> Passed | None:
    """Return the limit that has passed, or `None`."""
    limits = entry.job.timeouts
    if limits.total_s is not None and now >= entry.submitted_at_s + limits.total_s:
        return Passed("total_timeout", f"not over after {limits.total_s:g} s", retried=False)
    held = entry.held
    if held is None or worker is None:
        if limits.queue_s is not None and now >= entry.waiting_since_s + limits.queue_s:
            return Passed("queue_timeout", f"waited for {limits.queue_s:g} s", retried=False)
        return None
    if not worker.attached:
        # It cannot say that it makes progress, or that it is over; it may when it is back.
        return None
    if now >= _overrun_at_s(entry, held, worker, grace_s):
        return Passed("run_timeout", f"still running after {limits.run_s:g} s", retried=True)
    if now >= _stalled_at_s(entry, held):
        return Passed("heartbeat_timeout", f"silent for {limits.heartbeat_s:g} s", retried=True)
    return None


def _overrun_at_s(entry: Entry, held: Attempt, worker: Worker, grace_s: float) -> float:
    """Return when a running job has run too long, and its worker has not said so."""
    run_s = entry.job.timeouts.run_s
    if run_s is None or held.started_at_s is None:
        return NEVER
    # A worker that was away ended it in time by itself, and may need a moment to say so.
    return max(held.started_at_s + run_s, worker.since_s) + grace_s


def _stalled_at_s(entry: Entry, held: Attempt) -> float:
    """Return when a running job has made no progress for too long."""
    heartbeat_s = entry.job.timeouts.heartbeat_s
    if heartbeat_s is None or held.started_at_s is None:
        return NEVER
    return held.heard_at_s + heartbeat_s
