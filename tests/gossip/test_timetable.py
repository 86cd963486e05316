"""The soonest of many dues is the soonest, however they are moved."""

from hypothesis import given, strategies as st

from gossip.timetable import FOREVER, Timetable

NUMBERS = st.integers(0, 20)
DUES = st.integers(0, 50).map(float) | st.just(FOREVER)


def test_nothing_is_never_due() -> None:
    assert Timetable().soonest == FOREVER


def test_a_due_that_moves_later_or_sooner_counts_as_it_is_now() -> None:
    table = Timetable()
    table.set(1, 5.0)
    table.set(2, 7.0)
    table.set(1, 9.0)
    assert table.soonest == 7.0
    table.set(2, FOREVER)
    assert table.soonest == 9.0
    table.drop(1)
    assert table.soonest == FOREVER


@given(st.lists(st.tuples(NUMBERS, DUES | st.none()), max_size=400))
def test_it_is_the_least_of_what_was_said_last(said: list[tuple[int, float | None]]) -> None:
    table, model = Timetable(), dict[int, float]()
    for number, due in said:
        if due is None:
            table.drop(number)
            model.pop(number, None)
        else:
            table.set(number, due)
            model[number] = due
        assert table.soonest == min(model.values(), default=FOREVER)
        table.check()


def test_dues_that_move_all_the_time_take_no_more_room() -> None:
    table = Timetable()
    for step in range(100_000):
        table.set(step % 10, float(step))
    assert len(table._heap) < 100
