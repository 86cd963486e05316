"""Single values of a scenario: whether a name, number, distribution or choice of nodes is one.

Each check takes the place as the file has it, and raises a `ScenarioError` that says what is
allowed there.
"""

import math
import re
from collections.abc import Iterable
from typing import Final, assert_never

from simulations.distributions import (
    Distribution,
    Exponential,
    Hyperexponential,
    Lognormal,
    Pareto,
    Uniform,
    mean,
)
from simulations.errors import ScenarioError
from simulations.tables import Nodes

TURNS_MAX: Final = 1_000_000
"""How often clients, nodes, links and workers go and come back. Source: 2 KB each in the trace."""
SIGMA_MAX: Final = 10.0
"""Of a lognormal. Source: guess; values of one are e^40 apart."""
SHAPE_MIN: Final = 0.1
"""Of a Pareto. Source: guess; values of one are 10^160 apart."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(place: str, name: str) -> None:
    """Raise `ScenarioError` for a name that no function or file could have."""
    if _NAME.fullmatch(name) is None:
        raise ScenarioError(
            place,
            f"{name[:80]!r} is not 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a-z, 0-9",
        )


def check_names(place: str, names: Iterable[str]) -> None:
    """Raise `ScenarioError` for names of tables that are none, or there twice."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        check_name(f"{place}[{number}].name", name)
        if name in seen:
            raise ScenarioError(
                f"{place}[{number}].name", f"{name!r} is {place}[{seen[name]}] already"
            )
        seen[name] = number


def check_whole(place: str, value: int, least: int, most: int) -> None:
    """Raise `ScenarioError` for a whole number out of its range."""
    if not least <= value <= most:
        raise ScenarioError(place, f"{value} is not {least} to {most}")


def check_at_most(place: str, value: float, most: float) -> None:
    """Raise `ScenarioError` for a number above its limit."""
    if value > most:
        raise ScenarioError(place, f"{value:g}; at most {most:g}")


def check_turns(place: str, turns: float) -> None:
    """Raise `ScenarioError` for something that happens too often."""
    if turns > TURNS_MAX:
        raise ScenarioError(place, f"{turns:.3g} events; at most {TURNS_MAX}")


def check_lasting(place: str, value: Distribution) -> None:
    """Raise `ScenarioError` for a time that is always 0."""
    check_distribution(place, value)
    if mean(value) <= 0:
        raise ScenarioError(place, "must be above 0")


def check_distribution(place: str, value: Distribution) -> None:
    """Raise `ScenarioError` for numbers that do not go together."""
    match value:
        case float() | int():
            return
        case Uniform(low=low, high=high):
            if low > high:
                raise ScenarioError(place, f"low {low:g} is above high {high:g}")
        case Lognormal(sigma=sigma):
            if sigma > SIGMA_MAX:
                what = f"{sigma:g}; at most {SIGMA_MAX:g}, it is of the logarithm"
                raise ScenarioError(f"{place}.sigma", what)
        case Pareto(minimum=minimum, shape=shape, maximum=maximum):
            if maximum is not None and maximum < minimum:
                raise ScenarioError(place, f"maximum {maximum:g} is below minimum {minimum:g}")
            if shape < SHAPE_MIN:
                raise ScenarioError(f"{place}.shape", f"{shape:g}; at least {SHAPE_MIN:g}")
        case Exponential() | Hyperexponential():
            pass
        case _:
            assert_never(value)
    if math.isnan(mean(value)):
        raise ScenarioError(place, "has no mean")


def check_nodes(place: str, which: Nodes, nodes: int) -> None:
    """Raise `ScenarioError` for nodes that are not there."""
    match which:
        case "all":
            return
        case int():
            if not 1 <= which <= nodes:
                raise ScenarioError(place, f"the first {which}; there are {nodes}, at least 1")
        case list():
            if not which:
                raise ScenarioError(place, "is empty; name at least one")
            for number, node in enumerate(which):
                if not 0 <= node < nodes:
                    raise ScenarioError(f"{place}[{number}]", f"{node} is not 0 to {nodes - 1}")
            if len(dict.fromkeys(which)) < len(which):
                raise ScenarioError(place, "has a node twice")


def count(which: Nodes, nodes: int) -> int:
    """Return how many of the nodes are meant."""
    return nodes if which == "all" else which if isinstance(which, int) else len(which)
