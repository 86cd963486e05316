"""Probes: what is looked at in all nodes every few seconds.  `scenario.Probe` lists it.

Looking changes nothing: a run with probes and one without have the same events.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gossip.sync_messages import Stratum
from simulations.clients import which
from simulations.faults import Byzantine, Fault
from simulations.metrics import Metrics
from simulations.scenario import Probe
from simulations.virtual_workers import VirtualWorker

if TYPE_CHECKING:
    from peernode.node import Node
    from simulations.world import World


def distinct_views(world: "World", nodes: Iterable[int]) -> int:
    """Return how many different views these nodes have, as far as they are up."""
    up = [number for number in nodes if world.node(number) is not None]
    return len(dict.fromkeys(world.view_digest(number) for number in up))


def honest_nodes(faults: Iterable[Fault], size: int) -> list[int]:
    """Return the nodes that no fault makes byzantine: nobody owes the others anything."""
    byzantine = [
        node
        for fault in faults
        if isinstance(fault, Byzantine)
        for node in which(fault.nodes, size)
    ]
    return [node for node in range(size) if node not in byzantine]


class Prober:
    """One `[[probes]]` being played."""

    def __init__(
        self,
        described: Probe,
        world: "World",
        metrics: Metrics,
        workers: list[VirtualWorker],
        honest: Sequence[int],
    ) -> None:
        """`honest`: whose views are compared."""
        self._honest = honest
        self._described = described
        self._world = world
        self._metrics = metrics
        self._of_node: dict[int, list[VirtualWorker]] = {}
        for worker in workers:
            self._of_node.setdefault(worker.machine.node, []).append(worker)
        self._sent_bytes = [0] * world.size
        self._until_s = 0.0

    def begin(self, until_s: float) -> None:
        """Look each so many seconds from now on, before a time."""
        world = self._world
        self._until_s = until_s
        self._sent_bytes = [world.sent_bytes(node) for node in range(world.size)]
        self._call(1)

    def _call(self, count: int) -> None:
        """Look for the time with this number when that has come. No task: none is moved by it."""
        world, at_s = self._world, count * self._described.each_s
        if at_s < self._until_s:
            world.clock.call_at(world.journal.clock_time(at_s), self._look_at_all, count)

    def _look_at_all(self, count: int) -> None:
        for metric in self._described.metrics:
            self._look(metric)
        self._call(count + 1)

    def _look(self, metric: str) -> None:
        world = self._world
        if metric == "digest.distinct":
            self._observe(metric, distinct_views(world, self._honest), None)
            return
        for number in range(world.size):
            value = self._value(metric, number, world.node(number))
            if value is not None:
                self._observe(metric, value, number)

    def _value(self, metric: str, number: int, node: "Node | None") -> float | None:
        """Return what a probe sees at a node; nothing where that is down and so has none."""
        workers = self._of_node.get(number, [])
        match metric:
            case "node.up":
                return float(node is not None)
            case "worker.busy":
                slots = sum(worker.machine.slots for worker in workers)
                return sum(worker.busy for worker in workers) / slots if slots else None
            case "link.sent_bytes":
                sent = self._world.sent_bytes(number)
                before, self._sent_bytes[number] = self._sent_bytes[number], sent
                return (sent - before) / self._described.each_s
            case "queue.length":
                if node is None:
                    return None
                return float(len(node.live) - sum(worker.busy for worker in workers))
            case "records.count":
                if node is None or node.federation is None:
                    return None
                machine = node.federation.sync.sync
                return float(sum(machine.count(stratum) for stratum in Stratum))
            case _:
                raise ValueError(f"no probe: {metric}")

    def _observe(self, metric: str, value: float, node: int | None) -> None:
        where = "" if node is None else str(node)
        self._metrics.observe(metric, self._world.now, value, node=where)
