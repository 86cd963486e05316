"""A queue that stands in for the product: what experiments make of a run, tested in no time.

First come, first served, at the workers of a scenario with one node; no breaks, no labels.  With
`slower` it serves as many times longer, and no theory should agree with it.
"""

import heapq
import random
from collections.abc import Iterator

from simulations.arrivals import Arrival, arrivals
from simulations.distributions import draw
from simulations.metrics import Metrics
from simulations.scenario import Arrivals, Scenario
from simulations.simulate import Failure, Options, Result


def play(scenario: Scenario, seed: int, slower: float = 1.0) -> Metrics:
    functions = {function.name: function for function in scenario.functions}
    coming = sorted(
        (at_s, number, load.label or load.function, functions[load.function])
        for number, load in enumerate(scenario.load)
        for at_s, _ in _until(scenario.duration_s, load.arrivals, random.Random(f"{seed}/{number}"))
    )
    chance = random.Random(f"{seed}/runs")
    free_at_s = [0.0] * sum(group.count * group.slots for group in scenario.workers)
    found = []
    for at_s, _, label, function in coming:
        start_s = max(at_s, heapq.heappop(free_at_s))
        end_s = start_s + slower * draw(function.duration_s, chance)
        heapq.heappush(free_at_s, end_s)
        found.append((end_s, label, start_s - at_s, end_s - at_s))
    metrics = Metrics()
    for end_s, label, wait_s, stay_s in sorted(found):
        metrics.observe("job.succeeded", end_s, 1.0, label=label)
        metrics.observe("job.wait_s", end_s, wait_s, label=label)
        metrics.observe("job.sojourn_s", end_s, stay_s, label=label)
        metrics.observe("job.result_s", end_s, stay_s, label=label)
        metrics.observe("job.connected_s", end_s, stay_s, label=label)
    return metrics


def _until(end_s: float, described: Arrivals, chance: random.Random) -> Iterator[Arrival]:
    for arrival in arrivals(described, chance):
        if arrival[0] >= end_s:
            return
        yield arrival


def simulate(scenario: Scenario, seed: int, options: Options | None = None) -> Result:
    """What `Task.simulator` names."""
    return _result(seed, play(scenario, seed), None)


def simulate_badly(scenario: Scenario, seed: int, options: Options | None = None) -> Result:
    """One run in two breaks an invariant."""
    failure = Failure(at_s=1.5, node="0", what="two and two are five") if seed % 2 else None
    return _result(seed, play(scenario, seed), failure)


def _result(seed: int, metrics: Metrics, failure: Failure | None) -> Result:
    return Result(
        seed=seed,
        trace_hash=f"{seed:064x}",
        metrics=metrics,
        virtual_s=10.0,
        cpu_s=0.001,
        events=len(metrics),
        failure=failure,
    )
