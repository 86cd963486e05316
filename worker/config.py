"""What the scheduler may be told: every limit and every waiting time, with its source.

Times are seconds.  The defaults suit a node with workers on a local network; a simulation that
wants another world passes another `Config`.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Policy: TypeAlias = Literal["spread", "pack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the `Scheduler`. All values are checked on construction."""

    lease_s: float = 30.0
    """How long a lease lives after the last message of its worker.

    Source: three times the usual interval of a worker's `Beat`, 10 s, so that two may be lost."""

    reconnect_s: float = 30.0
    """How long a worker whose link broke may take to come back with what it holds.

    Source: as long as a silent worker has (`lease_s`): a broken link is no worse than silence."""

    grace_s: float = 2.0
    """How much longer than `run_s` the scheduler waits for a worker's own `run_timeout`.

    Source: guess; a kill of a process tree and one round trip on a bad link."""

    recall_s: float = 1.0
    """After how long a lease that waits at its worker for a slot is asked back.

    Source: 20 times `prefetch_s`, what it should have waited at most."""

    prefetch_s: float = 0.05
    """Seconds of estimated work that may wait at a worker for each slot that turns over.

    Source: covers the round trip and the commit between a result and the next lease (5 ms each,
    measured) with room for a far worker; short enough that no job minds waiting behind it."""

    prefetch_max: int = 128
    """Most leases that wait at one worker for a slot.

    Source: 50 ms of no-op jobs at 2500 a second."""

    estimate_weight: float = 0.125
    """Weight of the newest run time in a program's mean. Source: RFC 6298, section 2."""

    programs_max: int = 4096
    """Most programs whose run times are remembered. Source: guess; 2 MB."""

    classes_max: int = 16
    """Most classes of workers whose run times are remembered for each program. Source: guess; as
    many kinds of machines as one node has."""

    preferences_max: int = 256
    """Most distinct preferences whose weights are remembered. Source: guess; one a function."""

    policy: Policy = "spread"
    """Who gets a job among workers that fit, have room, and are liked equally: `spread`, who has
    most free slots; `pack`, who has fewest, so that others stay empty."""

    poison_workers: int = 2
    """A job that ran on this many different workers when they were lost is poisoned.

    Source: one loss is an accident of the worker; two, on different ones, accuse the job."""

    backoff_max_s: float = 300.0
    """Longest wait before a retry. Source: guess; five minutes, as Kubernetes has it for pods."""

    overtake_s: float = 10.0
    """How long jobs that need less may overtake the first one, which needs more than is free.

    After that one worker is held free for it. Source: guess; ten one-second jobs."""

    queues_max: int = 256
    """Most queues kept that hold no job (one for each distinct `Requires`). Source: guess."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that could stop the scheduler from working."""
        for name in ("lease_s", "reconnect_s", "recall_s", "backoff_max_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than 0")
        for name in ("grace_s", "prefetch_s", "prefetch_max", "overtake_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in (
            "programs_max",
            "classes_max",
            "preferences_max",
            "poison_workers",
            "queues_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.policy not in ("spread", "pack"):
            raise ValueError("policy must be spread or pack")
        if not 0 < self.estimate_weight <= 1:
            raise ValueError("estimate_weight must be greater than 0 and at most 1")
