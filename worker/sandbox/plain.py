"""Level `process`: a child like any process of the worker's user, bounded and ended as a whole.

It sees what its user sees.  That bounds mistakes; it is no wall against an enemy.
"""

import os
import resource
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.process_tree import kill_tree
from worker.protocol import Limits
from worker.sandbox.cell import Cell, Descriptors, Start

FILES_MAX: Final = 1024
"""Open files of a child. Source: the usual soft limit."""
PROCESSES_SLACK: Final = 16
"""By how much the kernel's own limit on processes is above ours. Source: guess; see `limit`."""


class PlainCell:
    """A process, its tree and its directory."""

    def __init__(self, process: "subprocess.Popen[bytes]", directory: Path) -> None:
        self.pid = process.pid
        self.scratch = str(directory)
        self._process = process

    def limit(self, limits: Limits) -> None:
        """Set the kernel's limits of a blank child."""
        wanted = kernel_limits(limits)
        if os.geteuid() != 0:
            # The kernel counts all of a user's processes, and takes root's for unlimited. This is
            # a second wall: the first is counting, which names the limit that was broken.
            wanted[resource.RLIMIT_NPROC] = _own_tasks() + limits.processes + PROCESSES_SLACK
        set_limits(self.pid, wanted)

    def admit(self, path: str) -> str:
        """Return `path`: it can read that anyway."""
        return path

    def packages(self, path: str) -> str:
        """Return `path`: it can read that anyway."""
        return path

    def clear(self) -> None:
        """Do nothing: nothing was given."""

    def kill(self) -> None:
        """Kill it and all below it."""
        kill_tree(self.pid)

    def reap(self) -> int:
        """Wait for it and return its exit status."""
        return self._process.wait()

    def remove(self) -> bool:
        """Return false: what foreign code wrote may take long to remove."""
        return False


class PlainSandbox:
    """Starts any program."""

    pids = ()

    def start(self, start: Start, directory: Path, descriptors: Descriptors) -> Cell:
        """Start a child in `directory`. Raises `OSError`."""
        directory.mkdir(mode=0o700)
        scratch = {"HOME": str(directory), "TMPDIR": str(directory)}
        passed = (descriptors.socket, descriptors.tickets)
        process = subprocess.Popen(
            [*start.argv, *map(str, passed), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=descriptors.stdout,
            stderr=descriptors.stderr,
            pass_fds=passed,
            cwd=directory,
            env={**start.environment, **scratch},
            start_new_session=True,
        )
        return PlainCell(process, directory)

    def close(self) -> None:
        """Do nothing: no process of its own runs."""


def kernel_limits(limits: Limits) -> dict[int, int]:
    """Return the limits that the kernel holds for one process, by their numbers."""
    return {
        resource.RLIMIT_DATA: limits.memory_bytes,
        resource.RLIMIT_FSIZE: limits.output_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: FILES_MAX,
    }


def set_limits(pid: int, wanted: dict[int, int]) -> None:
    """Set limits of a process, for good, as far as they are not lower already."""
    with suppress(ProcessLookupError):
        for name, value in wanted.items():
            _, hard = resource.prlimit(pid, name)
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, name, (most, most))


def _own_tasks() -> int:
    user = os.geteuid()
    return sum(1 for task in _task_directories() if task.stat().st_uid == user)


def _task_directories() -> Iterable[os.DirEntry[str]]:
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                with suppress(OSError), os.scandir(f"{entry.path}/task") as tasks:
                    yield from tasks
