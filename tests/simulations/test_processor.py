"""The core of a node: one thing after another, in order, and at once where nothing takes time."""

import random

import trio

from simulations import clock
from simulations.distributions import Exponential
from simulations.processor import Processor
from simulations.scenario import Costs
from tests.simulations.worlds import run


def processor(costs: Costs) -> Processor:
    return Processor(clock.current(), costs, random.Random(1))


def test_what_takes_no_time_is_done_at_once() -> None:
    async def play() -> None:
        core, done = processor(Costs()), list[str]()
        core.frame(done.append, "frame")
        core.after_all(done.append, "end")
        await core.call()
        assert done == ["frame", "end"]
        assert trio.current_time() == 0

    run(play)


def test_a_frame_is_done_when_all_before_it_are() -> None:
    async def play() -> None:
        core, done = processor(Costs(frame_s=0.5)), list[tuple[int, float]]()
        for number in range(3):
            core.frame(lambda number=number: done.append((number, trio.current_time())))
        await trio.sleep(10)
        core.frame(lambda: done.append((3, trio.current_time())))
        await trio.sleep(1)
        assert done == [(0, 0.5), (1, 1.0), (2, 1.5), (3, 10.5)]

    run(play)


def test_the_end_of_a_stream_takes_no_time_and_overtakes_nothing() -> None:
    async def play() -> None:
        core, done = processor(Costs(frame_s=0.5)), list[str]()
        core.frame(done.append, "frame")
        core.after_all(done.append, "end")
        assert done == []
        await trio.sleep(0.5)
        core.after_all(done.append, "another, just when the frame is done")
        await trio.sleep(0.001)
        assert done == ["frame", "end", "another, just when the frame is done"]

    run(play)


def test_calls_and_frames_wait_for_each_other() -> None:
    async def play() -> None:
        core = processor(Costs(call_s=0.25, frame_s=1.0))
        core.frame(lambda: None)
        await core.call()
        assert trio.current_time() == 1.25

    run(play)


def test_a_busy_core_is_a_queue_whose_time_is_as_theory_has_it() -> None:
    """M/M/1 at a load of 0.5: from arrival to end, twice what a thing takes."""
    mean_s, count = 0.1, 4000

    async def play() -> float:
        core, took_s = processor(Costs(frame_s=Exponential(mean=mean_s))), list[float]()
        arrivals = random.Random(2)
        for _ in range(count):
            await trio.sleep(arrivals.expovariate(0.5 / mean_s))
            begun_s = trio.current_time()
            core.frame(lambda begun_s=begun_s: took_s.append(trio.current_time() - begun_s))
        await trio.sleep(100)
        assert len(took_s) == count
        return sum(took_s) / count

    assert abs(run(play) / (2 * mean_s) - 1) < 0.1
