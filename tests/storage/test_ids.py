from collections.abc import Callable

import pytest
from hypothesis import example, given, settings, strategies as st

from storage import ids
from storage.errors import InvalidData, StoreFull
from storage.ids import EPOCH_MS, NODE_NUMBERS, SEQUENCES, TIME_END_MS, IdFactory, IdsExhausted
from storage.reservation import RESERVATION_MS

START_MS = EPOCH_MS + 1_000_000_000


class Machine:
    """A clock that anybody may set, and a disk that keeps a mark."""

    def __init__(self, wall_ms: int = START_MS) -> None:
        self.time_ms = wall_ms
        self.durable_ms = 0
        self.submitted: list[int] = []
        self.waits = 0
        self.factory = self.restart()

    def wall_ms(self) -> int:
        return self.time_ms

    def reserve_now(self, mark_ms: int) -> None:
        self.waits += 1
        self.durable_ms = max(self.durable_ms, mark_ms)

    def commit(self) -> None:
        """Make durable what was submitted, and say so."""
        for mark_ms in self.submitted:
            self.durable_ms = max(self.durable_ms, mark_ms)
            self.factory.confirm(mark_ms)
        self.submitted.clear()

    def restart(self) -> IdFactory:
        """Lose everything that is not durable."""
        self.submitted.clear()
        self.factory = IdFactory(
            self, 7, self.durable_ms, self.submitted.append, self.reserve_now
        )  # fmt: skip
        return self.factory


# --- the number ---------------------------------------------------------------------------------


@given(
    st.integers(EPOCH_MS, TIME_END_MS - 1),
    st.integers(0, NODE_NUMBERS - 1),
    st.integers(0, SEQUENCES - 1),
)
def test_an_id_gives_back_what_was_packed(time_ms: int, node: int, sequence: int) -> None:
    made = ids.pack(time_ms, node, sequence)
    assert 0 <= made < ids.ID_END
    assert (ids.created_ms(made), ids.node_number(made), made % SEQUENCES) == (
        time_ms,
        node,
        sequence,
    )
    assert int.from_bytes(ids.key(made), "big") == made
    assert len(ids.key(made)) == 8


@pytest.mark.parametrize(
    ("time_ms", "node", "sequence"),
    [
        (EPOCH_MS - 1, 0, 0),
        (TIME_END_MS, 0, 0),
        (START_MS, -1, 0),
        (START_MS, NODE_NUMBERS, 0),
        (START_MS, 0, -1),
        (START_MS, 0, SEQUENCES),
    ],
)
def test_parts_out_of_range_are_a_mistake(time_ms: int, node: int, sequence: int) -> None:
    with pytest.raises(ValueError, match="range"):
        ids.pack(time_ms, node, sequence)


@given(st.integers(1, ids.ID_END - 1))
def test_decimal_text_names_an_id(made: int) -> None:
    assert ids.parse_id(str(made)) == made


@given(st.text(max_size=21))
@example("")
@example("0")
@example("01")
@example("+1")
@example("1 ")
@example("1\n")
@example("٣")
@example("1_0")
@example(str(ids.ID_END))
@example("9" * 20)
def test_text_that_is_no_id_is_refused(written: str) -> None:
    try:
        made = ids.parse_id(written)
    except InvalidData:
        return
    assert str(made) == written
    assert 0 < made < ids.ID_END


# --- the factory --------------------------------------------------------------------------------


def test_ids_say_when_and_where_they_were_made() -> None:
    machine = Machine()
    first, second = machine.factory.next(), machine.factory.next()
    assert ids.created_ms(first) == ids.created_ms(second) == START_MS
    assert ids.node_number(first) == 7
    assert second == first + 1
    machine.time_ms += 5
    assert ids.created_ms(machine.factory.next()) == START_MS + 5


def test_a_clock_that_steps_back_is_ignored_until_it_has_caught_up() -> None:
    machine = Machine()
    first = machine.factory.next()
    machine.time_ms -= 3_600_000
    assert machine.factory.next() == first + 1


