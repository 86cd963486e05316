"""What a World writes into its trace, at the time that a scenario knows.

A scenario's time begins when everything is set up: nodes, users, functions, workers.  What happens
before that is in the trace at time 0.
"""

from simulations.clock import SimClock
from simulations.trace import Field, Trace


class Journal:
    """A trace, and the time since the scenario began."""

    def __init__(self, clock: SimClock, trace: Trace) -> None:
        self.clock = clock
        self.trace = trace
        self._began_at_s: float | None = None
        self._has_ended = False

    @property
    def now(self) -> float:
        """Seconds since the scenario began, to a nanosecond; 0 before.

        Rounded, so that whoever slept until 30 finds that it is 30, and not a trifle less.
        """
        if self._began_at_s is None:
            return 0.0
        return round(self.clock.now - self._began_at_s, 9)

    def begin(self) -> None:
        """Have the scenario's time begin. Raises `ValueError` if it has begun."""
        if self._began_at_s is not None:
            raise ValueError("the scenario has begun already")
        self._began_at_s = self.clock.now

    def clock_time(self, at_s: float) -> float:
        """Return what the clock shows at a time of the scenario. Raises `ValueError` before it."""
        if self._began_at_s is None:
            raise ValueError("the scenario has not begun")
        return self._began_at_s + at_s

    def end(self) -> None:
        """Take note of nothing any more: what happens from now on is only clearing away."""
        self._has_ended = True

    def record(self, kind: str, **fields: Field) -> None:
        """Add an event of now."""
        if not self._has_ended:
            self.trace.record(self.now, kind, **fields)
