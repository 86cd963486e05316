"""Which code made a run, on what: what a manifest says so that the run can be made again."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGES: Final = ("gossip", "peernode", "simulations", "storage", "worker")
LIBRARIES: Final = ("peernode", "trio", "numpy", "msgspec", "cbor2", "pynacl", "lmdb", "networkx")
"""Whose versions can make a difference."""
GIT_TIMEOUT_S: Final = 10.0
"""Source: guess; a slow disk's `git status`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of the tree that the code is from, "" outside of one."""

    name: str
    dirty: bool
    """Whether the code differs from it."""

    def __str__(self) -> str:
        """Return the name, with a `+` if the code differs from it."""
        return self.name + ("+" if self.dirty else "")


def commit() -> Commit:
    """Return the commit that the code is from."""
    root = Path(__file__).parent.parent
    if _git(root, "ls-files", "--error-unmatch", "simulations/__init__.py") is None:
        return Commit("", dirty=False)  # installed, perhaps below a tree of somebody else's
    name = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *PACKAGES)
    return Commit(name or "", dirty=bool(changed))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that can make a difference."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = ""
    return found


def machine() -> dict[str, str | int]:
    """Return what it ran on. Makes no difference to results, only to how long they took."""
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 0,
        "implementation": sys.implementation.name,
    }


def _git(root: Path, *words: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", "-C", str(root), *words],  # noqa: S607  the user's git
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
