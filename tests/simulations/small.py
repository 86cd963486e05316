"""A small scenario, as a struct and as a file."""

from pathlib import Path
from typing import Any

import msgspec

from simulations import loading
from simulations.scenario import Scenario
from tests.simulations import stand_ins

TEXT = """
name = "two-cities"
summary = "Two cities & a <line>"
driver = "world"
duration_s = 100
warm_up_s = 10

[topology]
kind = "complete"
nodes = 3

[[functions]]
name = "short"

[[workers]]

[[load]]
function = "short"
arrivals = { kind = "poisson", rate_per_s = 5 }

[[faults]]
kind = "partition"
at_s = 30
for_s = 20
nodes = 1
"""

CONDITION = """
[[pass]]
metric = "job.sojourn_s"
statistic = "p95"
at_most = {at_most}
"""


def scenario(**changes: Any) -> Scenario:
    """Return the scenario with other fields."""
    return msgspec.structs.replace(loading.parse(TEXT), **changes)


def write(directory: Path, *, at_most: float | None = None) -> Path:
    """Write the scenario into a file, with a condition if a limit is given."""
    path = directory / "two-cities.toml"
    path.write_text(TEXT + (CONDITION.format(at_most=at_most) if at_most is not None else ""))
    return path


def stand_in(name: str) -> str:
    """Return how a process finds one of the stand-ins."""
    return f"{stand_ins.HERE}:{name}"
