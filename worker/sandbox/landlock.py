"""Landlock: which files a job may touch, whatever its mounts show it.

The second wall around files.  Programs can be run nowhere (`EXECUTE` is never given; a job's own
executable is a file in memory, which has no place that rules could be about), TCP is denied
and signals and abstract sockets are kept inside, as far as the kernel's Landlock knows these.
"""

import os
from collections.abc import Iterable
from typing import Final

from worker.sandbox import kernel

VERSION_MIN: Final = 2
"""Least version. Source: version 1 (Linux 5.13) cannot allow to rename between directories; what
came later (truncation, TCP, signals) is also walled off by mounts and namespaces."""

_EXECUTE: Final = 1 << 0
_READ_FILE: Final = 1 << 2
_READ: Final = _READ_FILE | 1 << 3
"""Files and directories."""
_WRITE: Final = 1 << 1 | 1 << 14
"""Files, and their truncation, which some versions do not govern."""
_FILES: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""What each version governs; from 5 on also device controls."""
_FILES_NEWEST: Final = (1 << 16) - 1
_NETWORK: Final = 0b11
_SCOPED: Final = 0b11


class Rules:
    """What may be read everywhere, prepared once for all who are confined to it."""

    def __init__(self, readable: Iterable[str], writable_files: Iterable[str]) -> None:
        """What is not there is left out. Raises `OSError` where Landlock is missing or too old."""
        self._version = kernel.landlock_version()
        if self._version < VERSION_MIN:
            raise OSError(f"Landlock {VERSION_MIN} is needed, found {self._version}")
        self._governed = _FILES.get(self._version, _FILES_NEWEST)
        self._places = [
            (self._access(path, access), os.open(path, os.O_PATH | os.O_CLOEXEC))
            for paths, access in ((readable, _READ), (writable_files, _WRITE))
            for path in paths
            if os.path.exists(path)
        ]

    def confine(self, readable: Iterable[str], writable: str) -> None:
        """Keep this process to the rules and these directories besides, for ever.

        Leaves descriptors open, for the caller to close with all others.
        """
        ruleset = kernel.landlock_create(
            self._governed,
            _NETWORK if self._version >= 4 else 0,
            _SCOPED if self._version >= 6 else 0,
            self._version,
        )
        wanted = [(path, _READ) for path in readable]
        for path, access in [*wanted, (writable, self._governed & ~_EXECUTE)]:
            self._places.append((access, os.open(path, os.O_PATH | os.O_CLOEXEC)))
        for access, place in self._places:
            kernel.landlock_allow(ruleset, access, place)
        kernel.landlock_enter(ruleset)

    def _access(self, path: str, wanted: int) -> int:
        files_only = _WRITE | _READ_FILE
        return self._governed & (wanted if os.path.isdir(path) else wanted & files_only)
