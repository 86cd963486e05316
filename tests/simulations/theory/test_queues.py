"""Queues against textbook numbers, integrals, and a queue simulated the long way."""

import heapq
import math
import random
from statistics import fmean

import pytest
from hypothesis import given, strategies as st
from scipy import integrate

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
from simulations.theory import calls, queues

MIX = Hyperexponential(mean_short=0.5, mean_long=3.0, share_long=0.2)
ALL: list[Distribution] = [
    2.0,
    Uniform(low=1.0, high=3.0),
    Exponential(mean=2.0),
    MIX,
    Lognormal(median=1.0, sigma=0.5),
    Pareto(minimum=1.0, shape=5.0),
]


def waits(
    run: Distribution, arrivals_per_s: float, workers: int, jobs: int, seed: int = 1
) -> list[float]:
    """First come first served, from an empty queue; the first tenth is dropped."""
    rng = random.Random(seed)
    free_at_s = [0.0] * workers
    now_s, found = 0.0, []
    for _ in range(jobs):
        now_s += rng.expovariate(arrivals_per_s)
        start_s = max(now_s, heapq.heappop(free_at_s))
        heapq.heappush(free_at_s, start_s + draw(run, rng))
        found.append(start_s - now_s)
    return found[jobs // 10 :]


@pytest.mark.parametrize(
    ("offered", "workers", "blocked"),
    [(2.0, 5, 0.0367), (1.0, 1, 0.5), (10.0, 10, 0.2146), (0.0, 3, 0.0)],
)
def test_erlang_b_is_the_tables(offered: float, workers: int, blocked: float) -> None:
    assert queues.erlang_b(offered, workers) == pytest.approx(blocked, abs=5e-5)


@pytest.mark.parametrize(
    ("offered", "workers", "waits"), [(2.0, 3, 0.4444), (3.2, 4, 0.5964), (14.4, 16, 0.5913)]
)
def test_erlang_c_is_the_tables(offered: float, workers: int, waits: float) -> None:
    assert queues.erlang_c(offered, workers) == pytest.approx(waits, abs=5e-5)


@given(st.floats(0.01, 0.99))
def test_one_worker_is_the_simplest_queue(rho: float) -> None:
    assert queues.erlang_c(rho, 1) == pytest.approx(rho)
    assert queues.mmc_wait_s(rho, 1.0, 1) == pytest.approx(rho / (1 - rho))
    assert queues.mg1_wait_s(rho, Exponential(mean=1.0)) == pytest.approx(rho / (1 - rho))
    assert queues.mg1_wait_s(rho, 1.0) == pytest.approx(rho / (1 - rho) / 2)


@pytest.mark.parametrize(("workers", "rho"), [(1, 0.5), (4, 0.8), (8, 0.7)])
def test_waits_for_several_workers_are_those_of_a_simulation(workers: int, rho: float) -> None:
    found = waits(Exponential(mean=2.0), rho * workers / 2, workers, 200_000)
    theory = queues.mmc_wait_s(rho * workers / 2, 2.0, workers)
    assert fmean(found) == pytest.approx(theory, rel=0.06)
    longer = fmean(wait > 1.5 for wait in found)
    assert longer == pytest.approx(
        queues.mmc_waits_longer(rho * workers / 2, 2.0, workers, 1.5), abs=0.015
    )


@pytest.mark.parametrize("run", [2.0, MIX, Uniform(low=0.0, high=2.0)])
def test_waits_for_one_worker_are_those_of_a_simulation(run: Distribution) -> None:
    rate = 0.6 / mean(run)
    assert fmean(waits(run, rate, 1, 200_000)) == pytest.approx(
        queues.mg1_wait_s(rate, run), rel=0.06
    )


def test_the_approximation_is_exact_where_it_should_be_and_near_elsewhere() -> None:
    for run in (MIX, 2.0):
        one = queues.mgc_wait_about_s(0.4, run, 1)
        assert one == pytest.approx(queues.mg1_wait_s(0.4, run))
    memoryless = Exponential(mean=1.0)
    assert queues.mgc_wait_about_s(3.0, memoryless, 4) == queues.mmc_wait_s(3.0, 1.0, 4)
    rate = 0.7 * 4 / mean(MIX)
    assert fmean(waits(MIX, rate, 4, 200_000)) == pytest.approx(
        queues.mgc_wait_about_s(rate, MIX, 4), rel=0.2
    )


@pytest.mark.parametrize("distribution", ALL, ids=str)
def test_moments_and_tails_are_those_of_what_is_drawn(distribution: Distribution) -> None:
    rng = random.Random(2)
    values = [draw(distribution, rng) for _ in range(100_000)]
    assert fmean(values) == pytest.approx(mean(distribution), rel=0.02)
    assert fmean(value * value for value in values) == pytest.approx(
        queues.second_moment(distribution), rel=0.05
    )
    assert fmean(value > 1.7 for value in values) == pytest.approx(
        queues.longer_than(distribution, 1.7), abs=0.01
    )


def test_a_heavy_tail_has_no_second_moment() -> None:
    assert queues.second_moment(Pareto(minimum=1.0, shape=1.9)) == math.inf


def test_a_tail_is_the_integral_of_a_transform_of_it() -> None:
    """E[exp(-t X)] = 1 - t * integral of exp(-t x) P(X > x), for what both modules know."""
    for run in (Exponential(mean=2.0), MIX, Uniform(low=1.0, high=3.0)):

        def falling(x: float, run: Distribution = run) -> float:
            return math.exp(-0.4 * x) * queues.longer_than(run, x)

        whole, _ = integrate.quad(falling, 0, 200, limit=400, points=[1.0, 3.0])
        assert 1 - 0.4 * whole == pytest.approx(calls.transform(run, 0.4), abs=1e-6)


@pytest.mark.parametrize("rho", [1.0, 1.2])
def test_a_queue_that_grows_without_end_has_no_mean(rho: float) -> None:
    with pytest.raises(ValueError, match="more arrives"):
        queues.mg1_wait_s(rho, 1.0)
    with pytest.raises(ValueError, match="more arrives"):
        queues.mmc_wait_s(4 * rho, 1.0, 4)


def test_little() -> None:
    assert queues.at_a_time(5.0, 0.2) == 1.0
