"""Formulas of broken runs against a small simulation, an integral, and one another."""

import math
import random
from statistics import fmean

import pytest
from hypothesis import given, strategies as st
from scipy import integrate

from simulations.distributions import Exponential, Hyperexponential, Lognormal, Uniform, draw
from simulations.statistics import t_interval
from simulations.theory import calls

RUN_S, UP_S, DOWN_S = 40.0, 60.0, 5.0
TIMES = st.floats(0.01, 100)


class Caller:
    """Is up at 0, and then away and up by turns, for exponential times."""

    def __init__(self, rng: random.Random, up_s: float = UP_S, down_s: float = DOWN_S) -> None:
        self.rng, self.up_s, self.down_s = rng, up_s, down_s

    def tries(self, run_s: float) -> tuple[int, float, float]:
        """Begin anew until it ends: how often, when, and how much work that was."""
        count, at_s, worked_s = 1, 0.0, 0.0
        while (up_s := self.rng.expovariate(1 / self.up_s)) < run_s:
            at_s += up_s + self.rng.expovariate(1 / self.down_s)
            worked_s += up_s
            count += 1
        return count, at_s + run_s, worked_s + run_s

    def presence(self, run_s: float) -> tuple[float, float]:
        """Return for how much of the run it is there, and how long after its end it is back."""
        at_s, present_s, up = 0.0, 0.0, True
        while True:
            span_s = self.rng.expovariate(1 / (self.up_s if up else self.down_s))
            if up:
                present_s += min(span_s, run_s - at_s)
            if at_s + span_s >= run_s:
                return present_s, 0.0 if up else at_s + span_s - run_s
            at_s, up = at_s + span_s, not up


@pytest.fixture(scope="module")
def runs() -> list[tuple[int, float, float]]:
    caller = Caller(random.Random(1))
    return [caller.tries(RUN_S) for _ in range(40_000)]


@pytest.fixture(scope="module")
def presences() -> list[tuple[float, float]]:
    caller = Caller(random.Random(2), 30.0, 20.0)
    return [caller.presence(RUN_S) for _ in range(40_000)]


def test_a_run_is_unbroken_as_often_as_in_a_simulation(
    runs: list[tuple[int, float, float]],
) -> None:
    share = fmean(count == 1 for count, _, _ in runs)
    assert share == pytest.approx(calls.unbroken(RUN_S, UP_S), abs=0.01)


def test_tries_and_time_and_work_of_a_run_begun_anew(runs: list[tuple[int, float, float]]) -> None:
    counts, total_s, worked_s = zip(*runs, strict=True)
    assert fmean(counts) == pytest.approx(calls.tries(RUN_S, UP_S), rel=0.02)
    assert fmean(total_s) == pytest.approx(calls.retry_total_s(RUN_S, UP_S, DOWN_S), rel=0.02)
    wasted = 1 - RUN_S * len(runs) / sum(worked_s)
    assert wasted == pytest.approx(calls.retry_wasted_share(RUN_S, UP_S), abs=0.01)


def test_the_example_of_a_long_job_on_a_bad_line() -> None:
    """300 s with breaks after 60 s and 5 s each: 65 x 147.4 s, by hand."""
    assert calls.retry_total_s(300, 60, 5) == pytest.approx(9582, abs=1)


def test_work_that_nobody_begins_anew() -> None:
    rng = random.Random(3)
    worked = wasted = 0.0
    for _ in range(40_000):
        up_s = rng.expovariate(1 / UP_S)
        worked += min(up_s, RUN_S)
        wasted += up_s if up_s < RUN_S else 0.0
    assert worked / 40_000 == pytest.approx(calls.held_s(RUN_S, UP_S), rel=0.02)
    assert wasted / worked == pytest.approx(calls.wasted_share(RUN_S, UP_S), abs=0.01)


def test_who_is_away_when_a_run_ends(presences: list[tuple[float, float]]) -> None:
    present_s, late_s = zip(*presences, strict=True)
    assert fmean(late > 0 for late in late_s) == pytest.approx(calls.away(RUN_S, 30, 20), abs=0.01)
    assert fmean(late_s) == pytest.approx(calls.away_s(RUN_S, 30, 20), rel=0.03)
    assert fmean(present_s) == pytest.approx(calls.present_s(RUN_S, 30, 20), rel=0.01)


