"""Mean run times."""

import pytest
from hypothesis import given, strategies as st

from worker.estimates import Estimates

TIMES = st.floats(0.0, 1e6)


def test_a_program_never_measured_has_no_estimate() -> None:
    assert Estimates(0.125, 10).get("1.1") is None


def test_the_first_measurement_counts_in_full_and_later_ones_by_their_weight() -> None:
    estimates = Estimates(0.125, 10)
    estimates.measure("1.1", 8.0)
    assert estimates.get("1.1") == 8.0
    estimates.measure("1.1", 16.0)
    assert estimates.get("1.1") == 9.0
    assert estimates.get("1.2") is None


def test_a_job_that_is_not_over_raises_the_estimate_and_never_lowers_it() -> None:
    estimates = Estimates(0.125, 10)
    estimates.at_least("1.1", 5.0)
    assert estimates.get("1.1") is None, "a program never measured stays unknown"
    estimates.measure("1.1", 1.0)
    estimates.at_least("1.1", 5.0)
    estimates.at_least("1.1", 3.0)
    assert estimates.get("1.1") == 5.0


def test_the_programs_first_seen_are_forgotten() -> None:
    estimates = Estimates(0.125, 2)
    for name in ("a", "b", "a", "c"):
        estimates.measure(name, 1.0)
    assert [estimates.get(name) for name in "abc"] == [None, 1.0, 1.0]
    assert len(estimates) == 2


@given(st.lists(TIMES, min_size=1))
def test_the_mean_lies_among_what_was_measured(times: list[float]) -> None:
    estimates = Estimates(0.125, 10)
    for run_s in times:
        estimates.measure("1.1", run_s)
    mean_s = estimates.get("1.1")
    assert mean_s is not None
    assert mean_s == pytest.approx(min(max(mean_s, min(times)), max(times)))
