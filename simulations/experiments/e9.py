"""E9: workers and nodes that crash while jobs run.

A job is begun anew when its worker is lost, at least once and with one outcome.  That has a price
in work, which grows with the length of a job as trying again does for a synchronous caller (E1),
only that nobody has to be there.
"""

from collections.abc import Callable
from typing import Final

from simulations.distributions import Exponential
from simulations.experiments.experiment import (
    Check,
    Curve,
    Dot,
    Experiment,
    Findings,
    Line,
    Measures,
    Plot,
    Point,
    Relation,
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
from worker.config import Config

GROUPS: Final = {1: 10, 3: 4}
"""For each number of workers in a group, how many groups: what is lost together counts as one."""
RUNS_S: Final = (10, 40, 70)
UP_S: Final = 100.0
"""Mean time to a crash."""
BACK_S: Final = 5.0
SLOTS: Final = 16
"""More than jobs at a time, so that nothing waits for a slot."""
ARRIVING_S: Final = 1000.0
DRAIN_S: Final = 2500.0
"""Until what is begun e^(S/U) times has ended, with the pauses between, which double."""
JOBS: Final = 120
NODE_JOBS: Final = 60
WORKERS: Final = 3
"""In a group, where jobs may go to another worker when one is lost."""
RETRIES_MAX: Final = 999
"""Source: the most that the API takes."""
POISON_WORKERS: Final = Config().poison_workers


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
            f"(by a label) and wait for it. Then {WORKERS} workers fit each job, and the node "
            "chooses. Then workers are safe, and the node loses power: for less than the "
            f"{Config().reconnect_s:g} s that a worker waits for its node."
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

    others = [
        Line(
            f"{WORKERS} workers fit{bound}",
            tuple(Dot(s, f"others-{s}", "attempts", Check(of(s), relation)) for s in RUNS_S),
        )
        for bound, of, relation in _between(given_up, again)
    ]
    return Plot(
        name="e9-attempts",
        title=f"How often a job is begun, crashes each {UP_S:g} s",
        x_label="run time S (s)",
        y_label="attempts a job",
        lines=(
            Line(
                "one worker fits",
                tuple(Dot(s, f"own-{s}", "attempts", Check(again(s))) for s in RUNS_S),
                curve(again, 1, 80),
            ),
            *others,
            Line(
                "the node loses power",
                tuple(Dot(s, f"node-{s}", "attempts", Check(1.0)) for s in RUNS_S),
            ),
        ),
        curves=(Curve("always another worker (bound)", curve(given_up, 1, 80)),),
        y_from=0.0,
    )


def _between(
    least: Callable[[float], float], most: Callable[[float], float]
) -> tuple[tuple[str, Callable[[float], float], Relation], ...]:
    """Return two bounds: a lost job always goes to another worker, or always to the same."""
    return ("", least, "at least"), (" (upper bound)", most, "at most")


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
                tuple(
                    Dot(s, f"others-{s}", "succeeded", Check(ends(s), "at least")) for s in RUNS_S
                ),
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
        curves=(Curve("always another worker (bound)", curve(ends, 1, 80)),),
        y_from=-0.03,
        y_to=1.05,
    )


def _meaning(found: Findings) -> str:
    long_s = RUNS_S[-1]
    begun = found.mean(f"own-{long_s}", "attempts")
    poisoned = 1 - found.mean(f"others-{long_s}", "succeeded")
    kept = found.mean(f"node-{long_s}", "succeeded")
    attempts = found.mean(f"node-{long_s}", "attempts")
    return (
        f"A job of {long_s} s on a worker that crashes each {UP_S:g} s is begun {begun:.1f} times, "
        "and then it has succeeded, with nobody waiting for it. Where several workers fit, the "
        f"node suspects the job: when it has lost {POISON_WORKERS} different workers it is given "
        f"up as poisoned, which happens to {poisoned:.0%} of these. That protects the others from "
        "a job that kills workers, and it is wrong for long jobs on bad workers; the measure is S "
        "against U again. It happens less often than if a lost job always went to another worker "
        "(the bound): the worker that has just come back is the emptiest, and may get it again. A "
        f"node that loses power forgets nothing that it accepted: {kept:.0%} of those jobs "
        f"succeed, each begun {attempts:.2f} times, because its workers go on and bring back what "
        "they hold."
    )
