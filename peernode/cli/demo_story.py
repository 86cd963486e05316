"""How a demo is told: numbered steps with their times, and an end in good order."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from peernode.client import ClientError


class Story:
    """Tells what happens, step by step."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.title = ""
        self._started_s = time.monotonic()
        self._number = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Time one step."""
        self._number += 1
        self.title = title
        started_s = time.monotonic()
        self.console.print(f"[bold]{self._number}. {title}[/bold]")
        yield
        self.console.print(f"   [dim]{time.monotonic() - started_s:.2f} s[/dim]")

    def say(self, line: str) -> None:
        """Say what was done."""
        self.console.print(f"   {line}", soft_wrap=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started_s


def tell(keep: Path | None, run: Callable[[Story, Path], Path]) -> int:
    """Run a demo; return the exit code.

    `run` gets a story and an empty directory, and returns what of that directory is of no use
    afterwards.  Told to end, in whatever way, it gets a `KeyboardInterrupt`.
    """
    if keep is not None and keep.exists() and any(keep.iterdir()):
        print(f"error: {keep} is not empty", file=sys.stderr)
        return 2
    directory = keep or Path(tempfile.mkdtemp(prefix="peernode-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    story = Story(Console(highlight=False))
    # Told to end, in whatever way, nodes are stopped first: they would not end by themselves.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        rubbish = run(story, directory)
    except KeyboardInterrupt:
        story.console.print(f"\nstopped; what there was is in {directory}", soft_wrap=True)
        return 130
    except ClientError as error:
        print(f"error: step {story.title!r}: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        logs = ", ".join(str(log) for log in sorted(directory.glob("*.log")))
        print(f"the node's log: {logs}", file=sys.stderr)
        return 1
    if keep is None:
        shutil.rmtree(rubbish)
    return 0
