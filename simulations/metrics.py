"""What a run measured: a list of observations, each one number with its time and place.

The long form, one row an observation, is what CSV, Parquet and data frames take as it is:
`metric, at_s, value, node, label`.  Units are the last part of a metric's name
(`job.sojourn_s`, `record.visible_s`, `link.sent_bytes`); a counted success is 0 or 1.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Observation(NamedTuple):
    """One measured number."""

    metric: str
    at_s: float
    """Virtual time."""
    value: float
    node: str = ""
    label: str = ""
    """What tells series of one metric apart: a function, a client group, a policy."""


class Metrics:
    """The observations of one run, in order of time."""

    def __init__(self) -> None:
        self._rows: list[Observation] = []

    def observe(
        self, metric: str, at_s: float, value: float, *, node: str = "", label: str = ""
    ) -> None:
        """Add an observation."""
        self._rows.append(Observation(metric, at_s, value, node, label))

    def __iter__(self) -> Iterator[Observation]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def values(self, metric: str, *, label: str | None = None, since_s: float = 0.0) -> list[float]:
        """Return the values of a metric, of one label if given, observed at or after a time."""
        return [
            row.value
            for row in self._rows
            if row.metric == metric
            and row.at_s >= since_s
            and (label is None or row.label == label)
        ]

    def names(self) -> list[str]:
        """Return the metrics there are, in the order of their first observation."""
        return list(dict.fromkeys(row.metric for row in self._rows))