def test_presence_is_the_integral_of_not_being_away() -> None:
    whole, _ = integrate.quad(lambda s: 1 - calls.away(s, 30, 20), 0, RUN_S)
    assert calls.present_s(RUN_S, 30, 20) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("distribution", "density", "end"),
    [
        (Exponential(mean=3.0), lambda x: math.exp(-x / 3) / 3, math.inf),
        (Uniform(low=1.0, high=4.0), lambda x: 1 / 3 if 1 <= x <= 4 else 0.0, 4.0),
        (
            Hyperexponential(mean_short=0.5, mean_long=6.0, share_long=0.2),
            lambda x: 0.2 * math.exp(-x / 6) / 6 + 0.8 * math.exp(-x / 0.5) / 0.5,
            math.inf,
        ),
    ],
)
def test_a_transform_is_the_integral_that_defines_it(distribution, density, end) -> None:
    start = distribution.low if isinstance(distribution, Uniform) else 0.0
    whole, _ = integrate.quad(lambda x: math.exp(-0.3 * x) * density(x), start, end)
    assert calls.transform(distribution, 0.3) == pytest.approx(whole, rel=1e-6)


def test_a_transform_without_a_closed_form_is_refused() -> None:
    with pytest.raises(ValueError, match="no closed form"):
        calls.transform(Lognormal(median=1.0, sigma=1.0), 0.3)


@given(TIMES)
def test_a_uniform_of_no_width_is_a_constant(at_s: float) -> None:
    narrow = Uniform(low=at_s, high=at_s)
    assert calls.transform(narrow, 0.1) == pytest.approx(calls.transform(at_s, 0.1))


def test_waiting_in_a_queue_breaks_runs_too() -> None:
    """M/M/1 by Lindley's recursion: the time in the queue against breaks of its own."""
    rng = random.Random(4)
    arrivals, served, up_s = 0.6, 1.0, 5.0
    wait, unbroken, count = 0.0, 0, 200_000
    for _ in range(count):
        run = rng.expovariate(served)
        unbroken += rng.expovariate(1 / up_s) > wait + run
        wait = max(0.0, wait + run - rng.expovariate(arrivals))
    theory = calls.unbroken_in_queue(arrivals, served, up_s)
    assert unbroken / count == pytest.approx(theory, abs=0.01)
    with pytest.raises(ValueError, match="more arrives"):
        calls.unbroken_in_queue(1.0, 1.0, up_s)


def test_without_a_queue_an_exponential_run_is_the_same_formula() -> None:
    assert calls.unbroken_in_queue(1e-12, 0.5, 7.0) == pytest.approx(
        calls.unbroken(Exponential(mean=2.0), 7.0)
    )


def test_tries_of_exponential_runs_are_the_mean_over_their_lengths() -> None:
    caller, lengths = Caller(random.Random(5)), random.Random(6)
    run = Exponential(mean=10.0)
    found = t_interval([caller.tries(draw(run, lengths))[0] for _ in range(40_000)], 0.999)
    assert found.low <= calls.tries_exponential(10.0, UP_S) <= found.high
    assert calls.tries_exponential(60.0, UP_S) == math.inf


def test_a_job_that_loses_its_workers_is_given_up() -> None:
    rng = random.Random(8)
    begun, poisoned, count = 0, 0, 40_000
    for _ in range(count):
        lost = 0
        while lost < 2:
            begun += 1
            if rng.expovariate(1 / UP_S) >= RUN_S:
                break
            lost += 1
        poisoned += lost == 2
    assert poisoned / count == pytest.approx(calls.poisoned(RUN_S, UP_S, 2), abs=0.01)
    assert begun / count == pytest.approx(calls.tries_until_poisoned(RUN_S, UP_S, 2), rel=0.02)


@given(TIMES, TIMES)
def test_whoever_never_gives_up_needs_as_many_tries_as_the_limit_of_giving_up(
    run_s: float, up_s: float
) -> None:
    if run_s < 3 * up_s:
        assert calls.tries_until_poisoned(run_s, up_s, 800) == pytest.approx(
            calls.tries(run_s, up_s)
        )


def test_the_next_poll_is_half_an_interval_away_or_so() -> None:
    rng = random.Random(9)
    waits = []
    for _ in range(40_000):
        run_s = rng.expovariate(1 / 4)
        waits.append(-run_s % 3.0)
    assert fmean(waits) == pytest.approx(calls.poll_wait_s(4.0, 3.0), rel=0.02)
    assert calls.poll_wait_s(1000.0, 2.0) == pytest.approx(1.0, rel=0.01)
