"""The pictures of docs/evaluation.md: what was measured, theory beside it, and the verdict."""

from pathlib import Path

from simulations import plots
from simulations.evaluation_sections import Section, overall
from simulations.experiments.experiment import Findings, Line, Plot
from simulations.statistics import Verdict


def draw(section: Section, plot: Plot, path: Path) -> None:
    """Write the picture of a plot, an SVG. Raises `OSError`."""
    series: list[plots.Series] = []
    theory: list[plots.Theory] = []
    drawn: list[tuple[tuple[float, str, str], ...]] = []
    judged: list[Verdict] = []
    for line in plot.lines:
        verdicts = [section.findings.judge(dot) for dot in line.dots]
        judged += [verdict for verdict in verdicts if verdict is not None]
        places = tuple((dot.x, dot.point, dot.measure) for dot in line.dots)
        if places not in drawn:  # else the same dots under another bound
            drawn.append(places)
            series.append(_series(section.findings, line))
            if curve := line.theory():
                x, y = zip(*curve, strict=True)
                theory.append(plots.Theory(line.label, x, y))
    for each in plot.curves:
        if each.places:
            x, y = zip(*each.places, strict=True)
            theory.append(plots.Theory(each.label, x, y))
    axes = plots.Axes(
        title=plot.title,
        x_label=plot.x_label,
        y_label=plot.y_label,
        log_x=plot.log_x,
        log_y=plot.log_y,
        y_from=plot.y_from,
        y_to=plot.y_to,
    )
    passed = {"pass": True, "**fail**": False}.get(overall(judged)) if judged else None
    figure = plots.curve([each for each in series if each.x], theory, axes, passed)
    with plots.house_style():
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _series(findings: Findings, line: Line) -> plots.Series:
    found = [
        (dot.x, measured, findings.judge(dot))
        for dot in line.dots
        if (measured := findings.of(dot)) is not None
    ]
    return plots.Series(
        line.label,
        [x for x, _, _ in found],
        [measured.mean for _, measured, _ in found],
        [measured.low for _, measured, _ in found],
        [measured.high for _, measured, _ in found],
        [
            None if verdict is None or verdict.undecided else verdict.passed
            for _, _, verdict in found
        ],
    )
