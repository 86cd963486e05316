"""The pictures of a run: one for each metric, of the kind that its numbers want.

* Successes (only 0 and 1): their share over time.
* Durations (a name that ends in `_s`): their median and 95th percentile over time, and beside it
  their distribution.
* What was observed at one moment only, at the end say: its distribution.
* The rest (queues, bytes, states): the mean over time, over all nodes.

What was the same number each time has no picture; a condition's metric comes first.  Time is cut
into `BINS` equal parts.  With several replications the band is the 99 % interval over
them.  Grey are the warm-up, and the times of faults.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from simulations import plots
from simulations.faults import Churn, ClockSkew, Fault
from simulations.observations import Numbers, Observations, is_same
from simulations.plots import Axes, Series, Span
from simulations.scenario import Scenario
from simulations.statistics import t_interval

BINS: Final = 60
"""Source: guess; a point each millimetre of a page."""
PICTURES_MAX: Final = 40
POINTS_MAX: Final = 400
"""Of a distribution's curve. Source: a page has no more dots."""
BAND_MIN: Final = 5
"""With fewer replications no band is drawn. Source: of two, Student's is 64 deviations wide."""
WIDE: Final = 30.0
"""From which ratio of 99th to 1st percentile on durations are drawn on a logarithmic axis."""


def draw_run(scenario: Scenario, runs: Sequence[Observations]) -> list[tuple[str, Figure]]:
    """Return a picture for each metric, with the name of its file."""
    measured = sorted({name: None for run in runs for name in run.names()})
    asked = [condition.metric for condition in scenario.passes if condition.metric in measured]
    found: list[tuple[str, Figure]] = []
    for metric in dict.fromkeys([*asked, *measured]):
        at_s, everything = _together([run.series(metric) for run in runs])
        if len(found) == PICTURES_MAX or not np.isfinite(everything).all() or is_same(everything):
            continue
        if is_same(at_s):
            figure = _at_once(metric, _labels(metric, runs), runs)
        elif metric.endswith("_s") and not metric.endswith("_per_s"):
            figure = _durations(scenario, metric, _labels(metric, runs), runs)
        else:
            is_share = bool(np.isin(everything, (0.0, 1.0)).all())
            figure = _over_time(scenario, metric, _labels(metric, runs), runs, is_share=is_share)
        found.append((metric.replace("/", "-"), figure))
    return found


def axis_label(metric: str) -> str:
    """Return a metric's name as an axis says it: `job sojourn (s)`."""
    words = metric.replace(".", " ")
    for ending, unit in (
        ("_bytes_per_s", "bytes/s"),
        ("_per_s", "1/s"),
        ("_bytes", "bytes"),
        ("_km", "km"),
        ("_s", "s"),
    ):
        if words.endswith(ending):
            return f"{words.removesuffix(ending)} ({unit})".replace("_", " ")
    return words.replace("_", " ")


def _labels(metric: str, runs: Sequence[Observations]) -> list[str]:
    """Return the labels with most observations, as many as can be told apart, by name."""
    counts: dict[str, int] = {}
    for run in runs:
        for label in run.labels(metric):
            counts[label] = counts.get(label, 0) + len(run.values(metric, label=label))
    most = sorted(counts, key=lambda label: (-counts[label], label))[: plots.SERIES_MAX]
    return sorted(most)


def _over_time(
    scenario: Scenario,
    metric: str,
    labels: Sequence[str],
    runs: Sequence[Observations],
    *,
    is_share: bool,
) -> Figure:
    edges = _edges(scenario, metric, runs)
    series = [
        _binned(label, [run.series(metric, label=label) for run in runs], edges) for label in labels
    ]
    label = axis_label(metric)
    floor = _share_floor(series) if is_share else _floor(series)
    axes = Axes(
        title=metric,
        x_label="virtual time (s)",
        y_label=f"share of {label}" if is_share else label,
        y_from=floor,
        y_to=1.0 + plots.BELOW * (1.0 - (floor or 0.0)) if is_share else None,
        x_to=float(edges[-1]),
        spans=_spans(scenario),
    )
    with plots.house_style():
        figure = Figure(figsize=(plots.WIDTH_INCHES, plots.HEIGHT_INCHES))
        panel = figure.subplots()
        plots.draw_lines(panel, series)
        plots.dress(panel, axes)
        plots.legend(figure, [panel])
    return figure


def _durations(
    scenario: Scenario, metric: str, labels: Sequence[str], runs: Sequence[Observations]
) -> Figure:
    edges, label = _edges(scenario, metric, runs), axis_label(metric)
    since_s = scenario.warm_up_s
    with plots.house_style():
        figure = Figure(figsize=(plots.WIDTH_INCHES * 1.35, plots.HEIGHT_INCHES))
        left, right = figure.subplots(1, 2)
        several = len(labels) > 1
        series = []
        for name in labels:
            at_s, values = _together([run.series(metric, label=name) for run in runs])
            series.append(_quantiles(name or metric, at_s, values, edges))
        plots.draw_quantiles(left, series)
        everything = np.concatenate([run.values(metric, since_s=since_s) for run in runs])
        log_y = _is_wide(np.array([y for each in series for y in (*each.mean, *each.high)]))
        for i, name in enumerate(labels):
            chosen = [run.values(metric, label=name, since_s=since_s) for run in runs]
            x, y = _distribution(np.concatenate(chosen))
            plots.draw_distribution(right, name if several else "", x, y, i)
        time = Axes(
            title=metric,
            x_label="virtual time (s)",
            y_label=label,
            log_y=log_y,
            y_from=None if log_y else 0.0,
            x_to=float(edges[-1]),
            spans=_spans(scenario),
        )
        share = Axes(
            title="",
            x_label=label,
            y_label="share at most so long",
            log_x=_is_wide(everything),
            y_from=0.0,
            y_to=1.02,
        )
        plots.dress(left, time)
        plots.dress(right, share)
        plots.legend(figure, [left, right])
    return figure


