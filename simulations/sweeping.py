"""The same scenario with other numbers: a grid of settings, each point with its replications.

    peernode sim sweep mm4 --set load[0].arrivals.rate_per_s=1,2,5 --set workers[0].slots=1,2

A setting names a place in the scenario as TOML does, and its values; `["..."]` and `{...}` are
values, too.  Every point is checked before the first is run.  All points have the same seeds:
what differs between two of them is the setting, not chance.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from simulations import conditions, loading, provenance, references, summaries
from simulations.conditions import Verdict
from simulations.errors import ScenarioError
from simulations.references import Source
from simulations.replica import SIMULATE, Task
from simulations.replications import Outcome, Watch, perform
from simulations.scenario import Scenario
from simulations.summaries import Row

POINTS_MAX: Final = 1_000
"""Source: guess; a table that somebody reads."""
STEP: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)((?:\[\d+\])*)")
"""One step of a place: a name, and which of several."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A place in a scenario and what it is set to, one after another."""

    place: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One choice of a value for each setting."""

    values: tuple[Any, ...]
    source: Source
    """The scenario with these values, embedded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a point gave."""

    point: Point
    outcomes: Sequence[Outcome]
    verdicts: Sequence[Verdict]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What was asked for, and what it gave."""

    source: Source
    settings: Sequence[Setting]
    seed: int
    replications: int
    points: Sequence[Ended]
    commit: str

    @property
    def failures(self) -> list[tuple[Ended, Outcome]]:
        """Where an invariant did not hold."""
        return [
            (point, outcome)
            for point in self.points
            for outcome in point.outcomes
            if outcome.failure is not None
        ]


def parse_setting(text: str) -> Setting:
    """Return what `PLACE=VALUE,VALUE` says. Raises `ScenarioError`."""
    place, equals, values = text.partition("=")
    if not equals or not place.strip() or not values.strip():
        raise ScenarioError("--set", f"{text!r} is not PLACE=VALUE,VALUE,...")
    return Setting(place.strip(), tuple(_value(part) for part in _split(values)))


def grid(source: Source, settings: Sequence[Setting]) -> list[Point]:
    """Return every choice of values, the last setting changing first. Raises `ScenarioError`."""
    count = 1
    for setting in settings:
        count *= len(setting.values)
    if count > POINTS_MAX:
        raise ScenarioError("--set", f"{count} points; at most {POINTS_MAX}")
    points = []
    for values in itertools.product(*(setting.values for setting in settings)):
        tables = _tables(source.scenario)
        for setting, value in zip(settings, values, strict=True):
            put(tables, setting.place, value)
        try:
            scenario = loading.from_values(tables, source.directory)
        except ScenarioError as error:
            point = " ".join(
                f"{setting.place}={in_words(value)}"
                for setting, value in zip(settings, values, strict=True)
            )
            where = ": ".join(part for part in (point, error.place) if part)
            raise ScenarioError(where, error.what) from None
        embedded = references.embed(scenario, source.directory)
        points.append(Point(values=values, source=embedded))
    return points


def put(tables: dict[str, Any], place: str, value: Any) -> None:
    """Put a value into a place of a scenario's tables; `None` takes away what is there.

    Raises `ScenarioError` for a place that is none.
    """
    *steps, last = _steps(place)
    here: Any = tables
    for step in steps:
        here = _below(here, step, place)
    if isinstance(last, int):
        _below(here, last, place)
    elif not isinstance(here, dict):
        raise ScenarioError(place, f"nothing is called {last} there")
    elif value is None:
        here.pop(last, None)
        return
    here[last] = value


def sweep(
    source: Source,
    settings: Sequence[Setting],
    points: Sequence[Point],
    *,
    seed: int,
    replications: int,
    jobs: int = 2,
    scratch: Path | None = None,
    watch: Watch | None = None,
    simulator: str = SIMULATE,
) -> Sweep:
    """Run every point. Raises as `replications.perform` does."""
    tasks = [
        Task(
            scenario=point.source.scenario,
            seed=seed + number,
            directory=source.directory,
            simulator=simulator,
        )
        for point in points
        for number in range(replications)
    ]
    outcomes = perform(tasks, jobs=jobs, watch=watch, scratch=scratch)
    ended = [
        _ended(point, outcomes[i * replications : (i + 1) * replications])
        for i, point in enumerate(points)
    ]
    return Sweep(
        source=source,
        settings=settings,
        seed=seed,
        replications=replications,
        points=ended,
        commit=provenance.commit().name,
    )


def _ended(point: Point, outcomes: Sequence[Outcome]) -> Ended:
    scenario, measured = point.source.scenario, [outcome.observations for outcome in outcomes]
    return Ended(
        point=point,
        outcomes=outcomes,
        verdicts=conditions.judge(scenario, measured),
        rows=summaries.summarize(measured, scenario.warm_up_s),
    )


# --- settings --------------------------------------------------------------------------------


def _tables(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as tables, which have no `None`."""

    def without_none(value: Any) -> Any:
        match value:
            case dict():
                return {k: without_none(v) for k, v in value.items() if v is not None}
            case list():
                return [*map(without_none, value)]
            case _:
                return value

    tables: dict[str, Any] = without_none(msgspec.json.decode(msgspec.json.encode(scenario)))
    return tables


def _split(values: str) -> list[str]:
    """Split at commas that stand in no brackets and in no quotes."""
    parts, depth, quoted = [""], 0, False
    for letter in values:
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "[{":
            depth += 1
        elif not quoted and letter in "]}":
            depth -= 1
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _value(text: str) -> Any:
    """Return a value as JSON has it; what is not JSON is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _steps(place: str) -> list[str | int]:
    """Return the steps of a place: `load[0].function` is `load`, 0, `function`."""
    steps: list[str | int] = []
    for part in place.split("."):
        found = STEP.fullmatch(part)
        if not found:
            raise ScenarioError(
                "--set", f"{place!r} is no place; one is load[0].arrivals.rate_per_s"
            )
        steps.append(found[1])
        steps += [int(number) for number in re.findall(r"\d+", found[2])]
    return steps


def _below(here: Any, step: str | int, place: str) -> Any:
    if isinstance(step, int):
        if not isinstance(here, list) or step >= len(here):
            there = len(here) if isinstance(here, list) else "none"
            raise ScenarioError(place, f"no [{step}] there: there are {there}")
        return here[step]
    if not isinstance(here, dict) or step not in here:
        there = ", ".join(here) if isinstance(here, dict) else "nothing"
        raise ScenarioError(place, f"no {step} there; there is {there}")
    return here[step]


def in_words(value: Any) -> str:
    """Return a value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)
