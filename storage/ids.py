"""Snowflake ids: 63 bits that say when and where an object was made.

    0 | 41 bits: ms since 2025-01-01 UTC | 14 bits: node number | 8 bits: sequence

The node number names the object's home node, so any node knows whom to ask; node numbers are given
out once and never again (`authority`), so no two nodes make one id.  Ids of one node are strictly
increasing, whatever its clock does: a clock that steps back is ignored until it has caught up, and
more than 256 ids in a millisecond borrow from the next one.  Uniqueness across restarts is
unconditional (`reservation`); the time in an id is approximate.

What it leaves out: a disk that was put back as it was, or copied and used twice.  Nothing in an id
can tell that; who finds out holds ids back (`guard`) and goes on above (`skip`).

The layout is Twitter's Snowflake (2010) with more node numbers and fewer ids a millisecond.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import msgspec

from storage.clock import Clock
from storage.errors import InvalidData, StorageError
from storage.reservation import Reservation

EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00:00Z, in ms since 1970."""
TIME_BITS: Final = 41
NODE_BITS: Final = 14
SEQUENCE_BITS: Final = 8
NODE_NUMBERS: Final = 1 << NODE_BITS
"""Node numbers are below this. Source: 16,384 admissions in the life of a mesh; guess."""
SEQUENCES: Final = 1 << SEQUENCE_BITS
ID_END: Final = 1 << 63
"""Ids are below this."""
TIME_END_MS: Final = EPOCH_MS + (1 << TIME_BITS)
"""Ids end here: in September 2094."""

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=ID_END - 1)]
"""An id as a field of something decoded."""

_TIME_SHIFT: Final = NODE_BITS + SEQUENCE_BITS
_DECIMAL: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


class IdsExhausted(StorageError):
    """The clock stands, or ids were borrowed, past the last millisecond that an id can name."""


def pack(time_ms: int, node_number: int, sequence: int) -> int:
    """Return the id of these parts; `time_ms` counts from 1970. Raises `ValueError`."""
    if not EPOCH_MS <= time_ms < TIME_END_MS:
        raise ValueError(f"time outside of ids' range: {time_ms}")
    if not 0 <= node_number < NODE_NUMBERS or not 0 <= sequence < SEQUENCES:
        raise ValueError(f"node number or sequence out of range: {node_number}, {sequence}")
    return (time_ms - EPOCH_MS) << _TIME_SHIFT | node_number << SEQUENCE_BITS | sequence


def node_number(id: int) -> int:
    """Return the number of the id's home node."""
    return id >> SEQUENCE_BITS & (NODE_NUMBERS - 1)


def created_ms(id: int) -> int:
    """Return when the id was made, in ms since 1970; approximate."""
    return (id >> _TIME_SHIFT) + EPOCH_MS


def key(id: int) -> bytes:
    """Return the id as 8 bytes, big-endian: byte order is time order."""
    return id.to_bytes(8, "big")


def parse_id(written: str) -> int:
    """Return the id that decimal text names.

    Raises `InvalidData` unless it is 1 to 19 digits without sign or leading zero, below 2**63.
    """
    if _DECIMAL.fullmatch(written) is None or (number := int(written)) >= ID_END:
        raise InvalidData("not an id: up to 19 decimal digits, below 2**63")
    return number


class IdFactory:
    """Makes the ids of one node. See the module's and `reservation`'s rules."""

    def __init__(
        self,
        clock: Clock,
        node_number: int,
        high_water_ms: int,
        reserve: Callable[[int], None],
        reserve_now: Callable[[int], None],
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """Continue above `high_water_ms`, the durable mark (0: none yet), in ms since 1970.

        `reserve(mark_ms)` submits a write of the mark and returns; when it is durable the caller
        calls `confirm(mark_ms)`.  `reserve_now(mark_ms)` blocks until it is durable.  `guard` is
        called before each id, and raises if there is to be none.
        """
        if not 0 <= node_number < NODE_NUMBERS:
            raise ValueError(f"node number out of range: {node_number}")
        self._wall_ms = clock.wall_ms
        self._node = node_number << SEQUENCE_BITS
        self._last_ms = max(high_water_ms, EPOCH_MS) - 1
        self._sequence = SEQUENCES - 1
        self._guard = guard
        self._reservation = Reservation(high_water_ms, reserve, reserve_now)

    @property
    def high_water_ms(self) -> int:
        """The confirmed mark: all ids issued so far are older."""
        return self._reservation.confirmed_ms

    def next(self) -> int:
        """Return a new id, larger than any before.

        Raises `IdsExhausted`, or what `guard` or `reserve_now` raises; no id is used up then.
        """
        self._guard()
        time_ms = self._wall_ms()
        if time_ms > self._last_ms:
            sequence = 0
        elif self._sequence < SEQUENCES - 1:
            time_ms = self._last_ms
            sequence = self._sequence + 1
        else:
            time_ms = self._last_ms + 1
            sequence = 0
        if time_ms >= TIME_END_MS:
            raise IdsExhausted(f"no id can name the time {time_ms} ms")
        if time_ms >= self._reservation.due_ms:
            self._reservation.extend(time_ms)
        self._last_ms = time_ms
        self._sequence = sequence
        return (time_ms - EPOCH_MS) << _TIME_SHIFT | self._node | sequence

    def skip(self, time_ms: int) -> None:
        """Give out no id of this time or before any more, durably.

        Raises what `reserve_now` raises; nothing has changed then.
        """
        if time_ms > self._last_ms:
            self._reservation.extend(time_ms)
            self._last_ms = time_ms
            self._sequence = SEQUENCES - 1

    def confirm(self, mark_ms: int) -> None:
        """Take note that the mark of a `reserve` call is durable."""
        self._reservation.confirm(mark_ms)
