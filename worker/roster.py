"""One worker as the node sees it: what it offers, what it holds, what is free.

A worker runs what it is leased in the order of the leases, as many at once as it has slots.  The
node therefore knows without being told which leases have a slot: the first ones, as far as the
slots reach.  The others wait at the worker (`prefetched`) so that a slot that becomes free starts
the next job at once instead of a round trip later.  When a lease ends, those that wait move up.

Two things are never promised twice: memory and GPUs count for every lease, also for those that
wait.  And because a worker counts jobs where the node counts slots, nothing is prefetched while a
job that takes several slots is held: the worker would start it beside that job.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from worker.attempts import Attempt, Entry
from worker.capabilities import gpu_memories_bytes, gpus
from worker.deadlines import Timer
from worker.estimates import class_of, speed_of
from worker.protocol import Offer
from worker.queue import Queue


class Worker:
    """A worker that is attached, or may come back."""

    __slots__ = (
        "attached",
        "class_name",
        "cordoned",
        "drain_at_s",
        "draining",
        "free_gpus",
        "free_memory_bytes",
        "free_slots",
        "heard_at_s",
        "offer",
        "open",
        "paused",
        "prefetched",
        "prefetched_s",
        "reserved",
        "running",
        "silent",
        "since_s",
        "slots",
        "slotted",
        "speed",
        "timer",
        "turning",
        "waiting",
        "wide",
        "window_until_s",
        "worker",
    )

    def __init__(self, worker: int, now: float) -> None:
        self.worker = worker
        self.offer: Offer | None = None
        """`None`: not seen since the node started."""
        self.class_name = ""
        """See `worker.estimates`."""
        self.speed = 0
        """Doublings of its machine's speed."""
        self.attached = False
        self.cordoned = False
        self.draining = False
        """Cordoned, and what has not started is asked back."""
        self.drain_at_s: float | None = None
        """When what it still holds goes elsewhere; `None`: never, or that is done."""
        self.silent = False
        """Its leases ran out: nothing was heard of it for so long."""
        self.paused = False
        """It gave back a lease unasked: nothing more until its next beat."""
        self.open = False
        """None of these: it may be leased to."""
        self.since_s = self.heard_at_s = now
        self.window_until_s = now
        """When a worker that is not attached is given up."""
        self.timer: Timer | None = None
        self.slots = 0
        self.slotted: dict[int, Entry] = {}
        """Leases that have their slots, by job, in the order of the leases."""
        self.prefetched: dict[int, Entry] = {}
        """Leases that wait here for a slot, likewise; all later than those in `slotted`."""
        self.running = 0
        """Leases that were reported to have started."""
        self.waiting: dict[Queue, None] = {}
        """Queues with jobs that fit this worker. Kept by `worker.placement`."""
        self.reserved: Queue | None = None
        """The queue whose first job this worker is held free for. Kept by `worker.placement`."""
        self._reset()

    def _reset(self) -> None:
        self.free_slots = self.slots
        self.free_memory_bytes = self.offer.memory_bytes if self.offer else 0
        self.free_gpus = gpu_memories_bytes(self.offer) if self.offer else []
        self.slotted = {}
        self.prefetched = {}
        self.prefetched_s = 0.0
        self.turning = 0
        """Slots whose job is known to end soon."""
        self.wide = 0
        """Leases that take several slots."""
        self.running = 0

    def set_open(self) -> None:
        """Work out `open` anew."""
        self.open = self.attached and not (self.cordoned or self.silent or self.paused)

    def re_offer(self, offer: Offer) -> None:
        """Take the offer of a new link, and start without leases."""
        self.offer = offer
        self.slots = offer.slots
        self.class_name = class_of(offer)
        self.speed = speed_of(offer)
        self._reset()

    def drop(self) -> list[Entry]:
        """Hold nothing any more; return what was held, in the order of the leases."""
        dropped = list(self.leases())
        self._reset()
        return dropped

    def __len__(self) -> int:
        """Return how many leases it holds."""
        return len(self.slotted) + len(self.prefetched)

    def __bool__(self) -> bool:
        """A worker is true also when it holds nothing."""
        return True

    def leases(self) -> Iterator[Entry]:
        """Yield what it holds, in the order of the leases."""
        yield from self.slotted.values()
        yield from self.prefetched.values()

    def has_memory_and_gpus(self, queue: Queue) -> bool:
        """Whether memory and GPUs for a job of this queue are free."""
        if queue.memory_bytes > self.free_memory_bytes:
            return False
        if not queue.gpu:
            return True
        gpus_free = self.free_gpus
        return len(gpus_free) - bisect_left(gpus_free, queue.gpu_memory_bytes) >= queue.gpu

    def fits(self, queue: Queue) -> bool:
        """Whether a job of this queue could start now."""
        free_slots = 0 if self.prefetched else self.free_slots
        return queue.cpu <= free_slots and self.has_memory_and_gpus(queue)

    def add(self, entry: Entry, held: Attempt, now: float) -> None:
        """Take a lease: into slots when they are free, else behind the others."""
        requires = entry.job.requires
        self.free_memory_bytes -= requires.memory_bytes
        if requires.gpu or requires.gpu_memory_bytes:
            # The smallest that will do; all that are left, when an adopted attempt has no room.
            start = bisect_left(self.free_gpus, requires.gpu_memory_bytes)
            taken = self.free_gpus[start : start + gpus(requires)]
            del self.free_gpus[start : start + len(taken)]
            held.gpus = tuple(taken)
        if requires.cpu > 1:
            self.wide += 1
        if held.started_at_s is not None:
            self.running += 1
        if requires.cpu <= self.free_slots and not self.prefetched:
            self._slot(entry, held, now)
        else:
            held.slotted = False
            self.prefetched[entry.job.job] = entry
            self.prefetched_s += held.estimate_s

    def remove(self, entry: Entry, held: Attempt, now: float) -> None:
        """A lease is over: free what it took, and let those that wait here move up."""
        requires = entry.job.requires
        self.free_memory_bytes += requires.memory_bytes
        for memory_bytes in held.gpus:
            insort(self.free_gpus, memory_bytes)
        held.gpus = ()
        if requires.cpu > 1:
            self.wide -= 1
        if held.started_at_s is not None:
            self.running -= 1
        if held.slotted:
            del self.slotted[entry.job.job]
            self.free_slots += requires.cpu
            self.turning -= held.quick
        else:
            self._unqueue(entry, held)
        while self.prefetched:
            following = next(iter(self.prefetched.values()))
            if following.job.requires.cpu > self.free_slots:
                return
            assert following.held is not None
            self._unqueue(following, following.held)
            self._slot(following, following.held, now)

    def slow(self, held: Attempt) -> None:
        """A job in a slot did not end as soon as its program used to."""
        self.turning -= held.quick
        held.quick = False

    def _slot(self, entry: Entry, held: Attempt, now: float) -> None:
        self.free_slots -= entry.job.requires.cpu
        self.turning += held.quick
        held.slotted = True
        held.slotted_at_s = now
        self.slotted[entry.job.job] = entry

    def _unqueue(self, entry: Entry, held: Attempt) -> None:
        del self.prefetched[entry.job.job]
        # Rounding errors would add up; an empty queue is a good time to forget them.
        self.prefetched_s = self.prefetched_s - held.estimate_s if self.prefetched else 0.0

    def check(self) -> None:
        """Assert the invariants."""
        leases = list(self.leases())
        cpu = sum(entry.job.requires.cpu for entry in self.slotted.values())
        assert self.free_slots == self.slots - cpu >= 0, "slots are never promised twice"
        memory = sum(entry.job.requires.memory_bytes for entry in leases)
        offered = self.offer.memory_bytes if self.offer else 0
        assert self.free_memory_bytes == offered - memory, "memory adds up"
        held = [entry.held for entry in leases if entry.held is not None]
        assert len(held) == len(leases), "what a worker holds is held"
        gpus_all = sorted([*self.free_gpus, *(gpu for attempt in held for gpu in attempt.gpus)])
        assert gpus_all == (gpu_memories_bytes(self.offer) if self.offer else []), "GPUs add up"
        assert self.wide == sum(entry.job.requires.cpu > 1 for entry in leases)
        assert self.running == sum(attempt.started_at_s is not None for attempt in held)
        assert self.turning == sum(attempt.quick for attempt in held if attempt.slotted)
        estimates = sum(attempt.estimate_s for attempt in held if not attempt.slotted)
        assert abs(self.prefetched_s - estimates) < 1e-6, "estimated work adds up"
        assert all(attempt.slotted for attempt in held[: len(self.slotted)])
        assert not any(attempt.slotted for attempt in held[len(self.slotted) :])
        assert all(attempt.worker == self.worker for attempt in held)
        assert self.cordoned or not self.draining
        assert self.draining or self.drain_at_s is None
        closed = self.cordoned or self.silent or self.paused
        assert self.open == (self.attached and not closed)
        if self.prefetched:
            first = next(iter(self.prefetched.values()))
            assert first.job.requires.cpu > self.free_slots, "those that wait move up"
