"""`peernode sim`: run a scenario, repeat a failure, verify, sweep, explore.

Exit codes: 0 done and passed; 1 a condition did not hold, or two runs differ that may not; 2 wrong
usage, or a scenario that cannot be run; 3 an invariant did not hold; 4 the machine was in the way
(disk, memory, a lost process); 130 interrupted.  Results go to stdout, everything else to stderr.

`peernode` finds this through the entry point `peernode.commands`; what is heavy (numpy, trio) is
imported inside the commands.
"""

import importlib.util
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from simulations.scenario import Scenario

FAILED: Final = 1
WRONG: Final = 2
BROKEN: Final = 3
IN_THE_WAY: Final = 4
INTERRUPTED: Final = 130
SIGNALLED: Final = 128
"""Added to a signal's number, as shells do."""
EXTRAS: Final = ("matplotlib", "networkx", "numpy", "pyarrow", "scipy", "topohub")
"""What `pip install 'peernode[sim]'` brings."""
JOBS_MAX: Final = 256
REPLICATIONS_MAX: Final = 10_000
"""Source: guess; the interval is a tenth of that of 100."""

app = typer.Typer(
    name="sim",
    help="Simulations: whole meshes in one process, under a virtual clock.",
    epilog="Exit codes: 0 passed, 1 a condition failed or two runs differ, 2 wrong usage or "
    "scenario, 3 an invariant broke, 4 disk, memory or a process failed, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A TOML file, or a name of `sim list`.")
]
Seed = Annotated[int, typer.Option(min=0, help="What all chance comes from.")]
Replications = Annotated[
    int, typer.Option(min=1, max=REPLICATIONS_MAX, help="How many runs, with seeds from --seed on.")
]
Jobs = Annotated[int, typer.Option(min=1, max=JOBS_MAX, help="How many processes at a time.")]
Out = Annotated[Path | None, typer.Option(help="The directory that is made; else one in ./runs.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace --out if it is there.")]


@app.command("run")
def run(
    context: typer.Context,
    scenario: ScenarioName,
    seed: Seed = 1,
    replications: Replications = 1,
    out: Out = None,
    events: Annotated[
        bool, typer.Option("--events", help="Keep every event of the first replication.")
    ] = False,
    jobs: Jobs = 2,
    check: Annotated[
        bool, typer.Option("--check", help="Check every invariant after each step; slower.")
    ] = False,
    replace: Replace = False,
) -> None:
    """Run a scenario, and write what was measured into a directory."""
    with boundary():
        from simulations import references, runs, showing, watching

        source = references.find(scenario)
        request = runs.Request(
            source=source,
            seed=seed,
            replications=replications,
            jobs=jobs,
            checking=check,
            events=events,
            simulator=simulator_of(context),
        )
        path = out or runs.free_name(f"{source.scenario.name}-seed{seed}")
        with runs.new_directory(path, replace=replace) as partial:
            length_s = whole_s(source.scenario)
            with watching.watched(source.scenario.name, replications, length_s) as watch:
                done = runs.execute(request, partial, watch)
                runs.write(done, partial)
        showing.show_run(done, path)
    if done.failures:
        raise typer.Exit(BROKEN)
    if not done.passed:
        raise typer.Exit(FAILED)


@app.command("replay")
def replay(
    context: typer.Context,
    line: Annotated[list[str], typer.Argument(metavar="LINE", help="What a failure printed.")],
    out: Annotated[Path | None, typer.Option(help="A file for every event of the run.")] = None,
) -> None:
    """Repeat a failure from its one line, and show the last events before it."""
    with boundary():
        from simulations import repeating, watching

        parsed, source = repeating.parse(line[0] if len(line) == 1 else shlex.join(line))
        length_s = whole_s(source.scenario)
        with watching.watched(source.scenario.name, 1, length_s) as watch:
            done = repeating.repeat(
                parsed, source, events=out, watch=watch, simulator=simulator_of(context)
            )
        failure = done.outcome.failure
        for row in repeating.events_in_words(done.outcome.last):
            print(row)
        for doubt in done.doubts:
            say(f"note: {doubt}")
        if failure is None:
            print(f"all invariants held; trace hash {done.outcome.trace_hash}")
            return
        if failure.traceback:
            print(failure.traceback.rstrip())
        where = f", node {failure.node}" if failure.node else ""
        print(f"at {failure.at_s:g} s{where}: {failure.what}")
    raise typer.Exit(BROKEN)


