"""How news gets around a mesh, and how two halves find together.

A message that every node passes on at once to all its neighbours arrives everywhere on the fastest
way there is: no protocol beats the *eccentricity* of its source (the longest of all shortest ways,
Dijkstra 1959), nor fewer hops than a tree of that degree needs (Moore's bound).  Where every node
has passed it on to all but whom it had it from, each has received about D - 1 copies.

Nodes that are away hear of it when they come back.  After a partition somebody has to reconnect,
and that takes as long as it takes; then news has the distance to go.
"""

import math
from collections.abc import Iterable

import networkx


def eccentricity_s(links: Iterable[tuple[int, int, float]], source: int) -> float:
    """Return the least time after which all have a message of `source`: a lower bound.

    `links` are directed: from, to, and the seconds from one to the other.  Raises `ValueError` if
    some node of them is not reached.
    """
    graph = networkx.DiGraph()
    graph.add_node(source)
    graph.add_weighted_edges_from(links)
    ways: dict[int, float] = networkx.single_source_dijkstra_path_length(graph, source)
    if len(ways) < len(graph):
        raise ValueError("some nodes are not reached")
    return max(ways.values())


def hops_least(nodes: int, degree: int) -> int:
    """Return how many hops some node is away at least (Moore's bound)."""
    if degree < 2:
        raise ValueError("a degree below 2 connects two nodes at most")
    reached, ring, hops = 1, degree, 0
    while reached < nodes:
        reached += ring
        ring *= degree - 1
        hops += 1
    return hops


def copies_received(nodes: int, degree: float) -> float:
    """Return how many copies each node that is told receives, if all pass it on to all others.

    The source sends `degree`, the others all but one: N (D - 1) + 1, to N - 1 nodes.
    """
    return (nodes * (degree - 1) + 1) / (nodes - 1)


def all_back_s(nodes: int, up_s: float, down_s: float) -> float:
    """Return after how long all nodes that were away once have been back, on average.

    Each is away with probability q = D / (U + D), for an exponential time with mean D longer; the
    mean of the longest is D times the sum of (1 - (1 - q)^k) / k for k up to N.
    """
    present = up_s / (up_s + down_s)
    return down_s * math.fsum((1 - present**count) / count for count in range(1, nodes + 1))


def heal_most_s(redial_s: float, interval_s: float, eccentricity: float, rounds: int) -> float:
    """Return the time after which both halves are surely one.

    Args:
        redial_s: Longest pause before the next dial.
        interval_s: Longest pause before the next reconciliation, if connecting starts none.
        eccentricity: Seconds from a node to the farthest.
        rounds: Round trips of a reconciliation.
    """
    return redial_s + interval_s + (2 * rounds + 1) * eccentricity


def first_of_phases_s(interval_s: float, nodes: int) -> float:
    """Return how long until the first of so many clocks with this interval strikes.

    Their phases are uniform and independent: the least of them is interval / (nodes + 1) away.
    """
    return interval_s / (nodes + 1)
