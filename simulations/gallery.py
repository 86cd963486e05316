"""The scenarios that are shipped, and about how long each takes.

How long is CPU time of one replication, measured once on two slow cores and kept beside the
scenarios (`took.json`); `peernode sim list --measure` measures it anew.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from simulations import loading
from simulations.replica import Task
from simulations.replications import perform
from simulations.scenario import Scenario

TOOK: Final = loading.GALLERY / "took.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One of them."""

    name: str
    scenario: Scenario
    took_s: float | None
    """CPU time of one replication; `None`: not measured."""


def entries() -> list[Entry]:
    """Return all, by name."""
    took: dict[str, float] = json.loads(TOOK.read_text("utf-8")) if TOOK.is_file() else {}
    return [
        Entry(name=name, scenario=loading.load(path), took_s=took.get(name))
        for name, path in loading.gallery().items()
    ]


def measure(tell: Callable[[str], None]) -> None:
    """Run each once, and note how long it took. Raises as `replications.perform` does."""
    took = {}
    for entry in entries():
        task = Task(scenario=entry.scenario, seed=1, directory=str(loading.GALLERY), fresh=True)
        (outcome,) = perform([task])
        took[entry.name] = round(outcome.cpu_s, 1)
        tell(f"{entry.name}: {outcome.cpu_s:.1f} s")
    TOOK.write_text(json.dumps(took, indent=2) + "\n", "utf-8")
