"""The same scenario with other numbers: a grid of settings, each point with its replications.

    peernode sim sweep mm4 --set load[0].arrivals.rate_per_s=1,2,5 --set workers[0].slots=1,2

A setting names a place in the scenario as TOML does, and its values; `["..."]` and `{...}` are
values, too.  Every point is checked before the first is run.  All points have the same seeds:
what differs between two of them is the setting, not chance.

    manifest.json      the scenario, the settings, and how each point ended
    sweep.csv          a row for each point, metric and label: mean, its interval, quantiles
    metrics.parquet    every observation, with its point and replication
    plots/*.png, *.svg one picture a metric: its mean against the first setting
    report.html        all of it on one page
"""

import csv
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from simulations import conditions, pictures, plots, provenance, references, report, runs, summaries
from simulations.conditions import Verdict
from simulations.errors import ScenarioError
from simulations.plots import Axes, Series
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
        scenario = source.scenario
        for setting, value in zip(settings, values, strict=True):
            scenario = changed(scenario, setting.place, value)
        embedded = references.embed(scenario, source.directory)
        points.append(Point(values=values, source=embedded))
    return points


def changed(scenario: Scenario, place: str, value: Any) -> Scenario:
    """Return a scenario with another value in one place. Raises `ScenarioError`."""
    tree = msgspec.to_builtins(scenario)
    *steps, last = _steps(place)
    here = tree
    for step in steps:
        here = _below(here, step, place)
    if isinstance(last, int):
        _below(here, last, place)
    elif not isinstance(here, dict):
        raise ScenarioError(place, f"nothing is called {last} there")
    here[last] = value
    try:
        return msgspec.convert(tree, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(place, f"cannot be {value!r}: {error}") from error


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


def write(found: Sweep, directory: Path) -> None:
    """Write all files of a sweep. Raises `OSError`."""
    runs.write_json(directory / "manifest.json", _manifest(found))
    _write_table(found, directory / "sweep.csv")
    _write_observations(found, directory / "metrics.parquet")
    (directory / "plots").mkdir()
    drawn = [
        (metric, plots.save(figure, directory / "plots", metric.replace("/", "-")))
        for metric, figure in _draw(found)
    ]
    (directory / "report.html").write_text(_page(found, drawn), "utf-8")


def _ended(point: Point, outcomes: Sequence[Outcome]) -> Ended:
    scenario, measured = point.source.scenario, [outcome.observations for outcome in outcomes]
    return Ended(
        point=point,
        outcomes=outcomes,
        verdicts=conditions.judge(scenario, measured),
        rows=summaries.summarize(measured, scenario.warm_up_s),
    )


# --- settings --------------------------------------------------------------------------------


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


# --- files -----------------------------------------------------------------------------------


def _manifest(found: Sweep) -> dict[str, Any]:
    return {
        "format": runs.FORMAT,
        "name": found.source.scenario.name,
        "seed": found.seed,
        "replications": found.replications,
        "settings": {setting.place: setting.values for setting in found.settings},
        "points": [
            {
                "values": dict(zip(_places(found), ended.point.values, strict=True)),
                "passed": all(verdict.passed for verdict in ended.verdicts),
                "trace_hashes": [outcome.trace_hash for outcome in ended.outcomes],
                "replay": references.line_of(ended.point.source, found.seed, found.commit),
            }
            for ended in found.points
        ],
        "reference": found.source.reference,
        "scenario": found.source.text,
        "commit": found.commit,
        "commit_dirty": provenance.commit().dirty,
        "versions": provenance.versions(),
        "PYTHONHASHSEED": "0",
    }


def _write_table(found: Sweep, path: Path) -> None:
    columns = ("metric", "label", "count", "mean", "low", "high", "p50", "p95", "p99", "max")
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*_places(found), *columns])
        for ended in found.points:
            values = [_words(value) for value in ended.point.values]
            for row in ended.rows:
                low, high = (row.interval.low, row.interval.high) if row.interval else ("", "")
                numbers = (row.p50, row.p95, row.p99, row.greatest)
                rows.writerow(
                    [*values, row.metric, row.label, row.count, row.mean, low, high, *numbers]
                )


