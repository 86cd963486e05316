"""Graphs: of one piece, the same for a seed, with the latencies that were asked for."""

import math
import random

import pytest
from hypothesis import given, settings, strategies as st

from simulations import topology
from simulations.distributions import Lognormal, Uniform
from simulations.errors import ScenarioError
from simulations.scenario import (
    Complete,
    Geometric,
    Link,
    Regular,
    Ring,
    Star,
    Topohub,
    Topology,
)
from simulations.topology import Edge, Graph, build


def made(kind: Topology, link: Link | None = None, seed: int = 1) -> Graph:
    return build(kind, link or Link(), random.Random(seed))


def pairs(graph: Graph) -> list[tuple[int, int]]:
    return [(edge.one, edge.other) for edge in graph.edges]


def degrees(graph: Graph) -> list[int]:
    return [len(graph.neighbours(node)) for node in range(graph.size)]


@pytest.mark.parametrize("nodes", [1, 2, 3, 10])
def test_complete_ring_and_star_have_the_links_that_they_are_named_for(nodes: int) -> None:
    assert len(made(Complete(nodes=nodes)).edges) == nodes * (nodes - 1) // 2
    assert len(made(Ring(nodes=nodes)).edges) == (nodes if nodes > 2 else nodes - 1)
    assert pairs(made(Star(nodes=nodes))) == [(0, other) for other in range(1, nodes)]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 40), st.integers(0, 1000))
def test_each_node_of_a_regular_one_has_its_degree(data, nodes: int, seed: int) -> None:
    degree = data.draw(
        st.integers(1, nodes - 1).filter(
            lambda degree: nodes * degree % 2 == 0 and (degree > 2 or degree == nodes - 1)
        )
    )
    graph = made(Regular(nodes=nodes, degree=degree), seed=seed)
    assert degrees(graph) == [degree] * nodes
    assert topology.count_parts(nodes, pairs(graph)) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000))
def test_nodes_of_a_geometric_one_are_linked_if_they_are_near(nodes: int, seed: int) -> None:
    link = Link(latency_s=0.001, km_per_s=100_000)
    graph = made(Geometric(nodes=nodes, radius_km=70, side_km=100), link, seed)
    assert graph.positions_km is not None
    for one in range(nodes):
        for other in range(one + 1, nodes):
            km = math.dist(graph.positions_km[one], graph.positions_km[other])
            assert (other in graph.ways_s[one]) == (km <= 70)
            if km <= 70:
                assert graph.ways_s[one][other] == pytest.approx(0.001 + km / 100_000)
    assert all(0 <= place <= 100 for places in graph.positions_km for place in places)


@pytest.mark.parametrize(
    "kind",
    [
        Regular(nodes=30, degree=4),
        Geometric(nodes=30, radius_km=500),
        Topohub(name="topozoo/Abilene"),
        Star(nodes=9),
    ],
)
def test_a_graph_follows_from_its_seed(kind: Topology) -> None:
    link = Link(latency_s=Lognormal(median=0.02, sigma=0.5))
    assert made(kind, link, 5) == made(kind, link, 5)
    assert made(kind, link, 5) != made(kind, link, 6)


def test_the_way_back_is_so_many_times_as_long() -> None:
    link = Link(latency_s=Uniform(low=0.01, high=0.03), backward_factor=3)
    graph = made(Ring(nodes=20), link)
    assert all(edge.back_s == pytest.approx(3 * edge.forth_s) for edge in graph.edges)
    assert len({edge.forth_s for edge in graph.edges}) == 20  # drawn for each link


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Complete(nodes=0), "topology.nodes: 0 is not 1 to 20000"),
        (Complete(nodes=20_001), "20001 is not 1 to"),
        (Complete(nodes=10_000), "about 49995000 links; at most 1000000"),
        (Regular(nodes=5, degree=3), "5 nodes of 3 links: one of them must be even"),
        (Regular(nodes=5, degree=5), "topology.degree: 5 is not 1 to 4"),
        (Regular(nodes=5, degree=0), "topology.degree: 0 is not 1 to 4"),
        (Regular(nodes=6, degree=1), "1 makes pairs"),
        (Geometric(nodes=50, radius_km=1), "radius_km: 1: .* parts at last; .* enough mostly"),
        (Topohub(name="topozo/abilene"), "no network 'topozo/abilene'; near it: .*/Abilene"),
        (Topohub(name="../../secret"), "no network"),
    ],
)
def test_what_no_graph_can_be_is_refused_with_its_place(kind: Topology, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        made(kind)


def test_one_that_comes_in_parts_is_drawn_again_and_at_last_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cycles = Regular(nodes=200, degree=2)
    made(cycles)
    monkeypatch.setattr(topology, "TRIES_MAX", 1)
    with pytest.raises(ScenarioError, match=r"in [0-9]+ parts at last; more links do it"):
        made(cycles)


def test_what_a_geometric_one_is_told_to_be_enough_is() -> None:
    with pytest.raises(ScenarioError) as caught:
        made(Geometric(nodes=200, radius_km=10))
    enough_km = float(caught.value.what.split("; ")[1].split()[0])
    made(Geometric(nodes=200, radius_km=enough_km))


def test_the_shortest_way_may_lead_over_others_and_differ_by_direction() -> None:
    graph = Graph(
        names=("a", "b", "c"),
        edges=(Edge(0, 1, 1.0, 5.0), Edge(0, 2, 4.0, 1.0), Edge(1, 2, 2.0, 1.0)),
    )
    assert graph.distances_s(0) == [0.0, 1.0, 3.0]
    assert graph.distances_s(1) == [3.0, 0.0, 2.0]
    assert graph.distances_s(2) == [1.0, 1.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 30), st.integers(0, 99))
def test_no_link_shortens_a_shortest_way(nodes: int, seed: int) -> None:
    graph = made(Regular(nodes=nodes, degree=3 if nodes % 2 == 0 else 4), seed=seed)
    for source in range(nodes):
        found = graph.distances_s(source)
        assert all(
            found[there] <= found[here] + way_s
            for here in range(nodes)
            for there, way_s in graph.ways_s[here].items()
        )


def test_parts_are_counted() -> None:
    assert topology.count_parts(5, [(0, 1), (1, 2), (0, 2)]) == 3
    assert topology.count_parts(1, []) == 1


def test_a_real_network_has_its_names_places_and_distances() -> None:
    graph = made(Topohub(name="topozoo/Abilene"), Link(latency_s=0.001))
    assert graph.size == 11
    assert len(graph.edges) == 14
    new_york, chicago = graph.names.index("New York"), graph.names.index("Chicago")
    km = (graph.ways_s[new_york][chicago] - 0.001) * 200_000
    assert 1100 < km < 1200  # great circle: 1145
    assert graph.positions_km is not None
    apart_km = math.dist(graph.positions_km[new_york], graph.positions_km[chicago])
    assert apart_km == pytest.approx(km, rel=0.05)


@pytest.mark.parametrize("name", ["backbone/africa", "caida/2024-08/1103", "gabriel/25/0"])
def test_nodes_of_one_name_are_told_apart(name: str) -> None:
    graph = made(Topohub(name=name))
    assert len(set(graph.names)) == graph.size
