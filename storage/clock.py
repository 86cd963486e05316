"""Time and chance, as arguments.

Nothing in the five packages reads a clock or draws a random byte on its own: it is given a `Clock`
and an `Entropy`, so that a simulation can give it others.  Monotonic time for leases and time-outs
is the caller's `now` (trio's clock in a node); the wall clock is for ids and for what people read.
"""

import os
import time
from typing import Protocol


class Clock(Protocol):
    """The wall clock."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC. May step backwards."""
        ...


class Entropy(Protocol):
    """Where keys, secrets, salts and nonces come from."""

    def token_bytes(self, size_bytes: int) -> bytes:
        """Return `size_bytes` unpredictable bytes."""
        ...


class SystemClock:
    """The operating system's wall clock."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000  # noqa: TID251  (the one place)


class SystemEntropy:
    """The operating system's random bytes."""

    def token_bytes(self, size_bytes: int) -> bytes:
        """Return `size_bytes` from `getrandom`."""
        return os.urandom(size_bytes)
