"""Who is linked with whom, and how long each way takes: a `Graph`, out of a scenario's topology.

    graph = build(scenario.topology, scenario.link, chance.named(seed, "topology"), directory)

A graph is always of one piece: what comes out in parts is drawn again some times where chance made
it, and then refused with the number of its parts.  Latency is drawn once for each link, in the
order of the links' numbers; the way back takes `backward_factor` times as long, unless a file says
how long.  Where places are known, the distance at `km_per_s` is added to what was drawn, which is
then the access network.

Real networks and files: `simulations.topology_files`.
"""

import heapq
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple, assert_never

import networkx

from simulations import topology_files
from simulations.distributions import draw
from simulations.errors import ScenarioError
from simulations.scenario import (
    Complete,
    Geometric,
    Graphml,
    Link,
    Matrix,
    Regular,
    Ring,
    Star,
    Topohub,
    Topology,
)

PLACE: Final = "topology"
NODES_MAX: Final = 20_000
"""Source: twice the largest swarm that is asked for."""
LINKS_MAX: Final = 1_000_000
"""Source: some 200 bytes each, in graph and lines."""
TRIES_MAX: Final = 100
"""How often a random topology is drawn until it is of one piece. Source: guess."""
Pair = tuple[int, int]


class Edge(NamedTuple):
    """A link between two nodes, and how long each way takes."""

    one: int
    other: int
    forth_s: float
    """From `one` to `other`."""
    back_s: float


@dataclass(frozen=True)
class Graph:
    """A topology made real. Nodes are numbered from 0; links are ordered, `one < other`."""

    names: tuple[str, ...]
    edges: tuple[Edge, ...]
    positions_km: tuple[tuple[float, float], ...] | None = None
    """Where each node is, to the east and to the north of some place; `None`: nowhere."""

    @property
    def size(self) -> int:
        """How many nodes."""
        return len(self.names)

    @cached_property
    def ways_s(self) -> tuple[dict[int, float], ...]:
        """For each node: each node it is linked with, ascending, and how long it takes there."""
        ways: list[dict[int, float]] = [{} for _ in self.names]
        for one, other, forth_s, back_s in self.edges:
            ways[one][other] = forth_s
            ways[other][one] = back_s
        return tuple(dict(sorted(row.items())) for row in ways)

    def neighbours(self, node: int) -> tuple[int, ...]:
        """Return the nodes that a node is linked with, ascending."""
        return tuple(self.ways_s[node])

    def distances_s(self, source: int) -> list[float]:
        """Return how long the shortest way takes to each node, over any number of links.

        The greatest of them, the weighted eccentricity, bounds from below how soon all can know.
        """
        ways = self.ways_s
        found = [math.inf] * self.size
        found[source] = 0.0
        due = [(0.0, source)]
        while due:
            so_far_s, node = heapq.heappop(due)
            if so_far_s > found[node]:
                continue
            for other, way_s in ways[node].items():
                if so_far_s + way_s < found[other]:
                    found[other] = so_far_s + way_s
                    heapq.heappush(due, (found[other], other))
        return found


def build(topology: Topology, link: Link, rng: random.Random, directory: str | Path = ".") -> Graph:
    """Return the graph; relative paths are from `directory`. Raises `ScenarioError`."""
    match topology:
        case Complete() | Regular() | Ring() | Star():
            pairs = _drawn(topology, rng)
            names = _names(topology.nodes)
            graph = Graph(names, _edges(pairs, [0.0] * len(pairs), link, rng))
        case Geometric():
            graph = _geometric(topology, link, rng)
        case Topohub() | Graphml() | Matrix():
            graph = _measured(_read(topology, directory), link, rng)
        case _:
            assert_never(topology)
    parts = count_parts(graph.size, ((edge.one, edge.other) for edge in graph.edges))
    if parts != 1:
        raise ScenarioError(PLACE, f"in {parts} parts that no link connects")
    return graph


def check(topology: Topology) -> None:
    """Raise `ScenarioError` for numbers that no graph has."""
    if isinstance(topology, Topohub | Graphml | Matrix):
        return
    nodes = topology.nodes
    _check_nodes(nodes)
    match topology:
        case Complete():
            links = nodes * (nodes - 1) // 2
        case Regular(degree=degree):
            links = nodes * degree // 2
            if not 0 < degree < nodes:
                raise ScenarioError(f"{PLACE}.degree", f"{degree} is not 1 to {nodes - 1}")
            if nodes * degree % 2:
                raise ScenarioError(
                    f"{PLACE}.degree", f"{nodes} nodes of {degree} links: one of them must be even"
                )
            if degree == 1 and nodes > 2:
                raise ScenarioError(f"{PLACE}.degree", "1 makes pairs; at least 2, better 3")
        case Geometric(radius_km=radius_km, side_km=side_km):
            share = min(1.0, math.pi * (radius_km / side_km) ** 2)
            links = int(nodes * (nodes - 1) / 2 * share)
        case Ring() | Star():
            links = nodes
        case _:
            assert_never(topology)
    _check_links(links)


def count_nodes(topology: Topology, directory: str | Path = ".") -> int:
    """Return how many nodes a graph of it has. Raises `ScenarioError` as `check` does."""
    match topology:
        case Complete() | Regular() | Geometric() | Ring() | Star():
            check(topology)
            return topology.nodes
        case _:
            nodes = len(_read(topology, directory).names)
            _check_nodes(nodes)
            return nodes


