"""Rows of other nodes' objects: bounded, oldest use out first, found again after a start."""

from hypothesis import given, strategies as st

from peernode.foreign_rows import Rows
from storage import ids
from storage.store import Table
from tests.peernode.nodes import Disk

ROWS_MAX, SIZE_MAX_BYTES = 4, 100


def rows_of(disk: Disk) -> Rows:
    return Rows(disk, Table.FOREIGN_JOBS, ROWS_MAX, SIZE_MAX_BYTES)


def test_a_row_is_found_before_and_after_it_is_durable() -> None:
    disk = Disk()
    disk.pause()
    rows = rows_of(disk)
    rows.put(1, b"one")
    assert rows.get(1) == b"one"
    assert disk.get(Table.FOREIGN_JOBS, ids.key(1)) is None
    disk.resume()
    assert rows.get(1) == b"one" == disk.get(Table.FOREIGN_JOBS, ids.key(1))
    assert rows_of(disk).get(1) == b"one"


def test_what_was_not_used_for_longest_goes_first() -> None:
    rows = rows_of(Disk())
    for job in range(1, 5):
        assert rows.put(job, b"row") == []
    rows.get(1)
    assert rows.put(5, b"row") == [2]
    assert rows.get(2) is None
    assert rows.put(6, bytes(95)) == [3, 4, 1]


def test_a_row_over_the_bound_is_not_kept() -> None:
    rows = rows_of(Disk())
    rows.put(1, b"row")
    assert rows.put(2, bytes(101)) == []
    assert (rows.get(1), rows.get(2)) == (b"row", None)


def test_a_row_that_did_not_fit_the_disk_is_not_there() -> None:
    disk = Disk()
    rows = rows_of(disk)
    disk.fill()
    rows.put(1, b"row")
    assert rows.get(1) is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "drop"]), st.integers(1, 8), st.integers(0, 60))
    )
)
def test_the_bounds_always_hold_and_the_disk_agrees(steps: list[tuple[str, int, int]]) -> None:
    disk = Disk()
    rows = rows_of(disk)
    for step, job, size in steps:
        if step == "put":
            rows.put(job, bytes(size))
        elif step == "get":
            rows.get(job)
        else:
            rows.drop(job)
        rows.check()
    disk.gate.release()
    again = rows_of(disk)
    again.check()
    for job in range(1, 9):
        assert again.get(job) == rows.get(job)
