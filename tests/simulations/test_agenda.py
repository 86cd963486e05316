"""An agenda gives what a heap would give, in the same order."""

import heapq

from hypothesis import given, strategies as st

from simulations.agenda import Agenda

STEPS = st.lists(
    st.one_of(
        st.floats(0.0, 0.01).map(lambda ahead: ("push", ahead)),
        st.sampled_from([0.0, 0.0005, 0.001, 0.002]).map(lambda ahead: ("push", ahead)),
        st.floats(0.0, 0.004).map(lambda ahead: ("run", ahead)),
    ),
    max_size=60,
)


@given(STEPS)
def test_what_is_popped_is_what_one_heap_would_have(steps: list[tuple[str, float]]) -> None:
    agenda: Agenda[int] = Agenda()
    heap: list[tuple[float, int, int]] = []
    now = 0.0
    entered = 0
    for what, ahead in steps:
        if what == "push":
            entered += 1
            agenda.push(now + ahead, entered)
            heapq.heappush(heap, (now + ahead, entered, entered))
            continue
        until = now + ahead
        while heap and heap[0][0] <= until:
            expected = heapq.heappop(heap)
            assert agenda.pop(until) == expected
            now = expected[0]
        assert agenda.pop(until) is None
        now = until
        assert len(agenda) == len(heap)


def test_equal_times_keep_the_order_of_their_entry() -> None:
    agenda: Agenda[str] = Agenda()
    for name in "abc":
        agenda.push(1.0, name)
    first = agenda.pop(2.0)
    agenda.push(1.0, "d")
    rest = [agenda.pop(2.0) for _ in range(3)]
    assert [entry and entry[2] for entry in (first, *rest)] == ["a", "b", "c", "d"]
    assert agenda.pop(2.0) is None


def test_nothing_later_than_asked_for_is_given() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.push(0.0101, "soon")
    assert agenda.pop(0.0100) is None
    assert agenda.pop(0.0101) == (0.0101, 1, "soon")
