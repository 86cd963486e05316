"""Chance by name, and clocks and keys that a run repeats.

Everything random in a run comes from its seed and a name: `named(seed, "jitter", 3)` is the same
generator in every process, and drawing from it moves no other one.  So a scenario that draws once
more for its clients has the same links, jobs and faults as before.
"""

import hashlib
import random
from collections.abc import Callable
from typing import Final

START_MS: Final = 1_800_000_000_000
"""What every wall clock shows when a run begins: 2027-01-15 08:00 UTC."""


def named(seed: int, *names: str | int) -> random.Random:
    """Return the generator of this name, at its beginning."""
    return random.Random(int.from_bytes(_digest(seed, names), "big"))


class SeededEntropy:
    """A `storage.clock.Entropy` whose bytes follow from a seed and a name."""

    def __init__(self, seed: int, *names: str | int) -> None:
        self._key = _digest(seed, ("entropy", *names))
        self._drawn = 0

    def token_bytes(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` bytes."""
        self._drawn += 1
        drawn = self._key + self._drawn.to_bytes(8, "big")
        return hashlib.shake_256(drawn).digest(size_bytes)


class VirtualClock:
    """A `storage.clock.Clock` over virtual time, that may step and run fast or slow.

    `now()` is the virtual time in seconds.
    """

    def __init__(self, now: Callable[[], float], start_ms: int = START_MS) -> None:
        self._now = now
        self._drift_ppm = 0.0
        self._shown_ms = float(start_ms)
        self._since_s = now()

    def wall_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC, as this clock has them."""
        return int(self._at_ms())

    @property
    def drift_ppm(self) -> float:
        """How much too fast it runs, in parts in a million."""
        return self._drift_ppm

    @drift_ppm.setter
    def drift_ppm(self, drift_ppm: float) -> None:
        self.step(0.0)
        self._drift_ppm = drift_ppm

    def step(self, seconds: float) -> None:
        """Jump, back too."""
        self._shown_ms, self._since_s = self._at_ms() + seconds * 1000.0, self._now()

    def _at_ms(self) -> float:
        passed_s = self._now() - self._since_s
        return self._shown_ms + passed_s * 1000.0 * (1.0 + self._drift_ppm / 1e6)


def _digest(seed: int, names: tuple[str | int, ...]) -> bytes:
    # Lengths and kinds are written too: ("a", 1) is none of ("a1",), ("a", "1").
    parts = [f"{type(name).__name__}:{len(str(name))}:{name}" for name in (seed, *names)]
    return hashlib.sha256("/".join(parts).encode()).digest()
