"""What is to happen in a simulation, in order of time: an event list made for many events.

Most events of a swarm lie a link's latency ahead, a hundred thousand at a time.  In a heap each
costs seventeen comparisons, and each of those a look at memory that is in no cache.  Here time is
cut into slices: what lies in a later slice is appended to that slice's list, and a list is sorted
when its time has come.  The order is exactly that of a heap: by time, and by order of entry where
times are equal.

    agenda.push(0.5, node, "wake up")
    for at, who, what in agenda.due(until=1.0):
        ...                                     # may push more, at `at` or later
"""

import heapq
from bisect import insort_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Final, Generic, TypeVar

W = TypeVar("W")
D = TypeVar("D")

SLICE_S: Final = 0.001
"""Length of a slice. Source: guess; some hundred events each, at 10,000 nodes that are busy."""
_TIME: Final = itemgetter(0)


class Agenda(Generic[W, D]):
    """Pairs of things with their times. Never push what lies before what was given last."""

    __slots__ = ("_at", "_later", "_near", "_per_s", "_slice", "_slices")

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._per_s = 1 / slice_s
        self._slice = -1
        """The slice whose time has come; what lies in it or before is in `_near`."""
        self._near: list[tuple[float, W, D]] = []
        """In order; what lies before `_at` was given."""
        self._at = 0
        self._later: dict[int, list[tuple[float, W, D]]] = {}
        self._slices: list[int] = []

    def __len__(self) -> int:
        return len(self._near) - self._at + sum(map(len, self._later.values()))

    def push(self, at: float, who: W, what: D) -> None:
        """Enter something that is to happen at a time (seconds, at least 0, finite)."""
        place = int(at * self._per_s)
        if place <= self._slice:
            insort_right(self._near, (at, who, what), self._at, key=_TIME)
            return
        later = self._later.get(place)
        if later is None:
            self._later[place] = [(at, who, what)]
            heapq.heappush(self._slices, place)
        else:
            later.append((at, who, what))

    def due(self, until: float) -> Iterator[tuple[float, W, D]]:
        """Give what happens until then, in order, with what is pushed meanwhile."""
        while True:
            near = self._near
            while self._at < len(near):
                entry = near[self._at]
                if entry[0] > until:
                    return
                self._at += 1
                yield entry
            if not self._slices or self._slices[0] > until * self._per_s:
                return
            self._slice = heapq.heappop(self._slices)
            self._near = self._later.pop(self._slice)
            self._near.sort(key=_TIME)
            self._at = 0
