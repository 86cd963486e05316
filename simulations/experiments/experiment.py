"""What an experiment is made of: points that are run, numbers kept of each run, plots of them.

A *point* is a scenario, run with many seeds; its `reduce` makes a few named numbers of what each
run observed (its *measures*).  A *plot* is lines of *dots*; a dot is one measure of one point, and
may have a *check*: what theory says of it.  A dot without one is shown and not judged.

`Findings` are the measures of all runs: intervals, and verdicts on the checks.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, assert_never

from simulations import statistics
from simulations.observations import Observations
from simulations.scenario import Scenario
from simulations.statistics import Interval, Verdict

Measures = dict[str, float]
SHARE_ABSOLUTE_MAX: Final = 0.02
"""How far a share may be from theory, whatever the relative error. Source: what a plot shows."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run: replications of each point, and the share of its usual length."""

    replications: int = 20
    """Source: Student's factor for 99 % is 2.86 there, and 2.58 for ever so many."""
    share: float = 1.0

    def jobs(self, count: float) -> float:
        """Return how many jobs there are where usually `count` are, at least 20."""
        return max(20.0, count * self.share)


FULL: Final = Size()
QUICK: Final = Size(replications=2, share=0.02)


Relation = Literal["equals", "at least", "at most", "always at least", "always at most"]
Reduce = Callable[[Observations, int], Measures]
"""Of what a run observed, and its seed."""


@dataclass(frozen=True, slots=True)
class Point:
    """One scenario of an experiment, and what is kept of each run."""

    name: str
    scenario: Scenario
    reduce: Reduce


@dataclass(frozen=True, slots=True)
class Check:
    """What theory says of a measure."""

    theory: float
    relation: Relation = "equals"
    """The measured is, or is at least, or is at most `theory`; "always": in every single run."""
    absolute_max: float | None = None
    """See `statistics.equals`."""

    as_of: str = ""
    """A point whose mean times `theory` is the theory: it grows no further from there."""

    def judge(self, values: Sequence[float]) -> Verdict:
        """Say whether what the runs gave agrees."""
        match self.relation:
            case "equals":
                measured = statistics.t_interval(values)
                return statistics.equals(measured, self.theory, absolute_max=self.absolute_max)
            case "at least":
                return statistics.at_least(statistics.t_interval(values), self.theory)
            case "at most":
                return statistics.at_most(statistics.t_interval(values), self.theory)
            case "always at least":
                return statistics.always_at_least(values, self.theory)
            case "always at most":
                return statistics.always_at_most(values, self.theory)
            case _:
                assert_never(self.relation)


def share(theory: float) -> Check:
    """Return the check of a share, which may be near 0 or 1."""
    return Check(theory, absolute_max=SHARE_ABSOLUTE_MAX)


@dataclass(frozen=True, slots=True)
class Dot:
    """One measure of one point."""

    x: float
    point: str
    measure: str
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Dots that belong together."""

    label: str
    dots: tuple[Dot, ...]
    curve: tuple[tuple[float, float], ...] = ()
    """What theory says in between, in the line's colour; none: joins the dots' theories."""

    def theory(self) -> tuple[tuple[float, float], ...]:
        """Return the curve that is drawn."""
        return self.curve or tuple(
            (dot.x, dot.check.theory)
            for dot in self.dots
            if dot.check is not None and dot.check.relation == "equals" and not dot.check.as_of
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """Theory that no line is measured against alone: a bound, or a guide."""

    label: str
    places: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture and its table."""

    name: str
    """Of its file, and unique among all experiments."""
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    curves: tuple[Curve, ...] = ()
    log_x: bool = False
    log_y: bool = False
    y_from: float | None = None
    y_to: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A question, what is run to answer it, and what the answer means."""

    name: str
    title: str
    question: str
    set_up: str
    points: tuple[Point, ...]
    plots: tuple[Plot, ...]
    meaning: Callable[["Findings"], str]
    """Words on what was found; numbers only out of the findings."""
    limits: str

    def dots(self) -> Iterator[tuple[Plot, Line, Dot]]:
        """Yield all dots, in order."""
        for plot in self.plots:
            for line in plot.lines:
                for dot in line.dots:
                    yield plot, line, dot


class Findings:
    """What all runs of an experiment gave."""

    def __init__(self, measures: Mapping[str, Sequence[Measures]]) -> None:
        """Take the measures of each run, by point."""
        self._measures = measures

    def values(self, point: str, measure: str) -> list[float]:
        """Return what each run gave; a run that could not say is left out."""
        runs = self._measures.get(point, ())
        found = [run[measure] for run in runs if measure in run]
        return [value for value in found if math.isfinite(value)]

    def interval(self, point: str, measure: str) -> Interval | None:
        """Return the mean over the runs and its interval; `None` if none could say."""
        values = self.values(point, measure)
        return statistics.t_interval(values) if values else None

    def of(self, dot: Dot) -> Interval | None:
        """Return the interval of a dot."""
        return self.interval(dot.point, dot.measure)

    def judge(self, dot: Dot) -> Verdict | None:
        """Return whether a dot agrees with theory; `None` if there is nothing to agree with."""
        check = self.check(dot)
        if check is None:
            return None
        values = self.values(dot.point, dot.measure)
        return check.judge(values) if values else Verdict(False, "not measured")

    def check(self, dot: Dot) -> Check | None:
        """Return the check of a dot, with the mean of another point filled in."""
        if dot.check is None or not dot.check.as_of:
            return dot.check
        theory = dot.check.theory * self.mean(dot.check.as_of, dot.measure)
        return replace(dot.check, theory=theory)

    def mean(self, point: str, measure: str) -> float:
        """Return a mean for words; not a number if it was not measured."""
        measured = self.interval(point, measure)
        return math.nan if measured is None else measured.mean


def average(values: Iterable[float]) -> float:
    """Return the mean; not a number for no values, and then it is no measure of its run."""
    numbers = [float(value) for value in values]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def measures(**values: float) -> Measures:
    """Return the measures that are numbers."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def grid(low: float, high: float, count: int = 40, *, log: bool = False) -> list[float]:
    """Return places to draw a curve at."""
    if log:
        return [low * (high / low) ** (number / (count - 1)) for number in range(count)]
    return [low + (high - low) * number / (count - 1) for number in range(count)]


def curve(
    theory: Callable[[float], float], low: float, high: float, *, log: bool = False
) -> tuple[tuple[float, float], ...]:
    """Return a curve of theory."""
    return tuple((x, theory(x)) for x in grid(low, high, log=log))
