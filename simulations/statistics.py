"""What many runs together say: intervals over replications, and whether theory agrees with them.

Rules:

* One number a replication.  Observations within one run depend on each other (a long queue is long
  for all who stand in it), so an interval over them is too narrow; runs with different seeds are
  independent, and their means are nearly normal.  The interval is Student's.
  Source: Law, Simulation Modeling and Analysis, chapter 9.
* A verdict is *equals*: theory lies inside the interval, and the mean is within `RELATIVE_MAX` of
  it.  Both, because a wide interval holds any theory, and a narrow one refuses a good
  approximation.  A share near 0 or 1 has no useful relative error: it may be given `absolute_max`
  instead, and one that is the same in all replications has no interval to speak of (`SAME_MAX`).
* Or it is a *bound*: the whole interval lies on its side.  A bound that holds for every single run
  (no message is faster than its way) is asked of each of them, "always".
* A run begins empty; what is observed before the queue is as it will stay is dropped.  Scenarios
  say how long that is (`warm_up_s`), `warm_up_length` proposes it (MSER-5).

At a confidence of 99 % one true theory in a hundred is refused by chance; a page of a hundred
verdicts that has none is not better than one that has one.

Left out: sequential stopping (how many replications is decided beforehand), variance reduction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy import special

CONFIDENCE: Final = 0.99
"""How often an interval holds the true mean. Source: docs/evaluation.md compares a hundred."""
RELATIVE_MAX: Final = 0.05
"""How far a mean may be from theory, as a share of it. Source: what a plot shows."""
SAME_MAX: Final = 1e-9
"""Largest relative difference of equal numbers that were computed on two ways. Source: 2^-30."""
BROKEN: Final = "some run breaks the bound"
BATCH: Final = 5
"""Observations in a batch of MSER-5. Source: White, Cobb and Spratt 2000."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over replications, and between which numbers the true one lies."""

    mean: float
    low: float
    high: float
    replications: int = 1

    @property
    def half_width(self) -> float:
        """How far each end is from the mean."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether theory and measurement agree, and how that was decided."""

    passed: bool
    reason: str


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of independent values and Student's interval for it.

    One value alone says nothing of its error: its interval is infinite.  Raises `ValueError` for no
    values, and for one that is not a finite number.
    """
    count = len(values)
    if not count:
        raise ValueError("no values")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a value is not finite")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    factor = float(special.stdtrit(count - 1, (1 + confidence) / 2))
    half = factor * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed, by linear interpolation.

    Hyndman and Fan's seventh, as NumPy and R have it.  Raises `ValueError` for no values.
    """
    if not values:
        raise ValueError("no values")
    if not 0 <= share <= 1:
        raise ValueError(f"not a share: {share}")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def quantile_interval(
    runs: Sequence[Sequence[float]], share: float, confidence: float = CONFIDENCE
) -> Interval:
    """Return the interval of a quantile: that of each run counts as one value."""
    return t_interval([quantile(run, share) for run in runs if run], confidence)


def jain_index(values: Sequence[float]) -> float:
    """Return how evenly something is spread: 1 for all alike, 1 / n if one has it all.

    Source: Jain, Chiu and Hawe 1984.  Nothing at all is spread evenly.
    """
    squares = math.fsum(value * value for value in values)
    return 1.0 if squares == 0 else math.fsum(values) ** 2 / (len(values) * squares)


def warm_up_length(values: Sequence[float]) -> int:
    """Return how many of the first values to drop, so that the rest has the least error (MSER-5).

    Never more than half: if the best cut is later, the run is too short to say.
    """
    batches = [
        math.fsum(values[start : start + BATCH]) / BATCH
        for start in range(0, len(values) - BATCH + 1, BATCH)
    ]
    if len(batches) < 2:
        return 0
    best, best_error = 0, math.inf
    total = squares = 0.0
    for first in range(len(batches) - 1, -1, -1):
        total += batches[first]
        squares += batches[first] ** 2
        count = len(batches) - first
        error = max(0.0, squares - total * total / count) / count**2
        if count >= len(batches) / 2 and error <= best_error:
            best, best_error = first, error
    return best * BATCH


def equals(
    measured: Interval,
    theory: float,
    *,
    relative_max: float = RELATIVE_MAX,
    absolute_max: float | None = None,
) -> Verdict:
    """Judge whether a measured mean is what theory says it is.

    Args:
        measured: The interval over replications.
        theory: What it should be.
        relative_max: How far the mean may be off, as a share of `theory`.
        absolute_max: For shares near 0 or 1: as far off is good enough, whatever the relative
            error.  And where all replications agree (all jobs succeeded, say), there is no
            interval: being as near is all that is asked.
    """
    error = abs(measured.mean - theory)
    inside = measured.low <= theory <= measured.high or error <= SAME_MAX * abs(theory)
    near = error <= relative_max * abs(theory)
    if absolute_max is not None:
        near = near or error <= absolute_max
        inside = inside or (measured.half_width <= SAME_MAX and error <= absolute_max)
    off = _percent(error, theory)
    if inside and near:
        return Verdict(True, f"inside the interval, {off}")
    where = "inside the interval" if inside else "outside the interval"
    return Verdict(False, f"{where}, {off}{'' if near else ', too far'}")


def at_least(measured: Interval, bound: float) -> Verdict:
    """Judge whether what was measured keeps to a lower bound."""
    held = measured.low >= bound - SAME_MAX * abs(bound)
    return Verdict(held, "above the bound" if held else "the interval reaches below the bound")


def at_most(measured: Interval, bound: float) -> Verdict:
    """Judge whether what was measured keeps to an upper bound."""
    held = measured.high <= bound + SAME_MAX * abs(bound)
    return Verdict(held, "below the bound" if held else "the interval reaches above the bound")


def always_at_least(values: Sequence[float], bound: float) -> Verdict:
    """Judge whether not one run fell below a bound that holds for each of them, not for a mean."""
    least = min(values)
    held = least >= bound - SAME_MAX * abs(bound)
    return Verdict(held, f"above the bound in each run, least {least:.4g}" if held else BROKEN)


def always_at_most(values: Sequence[float], bound: float) -> Verdict:
    """Judge whether not one run rose above a bound that holds for each of them, not for a mean."""
    most = max(values)
    held = most <= bound + SAME_MAX * abs(bound)
    return Verdict(held, f"below the bound in each run, most {most:.4g}" if held else BROKEN)


def _percent(error: float, theory: float) -> str:
    if theory == 0:
        return f"off by {error:.2g}"
    return f"off by {100 * error / abs(theory):.1f} %"