def test_a_burst_borrows_from_the_future() -> None:
    machine = Machine()
    burst = [machine.factory.next() for _ in range(10_000)]
    assert burst == sorted(set(burst))
    assert ids.created_ms(burst[-1]) == START_MS + 9_999 // SEQUENCES
    assert machine.waits == 1


def test_a_steady_caller_never_waits_for_the_disk_after_the_first_id() -> None:
    machine = Machine()
    for _ in range(10_000):
        machine.factory.next()
        machine.time_ms += 17
        machine.commit()
    assert machine.waits == 1


def test_after_idling_past_the_mark_one_id_waits_for_the_disk() -> None:
    machine = Machine()
    machine.factory.next()
    machine.time_ms += 3_600_000
    machine.factory.next()
    machine.factory.next()
    assert machine.waits == 2
    assert machine.factory.high_water_ms == machine.time_ms + RESERVATION_MS


def test_after_a_restart_ids_begin_at_the_mark() -> None:
    machine = Machine()
    before = machine.factory.next()
    after = machine.restart().next()
    assert ids.created_ms(after) == START_MS + RESERVATION_MS
    assert after > before


def test_ids_go_on_above_a_time_that_is_skipped_and_a_restart_keeps_that() -> None:
    machine = Machine()
    machine.factory.next()
    skipped_ms = START_MS + 3_600_000
    machine.factory.skip(skipped_ms)
    machine.factory.skip(START_MS)
    assert ids.created_ms(machine.factory.next()) == skipped_ms + 1
    machine.factory.skip(skipped_ms + 5)
    assert ids.created_ms(machine.restart().next()) > skipped_ms + 5


def test_who_guards_ids_holds_them_back_and_uses_none_up() -> None:
    held: list[str] = ["held"]

    def guard() -> None:
        if held:
            raise InvalidData(held[0])

    machine = Machine()
    factory = IdFactory(machine, 7, 0, machine.submitted.append, machine.reserve_now, guard)
    with pytest.raises(InvalidData, match="held"):
        factory.next()
    assert machine.waits == 0
    held.clear()
    assert ids.created_ms(factory.next()) == START_MS


def test_a_clock_from_before_2025_makes_ids_of_2025() -> None:
    machine = Machine(wall_ms=0)
    assert ids.created_ms(machine.factory.next()) == EPOCH_MS


def test_at_the_end_of_time_no_id_is_made() -> None:
    machine = Machine(wall_ms=TIME_END_MS - 1)
    assert ids.created_ms(machine.factory.next()) == TIME_END_MS - 1
    machine.time_ms += 1
    with pytest.raises(IdsExhausted):
        machine.factory.next()


def test_a_full_disk_makes_no_id_and_uses_none_up() -> None:
    machine = Machine()
    refused = True

    def reserve_now(mark_ms: int) -> None:
        if refused:
            raise StoreFull("full")

    factory = IdFactory(machine, 7, 0, machine.submitted.append, reserve_now)
    with pytest.raises(StoreFull):
        factory.next()
    refused = False
    assert factory.next() == ids.pack(START_MS, 7, 0)


def test_a_node_number_out_of_range_is_a_mistake() -> None:
    machine = Machine()
    with pytest.raises(ValueError, match="range"):
        IdFactory(machine, NODE_NUMBERS, 0, print, print)


STEPS: dict[str, Callable[[Machine], object]] = {
    "commit": Machine.commit,
    "restart": Machine.restart,
}


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from(sorted(STEPS)) | st.integers(-4_000_000, 4_000_000) | st.just(1),
        max_size=40,
    )
)
def test_ids_grow_whatever_the_clock_does_and_wherever_the_power_fails(
    steps: list[str | int],
) -> None:
    machine = Machine()
    last = 0
    for step in steps:
        if isinstance(step, str):
            STEPS[step](machine)
        else:
            machine.time_ms = max(0, machine.time_ms + step)
        for _ in range(3):
            made = machine.factory.next()
            assert made > last
            assert ids.created_ms(made) < machine.durable_ms
            last = made
