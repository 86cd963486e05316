"""Distributions: what is drawn is distributed as its name says, and has the mean that is told."""

import random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from simulations.distributions import (
    Distribution,
    Exponential,
    Hyperexponential,
    Lognormal,
    Pareto,
    Uniform,
    draw,
    mean,
)


def sample(distribution: Distribution, count: int = 4000, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [draw(distribution, rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("distribution", "name", "arguments"),
    [
        (Uniform(low=2, high=5), "uniform", (2, 3)),
        (Exponential(mean=3), "expon", (0, 3)),
        (Lognormal(median=0.02, sigma=0.7), "lognorm", (0.7, 0, 0.02)),
        (Pareto(minimum=2, shape=2.5), "pareto", (2.5, 0, 2)),
    ],
)
def test_what_is_drawn_is_distributed_as_its_name_says(
    distribution: Distribution, name: str, arguments: tuple[float, ...]
) -> None:
    assert stats.kstest(sample(distribution), name, args=arguments).pvalue > 0.01


def test_a_mix_has_as_many_long_ones_as_it_says() -> None:
    drawn = sample(Hyperexponential(mean_short=0.2, mean_long=60, share_long=0.05), 40_000)

    def share_below(x: float) -> float:
        short, long = stats.expon.cdf(x, scale=0.2), stats.expon.cdf(x, scale=60)
        return 0.95 * float(short) + 0.05 * float(long)

    for x in (0.1, 0.5, 2, 30, 100):
        assert sum(value < x for value in drawn) / 40_000 == pytest.approx(share_below(x), abs=0.01)


@pytest.mark.parametrize(
    "distribution",
    [
        2.5,
        3,
        0.0,
        Uniform(low=1, high=4),
        Exponential(mean=0.2),
        Lognormal(median=2, sigma=0.5),
        Pareto(minimum=1, shape=3),
        Hyperexponential(mean_short=0.2, mean_long=6, share_long=0.3),
    ],
)
def test_the_mean_is_that_of_what_is_drawn(distribution: Distribution) -> None:
    drawn = sample(distribution, 40_000)
    assert sum(drawn) / len(drawn) == pytest.approx(mean(distribution), rel=0.03)


def test_a_pareto_of_a_heavy_tail_has_no_mean() -> None:
    assert mean(Pareto(minimum=1, shape=1)) == float("inf")


@pytest.mark.parametrize("kind", [Lognormal, Pareto])
def test_nothing_is_above_a_maximum(kind: type[Any]) -> None:
    least = {"median": 1.0, "sigma": 2.0} if kind is Lognormal else {"minimum": 1.0, "shape": 0.5}
    drawn = sample(kind(**least, maximum=3.0))
    assert max(drawn) == 3.0
    assert min(drawn) < 2.0


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            Uniform(low=0, high=0),
            Exponential(mean=1e-300),
            Lognormal(median=1e-9, sigma=10),
            Pareto(minimum=1e-9, shape=0.1),
            Hyperexponential(mean_short=1, mean_long=1e9, share_long=1),
        ]
    ),
    st.integers(0, 1000),
)
def test_nothing_is_negative_and_everything_is_a_number(
    distribution: Distribution, seed: int
) -> None:
    assert 0 <= draw(distribution, random.Random(seed)) < float("inf")
