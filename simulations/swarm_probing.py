"""Probes of a swarm: what is looked at in all nodes every few seconds (`scenario.Probe`).

Looking changes nothing: a run with probes and one without have the same events.
"""

from simulations.metrics import Metrics
from simulations.scenario import Probe
from simulations.swarm_population import Population

LABELS = ("control", "message")
"""Of "link.sent_bytes": what was sent, a row each."""


class Prober:
    """One `[[probes]]` being played."""

    def __init__(self, described: Probe, population: Population, metrics: Metrics) -> None:
        self._described = described
        self._population = population
        self._metrics = metrics
        self._sent = [(0, 0)] * population.size

    def plan(self) -> None:
        """Look each so many seconds, for ever."""
        population, each_s = self._population, self._described.each_s

        def look(count: int) -> None:
            for metric in self._described.metrics:
                self._look(metric)
            plan(count + 1)

        def plan(count: int) -> None:
            population.swarm.at(population.swarm.zero_s + count * each_s, lambda: look(count))

        plan(1)

    def _look(self, metric: str) -> None:
        population, now = self._population, self._population.now
        if metric == "digest.distinct":
            self._metrics.observe(metric, now, population.views.distinct)
            return
        for node in population.swarm.nodes:
            number, name = node.number, str(node.number)
            if metric == "node.up":
                self._metrics.observe(metric, now, float(node.is_up), node=name)
            elif metric == "records.count" and node.is_up:
                kept = len(population.archives[number])
                self._metrics.observe(metric, now, kept, node=name)
            elif metric == "link.sent_bytes":
                sent = node.control_bytes, node.sent_bytes - node.control_bytes
                before, self._sent[number] = self._sent[number], sent
                for label, more, less in zip(LABELS, sent, before, strict=True):
                    rate = (more - less) / self._described.each_s
                    self._metrics.observe(metric, now, rate, node=name, label=label)
