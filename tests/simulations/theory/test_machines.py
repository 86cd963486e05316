"""Unlike workers: exact where it is exact, and the bounds are bounds."""

import heapq
import itertools
import random
from statistics import fmean

import pytest
from hypothesis import given, settings, strategies as st

from simulations.theory import machines, queues

SPEEDS = [16.0, 4.0, 1.0]


def sojourn_s(arrivals_per_s: float, speeds: list[float], jobs: int) -> float:
    """One queue; the first job goes to the free worker that is first in the list."""
    rng = random.Random(1)
    free_at_s = [0.0] * len(speeds)
    now_s, total_s, counted = 0.0, 0.0, 0
    for number in range(jobs):
        now_s += rng.expovariate(arrivals_per_s)
        start_s = max(now_s, min(free_at_s))
        worker = next(i for i, free_s in enumerate(free_at_s) if free_s <= start_s)
        free_at_s[worker] = start_s + rng.expovariate(1.0) / speeds[worker]
        if number > jobs // 10:
            total_s += free_at_s[worker] - now_s
            counted += 1
    return total_s / counted


@pytest.mark.parametrize("speeds", [SPEEDS, SPEEDS[::-1], [2.0, 2.0, 1.0]])
@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_the_chain_is_a_simulation(speeds: list[float], rho: float) -> None:
    rate = rho * sum(speeds)
    assert sojourn_s(rate, speeds, 150_000) == pytest.approx(
        machines.ordered_sojourn_s(rate, 1.0, speeds), rel=0.05
    )


@given(st.floats(0.05, 0.95), st.integers(1, 6))
def test_workers_that_are_alike_are_erlangs(rho: float, workers: int) -> None:
    rate = rho * workers
    assert machines.ordered_sojourn_s(rate, 1.0, [1.0] * workers) == pytest.approx(
        1 + queues.mmc_wait_s(rate, 1.0, workers)
    )


@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=5), st.floats(0.05, 0.95))
def test_one_worker_as_fast_as_all_is_never_beaten(speeds: list[float], rho: float) -> None:
    rate = rho * sum(speeds)
    pooled = machines.pooled_sojourn_s(rate, 1.0, speeds)
    for order in itertools.islice(itertools.permutations(speeds), 6):
        assert machines.ordered_sojourn_s(rate, 1.0, order) >= pooled * (1 - 1e-9)
    assert machines.split_sojourn_s(rate, 1.0, speeds) == pytest.approx(len(speeds) * pooled)


def test_looking_who_is_free_beats_chance() -> None:
    for rho in (0.2, 0.5, 0.9):
        rate = rho * sum(SPEEDS)
        exact = machines.ordered_sojourn_s(rate, 1.0, SPEEDS)
        assert exact < machines.split_sojourn_s(rate, 1.0, SPEEDS)
        assert exact < machines.ordered_sojourn_s(rate, 1.0, SPEEDS[::-1])


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        machines.ordered_sojourn_s(1.0, 1.0, [1.0] * 13)
    with pytest.raises(ValueError, match="more arrives"):
        machines.pooled_sojourn_s(22.0, 1.0, SPEEDS)


def makespan_s(lengths: tuple[float, ...], speeds: list[float]) -> float:
    """The best of all ways of giving out a few jobs, without interruption."""
    return min(
        max(
            sum(length for length, where in zip(lengths, places, strict=True) if where == worker)
            / speed
            for worker, speed in enumerate(speeds)
        )
        for places in itertools.product(range(len(speeds)), repeat=len(lengths))
    )


@settings(max_examples=60)
@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=5),
    st.lists(st.floats(0.5, 8), min_size=1, max_size=3),
)
def test_no_way_of_giving_out_a_batch_beats_the_bound(
    lengths: list[float], speeds: list[float]
) -> None:
    least_s = machines.makespan_least_s(lengths, speeds)
    assert makespan_s(tuple(lengths), speeds) >= least_s * (1 - 1e-9)


def test_the_bound_of_a_batch_is_reached() -> None:
    assert machines.makespan_least_s([4.0, 4.0], [2.0, 2.0]) == 2.0
    assert machines.makespan_least_s([8.0, 1.0], [4.0, 1.0]) == 2.0
    assert machines.makespan_least_s([8.0, 8.0, 0.1], [4.0, 1.0]) == pytest.approx(16.1 / 5)


def test_what_can_be_served_is_a_maximal_flow() -> None:
    capacity = {"gpu": 2.0, "plain": 3.0}
    fits = {"model": ["gpu"], "any": ["gpu", "plain"]}

    def served(model: float, anything: float) -> float:
        return machines.served_most_per_s({"model": model, "any": anything}, capacity, fits)

    assert served(1.0, 2.0) == pytest.approx(3.0)
    assert served(4.0, 1.0) == pytest.approx(3.0)  # two models, and the one
    assert served(1.0, 9.0) == pytest.approx(5.0)
    assert served(9.0, 9.0) == pytest.approx(5.0)


def test_a_few_jobs_really_served_are_no_more_than_the_flow() -> None:
    """A saturated minute with two kinds of workers: finished jobs a second against the flow."""
    rng = random.Random(3)
    free = [(0.0, "gpu")] * 2 + [(0.0, "plain")] * 3
    heapq.heapify(free)
    done, waiting = [], {"model": 4000, "any": 800}
    while free[0][0] < 1000:
        at_s, kind = heapq.heappop(free)
        job = "model" if kind == "gpu" else "any"
        if not waiting[job]:
            at_s = 1000.0
        else:
            waiting[job] -= 1
            at_s += rng.expovariate(1.0)
            done.append(at_s)
        heapq.heappush(free, (at_s, kind))
    most = machines.served_most_per_s(
        {"model": 4.0, "any": 0.8}, {"gpu": 2.0, "plain": 3.0}, {"model": ["gpu"], "any": ["plain"]}
    )
    assert len(done) / 1000 == pytest.approx(most, rel=0.05)
    assert fmean(done) > 0
