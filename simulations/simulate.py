"""One run: a scenario and a seed in, what was measured and a hash of all that happened out."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from simulations.metrics import Metrics
from simulations.scenario import Scenario
from simulations.trace import Trace

if TYPE_CHECKING:
    from simulations.topology import Graph

T = TypeVar("T")

EVERYWHERE: Final = ""
"""The node of a failure that is no one node's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run gave."""

    seed: int
    trace_hash: str
    metrics: Metrics
    virtual_s: float
    """How much time passed in it."""
    cpu_s: float
    """How much processor time it took. Not part of what repeats."""
    events: int
    failure: "Failure | None" = None
    graph: "Graph | None" = None
    """Who was linked with whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An invariant that did not hold, or an exception that nobody expected."""

    at_s: float
    node: str
    what: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, not what: nothing of this changes the trace hash."""

    checking: bool = False
    """Assert every invariant after each step; several times slower."""
    keep: Callable[[str], None] | None = None
    """Is given each event, one JSON line."""
    progress: Callable[[float], None] | None = None
    """Is told the virtual time now and then."""
    directory: str = "."
    """What relative paths in the scenario are relative to."""


def simulate(scenario: Scenario, seed: int, options: Options | None = None) -> Result:
    """Run a scenario once.

    The first failure ends the run; what was measured until then is part of the result.  Raises
    `ScenarioError` for a scenario that cannot be run, and what `keep` and `progress` raise.
    """
    from simulations.checking import check

    options = options or Options()
    check(scenario, options.directory)
    if scenario.driver == "swarm":
        from simulations.swarm_play import play

        return play(scenario, seed, options)
    return _play_world(scenario, seed, options)


def _play_world(scenario: Scenario, seed: int, options: Options) -> Result:
    """Run a scenario of whole daemons."""
    from simulations import chance, clock, topology
    from simulations.errors import ScenarioError
    from simulations.invariants import Broken
    from simulations.links import Lines
    from simulations.play import Play
    from simulations.world import open_world

    begun_s = time.process_time()
    told = _Told()
    trace, metrics = Trace(told.guarded(options.keep)), Metrics()
    graph = topology.build(
        scenario.topology, scenario.link, chance.named(seed, "topology"), options.directory
    )
    lines = Lines(graph, scenario.link, chance.named(seed, "lines"))
    virtual_s = 0.0

    async def main() -> None:
        nonlocal virtual_s
        async with open_world(
            scenario,
            seed,
            trace,
            metrics,
            graph=graph,
            lines=lines,
            checking=options.checking,
        ) as world:
            try:
                await Play(
                    world,
                    scenario,
                    trace,
                    metrics,
                    directory=options.directory,
                    progress=told.guarded(options.progress),
                ).run()
            finally:
                virtual_s = world.now

    failure: Failure | None = None
    try:
        clock.run(main, seed=seed)
    except Exception as error:  # noqa: BLE001  (boundary: what a run lets out is its failure)
        first = _first(error)
        if told.error is not None or isinstance(first, ScenarioError | MemoryError):
            raise told.error or first from None
        failure = _failure(first, virtual_s)
        if not isinstance(first, Broken):  # which is in the trace already
            trace.record(failure.at_s, "check", what=failure.what, node=failure.node)
    return Result(
        seed=seed,
        trace_hash=trace.digest(),
        metrics=metrics,
        virtual_s=virtual_s,
        cpu_s=time.process_time() - begun_s,
        events=trace.length,
        failure=failure,
        graph=graph,
    )


class _Told:
    """Remembers what a caller's own function raised: that is no failure of the run."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def guarded(self, function: Callable[[T], None] | None) -> Callable[[T], None] | None:
        """Return the same function; what it raises ends the run, and is remembered."""
        if function is None:
            return None

        def call(value: T) -> None:
            try:
                function(value)
            except BaseException as error:
                self.error = self.error or error
                raise

        return call


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group of them, or of groups in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _failure(error: BaseException, at_s: float) -> Failure:
    """Return what an error says of a run. One that knows its node has it as `node`."""
    node = getattr(error, "node", EVERYWHERE)
    what = f"{type(error).__name__}: {error}"
    for note in getattr(error, "__notes__", ()):
        what += f" ({note})"
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return Failure(at_s=at_s, node=str(node), what=what, traceback="".join(lines))