def _write_observations(found: Sweep, path: Path) -> None:
    tables = []
    for number, ended in enumerate(found.points):
        for replication, outcome in enumerate(ended.outcomes):
            table = runs.plain(outcome.observations.table)
            for name, value in (("point", number), ("replication", replication)):
                column = np.full(table.num_rows, value, dtype=np.int32)
                table = table.append_column(name, pa.array(column))
            tables.append(table)
    with parquet.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def _draw(found: Sweep) -> list[tuple[str, Any]]:
    metrics = list(dict.fromkeys(row.metric for ended in found.points for row in ended.rows))
    return [(metric, _picture(found, metric)) for metric in metrics[: pictures.PICTURES_MAX]]


def _picture(found: Sweep, metric: str) -> Any:
    """Return the mean of a metric against the first setting; a line for each of all else."""
    first = found.settings[0]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in first.values)
    lines: dict[str, list[tuple[float, Row]]] = {}
    for ended in found.points:
        value, *rest = ended.point.values
        x = float(value) if is_number else float(first.values.index(value))
        others = [
            f"{setting.place.rpartition('.')[2]} {_words(v)}"
            for setting, v in zip(found.settings[1:], rest, strict=True)
        ]
        for row in ended.rows:
            if row.metric == metric:
                name = ", ".join([*([row.label] if row.label else []), *others]) or metric
                lines.setdefault(name, []).append((x, row))
    series = []
    for name, line in list(lines.items())[: plots.SERIES_MAX]:
        line.sort(key=lambda pair: pair[0])
        bands = [row.interval for _, row in line]
        series.append(
            Series(
                name,
                [x for x, _ in line],
                [row.mean for _, row in line],
                [band.low if band else -np.inf for band in bands],
                [band.high if band else np.inf for band in bands],
            )
        )
    axes = Axes(
        title=metric,
        x_label=pictures.axis_label(first.place) if is_number else first.place,
        y_label=f"mean {pictures.axis_label(metric)}",
        x_words=() if is_number else tuple(map(_words, first.values)),
    )
    return plots.curve(series, axes=axes)


def _page(found: Sweep, drawn: Sequence[tuple[str, str]]) -> str:
    places = _places(found)
    verdicts = [
        (*map(_words, ended.point.values), verdict.name, verdict.passed, verdict.value, verdict.why)
        for ended in found.points
        for verdict in ended.verdicts
    ]
    measured = [
        (
            *map(_words, ended.point.values),
            row.metric,
            row.label,
            row.mean,
            report.range_of(row.interval),
            row.p50,
            row.p95,
            row.greatest,
        )
        for ended in found.points
        for row in ended.rows
    ]
    columns = (*places, "metric", "label", "mean", "99 % interval", "p50", "p95", "max")
    judged = report.table((*places, "condition", "verdict", "value", "why"), verdicts, ("why",))
    scenario = found.source.scenario
    return report.page(
        f"{scenario.name}, swept",
        [
            f"<h1>{escape(scenario.name)}, swept</h1><p>{escape(scenario.summary)}</p>",
            report.section("Pictures", *(report.picture(svg, name) for name, svg in drawn)),
            report.section("Conditions", judged) if verdicts else "",
            report.section("Measured", report.table(columns, measured)),
            report.section("To make it again", f"<pre>{escape(command(found))}</pre>"),
            report.section("Scenario", f"<pre>{escape(found.source.text)}</pre>"),
        ],
    )


def command(found: Sweep) -> str:
    """Return the command that repeats a sweep."""
    words = ["peernode", "sim", "sweep", found.source.reference]
    for setting in found.settings:
        words += ["--set", f"{setting.place}={','.join(map(_words, setting.values))}"]
    return shlex.join(
        [*words, "--seed", str(found.seed), "--replications", str(found.replications)]
    )


def _places(found: Sweep) -> list[str]:
    return [setting.place for setting in found.settings]


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
