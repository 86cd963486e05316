"""A job as the scheduler keeps it, and the attempt a worker holds of it.

Two records without rules of their own.  `Entry` is made for every job, a hundred thousand of them
when many wait, so it is small; `Attempt` is made when a worker gets the job.
"""

from typing import Any, Literal, TypeAlias

from worker.deadlines import Timer
from worker.events import Job

Phase: TypeAlias = Literal["queued", "leased", "running"]


class Attempt:
    """What one worker holds: one attempt of one job, from its lease to its end."""

    __slots__ = (
        "estimate_s",
        "finished",
        "gpus",
        "heard_at_s",
        "leased_at_s",
        "quick",
        "recalled",
        "restored",
        "slotted",
        "slotted_at_s",
        "started_at_s",
        "worker",
    )

    def __init__(self, worker: int, now: float, estimate_s: float, quick: bool) -> None:
        self.worker = worker
        self.leased_at_s = now
        self.estimate_s = estimate_s
        """Expected run time; 0 when nothing is known."""
        self.quick = quick
        """Its program is known to end soon: its slot turns over."""
        self.slotted = False
        """It has slots of the worker, in the node's eyes; if not, it waits there."""
        self.slotted_at_s = now
        self.started_at_s: float | None = None
        self.heard_at_s = now
        """When its function last said that it makes progress."""
        self.recalled = False
        self.restored = False
        """Its worker has not been heard of since the node restarted."""
        self.finished = False
        """It was ended by its worker's word, not by the node's."""
        self.gpus: tuple[int, ...] = ()
        """Memory in bytes of each GPU it has."""


class Entry:
    """One job that is not over, or whose outcome is not yet durable."""

    __slots__ = (
        "attempt",
        "fence",
        "held",
        "job",
        "lost_on",
        "place",
        "priority",
        "ready_at_s",
        "sequence",
        "settling",
        "state",
        "submitted_at_s",
        "timer",
        "waiting_since_s",
    )

    def __init__(self, job: Job, sequence: int, now: float) -> None:
        self.job = job
        self.sequence = sequence
        """Its place among jobs of equal priority, for good: retries keep it."""
        self.priority = job.priority
        self.attempt = job.attempt
        """Number of the attempt held; when queued, attempts that count."""
        self.fence = job.fence
        self.lost_on = job.lost_on
        self.state: Phase = "queued"
        self.settling = False
        self.submitted_at_s = self.waiting_since_s = now - job.age_s if job.age_s else now
        self.ready_at_s = 0.0
        """When its backoff ends."""
        self.held: Attempt | None = None
        self.timer: Timer | None = None
        self.place: Any = None
        """Which part of a queue it waits in; belongs to `worker.queue`."""


def precedes(one: Entry, other: Entry) -> bool:
    """Whether `one` is to be served before `other`: higher priority, then earlier submitted."""
    if one.priority != other.priority:
        return one.priority > other.priority
    return one.sequence < other.sequence


def held_of(entry: Entry) -> Attempt:
    """Return the attempt of a job that is known to be held."""
    assert entry.held is not None
    return entry.held
