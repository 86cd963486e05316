"""docs/evaluation.md, made of what `simulations.evaluation` kept: no number on it is typed.

    summary = write_page(Path("evaluation"), Path("docs"))
    summary.passed

The page is a function of the kept files and of this code, and the pictures beside it are, too.  It
says fail where it fails: at the top, at the picture, and in the table.  Words that explain a result
are the experiment's own, and every number in them is looked up in the findings.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulations import plots
from simulations.evaluation import Manifest, NoEvaluation, Stored, read_manifest, read_point
from simulations.experiments import NAMES, experiments
from simulations.experiments.experiment import (
    SHARE_ABSOLUTE_MAX,
    Dot,
    Experiment,
    Findings,
    Line,
    Plot,
    Relation,
)
from simulations.statistics import CONFIDENCE, RELATIVE_MAX, Verdict

PICTURES: Final = "evaluation"
"""The directory beside the page."""
SIGNS: Final[dict[Relation, str]] = {
    "equals": "=",
    "at least": "≥",
    "at most": "≤",
    "always at least": "always ≥",
    "always at most": "always ≤",
}
COLUMNS: Final = ("", "x", "measured", f"{CONFIDENCE:.0%} interval", "theory", "verdict", "why")


@dataclass(frozen=True, slots=True)
class Section:
    """One experiment and what it gave."""

    experiment: Experiment
    findings: Findings
    stored: Sequence[Stored]
    missing: Sequence[str]
    """Why points are not there, and invariants that did not hold."""

    def judged(self) -> Iterator[tuple[Plot, Line, Dot, Verdict]]:
        """Yield the dots that were run and have something to agree with."""
        ran = [one.point for one in self.stored if one.replications]
        for plot, line, dot in self.experiment.dots():
            verdict = self.findings.judge(dot)
            if verdict is not None and dot.point in ran:
                yield plot, line, dot, verdict

    def verdicts(self) -> list[bool]:
        """Return whether each of them passed."""
        return [verdict.passed for _, _, _, verdict in self.judged()]

    @property
    def passed(self) -> bool:
        """Whether all did, and all is there."""
        return all(self.verdicts()) and not self.missing


@dataclass(frozen=True, slots=True)
class Summary:
    """What the page says in one line."""

    verdicts: int
    failed: int
    missing: int
    """Points that were not run, and invariants that did not hold."""

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failed and not self.missing


@dataclass(frozen=True, slots=True)
class Page:
    """The page before it is written."""

    text: str
    summary: Summary
    sections: Sequence[Section]


def compose(directory: Path, names: tuple[str, ...] = NAMES) -> Page:
    """Return the page of what `evaluate` left in `directory`. Raises `NoEvaluation`."""
    manifest = read_manifest(directory)
    sections = [_section(directory, each) for each in experiments(manifest.size, names)]
    verdicts = [verdict for section in sections for verdict in section.verdicts()]
    summary = Summary(
        verdicts=len(verdicts),
        failed=verdicts.count(False),
        missing=sum(len(section.missing) for section in sections),
    )
    text = "\n".join(_page(manifest, sections, summary)).rstrip() + "\n"
    return Page(text, summary, sections)


def write_page(directory: Path, docs: Path, names: tuple[str, ...] = NAMES) -> Summary:
    """Write `docs`/evaluation.md and its pictures, out of what `evaluate` left in `directory`.

    `names` are the experiments that it is to tell of.

    Raises `NoEvaluation` for a directory that holds none, and `OSError`.
    """
    page = compose(directory, names)
    pictures = docs / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for section in page.sections:
        for plot in section.experiment.plots:
            _draw(section, plot, pictures / f"{plot.name}.svg")
    (docs / "evaluation.md").write_text(page.text, "utf-8")
    return page.summary


def _section(directory: Path, experiment: Experiment) -> Section:
    stored: list[Stored] = []
    missing: list[str] = []
    for point in experiment.points:
        try:
            one = read_point(directory, experiment, point)
        except NoEvaluation as error:
            missing.append(f"`{point.name}` was not run: {error}")
            continue
        stored.append(one)
        if one.error:
            missing.append(f"`{point.name}` could not be run: {one.error}")
        missing += [
            f"`{point.name}`, seed {run.seed}: {run.failure}"
            for run in one.replications
            if run.failure
        ]
    findings = Findings(
        {one.point: [run.measures for run in one.replications] for one in stored},
    )
    return Section(experiment, findings, stored, missing)


# --- words -----------------------------------------------------------------------------------


def _page(manifest: Manifest, sections: Sequence[Section], summary: Summary) -> Iterator[str]:
    yield "# Evaluation"
    yield ""
    yield from _opening(manifest, sections, summary)
    yield "| | | verdicts | failed | |"
    yield "|---|---|--:|--:|---|"
    for section in sections:
        name, title = section.experiment.name.upper(), section.experiment.title
        verdicts = section.verdicts()
        link = f"[{title}](#{_anchor(f'{name}: {title}')})"
        failed = verdicts.count(False)
        yield f"| {name} | {link} | {len(verdicts)} | {failed} | {_passed(section.passed)} |"
    yield ""
    for section in sections:
        yield from _section_text(section)
    yield from _closing(manifest, sections)


def _opening(manifest: Manifest, sections: Sequence[Section], summary: Summary) -> Iterator[str]:
    runs = sum(len(one.replications) for section in sections for one in section.stored)
    yield (
        "What this platform does, measured on the product's own code under a virtual clock (see "
        "[simulation.md](simulation.md)), beside what theory says it should do. This page is made "
        "by `peernode sim evaluate --docs docs`; none of its numbers is typed."
    )
    yield ""
    yield (
        f"{runs} runs, {manifest.replications} replications of each point with seeds of their "
        f"own. A dot passes if theory lies inside Student's {CONFIDENCE:.0%} interval over the "
        f"replications *and* the mean is within {RELATIVE_MAX:.0%} of it. Shares, which may be "
        f"near 0 or 1, may instead be within {SHARE_ABSOLUTE_MAX:g} of it (absolutely); a bound "
        "passes if the whole interval lies on its side, and one that holds for every run if no run "
        "breaks it (*always*)."
    )
    yield ""
    chance = summary.verdicts * (1 - CONFIDENCE)
    yield (
        f"**{summary.verdicts - summary.failed} of {summary.verdicts} verdicts pass, "
        f"{summary.failed} fail.** At {CONFIDENCE:.0%} about {chance:.0f} of as many would "
        "fail by chance alone if all theory were exact, and more where the "
        f"intervals are wider than {RELATIVE_MAX:.0%}; the tables say by how much each is off."
    )
    yield ""
    if manifest.share != 1:
        yield (
            f"These runs have {manifest.share:g} times the usual number of jobs each, so intervals "
            "are wider than those of a full evaluation."
        )
        yield ""


def _section_text(section: Section) -> Iterator[str]:
    experiment = section.experiment
    yield f"## {experiment.name.upper()}: {experiment.title}"
    yield ""
    yield f"{_passed(section.passed)} — {experiment.question}"
    yield ""
    yield f"**Set-up.** {experiment.set_up}"
    yield ""
    if section.missing:
        yield "**What is missing or went wrong.**"
        yield ""
        yield from (f"* {why}" for why in section.missing)
        yield ""
    failures = list(_failures(section))
    if failures:
        yield "**What fails.**"
        yield ""
        yield from failures
        yield ""
    for plot in experiment.plots:
        yield f"![{plot.title}]({PICTURES}/{plot.name}.svg)"
        yield ""
        yield from _table(section, plot)
    yield f"**What it means.** {_meaning(section)}"
    yield ""
    yield f"**Limits.** {experiment.limits}"
    yield ""


def _meaning(section: Section) -> str:
    if not section.stored:
        return "Nothing was measured."
    text = section.experiment.meaning(section.findings)
    if "nan" in text:
        return "Not enough was measured to say."
    return text


def _failures(section: Section) -> Iterator[str]:
    for plot, line, dot, verdict in section.judged():
        if verdict.passed:
            continue
        measured, check = section.findings.of(dot), section.findings.check(dot)
        assert check is not None
        found = "nothing" if measured is None else _number(measured.mean)
        yield (
            f"* {plot.title}, {line.label}, {plot.x_label} {dot.x:g}: {found}, theory "
            f"{SIGNS[check.relation]} {_number(check.theory)}; {verdict.reason}."
        )


def _table(section: Section, plot: Plot) -> Iterator[str]:
    yield f"<details><summary>{plot.title}: numbers</summary>"
    yield ""
    yield "| " + " | ".join(COLUMNS).replace(" x ", f" {plot.x_label} ") + " |"
    yield "|---|--:|--:|--:|--:|---|---|"
    for line in plot.lines:
        for dot in line.dots:
            yield "| " + " | ".join(_row(section.findings, line, dot)) + " |"
    yield ""
    yield "</details>"
    yield ""


def _row(findings: Findings, line: Line, dot: Dot) -> list[str]:
    measured, check, verdict = findings.of(dot), findings.check(dot), findings.judge(dot)
    return [
        line.label,
        f"{dot.x:g}",
        "" if measured is None else _number(measured.mean),
        "" if measured is None else f"{_number(measured.low)} to {_number(measured.high)}",
        "" if check is None else f"{SIGNS[check.relation]} {_number(check.theory)}",
        "" if verdict is None else _passed(verdict.passed),
        "" if verdict is None else verdict.reason,
    ]


def _closing(manifest: Manifest, sections: Sequence[Section]) -> Iterator[str]:
    runs = [run for section in sections for one in section.stored for run in one.replications]
    commits = dict.fromkeys(one.commit for section in sections for one in section.stored)
    yield "## What this does and does not show"
    yield ""
    yield (
        "* **Time is virtual.** Links, jobs and disks take the time that a scenario says; the code "
        "in between takes none. Waiting for a processor is not in any number here, and on real "
        "machines it is the largest part of what is left out. What the code costs is measured by "
        "`make bench`, not here."
    )
    yield (
        "* **What runs is the product.** In E1 to E4, E6, E7 and E9 whole daemons, with their HTTP "
        "API, scheduler, store and reconciliation; in E5 and E8 their gossip machines alone. The "
        "network is simulated, and what workers do is waiting."
    )
    yield (
        "* **Agreement with theory is not validation against machines.** It shows that the product "
        "behaves as its design says, under the assumptions of the theory: arrivals by chance, "
        "failures without memory and independent of one another."
    )
    yield ""
    yield "## How to make it again"
    yield ""
    yield (
        "`peernode sim evaluate --out evaluation --docs docs` runs everything and writes this "
        "page. A single run is its scenario and its seed, both in the kept files, and gives the "
        "same trace hash each time."
    )
    yield ""
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield f"Code: {', '.join(f'`{commit[:12]}`' for commit in commits if commit)}. {versions}."
    yield (
        f"{len(runs)} runs took {math.fsum(run.cpu_s for run in runs) / 60:.0f} minutes of "
        f"processor time for {math.fsum(run.virtual_s for run in runs) / 3600:.0f} virtual hours."
    )


def _anchor(heading: str) -> str:
    """Return what a heading is called in a link, as GitHub has it."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _passed(passed: bool) -> str:
    return "pass" if passed else "**fail**"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "?"
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"


# --- pictures --------------------------------------------------------------------------------


def _draw(section: Section, plot: Plot, path: Path) -> None:
    series: list[plots.Series] = []
    theory: list[plots.Theory] = []
    drawn: list[tuple[tuple[float, str, str], ...]] = []
    judged: list[bool] = []
    for line in plot.lines:
        verdicts = [section.findings.judge(dot) for dot in line.dots]
        judged += [verdict.passed for verdict in verdicts if verdict is not None]
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
    figure = plots.curve(
        [each for each in series if each.x], theory, axes, all(judged) if judged else None
    )
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
        [verdict.passed if verdict is not None else None for _, _, verdict in found],
    )