def count_parts(nodes: int, pairs: Iterable[Pair]) -> int:
    """Return how many parts there are that no pair connects."""
    leaders = list(range(nodes))

    def leader(node: int) -> int:
        while leaders[node] != node:
            leaders[node] = leaders[leaders[node]]
            node = leaders[node]
        return node

    parts = nodes
    for one, other in pairs:
        first, second = leader(one), leader(other)
        if first != second:
            leaders[second] = first
            parts -= 1
    return parts


def _check_nodes(nodes: int) -> None:
    if not 1 <= nodes <= NODES_MAX:
        raise ScenarioError(f"{PLACE}.nodes", f"{nodes} is not 1 to {NODES_MAX}")


def _check_links(links: int) -> None:
    if links > LINKS_MAX:
        raise ScenarioError(PLACE, f"about {links} links; at most {LINKS_MAX}")


def _names(nodes: int) -> tuple[str, ...]:
    return tuple(f"n{number}" for number in range(nodes))


def _drawn(topology: Complete | Regular | Ring | Star, rng: random.Random) -> list[Pair]:
    check(topology)
    nodes = topology.nodes
    match topology:
        case Complete():
            return [(one, other) for one in range(nodes) for other in range(one + 1, nodes)]
        case Ring():
            around = [(node, (node + 1) % nodes) for node in range(nodes)]
            return sorted({_ordered(one, other): None for one, other in around if one != other})
        case Star():
            return [(0, other) for other in range(1, nodes)]
        case Regular(degree=degree):
            return _regular(nodes, degree, rng)
        case _:
            assert_never(topology)


def _regular(nodes: int, degree: int, rng: random.Random) -> list[Pair]:
    """Return the links of a random graph of one piece; few come in parts but of degree 2."""
    parts = 0
    for _ in range(TRIES_MAX):
        # Sparse ones are quickly drawn: of a dense one, the links that it does not have.
        is_dense = 2 * degree > nodes - 1
        drawn = networkx.random_regular_graph(
            nodes - 1 - degree if is_dense else degree, nodes, seed=rng
        )
        graph = networkx.complement(drawn) if is_dense else drawn
        pairs = sorted(_ordered(one, other) for one, other in graph.edges)
        parts = count_parts(nodes, pairs)
        if parts == 1:
            return pairs
    raise ScenarioError(
        f"{PLACE}.degree",
        f"{degree}: {TRIES_MAX} times drawn, and in {parts} parts at last; more links do it, "
        'or kind = "ring"',
    )


def _geometric(topology: Geometric, link: Link, rng: random.Random) -> Graph:
    check(topology)
    nodes, side_km = topology.nodes, topology.side_km
    parts = 0
    for _ in range(TRIES_MAX):
        drawn = networkx.random_geometric_graph(nodes, topology.radius_km / side_km, seed=rng)
        pairs = sorted(_ordered(one, other) for one, other in drawn.edges)
        parts = count_parts(nodes, pairs)
        if parts == 1:
            places = tuple(
                (x * side_km, y * side_km) for _, (x, y) in sorted(drawn.nodes(data="pos"))
            )
            apart_km = [math.dist(places[one], places[other]) for one, other in pairs]
            return Graph(_names(nodes), _edges(pairs, apart_km, link, rng), places)
    # Penrose: of one piece with probability 1/e at pi r^2 n = ln n + 1, edges not counted.
    enough_km = side_km * math.sqrt(2 * math.log(nodes) / (math.pi * nodes))
    raise ScenarioError(
        f"{PLACE}.radius_km",
        f"{topology.radius_km:g}: {TRIES_MAX} times drawn, and in {parts} parts at last; "
        f"{enough_km:.3g} would be enough mostly",
    )


def _read(topology: Topohub | Graphml | Matrix, directory: str | Path) -> topology_files.Plan:
    match topology:
        case Topohub(name=name):
            return topology_files.read_topohub(name)
        case Graphml(path=path):
            return topology_files.read_graphml(directory, path)
        case Matrix(path=path):
            return topology_files.read_matrix(directory, path)
        case _:
            assert_never(topology)


def _measured(plan: topology_files.Plan, link: Link, rng: random.Random) -> Graph:
    """Return the graph of a file: what it knows of its links, and of the rest what is drawn."""
    _check_nodes(len(plan.names))
    _check_links(len(plan.links))
    edges = []
    for (one, other), known in sorted(plan.links.items()):
        forth_s, back_s = known.forth_s, known.back_s
        if forth_s is None:
            if back_s is not None:
                forth_s = back_s / link.backward_factor
            else:
                forth_s = draw(link.latency_s, rng) + known.apart_km / link.km_per_s
        if back_s is None:
            back_s = forth_s * link.backward_factor
        edges.append(Edge(one, other, forth_s, back_s))
    return Graph(plan.names, tuple(edges), plan.positions_km)


def _edges(
    pairs: list[Pair], apart_km: list[float], link: Link, rng: random.Random
) -> tuple[Edge, ...]:
    edges = []
    for (one, other), km in zip(pairs, apart_km, strict=True):
        forth_s = draw(link.latency_s, rng) + km / link.km_per_s
        edges.append(Edge(one, other, forth_s, forth_s * link.backward_factor))
    return tuple(edges)


def _ordered(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)
