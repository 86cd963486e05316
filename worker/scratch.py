"""Directories in which functions run, and what dead agents left of theirs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from worker.runtimes.python_child import wipe


@contextmanager
def open_scratch(directory: Path) -> Iterator[Path]:
    """Make a directory for this process's children, and remove those that dead agents left."""
    parent = directory / "scratch"
    path = parent / str(os.getpid())
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        if old == path or not Path("/proc", old.name).exists():
            remove_tree(old)
    path.mkdir()
    path.chmod(0o711)  # who passes through inside a sandbox is nobody
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(directory: Path) -> None:
    """Remove a directory that functions wrote in; what cannot be removed stays."""
    with suppress(OSError):
        wipe(str(directory))
        directory.rmdir()
