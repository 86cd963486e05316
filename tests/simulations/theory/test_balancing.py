"""Many queues: limits where nodes are many, corrections where they are few."""

import random

import pytest
from hypothesis import given, strategies as st

from simulations.theory import balancing

RHO = st.floats(0.1, 0.95)


def sojourn_s(
    policy: balancing.Policy, rho: float, nodes: int, jobs: int, stale_s: float = 1.0
) -> float:
    rng = random.Random(1)
    return balancing.played_sojourn_s(policy, rho, nodes, rng, jobs=jobs, stale_s=stale_s)


def test_any_node_is_the_simplest_queue() -> None:
    assert sojourn_s("random", 0.6, 10, 60_000) == pytest.approx(
        balancing.random_sojourn_s(0.6), rel=0.05
    )


@pytest.mark.parametrize(("rho", "nodes"), [(0.7, 10), (0.8, 10), (0.7, 20)])
def test_two_choices_among_a_few_nodes(rho: float, nodes: int) -> None:
    found = sojourn_s("two-choices", rho, nodes, 100_000)
    assert found == pytest.approx(balancing.two_choices_sojourn_s(rho, nodes), rel=0.04)


def test_the_correction_is_not_nothing_and_is_gone_for_many_nodes() -> None:
    few = balancing.two_choices_sojourn_s(0.9, 10)
    many = balancing.two_choices_sojourn_s(0.9)
    assert few > 1.1 * many
    assert balancing.two_choices_sojourn_s(0.9, 1_000_000) == pytest.approx(many, rel=1e-4)


def test_the_tail_is_that_of_the_papers() -> None:
    """Mitzenmacher 2001, table 1: an infinite system at 0.9 has a mean time of 2.6141."""
    assert balancing.two_choices_sojourn_s(0.9) == pytest.approx(2.6141, abs=1e-3)
    assert balancing.two_choices_sojourn_s(0.5) == pytest.approx(1.2658, abs=1e-3)


@given(RHO, st.integers(1, 6))
def test_the_second_choice_makes_long_queues_rare(rho: float, length: int) -> None:
    assert balancing.two_choices_at_least(rho, length) <= balancing.random_at_least(rho, length)
    assert balancing.two_choices_at_least(rho, 1) == pytest.approx(rho)


@given(RHO, st.integers(10, 40))
def test_the_more_is_known_the_shorter_it_takes(rho: float, nodes: int) -> None:
    shortest = balancing.shortest_sojourn_least_s(rho, nodes)
    assert 1 - 1e-9 <= shortest <= balancing.two_choices_sojourn_s(rho, nodes) * (1 + 1e-9)
    assert balancing.two_choices_sojourn_s(rho) <= balancing.random_sojourn_s(rho)


def test_the_shortest_queue_keeps_to_its_bound() -> None:
    found = sojourn_s("shortest", 0.8, 10, 40_000)
    assert balancing.shortest_sojourn_least_s(0.8, 10) < found
    assert found < balancing.two_choices_sojourn_s(0.8, 10)


def test_a_board_is_worth_the_less_the_older_it_is() -> None:
    fresh, *old = [sojourn_s("stale", 0.6, 10, 40_000, stale_s) for stale_s in (0.001, 2, 10, 40)]
    assert fresh == pytest.approx(sojourn_s("shortest", 0.6, 10, 40_000), rel=0.05)
    assert fresh < old[0] < old[1] < old[2]
    assert old[1] > balancing.random_sojourn_s(0.6), "and soon worth less than nothing"


def test_one_node_has_nothing_to_choose() -> None:
    for policy in ("random", "shortest", "stale"):
        found = sojourn_s(policy, 0.5, 1, 60_000)
        assert found == pytest.approx(balancing.random_sojourn_s(0.5), rel=0.05)


def test_times_scale_with_the_run() -> None:
    assert balancing.two_choices_sojourn_s(0.8, 10, 3.0) == pytest.approx(
        3 * balancing.two_choices_sojourn_s(0.8, 10)
    )
    with pytest.raises(ValueError, match="between 0 and 1"):
        balancing.two_choices_sojourn_s(1.0)
