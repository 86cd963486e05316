"""What a run measured: a list of observations, each one number with its time and place.

The long form, one row an observation, is what CSV, Parquet and data frames take as it is:
`metric, at_s, value, node, label`.  Units are the last part of a metric's name
(`job.sojourn_s`, `record.visible_s`, `link.sent_bytes`); a counted success is 0 or 1.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

PROBED: Final = {
    "queue.length": "jobs that wait at a node",
    "worker.busy": "share of the slots at a node that run something",
    "records.count": "records that a node has",
    "digest.distinct": "how many different views the nodes that are up have; 1: all agree",
    "link.sent_bytes": "bytes a second that a node sent since the last look",
    "node.up": "1 if a node is up, else 0",
}
"""What a `Probe` can look at."""

METRICS: Final = PROBED | {
    "job.succeeded": "1 if the client has the result, 0 if it never got it; one a job",
    "job.lost": "1 if a job that was accepted has neither result nor error in the end",
    "job.wait_s": "from its acceptance until a worker began with it for the first time",
    "job.sojourn_s": "from its acceptance until it had ended at its node",
    "job.result_s": "from the client's first try until it has the result",
    "job.extra_s": "from its end at its node until the client has the result",
    "job.run_s": "what all its attempts took of workers",
    "job.wasted_s": "what those attempts took of workers whose result nobody got",
    "job.attempts": "how often a worker began with it",
    "job.reexecutions": "how often of these it was not for the first time",
    "job.tries": "how often its client handed it in",
    "job.connected_s": "how long connections were held for it",
    "request.failed": "1 if handing in failed, 0 if it was accepted",
    "request.latency_s": "how long handing in took",
    "load.dropped": "1 for each job that nobody was up to hand in",
    "record.visible_s": "from a change until the last node that is up shows it",
    "record.seen_s": "from a change until one node shows it",
    "record.covered": "share of the nodes that are up that show it at the end",
    "update.refused": "1 if a change was refused, 0 if it was acknowledged",
    "read.stale": "1 if a key was read at a node that did not show its last change yet",
    "write.lost": "1 if an acknowledged change is not there at the end, at any node that is up",
    "mesh.copies": "how often a node got a record, the first time included",
    "record.hops": "over how many links a record came to a node (swarm)",
    "record.hops_max": "the most of them, when the last node has it (swarm)",
    "link.control_bytes": "bytes a second that a node sent, all but messages (swarm)",
    "sync.session_bytes": "of all frames of one reconciliation (swarm)",
    "sync.frames": "how many frames one reconciliation took (swarm)",
    "blob.read_s": "from a read until its last byte",
    "blob.fetched": "1 if a read had to get it from another node",
    "blob.fetched_bytes": "what was sent for a read",
    "blob.failed": "1 if a read got no answer",
    "heal.converged_s": "from the end of a fault until all nodes that are up agree",
}
"""All there is to measure, and to make a condition of."""


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
