"""A failure once more, from its one line: with every invariant checked, and the last events."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulations import provenance, references
from simulations.references import DIGEST_LENGTH, Line, Source
from simulations.replica import SIMULATE, Task
from simulations.replications import Outcome, Watch, perform

EVENTS_LAST: Final = 20
"""How many events before a failure are shown. Source: guess; a screen, with room for the rest."""
LINE_MAX: Final = 160
"""How many letters of an event are shown. Source: guess; a wide terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What came out."""

    line: Line
    source: Source
    outcome: Outcome
    doubts: Sequence[str]
    """Why this may not be the same run."""


def repeat(
    line: Line,
    source: Source,
    *,
    events: Path | None = None,
    watch: Watch | None = None,
    simulator: str = SIMULATE,
) -> Repeated:
    """Run what a line says; every event goes to the file `events`, if it is given.

    Raises as `replications.perform` does.
    """
    task = Task(
        scenario=source.scenario,
        seed=line.seed,
        directory=source.directory,
        checking=True,
        events_path=None if events is None else str(events),
        events_last=EVENTS_LAST,
        simulator=simulator,
    )
    (outcome,) = perform([task], jobs=1, watch=watch)
    return Repeated(line=line, source=source, outcome=outcome, doubts=doubts(line, source))


def doubts(line: Line, source: Source) -> list[str]:
    """Return why what a line says may not be what is there now."""
    found = []
    if line.scenario and line.scenario != source.digest:
        found.append(f"the scenario was {line.scenario} and is now {source.digest}")
    commit = provenance.commit()
    if line.commit and not commit.name:
        found.append(f"the code was of commit {line.commit}; of which it is now is not known")
    elif line.commit and not commit.name.startswith(line.commit):
        found.append(
            f"the code was of commit {line.commit} and is now of {commit.name[:DIGEST_LENGTH]}"
        )
    if commit.dirty:
        found.append("the code is changed since its commit")
    return found


def events_in_words(lines: Sequence[str]) -> list[str]:
    """Return events, JSON lines, as rows for people: time, kind, the rest."""
    rows = []
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        at_s, kind = event.pop("at_s"), event.pop("kind")
        rest = " ".join(f"{name}={value}" for name, value in event.items())
        row = f"{at_s:>14.6f} s  {kind:<8} {rest}"
        rows.append(row if len(row) <= LINE_MAX else row[: LINE_MAX - 1] + "…")
    return rows


def parse(text: str) -> tuple[Line, Source]:
    """Return what a line says and the scenario that it names. Raises `ScenarioError`."""
    line = references.parse_line(text)
    return line, references.find(line.reference, line.directory)
