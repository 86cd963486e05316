"""Short World runs for tests: a scenario of few words, played once, and what it said."""

import json
from typing import Any

from simulations.scenario import AtOnce, Complete, Function, Load, Scenario, Workers
from simulations.simulate import Options, Result, simulate


def scenario(nodes: int = 1, **fields: Any) -> Scenario:
    """Return a scenario of a few linked nodes, with one worker each and a function of 1 s."""
    stated: dict[str, Any] = {
        "name": "test",
        "duration_s": 20.0,
        "drain_s": 60.0,
        "topology": Complete(nodes=nodes),
        "workers": [Workers()],
        "functions": [Function(name="short", duration_s=1.0)],
    }
    return Scenario(**(stated | fields))


def job(model: str = "async", *, at_s: float = 0.0, count: int = 1, **fields: Any) -> Load:
    """Return the load of so many jobs of `short`, all at once."""
    arrivals = AtOnce(count=count, at_s=at_s)
    return Load(function="short", arrivals=arrivals, model=model, **fields)


def played(described: Scenario, seed: int = 1, **options: Any) -> Result:
    """Play a scenario that nothing goes wrong in."""
    result = simulate(described, seed, Options(**options))
    assert result.failure is None, result.failure.traceback
    return result


def events(described: Scenario, kind: str, seed: int = 1) -> list[dict[str, Any]]:
    """Return the events of a kind, in order."""
    lines: list[str] = []
    played(described, seed, keep=lines.append)
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def value(result: Result, metric: str, label: str | None = None) -> float:
    """Return the one value of a metric."""
    (found,) = result.metrics.values(metric, label=label)
    return found
