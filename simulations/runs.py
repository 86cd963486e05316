"""A run directory: all that a run gave, in files that other programs read.

    manifest.json      what was run, by which code, and how it ended
    metrics.csv        every observation: metric, at_s, value, node, label, replication
    metrics.parquet    the same, for data frames
    topology.json      nodes and links
    events.jsonl       every event of the first replication, if asked for
    plots/*.png, *.svg one picture a metric
    report.html        all of it on one page that needs no other file
    replay.html        the first replication as a moving picture, where events were kept

It is written under another name beside its own and renamed at the end, so that there is never half
of one.  A directory that is there is not touched, unless it is a run directory and the caller says
`replace`.  Nothing in it says when it was made: the same run gives the same bytes, but for how long
it took.
"""

import errno
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from simulations import conditions, observations, provenance, references
from simulations.conditions import Verdict
from simulations.observations import Observations
from simulations.provenance import Commit
from simulations.references import Source
from simulations.replica import DISK_FULL, SIMULATE, Task
from simulations.replications import DiskFull, Outcome, RunError, Watch, perform
from simulations.scenario import Scenario

FORMAT: Final = 1
"""Of manifest.json and topology.json."""
RUNS: Final = "runs"
"""The directory that gets run directories with no name of their own."""


class CannotWrite(RunError):
    """A place where nothing can be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run, and how."""

    source: Source
    seed: int
    replications: int = 1
    """Replication k has the seed `seed + k`."""
    jobs: int = 2
    checking: bool = False
    events: bool = False
    simulator: str = SIMULATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What it gave."""

    request: Request
    commit: Commit
    outcomes: Sequence[Outcome]
    verdicts: Sequence[Verdict]

    @property
    def scenario(self) -> Scenario:
        """What was run."""
        return self.request.source.scenario

    @property
    def observations(self) -> list[Observations]:
        """What was measured, by replication."""
        return [outcome.observations for outcome in self.outcomes]

    @property
    def failures(self) -> list[Outcome]:
        """The replications in which an invariant did not hold."""
        return [outcome for outcome in self.outcomes if outcome.failure is not None]

    @property
    def passed(self) -> bool:
        """Whether all invariants and all conditions held."""
        return not self.failures and all(verdict.passed for verdict in self.verdicts)

    def line(self, seed: int) -> str:
        """Return the line that repeats one replication."""
        return references.line_of(self.request.source, seed, self.commit.name)


def execute(request: Request, partial: Path, watch: Watch | None = None) -> Run:
    """Run all replications; events go to `partial`. Raises as `replications.perform` does."""
    source = request.source
    tasks = [
        Task(
            scenario=source.scenario,
            seed=request.seed + number,
            directory=source.directory,
            checking=request.checking,
            events_path=str(partial / "events.jsonl") if request.events and not number else None,
            topology=not number,
            simulator=request.simulator,
        )
        for number in range(request.replications)
    ]
    outcomes = perform(tasks, jobs=request.jobs, watch=watch, stop_on_failure=True, scratch=partial)
    verdicts = conditions.judge(source.scenario, [outcome.observations for outcome in outcomes])
    return Run(request=request, commit=provenance.commit(), outcomes=outcomes, verdicts=verdicts)


def write(run: Run, directory: Path) -> None:
    """Write all files of a run but its events, which are there. Raises `OSError`."""
    from simulations import pictures, plots, report

    write_json(directory / "manifest.json", manifest(run))
    first = run.outcomes[0]
    if first.topology is not None:
        write_json(directory / "topology.json", first.topology, indent=None)
    numbered = [({"replication": i}, each) for i, each in enumerate(run.observations)]
    observations.write_files(numbered, directory / "metrics")
    (directory / "plots").mkdir()
    drawn = [
        (name, plots.save(figure, directory / "plots", name))
        for name, figure in pictures.draw_run(run.scenario, run.observations)
    ]
    has_replay = run.request.events and _write_replay(directory)
    page = report.of_run(run, drawn, has_replay=has_replay)
    (directory / "report.html").write_text(page, "utf-8")


def manifest(run: Run) -> dict[str, Any]:
    """Return what manifest.json says."""
    request, source, first = run.request, run.request.source, run.outcomes[0]
    return {
        "format": FORMAT,
        "name": run.scenario.name,
        "summary": run.scenario.summary,
        "driver": run.scenario.driver,
        "duration_s": run.scenario.duration_s,
        "seed": first.seed,
        "trace_hash": first.trace_hash,
        "virtual_s": first.virtual_s,
        "passed": run.passed,
        "replications": [_about(outcome) for outcome in run.outcomes],
        "replications_asked_for": request.replications,
        "conditions": [
            {
                "name": verdict.name,
                "passed": verdict.passed,
                "sure": verdict.sure,
                "value": verdict.value,
                "interval": verdict.interval and asdict(verdict.interval),
                "why": verdict.why,
            }
            for verdict in run.verdicts
        ],
        "reference": source.reference,
        "scenario_digest": source.digest,
        "scenario": source.text,
        "checking": request.checking,
        "replay": run.line(first.seed),
        "commit": run.commit.name,
        "commit_dirty": run.commit.dirty,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "PYTHONHASHSEED": "0",
    }


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write JSON for people, or with `indent` `None` for programs."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", "utf-8")


def free_name(name: str) -> Path:
    """Return a directory of `RUNS` that is not there yet."""
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "run"
    number = 1
    while (path := Path(RUNS) / (plain if number == 1 else f"{plain}.{number}")).exists():
        number += 1
    return path


@contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a directory that becomes `path` when the block ends well, and is removed if not.

    Raises `CannotWrite` if `path` is there, or cannot be made, and `DiskFull` for an error of the
    block that says so.
    """
    _check_free(path, replace)
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        partial = Path(made)
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o777 & ~umask)
        yield partial
        _put(partial, path, replace)
    except OSError as error:
        if error.errno in DISK_FULL:
            why = os.strerror(error.errno or 0)  # of pyarrow, too, whose own words are long
            raise DiskFull(f"cannot write {path}: {why}", ROOM) from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and partial is not None:
            raise CannotWrite(f"{path} is there: it appeared meanwhile", ELSEWHERE) from error
        if partial is None or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CannotWrite(f"cannot write {path}: {error.strerror}", ELSEWHERE) from error
        raise
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


