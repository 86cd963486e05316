"""What commands print: tables for people, lines for pipes, JSON for programs."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Object = dict[str, Any]

PROGRESS_AFTER_S = 1.0
"""How long something may take before its progress is shown. Source: the command line's contract."""


def print_json(value: Any) -> None:
    """Print a value as JSON: indented for a person, one line for a pipe."""
    print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def show(value: Object, as_json: bool, fields: Sequence[str] = ()) -> None:
    """Print an object: `fields` of it, or all."""
    if as_json:
        print_json(value)
        return
    names = [name for name in fields or value if value.get(name) not in (None, "", [], {})]
    width = max((len(name) for name in names), default=0)
    for name in names:
        print(f"{name:<{width}}  {text(value[name])}")


def show_list(items: Iterable[Object], as_json: bool, columns: Sequence[str]) -> None:
    """Print objects as a table with these columns; tab-separated lines when piped."""
    if as_json:
        print_json([*items])
        return
    rows = [[text(item.get(column)) for column in columns] for item in items]
    if not sys.stdout.isatty():
        for row in [[*columns], *rows]:
            print("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def text(value: Any) -> str:
    """Return a value as a cell: texts as they are, the rest as JSON; control characters shown."""
    if value is None:
        return ""
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


def note(line: str) -> None:
    """Say something that is not the result."""
    print(line, file=sys.stderr)


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[float, float | None, str], None]]:
    """Yield a function of (done, total or `None`, message) that moves a bar.

    The bar appears once a second has passed, and only if stderr is a terminal.  `unit` is `bytes`
    or empty for fractions of 1.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, message: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns: list[bars.ProgressColumn] = [bars.TextColumn("{task.description}"), bars.BarColumn()]
    if unit == "bytes":
        columns += [bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn()]
    else:
        columns += [bars.TaskProgressColumn(), bars.TimeElapsedColumn()]
    bar = bars.Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(title, total=None)
    started_s = time.monotonic()

    def move(done: float, total: float | None, message: str) -> None:
        bar.update(task, completed=done, total=total, description=message or title)
        if not bar.live.is_started and time.monotonic() - started_s > PROGRESS_AFTER_S:
            bar.start()

    try:
        yield move
    finally:
        bar.stop()
