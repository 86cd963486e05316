"""Landlock: which files a job may touch, whatever its mounts show it.

The second wall around files.  Programs can be run nowhere (`EXECUTE` is never given), TCP is denied
and signals and abstract sockets are kept inside, as far as the kernel's Landlock knows these.
"""

import os
from collections.abc import Iterable
from typing import Final

from worker.sandbox import kernel

VERSION_MIN: Final = 2
"""Least version. Source: version 1 (Linux 5.13) cannot allow to rename between directories; what
came later (truncation, TCP, signals) is also walled off by mounts and namespaces."""

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_READ: Final = _READ_FILE | _READ_DIR
_EXECUTE: Final = 1 << 0
_FILE_ONLY: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE
_FILES: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""What each version governs; from 5 on also device controls."""
_FILES_NEWEST: Final = (1 << 16) - 1
_NETWORK: Final = 0b11
_SCOPED: Final = 0b11


def confine(readable: Iterable[str], writable: Iterable[str], version: int) -> None:
    """Keep this process to reading below some paths and changing below others, for ever.

    A path that is not there is left out: then it can be neither read nor written.
    """
    governed = _FILES.get(version, _FILES_NEWEST)
    ruleset = kernel.landlock_create(
        governed, _NETWORK if version >= 4 else 0, _SCOPED if version >= 6 else 0, version
    )
    try:
        for paths, access in ((readable, _READ), (writable, governed & ~_EXECUTE)):
            for path in paths:
                if os.path.exists(path):
                    allowed = access if os.path.isdir(path) else access & _FILE_ONLY & governed
                    kernel.landlock_allow(ruleset, allowed, path)
        kernel.landlock_enter(ruleset)
    finally:
        os.close(ruleset)
