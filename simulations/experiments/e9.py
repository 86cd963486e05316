"""E9: workers and nodes that crash while jobs run.

A job is begun anew when its worker is lost, at least once and with one outcome.  That has a price
in work, which grows with the length of a job as trying again does for a synchronous caller (E1),
only that nobody has to be there.
"""

from typing import Final

from simulations.distributions import Exponential
from simulations.experiments.experiment import (
    Check,
    Dot,
    Experiment,
    Findings,
    Line,
    Measures,
    Plot,
    Point,
    Size,
    average,
    curve,
    measures,
    share,
)
from simulations.experiments.single_node import MEMORY_BYTES, poisson, single_node
from simulations.faults import Churn
from simulations.observations import Observations
from simulations.scenario import Function, Workers
from simulations.theory import calls

GROUPS: Final = {1: 10, 3: 4}
"""For each number of workers in a group, how many groups: what is lost together counts as one."""
RUNS_S: Final = (10, 50, 100)
UP_S: Final = 100.0
"""Mean time to a crash."""
BACK_S: Final = 5.0
SLOTS: Final = 16
"""More than jobs at a time, so that nothing waits for a slot."""
ARRIVING_S: Final = 1000.0
DRAIN_S: Final = 1500.0
"""Until what is begun e^(S/U) times has ended."""
JOBS: Final = 120
NODE_JOBS: Final = 60
WORKERS: Final = 3
"""In a group, where jobs go to another worker when one is lost."""
RETRIES_MAX: Final = 999
"""Source: the most that the API takes."""
POISON_WORKERS: Final = 2
"""Source: `worker.Config.poison_workers`."""


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    points = [_workers(size, "own", run_s, 1) for run_s in RUNS_S]
    points += [_workers(size, "others", run_s, WORKERS) for run_s in RUNS_S]
    points += [_nodes(size, run_s) for run_s in RUNS_S]
    return Experiment(
        name="e9",
        title="Workers and nodes that crash",
        question=(
            "How often is a job begun, and how does it end, if its worker is lost after U on "
            "average, or its node?"
        ),
        set_up=(
            f"One node. {GROUPS[1]} workers crash, each by itself, after an exponential time with "
            f"mean {UP_S:g} s, and are back {BACK_S:g} s later; jobs of exactly S fit one of them "
            f"(by a label) and wait for it. Then {WORKERS} workers fit each job: it goes to "
            "another one. Then workers are safe, and the node loses power."
        ),
        points=tuple(points),
        plots=(_attempts(), _ends()),
        meaning=_meaning,
        limits=(
            "A function that saves how far it came (in KV or a blob) and goes on from there wastes "
            "less; that is up to the function. What was not committed is lost with the power; what "
            "was, never: disks that forget what they promised are another matter."
        ),
    )


def _workers(size: Size, name: str, run_s: int, count: int) -> Point:
    """Groups of workers, and jobs that fit one group each."""
    groups = [f"group-{number}" for number in range(GROUPS[count])]
    rate_per_s = size.jobs(JOBS) / len(groups) / ARRIVING_S
    scenario = single_node(
        f"e9-{name}-{run_s}",
        functions=[
            Function(
                name=group,
                duration_s=float(run_s),
                requires={"labels": {"group": group}},
                retries_max=RETRIES_MAX,
            )
            for group in groups
        ],
        workers=[
            Workers(
                count=count,
                slots=SLOTS,
                memory_bytes=MEMORY_BYTES,
                labels={"group": group},
                crash_mean_s=UP_S,
                back_s=BACK_S,
            )
            for group in groups
        ],
        load=[poisson(group, rate_per_s, "job") for group in groups],
        duration_s=ARRIVING_S,
        drain_s=DRAIN_S,
    )
    return Point(f"{name}-{run_s}", scenario, _reduce)


def _nodes(size: Size, run_s: int) -> Point:
    scenario = single_node(
        f"e9-node-{run_s}",
        functions=[Function(name="job", duration_s=float(run_s), retries_max=RETRIES_MAX)],
        workers=[Workers(slots=SLOTS, memory_bytes=MEMORY_BYTES)],
        load=[poisson("job", size.jobs(NODE_JOBS) / ARRIVING_S)],
        duration_s=ARRIVING_S,
        drain_s=DRAIN_S,
        faults=[Churn(up_s=Exponential(mean=UP_S), down_s=BACK_S)],
    )
    return Point(f"node-{run_s}", scenario, _reduce)


def _reduce(run: Observations, seed: int) -> Measures:
    return measures(
        attempts=average(run.values("job.attempts")),
        succeeded=average(run.values("job.succeeded")),
        lost=average(run.values("job.lost")),
    )


def _attempts() -> Plot:
    def again(s: float) -> float:
        return calls.tries(s, UP_S)

    def given_up(s: float) -> float:
        return calls.tries_until_poisoned(s, UP_S, POISON_WORKERS)

    return Plot(
        name="e9-attempts",
        title=f"How often a job is begun, crashes each {UP_S:g} s",
        x_label="run time S (s)",
        y_label="attempts a job",
        lines=(
            Line(
                "one worker fits",
                tuple(Dot(s, f"own-{s}", "attempts", Check(again(s))) for s in RUNS_S),
                curve(again, 1, 130),
            ),
            Line(
                f"{WORKERS} workers fit",
                tuple(Dot(s, f"others-{s}", "attempts", Check(given_up(s))) for s in RUNS_S),
                curve(given_up, 1, 130),
            ),
            Line(
                "the node loses power",
                tuple(Dot(s, f"node-{s}", "attempts") for s in RUNS_S),
            ),
        ),
        y_from=0.0,
    )


def _ends() -> Plot:
    def ends(s: float) -> float:
        return 1 - calls.poisoned(s, UP_S, POISON_WORKERS)

    return Plot(
        name="e9-success",
        title=f"Jobs that succeed, crashes each {UP_S:g} s",
        x_label="run time S (s)",
        y_label="share of jobs",
        lines=(
            Line(
                "one worker fits",
                tuple(Dot(s, f"own-{s}", "succeeded", share(1.0)) for s in RUNS_S),
            ),
            Line(
                f"{WORKERS} workers fit",
                tuple(Dot(s, f"others-{s}", "succeeded", share(ends(s))) for s in RUNS_S),
                curve(ends, 1, 130),
            ),
            Line(
                "the node loses power",
                tuple(Dot(s, f"node-{s}", "succeeded", share(1.0)) for s in RUNS_S),
            ),
            Line(
                "the node loses power: accepted and then lost",
                tuple(Dot(s, f"node-{s}", "lost", Check(0.0, absolute_max=1e-9)) for s in RUNS_S),
            ),
        ),
        y_from=-0.03,
        y_to=1.05,
    )


def _meaning(found: Findings) -> str:
    begun = found.mean("own-100", "attempts")
    poisoned = 1 - found.mean("others-100", "succeeded")
    kept = found.mean("node-100", "succeeded")
    return (
        f"A job of 100 s on a worker that crashes each {UP_S:g} s is begun {begun:.1f} times, and "
        "then it has succeeded, with nobody waiting for it. Where the job goes to another worker, "
        "the node suspects the job: two different workers lost with it, and it is given up as "
        f"poisoned, {poisoned:.0%} of these. That protects the others from a job that kills "
        "workers, and it is wrong for long jobs on workers that are bad; the measure is S against "
        f"U again. A node that loses power forgets nothing that it accepted: {kept:.0%} of those "
        "jobs succeed, and none is lost."
    )
