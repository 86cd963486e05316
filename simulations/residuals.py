"""What a World measures beside what real processes do: what is stored of both, and how far it is.

A World is given what single steps cost on the machine, each measured by itself, over lines of no
length (`costs_of`): a call, a commit, a frame.  Its lines are as long as the real ones were found
to be (`latency_of`).  What it then says of all the rest, over lines of that length, is a
prediction.  Worlds whose work takes no time are run beside it, as scenarios have it by default.

A figure is *validated* if in every run the World's differs by at most `TOLERANCE` of the real one.
Each real run has a mesh of its own and a seed, and is compared with the World of the same seed,
which is asked for the same at the same times; where a run is few observations, all runs are taken
together (`BY_CHANCE`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from simulations.scenario import Costs
from simulations.statistics import quantile
from simulations.trials import LATENCY_S, TRIALS, WITHOUT_DELAY, Samples, in_world
from simulations.world_network import HANDSHAKE_ROUND_TRIPS

TOLERANCE: Final = 0.1
"""Largest difference of a validated figure, as a share of the real one. Source: guess; no sentence
of docs/evaluation.md would be another for it."""
WORLDS: Final = 20
"""Runs of a trial whose outcome is mostly chance. Source: what an experiment has at least."""
BY_CHANCE: Final = ("short partition", "long partition")
"""Trials of which a run is few observations."""
NO_DELAY: Final = "no delay"
"""Where the trials `WITHOUT_DELAY` are kept."""
CONTROL: Final = "line.echo_s"
"""A byte there and back through a line: how long the lines really are."""
FRAMES_OF_A_READ: Final = 2
"""Of a first read: the question, and the answer."""
DIGITS: Final = 5
"""Of a second, in the file."""

Runs = dict[str, dict[str, list[list[float]]]]
"""Trial -> metric -> run -> observations."""


class Real(msgspec.Struct):
    """What real processes did."""

    commit: str
    cores: int
    system: str
    load: list[float]
    """Of the machine when each run began: processes that run or want to."""
    in_memory: bool
    """The nodes' data is: none waits for another's disk."""
    goes_first: bool
    """All that is measured had real-time priority: others on the machine had what was left."""
    seeds: list[int]
    runs: Runs


class Simulated(msgspec.Struct):
    """What Worlds did."""

    commit: str
    runs: Runs
    """Where work costs what it was measured to cost."""
    free: Runs
    """Where it takes no time, and lines are as long as they were meant to be."""


class Stored(msgspec.Struct):
    """The file."""

    format: int
    real: Real
    simulated: Simulated | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A statistic of a metric, and what it says about which trial."""

    trial: str
    metric: str
    statistic: str
    says: str
    cause: str
    """Likely, of a difference."""


SHARED: Final = (
    "cores that are shared: a node of a World has one to itself, while here all nodes, their "
    "proxies and who asks had those of one machine"
)
SETTING_UP: Final = (
    "links that are set up again: libp2p agrees on a protocol for each link and each stream, "
    f"round trips of which a World counts {HANDSHAKE_ROUND_TRIPS} for a link and none for a stream"
)
FIGURES: Final = (
    Figure("visibility", "key.visible_s", "p50", "a key shows at another node", SHARED),
    Figure("visibility", "key.visible_s", "p95", "a key shows at another node", SHARED),
    Figure("sojourn", "job.sojourn_s", "mean", "a job, from call to result", SHARED),
    Figure("sojourn", "job.sojourn_s", "p50", "a job, from call to result", SHARED),
    Figure("sojourn", "job.sojourn_s", "p95", "a job, from call to result", SHARED),
    Figure("first read", "job.first_read_s", "p50", "first read of another's job", SHARED),
    Figure("first read", "job.first_read_s", "p95", "first read of another's job", SHARED),
    Figure("short partition", "heal.short_s", "p50", "healing after 10 s", SHARED),
    Figure("short partition", "heal.short_s", "max", "healing after 10 s", SHARED),
    Figure("long partition", "heal.long_s", "p50", "healing after 30 s", SETTING_UP),
    Figure("long partition", "heal.long_s", "max", "healing after 30 s", SETTING_UP),
)
"""What is compared, in the order of the page."""


