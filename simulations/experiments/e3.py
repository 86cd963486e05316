"""E3: workers that are not alike: a board, a small GPU and a server behind one interface.

The paper promises that different hardware can be put at an edge site without the caller knowing.
"""

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
    Size,
    curve,
    measures,
)
from simulations.experiments.single_node import MEMORY_BYTES, poisson, single_node, times
from simulations.observations import Observations
from simulations.scenario import AtOnce, Function, Load, Workers
from simulations.theory import machines

SPEEDS: Final = (16.0, 4.0, 1.0)
"""A server, a small GPU and a board, roughly. Source: research/simulation.md, E3."""
LENGTH_S: Final = 16.0
"""Mean length of a job at speed 1: a second at the server, far above any message's time."""
RHOS: Final = {0.3: 500, 0.5: 800, 0.7: 1500}
BATCHES: Final = (10, 30, 100)
GPU, PLAIN = 2, 3
"""Slots that have a GPU, and slots that have none."""
KINDS: Final = ((1.0, 1.0), (3.0, 1.0), (1.0, 6.0))
"""Jobs a second that need a GPU, and that do not: from little to far too much."""


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    points = [_point(size, rho, jobs) for rho, jobs in RHOS.items()]
    points += [_batch(count) for count in BATCHES]
    points += [_kinds(size, *rates) for rates in KINDS]
    return Experiment(
        name="e3",
        title="Workers that are not alike",
        question=(
            "Does one queue in front of fast and slow workers use them well, and are jobs that fit "
            "only some workers served as well as can be?"
        ),
        set_up=(
            "One node with three workers of speeds "
            + ", ".join(f"{speed:g}" for speed in SPEEDS)
            + f", exponential jobs of {LENGTH_S:g} s (at speed 1). Then batches of jobs of equal "
            f"length, all at once. Then {GPU} slots with a GPU and {PLAIN} without, jobs of 1 s "
            "of which some need a GPU, from little to far more than can be served."
        ),
        points=tuple(points),
        plots=(_stays(), _batches(), _served()),
        meaning=_meaning,
        limits=(
            "The exact curve is that of a queue whose first job goes to the fastest free worker. "
            "The node does not know speeds; it measures run times, and is a little worse until it "
            "has. Memory and data do not matter here."
        ),
    )


def _point(size: Size, rho: float, jobs: float) -> Point:
    rate = rho * sum(SPEEDS) / LENGTH_S
    warm_up_s = 300.0  # until it is known who is fast
    scenario = single_node(
        f"e3-{rho}",
        functions=[Function(name="job", duration_s=Exponential(mean=LENGTH_S))],
        workers=[Workers(speed=speed, memory_bytes=MEMORY_BYTES) for speed in SPEEDS],
        load=[poisson("job", rate)],
        warm_up_s=warm_up_s,
        duration_s=warm_up_s + size.jobs(jobs) / rate,
        drain_s=400.0,
    )
    return Point(f"rho-{rho}", scenario, lambda run, seed: times(run, "job", warm_up_s))


def _batch(count: int) -> Point:
    scenario = single_node(
        f"e3-batch-{count}",
        functions=[Function(name="job", duration_s=LENGTH_S)],
        workers=[Workers(speed=speed, memory_bytes=MEMORY_BYTES) for speed in SPEEDS],
        load=[Load(function="job", arrivals=AtOnce(count=count, at_s=1.0))],
        duration_s=10.0,
        drain_s=1000.0,
    )

    def reduce(run: Observations, seed: int) -> Measures:
        ends = run.values("job.sojourn_s", label="job")
        return measures(makespan_s=max(ends), jobs=float(len(ends))) if len(ends) == count else {}

    return Point(f"batch-{count}", scenario, reduce)


def _kinds(size: Size, gpu_per_s: float, any_per_s: float) -> Point:
    lasts_s = size.jobs(150)
    warm_up_s = 20.0
    scenario = single_node(
        f"e3-kinds-{gpu_per_s:g}-{any_per_s:g}",
        functions=[
            Function(name="gpu", duration_s=Exponential(mean=1.0), requires={"gpu": 1}),
            Function(name="any", duration_s=Exponential(mean=1.0)),
        ],
        workers=[
            Workers(count=GPU, gpus=1, memory_bytes=MEMORY_BYTES),
            Workers(count=PLAIN, memory_bytes=MEMORY_BYTES),
        ],
        load=[poisson("gpu", gpu_per_s), poisson("any", any_per_s)],
        warm_up_s=warm_up_s,
        duration_s=warm_up_s + lasts_s,
    )

    def reduce(run: Observations, seed: int) -> Measures:
        # What ended while jobs arrived; what was open at the end is no observation of a success.
        ended = sum(run.values("job.succeeded", since_s=warm_up_s))
        return measures(served_per_s=ended / lasts_s)

    return Point(f"kinds-{gpu_per_s:g}-{any_per_s:g}", scenario, reduce)


