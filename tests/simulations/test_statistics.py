"""Intervals hold what they say they hold, and a verdict can be no."""

import math
import random
from statistics import NormalDist

import numpy
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from simulations.statistics import (
    Interval,
    always_at_least,
    always_at_most,
    at_least,
    at_most,
    equals,
    jain_index,
    quantile,
    quantile_interval,
    t_interval,
    warm_up_length,
)

NUMBERS = st.floats(-1e6, 1e6)


def test_an_interval_is_that_of_a_textbook() -> None:
    """Student 1908: the extra hours of sleep by the second drug; 95 % is 0.70 to 3.96 or so."""
    hours = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = t_interval(hours, 0.95)
    low, high = stats.t.interval(0.95, 9, loc=numpy.mean(hours), scale=stats.sem(hours))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.mean == pytest.approx(2.33)
    assert found.replications == 10


@pytest.mark.parametrize(("confidence", "skewed"), [(0.99, False), (0.9, False), (0.99, True)])
def test_an_interval_holds_the_true_mean_as_often_as_it_says(
    confidence: float, skewed: bool
) -> None:
    """3000 experiments of 20 replications, each the mean of 50 draws."""
    rng = numpy.random.default_rng(7)
    trials, shape = 3000, (3000, 20, 50)
    drawn = rng.exponential(1.0, shape) if skewed else rng.normal(1.0, 3.0, shape)
    held = 0
    for values in drawn.mean(axis=2).tolist():
        found = t_interval(values, confidence)
        held += found.low <= 1.0 <= found.high
    # Four standard errors of a binomial share; the skewed means are a little less than normal.
    slack = 4 * math.sqrt(confidence * (1 - confidence) / trials) + (0.008 if skewed else 0)
    assert held / trials == pytest.approx(confidence, abs=slack)


def test_one_value_says_nothing_of_its_error() -> None:
    assert t_interval([3.0]) == Interval(3.0, -math.inf, math.inf)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_what_is_no_sample_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no values|not finite"):
        t_interval(values)


@settings(max_examples=50)
@given(st.lists(NUMBERS, min_size=1, max_size=12), st.floats(0, 1))
def test_a_quantile_is_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(
        float(numpy.quantile(values, share)), rel=1e-9, abs=1e-6
    )


def test_a_quantile_of_many_runs_is_that_of_the_distribution() -> None:
    rng = random.Random(3)
    runs = [[rng.gauss(0, 1) for _ in range(1000)] for _ in range(20)]
    found = quantile_interval(runs, 0.95)
    assert found.low <= NormalDist().inv_cdf(0.95) <= found.high
    assert found.half_width < 0.1


def test_a_quantile_needs_values_and_a_share() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match="not a share"):
        quantile([1.0], 50)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_the_fairness_index_is_between_one_share_and_one(values: list[float]) -> None:
    assert 1 / len(values) - 1e-9 <= jain_index(values) <= 1 + 1e-9


def test_the_fairness_index_of_extremes() -> None:
    assert jain_index([4.0, 4.0, 4.0]) == pytest.approx(1)
    assert jain_index([9.0, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert jain_index([0.0, 0.0]) == 1


def test_what_is_not_yet_as_it_will_stay_is_dropped() -> None:
    rng = random.Random(5)
    steady = [rng.gauss(10, 1) for _ in range(500)]
    rising = [i / 10 + rng.gauss(0, 1) for i in range(100)]
    assert 50 <= warm_up_length(rising + steady) <= 120
    assert warm_up_length(steady) <= 100
    assert warm_up_length([1.0] * 100) == 0
    assert warm_up_length([]) == 0


def test_a_run_that_never_settles_is_cut_in_half_at_most() -> None:
    assert warm_up_length([float(i) for i in range(1000)]) <= 500


def sample(mean: float, seed: int = 1) -> Interval:
    rng = random.Random(seed)
    return t_interval([rng.gauss(mean, 0.02 * mean) for _ in range(20)])


def test_a_true_theory_passes() -> None:
    assert equals(sample(5.0), 5.0).passed


@pytest.mark.parametrize("theory", [4.0, 4.8, 5.2, 6.0, 0.0, -5.0])
def test_a_wrong_theory_is_refused(theory: float) -> None:
    verdict = equals(sample(5.0), theory)
    assert not verdict.passed
    assert "outside the interval" in verdict.reason


def test_a_wide_interval_does_not_excuse_a_large_error() -> None:
    verdict = equals(Interval(1.2, 0.5, 1.9, 20), 1.0)
    assert not verdict.passed
    assert verdict.reason == "inside the interval, off by 20.0 %, too far"


def test_a_narrow_interval_refuses_what_is_only_near() -> None:
    assert not equals(Interval(1.02, 1.01, 1.03, 20), 1.0).passed


def test_a_share_near_nought_is_judged_by_its_distance() -> None:
    measured = Interval(0.004, 0.0, 0.008, 20)
    assert not equals(measured, 0.0067).passed
    assert equals(measured, 0.0067, absolute_max=0.01).passed
    assert not equals(Interval(0.05, 0.04, 0.06, 20), 0.0067, absolute_max=0.01).passed


def test_where_all_replications_agree_nearness_is_all_that_is_asked() -> None:
    everything = t_interval([1.0] * 20)
    assert equals(everything, 0.9999, absolute_max=0.01).passed
    assert not equals(everything, 0.9999).passed
    assert not equals(everything, 0.97, absolute_max=0.01).passed
    assert equals(everything, 1.0).passed


def test_a_bound_holds_for_the_whole_interval_or_not_at_all() -> None:
    measured = Interval(1.0, 0.9, 1.1, 20)
    assert at_least(measured, 0.8).passed
    assert not at_least(measured, 0.95).passed
    assert not at_least(measured, 1.2).passed
    assert at_most(measured, 1.2).passed
    assert not at_most(measured, 1.05).passed


def test_a_bound_of_each_run_is_not_one_of_their_mean() -> None:
    assert always_at_least([1.0, 5.0, 9.0], 1.0).passed
    assert not always_at_least([0.9, 5.0, 9.0], 1.0).passed
    assert always_at_most([1.0, 5.0, 9.0], 9.0).passed
    assert not always_at_most([1.0, 5.0, 9.1], 9.0).passed


def test_a_bound_that_is_met_exactly_holds() -> None:
    assert at_least(t_interval([1.0] * 20), 1.0).passed
    assert at_most(t_interval([0.1 + 0.2] * 20), 0.3).passed