@dataclass(frozen=True, slots=True)
class Residual:
    """One figure on both sides, in seconds."""

    figure: Figure
    real_s: list[float]
    """Of each run."""
    simulated_s: list[float]
    free_s: list[float]
    """Where work takes no time."""

    @property
    def shares(self) -> list[float]:
        """How far the simulated one is from the real one, as a share of that, in each run."""
        return _shares(self.real_s, self.simulated_s)

    @property
    def free_shares(self) -> list[float]:
        """The same, where work takes no time."""
        return _shares(self.real_s, self.free_s)

    @property
    def is_validated(self) -> bool:
        """Whether that is within the tolerance in every run."""
        return is_near(self.shares)


def costs_of(real: Real) -> Costs:
    """Return what single steps took, each by itself: medians of all runs."""
    read_s = _median(real, NO_DELAY, "call.read_s")
    change_s = _median(real, NO_DELAY, "call.change_s")
    first_read_s = _median(real, NO_DELAY, "job.first_read_s")
    return Costs(
        call_s=read_s,
        commit_s=max(0.0, change_s - read_s),
        frame_s=max(0.0, first_read_s - read_s) / FRAMES_OF_A_READ,
    )


def latency_of(real: Real) -> float:
    """Return how long the lines were, one way, in seconds."""
    return _median(real, "control", CONTROL) / 2


def _median(real: Real, trial: str, metric: str) -> float:
    return statistic("p50", all_of(real.runs[trial][metric]))


def simulate_trials(
    seeds: Sequence[int], *, latency_s: float = LATENCY_S, costs: Costs | None = None
) -> Runs:
    """Run all trials in Worlds; `seeds` are those of the real runs."""
    runs: Runs = {}
    for name, trial in TRIALS.items():
        own = range(1, WORLDS + 1) if name in BY_CHANCE else seeds
        found = [in_world(trial, seed, latency_s=latency_s, costs=costs) for seed in own]
        collect(runs, name, found)
    for trial in WITHOUT_DELAY.values():
        found = [in_world(trial, seed, latency_s=0.0, costs=costs) for seed in seeds]
        collect(runs, NO_DELAY, found)
    return runs


def collect(runs: Runs, trial: str, found: Sequence[Samples]) -> None:
    """Add what runs of a trial gave."""
    metrics = runs.setdefault(trial, {})
    for samples in found:
        for metric, values in samples.items():
            metrics.setdefault(metric, []).append([round(value, DIGITS) for value in values])


def statistic(name: str, values: Sequence[float]) -> float:
    """Return `mean`, `max` or a percentile (`p95`), between observations in proportion."""
    if name == "mean":
        return sum(values) / len(values)
    return quantile(values, 1.0 if name == "max" else int(name[1:]) / 100)


def residuals(stored: Stored) -> list[Residual]:
    """Return each figure on both sides. Raises `KeyError` for a trial that is missing."""
    if stored.simulated is None:
        raise KeyError("nothing is simulated yet")
    sides = (stored.real.runs, stored.simulated.runs, stored.simulated.free)
    found = []
    for figure in FIGURES:
        values = []
        for side in sides:
            runs = side[figure.trial][figure.metric]
            if figure.trial in BY_CHANCE:
                runs = [all_of(runs)]
            values.append([statistic(figure.statistic, run) for run in runs])
        found.append(Residual(figure, *values))
    return found


def all_of(runs: Sequence[Sequence[float]]) -> list[float]:
    """Return the observations of all runs."""
    return [value for run in runs for value in run]


def is_near(shares: Sequence[float]) -> bool:
    """Tell whether all are within the tolerance."""
    return all(abs(share) <= TOLERANCE for share in shares)


def _shares(real_s: Sequence[float], simulated_s: Sequence[float]) -> list[float]:
    return [(value_s - of_s) / of_s for of_s, value_s in zip(real_s, simulated_s, strict=True)]
