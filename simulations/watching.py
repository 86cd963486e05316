"""What a person sees while replications run: a bar and the time that is left, or lines in a log."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from simulations.replications import Watch

LINE_INTERVAL_S: Final = 10.0
"""Between two lines where there is no terminal. Source: guess; a log of an hour has 360."""
SHARE_MIN: Final = 0.02
"""What must be over before the rest is estimated. Source: guess; processes take time to start."""


class Advance:
    """How far several replications of the same length have come."""

    def __init__(self, count: int, virtual_s: float) -> None:
        self.count = count
        self.virtual_s = virtual_s
        self._reached_s = [0.0] * count
        self.over = 0

    def move(self, index: int, virtual_s: float) -> None:
        """Note how far one has come; infinity: it is over."""
        if math.isinf(virtual_s):
            self.over += 1
        self._reached_s[index] = min(virtual_s, self.virtual_s)

    @property
    def share(self) -> float:
        """Of the whole, 0 to 1."""
        return math.fsum(self._reached_s) / (self.count * self.virtual_s)


@contextmanager
def watched(title: str, count: int, virtual_s: float) -> Iterator[Watch]:
    """Yield what is told of `count` replications of `virtual_s` each, and shows it on stderr."""
    advance = Advance(count, virtual_s)
    if not sys.stderr.isatty():
        yield _lines(title, advance)
        return
    from rich import progress as bars
    from rich.console import Console

    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[over]} of {task.fields[count]}"),
        bars.TimeElapsedColumn(),
        bars.TextColumn("ends in"),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(title, total=1.0, over=0, count=count)

    def move(index: int, reached_s: float) -> None:
        advance.move(index, reached_s)
        doing = f"{title}: writing" if advance.over == count else title
        bar.update(task, completed=advance.share, over=advance.over, description=doing)

    with bar:
        yield move


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what is told of several parts, one after another: a name, how many are over, of how
    many; each has a bar of its own, or a line now and then.
    """
    if not sys.stderr.isatty():
        yield _step_lines()
        return
    from rich import progress as bars
    from rich.console import Console

    bar = bars.Progress(
        bars.TextColumn("{task.description:<12}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("ends in"),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, bars.TaskID] = {}

    def move(name: str, over: int, count: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name, total=count)
        bar.update(tasks[name], completed=over)

    with bar:
        yield move


def _step_lines() -> Callable[[str, int, int], None]:
    due_s = time.monotonic() + LINE_INTERVAL_S

    def move(name: str, over: int, count: int) -> None:
        nonlocal due_s
        if over == count or time.monotonic() >= due_s:
            due_s = time.monotonic() + LINE_INTERVAL_S
            sys.stderr.write(f"{name}: {over} of {count}\n")
            sys.stderr.flush()

    return move


def _lines(title: str, advance: Advance) -> Watch:
    started_s = time.monotonic()
    due_s = started_s + LINE_INTERVAL_S

    def move(index: int, reached_s: float) -> None:
        nonlocal due_s
        advance.move(index, reached_s)
        now_s = time.monotonic()
        if now_s < due_s:
            return
        due_s = now_s + LINE_INTERVAL_S
        share, took_s = advance.share, now_s - started_s
        known = share >= SHARE_MIN
        left = f", about {duration(took_s / share - took_s)} left" if known else ""
        sys.stderr.write(f"{title}: {share:.0%}, {advance.over} of {advance.count} over{left}\n")
        sys.stderr.flush()

    return move


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
