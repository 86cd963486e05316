"""Which isolation levels the machine that runs the tests has."""

import tempfile
from functools import cache
from pathlib import Path

from worker.sandbox.probe import try_sandbox


@cache
def missing_sandbox() -> str:
    """Return why level `sandbox` is not here, or nothing."""
    with tempfile.TemporaryDirectory() as directory:
        return try_sandbox(Path(directory))
