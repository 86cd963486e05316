"""The jobs that wait, grouped by what they require.

All jobs of one `Queue` fit the same workers, so a worker with room looks at the first job of each
queue and at no other: what a job costs does not depend on how many wait.

Within a queue, a `Lane` for each priority.  New jobs go to the end of the lane's `fresh` part, in
the order of submission.  Jobs that come back (returned, retried, with a new priority) belong
somewhere else, by their sequence number; they are few and wait in a heap beside it, `returned`.
A job taken out of the middle of `fresh` leaves a dead reference behind: it never enters `fresh`
again, and when half of the references are dead they are dropped.  So everything costs amortised
O(1), or O(log n) in the number of jobs that came back, and a waiting job takes 8 bytes here.
"""

import heapq
from bisect import bisect_left
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from worker.attempts import Entry, precedes
from worker.capabilities import gpus
from worker.events import Requires

if TYPE_CHECKING:
    from worker.roster import Worker

DEAD_MIN: Final = 64
"""Fewest dead references worth a sweep. Source: guess; a sweep this small takes 5 us."""


class Lane:
    """Waiting jobs of one priority, in the order of submission."""

    __slots__ = ("_dead", "fresh", "returned")

    def __init__(self) -> None:
        self.fresh: deque[Entry] = deque()
        self.returned: list[tuple[int, Entry]] = []
        self._dead = 0

    def __len__(self) -> int:
        """Return how many jobs wait here."""
        return len(self.fresh) - self._dead + len(self.returned)

    def append(self, entry: Entry) -> None:
        """Add a new job: the last one."""
        entry.place = self.fresh
        self.fresh.append(entry)

    def insert(self, entry: Entry) -> None:
        """Add a job that came back: where its sequence number puts it."""
        entry.place = self.returned
        heapq.heappush(self.returned, (entry.sequence, entry))

    def remove(self, entry: Entry) -> None:
        """Take a job out."""
        if entry.place is self.returned:
            self.returned.remove((entry.sequence, entry))
            heapq.heapify(self.returned)
        else:
            self._dead += 1
        entry.place = None
        if self._dead > DEAD_MIN and self._dead * 2 > len(self.fresh):
            living = [entry for entry in self.fresh if entry.place is self.fresh]
            self.fresh.clear()
            self.fresh.extend(living)
            self._dead = 0

    def first(self) -> Entry | None:
        """Return the job that is next, or `None`."""
        fresh, returned = self.fresh, self.returned
        while fresh and fresh[0].place is not fresh:
            fresh.popleft()
            self._dead -= 1
        if returned and (not fresh or returned[0][0] < fresh[0].sequence):
            return returned[0][1]
        return fresh[0] if fresh else None

    def pop(self, first: Entry) -> None:
        """Take out what `first` just returned."""
        if first.place is self.fresh:
            self.fresh.popleft()
        else:
            heapq.heappop(self.returned)
        first.place = None

    def before(self, entry: Entry) -> int:
        """Return how many jobs wait before this one; too many by at most the dead references."""
        ahead = bisect_left(self.fresh, entry.sequence, key=lambda other: other.sequence)
        ahead += sum(sequence < entry.sequence for sequence, _ in self.returned)
        here = entry.place is self.fresh or entry.place is self.returned
        return min(ahead, len(self) - here)

    def check(self) -> None:
        """Assert the invariants."""
        living = [entry for entry in self.fresh if entry.place is self.fresh]
        assert len(self.fresh) - len(living) == self._dead, "dead references are counted"
        order = [entry.sequence for entry in self.fresh]
        assert all(one < other for one, other in pairwise(order)), "in order"
        assert all(entry.place is self.returned for _, entry in self.returned), "returned lives"


class Queue:
    """Waiting jobs with equal requirements, and the workers that fit them."""

    __slots__ = (
        "_lanes",
        "_length",
        "_priorities",
        "cpu",
        "first",
        "gpu",
        "gpu_memory_bytes",
        "memory_bytes",
        "requires",
        "reserved",
        "workers",
    )

    def __init__(self, requires: Requires) -> None:
        self.requires = requires
        self.cpu = requires.cpu
        self.memory_bytes = requires.memory_bytes
        self.gpu = gpus(requires)
        self.gpu_memory_bytes = requires.gpu_memory_bytes
        self.first: Entry | None = None
        """The job that is served next. Kept up to date by every method."""
        self.workers: dict[int, Worker] = {}
        """Workers that fit, in the order in which they attached. Kept by `worker.placement`."""
        self.reserved: Worker | None = None
        """A worker held free for the first job. Kept by `worker.placement`."""
        self._lanes: dict[int, Lane] = {}
        self._priorities: list[int] = []
        """Heap of the negated priorities in `_lanes`."""
        self._length = 0

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return self._length

    def add(self, entry: Entry, *, fresh: bool) -> None:
        """Add a job; `fresh`: it has the greatest sequence number so far, and is here first."""
        lane = self._lanes.get(entry.priority)
        if lane is None:
            lane = self._lanes[entry.priority] = Lane()
            heapq.heappush(self._priorities, -entry.priority)
        if fresh:
            lane.append(entry)
        else:
            lane.insert(entry)
        self._length += 1
        if self.first is None or precedes(entry, self.first):
            self.first = entry

    def remove(self, entry: Entry) -> None:
        """Take a job out, wherever it is."""
        lane = self._lanes[entry.priority]
        self._length -= 1
        if entry is self.first:
            lane.pop(entry)
            self.first = self._top()
            return
        lane.remove(entry)
        if not lane and self.first is not None and entry.priority != self.first.priority:
            # Few priorities are in use, but a job may go through any number of them.
            del self._lanes[entry.priority]
            self._priorities.remove(-entry.priority)
            heapq.heapify(self._priorities)

    def ahead(self, entry: Entry) -> int:
        """Return how many jobs here are served before this one (which may wait elsewhere)."""
        lane = self._lanes.get(entry.priority)
        lanes = self._lanes.items()
        higher = sum(len(other) for priority, other in lanes if priority > entry.priority)
        return higher + (lane.before(entry) if lane is not None else 0)

    def check(self) -> None:
        """Assert the invariants."""
        for priority, lane in self._lanes.items():
            lane.check()
            assert all(entry.priority == priority for _, entry in lane.returned)
        assert sorted(-priority for priority in self._priorities) == sorted(self._lanes)
        assert self._length == sum(len(lane) for lane in self._lanes.values())
        assert self.first is self._top(), "the first job is the first job"

    def _top(self) -> Entry | None:
        priorities = self._priorities
        while priorities:
            first = self._lanes[-priorities[0]].first()
            if first is not None or len(priorities) == 1:
                # The last lane is kept when it is empty: most queues have only one priority.
                return first
            del self._lanes[-heapq.heappop(priorities)]
        return None
