"""Causes, states and waits of attempts that ended badly."""

from typing import get_args

import pytest
from hypothesis import given, strategies as st

from worker.events import Cause, Retry
from worker.protocol import ErrorCode
from worker.retry import CAUSES, backoff_s, may_retry, state_after


def test_every_error_a_worker_reports_has_a_cause() -> None:
    assert set(CAUSES) == set(get_args(ErrorCode))
    assert set(CAUSES.values()) | {"lost"} == set(get_args(Cause))


def test_only_time_limits_expire_a_job() -> None:
    states = {cause: state_after(cause) for cause in get_args(Cause)}
    assert states == {"error": "failed", "limit": "failed", "lost": "failed", "timeout": "expired"}


@pytest.mark.parametrize(
    ("cause", "attempt", "expected"),
    [("lost", 1, True), ("lost", 2, True), ("lost", 3, False), ("error", 1, False)],
)
def test_by_default_a_lost_job_is_tried_three_times_and_an_error_once(
    cause: Cause, attempt: int, expected: bool
) -> None:
    assert may_retry(Retry(), cause, attempt) == expected


@given(st.integers(1, 10_000), st.floats(0.0, 1e6), st.floats(0.001, 1e6))
def test_the_wait_doubles_and_is_limited(attempt: int, first_s: float, maximum_s: float) -> None:
    retry = Retry(backoff_s=first_s)
    wait_s = backoff_s(retry, attempt, maximum_s)
    assert 0.0 <= wait_s <= maximum_s
    following_s = backoff_s(retry, attempt + 1, maximum_s)
    assert following_s == pytest.approx(min(maximum_s, 2 * wait_s)) or attempt >= 65
