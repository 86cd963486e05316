"""Jobs that wait."""

import pytest
from hypothesis import given, strategies as st

from worker.attempts import Entry
from worker.events import Job, Requires, Retry, Timeouts
from worker.queue import DEAD_MIN, Queue


def entry_of(sequence: int, priority: int = 0) -> Entry:
    job = Job(
        job=sequence,
        program="1.1",
        requires=Requires(),
        retry=Retry(),
        timeouts=Timeouts(),
        priority=priority,
    )
    return Entry(job, sequence, 0.0)


@pytest.fixture
def queue() -> Queue:
    return Queue(Requires())


def drain(queue: Queue) -> list[int]:
    order = []
    while queue.first is not None:
        order.append(queue.first.sequence)
        queue.remove(queue.first)
        queue.check()
    return order


def test_an_empty_queue_has_no_first_job(queue: Queue) -> None:
    assert queue.first is None
    assert len(queue) == 0


def test_equal_priorities_are_served_in_the_order_of_submission(queue: Queue) -> None:
    for sequence in (1, 2, 3):
        queue.add(entry_of(sequence), fresh=True)
    assert drain(queue) == [1, 2, 3]


def test_higher_priorities_are_served_first(queue: Queue) -> None:
    for sequence, priority in enumerate([0, 5, -3, 5, 0], start=1):
        queue.add(entry_of(sequence, priority), fresh=True)
    assert drain(queue) == [2, 4, 1, 5, 3]


def test_a_job_that_comes_back_stands_where_it_stood(queue: Queue) -> None:
    entries = [entry_of(sequence) for sequence in range(1, 6)]
    for entry in entries:
        queue.add(entry, fresh=True)
    for entry in entries[:3]:
        queue.remove(entry)
    for back in (2, 0, 1):
        queue.add(entries[back], fresh=False)
        queue.check()
    assert drain(queue) == [1, 2, 3, 4, 5]


def test_a_job_may_leave_from_the_middle_and_come_back(queue: Queue) -> None:
    entries = [entry_of(sequence) for sequence in range(1, 6)]
    for entry in entries:
        queue.add(entry, fresh=True)
    for _ in range(3):
        queue.remove(entries[2])
        queue.check()
        assert len(queue) == 4
        queue.add(entries[2], fresh=False)
        queue.check()
    assert drain(queue) == [1, 2, 3, 4, 5]


def test_the_jobs_before_one_are_counted_also_from_outside(queue: Queue) -> None:
    entries = [entry_of(sequence, priority) for sequence, priority in [(1, 0), (2, 0), (4, 1)]]
    for entry in entries:
        queue.add(entry, fresh=True)
    assert [queue.ahead(entry) for entry in entries] == [1, 2, 0]
    assert queue.ahead(entry_of(3)) == 3
    assert queue.ahead(entry_of(3, priority=2)) == 0
    assert Queue(Requires(cpu=2)).ahead(entries[0]) == 0


def test_jobs_that_left_leave_nothing_behind(queue: Queue) -> None:
    queue.add(entry_of(0), fresh=True)
    for sequence in range(1, 2000):
        entry = entry_of(sequence)
        queue.add(entry, fresh=True)
        queue.remove(entry)
    queue.check()
    (lane,) = queue._lanes.values()
    assert len(lane.fresh) <= 2 * DEAD_MIN


def test_priorities_that_no_job_has_leave_nothing_behind(queue: Queue) -> None:
    queue.add(entry_of(0, priority=10_000), fresh=True)
    wanderer = entry_of(1)
    queue.add(wanderer, fresh=True)
    for priority in range(500):
        queue.remove(wanderer)
        wanderer.priority = priority
        queue.add(wanderer, fresh=False)
    queue.check()
    assert len(queue._lanes) == 2
    assert drain(queue) == [0, 1]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["new", "new", "take", "leave", "back"]),
            st.integers(0, 999),
            st.integers(-1, 1),
        ),
        max_size=150,
    )
)
def test_it_agrees_with_a_sorted_list(steps: list[tuple[str, int, int]]) -> None:
    queue = Queue(Requires())
    waiting: list[Entry] = []
    outside: list[Entry] = []
    sequence = 0
    for what, index, priority in steps:
        if what == "new":
            sequence += 1
            waiting.append(entry_of(sequence, priority))
            queue.add(waiting[-1], fresh=True)
        elif what == "back" and outside:
            entry = outside.pop(index % len(outside))
            entry.priority = priority
            waiting.append(entry)
            queue.add(entry, fresh=False)
        elif what in ("take", "leave") and waiting:
            entry = waiting.pop(0 if what == "take" else index % len(waiting))
            queue.remove(entry)
            outside.append(entry)
        waiting.sort(key=lambda entry: (-entry.priority, entry.sequence))
        assert queue.first is (waiting[0] if waiting else None)
        assert len(queue) == len(waiting)
        queue.check()
    assert drain(queue) == [entry.sequence for entry in waiting]
