"""Distances against another algorithm, counts against a simulation."""

import heapq
import random
from statistics import fmean

import networkx
import pytest
from hypothesis import given, strategies as st

from simulations.theory import spreading

Links = list[tuple[int, int, float]]


def mesh(nodes: int, degree: int, seed: int) -> Links:
    graph = networkx.random_regular_graph(degree, nodes, seed=seed)
    rng = random.Random(seed)
    return [
        (source, target, rng.uniform(0.01, 0.1))
        for one, other in graph.edges
        for source, target in ((one, other), (other, one))
    ]


def flood(links: Links, source: int) -> tuple[float, int]:
    """All pass a message on at once to all but whom they had it from: last arrival, and copies."""
    out: dict[int, list[tuple[int, float]]] = {}
    for one, other, latency_s in links:
        out.setdefault(one, []).append((other, latency_s))
    has: dict[int, float] = {source: 0.0}
    heap = [(latency_s, target, source) for target, latency_s in out[source]]
    heapq.heapify(heap)
    copies = 0
    while heap:
        at_s, node, sender = heapq.heappop(heap)
        copies += 1
        if node in has:
            continue
        has[node] = at_s
        for target, latency_s in out[node]:
            if target != sender:
                heapq.heappush(heap, (at_s + latency_s, target, node))
    return max(has.values()), copies


@pytest.mark.parametrize("seed", range(5))
def test_flooding_takes_the_eccentricity_and_so_many_copies(seed: int) -> None:
    links = mesh(60, 6, seed)
    last_s, copies = flood(links, 3)
    assert spreading.eccentricity_s(links, 3) == pytest.approx(last_s)
    assert copies / 59 == pytest.approx(spreading.copies_received(60, 6))


@pytest.mark.parametrize("seed", range(5))
def test_the_eccentricity_is_that_of_all_pairs_the_other_way(seed: int) -> None:
    links = mesh(20, 4, seed)
    far = [[0.0 if i == j else float("inf") for j in range(20)] for i in range(20)]
    for one, other, latency_s in links:
        far[one][other] = latency_s
    for middle in range(20):
        for i in range(20):
            for j in range(20):
                far[i][j] = min(far[i][j], far[i][middle] + far[middle][j])
    for source in range(20):
        assert spreading.eccentricity_s(links, source) == pytest.approx(max(far[source]))


def test_directions_count() -> None:
    links = [(0, 1, 1.0), (1, 0, 5.0)]
    assert spreading.eccentricity_s(links, 0) == 1.0
    assert spreading.eccentricity_s(links, 1) == 5.0


def test_a_node_that_cannot_be_reached_is_an_error() -> None:
    with pytest.raises(ValueError, match="not reached"):
        spreading.eccentricity_s([(0, 1, 1.0), (2, 0, 1.0)], 0)


@given(st.integers(10, 60), st.integers(3, 6), st.integers(0, 5))
def test_no_graph_has_fewer_hops_than_the_bound(nodes: int, degree: int, seed: int) -> None:
    nodes += nodes * degree % 2
    graph = networkx.random_regular_graph(degree, nodes, seed=seed)
    if networkx.is_connected(graph):
        assert networkx.radius(graph) >= spreading.hops_least(nodes, degree)


def test_the_bound_is_reached_by_petersens_graph() -> None:
    assert spreading.hops_least(10, 3) == networkx.radius(networkx.petersen_graph()) == 2
    with pytest.raises(ValueError, match="below 2"):
        spreading.hops_least(5, 1)


def test_when_all_who_were_away_have_been_back() -> None:
    rng = random.Random(1)
    away = 5 / 35
    found = [
        max(rng.expovariate(1 / 5) if rng.random() < away else 0.0 for _ in range(40))
        for _ in range(20_000)
    ]
    assert fmean(found) == pytest.approx(spreading.all_back_s(40, 30, 5), rel=0.02)


def test_the_first_of_many_clocks() -> None:
    rng = random.Random(2)
    found = [min(rng.uniform(0, 30) for _ in range(9)) for _ in range(20_000)]
    assert fmean(found) == pytest.approx(spreading.first_of_phases_s(30, 9), rel=0.03)


def test_healing_takes_at_most_the_sum_of_its_parts() -> None:
    assert spreading.heal_most_s(5.0, 30.0, 0.1, 4) == pytest.approx(35.9)
