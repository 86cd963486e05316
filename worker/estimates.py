"""How long jobs of a program take, and where less: weighted means of what was measured.

The mean RFC 6298 keeps of round-trip times: the first measurement as it is, each later one with a
fixed weight.  One mean for each program says how much work may wait at a worker, when a slot will
be free, and when a job that waits will start; wrong guesses cost little (`recall_s` for the first).

Beside it one mean for each *class* of workers (`class_of`: equal architecture, accelerators,
backends, and speed within a factor of two).  Their *ranks*, two for each doubling of the run time,
say where a program runs faster; smaller differences are noise and are not seen.  Both are bounded:
the programs first seen are forgotten when there are too many, and so are classes.
"""

from collections.abc import Mapping
from math import log2
from typing import Final

from worker.protocol import Offer

RANKS_PER_DOUBLING: Final = 2
"""How fine run times are told apart: a factor of 1.4. Source: guess; jobs of one program differ by
less on one machine, as a rule."""
RUN_MIN_S: Final = 1e-6
"""Shorter runs count as this long, so that they have a logarithm."""
CLASS_LENGTH_MAX: Final = 256
"""Longest name of a class. Source: guess; five times a usual one, and a worker chooses it."""


def class_of(offer: Offer) -> str:
    """Return the class of a worker's hardware: programs run as fast on all workers of one."""
    kinds = sorted(accelerator.kind.lower() for accelerator in offer.accelerators)
    parts = (offer.arch, ",".join(kinds), ",".join(offer.backends), str(speed_of(offer)))
    return "/".join(parts)[-CLASS_LENGTH_MAX:]


def speed_of(offer: Offer) -> int:
    """Return how often a machine's measured speed doubles; 0: not measured."""
    return offer.speed_rounds_per_s.bit_length()


class Program:
    """What was measured of one program."""

    __slots__ = ("mean_s", "means_s")

    def __init__(self, run_s: float) -> None:
        self.mean_s = run_s
        """Over all workers."""
        self.means_s: dict[str, float] = {}
        """By class of workers."""


class Estimates:
    """Mean run times by program, and by class of workers within each."""

    def __init__(self, weight: float, programs_max: int, classes_max: int) -> None:
        self._weight = weight
        self._programs_max = programs_max
        self._classes_max = classes_max
        self._programs: dict[str, Program] = {}

    def get(self, program: str) -> float | None:
        """Return the expected run time in seconds, `None` for a program never measured."""
        measured = self._programs.get(program)
        return measured.mean_s if measured is not None else None

    def get_on(self, program: str, class_name: str) -> float | None:
        """Return the expected run time on workers of a class, or else on any; `None`: unknown."""
        measured = self._programs.get(program)
        if measured is None:
            return None
        return measured.means_s.get(class_name, measured.mean_s)

    def ranks(self, program: str, from_s: float) -> Mapping[str, int] | None:
        """Return the rank of each class for a program: lower is faster.

        `None` when there is nothing to choose by: fewer than two classes are measured, or the
        program takes less than `from_s`.
        """
        measured = self._programs.get(program)
        if measured is None or measured.mean_s < from_s or len(measured.means_s) < 2:
            return None
        return {
            class_name: round(RANKS_PER_DOUBLING * log2(max(mean_s, RUN_MIN_S)))
            for class_name, mean_s in measured.means_s.items()
        }

    def measure(self, program: str, run_s: float, class_name: str) -> None:
        """A job took `run_s` on a worker of this class."""
        measured = self._programs.get(program)
        if measured is None:
            if len(self._programs) >= self._programs_max:
                del self._programs[next(iter(self._programs))]
            measured = self._programs[program] = Program(run_s)
        else:
            measured.mean_s += self._weight * (run_s - measured.mean_s)
        means_s = measured.means_s
        mean_s = means_s.get(class_name)
        if mean_s is not None:
            means_s[class_name] = mean_s + self._weight * (run_s - mean_s)
            return
        if len(means_s) >= self._classes_max:
            del means_s[next(iter(means_s))]
        means_s[class_name] = run_s

    def at_least(self, program: str, elapsed_s: float) -> None:
        """A job is not over after `elapsed_s`: expect no less."""
        measured = self._programs.get(program)
        if measured is not None and measured.mean_s < elapsed_s:
            measured.mean_s = elapsed_s

    def __len__(self) -> int:
        """Return how many programs were measured."""
        return len(self._programs)
