"""The questions, one module each: scenarios over a range, the theory beside them, a verdict.

| | |
|---|---|
| `e1` | a synchronous call against an asynchronous one, when clients come and go |
| `e2` | short jobs and long ones |
| `e3` | workers that are not alike |
| `e4` | which of many nodes takes a job |
| `e5` | how soon all nodes know of a change |
| `e6` | fetching on demand against copying everywhere |
| `e7` | two halves that find together |
| `e8` | what a node costs while nothing happens |
| `e9` | workers that crash |

`experiment` is what all are made of; `simulations.evaluation` runs them and writes what comes out
onto docs/evaluation.md.
"""

from importlib import import_module
from typing import Final

from simulations.experiments.experiment import Experiment, Size

NAMES: Final = ("e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9")


def experiments(size: Size, names: tuple[str, ...] = NAMES) -> list[Experiment]:
    """Return the experiments, in order. Raises `ValueError` for a name that is none."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"no experiment: {name}; there is {', '.join(NAMES)}")
    made: list[Experiment] = [
        import_module(f"simulations.experiments.{name}").experiment(size) for name in names
    ]
    return made
