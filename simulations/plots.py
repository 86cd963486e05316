"""The one style of all pictures, and the picture that compares a measurement with theory.

    figure = curve([Series("measured", x, mean, low, high)], [Theory("M/M/4", x, y)], axes)
    plots.save(figure, directory, "e2-waiting")

Rules:

* A measurement is points; the bars or the band about them is the 99 % interval over replications.
  Theory is dashed, in the colour of the series of the same label, else in the colour of the text.
  Points that have a theory are not joined: between them nothing was measured, and theory is there.
* A point that does not agree with theory is a cross; one that was not judged, or agrees, a dot.
* Colours are those of Okabe and Ito, which colour-blind people tell apart; and series differ in
  their markers, too.
* Legends stand below, never on the data.  Every axis says what it shows, and in which unit.
* A file is a function of the numbers: no dates, no random names, no settings of the user's.

Source of the colours: Okabe and Ito, Color Universal Design, 2008; without yellow, which paper
swallows.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes as Panel
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

INK: Final = "#222222"
FAINT: Final = "#8a8a8a"
PAPER: Final = "#ffffff"
GRID: Final = "#d9d9d9"
COLOURS: Final = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7a5195",
    "#6b6b6b",
)
SHADES: Final = ("#8a8a8a", "#d55e00", "#009e73", "#cc79a7", "#0072b2", "#e69f00")
"""Of spans, each label its own."""
BAND: Final = "99 % interval"
MARKERS: Final = "osD^vPXh"
SERIES_MAX: Final = len(COLOURS)
"""More lines than colours cannot be told apart."""
PASSED: Final = "#00775a"
FAILED: Final = "#b3261e"
WIDTH_INCHES: Final = 6.4
HEIGHT_INCHES: Final = 3.7
FEW: Final = 5
"""Points that are drawn as dots, since they make no line. Source: guess."""
BELOW: Final = 0.015
"""How much of an axis is shown below 0."""
DOTS_PER_INCH: Final = 160
LEGEND_WIDTH: Final = 84
"""How many letters a line of the legend has room for, its marks taken off."""

STYLE: Final[dict[str, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "figure.constrained_layout.use": True,
    "figure.dpi": DOTS_PER_INCH,
    "figure.facecolor": PAPER,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "path.simplify": True,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "peernode",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 8.5,
}


@dataclass(frozen=True, slots=True)
class Series:
    """What was measured: for each x a mean, and between what it lies."""

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float] = ()
    """Lower ends of the intervals; none for no band. Where one is infinite there is no band."""
    high: Sequence[float] = ()
    passed: Sequence[bool | None] = ()
    """For each point whether it agrees with theory; none for not judged."""


@dataclass(frozen=True, slots=True)
class Theory:
    """What a closed form says."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What the axes say. Labels have their unit: `waiting time (s)`."""

    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    y_from: float | None = None
    """The least y that is shown; `None`: as the numbers want."""
    y_to: float | None = None
    x_to: float | None = None
    """The end of an axis that begins at 0; `None`: as the numbers want."""
    x_words: Sequence[str] = ()
    """What stands at 0, 1, 2 of an axis that counts no numbers."""
    spans: Sequence["Span"] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which something was different, shaded; an instant is a line."""

    label: str
    start: float
    end: float


def curve(
    series: Sequence[Series],
    theory: Sequence[Theory] = (),
    axes: Axes | None = None,
    verdict: bool | None = None,
) -> Figure:
    """Return a picture of what was measured, with theory if there is one, and what that says."""
    axes = axes or Axes(title="", x_label="", y_label="")
    with house_style():
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES))
        panel = figure.subplots()
        draw_curves(panel, series, theory)
        dress(panel, axes)
        if verdict is not None:
            say_verdict(panel, verdict)
        legend(figure, [panel])
    return figure


def draw_curves(panel: Panel, series: Sequence[Series], theory: Sequence[Theory] = ()) -> None:
    """Draw into a panel: theory first, so that what was measured lies above it."""
    colours = {each.label: COLOURS[i % SERIES_MAX] for i, each in enumerate(series)}
    alone = len(series) == 1 and len(theory) == 1
    for law in theory:
        colour = INK if alone else colours.get(law.label, INK)
        label = "" if law.label in colours else law.label
        panel.plot(law.x, law.y, "--", color=colour, linewidth=1.3, label=label)
    if any(law.label in colours for law in theory):
        panel.plot([], [], "--", color=INK, linewidth=1.3, label="theory")
    for i, each in enumerate(series):
        colour, marker = COLOURS[i % SERIES_MAX], MARKERS[i % len(MARKERS)]
        has_theory = alone or any(law.label == each.label for law in theory)
        _band(panel, each, colour, as_bars=has_theory)
        line = "" if has_theory else "-"
        panel.plot(each.x, each.mean, marker=marker, ls=line, color=colour, label=each.label)
    for each in series:
        _crosses(panel, each)


def draw_lines(panel: Panel, series: Sequence[Series]) -> None:
    """Draw what has so many points that they are a line."""
    for i, each in enumerate(series):
        colour = COLOURS[i % SERIES_MAX]
        _band(panel, each, colour)
        panel.plot(each.x, each.mean, _dots(each), color=colour, label=each.label)


def draw_quantiles(panel: Panel, series: Sequence[Series]) -> None:
    """Draw medians (`mean`) as lines and 95th percentiles (`high`) as dots."""
    for i, each in enumerate(series):
        colour = COLOURS[i % SERIES_MAX]
        label = each.label if len(series) > 1 else ""
        panel.plot(each.x, each.mean, _dots(each), color=colour, label=label)
        panel.plot(each.x, each.high, ":", color=colour, linewidth=1.2)
    panel.plot([], [], color=INK, label="median")
    panel.plot([], [], ":", color=INK, linewidth=1.2, label="95th percentile")


def draw_distribution(
    panel: Panel, label: str, x: NDArray[np.float64], share: NDArray[np.float64], number: int
) -> None:
    """Draw the distribution of the series `number`."""
    colour = COLOURS[number % SERIES_MAX]
    panel.plot(x, share, color=colour, label=label, drawstyle="steps-post")


def dress(panel: Panel, axes: Axes) -> None:
    """Give a panel its words, scales and shades."""
    panel.set_title(axes.title)
    panel.set_xlabel(axes.x_label)
    panel.set_ylabel(axes.y_label)
    _shade(panel, axes.spans)
    if axes.x_to is not None:
        panel.set_xlim(-BELOW * axes.x_to, axes.x_to)
    if axes.x_words:
        panel.set_xticks(range(len(axes.x_words)), axes.x_words)
    elif axes.log_x:
        panel.set_xscale("log")
        _plain_logarithms(panel, "x")
    if axes.log_y:
        panel.set_yscale("log")
        _plain_logarithms(panel, "y")
    elif axes.y_from is not None or axes.y_to is not None:
        panel.set_ylim(axes.y_from, axes.y_to)
        if axes.y_from == 0:  # a line at 0 is seen in full
            panel.set_ylim(-BELOW * panel.get_ylim()[1], None)
    for axis, label in ((panel.xaxis, axes.x_label), (panel.yaxis, axes.y_label)):
        if label.endswith(("(bytes)", "(bytes/s)")) and max(axis.get_view_interval()) >= 1000:
            axis.set_major_formatter(EngFormatter())


def say_verdict(panel: Panel, passed: bool) -> None:
    """Say above a panel whether theory and measurement agree."""
    panel.set_title(
        "✓ pass" if passed else "✗ fail",
        loc="right",
        color=PASSED if passed else FAILED,
        fontsize=9.5,
    )


def legend(figure: Figure, panels: Sequence[Panel]) -> None:
    """Put one legend below all panels; a line that is alone needs none."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    lines = [each for each in found.values() if isinstance(each, Line2D)]
    if not found or (len(found) == len(lines) == 1 and lines[0].get_linestyle() == "-"):
        return
    longest = max(map(len, found))
    columns = max(1, min(len(found), 4, LEGEND_WIDTH // (longest + 8)))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def save(figure: Figure, directory: Path, name: str) -> str:
    """Write `name`.png and `name`.svg; return the SVG's text. Raises `OSError`."""
    path = directory / f"{name}.svg"
    with house_style():
        figure.savefig(directory / f"{name}.png", metadata={"Software": None})
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path.read_text("utf-8")


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save in the house style, whatever the user's settings are."""
    with style.context(["default", STYLE]):
        yield


def _dots(series: Series) -> str:
    """Return how to draw a line: with dots where so few points make none."""
    return "o-" if len(series.x) <= FEW else "-"


def _shade(panel: Panel, spans: Sequence[Span]) -> None:
    """Shade spans; those of one label alike."""
    colours = {
        label: SHADES[i % len(SHADES)]
        for i, label in enumerate(dict.fromkeys(span.label for span in spans))
    }
    for span in spans:
        colour = colours[span.label]
        if span.end > span.start:
            panel.axvspan(span.start, span.end, color=colour, alpha=0.2, lw=0, label=span.label)
        else:
            panel.axvline(span.start, color=colour, lw=1.4, ls=(0, (1, 2)), label=span.label)


def _band(panel: Panel, series: Series, colour: str, *, as_bars: bool = False) -> None:
    """Draw intervals: a band along a line, bars at points that stand alone."""
    known = [
        (x, low, high)
        for x, low, high in zip(series.x, series.low, series.high, strict=False)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if not known:
        return
    x, low, high = zip(*known, strict=True)
    if as_bars or len(known) < 3:
        panel.vlines(x, low, high, color=colour, linewidth=1.4, alpha=0.8)
        panel.plot([], [], "|", markersize=9, color=FAINT, label=BAND)
    else:
        panel.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
        panel.fill_between([], [], [], color=FAINT, alpha=0.4, linewidth=0, label=BAND)


def _crosses(panel: Panel, series: Series) -> None:
    off = [
        (x, y)
        for x, y, passed in zip(series.x, series.mean, series.passed, strict=False)
        if passed is False
    ]
    if off:
        x, y = zip(*off, strict=True)
        panel.plot(
            x,
            y,
            "x",
            color=FAILED,
            markersize=9,
            markeredgewidth=2,
            zorder=5,
            label="not as theory says",
        )


def _plain_logarithms(panel: Panel, which: str) -> None:
    """Write 0.1, 1, 10 on a logarithmic axis, where there is room with 2 and 5 between."""
    axis = panel.xaxis if which == "x" else panel.yaxis
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 9.0
    if decades > 5:
        return
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
