"""Runs of swarms that experiments are made of: how soon all know, and what that costs.

`convergence` (E5) makes records one after the other, far enough apart that they do not meet, and
says of each when the last node had it, and what no protocol could better: the time of the shortest
way to the node that is farthest from its maker (its weighted eccentricity).  `overhead` (E8) makes
records at a rate that does not depend on how many nodes there are, and says what each node sends
beside them, and how often it gets each.

Both are pure functions of their arguments.
"""

from dataclasses import dataclass
from typing import Final

from gossip.config import Config
from simulations import chance, topology
from simulations.distributions import Lognormal
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.scenario import Link, Regular
from simulations.swarm import Swarm, quiet_collector
from simulations.swarm_population import Population

LINK: Final = Link(latency_s=Lognormal(median=0.04, sigma=0.35, maximum=0.08))
"""Source: research; access networks of one continent."""
APART_S: Final = 2.0
"""Between two records. Source: several times what one takes."""
DRAIN_S: Final = 10.0
"""After the last one. Source: gossip's windows, and then some."""
SIZE_BYTES: Final = 300
SYNC_OFF_S: Final = 1e9
"""An interval of reconciliation that never comes: gossip alone is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One record, and how it came to be known."""

    maker: int
    visible_s: float | None
    """Until the last node had it; `None`: not all have it."""
    eccentricity_s: float
    """The bound from below."""
    hops_max: int
    covered: float
    """Share of the other nodes that have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """What `convergence` gave."""

    nodes: int
    updates: tuple[Update, ...]
    copies: float
    """How often a node got a record, the first time included; mean."""
    trace_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What `overhead` gave."""

    nodes: int
    control_bytes_per_s: float
    """That a node sent, all but messages; mean."""
    message_bytes_per_s: float
    copies: float
    covered: float
    trace_hash: str


def convergence(
    nodes: int,
    seed: int,
    *,
    degree: int = 6,
    updates: int = 20,
    link: Link = LINK,
    config: Config | None = None,
) -> Convergence:
    """Return how soon all of a random regular graph's nodes had each of some records."""
    makers = chance.named(seed, "makers")
    chosen = [makers.randrange(nodes) for _ in range(updates)]
    with quiet_collector():
        population = _population(nodes, seed, degree, link, config, updates)
        swarm, metrics = population.swarm, population.metrics
        for maker in chosen:
            population.make(maker, "kv", SIZE_BYTES)
            swarm.run(APART_S)
        swarm.run(DRAIN_S)
    population.close()
    made = [population.spread.of(number) for number in range(updates)]
    return Convergence(
        nodes=nodes,
        updates=tuple(
            Update(
                maker=spreading.maker,
                visible_s=spreading.visible_s,
                eccentricity_s=max(population.graph.distances_s(spreading.maker)),
                hops_max=spreading.hops_max,
                covered=spreading.covered,
            )
            for spreading in made
        ),
        copies=_mean(metrics.values("mesh.copies")),
        trace_hash=swarm.trace.digest(),
    )


def overhead(
    nodes: int,
    seed: int,
    *,
    degree: int = 12,
    rate_per_s: float = 1.0,
    duration_s: float = 60.0,
    link: Link = LINK,
    config: Config | None = None,
) -> Overhead:
    """Return what gossip costs each node where records are made at a rate, by nodes by lot."""
    count = max(1, round(duration_s * rate_per_s))
    makers = chance.named(seed, "makers")
    with quiet_collector():
        population = _population(nodes, seed, degree, link, config, count)
        swarm, metrics = population.swarm, population.metrics
        for _ in range(count):
            population.make(makers.randrange(nodes), "kv", SIZE_BYTES)
            swarm.run(duration_s / count)
    sent = [node.sent_bytes - node.control_bytes for node in swarm.nodes]
    population.close()
    swarm.run(DRAIN_S)
    made = [population.spread.of(number) for number in range(count)]
    return Overhead(
        nodes=nodes,
        control_bytes_per_s=_mean(metrics.values("link.control_bytes")),
        message_bytes_per_s=sum(sent) / nodes / duration_s,
        copies=_mean(metrics.values("mesh.copies")),
        covered=_mean([spreading.covered for spreading in made]),
        trace_hash=swarm.trace.digest(),
    )


def _population(
    nodes: int, seed: int, degree: int, link: Link, config: Config | None, records: float
) -> Population:
    graph = topology.build(
        Regular(nodes=nodes, degree=degree), link, chance.named(seed, "topology")
    )
    lines = Lines(graph, link, chance.named(seed, "lines"))
    swarm = Swarm(seed, lines, config=config)
    population = Population(swarm, graph, Metrics(), records=records, interval_s=SYNC_OFF_S)
    population.settle()
    return population


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
