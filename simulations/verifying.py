"""Whether a scenario gives the same run each time: several runs, in processes that differ.

Each run has a process of its own, with a PYTHONHASHSEED of its own, so that the order of a set, an
address or a clock that reaches what happens makes two hashes differ.  Then the first event that
differs is looked for, and shown with those before it.
"""

import itertools
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulations.references import Source
from simulations.replica import SIMULATE, Task
from simulations.replications import Outcome, Watch, perform

CONTEXT: Final = 5
"""How many events are shown before the first that differs. Source: guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where two runs of the same scenario and seed part."""

    hash_seeds: tuple[str, str]
    number: int | None
    """Of the first event that differs, from 1; `None`: the events are the same."""
    before: tuple[str, ...] = ()
    """The events before it, the same in both."""
    one: str = ""
    """What one run has there, "" if it has ended."""
    other: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the runs gave."""

    hash_seeds: Sequence[str]
    outcomes: Sequence[Outcome]
    difference: Difference | None

    @property
    def same(self) -> bool:
        """Whether all runs were the same run."""
        return self.difference is None


def verify(
    source: Source,
    seed: int,
    hash_seeds: Sequence[str],
    *,
    jobs: int = 2,
    watch: Watch | None = None,
    simulator: str = SIMULATE,
) -> Verification:
    """Run once for each of the hash seeds, until two runs differ.

    Raises as `replications.perform` does.
    """
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="verify-") as directory:
        tasks = [
            Task(
                scenario=source.scenario,
                seed=seed,
                directory=source.directory,
                events_path=str(Path(directory) / f"{number}.jsonl"),
                simulator=simulator,
                hash_seed=hash_seed,
                fresh=True,
            )
            for number, hash_seed in enumerate(hash_seeds)
        ]
        for first in range(0, len(tasks), jobs):
            batch = tasks[first : first + jobs]
            outcomes += perform(batch, jobs=jobs, watch=_shifted(watch, first))
            for number in range(max(first, 1), first + len(batch)):
                difference = _compare(tasks, outcomes, number)
                if difference is not None:
                    return Verification(
                        hash_seeds=hash_seeds, outcomes=outcomes, difference=difference
                    )
                Path(tasks[number].events_path or "").unlink()
    return Verification(hash_seeds=hash_seeds, outcomes=outcomes, difference=None)


def first_difference(one: Path, other: Path) -> tuple[int, tuple[str, ...], str, str] | None:
    """Return where two files of lines part: the line's number from 1, those before it, and both.

    A file that has ended has "" there.  `None`: they are the same.
    """
    before: deque[str] = deque(maxlen=CONTEXT)
    with one.open(encoding="utf-8") as first, other.open(encoding="utf-8") as second:
        pairs = itertools.zip_longest(first, second, fillvalue="")
        for number, (left, right) in enumerate(pairs, 1):
            if left != right:
                return number, tuple(before), left.rstrip("\n"), right.rstrip("\n")
            before.append(left.rstrip("\n"))
    return None


def _compare(tasks: Sequence[Task], outcomes: Sequence[Outcome], number: int) -> Difference | None:
    """Return where a run and the first part."""
    reference, outcome = outcomes[0], outcomes[number]
    if (outcome.trace_hash, outcome.metrics_hash) == (reference.trace_hash, reference.metrics_hash):
        return None
    found = first_difference(
        Path(tasks[0].events_path or ""), Path(tasks[number].events_path or "")
    )
    hash_seeds = (tasks[0].hash_seed, tasks[number].hash_seed)
    if found is None:
        return Difference(hash_seeds=hash_seeds, number=None)
    at, before, one, other = found
    return Difference(hash_seeds=hash_seeds, number=at, before=before, one=one, other=other)


def _shifted(watch: Watch | None, first: int) -> Watch | None:
    """Return a watch of all runs that is told of a batch."""
    if watch is None:
        return None
    return lambda index, virtual_s: watch(first + index, virtual_s)