def _at_once(metric: str, labels: Sequence[str], runs: Sequence[Observations]) -> Figure:
    """Return the distribution of what was observed at one moment."""
    everything = np.concatenate([run.values(metric) for run in runs])
    with plots.house_style():
        figure = Figure(figsize=(plots.WIDTH_INCHES, plots.HEIGHT_INCHES))
        panel = figure.subplots()
        for i, name in enumerate(labels):
            x, y = _distribution(np.concatenate([run.values(metric, label=name) for run in runs]))
            plots.draw_distribution(panel, name if len(labels) > 1 else "", x, y, i)
        axes = Axes(
            title=metric,
            x_label=axis_label(metric),
            y_label="share at most so much",
            log_x=_is_wide(everything),
            y_from=0.0,
            y_to=1.02,
        )
        plots.dress(panel, axes)
        plots.legend(figure, [panel])
    return figure


def _edges(scenario: Scenario, metric: str, runs: Sequence[Observations]) -> Numbers:
    """Return the parts of time, as far as something was observed."""
    at_s, _ = _together([run.series(metric) for run in runs])
    return np.linspace(0.0, max(scenario.duration_s, float(at_s.max())), BINS + 1)


def _together(parts: Sequence[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """Return the times and values of all runs."""
    at_s, values = zip(*parts, strict=True)
    return np.concatenate(at_s), np.concatenate(values)


def _binned(label: str, parts: Sequence[tuple[Numbers, Numbers]], edges: Numbers) -> Series:
    """Return the mean in each part of time, and its interval over replications."""
    means = np.full((len(parts), BINS), np.nan)
    for row, (at_s, values) in enumerate(parts):
        where = _bins(at_s, edges)
        sums = np.bincount(where, weights=values, minlength=BINS)
        counts = np.bincount(where, minlength=BINS)
        there = counts > 0
        means[row, there] = sums[there] / counts[there]
    x, mean, low, high = [], [], [], []
    for i in range(BINS):
        column = [float(value) for value in means[:, i] if not math.isnan(value)]
        if not column:
            continue
        interval = t_interval(column)
        enough = interval.replications >= BAND_MIN
        x.append(float(edges[i] + edges[i + 1]) / 2)
        mean.append(interval.mean)
        low.append(interval.low if enough else -math.inf)
        high.append(interval.high if enough else math.inf)
    return Series(label, x, mean, low, high)


def _quantiles(label: str, at_s: Numbers, values: Numbers, edges: Numbers) -> Series:
    """Return the median in each part of time as `mean`, and the 95th percentile as `high`."""
    where = _bins(at_s, edges)
    order = np.argsort(where, kind="stable")
    cuts = np.searchsorted(where[order], np.arange(BINS + 1))
    x, median, high = [], [], []
    for i in range(BINS):
        part = values[order[cuts[i] : cuts[i + 1]]]
        if len(part):
            x.append(float(edges[i] + edges[i + 1]) / 2)
            median.append(float(np.quantile(part, 0.5)))
            high.append(float(np.quantile(part, 0.95)))
    return Series(label, x, median, median, high)


def _bins(at_s: Numbers, edges: Numbers) -> Numbers:
    found: Numbers = np.clip(np.searchsorted(edges, at_s, side="right") - 1, 0, BINS - 1)
    return found


def _distribution(values: Numbers) -> tuple[Numbers, Numbers]:
    """Return the empirical distribution as steps, thinned out to `POINTS_MAX`."""
    if len(values) <= POINTS_MAX:
        ordered = np.sort(values)
        return np.concatenate([ordered[:1], ordered]), np.linspace(0.0, 1.0, len(values) + 1)
    share = np.linspace(0.0, 1.0, POINTS_MAX)
    return np.quantile(values, share), share


def _is_wide(values: Numbers) -> bool:
    positive = values[values > 0]
    if len(positive) < len(values) or not len(values):
        return False
    low, high = np.quantile(positive, (0.01, 0.99))
    return bool(high > WIDE * low)


def _floor(series: Sequence[Series]) -> float | None:
    """Return 0 as the bottom of an axis whose numbers are not negative."""
    return 0.0 if all(value >= 0 for each in series for value in each.mean) else None


def _share_floor(series: Sequence[Series]) -> float:
    """Return the bottom of an axis of shares: 0, or nearer where all are near 1."""
    least = min((value for each in series for value in each.mean), default=0.0)
    return 0.0 if least < 0.5 else max(0.0, 1.0 - 2.5 * max(1.0 - least, 0.01))


def _spans(scenario: Scenario) -> list[Span]:
    """Return the warm-up and the faults; those of one kind under one name."""
    found = [Span("warm-up", 0.0, scenario.warm_up_s)] if scenario.warm_up_s else []
    lasting = Churn | ClockSkew
    return found + [_span(fault) for fault in scenario.faults if not isinstance(fault, lasting)]


def _span(fault: Fault) -> Span:
    name = type(fault).__struct_config__.tag
    lasts = getattr(fault, "for_s", 0.0)
    end = fault.at_s + lasts if isinstance(lasts, int | float) else fault.at_s
    return Span(str(name).replace("_", " "), fault.at_s, end)