@app.command("verify")
def verify(
    context: typer.Context,
    scenario: ScenarioName,
    seed: Seed = 1,
    runs: Annotated[int, typer.Option(min=2, max=1000, help="How many runs are compared.")] = 3,
    jobs: Jobs = 2,
) -> None:
    """Run a scenario several times, in processes that differ, and compare all that happened."""
    with boundary():
        import secrets

        from simulations import references, showing, verifying, watching

        source = references.find(scenario)
        known = ("0", "1")[:runs]
        hash_seeds = [*known, *(str(secrets.randbelow(1 << 32)) for _ in range(runs - len(known)))]
        length_s = whole_s(source.scenario)
        with watching.watched(source.scenario.name, runs, length_s) as watch:
            found = verifying.verify(
                source, seed, hash_seeds, jobs=jobs, watch=watch, simulator=simulator_of(context)
            )
        showing.show_verification(found)
    if not found.same:
        raise typer.Exit(FAILED)


@app.command("sweep")
def sweep(
    context: typer.Context,
    scenario: ScenarioName,
    set: Annotated[
        list[str],
        typer.Option(metavar="PLACE=VALUE,...", help="As load[0].model=async,sync; repeatable."),
    ],
    seed: Seed = 1,
    replications: Replications = 5,
    out: Out = None,
    jobs: Jobs = 2,
    replace: Replace = False,
) -> None:
    """Run a scenario with each choice of some settings, and compare."""
    with boundary():
        from simulations import references, runs, showing, sweep_files, sweeping, watching

        source = references.find(scenario)
        settings = [sweeping.parse_setting(text) for text in set]
        points = sweeping.grid(source, settings)
        path = out or runs.free_name(f"{source.scenario.name}-sweep")
        with runs.new_directory(path, replace=replace) as partial:
            length_s = max(whole_s(point.source.scenario) for point in points)
            count = len(points) * replications
            with watching.watched(source.scenario.name, count, length_s) as watch:
                done = sweeping.sweep(
                    source,
                    settings,
                    points,
                    seed=seed,
                    replications=replications,
                    jobs=jobs,
                    scratch=partial,
                    watch=watch,
                    simulator=simulator_of(context),
                )
                sweep_files.write(done, partial)
        showing.show_sweep(done, path)
    if done.failures:
        raise typer.Exit(BROKEN)
    if not all(verdict.passed for point in done.points for verdict in point.verdicts):
        raise typer.Exit(FAILED)


