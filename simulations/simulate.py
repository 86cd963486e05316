"""One run: a scenario and a seed in, what was measured and a hash of all that happened out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulations.metrics import Metrics
from simulations.scenario import Scenario

if TYPE_CHECKING:
    from simulations.topology import Graph


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
    """Run a scenario once. Raises `ScenarioError` for one that cannot be run."""
    raise NotImplementedError
