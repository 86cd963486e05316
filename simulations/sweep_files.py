"""The directory of a sweep, of the same make as that of a run.

manifest.json      the scenario, the settings, and how each point ended
sweep.csv          a row for each point, metric and label: mean, its interval, quantiles
metrics.parquet    every observation, with the number of its point and replication
plots/*.png, *.svg one picture a metric: its mean against the first setting
report.html        all of it on one page
"""

import csv
import math
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from simulations import observations, pictures, plots, provenance, references, report, runs
from simulations.plots import Axes, Series
from simulations.summaries import Row
from simulations.sweeping import Sweep, in_words


def write(found: Sweep, directory: Path) -> None:
    """Write all files of a sweep. Raises `OSError`."""
    runs.write_json(directory / "manifest.json", _manifest(found))
    _write_table(found, directory / "sweep.csv")
    _write_observations(found, directory / "metrics")
    (directory / "plots").mkdir()
    drawn = [
        (metric, plots.save(figure, directory / "plots", metric.replace("/", "-")))
        for metric, figure in _draw(found)
    ]
    (directory / "report.html").write_text(_page(found, drawn), "utf-8")


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
            values = [in_words(value) for value in ended.point.values]
            for row in ended.rows:
                low, high = (row.interval.low, row.interval.high) if row.interval else ("", "")
                numbers = (row.p50, row.p95, row.p99, row.greatest)
                rows.writerow(
                    [*values, row.metric, row.label, row.count, row.mean, low, high, *numbers]
                )


def _write_observations(found: Sweep, stem: Path) -> None:
    numbered = [
        ({"point": point, "replication": replication}, outcome.observations)
        for point, ended in enumerate(found.points)
        for replication, outcome in enumerate(ended.outcomes)
    ]
    observations.write_files(numbered, stem, as_text=False)


def _draw(found: Sweep) -> list[tuple[str, Figure]]:
    """Return a picture for each metric, but for what is one number at all points."""
    asked = [condition.metric for condition in found.source.scenario.passes]
    means: dict[str, list[float]] = {metric: [] for metric in asked}
    for ended in found.points:
        for row in ended.rows:
            means.setdefault(row.metric, []).append(row.mean)
    differ = [metric for metric, values in means.items() if not observations.is_same(values)]
    return [(metric, _picture(found, metric)) for metric in differ[: pictures.PICTURES_MAX]]


def _picture(found: Sweep, metric: str) -> Figure:
    """Return the mean of a metric against the first setting; a line for each of all else."""
    first = found.settings[0]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in first.values)
    lines: dict[str, list[tuple[float, Row]]] = {}
    for ended in found.points:
        value, *rest = ended.point.values
        x = float(value) if is_number else float(first.values.index(value))
        others = [
            f"{setting.place.rpartition('.')[2]} {in_words(v)}"
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
                [band.low if band else -math.inf for band in bands],
                [band.high if band else math.inf for band in bands],
            )
        )
    axes = Axes(
        title=metric,
        x_label=pictures.axis_label(first.place) if is_number else first.place,
        y_label=f"mean {pictures.axis_label(metric)}",
        y_from=0.0 if all(mean >= 0 for each in series for mean in each.mean) else None,
        x_words=() if is_number else tuple(map(in_words, first.values)),
    )
    return plots.curve(series, axes=axes)


def _page(found: Sweep, drawn: Sequence[tuple[str, str]]) -> str:
    places = _places(found)
    verdicts = [
        (
            *map(in_words, ended.point.values),
            verdict.name,
            verdict.passed,
            verdict.value,
            verdict.why,
        )
        for ended in found.points
        for verdict in ended.verdicts
    ]
    measured = [
        (
            *map(in_words, ended.point.values),
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
        words += ["--set", f"{setting.place}={','.join(map(in_words, setting.values))}"]
    return shlex.join(
        [*words, "--seed", str(found.seed), "--replications", str(found.replications)]
    )


def _places(found: Sweep) -> list[str]:
    return [setting.place for setting in found.settings]
