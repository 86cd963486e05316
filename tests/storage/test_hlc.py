from hypothesis import given, settings, strategies as st

from storage import hlc
from storage.hlc import AHEAD_MAX_MS, HybridClock, Observation
from storage.reservation import RESERVATION_MS

START_MS = 1_800_000_000_000


class Machine:
    """A clock that anybody may set, and a disk that keeps a mark and what came with it."""

    def __init__(self) -> None:
        self.time_ms = START_MS
        self.durable_ms = 0
        self.submitted: list[int] = []
        self.waits = 0
        self.clock = self.restart()

    def wall_ms(self) -> int:
        return self.time_ms

    def reserve_now(self, mark_ms: int) -> None:
        self.waits += 1
        self.durable_ms = max(self.durable_ms, mark_ms)

    def commit(self) -> None:
        for mark_ms in self.submitted:
            self.durable_ms = max(self.durable_ms, mark_ms)
            self.clock.confirm(mark_ms)
        self.submitted.clear()

    def restart(self) -> HybridClock:
        self.submitted.clear()
        self.clock = HybridClock(
            self, self.durable_ms, self.submitted.append, self.reserve_now
        )  # fmt: skip
        return self.clock


def test_timestamps_follow_the_wall_clock_and_count_within_a_millisecond() -> None:
    machine = Machine()
    first, second = machine.clock.tick(), machine.clock.tick()
    assert (first, second) == (hlc.first_of(START_MS), hlc.first_of(START_MS) + 1)
    machine.time_ms += 1
    third = machine.clock.tick()
    assert third == hlc.first_of(START_MS + 1)
    assert hlc.physical_ms(third) == START_MS + 1


def test_what_is_written_after_seeing_a_record_is_later_than_it() -> None:
    machine = Machine()
    seen = hlc.first_of(START_MS + 30_000) + 5
    assert machine.clock.observe(seen) is Observation.MERGED
    assert machine.clock.tick() == seen + 1


def test_timestamps_go_on_above_a_time_that_is_skipped_and_a_restart_keeps_that() -> None:
    machine = Machine()
    skipped_ms = machine.wall_ms() + 3_600_000
    machine.clock.skip(skipped_ms)
    machine.clock.skip(skipped_ms - 1000)
    assert machine.clock.tick() == hlc.first_of(skipped_ms + 1)
    assert machine.restart().tick() > hlc.first_of(skipped_ms + 1)


def test_an_older_timestamp_changes_nothing() -> None:
    machine = Machine()
    last = machine.clock.tick()
    assert machine.clock.observe(last - 1) is Observation.MERGED
    assert machine.clock.tick() == last + 1


def test_a_timestamp_too_far_ahead_is_deferred_until_the_clock_is_near() -> None:
    machine = Machine()
    ahead = hlc.first_of(START_MS + AHEAD_MAX_MS + 1)
    assert machine.clock.observe(ahead) is Observation.DEFER
    assert machine.clock.tick() == hlc.first_of(START_MS)
    machine.time_ms += 1
    assert machine.clock.observe(ahead) is Observation.MERGED


def test_what_is_no_later_than_what_was_seen_is_taken_though_the_clock_stepped_back() -> None:
    machine = Machine()
    last = machine.clock.tick()
    machine.time_ms -= 3_600_000
    assert machine.clock.observe(last - 1) is Observation.MERGED
    assert machine.clock.observe(last + 7) is Observation.MERGED
    assert machine.clock.observe(last + hlc.first_of(1)) is Observation.DEFER
    assert machine.clock.tick() == last + 8


def test_a_counter_that_overflows_runs_into_the_milliseconds() -> None:
    machine = Machine()
    machine.clock.observe(hlc.first_of(START_MS + 1) - 1)
    assert machine.clock.tick() == hlc.first_of(START_MS + 1)


def test_a_steady_caller_waits_for_the_disk_only_once() -> None:
    machine = Machine()
    for _ in range(5_000):
        machine.clock.tick()
        machine.time_ms += 17
        machine.commit()
    assert machine.waits == 1


def test_after_a_restart_timestamps_begin_at_the_mark() -> None:
    machine = Machine()
    machine.clock.tick()
    assert machine.clock.high_water_ms == START_MS + RESERVATION_MS
    assert machine.restart().tick() == hlc.first_of(START_MS + RESERVATION_MS)


def test_a_merged_timestamp_survives_if_what_was_submitted_after_it_does() -> None:
    machine = Machine()
    seen = hlc.first_of(START_MS + 50_000)
    machine.clock.observe(seen)
    machine.commit()
    machine.restart()
    machine.time_ms -= 3_600_000
    assert machine.clock.tick() > seen


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from(["commit", "restart"])
        | st.integers(-4_000_000, 4_000_000)
        | st.tuples(st.integers(-100_000, 100_000), st.sampled_from([0, 1, 65_535])),
        max_size=40,
    )
)
def test_timestamps_grow_whatever_happens(steps: list[str | int | tuple[int, int]]) -> None:
    machine = Machine()
    last = 0
    for step in steps:
        match step:
            case "commit":
                machine.commit()
            case "restart":
                machine.restart()
            case int():
                machine.time_ms = max(0, machine.time_ms + step)
            case (ahead_ms, counter):
                seen = hlc.first_of(max(0, machine.time_ms + int(ahead_ms))) + counter
                followed_ms = max(machine.time_ms + AHEAD_MAX_MS, hlc.physical_ms(last))
                is_ahead = machine.clock.is_ahead(seen)
                merged = machine.clock.observe(seen) is Observation.MERGED
                assert merged == (not is_ahead) == (hlc.physical_ms(seen) <= followed_ms)
                last = max(last, seen) if merged else last
        timestamp = machine.clock.tick()
        if step != "restart":
            assert timestamp > last
        assert hlc.physical_ms(timestamp) < machine.durable_ms
        last = timestamp


def test_the_latest_time_that_has_come_is_known_though_the_clock_stepped_back() -> None:
    machine = Machine()
    assert machine.clock.reached_ms == START_MS
    machine.clock.tick()
    machine.time_ms -= 3_600_000
    assert machine.clock.reached_ms == START_MS
    machine.time_ms = START_MS + 1000
    assert machine.clock.reached_ms == START_MS + 1000
