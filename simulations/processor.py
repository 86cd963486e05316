"""What a node's work takes of virtual time: its one core, which does one thing after another.

    processor = Processor(clock, costs, rng)
    processor.frame(deliver, frame)         is called when the frame has had its turn
    await processor.call()                  returns when the call has

A node is one process with one thread that decides, so what arrives while it is at work waits: a
single server, first come, first served.  With `scenario.Costs` of nothing, which is the default,
no virtual time goes by and nothing is drawn: calls are made at once.

What it leaves out: other threads (a commit takes the disk's time, see `VirtualDisk`), and that a
large frame takes longer than a small one; both are part of what is drawn.
"""

import random
from collections.abc import Callable

import trio

from simulations.clock import SimClock
from simulations.distributions import draw
from simulations.scenario import Costs


class Processor:
    """The core of one node."""

    def __init__(self, clock: SimClock, costs: Costs, rng: random.Random) -> None:
        self._clock = clock
        self._costs = costs
        self._rng = rng
        self._free_at = -1.0
        """When all that has arrived will be done."""

    def frame(self, act: Callable[..., object], *args: object) -> None:
        """Have `act(*args)` be called when a frame that has just arrived has had its turn."""
        self._do(draw(self._costs.frame_s, self._rng), act, *args)

    def after_all(self, act: Callable[..., object], *args: object) -> None:
        """The same, for what takes no time and overtakes nothing: the end of a stream."""
        self._do(0.0, act, *args)

    async def call(self) -> None:
        """Return when a call of the API that has just arrived has had its turn."""
        takes_s = draw(self._costs.call_s, self._rng)
        if not self._is_free(takes_s):
            done = trio.Event()
            self._do(takes_s, done.set)
            await done.wait()

    def _do(self, takes_s: float, act: Callable[..., object], *args: object) -> None:
        if self._is_free(takes_s):
            act(*args)
            return
        self._free_at = max(self._clock.now, self._free_at) + takes_s
        self._clock.call_at(self._free_at, act, *args)

    def _is_free(self, takes_s: float) -> bool:
        """Tell whether something is done at once: it takes no time, and nothing is before it."""
        return takes_s == 0 and self._free_at < self._clock.now
