"""What was measured, in one table: a row for each metric and label, over all replications."""

from collections.abc import Sequence
from dataclasses import dataclass

from simulations.conditions import estimate
from simulations.observations import Observations
from simulations.statistics import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one label."""

    metric: str
    label: str
    count: float
    """Observations in one replication, on average."""
    mean: float
    interval: Interval | None
    """Of the mean over the replications; `None` for one replication."""
    p50: float
    p95: float
    p99: float
    least: float
    greatest: float


def summarize(runs: Sequence[Observations], since_s: float = 0.0) -> list[Row]:
    """Return a row for each metric and label that was observed at or after a time, by name."""
    found = {
        (name, text): None for run in runs for name in run.names() for text in run.labels(name)
    }
    rows = []
    for metric, label in sorted(found):
        value = {
            statistic: estimate(metric, statistic, runs, label=label, since_s=since_s)
            for statistic in ("mean", "p50", "p95", "p99", "min", "max", "count")
        }
        mean, interval = value["mean"]
        if mean is None:
            continue
        rows.append(
            Row(
                metric=metric,
                label=label,
                count=value["count"][0] or 0.0,
                mean=mean,
                interval=interval,
                p50=value["p50"][0] or 0.0,
                p95=value["p95"][0] or 0.0,
                p99=value["p99"][0] or 0.0,
                least=value["min"][0] or 0.0,
                greatest=value["max"][0] or 0.0,
            )
        )
    return rows
