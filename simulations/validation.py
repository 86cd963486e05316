"""Validation: the page that says what of a World was found to be so with real processes.

    python -m simulations.validation docs/validation.json docs/validation.md

`tests/benchmarks/bench_validation.py` runs the trials (`simulations.trials`) on real processes and
keeps every observation; this runs the same in Worlds, compares (`simulations.residuals`), and
writes the page.  No number in it is typed: it is a function of the file, and a test holds it to
that.  What is not validated is said not to be, with the likely cause.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from simulations import provenance
from simulations.distributions import Distribution
from simulations.residuals import (
    CONTROL,
    FIGURES,
    FRAMES_OF_A_READ,
    NO_DELAY,
    TOLERANCE,
    WORLDS,
    Residual,
    Simulated,
    Stored,
    all_of,
    costs_of,
    is_near,
    latency_of,
    residuals,
    simulate_trials,
    statistic,
)
from simulations.trials import (
    FAR,
    JOB_MEAN_S,
    JOBS_PER_S,
    LATENCY_S,
    NODES,
    PARTED,
    SLOTS,
    UPDATES_PER_S,
)

TIMES_FROM: Final = 10
"""From so many times on a share would only be hard to read."""
COMMIT_LENGTH: Final = 12
"""What is shown of its name."""


def render(stored: Stored) -> str:
    """Return the page, in Markdown."""
    found = residuals(stored)
    rows = [_row(residual) for residual in found]
    validated = [residual for residual in found if residual.is_validated]
    free = [residual for residual in found if is_near(residual.free_shares)]
    costs = costs_of(stored.real)
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
        free=len(free),
        call=_cost(costs.call_s),
        commit=_cost(costs.commit_s),
        frame=_cost(costs.frame_s),
        frames=FRAMES_OF_A_READ,
        line=_time(latency_of(stored.real)),
        total=len(found),
        causes="\n".join(_causes(found)) or "None does.",
        no_delay="\n".join(_without_delay(stored)),
        disk=_IN_MEMORY if stored.real.in_memory else "",
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
        _difference(residual.free_shares),
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
        if figure.metric not in stored.real.runs[NO_DELAY]:
            continue
        times = [
            statistic(figure.statistic, all_of(side[NO_DELAY][figure.metric]))
            for side in (stored.real.runs, stored.simulated.runs, stored.simulated.free)
        ]
        rows.append(f"| {figure.says} | {figure.statistic} | {' | '.join(map(_time, times))} |")
    return rows


def _control(stored: Stored) -> str:
    echoes = all_of(stored.real.runs["control"][CONTROL])
    p50, p95 = (_time(statistic(name, echoes)) for name in ("p50", "p95"))
    return f"{p50} (p95 {p95}) instead of {_time(2 * LATENCY_S)}"


def _cost(distribution: Distribution) -> str:
    assert isinstance(distribution, float)
    return _time(distribution)


def _time(seconds: float) -> str:
    """Return a time with as many digits as it deserves."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


_GOES_FIRST: Final = (
    " (of other programs; what is measured went before them, at real-time priority)"
)
_IN_MEMORY: Final = """
  Their data is in memory: nodes of one machine would wait for each other at its disk."""
_PAGE: Final = """# Validation

<!-- Written by `python -m simulations.validation`; do not edit. -->

What a World measures, beside what real processes do: the same program
(`simulations/trials.py`) asks both through the API, at the same times, for the same things.

* **Real**: {nodes} nodes, each `peernode up` in a process of its own with libp2p on TCP sockets of
  one machine. Between each two of them is a proxy in user space that hands bytes on {latency}
  later. {runs} runs, each with a mesh of its own.{disk}
* **Simulated**: a World of {nodes} nodes, all linked with all, {line} one way: as long as the
  proxies were found to be, for a byte there and back through one took {control}.

A World's work takes no virtual time unless its scenario says what it costs. Here it is what single
steps were measured to take, each by itself, at one node or over lines of no length (medians):

| `[costs]` | | measured as |
|---|---|---|
| `call_s` | {call} | a read of a key, at the node that has it |
| `commit_s` | {commit} | a change of a key, less a read |
| `frame_s` | {frame} | a first read of another's job, less a read: {frames} frames |

All else is foretold by the World. A figure is **validated** if in every run it is within
{tolerance} of the real one: {count} of {total} are. (Without costs it would be {free}.) The runs
stand in their order, and each World has its run's seed. Of healing, where a run is few
observations, it is all runs together, beside {worlds} Worlds.

| what | statistic | real | simulated | difference | without costs | |
|---|---|---|---|---|---|---|
{table}

## Why the others differ

What is likely:

{causes}

Over lines of no length, where all there is is the nodes' own work:

| what | statistic | real | simulated | without costs |
|---|---|---|---|---|
{no_delay}

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
larger than this; blobs; disks. A World is not validated for these.

Real: commit {real_commit}, {cores} cores, {system}, load {load} when the runs began{priority}.
Simulated: commit {simulated_commit}. Every observation is in [validation.json](validation.json).

To measure again: `python -m tests.benchmarks.bench_validation docs/validation.json`, a quarter
of an hour; then `python -m simulations.validation docs/validation.json docs/validation.md`.
"""


def main(stored_path: Path, page_path: Path) -> None:
    """Simulate anew what is stored, and write both files."""
    stored = msgspec.json.decode(stored_path.read_bytes(), type=Stored)
    real = stored.real
    stored.simulated = Simulated(
        commit=str(provenance.commit()),
        runs=simulate_trials(real.seeds, latency_s=latency_of(real), costs=costs_of(real)),
        free=simulate_trials(real.seeds),
    )
    stored_path.write_bytes(msgspec.json.encode(stored) + b"\n")
    page_path.write_text(render(stored), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
