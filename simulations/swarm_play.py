"""Plays a scenario of the driver "swarm": from its start to a `Result`.

    settled, then   0 ............ duration_s .......... duration_s + drain_s
                    updates, faults, probes              what is under way ends

An update is a record, whatever it is called: what a swarm has of users, functions and keys is that
all nodes are to have them.  A blob is made at a node, and read at others by `gossip.fetch`.
"""

import time
import traceback
from typing import TYPE_CHECKING, Final

from simulations import chance, topology
from simulations.arrivals import arrivals, expected
from simulations.clients import which
from simulations.distributions import draw
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.scenario import Scenario, Updates
from simulations.swarm import Swarm, quiet_collector
from simulations.swarm_breaking import Breaker
from simulations.swarm_fetch import BlobsPlayer
from simulations.swarm_population import Population
from simulations.swarm_probing import Prober
from simulations.topology import Graph
from simulations.trace import Trace

if TYPE_CHECKING:
    from simulations.simulate import Failure, Options, Result

STEPS: Final = 200
"""In how many steps a run tells its progress. Source: half a percent each."""


def play(scenario: Scenario, seed: int, options: "Options") -> "Result":
    """Run a scenario that was checked (`simulations.checking`): one that needs gossip only."""
    from simulations.simulate import Failure, Result

    begun_s = time.process_time()
    trace, metrics = Trace(options.keep), Metrics()
    graph = topology.build(
        scenario.topology, scenario.link, chance.named(seed, "topology"), options.directory
    )
    lines = Lines(graph, scenario.link, chance.named(seed, "lines"))
    swarm = Swarm(seed, lines, trace=trace, checking=options.checking)
    run = _Run(scenario, swarm, graph, metrics, options)
    failure: Failure | None = None
    try:
        with quiet_collector():
            run.play()
    except AssertionError as error:
        failure = _failed(error, max(0.0, swarm.now - swarm.zero_s))
        trace.record(failure.at_s, "check", what=failure.what, node=failure.node)
    return Result(
        seed=seed,
        trace_hash=trace.digest(),
        metrics=metrics,
        virtual_s=swarm.now - swarm.zero_s,
        cpu_s=time.process_time() - begun_s,
        events=swarm.events,
        failure=failure,
        graph=graph,
    )


class _Run:
    """One run."""

    def __init__(
        self,
        scenario: Scenario,
        swarm: Swarm,
        graph: Graph,
        metrics: Metrics,
        options: "Options",
    ) -> None:
        self._scenario = scenario
        self._swarm = swarm
        self._graph = graph
        self._metrics = metrics
        self._options = options
        self._warm_s = min(scenario.warm_up_s, scenario.duration_s)

    def play(self) -> None:
        """Play it all."""
        scenario, metrics = self._scenario, self._metrics
        records = sum(
            expected(updates.arrivals, scenario.duration_s)
            for updates in scenario.updates
            if updates.what != "blob"
        )
        population = Population(self._swarm, self._graph, metrics, records=records)
        population.settle()
        for number, updates in enumerate(scenario.updates):
            if updates.what == "blob":
                BlobsPlayer(updates, population, metrics, number, scenario.duration_s).plan()
            else:
                self._plan(updates, number, population)
        breaker = Breaker(population, metrics, scenario.duration_s)
        for number, fault in enumerate(scenario.faults):
            breaker.plan(number, fault)
        for probe in scenario.probes:
            Prober(probe, population, metrics).plan()
        self._pass_time(population)
        population.close()
        if self._options.checking:
            population.check()

    def _plan(self, updates: Updates, number: int, population: Population) -> None:
        """Have records made, each planned when the one before is made."""
        swarm, scenario = self._swarm, self._scenario
        times = arrivals(updates.arrivals, chance.named(swarm.seed, "updates", number, "times"))
        sizes = chance.named(swarm.seed, "updates", number)
        nodes = which(updates.nodes, population.size)
        made = 0

        def make() -> None:
            nonlocal made
            size_bytes = round(draw(updates.size_bytes, sizes))
            node = nodes[made % len(nodes)]
            made += 1
            refused = not population.make(node, updates.what, size_bytes)
            self._metrics.observe(
                "update.refused", population.now, float(refused), node=str(node), label=updates.what
            )
            plan()

        def plan() -> None:
            at_s, _ = next(times, (scenario.duration_s, None))
            if at_s < scenario.duration_s:
                swarm.at(swarm.zero_s + at_s, make)

        plan()

    def _pass_time(self, population: Population) -> None:
        scenario, swarm, progress = self._scenario, self._swarm, self._options.progress
        ends_s = scenario.duration_s + scenario.drain_s
        steps = [ends_s * step / STEPS for step in range(1, STEPS + 1)]
        for at_s in sorted([*steps, self._warm_s]):
            swarm.run_until(swarm.zero_s + at_s)
            if at_s == self._warm_s:
                population.begin_counting()
            if progress is not None:
                progress(population.now)


def _failed(error: AssertionError, at_s: float) -> "Failure":
    from simulations.simulate import EVERYWHERE, Failure

    lines = traceback.format_exception(type(error), error, error.__traceback__)
    what = f"{type(error).__name__}: {error}"
    return Failure(at_s=at_s, node=EVERYWHERE, what=what, traceback="".join(lines))
