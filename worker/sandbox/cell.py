"""The seam between a child and what is around it.

A `Sandbox` starts processes of one isolation level; each is in a `Cell`, through which the agent
reaches it from outside.  What is said between them goes over descriptors that the agent made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from worker.protocol import Isolation, Limits


@dataclass(frozen=True, slots=True)
class Start:
    """How a child process is started: which program, what it sees, what is around it."""

    argv: tuple[str, ...]
    """The program and its first arguments; the socket's and the ticket pipe's descriptors and the
    agent's process number come behind them."""
    environment: Mapping[str, str] = field(compare=False)
    """All of its environment, beside `HOME` and `TMPDIR`, which are its scratch directory."""
    level: Isolation


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The child's ends of what it has of the agent; the agent closes its own copies."""

    socket: int
    tickets: int
    stdout: int
    stderr: int


class Cell(Protocol):
    """One child process, from outside."""

    @property
    def pid(self) -> int:
        """Its process number, to the agent."""
        ...

    @property
    def scratch(self) -> str:
        """Path of its scratch directory, as it sees it."""
        ...

    def limit(self, limits: Limits) -> None:
        """Set the kernel's limits, as far as that is done from outside; not for foreign code."""
        ...

    def admit(self, path: str) -> str:
        """Let it read a file; return the path at which it does. Raises `OSError`."""
        ...

    def packages(self, path: str) -> str:
        """Return where it sees an installed directory of packages, before it is limited."""
        ...

    def clear(self) -> None:
        """Take back what `admit` gave: the job is over."""
        ...

    def kill(self) -> None:
        """Kill it and all that it started."""
        ...

    def reap(self) -> int:
        """Wait for it, which is over, and return its exit status; negative: a signal's number."""
        ...

    def remove(self) -> bool:
        """Remove what it left on the disk, if that is quick; return whether it is removed."""
        ...


class Sandbox(Protocol):
    """Starts children of one level."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of its own, which are nobody's orphans."""
        ...

    def start(self, start: Start, directory: Path, descriptors: Descriptors) -> Cell:
        """Start a child; `directory` is not there yet, and is the cell's. Raises `OSError`."""
        ...

    def close(self) -> None:
        """End what it keeps running; children live on."""
        ...
