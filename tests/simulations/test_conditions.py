"""What a condition means, and that a wrong one cannot pass."""

import math

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from simulations import conditions, observations
from simulations.metrics import Observation
from simulations.observations import Observations
from simulations.scenario import Pass
from tests.simulations.small import scenario


def runs(*each: list[float], metric: str = "job.wait_s", label: str = "x") -> list[Observations]:
    return [
        observations.from_rows(
            Observation(metric, float(i), value, label=label) for i, value in enumerate(values)
        )
        for values in each
    ]


def judge(measured: list[Observations], warm_up_s: float = 0.0, **words: object):
    condition = msgspec.convert({"metric": "job.wait_s"} | words, Pass)
    (verdict,) = conditions.judge(scenario(warm_up_s=warm_up_s, passes=[condition]), measured)
    return verdict


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("mean", 3.5),
        ("p50", 3.5),
        ("min", 1.0),
        ("max", 6.0),
        ("sum", 10.5),
        ("count", 3.0),
        ("p95", 5.75),
        ("p99", 5.95),
    ],
)
def test_statistics_are_of_all_together_but_totals_of_one_replication(
    statistic: str, expected: float
) -> None:
    verdict = judge(runs([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), statistic=statistic, at_least=0.0)
    assert verdict.value == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 5))
def test_a_total_does_not_depend_on_how_many_replications_there_are(
    values: list[float], replications: int
) -> None:
    once = judge(runs(values), statistic="sum", at_least=0.0)
    often = judge(runs(*[values] * replications), statistic="sum", at_least=0.0)
    assert often.value == pytest.approx(once.value)


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ({"at_least": 2.0}, True),
        ({"at_least": 2.1}, False),
        ({"at_most": 2.0}, True),
        ({"at_most": 1.9}, False),
        ({"at_least": 1.0, "at_most": 3.0}, True),
        ({"at_least": 3.0, "at_most": 4.0}, False),
    ],
)
def test_limits_belong_to_what_passes(limits: dict[str, float], passed: bool) -> None:
    assert judge(runs([2.0]), **limits).passed is passed


def test_what_was_observed_in_the_warm_up_does_not_count() -> None:
    assert judge(runs([100.0, 100.0, 1.0, 1.0]), warm_up_s=2.0, at_most=1.0).passed


def test_another_label_does_not_count() -> None:
    measured = runs([5.0], label="long")
    assert not judge(measured, label="short", at_least=1.0).passed
    assert "there is 'long'" in judge(measured, label="short", at_least=1.0).why
    assert judge(measured, label="short", statistic="count", at_most=0.0).passed


@pytest.mark.parametrize("statistic", ["mean", "sum", "count", "min"])
def test_a_metric_that_nobody_observed_fails_and_its_neighbours_are_named(statistic: str) -> None:
    verdict = judge(runs([1.0], metric="job.waits_s"), statistic=statistic, at_most=1.0)
    assert (verdict.passed, verdict.value) == (False, None)
    assert "near it: job.waits_s" in verdict.why


def test_nothing_observed_at_all_fails() -> None:
    assert not judge(runs([]), at_most=1.0).passed


def test_not_a_number_passes_nothing() -> None:
    assert not judge(runs([math.nan, 1.0]), at_least=0.0).passed
    assert not judge(runs([math.nan, 1.0]), at_most=2.0).passed


def test_a_limit_inside_the_interval_is_not_sure() -> None:
    near = judge(runs([1.0], [2.0], [3.0]), at_most=2.1)
    far = judge(runs([1.0], [1.1], [0.9]), at_most=50.0)
    assert (near.passed, near.sure) == (True, False)
    assert (far.passed, far.sure) == (True, True)
    assert far.interval is not None
    assert far.interval.low < 1.0 < far.interval.high


def test_one_replication_and_extremes_have_no_interval() -> None:
    assert judge(runs([1.0, 2.0]), at_most=5.0).interval is None
    assert judge(runs([1.0], [2.0]), statistic="max", at_most=5.0).interval is None


def test_a_condition_has_a_name_in_words() -> None:
    words = {"label": "x", "statistic": "p95", "at_least": 0.5, "at_most": 1.0}
    assert judge(runs([1.0]), **words).name == "job.wait_s{x} p95 ≥ 0.5 and ≤ 1"
