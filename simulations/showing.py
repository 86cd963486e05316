"""What commands print of what came out: short tables for people, the rest stands in the report."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simulations import references, report, watching
from simulations.conditions import Verdict
from simulations.exploring import Finding, Found
from simulations.replications import Outcome
from simulations.runs import Run
from simulations.simulate import Failure
from simulations.sweeping import Sweep
from simulations.verifying import Verification

WIDTH_MAX: Final = 500
"""Of a table in a log. Source: guess; more than any has."""
FAILURES_SHOWN: Final = 3
"""Source: guess; the first is what somebody looks at."""


def show_run(done: Run, path: Path) -> None:
    """Print how a run ended: conditions, hash, failures, and where the rest is."""
    if done.verdicts:
        show_table([condition_row(verdict) for verdict in done.verdicts])
        for verdict in done.verdicts:
            if not verdict.passed or not verdict.sure:
                print(f"{'note' if verdict.passed else 'FAIL':<13}{verdict.name}: {why(verdict)}")
    first = done.outcomes[0]
    took_s = sum(outcome.cpu_s for outcome in done.outcomes)
    many = f"{len(done.outcomes)} of {done.request.replications} replications"
    print(f"trace hash   {first.trace_hash} (seed {first.seed})")
    print(f"ran          {many}, {watching.duration(took_s)} of CPU time")
    print(f"report       {path / 'report.html'}")
    for outcome in done.failures[:FAILURES_SHOWN]:
        show_failure(outcome, done.line(outcome.seed))


def show_failure(outcome: Outcome, line: str) -> None:
    """Print which invariant did not hold in a replication, and the line that repeats it."""
    assert outcome.failure is not None
    _show_broken(outcome.seed, outcome.failure, line)


def _show_broken(seed: int, failure: Failure, line: str) -> None:
    """Print which invariant did not hold, and the line that repeats it."""
    where = f", node {failure.node}" if failure.node else ""
    print(f"BROKEN       at {failure.at_s:g} s with seed {seed}{where}: {failure.what}")
    print(f"repeat it    peernode sim replay {shlex.quote(line)}")


def show_progress(found: Found) -> None:
    """Say on stderr how far an exploration is."""
    many = "finding" if len(found.findings) == 1 else "findings"
    print(
        f"{found.runs} scenarios (to seed {found.last}), {watching.duration(found.virtual_s)} of "
        f"virtual time in {watching.duration(found.cpu_s)}: {len(found.findings)} {many}",
        file=sys.stderr,
    )


def show_finding(finding: Finding) -> None:
    """Print what an exploration has just found, and the line that repeats it."""
    _show_broken(finding.seed, finding.failure, finding.line)
    sys.stdout.flush()  # It may be hours until the next one.


def show_found(found: Found) -> None:
    """Print how an exploration ended."""
    if not found.findings:
        print(f"every invariant held in {found.runs} scenarios, {found.events} events")


def condition_row(verdict: Verdict) -> dict[str, str]:
    """Return a verdict as a row of a table."""
    return {
        "condition": verdict.name,
        "verdict": "pass" if verdict.passed else "FAIL",
        "value": "" if verdict.value is None else report.number(verdict.value),
        "99 % interval": report.range_of(verdict.interval),
    }


def why(verdict: Verdict) -> str:
    """Return why a verdict is as it is, and whether it is sure."""
    doubt = "the interval reaches the limit; more replications would tell"
    return "; ".join(part for part in (verdict.why, "" if verdict.sure else doubt) if part)


def show_verification(found: Verification) -> None:
    """Print whether the runs were the same, and where they part if not."""
    for hash_seed, outcome in zip(found.hash_seeds, found.outcomes, strict=False):
        print(f"PYTHONHASHSEED={hash_seed:<10} {outcome.trace_hash} {outcome.events} events")
    difference = found.difference
    if difference is None:
        print(f"the same: {len(found.outcomes)} runs")
        return
    one, other = difference.hash_seeds
    print(f"DIFFERENT with PYTHONHASHSEED={one} and {other}")
    if difference.number is None:
        print("all events are the same: it is in the metrics, or in what only the hash was given")
        return
    print(f"the first event that differs is number {difference.number}:")
    for line in difference.before:
        print(f"         {line}")
    print(f"{one:>8} {difference.one or '(has ended)'}")
    print(f"{other:>8} {difference.other or '(has ended)'}")


def show_sweep(done: Sweep, path: Path) -> None:
    """Print one table: for each metric its mean at all points; and where the rest is.

    Metrics that a condition is about, if there are any; the report has all.
    """
    places = [setting.place for setting in done.settings]
    asked = [condition.metric for condition in done.source.scenario.passes]
    rows, notes = [], []
    for ended in done.points:
        values = dict(zip(places, map(str, ended.point.values), strict=True))
        for row in ended.rows:
            if not asked or row.metric in asked:
                numbers = {
                    "mean": report.number(row.mean),
                    "99 % interval": report.range_of(row.interval),
                    "p95": report.number(row.p95),
                }
                rows.append({"metric": row.metric, "label": row.label} | values | numbers)
        point = " ".join(f"{place}={value}" for place, value in values.items())
        notes += [f"FAIL  {point}: {v.name}: {v.why}" for v in ended.verdicts if not v.passed]
    rows.sort(key=lambda row: (row["metric"], row["label"]))  # stable: points keep their order
    if rows:
        show_table(rows)
    for note in notes:
        print(note)
    print(f"report       {path / 'report.html'}")
    for ended, outcome in done.failures[:FAILURES_SHOWN]:
        show_failure(outcome, references.line_of(ended.point.source, outcome.seed, done.commit))


def show_table(rows: Sequence[dict[str, str]]) -> None:
    """Print rows as a table, for people and logs alike."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[name]) for name in columns))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_MAX  # a log does not wrap; a table takes what it needs
    console.print(table)
