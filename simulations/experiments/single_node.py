"""One node with workers and Poisson arrivals: the scenario of many questions."""

from collections.abc import Sequence

from simulations.experiments.experiment import Measures, average, measures
from simulations.faults import Fault
from simulations.observations import Observations
from simulations.scenario import Complete, Function, Link, Load, Poisson, Scenario, Workers

MEMORY_BYTES = 1 << 40
"""Of a worker: more than its slots need, so that only slots are short."""
STARTS_S = 1e-6
"""Whoever starts later has waited. Source: far below any run, far above rounding."""


def single_node(
    name: str,
    *,
    functions: Sequence[Function],
    workers: Sequence[Workers],
    load: Sequence[Load],
    duration_s: float,
    warm_up_s: float = 0.0,
    drain_s: float = 0.0,
    faults: Sequence[Fault] = (),
) -> Scenario:
    """Return a scenario of one node; its clients sit beside it."""
    return Scenario(
        name=name,
        duration_s=duration_s,
        warm_up_s=warm_up_s,
        drain_s=drain_s,
        topology=Complete(nodes=1),
        link=Link(latency_s=0.0),
        functions=list(functions),
        workers=list(workers),
        load=list(load),
        faults=list(faults),
    )


def poisson(function: str, rate_per_s: float, label: str = "") -> Load:
    """Return jobs that are handed in and left."""
    return Load(function=function, arrivals=Poisson(rate_per_s=rate_per_s), label=label)


def times(run: Observations, label: str, since_s: float) -> Measures:
    """Return the mean wait and time in the node, and the share that waited, of jobs of a label.

    Only of jobs handed in at or after `since_s`: choosing by when they ended would favour long
    ones.  All must have ended; of a run in which some did not, nothing is returned.
    """
    ended_s, result_s = run.series("job.result_s", label=label)
    waits_s = run.values("job.wait_s", label=label)
    stays_s = run.values("job.sojourn_s", label=label)
    if not len(waits_s) == len(stays_s) == len(run.values("job.succeeded", label=label)):
        return {}
    chosen = ended_s - result_s >= since_s
    return measures(
        wait_s=average(waits_s[chosen]),
        waited=average(waits_s[chosen] > STARTS_S),
        sojourn_s=average(stays_s[chosen]),
        jobs=float(chosen.sum()),
    )
