"""Validation: what a World measures, beside what real processes on real sockets do.

    python -m simulations.validation docs/validation.json docs/validation.md

`tests/benchmarks/bench_validation.py` runs the trials (`simulations.trials`) on real processes and
keeps every observation; this runs the same in Worlds, compares, and writes the page.  No number in
the page is typed: it is a function of the file, and a test holds it to that.

A figure is *validated* if in every run the World's differs by at most `TOLERANCE` of the real one.
All other figures are not, and the page says what the likely cause is.  Each real run has a mesh of
its own and a seed, and is compared with the World of the same seed, which is asked for the same at
the same times; where a run is few observations, all runs are taken together (`BY_CHANCE`).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from simulations import provenance
from simulations.statistics import quantile
from simulations.trials import (
    FAR,
    JOB_MEAN_S,
    JOBS_PER_S,
    LATENCY_S,
    NODES,
    PARTED,
    SLOTS,
    TRIALS,
    UPDATES_PER_S,
    WITHOUT_DELAY,
    Samples,
    in_world,
)
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
"""A byte there and back through a line: what the measuring itself adds."""
TIMES_FROM: Final = 10
"""From so many times on a share would only be hard to read."""
COMMIT_LENGTH: Final = 12
"""What is shown of its name."""
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
    goes_first: bool
    """All that is measured had real-time priority: others on the machine had what was left."""
    seeds: list[int]
    runs: Runs


class Simulated(msgspec.Struct):
    """What Worlds did."""

    commit: str
    runs: Runs


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


PROCESSOR: Final = (
    "processor time: in a World signing, writing and sending take none, while here all nodes, "
    "their proxies and who asks share the cores"
)
SETTING_UP: Final = (
    "links that are set up again: libp2p agrees on a protocol for each link and each stream, "
    f"round trips of which a World counts {HANDSHAKE_ROUND_TRIPS} for a link and none for a stream"
)
FIGURES: Final = (
    Figure("visibility", "key.visible_s", "p50", "a key shows at another node", PROCESSOR),
    Figure("visibility", "key.visible_s", "p95", "a key shows at another node", PROCESSOR),
    Figure("sojourn", "job.sojourn_s", "mean", "a job, from call to result", PROCESSOR),
    Figure("sojourn", "job.sojourn_s", "p50", "a job, from call to result", PROCESSOR),
    Figure("sojourn", "job.sojourn_s", "p95", "a job, from call to result", PROCESSOR),
    Figure("first read", "job.first_read_s", "p50", "first read of another's job", PROCESSOR),
    Figure("first read", "job.first_read_s", "p95", "first read of another's job", PROCESSOR),
    Figure("short partition", "heal.short_s", "p50", "healing after 10 s", PROCESSOR),
    Figure("short partition", "heal.short_s", "max", "healing after 10 s", PROCESSOR),
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

    @property
    def shares(self) -> list[float]:
        """How far the simulated one is from the real one, as a share of that, in each run."""
        pairs = zip(self.real_s, self.simulated_s, strict=True)
        return [(simulated_s - real_s) / real_s for real_s, simulated_s in pairs]

    @property
    def is_validated(self) -> bool:
        """Whether that is within the tolerance in every run."""
        return all(abs(share) <= TOLERANCE for share in self.shares)


def simulate_trials(seeds: Sequence[int]) -> Runs:
    """Run all trials in Worlds; `seeds` are those of the real runs."""
    runs: Runs = {}
    for name, trial in TRIALS.items():
        own = range(1, WORLDS + 1) if name in BY_CHANCE else seeds
        collect(runs, name, [in_world(trial, seed) for seed in own])
    for name in WITHOUT_DELAY:
        collect(runs, NO_DELAY, [in_world(TRIALS[name], seed, latency_s=0.0) for seed in seeds])
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
    found = []
    for figure in FIGURES:
        runs = stored.real.runs[figure.trial][figure.metric]
        worlds = stored.simulated.runs[figure.trial][figure.metric]
        if figure.trial in BY_CHANCE:
            runs, worlds = [_all(runs)], [_all(worlds)]
        real_s = [statistic(figure.statistic, run) for run in runs]
        simulated_s = [statistic(figure.statistic, run) for run in worlds]
        found.append(Residual(figure, real_s, simulated_s))
    return found


def _all(runs: Sequence[Sequence[float]]) -> list[float]:
    return [value for run in runs for value in run]


# --- the page --------------------------------------------------------------------------------


def render(stored: Stored) -> str:
    """Return the page, in Markdown."""
    found = residuals(stored)
    rows = [_row(residual) for residual in found]
    validated = [residual for residual in found if residual.is_validated]
    return _PAGE.format(
        nodes=NODES,
        latency=_time(LATENCY_S),
        runs=len(stored.real.seeds),
        worlds=WORLDS,
        slots=SLOTS,
        updates=f"{UPDATES_PER_S:g}",
        jobs=f"{JOBS_PER_S:g}",
        job=_time(JOB_MEAN_S),
        far=FAR,
        parted=" and ".join(map(str, PARTED)),
        tolerance=f"{TOLERANCE:.0%}",
        control=_control(stored),
        table="\n".join(rows),
        count=len(validated),
        total=len(found),
        causes="\n".join(_causes(found)) or "None does.",
        no_delay="\n".join(_without_delay(stored)),
        cores=stored.real.cores,
        system=stored.real.system,
        priority=_GOES_FIRST if stored.real.goes_first else "",
        load=", ".join(f"{load:.1f}" for load in stored.real.load),
        real_commit=stored.real.commit[:COMMIT_LENGTH],
        simulated_commit=stored.simulated.commit[:COMMIT_LENGTH] if stored.simulated else "",
    )


def _row(residual: Residual) -> str:
    figure = residual.figure
    cells = (
        figure.says,
        figure.statistic,
        _each(residual.real_s),
        _each(residual.simulated_s),
        _difference(residual.shares),
        "validated" if residual.is_validated else "not validated",
    )
    return f"| {' | '.join(cells)} |"


def _each(values_s: Sequence[float]) -> str:
    return ", ".join(map(_time, values_s))


def _difference(shares: Sequence[float]) -> str:
    low, high = min(shares), max(shares)
    if high >= TIMES_FROM - 1:
        return f"{high + 1:.0f} times as long"
    ends = dict.fromkeys(f"{share:+.1%}" for share in (low, high))
    return " to ".join(ends)


def _causes(found: Sequence[Residual]) -> list[str]:
    causes: dict[str, dict[str, list[str]]] = {}
    for residual in found:
        if not residual.is_validated:
            figure = residual.figure
            named = causes.setdefault(figure.cause, {})
            named.setdefault(figure.says, []).append(figure.statistic)
    lines = []
    for cause, named in causes.items():
        both = ", ".join(f"{says} ({', '.join(names)})" for says, names in named.items())
        lines.append(f"* {both}: {cause}.")
    return lines


def _without_delay(stored: Stored) -> list[str]:
    """Return the rows of what was measured over lines of no length, all runs together."""
    assert stored.simulated is not None
    rows = []
    for figure in FIGURES:
        if figure.trial not in WITHOUT_DELAY:
            continue
        both = [
            statistic(figure.statistic, _all(side.runs[NO_DELAY][figure.metric]))
            for side in (stored.real, stored.simulated)
        ]
        times = " | ".join(map(_time, (*both, both[0] - both[1])))
        rows.append(f"| {figure.says} | {figure.statistic} | {times} |")
    return rows


def _control(stored: Stored) -> str:
    echoes = _all(stored.real.runs["control"][CONTROL])
    p50, p95 = (_time(statistic(name, echoes)) for name in ("p50", "p95"))
    return f"{p50} (p95 {p95}) instead of {_time(2 * LATENCY_S)}"


def _time(seconds: float) -> str:
    """Return a time with as many digits as it deserves."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


