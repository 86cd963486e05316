import pytest

from storage.reservation import RESERVATION_MS, Reservation


class Disk:
    """Marks written at once, and marks submitted."""

    def __init__(self) -> None:
        self.now: list[int] = []
        self.submitted: list[int] = []
        self.full = False

    def reserve_now(self, mark_ms: int) -> None:
        if self.full:
            raise OSError("full")
        self.now.append(mark_ms)

    def make(self, high_water_ms: int) -> Reservation:
        return Reservation(high_water_ms, self.submitted.append, self.reserve_now)


def test_the_first_use_writes_a_mark_and_waits_for_it() -> None:
    disk = Disk()
    reservation = disk.make(0)
    assert reservation.due_ms <= 10
    reservation.extend(10)
    assert disk.now == [10 + RESERVATION_MS]
    assert reservation.confirmed_ms == 10 + RESERVATION_MS
    assert disk.submitted == []


def test_half_a_reservation_before_the_mark_the_next_is_asked_for_once() -> None:
    disk = Disk()
    reservation = disk.make(0)
    reservation.extend(0)
    half = RESERVATION_MS // 2
    assert reservation.due_ms == half
    reservation.extend(half)
    assert disk.submitted == [half + RESERVATION_MS]
    assert reservation.due_ms == RESERVATION_MS, "nothing to do until the confirmed mark"
    reservation.extend(half)
    assert disk.submitted == [half + RESERVATION_MS]
    reservation.confirm(half + RESERVATION_MS)
    assert reservation.confirmed_ms == half + RESERVATION_MS
    assert reservation.due_ms == RESERVATION_MS
    assert len(disk.now) == 1, "and nobody waited"


def test_a_mark_that_is_not_confirmed_in_time_is_written_at_once() -> None:
    disk = Disk()
    reservation = disk.make(0)
    reservation.extend(0)
    reservation.extend(RESERVATION_MS // 2)
    reservation.extend(RESERVATION_MS)
    assert disk.now == [RESERVATION_MS, 2 * RESERVATION_MS]
    reservation.confirm(RESERVATION_MS)  # late, and repeated
    assert reservation.confirmed_ms == 2 * RESERVATION_MS


def test_a_disk_that_refuses_leaves_everything_as_it_was() -> None:
    disk = Disk()
    reservation = disk.make(100)
    disk.full = True
    with pytest.raises(OSError, match="full"):
        reservation.extend(100)
    assert reservation.confirmed_ms == 100
    disk.full = False
    reservation.extend(100)
    assert reservation.confirmed_ms == 100 + RESERVATION_MS


def test_a_request_ahead_of_time_does_not_move_the_confirmed_mark() -> None:
    disk = Disk()
    reservation = disk.make(0)
    reservation.extend(0)
    reservation.request(60_000)
    reservation.request(50_000)
    assert disk.submitted == [60_000 + RESERVATION_MS]
    assert reservation.confirmed_ms == reservation.due_ms == RESERVATION_MS
    reservation.confirm(RESERVATION_MS + 1)  # one asked for earlier, by whoever
    assert reservation.due_ms == RESERVATION_MS + 1
    reservation.confirm(60_000 + RESERVATION_MS)
    assert reservation.due_ms == 60_000 + RESERVATION_MS // 2
