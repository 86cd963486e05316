"""The evaluation: all experiments run, what they gave kept in files, and the page made of those.

    evaluate(Path("evaluation"), quick=False)
    write_page(Path("evaluation"), Path("docs"))

A directory has a `manifest.json` (code, versions, size), and for each experiment a directory with a
file for each point: its scenario, and for each replication the seed, the trace hash and the
measures.  With scenario and seed a run can be made again, to the bit; its observations are not
kept.  What is there already, of the same scenario and seeds, is not run again.

Seeds differ between points, so that one unlucky draw is not seen in all of them.  What cannot be
run is said in the file, and on the page.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from simulations import provenance
from simulations.errors import ScenarioError
from simulations.experiments import NAMES, experiments
from simulations.experiments.experiment import FULL, QUICK, Experiment, Measures, Point, Size
from simulations.replica import SIMULATE, Task
from simulations.replications import Interrupted, Outcome, RunError, perform
from simulations.scenario import Scenario

FORMAT: Final = 1
SEEDS: Final = 1_000_000
"""How many first seeds there are to choose from."""
DIGITS: Final = 9
"""How many digits of a measure are kept. Source: far more than any interval is narrow."""

Kind = TypeVar("Kind", bound=msgspec.Struct)
Progress = Callable[[str, int, int], None]
"""Is told the experiment, how many of its runs are over, and of how many."""


class Replication(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one run."""

    seed: int
    trace_hash: str
    virtual_s: float
    cpu_s: float
    events: int
    measures: Measures
    failure: str = ""
    """An invariant that did not hold, or an exception; empty: none."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One file: a point, and what its runs gave."""

    experiment: str
    point: str
    scenario: Scenario
    replications: list[Replication]
    error: str = ""
    """Why it was not run."""
    commit: str = ""
    """Of the code that ran it."""
    format: int = FORMAT


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory is."""

    replications: int
    share: float
    versions: dict[str, str]
    machine: dict[str, Any]
    format: int = FORMAT

    @property
    def size(self) -> Size:
        """How much was run."""
        return Size(self.replications, self.share)


class NoEvaluation(Exception):
    """A directory that holds none, or one of another form."""


def evaluate(
    directory: Path,
    quick: bool = False,
    progress: Progress | None = None,
    *,
    size: Size | None = None,
    jobs: int = 2,
    names: tuple[str, ...] = NAMES,
    simulator: str = SIMULATE,
) -> None:
    """Run the experiments and keep what they give in `directory`.

    Args:
        directory: Made if it is not there.
        quick: Two short replications of everything: whether it runs at all.
        progress: Is told how far it is.
        size: Another size than the two.
        jobs: How many runs at a time.
        names: Which experiments.
        simulator: `module:function`, what runs a scenario.

    Raises `OSError`, and `Interrupted`.
    """
    size = size or (QUICK if quick else FULL)
    directory.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        replications=size.replications,
        share=size.share,
        versions=provenance.versions(),
        machine=provenance.machine(),
    )
    _write(directory / "manifest.json", manifest)
    for experiment in experiments(size, names):
        _run(experiment, directory / experiment.name, size, jobs, simulator, progress)


def seeds(experiment: str, point: str, replications: int) -> list[int]:
    """Return the seeds of a point: consecutive, from one that its name gives."""
    first = zlib.crc32(f"{experiment}/{point}".encode()) % SEEDS * 1000
    return [first + number for number in range(replications)]


def read_manifest(directory: Path) -> Manifest:
    """Return what a directory is. Raises `NoEvaluation`."""
    return _read(directory / "manifest.json", Manifest)


def read_point(directory: Path, experiment: Experiment, point: Point) -> Stored:
    """Return what a point's runs gave. Raises `NoEvaluation`, also for another scenario."""
    stored = _read(_path(directory / experiment.name, point), Stored)
    if stored.scenario != point.scenario:
        raise NoEvaluation(f"{experiment.name}/{point.name} was run with another scenario")
    return stored


def _run(
    experiment: Experiment,
    directory: Path,
    size: Size,
    jobs: int,
    simulator: str,
    progress: Progress | None,
) -> None:
    """Run all points of an experiment that are not there, and write each."""
    directory.mkdir(exist_ok=True)
    wanted = {
        point.name: seeds(experiment.name, point.name, size.replications)
        for point in experiment.points
    }
    missing = [
        point
        for point in experiment.points
        if not _is_there(_path(directory, point), point, wanted[point.name])
    ]
    total = sum(len(wanted[point.name]) for point in missing)
    done = 0

    def watch(_: int, virtual_s: float) -> None:
        nonlocal done
        if virtual_s == float("inf"):
            done += 1
            if progress is not None:
                progress(experiment.name, done, total)

    commit = str(provenance.commit())
    tasks = [
        Task(scenario=point.scenario, seed=seed, simulator=simulator)
        for point in missing
        for seed in wanted[point.name]
    ]
    outcomes: list[Outcome] = []
    error = ""
    try:
        outcomes = perform(tasks, jobs=jobs, watch=watch) if tasks else []
    except Interrupted:
        raise
    except (RunError, ScenarioError) as problem:
        error = str(problem)
    for number, point in enumerate(missing):
        first = number * size.replications
        own = outcomes[first : first + size.replications]
        stored = Stored(
            experiment=experiment.name,
            point=point.name,
            scenario=point.scenario,
            replications=[_keep(point, outcome) for outcome in own],
            error=error,
            commit=commit,
        )
        _write(_path(directory, point), stored)


def _keep(point: Point, outcome: Outcome) -> Replication:
    failed = outcome.failure
    return Replication(
        seed=outcome.seed,
        trace_hash=outcome.trace_hash,
        virtual_s=outcome.virtual_s,
        cpu_s=outcome.cpu_s,
        events=outcome.events,
        measures={}
        if failed
        else {
            name: float(f"{value:.{DIGITS}g}")
            for name, value in point.reduce(outcome.observations, outcome.seed).items()
        },
        failure="" if failed is None else f"{failed.what} ({failed.at_s:.3f} s, {failed.node})",
    )


def _is_there(path: Path, point: Point, wanted: Sequence[int]) -> bool:
    try:
        stored = _read(path, Stored)
    except NoEvaluation:
        return False
    same = stored.scenario == point.scenario and not stored.error
    return same and [run.seed for run in stored.replications] == list(wanted)


def _path(directory: Path, point: Point) -> Path:
    return directory / f"{point.name}.json"


def _write(path: Path, value: msgspec.Struct) -> None:
    """Write a file; there is never half of one."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(value) + b"\n")
    partial.replace(path)


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise NoEvaluation(f"{path}: {error}") from None
