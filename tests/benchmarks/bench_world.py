"""Whole daemons in one process: what a virtual hour costs, and how much room a node takes.

`world_hour`: 100 nodes of degree 6 for an hour, jobs at 0.5 a second handed in at any node, keys
and projects that change, and every fifth node coming and going.  `world_idle`: nodes that do
nothing but be a mesh.
"""

import resource
import time

import psutil
import trio

from simulations import chance, clock
from simulations.links import Lines
from simulations.loading import parse
from simulations.metrics import Metrics
from simulations.scenario import Link, Regular, Scenario
from simulations.simulate import simulate
from simulations.topology import build
from simulations.trace import Trace
from simulations.world import open_world
from tests.benchmarks.figures import emit, scaled

HOUR = """
name = "hour"
duration_s = {duration_s}
drain_s = 60

[topology]
kind = "regular"
nodes = {nodes}
degree = 6

[link]
latency_s = {{ kind = "lognormal", median = 0.02, sigma = 0.3 }}

[[workers]]

[[functions]]
name = "short"
duration_s = {{ kind = "exponential", mean = 2.0 }}

[[load]]
function = "short"
arrivals = {{ kind = "poisson", rate_per_s = 0.5 }}

[[updates]]
what = "kv"
arrivals = {{ kind = "poisson", rate_per_s = 0.1 }}

[[updates]]
what = "project"
arrivals = {{ kind = "poisson", rate_per_s = 0.02 }}

[[faults]]
kind = "churn"
nodes = {churning}
up_s = {{ kind = "exponential", mean = 600 }}
down_s = {{ kind = "exponential", mean = 30 }}
"""


def hour() -> None:
    """An hour of `nodes` daemons."""
    nodes = max(10, scaled(100))
    text = HOUR.format(
        nodes=nodes,
        duration_s=max(60, scaled(3600)),
        churning=list(range(nodes - nodes // 5, nodes)),
    )
    scenario = parse(text, "bench_world", ".")
    began_s = time.perf_counter()
    result = simulate(scenario, 1)
    took_s = time.perf_counter() - began_s
    assert result.failure is None, result.failure
    emit(
        "world_hour",
        [took_s],
        "s",
        nodes=nodes,
        virtual_s=result.virtual_s,
        cpu_s=round(result.cpu_s, 1),
        events=result.events,
        jobs=len(result.metrics.values("job.succeeded")),
        memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    )


def idle() -> None:
    """Nodes that do nothing, until all know all."""
    nodes, virtual_s = max(10, scaled(1000)), max(30, scaled(120))
    scenario = Scenario(
        name="idle", duration_s=virtual_s, topology=Regular(nodes=nodes), link=Link()
    )

    async def play() -> None:
        graph = build(scenario.topology, scenario.link, chance.named(1, "topology"))
        lines = Lines(graph, scenario.link, chance.named(1, "lines"))
        async with open_world(scenario, 1, Trace(), Metrics(), graph=graph, lines=lines):
            opened_s = time.process_time() - began_s
            await trio.sleep(virtual_s)
            memory = psutil.Process().memory_info().rss
        emit(
            "world_idle",
            [memory / (1 << 20)],
            "MiB",
            nodes=nodes,
            virtual_s=virtual_s,
            opening_cpu_s=round(opened_s, 1),
            cpu_s=round(time.process_time() - began_s, 1),
        )

    began_s = time.process_time()
    clock.run(play, seed=1)


if __name__ == "__main__":
    idle()
    hour()
