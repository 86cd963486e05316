"""Timers."""

import pytest
from hypothesis import given, strategies as st

from worker.deadlines import DEAD_MIN, Deadlines, Timer


class Owner:
    def __init__(self, name: int = 0) -> None:
        self.name = name
        self.timer: Timer | None = None


@pytest.fixture
def deadlines() -> Deadlines[Owner]:
    return Deadlines()


def due(deadlines: Deadlines[Owner], now: float) -> list[int]:
    return [owner.name for owner in deadlines.due(now)]


def test_nobody_comes_due_without_a_timer(deadlines: Deadlines[Owner]) -> None:
    assert deadlines.next is None
    assert due(deadlines, 1e9) == []


def test_owners_come_due_in_the_order_of_their_times_then_of_setting(
    deadlines: Deadlines[Owner],
) -> None:
    for name, when in enumerate([3.0, 1.0, 2.0, 1.0]):
        deadlines.set(Owner(name), when)
    assert deadlines.next == 1.0
    assert due(deadlines, 0.999) == []
    assert due(deadlines, 2.0) == [1, 3, 2]
    assert len(deadlines) == 1


def test_a_nearer_time_replaces_and_a_later_one_is_ignored(deadlines: Deadlines[Owner]) -> None:
    owner = Owner(7)
    deadlines.set(owner, 5.0)
    deadlines.set(owner, 9.0)
    assert deadlines.next == 5.0
    deadlines.set(owner, 2.0)
    assert due(deadlines, 2.0) == [7]
    assert due(deadlines, 99.0) == []


def test_a_cleared_owner_does_not_come_due(deadlines: Deadlines[Owner]) -> None:
    owner = Owner()
    deadlines.set(owner, 1.0)
    deadlines.clear(owner)
    deadlines.clear(owner)
    assert deadlines.next is None
    deadlines.check()


def test_an_owner_may_set_its_timer_again_while_it_is_due(deadlines: Deadlines[Owner]) -> None:
    owner = Owner()
    deadlines.set(owner, 1.0)
    seen = 0
    for found in deadlines.due(3.0):
        seen += 1
        deadlines.set(found, 1.0 + seen)
    assert seen == 3, "at 1, 2 and 3"
    assert deadlines.next == 4.0


def test_cleared_timers_do_not_pile_up(deadlines: Deadlines[Owner]) -> None:
    living = [Owner() for _ in range(100)]
    for owner in living:
        deadlines.set(owner, 86400.0)
    for number in range(5000):
        owner = Owner()
        deadlines.set(owner, 86400.0 + number)
        deadlines.clear(owner)
        deadlines.check()
    assert len(deadlines) == 100
    assert len(deadlines._heap) <= 2 * (100 + DEAD_MIN)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "set", "clear", "due"]), st.integers(0, 9), st.integers(0, 50)
        ),
        max_size=200,
    )
)
def test_it_agrees_with_a_table_of_times(steps: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[Owner] = Deadlines()
    owners = [Owner(name) for name in range(10)]
    table: dict[int, float] = {}
    for what, name, when in steps:
        if what == "set":
            deadlines.set(owners[name], float(when))
            table[name] = min(float(when), table.get(name, 99.0))
        elif what == "clear":
            deadlines.clear(owners[name])
            table.pop(name, None)
        else:
            expected = sorted((at, name) for name, at in table.items() if at <= when)
            found = list(deadlines.due(float(when)))
            assert sorted(owner.name for owner in found) == sorted(name for _, name in expected)
            table = {name: at for name, at in table.items() if at > when}
        assert deadlines.next == min(table.values(), default=None)
        assert len(deadlines) == len(table)
        deadlines.check()