ROOM: Final = "make room and run it again; nothing was left behind"
ELSEWHERE: Final = "--out names another place"


def _check_free(path: Path, replace: bool) -> None:
    if path.parent.exists() and not path.parent.is_dir():
        raise CannotWrite(f"{path.parent} is no directory", ELSEWHERE)
    if not path.exists():
        return
    if not replace:
        raise CannotWrite(f"{path} is there", "--out names another place, --replace replaces it")
    if not (path / "manifest.json").is_file():
        raise CannotWrite(f"{path} is no run directory: not replaced", ELSEWHERE)


def _put(partial: Path, path: Path, replace: bool) -> None:
    """Give what is complete its name."""
    if not replace or not path.exists():
        partial.rename(path)
        return
    old = partial.with_suffix(".old")
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _about(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.seed,
        "trace_hash": outcome.trace_hash,
        "metrics_hash": outcome.metrics_hash,
        "events": outcome.events,
        "observations": len(outcome.observations),
        "virtual_s": outcome.virtual_s,
        "cpu_s": round(outcome.cpu_s, 3),
        "wall_s": round(outcome.wall_s, 3),
        "memory_peak_bytes": outcome.memory_peak_bytes,
        "failure": outcome.failure and asdict(outcome.failure),
    }


def _write_replay(directory: Path) -> bool:
    """Write replay.html; return whether there is one."""
    if importlib.util.find_spec("simulations.replaying") is None:
        return False
    from simulations import replaying

    return replaying.write_replay(directory) is not None
