"""E4: which of many nodes takes a job, and what it is worth to know their queues.

The paper says that unpredictable run times break the balance between nodes.  A requester of ours
may ask any node; here it does so by chance, by two looks, by all, and by old news.
"""

import random
from typing import Final, Literal, TypeAlias

from simulations.distributions import Exponential
from simulations.experiments.experiment import (
    Check,
    Dot,
    Experiment,
    Findings,
    Line,
    Plot,
    Point,
    Size,
    curve,
)
from simulations.experiments.single_node import MEMORY_BYTES, times
from simulations.scenario import Complete, Function, Link, Load, Poisson, Scenario, Workers
from simulations.theory import balancing

Policy: TypeAlias = Literal["random", "two-choices", "shortest", "stale"]
NODES: Final = 10
RHOS: Final[dict[Policy, dict[float, float]]] = {
    "random": {0.3: 400, 0.5: 1000},
    "two-choices": {0.5: 500, 0.7: 1000},
    "shortest": {0.5: 400, 0.7: 800},
}
"""How busy, and how many jobs in a run."""
STALE_RHO: Final = 0.5
STALES_S: Final = (1.0, 10.0)
STALE_JOBS: Final = 800
PLAYED_JOBS: Final = 150_000


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    points = [
        _point(size, policy, rho, jobs)
        for policy, rhos in RHOS.items()
        for rho, jobs in rhos.items()
    ]
    points += [_point(size, "stale", STALE_RHO, STALE_JOBS, stale_s) for stale_s in STALES_S]
    return Experiment(
        name="e4",
        title="Which node takes a job",
        question=(
            "How long is a job in its node if it goes to any node, to the better of two, to the "
            "best of all, or to the best by a list that is some seconds old?"
        ),
        set_up=(
            f"A mesh of {NODES} nodes, each with one worker; exponential jobs of 1 s, Poisson "
            "arrivals. The requester chooses the node; the load of a node is its unfinished jobs."
        ),
        points=tuple(points),
        plots=(_policies(size), _stale(size)),
        meaning=_meaning,
        limits=(
            "Looking costs nothing here, and looks at all nodes at the same instant. Nodes do not "
            "hand jobs on to one another: that is not built. The curves for the shortest queue and "
            "for old news are computed by playing bare queues, as no closed form is known; the "
            f"curve for two choices is corrected for {NODES} nodes (the limit of many nodes is "
            "lower)."
        ),
    )


def _name(policy: Policy, rho: float, stale_s: float = 0.0) -> str:
    return f"{policy}-{stale_s:g}s" if policy == "stale" else f"{policy}-{rho}"


def _point(size: Size, policy: Policy, rho: float, jobs: float, stale_s: float = 0.0) -> Point:
    rate = rho * NODES
    warm_up_s = 10.0 / (1 - rho) + 3 * stale_s
    scenario = Scenario(
        name=f"e4-{_name(policy, rho, stale_s)}",
        topology=Complete(nodes=NODES),
        link=Link(latency_s=0.005),
        functions=[Function(name="job", duration_s=Exponential(mean=1.0))],
        workers=[Workers(memory_bytes=MEMORY_BYTES)],
        load=[
            Load(
                function="job",
                arrivals=Poisson(rate_per_s=rate),
                balance=policy,
                stale_s=stale_s,
            )
        ],
        warm_up_s=warm_up_s,
        duration_s=warm_up_s + size.jobs(jobs) / rate,
        drain_s=100.0,
    )
    return Point(
        _name(policy, rho, stale_s), scenario, lambda run, seed: times(run, "job", warm_up_s)
    )


def _played_s(size: Size, policy: Policy, rho: float, stale_s: float = 0.0) -> float:
    rng = random.Random(f"{policy}/{rho}/{stale_s}")
    jobs = round(size.jobs(PLAYED_JOBS))
    return balancing.played_sojourn_s(policy, rho, NODES, rng, stale_s=stale_s, jobs=jobs)


def _dots(size: Size, policy: Policy) -> tuple[Dot, ...]:
    def check(rho: float) -> Check:
        match policy:
            case "random":
                return Check(balancing.random_sojourn_s(rho))
            case "two-choices":
                return Check(balancing.two_choices_sojourn_s(rho, NODES))
            case _:
                return Check(_played_s(size, policy, rho))

    return tuple(Dot(rho, _name(policy, rho), "sojourn_s", check(rho)) for rho in RHOS[policy])


def _policies(size: Size) -> Plot:
    return Plot(
        name="e4-policies",
        title=f"{NODES} nodes: who takes a job",
        x_label="how busy the nodes are",
        y_label="time in the node (s)",
        lines=(
            Line("any node", _dots(size, "random"), curve(balancing.random_sojourn_s, 0.05, 0.8)),
            Line(
                "the better of two",
                _dots(size, "two-choices"),
                curve(lambda rho: balancing.two_choices_sojourn_s(rho, NODES), 0.05, 0.88),
            ),
            Line("the best of all", _dots(size, "shortest")),
            Line(
                "the best of all, at least one queue for all",
                tuple(
                    Dot(
                        rho,
                        _name("shortest", rho),
                        "sojourn_s",
                        Check(balancing.shortest_sojourn_least_s(rho, NODES), "at least"),
                    )
                    for rho in RHOS["shortest"]
                ),
            ),
        ),
        y_from=0.0,
        y_to=5.0,
    )


def _stale(size: Size) -> Plot:
    return Plot(
        name="e4-stale",
        title=f"The best node by an old list, nodes {STALE_RHO:.0%} busy",
        x_label="how often the list is written anew (s)",
        y_label="time in the node (s)",
        lines=(
            Line(
                "the best by the list",
                tuple(
                    Dot(
                        stale_s,
                        _name("stale", STALE_RHO, stale_s),
                        "sojourn_s",
                        Check(_played_s(size, "stale", STALE_RHO, stale_s)),
                    )
                    for stale_s in STALES_S
                ),
            ),
            Line(
                "any node",
                tuple(
                    Dot(x, _name("random", STALE_RHO), "sojourn_s")
                    for x in (STALES_S[0], STALES_S[-1])
                ),
            ),
        ),
        log_x=True,
        y_from=0.0,
    )


def _meaning(found: Findings) -> str:
    any_s = found.mean("random-0.5", "sojourn_s")
    two_s = found.mean("two-choices-0.5", "sojourn_s")
    best_s = found.mean("shortest-0.5", "sojourn_s")
    old_s = found.mean("stale-10s", "sojourn_s")
    return (
        f"With nodes {STALE_RHO:.0%} busy a job takes {any_s:.2f} s at any node, {two_s:.2f} s at "
        f"the better of two and {best_s:.2f} s at the best of all: two looks give most of what "
        "there is to gain, and they need no news from anybody. News that is older than a few "
        f"jobs is worth less than none: by a list written each 10 s it takes {old_s:.2f} s, "
        "because everybody runs to the same nodes. A node that spread its load through the mesh "
        "would do its callers no favour; asking two nodes does."
    )
