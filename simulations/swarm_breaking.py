"""Breaking: the faults of a scenario, done to a swarm.

They are the faults of a World (`simulations.breaking`) as far as a swarm has what they break, with
the same rules: faults that overlap add up, each draws from generators of its own, and all that can
end has ended at the scenario's `duration_s`.  Where a stream would only notice after a while that
the other side is gone, here both ends know at once.

A byzantine node goes on as a node, and beside that sends what it should not: bytes that mean
nothing, messages that were sent before, and records whose signature does not fit.
"""

from collections.abc import Callable
from typing import Final

from simulations import chance
from simulations.clients import which
from simulations.distributions import draw
from simulations.faults import Byzantine, Churn, Crash, Fault, Flapping, Partition
from simulations.metrics import Metrics
from simulations.swarm_population import Population

GARBAGE_SIZE_MAX_BYTES: Final = 512
"""Longest frame of nonsense. Source: guess; a small message."""
LOOK_S: Final = 0.05
"""Pause between two looks whether a mesh has healed. Source: as in a World."""
PARTING: Final = (Crash, Churn, Partition, Flapping)
"""Faults after which nodes have to catch up."""


class Breaker:
    """Does faults to a swarm, and undoes them."""

    def __init__(self, population: Population, metrics: Metrics, until_s: float) -> None:
        """`until_s`: when all faults end."""
        self._population = population
        self._swarm = population.swarm
        self._metrics = metrics
        self._until_s = until_s
        self._downs: dict[int, int] = {}
        """Node -> faults that hold it down."""
        self._healing = 0
        """Grows with each fault that parts nodes."""

    def plan(self, number: int, fault: Fault) -> None:
        """Have a fault happen when its time comes; `number` tells faults apart."""
        if fault.at_s < self._until_s:
            self._at(fault.at_s, lambda: self._begin(number, fault))

    def _begin(self, number: int, fault: Fault) -> None:
        nodes = which(fault.nodes, self._population.size)
        self._healing += isinstance(fault, PARTING)
        self._record(fault, nodes, "begins")

        def end() -> None:
            self._record(fault, nodes, "ends")
            if isinstance(fault, PARTING):
                self._healing += 1
                self._watch_healing(fault, self._healing, self._population.now)

        match fault:
            case Crash():
                self._crash(number, fault, nodes, end)
            case Churn():
                for node in nodes:
                    self._churn(fault, node, number)
                self._at(self._until_s, end)
            case Partition():
                self._partition(fault, nodes, end)
            case Flapping():
                ends_s = min(self._population.now + fault.for_s, self._until_s)
                for one, other in self._links(nodes):
                    self._flap(number, fault, (one, other), ends_s)
                self._at(ends_s, end)
            case Byzantine():
                for node in nodes:
                    self._population.corrupt(node)
                    self._misbehave(number, fault, node)
            case _:
                raise ValueError(f"a swarm has nothing that {fault} could break")

    # --- machines -----------------------------------------------------------------------------

    def _crash(self, number: int, fault: Crash, nodes: list[int], end: Callable[[], None]) -> None:
        last_s = self._population.now
        for node in nodes:
            self._fell(node)
            if fault.for_s is not None:
                rng = chance.named(self._swarm.seed, "fault", number, node)
                back_s = min(self._population.now + draw(fault.for_s, rng), self._until_s)
                last_s = max(last_s, back_s)
                self._at(back_s, lambda node=node: self._raise(node))  # type: ignore[misc]
        self._at(last_s, end)

    def _churn(self, fault: Churn, node: int, number: int) -> None:
        rng = chance.named(self._swarm.seed, "fault", number, node)

        def leave() -> None:
            self._fell(node)
            back_s = min(self._population.now + draw(fault.down_s, rng), self._until_s)
            self._at(back_s, come)

        def come() -> None:
            self._raise(node)
            stay()

        def stay() -> None:
            gone_s = self._population.now + draw(fault.up_s, rng)
            if gone_s < self._until_s:
                self._at(gone_s, leave)

        stay()

    def _fell(self, node: int) -> None:
        self._downs[node] = self._downs.get(node, 0) + 1
        self._population.crash(node)

    def _raise(self, node: int) -> None:
        self._downs[node] -= 1
        if not self._downs[node]:
            self._population.start(node)

    # --- links --------------------------------------------------------------------------------

    def _partition(self, fault: Partition, nodes: list[int], end: Callable[[], None]) -> None:
        population, inside = self._population, dict.fromkeys(nodes)
        across = [
            (node, other)
            for node in nodes
            for other in population.graph.neighbours(node)
            if other not in inside
        ]
        begin, undo = population.cut, population.heal
        if fault.one_way:
            begin, undo = population.mute, population.unmute
        for pair in across:
            begin(*pair)

        def heal() -> None:
            for pair in across:
                undo(*pair)
            end()

        self._at(min(population.now + fault.for_s, self._until_s), heal)

    def _links(self, nodes: list[int]) -> list[tuple[int, int]]:
        neighbours = self._population.graph.neighbours
        pairs = ((min(n, other), max(n, other)) for n in nodes for other in neighbours(n))
        return list(dict.fromkeys(pairs))

    def _flap(self, number: int, fault: Flapping, link: tuple[int, int], ends_s: float) -> None:
        population = self._population
        rng = chance.named(self._swarm.seed, "fault", number, *link)

        def down() -> None:
            population.cut(*link)
            self._at(min(population.now + draw(fault.down_s, rng), ends_s), up)

        def up() -> None:
            population.heal(*link)
            hold()

        def hold() -> None:
            breaks_s = population.now + draw(fault.up_s, rng)
            if breaks_s < ends_s:
                self._at(breaks_s, down)

        hold()

    def _watch_healing(self, fault: Fault, healing: int, ended_s: float) -> None:
        """Observe when all nodes know the same; not if another such fault comes before."""
        population = self._population
        if self._healing != healing:
            return
        if population.views.distinct <= 1:
            took_s = population.now - ended_s
            self._metrics.observe("heal.converged_s", population.now, took_s, label=_what(fault))
        else:
            again_s = population.now + LOOK_S
            self._at(again_s, lambda: self._watch_healing(fault, healing, ended_s))

    # --- nodes that are up to no good -----------------------------------------------------------

    def _misbehave(self, number: int, fault: Byzantine, node: int) -> None:
        population = self._population
        rng = chance.named(self._swarm.seed, "fault", number, node)

        def act() -> None:
            behaviour = rng.choice(fault.behaviours)
            ways = list(self._swarm.nodes[node].ways.values())
            overheard = population.byzantine[node]
            if behaviour == "forge":
                population.forge(node, rng.getrandbits(16))
            elif ways and behaviour == "garbage":
                size_bytes = rng.randint(1, GARBAGE_SIZE_MAX_BYTES)
                self._swarm.inject(rng.choice(ways), rng.randbytes(size_bytes))
            elif ways and overheard:
                self._swarm.inject(rng.choice(ways), rng.choice(list(overheard)))
            wait()

        def wait() -> None:
            at_s = population.now + rng.expovariate(fault.rate_per_s)
            if at_s < self._until_s:
                self._at(at_s, act)

        wait()

    # --- inside -------------------------------------------------------------------------------

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        self._swarm.at(self._swarm.zero_s + at_s, act)

    def _record(self, fault: Fault, nodes: list[int], state: str) -> None:
        named = ",".join(map(str, nodes)) if len(nodes) < self._population.size else "all"
        self._swarm.trace.record(
            self._population.now, "fault", what=_what(fault), nodes=named, state=state
        )


def _what(fault: Fault) -> str:
    return str(type(fault).__struct_config__.tag)
