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
def test_what_is_due_is_what_a_heap_would_have(steps: list[tuple[str, float]]) -> None:
    agenda: Agenda[int, str] = Agenda()
    heap: list[tuple[float, int]] = []
    now = 0.0
    entered = 0
    for what, ahead in steps:
        if what == "push":
            entered += 1
            agenda.push(now + ahead, entered, "x")
            heapq.heappush(heap, (now + ahead, entered))
            continue
        until = now + ahead
        for at, number, _ in agenda.due(until):
            assert (at, number) == heapq.heappop(heap)
            if number % 3 == 0:
                entered += 1
                later = min(until, at + 0.0005)
                agenda.push(later, entered, "meanwhile")
                heapq.heappush(heap, (later, entered))
        assert not heap or heap[0][0] > until
        now = until
        assert len(agenda) == len(heap)


def test_equal_times_keep_the_order_of_their_entry() -> None:
    agenda: Agenda[str, None] = Agenda()
    for name in "abc":
        agenda.push(1.0, name, None)
    given_: list[str] = []
    for _, name, _ in agenda.due(2.0):
        given_.append(name)
        if name == "a":
            agenda.push(1.0, "d", None)
    assert given_ == ["a", "b", "c", "d"]


def test_nothing_later_than_asked_for_is_given() -> None:
    agenda: Agenda[str, None] = Agenda()
    agenda.push(0.0101, "soon", None)
    assert list(agenda.due(0.0100)) == []
    assert list(agenda.due(0.0101)) == [(0.0101, "soon", None)]
    assert len(agenda) == 0
