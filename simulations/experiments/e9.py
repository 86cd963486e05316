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
from simulations.experiments.single_node import MEMORY_BYTES
from simulations.faults import Churn
from simulations.observations import Observations
from simulations.scenario import Complete, Function, Link, Load, Poisson, Scenario, Workers
from simulations.theory import calls

NODES: Final = 12
"""Each with a worker that crashes by itself: what is lost together counts as one."""
RUNS_S: Final = (10, 30, 60, 120)
UP_S: Final = 100.0
"""Mean time to a crash."""
BACK_S: Final = 5.0
SLOTS: Final = 16
"""More than jobs at a time, so that nothing waits for a slot."""
ARRIVING_S: Final = 600.0
JOBS: Final = 150
WORKERS: Final = 4
"""At each node, where jobs go to another worker when one is lost."""
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
            f"{NODES} nodes with workers that crash after an exponential time with mean "
            f"{UP_S:g} s and are back {BACK_S:g} s later; jobs of exactly S. First one worker a "
            f"node: the job waits for it. Then {WORKERS} a node: it goes to another one. Then "
            "workers are safe, and nodes lose power."
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


def _scenario(size: Size, name: str, run_s: float, workers: Workers, *faults: Churn) -> Scenario:
    return Scenario(
        name=f"e9-{name}-{run_s:g}",
        duration_s=ARRIVING_S,
        drain_s=3000.0 if not faults else 500.0,
        topology=Complete(nodes=NODES),
        link=Link(latency_s=0.005),
        functions=[Function(name="job", duration_s=float(run_s), retries_max=999)],
        workers=[workers],
        load=[Load(function="job", arrivals=Poisson(rate_per_s=size.jobs(JOBS) / ARRIVING_S))],
        faults=list(faults),
    )


def _workers(size: Size, name: str, run_s: int, count: int) -> Point:
    crashing = Workers(
        count=count,
        slots=SLOTS,
        memory_bytes=MEMORY_BYTES,
        crash_mean_s=UP_S,
        back_s=BACK_S,
    )
    return Point(f"{name}-{run_s}", _scenario(size, name, run_s, crashing), _reduce)


def _nodes(size: Size, run_s: int) -> Point:
    churn = Churn(up_s=Exponential(mean=UP_S), down_s=BACK_S)
    safe = Workers(slots=SLOTS, memory_bytes=MEMORY_BYTES)
    return Point(f"nodes-{run_s}", _scenario(size, "nodes", run_s, safe, churn), _reduce)


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
                "one worker a node",
                tuple(Dot(s, f"own-{s}", "attempts", Check(again(s))) for s in RUNS_S),
                curve(again, 1, 130),
            ),
            Line(
                f"{WORKERS} workers a node",
                tuple(Dot(s, f"others-{s}", "attempts", Check(given_up(s))) for s in RUNS_S),
                curve(given_up, 1, 130),
            ),
            Line(
                "nodes lose power",
                tuple(Dot(s, f"nodes-{s}", "attempts") for s in RUNS_S),
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
                "one worker a node",
                tuple(Dot(s, f"own-{s}", "succeeded", share(1.0)) for s in RUNS_S),
            ),
            Line(
                f"{WORKERS} workers a node",
                tuple(Dot(s, f"others-{s}", "succeeded", share(ends(s))) for s in RUNS_S),
                curve(ends, 1, 130),
            ),
            Line(
                "nodes lose power",
                tuple(Dot(s, f"nodes-{s}", "succeeded", share(1.0)) for s in RUNS_S),
            ),
            Line(
                "nodes lose power: accepted and then lost",
                tuple(Dot(s, f"nodes-{s}", "lost", Check(0.0, absolute_max=1e-9)) for s in RUNS_S),
            ),
        ),
        y_from=-0.03,
        y_to=1.05,
    )


def _meaning(found: Findings) -> str:
    begun = found.mean("own-120", "attempts")
    poisoned = 1 - found.mean("others-120", "succeeded")
    kept = found.mean("nodes-120", "succeeded")
    return (
        f"A job of 120 s on a worker that crashes each {UP_S:g} s is begun {begun:.1f} times, and "
        "then it has succeeded, with nobody waiting for it. Where the job goes to another worker, "
        "the node suspects the job: two different workers lost with it, and it is given up as "
        f"poisoned, {poisoned:.0%} of these. That protects the others from a job that kills "
        "workers, and it is wrong for long jobs on workers that are bad; the measure is S against "
        f"U again. Nodes that lose power forget nothing that they accepted: {kept:.0%} of those "
        "jobs succeed, and none is lost."
    )