def _most_per_s(gpu_per_s: float, any_per_s: float) -> float:
    return machines.served_most_per_s(
        {"gpu": gpu_per_s, "any": any_per_s},
        {"gpu": float(GPU), "plain": float(PLAIN)},
        {"gpu": ["gpu"], "any": ["gpu", "plain"]},
    )


def _stays() -> Plot:
    def rate(rho: float) -> float:
        return rho * sum(SPEEDS) / LENGTH_S

    def exact_s(rho: float) -> float:
        return machines.ordered_sojourn_s(rate(rho), LENGTH_S, SPEEDS)

    def pooled_s(rho: float) -> float:
        return machines.pooled_sojourn_s(rate(rho), LENGTH_S, SPEEDS)

    def split_s(rho: float) -> float:
        return machines.split_sojourn_s(rate(rho), LENGTH_S, SPEEDS)

    def checked(check: str, rho: float) -> Check:
        match check:
            case "exact":
                return Check(exact_s(rho))
            case "pooled":
                return Check(pooled_s(rho), "at least")
            case _:
                return Check(split_s(rho), "at most")

    lines = tuple(
        Line(
            label,
            tuple(Dot(rho, f"rho-{rho}", "sojourn_s", checked(check, rho)) for rho in RHOS),
            curve(exact_s, 0.05, 0.88) if check == "exact" else (),
        )
        for label, check in (
            ("fastest free worker first (exact)", "exact"),
            ("above: one worker as fast as all", "pooled"),
            ("below: by chance, in proportion to speed", "split"),
        )
    )
    return Plot(
        name="e3-speeds",
        title="Workers of speeds 16, 4 and 1",
        x_label="share of all speed that is used",
        y_label="time in the node (s)",
        lines=lines,
        curves=(
            Curve("one worker as fast as all (bound)", curve(pooled_s, 0.05, 0.88)),
            Curve("by chance, in proportion to speed (bound)", curve(split_s, 0.05, 0.88)),
        ),
        log_y=True,
    )


def _batches() -> Plot:
    def least_s(count: float) -> float:
        return machines.makespan_least_s([LENGTH_S] * round(count), SPEEDS)

    def most_s(count: float) -> float:
        # Whoever starts last starts before all could have ended, at the slowest worker at worst.
        return count * LENGTH_S / sum(SPEEDS) + LENGTH_S / min(SPEEDS)

    return Plot(
        name="e3-batch",
        title="A batch of equal jobs, all at once",
        x_label="jobs",
        y_label="until the last has ended (s)",
        lines=(
            Line(
                "at least all work over all speed",
                tuple(
                    Dot(n, f"batch-{n}", "makespan_s", Check(least_s(n), "always at least"))
                    for n in BATCHES
                ),
            ),
            Line(
                "at most that and the longest run",
                tuple(
                    Dot(n, f"batch-{n}", "makespan_s", Check(most_s(n), "always at most"))
                    for n in BATCHES
                ),
            ),
        ),
        curves=(
            Curve("all work over all speed (bound)", curve(least_s, 3, 100)),
            Curve("and the longest run at the slowest (bound)", curve(most_s, 3, 100)),
        ),
        y_from=0.0,
    )


def _served() -> Plot:
    return Plot(
        name="e3-kinds",
        title="Jobs that need a GPU beside jobs that do not",
        x_label="jobs offered (1/s)",
        y_label="jobs served (1/s)",
        lines=(
            Line(
                "served (theory: a maximal flow)",
                tuple(
                    Dot(
                        gpu_per_s + any_per_s,
                        f"kinds-{gpu_per_s:g}-{any_per_s:g}",
                        "served_per_s",
                        Check(_most_per_s(gpu_per_s, any_per_s)),
                    )
                    for gpu_per_s, any_per_s in sorted(KINDS, key=sum)
                ),
            ),
        ),
        y_from=0.0,
    )


def _meaning(found: Findings) -> str:
    stay_s = found.mean("rho-0.5", "sojourn_s")
    rate = 0.5 * sum(SPEEDS) / LENGTH_S
    split_s = machines.split_sojourn_s(rate, LENGTH_S, SPEEDS)
    return (
        f"Half busy, a job is in the node for {stay_s:.2f} s; handing jobs out by chance, in "
        f"proportion to speed, takes {split_s:.2f} s. That a caller sees one interface costs "
        "nothing: the node finds out by itself who is fast, and its queue is as good as theory "
        "lets a queue be that gives the first job to the fastest free worker. Jobs that fit only "
        "some workers are served up to what a maximal flow allows."
    )
