"""Which thing is asked for: some more often than others, as Zipf had it.

Of so many things, the k-th (from 1) is asked for with a probability that goes with k ^ -exponent:
0 is all equally often, 1 the classic, what is seen of web pages is 0.6 to 1 (Breslau et al., "Web
caching and Zipf-like distributions", 1999).
"""

import bisect
import itertools
import random


class Zipf:
    """Draws numbers below `keys`, the first ones most often."""

    def __init__(self, keys: int, exponent: float) -> None:
        weights = (float(rank) ** -exponent for rank in range(1, keys + 1))
        self._sums: list[float] = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> int:
        """Return the number of a key, from 0: one draw, by the inverse of the distribution."""
        at = bisect.bisect_right(self._sums, rng.random() * self._sums[-1])
        return min(at, len(self._sums) - 1)  # rounding may hit the end

    def probability(self, key: int) -> float:
        """Return how likely a key is drawn."""
        below = self._sums[key - 1] if key else 0.0
        return (self._sums[key] - below) / self._sums[-1]
