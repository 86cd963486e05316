"""`peernode up` by a wall clock that a test steps: the launcher, and the test's end of it.

    python stepped_node.py CLOCK --data DIR --http ... (settings by the names of `up`'s flags)

CLOCK is a file with eight bytes, the milliseconds that the clock is ahead, which both have mapped.
Everything else is `up`: the same node in a process of its own.
"""

import mmap
import os
import sys
from pathlib import Path

from peernode import config, daemon
from storage.clock import SystemClock

SIZE_BYTES = 8


class SteppedClock:
    """The system's wall clock, and what a file says on top."""

    def __init__(self, file: Path) -> None:
        self._system = SystemClock()
        if not file.exists():
            file.write_bytes(bytes(SIZE_BYTES))
        with file.open("r+b") as opened:
            self._mapped = mmap.mmap(opened.fileno(), SIZE_BYTES)

    def wall_ms(self) -> int:
        return self._system.wall_ms() + int.from_bytes(self._mapped[:], "big", signed=True)

    def step_to(self, ahead_s: float) -> None:
        """Have the clock be so far ahead of the system's from now on."""
        self._mapped[:] = int(ahead_s * 1000).to_bytes(SIZE_BYTES, "big", signed=True)


def main(clock: str, *flags: str) -> int:
    names = [flag.removeprefix("--") for flag in flags[::2]]
    settings = config.load(None, os.environ, dict(zip(names, flags[1::2], strict=True)))
    return daemon.run(settings, SteppedClock(Path(clock)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
