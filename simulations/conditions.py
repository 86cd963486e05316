"""Whether a run passed: each `[[pass]]` of its scenario, over all replications together.

Rules:

* "mean", the quantiles, "min" and "max" are of all observations of all replications; "sum" and
  "count" are of one replication, on average, so that a condition means the same however many there
  are.  What was observed before `warm_up_s` does not count.
* The verdict is the value's alone.  Where the interval over the replications reaches across the
  limit, the verdict says that it is not sure: with other seeds it might be the other one.
* A metric that nobody observed fails, since a wrong name must not pass; "sum" and "count" of
  nothing are 0 if the metric is observed under another label or before the warm-up.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from simulations.observations import Numbers, Observations
from simulations.scenario import Pass, Scenario
from simulations.statistics import CONFIDENCE, Interval, t_interval

Statistic = Literal["mean", "p50", "p95", "p99", "max", "min", "sum", "count"]

STATISTICS: Final[dict[Statistic, Callable[[Numbers], float]]] = {
    "mean": lambda values: math.fsum(values) / len(values),
    "p50": lambda values: float(np.quantile(values, 0.50)),
    "p95": lambda values: float(np.quantile(values, 0.95)),
    "p99": lambda values: float(np.quantile(values, 0.99)),
    "max": lambda values: float(np.max(values)),
    "min": lambda values: float(np.min(values)),
    "sum": math.fsum,
    "count": lambda values: float(len(values)),
}
TOTALS: Final = ("sum", "count")
"""What grows with a run, and exists where nothing was observed."""
EXTREMES: Final = ("max", "min")
"""What has no interval: they grow with the number of replications."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A condition, and what became of it."""

    condition: Pass
    passed: bool
    value: float | None
    """`None`: nothing was observed."""
    interval: Interval | None
    """Over the replications; `None` for one replication, and where there is none."""
    sure: bool
    why: str
    """In words: `0.9994 is at least 0.999`."""

    @property
    def name(self) -> str:
        """The condition in words: `job.succeeded{short} mean >= 0.999`."""
        return name_of(self.condition)


def name_of(condition: Pass) -> str:
    """Return a condition in words."""
    label = "" if condition.label is None else f"{{{condition.label}}}"
    limits = [
        f"{sign} {limit:g}"
        for sign, limit in (("≥", condition.at_least), ("≤", condition.at_most))
        if limit is not None
    ]
    return f"{condition.metric}{label} {condition.statistic} {' and '.join(limits)}"


def judge(scenario: Scenario, runs: Sequence[Observations]) -> list[Verdict]:
    """Return the verdict on each of the scenario's conditions."""
    return [_judge(condition, scenario.warm_up_s, runs) for condition in scenario.passes]


def estimate(
    metric: str,
    statistic: Statistic,
    runs: Sequence[Observations],
    *,
    label: str | None = None,
    since_s: float = 0.0,
) -> tuple[float | None, Interval | None]:
    """Return the value of a statistic, `None` if nothing was observed, and its interval if any."""
    parts = [run.values(metric, label=label, since_s=since_s) for run in runs]
    if statistic in TOTALS:
        if not any(metric in run.names() for run in runs):
            return None, None
    else:
        parts = [part for part in parts if len(part)]
        if not parts:
            return None, None
    of = STATISTICS[statistic]
    each = [of(part) for part in parts]
    value = math.fsum(each) / len(each) if statistic in TOTALS else of(np.concatenate(parts))
    known = len(each) > 1 and statistic not in EXTREMES and all(map(math.isfinite, each))
    return value, t_interval(each, CONFIDENCE) if known else None


def _judge(condition: Pass, since_s: float, runs: Sequence[Observations]) -> Verdict:
    value, interval = estimate(
        condition.metric, condition.statistic, runs, label=condition.label, since_s=since_s
    )
    if value is None:
        return Verdict(
            condition=condition,
            passed=False,
            value=None,
            interval=None,
            sure=True,
            why=_nothing(condition, runs),
        )
    limits = [limit for limit in (condition.at_least, condition.at_most) if limit is not None]
    low, high = condition.at_least, condition.at_most
    if low is not None and not value >= low:  # NaN is not at least anything
        passed, why = False, f"{value:.6g} is less than {low:g}"
    elif high is not None and not value <= high:
        passed, why = False, f"{value:.6g} is more than {high:g}"
    else:
        passed, why = True, f"{value:.6g} is within"
    sure = interval is None or not any(interval.low < limit < interval.high for limit in limits)
    return Verdict(
        condition=condition, passed=passed, value=value, interval=interval, sure=sure, why=why
    )


def _nothing(condition: Pass, runs: Sequence[Observations]) -> str:
    """Say why there is no value: a wrong name, a wrong label, or nothing happened in time."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.names()))
    if condition.metric not in metrics:
        near = difflib.get_close_matches(condition.metric, metrics, n=3, cutoff=0.4)
        shown = ", ".join(near or metrics) or "nothing at all"
        return f"nobody observed {condition.metric}; {'near it' if near else 'observed'}: {shown}"
    labels = list(dict.fromkeys(text for run in runs for text in run.labels(condition.metric)))
    if condition.label is not None and condition.label not in labels:
        return f"no label {condition.label!r}; there is {', '.join(map(repr, labels))}"
    return "nothing observed after the warm-up"
