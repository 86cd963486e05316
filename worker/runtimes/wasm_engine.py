"""The one configuration of wasmtime, and which compiled code it may be given.

Loaded by its path where functions run, so it imports little.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from wasmtime import Engine

CONFIGURATION = 1
"""Grows with every change of `make_engine`: compiled code of another number is not looked at."""
STACK_SIZE_BYTES = 1 << 20
"""Stack of a module. Source: twice wasmtime's own; Python's takes about 0.5 KB a level."""


def make_engine() -> Engine:
    """Return an engine; all code is compiled for exactly this configuration."""
    import wasmtime

    config = wasmtime.Config()
    config.max_wasm_stack = STACK_SIZE_BYTES
    config.parallel_compilation = False
    config.wasm_threads = False
    config.wasm_memory64 = False
    # The same bits on every machine, at a price that does not show.
    config.wasm_relaxed_simd_deterministic = True
    config.cranelift_nan_canonicalization = True
    return wasmtime.Engine(config)


def trusted(path: str | Path) -> bool:
    """Return whether a file is compiled code that only this user can have written."""
    try:
        directory, status = os.lstat(os.path.dirname(path)), os.lstat(path)
    except OSError:
        return False
    ours = os.geteuid()
    return (
        stat.S_ISREG(status.st_mode)
        and stat.S_ISDIR(directory.st_mode)
        and status.st_uid == ours
        and directory.st_uid == ours
        and not (status.st_mode | directory.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    )
