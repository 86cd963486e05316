import gc
import inspect
import math
import subprocess
import sys
from typing import Any

import pytest
import trio
from trio._core import _run as trio_run

from simulations import clock
from simulations.clock import SimClock, Stuck

WORKERS = 30


def test_an_hour_takes_no_time() -> None:
    async def main() -> float:
        await trio.sleep(3600.0)
        return trio.current_time()

    assert clock.run(main, seed=0) == 3600.0


def test_time_stands_still_while_anything_can_run() -> None:
    async def main() -> float:
        for _ in range(1000):
            await trio.lowlevel.checkpoint()
        return clock.current().now

    assert clock.run(main, seed=0) == 0.0


def test_calls_are_made_in_order_of_time_and_of_asking() -> None:
    said: list[tuple[str, float]] = []

    async def main() -> None:
        ours = clock.current()
        for at_s, what in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (2.0, "d")):
            ours.call_at(at_s, lambda what=what: said.append((what, ours.now)))
        await trio.sleep(1.5)
        said.append(("slept", ours.now))
        await trio.sleep(1.5)

    clock.run(main, seed=0)
    assert said == [("a", 1.0), ("b", 1.0), ("slept", 1.5), ("c", 2.0), ("d", 2.0)]


def test_a_call_for_a_time_that_is_over_is_made_now() -> None:
    async def main() -> float:
        await trio.sleep(5.0)
        called = trio.Event()
        clock.current().call_at(1.0, called.set)
        await called.wait()
        return trio.current_time()

    assert clock.run(main, seed=0) == 5.0


def test_settled_is_when_nothing_else_can_run() -> None:
    async def main() -> tuple[int, float]:
        passed = 0

        async def work() -> None:
            nonlocal passed
            for _ in range(50):
                await trio.lowlevel.checkpoint()
                passed += 1
            await trio.sleep(1.0)
            passed += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await clock.current().settled()
            seen = passed, trio.current_time()
        return seen

    assert clock.run(main, seed=0) == (50, 0.0)


def test_a_run_in_which_nothing_can_happen_any_more_says_so() -> None:
    async def main() -> None:
        await trio.sleep(2.0)
        await trio.sleep_forever()

    with pytest.raises(Stuck, match=r"at 2\.0 s"):
        clock.run(main, seed=0)


def test_what_a_call_raises_ends_the_run() -> None:
    def fall() -> None:
        raise ValueError("fell")

    async def main() -> None:
        clock.current().call_at(1.0, fall)
        await trio.sleep(10.0)

    with pytest.raises(ValueError, match="fell"):
        clock.run(main, seed=0)


def test_each_step_is_looked_at_and_may_end_the_run() -> None:
    async def main() -> None:
        ours = clock.current()

        def look() -> None:
            assert ours.now < 3.0, "it is late"

        ours.each_step = look
        for _ in range(10):
            await trio.sleep(1.0)

    with pytest.raises(AssertionError, match="it is late"):
        clock.run(main, seed=0)


async def jostle() -> list[int]:
    """Return the order in which tasks that all wait for one thing go on."""
    order: list[int] = []
    start = trio.Event()

    async def work(number: int) -> None:
        await start.wait()
        await trio.lowlevel.checkpoint()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(WORKERS):
            nursery.start_soon(work, number)
        await clock.current().settled()
        start.set()
    return order


def test_the_seed_decides_who_goes_first() -> None:
    orders = [clock.run(jostle, seed=seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(WORKERS))


def test_the_order_is_the_same_in_another_process() -> None:
    program = "from tests.simulations.test_clock import *; print(clock.run(jostle, seed=5))"
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    ]
    assert said == [str(clock.run(jostle, seed=5))] * 2


def test_a_run_leaves_trio_and_the_collector_as_they_were() -> None:
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, gc.isenabled()

    async def main() -> bool:
        return gc.isenabled()

    assert clock.run(main, seed=0) is False
    assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, gc.isenabled()) == before


def test_other_clocks_are_not_ours() -> None:
    async def main() -> None:
        clock.current()

    with pytest.raises(TypeError, match="virtual time"):
        trio.run(main)


class Watching(SimClock):
    """Notes how many tasks were runnable whenever it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.runnable: list[int] = []
        self.stepped = 0
        self.asked_at: list[int] = []

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self.runnable.append(len(trio_run.GLOBAL_RUN_CONTEXT.runner.runq))
        self.asked_at.append(self.stepped)
        return super().deadline_to_sleep_time(deadline)


class Steps(trio.abc.Instrument):
    def __init__(self, watching: Watching) -> None:
        self.watching = watching
        self.waits: list[float] = []

    def before_task_step(self, _: trio.lowlevel.Task) -> None:
        self.watching.stepped += 1

    def before_io_wait(self, timeout: float) -> None:
        self.waits.append(timeout)


def test_trio_asks_the_clock_exactly_when_no_task_is_runnable() -> None:
    """The whole clock rests on this; see `trio._core._run.unrolled_run`."""
    watching = Watching()
    steps = Steps(watching)

    async def busy() -> None:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        await trio.sleep(1.0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(busy)

    trio.run(main, clock=watching, instruments=[steps])
    assert set(watching.runnable) == {0}
    # Each pass of the loop waits for I/O; only those that found nothing runnable asked.
    assert 0 < len(watching.asked_at) < len(steps.waits) / 4
    assert set(steps.waits) == {0.0}


def test_trio_has_the_switches_that_make_runs_repeat() -> None:
    assert trio_run._ALLOW_DETERMINISTIC_SCHEDULING in (True, False)
    assert hasattr(trio_run._r, "seed")
    loop = inspect.getsource(trio_run.unrolled_run)
    for needed in (
        "if _ALLOW_DETERMINISTIC_SCHEDULING:",
        "batch.sort(key=lambda t: t._counter)",
        "_r.shuffle(batch)",
    ):
        assert needed in loop, f"trio {trio.__version__} chooses among tasks in another way"


def test_the_first_failure_is_the_one_that_is_told() -> None:
    ours = SimClock()

    def fall(what: str) -> None:
        raise ValueError(what)

    async def main() -> Any:
        ours.call_at(1.0, fall, "first")
        ours.call_at(1.0, fall, "second")
        with trio.CancelScope(shield=True):
            await trio.sleep(2.0)
        await trio.sleep(math.inf)

    with pytest.raises(ValueError, match="first"):
        clock.run(main, seed=0, clock=ours)
