"""Copies that reads make, counted."""

import random
from statistics import fmean

import pytest
from hypothesis import given, strategies as st

from simulations.theory import copies


def fetched(rng: random.Random, nodes: int, reads: int) -> int:
    """Node 0 has it; each reader that has not fetches it."""
    return len({rng.randrange(nodes) for _ in range(reads)} - {0})


def test_reads_at_random_nodes_make_as_many_copies_as_counted() -> None:
    rng = random.Random(1)
    found = fmean(fetched(rng, 10, 12) for _ in range(20_000))
    assert found == pytest.approx(copies.fetched_copies(10, 12), rel=0.01)


def test_so_do_reads_that_arrive_by_chance() -> None:
    rng = random.Random(2)
    found = []
    for _ in range(20_000):
        reads, at = 0, rng.expovariate(1.0)
        while at < 12:
            reads, at = reads + 1, at + rng.expovariate(1.0)
        found.append(fetched(rng, 10, reads))
    assert fmean(found) == pytest.approx(copies.fetched_copies_poisson(10, 12), rel=0.01)


@given(st.integers(2, 50), st.integers(1, 30), st.floats(0, 500), st.floats(0, 2))
def test_fetching_never_costs_more_than_copying_everywhere(
    nodes: int, things: int, reads: float, exponent: float
) -> None:
    demand = copies.demand_bytes(nodes, things, reads, 100.0, exponent)
    assert 0 <= demand <= copies.everywhere_bytes(nodes, things, 100.0) * (1 + 1e-9)


@given(st.integers(2, 50), st.floats(0.1, 100))
def test_what_all_ask_for_needs_fewer_copies_than_what_is_spread(nodes: int, reads: float) -> None:
    popular = copies.demand_bytes(nodes, 20, reads, 1.0, 1.2)
    assert popular <= copies.demand_bytes(nodes, 20, reads, 1.0) * (1 + 1e-9)


@given(st.integers(1, 100), st.floats(0, 3))
def test_popularity_falls_and_is_shared_out(things: int, exponent: float) -> None:
    shares = copies.popularity(things, exponent)
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] / shares[-1] == pytest.approx(things**exponent)


def test_a_first_read_waits_for_the_way_and_the_bytes() -> None:
    assert copies.first_read_s(0.05, 1_000_000, 2_000_000) == pytest.approx(0.6)
    assert copies.first_read_s(0.05, 1_000_000, None) == pytest.approx(0.1)
    assert copies.first_read_s(0.05, 1_000_000, 2e6, round_trips=2) == pytest.approx(0.7)


def test_more_copies_are_there_more_often() -> None:
    assert copies.available(0.9, 1) == pytest.approx(0.9)
    assert copies.available(0.9, 3) == pytest.approx(0.999)
