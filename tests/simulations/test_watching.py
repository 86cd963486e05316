"""What is shown while replications run: never more than all, and no line too many."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from simulations import watching
from simulations.watching import Advance


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 200)), max_size=50))
def test_the_share_is_between_nothing_and_all(moves: list[tuple[int, float]]) -> None:
    advance = Advance(5, 100.0)
    for index, reached_s in moves:
        advance.move(index, reached_s)
        assert 0 <= advance.share <= 1


def test_all_is_reached_when_all_are_over() -> None:
    advance = Advance(3, 100.0)
    for index in range(3):
        advance.move(index, 50.0)
    assert advance.share == 0.5
    for index in range(3):
        advance.move(index, math.inf)
    assert (advance.share, advance.over) == (1, 3)


def test_a_log_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    with watching.watched("two-cities", 2, 100.0) as watch:
        for step in range(100):
            now_s += 0.5
            watch(0, float(step))
            watch(1, float(step))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "two-cities: 18%, 0 of 2 over, about 44 s left"


def test_parts_are_named_as_they_end(capsys: pytest.CaptureFixture[str]) -> None:
    with watching.steps() as step:
        step("e1", 1, 3)
        step("e1", 3, 3)
        step("e2", 1, 1)
    assert capsys.readouterr().err == "e1: 3 of 3\ne2: 1 of 1\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (7200, "2.0 h")],
)
def test_times_are_written_as_people_say_them(seconds: float, words: str) -> None:
    assert watching.duration(seconds) == words
