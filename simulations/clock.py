"""Virtual time: it stands still while anything can run, and jumps to what comes next.

    result = clock.run(main, seed=7)

runs trio under a `SimClock`.  trio asks a clock how long to sleep when no task is runnable, and
only then: that is when time jumps.  What is due at a time is either a deadline of trio's or a call
made with `call_at`, an ordinary function that costs no task; thousands of messages a virtual second
are delivered that way.

A run repeats to the last step.  trio shuffles tasks that are runnable at the same moment; `run`
seeds that, and has trio sort them first, by two names of trio's that are private (`_repeatable`).
tests/simulations/test_clock.py fails if a new trio does not have them, or asks a clock at other
moments.  Cycles of garbage are collected at points of the run, not by counting allocations: what
is finalised then may be an asynchronous generator, whose end is a task.

What it leaves out: real sockets, files that block and threads.  Nothing waits for them.
"""

import gc
import heapq
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, TypeVarTuple

import trio
from trio._core import _run as trio_run

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEPS_BETWEEN_COLLECTIONS: Final = 2_000
"""Steps between two looks for young garbage. Source: guess; some MB, and under 1 % of the time."""
COLLECTIONS_BETWEEN_FULL: Final = 50
"""Of them, each so many looks at all there is. Source: as above; 100 nodes take 0.2 s."""


class Stuck(Exception):
    """Every task waits, and nothing is left that could happen: nobody will ever wake them."""


class SimClock(trio.abc.Clock):
    """The clock of one run. Time is in seconds, from 0."""

    def __init__(self) -> None:
        self._now = 0.0
        self._calls: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = 0
        self._idle: list[trio.Event] = []
        self._scope: trio.CancelScope | None = None
        self.steps = 0
        """How often something ran until nothing could any more."""
        self.each_step: Callable[[], object] | None = None
        """Is called when nothing can run any more, before time goes on. What it raises ends the
        run."""
        self._failure: BaseException | None = None

    # --- for what runs under it -----------------------------------------------------------

    @property
    def now(self) -> float:
        """The time, as `trio.current_time()` has it."""
        return self._now

    def call_at(self, at_s: float, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call `function` at a time, after all that was to be called then before.

        It does not wait, and what it raises ends the run; a time that is over is now.  Nothing is
        called while a task can still run.
        """
        self._numbers += 1
        heapq.heappush(self._calls, (at_s, self._numbers, function, args))

    async def settled(self) -> None:
        """Return when nothing else can run before time goes on."""
        event = trio.Event()
        self._idle.append(event)
        await event.wait()

    # --- for trio -------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Begin; there is nothing to do."""

    def current_time(self) -> float:
        """Return the time."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Go on to the next thing that is due: no task is runnable. Returns 0: do not sleep."""
        self.steps += 1
        if self.steps % STEPS_BETWEEN_COLLECTIONS == 0:
            gc.collect(
                1 if self.steps % (STEPS_BETWEEN_COLLECTIONS * COLLECTIONS_BETWEEN_FULL) else 2
            )
        try:
            if self.each_step is not None:
                self.each_step()
            self._go_on(deadline)
        except BaseException as error:  # noqa: BLE001  (boundary: trio must not see it)
            self._fail(error)
        return 0.0

    def _go_on(self, deadline: float) -> None:
        if self._idle:
            idle, self._idle = self._idle, []
            for event in idle:
                event.set()
            return
        calls = self._calls
        if calls and calls[0][0] <= deadline:
            self._now = now = max(self._now, calls[0][0])
            while calls and calls[0][0] <= now:
                _, _, function, args = heapq.heappop(calls)
                function(*args)
        elif deadline < math.inf:
            self._now = max(self._now, deadline)
        else:
            self._fail(
                Stuck(f"at {self._now} s every task waits and nothing is left that could happen")
            )

    def _fail(self, error: BaseException) -> None:
        """End the run with an error; the first one counts."""
        if self._failure is None and self._scope is not None:
            self._failure = error
            self._scope.cancel()

    async def own(self, function: Callable[[], Awaitable[T]]) -> T:
        """Return what `function()` returns. Raises what a call or a step raised, and `Stuck`."""
        with trio.CancelScope() as self._scope:
            result = await function()
            if self._failure is None:
                return result
        assert self._failure is not None
        raise self._failure


def run(
    function: Callable[[*Ts], Awaitable[T]], *args: *Ts, seed: int, clock: SimClock | None = None
) -> T:
    """Return what `await function(*args)` returns, run in virtual time that repeats with `seed`.

    Raises what it raises, and `Stuck`.
    """
    clock = clock or SimClock()
    with _repeatable(seed):
        result: T = trio.run(clock.own, lambda: function(*args), clock=clock)
    return result


def current() -> SimClock:
    """Return the clock of the run that this is part of. Raises `TypeError` if it is another's."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, SimClock):
        raise TypeError("this is no run in virtual time")
    return clock


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Have trio choose among runnable tasks by `seed`, and Python collect garbage when told to."""
    module: Any = trio_run
    was_sorted, collects = module._ALLOW_DETERMINISTIC_SCHEDULING, gc.isenabled()  # noqa: SLF001
    module._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    module._r.seed(seed)  # noqa: SLF001
    gc.collect()
    gc.freeze()  # What was there before is no part of the run.
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.collect()
        module._ALLOW_DETERMINISTIC_SCHEDULING = was_sorted  # noqa: SLF001
        if collects:
            gc.enable()
