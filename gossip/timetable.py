"""Who is due when, of many: a heap whose entries are left behind when a due moves.

Setting a due and asking for the soonest cost a logarithm, whatever the number.  Entries that no
longer hold are dropped when they come up, or all at once when they are most of the heap.
"""

import heapq
from typing import Final

FOREVER: Final = float("inf")
_STALE_MIN: Final = 64
"""Entries from which on a heap is worth rebuilding. Source: guess."""


class Timetable:
    """Dues by number, each at most once."""

    def __init__(self) -> None:
        self._dues: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def set(self, number: int, due: float) -> None:
        """Have a number due then, and no longer when it was; `FOREVER`: never."""
        if self._dues.get(number) == due:
            return
        self._dues[number] = due
        if due != FOREVER:
            heapq.heappush(self._heap, (due, number))
        if len(self._heap) > 2 * len(self._dues) + _STALE_MIN:
            self._heap = [(due, n) for n, due in self._dues.items() if due != FOREVER]
            heapq.heapify(self._heap)

    def drop(self, number: int) -> None:
        """Forget a number; nothing if it is not known."""
        self._dues.pop(number, None)

    @property
    def soonest(self) -> float:
        """When the first of all is due."""
        heap = self._heap
        while heap and self._dues.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else FOREVER

    def check(self) -> None:
        """Assert that the heap and the table agree."""
        assert self.soonest == min(self._dues.values(), default=FOREVER)
        assert len(self._heap) <= 2 * len(self._dues) + _STALE_MIN + 1
