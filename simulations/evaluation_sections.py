"""One experiment and what it gave: what its part of the page, and its pictures, are made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulations.evaluation import NoEvaluation, Stored, read_point
from simulations.experiments.experiment import Dot, Experiment, Findings, Line, Plot
from simulations.statistics import Verdict


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

    def verdicts(self) -> list[Verdict]:
        """Return what is said of each of them."""
        return [verdict for _, _, _, verdict in self.judged()]

    def word(self) -> str:
        """Return the verdict on the whole."""
        return "**incomplete**" if self.missing else overall(self.verdicts())


def read_section(directory: Path, experiment: Experiment) -> Section:
    """Return what `evaluate` left of an experiment in `directory`."""
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


def failed(verdict: Verdict) -> bool:
    """Return whether theory is refuted."""
    return not verdict.passed and not verdict.undecided


def overall(verdicts: Sequence[Verdict]) -> str:
    """Return one word for all: the worst."""
    if any(failed(verdict) for verdict in verdicts):
        return "**fail**"
    return "undecided" if any(verdict.undecided for verdict in verdicts) else "pass"
