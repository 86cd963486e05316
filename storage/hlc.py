"""Hybrid logical clock: timestamps that order what depends on each other, near the wall clock.

A timestamp is `ms << 16 | counter`, 63 bits, ms since 1970.  Each local event takes the wall clock
or one more than the last timestamp, whichever is larger; a timestamp from elsewhere moves the last
one up.  So whatever a node writes after it has seen a record is later than that record, however the
two clocks stand, and a counter that overflows simply runs into the milliseconds.

A clock far ahead must not drag others along: a timestamp more than `AHEAD_MAX_MS` in the future is
not merged but deferred, to be offered again later; it is never held against its sender.  One that
moves the last timestamp by no millisecond drags nobody: nodes whose wall clocks all stepped back
after they had written go on hearing each other.

Timestamps are strictly increasing across restarts (`reservation`).  A merged timestamp asks for its
mark at once: submit the record after `observe`, and the mark is durable with or before it.

Kulkarni, Demirbas et al., "Logical physical clocks" (OPODIS 2014).  They keep the wall time and the
counter apart on overflow; here the counter may borrow.
"""

import enum
from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import msgspec

from storage.clock import Clock
from storage.reservation import Reservation

COUNTER_BITS: Final = 16
AHEAD_MAX_MS: Final = 60_000
"""Largest lead of another clock that is followed. Source: guess; NTP keeps within a second."""
TIMESTAMP_END: Final = 1 << 63
"""Timestamps are below this: signed 64-bit, and 47 bits of milliseconds last to the year 6429."""


Timestamp: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=TIMESTAMP_END - 1)]
"""A timestamp as a field of something decoded."""


class Observation(enum.Enum):
    """What became of a timestamp from elsewhere."""

    MERGED = "merged"
    DEFER = "defer"


def physical_ms(timestamp: int) -> int:
    """Return the milliseconds since 1970 in a timestamp."""
    return timestamp >> COUNTER_BITS


def first_of(time_ms: int) -> int:
    """Return the smallest timestamp of a millisecond."""
    return time_ms << COUNTER_BITS


class HybridClock:
    """The clock of one node."""

    def __init__(
        self,
        clock: Clock,
        high_water_ms: int,
        reserve: Callable[[int], None],
        reserve_now: Callable[[int], None],
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """Continue above `high_water_ms`, the durable mark (0: none yet); see `ids.IdFactory`."""
        self._wall_ms = clock.wall_ms
        self._last = first_of(high_water_ms) - 1
        self._guard = guard
        self._reservation = Reservation(high_water_ms, reserve, reserve_now)

    @property
    def high_water_ms(self) -> int:
        """The confirmed mark: all timestamps issued so far are older."""
        return self._reservation.confirmed_ms

    @property
    def reached_ms(self) -> int:
        """The latest time that has certainly come: a wall clock that shows less was put back."""
        return max(self._wall_ms(), self._last >> COUNTER_BITS)

    def tick(self) -> int:
        """Return a timestamp later than all that were issued or merged.

        Raises what `guard` or `reserve_now` raises; the timestamp is not used up then.
        """
        self._guard()
        timestamp = max(self._wall_ms() << COUNTER_BITS, self._last + 1)
        time_ms = timestamp >> COUNTER_BITS
        if time_ms >= self._reservation.due_ms:
            self._reservation.extend(time_ms)
        self._last = timestamp
        return timestamp

    def is_ahead(self, timestamp: int) -> bool:
        """Tell whether a timestamp from elsewhere is too far ahead of both clocks."""
        time_ms = timestamp >> COUNTER_BITS
        return time_ms > max(self._wall_ms() + AHEAD_MAX_MS, self._last >> COUNTER_BITS)

    def observe(self, timestamp: int) -> Observation:
        """Merge a timestamp from elsewhere, unless it is too far ahead."""
        if self.is_ahead(timestamp):
            return Observation.DEFER
        if timestamp > self._last:
            self._last = timestamp
            time_ms = timestamp >> COUNTER_BITS
            if time_ms >= self._reservation.due_ms:
                self._reservation.request(time_ms)
        return Observation.MERGED

    def skip(self, time_ms: int) -> None:
        """Give out no timestamp of this time or before any more, like `ids.IdFactory.skip`."""
        self._reservation.extend(time_ms)
        self._last = max(self._last, first_of(time_ms + 1) - 1)

    def confirm(self, mark_ms: int) -> None:
        """Take note that the mark of a `reserve` call is durable."""
        self._reservation.confirm(mark_ms)
