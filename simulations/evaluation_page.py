"""docs/evaluation.md, made of what `simulations.evaluation` kept: no number on it is typed.

    summary = write_page(Path("evaluation"), Path("docs"))
    summary.passed

The page is a function of the kept files and of this code, and the pictures beside it are, too.  It
says fail where it fails: at the top, at the picture, and in the table.  Words that explain a result
are the experiment's own, and every number in them is looked up in the findings.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulations import evaluation_pictures
from simulations.evaluation import Manifest, read_manifest
from simulations.evaluation_sections import Section, failed, overall, read_section
from simulations.experiments import NAMES, experiments
from simulations.experiments.experiment import (
    SHARE_ABSOLUTE_MAX,
    Dot,
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
class Summary:
    """What the page says in one line."""

    verdicts: int
    failed: int
    undecided: int
    missing: int
    """Points that were not run, and invariants that did not hold."""

    @property
    def passed(self) -> bool:
        """Whether everything did."""
        return not (self.failed or self.undecided or self.missing)


@dataclass(frozen=True, slots=True)
class Page:
    """The page before it is written."""

    text: str
    summary: Summary
    sections: Sequence[Section]


def compose(directory: Path, names: tuple[str, ...] = NAMES) -> Page:
    """Return the page of what `evaluate` left in `directory`. Raises `NoEvaluation`."""
    manifest = read_manifest(directory)
    sections = [read_section(directory, each) for each in experiments(manifest.size, names)]
    verdicts = [verdict for section in sections for verdict in section.verdicts()]
    summary = Summary(
        verdicts=len(verdicts),
        failed=sum(failed(verdict) for verdict in verdicts),
        undecided=sum(verdict.undecided for verdict in verdicts),
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
            evaluation_pictures.draw(section, plot, pictures / f"{plot.name}.svg")
    (docs / "evaluation.md").write_text(page.text, "utf-8")
    return page.summary


# --- words -----------------------------------------------------------------------------------


def _page(manifest: Manifest, sections: Sequence[Section], summary: Summary) -> Iterator[str]:
    yield "# Evaluation"
    yield ""
    yield from _opening(manifest, sections, summary)
    yield "| | | verdicts | failed | undecided | |"
    yield "|---|---|--:|--:|--:|---|"
    for section in sections:
        name, title = section.experiment.name.upper(), section.experiment.title
        verdicts = section.verdicts()
        link = f"[{title}](#{_anchor(f'{name}: {title}')})"
        refuted = sum(failed(verdict) for verdict in verdicts)
        unsure = sum(verdict.undecided for verdict in verdicts)
        yield f"| {name} | {link} | {len(verdicts)} | {refuted} | {unsure} | {section.word()} |"
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
    passed = summary.verdicts - summary.failed - summary.undecided
    yield (
        f"**{passed} of {summary.verdicts} verdicts pass, {summary.failed} fail, "
        f"{summary.undecided} are undecided.** Undecided is what neither passed nor is refuted: "
        f"theory is inside an interval that is wider than {RELATIVE_MAX:.0%}, or the interval lies "
        f"on both sides of a bound; more runs would tell. At {CONFIDENCE:.0%} about {chance:.0f} "
        "of as many would fail by chance alone if all theory were exact; the tables say by how "
        "much each is off."
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
    yield f"{section.word()}: {experiment.question}"
    yield ""
    yield f"**Set-up.** {experiment.set_up}"
    yield ""
    if section.missing:
        yield "**What is missing or went wrong.**"
        yield ""
        yield from (f"* {why}" for why in section.missing)
        yield ""
    for title, lines in (
        ("What fails", list(_told(section, failed))),
        ("What is undecided", list(_told(section, lambda verdict: verdict.undecided))),
    ):
        if lines:
            yield f"**{title}.**"
            yield ""
            yield from lines
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


def _told(section: Section, which: Callable[[Verdict], bool]) -> Iterator[str]:
    """Yield a line for each dot with such a verdict."""
    for plot, line, dot, verdict in section.judged():
        if not which(verdict):
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
        "" if verdict is None else overall([verdict]),
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
        "page. A single run is its scenario and its seed, both in the kept files "
        "([evaluation/runs](evaluation/runs)), and gives the same trace hash each time with the "
        "same code, whose commit is there too."
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


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "?"
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"