@app.command("explore")
def explore(
    context: typer.Context,
    hours: Annotated[
        float | None, typer.Option(min=0.0, help="How long to look, in real hours.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1_000_000_000, help="How many scenarios to try.")
    ] = None,
    first: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    jobs: Jobs = 2,
) -> None:
    """Look for what breaks: random scenarios and faults, with every invariant checked."""
    if hours is None and seeds is None:
        complain("nothing says how long to look", "add --seeds 1000, or --hours 1")
        raise typer.Exit(WRONG)
    with boundary():
        from simulations import exploring, showing

        search = exploring.Search(
            first=first,
            count=seeds,
            for_s=None if hours is None else hours * 3600,
            jobs=jobs,
            simulator=simulator_of(context),
        )
        found = exploring.explore(search, showing.show_progress, showing.show_finding)
        showing.show_found(found)
    if found.findings:
        raise typer.Exit(BROKEN)


@app.command("list")
def list_gallery(
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")] = False,
    measure: Annotated[bool, typer.Option("--measure", hidden=True)] = False,
) -> None:
    """List the scenarios that are shipped, and about how long each takes."""
    with boundary():
        from peernode.cli import output
        from simulations import gallery, watching

        if measure:
            gallery.measure(say)
        rows = [
            {
                "name": entry.name,
                "driver": entry.scenario.driver,
                "takes": "" if entry.took_s is None else watching.duration(entry.took_s),
                "summary": entry.scenario.summary,
            }
            for entry in gallery.entries()
        ]
        output.show_list(rows, as_json, ("name", "driver", "takes", "summary"))


@app.command("evaluate")
def evaluate(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="The directory that keeps what was run; what is there is kept.")
    ] = Path("evaluation"),
    only: Annotated[
        str, typer.Option(metavar="NAME,...", help="These experiments, as e1,e4; else all.")
    ] = "",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Short and few runs: whether it works, not what is true."),
    ] = False,
    docs: Annotated[
        Path | None, typer.Option(help="Write the page and its pictures into this directory.")
    ] = None,
    jobs: Jobs = 2,
) -> None:
    """Run the experiments that compare this system with theory, and write the page about them."""
    with boundary():
        from simulations import evaluation, evaluation_page, watching
        from simulations.experiments import NAMES

        names = tuple(only.split(",")) if only else NAMES
        if wrong := [name for name in names if name not in NAMES]:
            raise typer.BadParameter(
                f"--only: no experiment {wrong[0]}; there is {', '.join(NAMES)}"
            )
        with watching.steps() as told:
            evaluation.evaluate(
                out, quick, told, jobs=jobs, names=names, simulator=simulator_of(context)
            )
        print(f"runs         {out}")
        if docs is None:
            return
        summary = evaluation_page.write_page(out, docs)
        print(f"page         {docs / 'evaluation.md'}")
        print(f"verdicts     {summary.verdicts}, {summary.failed} of them fail")
        if summary.missing:
            print(f"MISSING      {summary.missing} points were not run, or broke an invariant")
            raise typer.Exit(FAILED)


def simulator_of(context: typer.Context) -> str:
    """Return which function simulates: the one there is, or a caller's stand-in."""
    from simulations.replica import SIMULATE

    return context.obj if isinstance(context.obj, str) else SIMULATE


def whole_s(scenario: "Scenario") -> float:
    """Return how much virtual time a run has."""
    return scenario.duration_s + scenario.drain_s


@contextmanager
def boundary() -> Iterator[None]:
    """Turn what goes wrong into one line and an exit code."""
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        complain(f"simulations need {', '.join(missing)}", "pip install 'peernode[sim]'")
        raise typer.Exit(WRONG)
    from simulations.errors import ScenarioError
    from simulations.replications import Interrupted, RunError
    from simulations.runs import CannotWrite

    def end(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in signals]
    try:
        yield
    except ScenarioError as error:
        complain(str(error))
        raise typer.Exit(WRONG) from error
    except CannotWrite as error:
        complain(str(error), error.hint)
        raise typer.Exit(WRONG) from error
    except Interrupted as error:
        say(str(error))
        raise typer.Exit(SIGNALLED + error.number) from error
    except RunError as error:
        complain(str(error), error.hint)
        raise typer.Exit(IN_THE_WAY) from error
    except KeyboardInterrupt as error:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from error
    except OSError as error:
        complain(f"{error.filename or 'a file'}: {error.strerror}")
        raise typer.Exit(IN_THE_WAY) from error
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def complain(what: str, hint: str = "") -> None:
    """Say what is wrong, and what to do."""
    say(f"error: {what}")
    if hint:
        say(f"hint: {hint}")


def say(line: str) -> None:
    """Say something that is not the result."""
    print(line, file=sys.stderr)


def main(arguments: Sequence[str] | None = None, simulator: str | None = None) -> int:
    """Run one command line without `peernode`; return its exit code. For tests and `-m`."""
    try:
        app(
            list(sys.argv[1:] if arguments is None else arguments),
            prog_name="peernode sim",
            obj=simulator,
        )
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    return 0
