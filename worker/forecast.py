"""When a job that waits will start: an estimate, from run times measured before.

The slots of the workers that fit it become free when what runs there is expected to end; the jobs
that are served before it take one slot after the other, each for as long as jobs of the program at
the head of their queue usually take.  What this costs grows with the slots, and does not depend on
how many jobs wait.

It is `None`, unknown, where a guess would be worth nothing: no worker that fits is there, nothing
is known of what runs in all of its slots or of what is served before, or a slot is free and the
job waits for something else (memory, GPUs, a reservation).  Jobs that come later with a higher
priority, failures and new workers are not foreseen.
"""

from heapq import heapify, heapreplace
from typing import Final

from worker.attempts import Entry, held_of
from worker.placement import Placement
from worker.queue import Queue
from worker.roster import Worker

SLOTS_MAX: Final = 1024
"""Most slots that are looked at, about. Source: guess; a millisecond, and more change little."""
RUN_MIN_S: Final = 1e-6
"""Jobs that take less are over at once."""
ROUNDING: Final = 1e-9
"""So that a job that is over just then is over."""


def starts_in_s(entry: Entry, placement: Placement, now: float) -> float | None:
    """Return in how many seconds this queued job is expected to start, or `None`: unknown."""
    queue = placement.queues.get(entry.job.requires)
    if queue is None:
        return None
    ahead, work_s = 0, 0.0
    for other in placement.rivals(queue):
        count = other.ahead(entry)
        if not count:
            continue
        assert other.first is not None
        run_s = placement.estimates.get(other.first.job.program)
        if run_s is None:
            return None
        ahead += count
        work_s += count * run_s * other.cpu / queue.cpu
    free_in_s = _places(queue, placement, now)
    if not free_in_s:
        return None
    start_s = _turn_in_s(free_in_s, ahead, work_s / ahead if ahead else 0.0)
    backoff_s = entry.ready_at_s - now
    if backoff_s > 0:
        return max(start_s, backoff_s)
    return start_s if start_s > 0 else None


def _places(queue: Queue, placement: Placement, now: float) -> list[float]:
    """Return in how many seconds there is room for each job of this queue, soonest first."""
    places: list[float] = []
    for worker in queue.workers.values():
        if worker.open:
            slots = _slots(worker, placement, now)
            # A job of several slots has room when the last of them is free.
            places += slots[queue.cpu - 1 :: queue.cpu]
        if len(places) >= SLOTS_MAX:
            break
    places.sort()
    return places


def _slots(worker: Worker, placement: Placement, now: float) -> list[float]:
    """Return in how many seconds each slot of a worker is free, soonest first, if it is known."""
    slots = [0.0] * worker.free_slots
    for entry in worker.slotted.values():
        run_s = placement.estimates.get_on(entry.job.program, worker.class_name)
        if run_s is not None:
            left_s = max(0.0, run_s - (now - held_of(entry).slotted_at_s))
            slots += [left_s] * entry.job.requires.cpu
    slots.sort()
    return slots


def _turn_in_s(free_in_s: list[float], turn: int, run_s: float) -> float:
    """Return when job number `turn` (from 0) starts, if each takes a place for `run_s`.

    First as if work could be cut anywhere, as water finds its level: that is too soon by less than
    one job at each place, and what is missing are the next starts after it.
    """
    if not turn or run_s <= RUN_MIN_S:
        return free_in_s[0]
    level_s = free_s = 0.0
    for number, soonest_s in enumerate(free_in_s, 1):
        free_s += soonest_s
        level_s = max(soonest_s, (run_s * (turn + 1 - number) + free_s) / number)
        if number == len(free_in_s) or level_s <= free_in_s[number]:
            break
    starts, next_s = 0, []
    for soonest_s in free_in_s:
        begun = max(0, int((level_s - soonest_s) / run_s + 1 + ROUNDING))
        starts += begun
        next_s.append(soonest_s + begun * run_s)
    if starts > turn:
        return level_s
    heapify(next_s)
    for _ in range(turn - starts):
        heapreplace(next_s, next_s[0] + run_s)
    return next_s[0]
