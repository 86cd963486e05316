"""A mark on disk ahead of a clock: what makes ids and timestamps unique across restarts.

Whatever issues numbers that grow with time must not issue one twice, although the machine may lose
power and its clock may step back meanwhile.  So a *mark* is made durable first: everything issued
lies below it, and after a restart everything issued lies at or above it.

The rule, in milliseconds:

* below the confirmed mark, issue freely;
* from half a reservation before the mark on, ask for the next one with `reserve(mark)`, which only
  submits the write; whoever submitted it calls `confirm(mark)` once it is durable;
* at or above the mark, `reserve_now(mark)` writes it and blocks until it is durable.  This is the
  fallback: after an idle time longer than half a reservation, after a clock that jumped ahead, or
  behind a disk slower than half a reservation.  It costs one commit and then lasts.

A write that failed is not confirmed, so nothing is issued that the disk did not promise; then
`reserve_now` raises what the store raises, and nothing is issued either.

What it leaves out: threads.  All calls come from the loop's own.
"""

from collections.abc import Callable
from typing import Final

RESERVATION_MS: Final = 5_000
"""How far ahead a mark is set. Source: guess; a crash moves ids at most this far ahead of time, and
a busy node writes a mark every half of it."""


class Reservation:
    """Keeps the confirmed mark ahead of what is issued."""

    def __init__(
        self,
        high_water_ms: int,
        reserve: Callable[[int], None],
        reserve_now: Callable[[int], None],
    ) -> None:
        """`high_water_ms` is the durable mark: 0 on a first start."""
        self._confirmed_ms = high_water_ms
        self._requested_ms = high_water_ms
        self._reserve = reserve
        self._reserve_now = reserve_now
        self.due_ms = high_water_ms - RESERVATION_MS // 2
        """From this time on, `extend` must be called before anything is issued."""

    @property
    def confirmed_ms(self) -> int:
        """The mark that is durable."""
        return self._confirmed_ms

    def extend(self, time_ms: int) -> None:
        """Make `time_ms` lie below the confirmed mark, and ask for the next mark when it is near.

        Raises what `reserve_now` raises; then nothing at `time_ms` may be issued.
        """
        if time_ms >= self._confirmed_ms:
            mark_ms = time_ms + RESERVATION_MS
            self._reserve_now(mark_ms)
            self._requested_ms = max(self._requested_ms, mark_ms)
            self.confirm(mark_ms)
        elif time_ms >= self._requested_ms - RESERVATION_MS // 2:
            self.request(time_ms)

    def request(self, time_ms: int) -> None:
        """Ask for a mark a full reservation after `time_ms`, unless one as high was asked for."""
        mark_ms = time_ms + RESERVATION_MS
        if mark_ms <= self._requested_ms:
            return
        self._requested_ms = mark_ms
        self.due_ms = self._confirmed_ms
        self._reserve(mark_ms)

    def confirm(self, mark_ms: int) -> None:
        """Take note that `mark_ms` is durable. Late and repeated calls do no harm."""
        if mark_ms <= self._confirmed_ms:
            return
        self._confirmed_ms = mark_ms
        self.due_ms = max(mark_ms, self._requested_ms) - RESERVATION_MS // 2
        self.due_ms = min(self.due_ms, mark_ms)