_GOES_FIRST: Final = (
    " (of other programs; what is measured went before them, at real-time priority)"
)
_PAGE: Final = """# Validation

<!-- Written by `python -m simulations.validation`; do not edit. -->

What a World measures, beside what real processes do: the same program
(`simulations/trials.py`) asks both through the API, at the same times, for the same things.

* **Real**: {nodes} nodes, each `peernode up` in a process of its own with libp2p on TCP sockets of
  one machine. Between each two of them is a proxy in user space that hands bytes on {latency}
  later. {runs} runs, each with a mesh of its own.
* **Simulated**: a World of {nodes} nodes, all linked with all, {latency} one way.

A figure is **validated** if in every run the World's is within {tolerance} of the real one:
{count} of {total} are. The runs stand in their order, and each World has its run's seed. Of
healing, where a run is few observations, it is all runs together, beside {worlds} Worlds.

| what | statistic | real | simulated | difference | |
|---|---|---|---|---|---|
{table}

## Why the others differ

What is likely:

{causes}

Over lines of no length what is left is what the lines have no part in:

| what | statistic | real | simulated | difference |
|---|---|---|---|---|
{no_delay}

It comes with each hop and is no share of the whole: it weighs on times as short as these, and
hardly on long ones.

The measuring itself takes part: a byte there and back through one proxy took {control}.

## What was asked

* A key shows: {updates} changes a second of a global namespace, at the nodes in turn; from the
  answer to the change until another node answers with it.
* A job: {jobs} a second at a node with {slots} process workers, exponential durations of {job} on
  average, by a function that sleeps: an M/M/{slots}. From the call to the answer with the result.
* First read: `GET /job/ID` at node {far} of a job that has ended at node 0.
* Healing: nothing passes between nodes {parted} and the others; both sides write meanwhile. From
  the end of that until every node shows both. Real connections stay and bytes wait, as in TCP when
  routers drop packets, but without its growing time-outs.

## What was not

Bandwidth, loss and jitter; more than one machine, so cores of their own for each node; meshes
larger than this; blobs; disks that are slow. A World is not validated for these.

Real: commit {real_commit}, {cores} cores, {system}, load {load} when the runs began{priority}.
Simulated: commit {simulated_commit}. Every observation is in [validation.json](validation.json).

To measure again: `python -m tests.benchmarks.bench_validation docs/validation.json`, a quarter
of an hour; then `python -m simulations.validation docs/validation.json docs/validation.md`.
"""


def main(stored_path: Path, page_path: Path) -> None:
    """Simulate anew what is stored, and write both files."""
    stored = msgspec.json.decode(stored_path.read_bytes(), type=Stored)
    runs = simulate_trials(stored.real.seeds)
    stored.simulated = Simulated(commit=str(provenance.commit()), runs=runs)
    stored_path.write_bytes(msgspec.json.encode(stored) + b"\n")
    page_path.write_text(render(stored), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
