"""When to look at something again: one timer for each owner, a heap under all of them.

A timer is a promise to look *no later than* its time, not at exactly that time.  An owner whose
time moves back (a lease renewed, a heartbeat) leaves its timer alone, is looked at early, finds
nothing due and sets it anew; so renewing costs nothing.  Only a nearer time is a new entry in the
heap.  What is cleared or replaced stays in the heap until half of it is dead; then the living are
kept and the rest goes.  So every operation costs amortised O(log n), and O(1) where times are set
in growing order, as they are for jobs with equal time limits; and the heap never holds more than
about twice what lives.
"""

import heapq
from collections.abc import Iterator
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

DEAD_MIN: Final = 64
"""Fewest dead entries worth a rebuild. Source: guess; a rebuild this small takes 10 us."""

Timer: TypeAlias = tuple[float, int, Any]
"""`(when, number, owner)`; the number makes the order total, and that of setting."""


class Timed(Protocol):
    """Something that is looked at when its time comes. `timer` belongs to `Deadlines`."""

    timer: Timer | None


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """Timers of many owners, one each."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._dead = 0
        self._number = 0

    def set(self, owner: T, when: float) -> None:
        """Have `owner` come due at `when` (seconds), unless it already does before."""
        timer = owner.timer
        if timer is not None:
            if timer[0] <= when:
                return
            self._dead += 1
        self._number += 1
        owner.timer = timer = (when, self._number, owner)
        heapq.heappush(self._heap, timer)
        if self._dead > DEAD_MIN and self._dead * 2 > len(self._heap):
            self._compact()

    def clear(self, owner: T) -> None:
        """Have `owner` not come due at all."""
        if owner.timer is not None:
            owner.timer = None
            self._dead += 1
            if self._dead > DEAD_MIN and self._dead * 2 > len(self._heap):
                self._compact()

    @property
    def next(self) -> float | None:
        """When the first owner comes due, or `None`: nobody ever does."""
        heap = self._heap
        while heap and heap[0][2].timer is not heap[0]:
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[T]:
        """Yield each owner whose time has come, in the order of their times, timer cleared.

        An owner that sets a time that has passed while this runs is yielded again.
        """
        while True:
            when = self.next
            if when is None or when > now:
                return
            owner: T = heapq.heappop(self._heap)[2]
            owner.timer = None
            if self._dead > DEAD_MIN and self._dead * 2 > len(self._heap):
                self._compact()
            yield owner

    def __len__(self) -> int:
        """Return how many owners have a timer."""
        return len(self._heap) - self._dead

    def check(self) -> None:
        """Assert the invariants."""
        dead = sum(timer[2].timer is not timer for timer in self._heap)
        assert dead == self._dead, f"{dead} dead timers, counted {self._dead}"
        assert dead <= max(DEAD_MIN, len(self._heap) // 2), f"{dead} of {len(self._heap)} dead"

    def _compact(self) -> None:
        self._heap = [timer for timer in self._heap if timer[2].timer is timer]
        heapq.heapify(self._heap)
        self._dead = 0
