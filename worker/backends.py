"""What can run models on this machine, and which of that its operator lends.

A backend has a name that users see in jobs, and may prefer: see `worker.inference`, which knows
them.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

BACKENDS_FILE: Final = "backends.json"
"""What the last measurement of backends found, in the worker's directory."""

MEASURE_TIMEOUT_S: Final = 60.0
"""Longest time for one measuring program. Source: guess; the engines load in 0.6 s."""

ENGINES: Final = ("onnxruntime", "openvino")
"""Packages that run models, either of which will do."""


def measure_backends(directory: Path) -> list[str]:
    """Return what can run models here, best first; empty where no engine is installed.

    Asked of a program of its own, because importing engines costs half a second and 50 MB; what it
    said is kept until another engine or interpreter is installed.
    """
    found = [spec.origin for spec in map(find_spec, ENGINES) if spec is not None and spec.origin]
    if not found:
        return []
    key = [sys.version, *([origin, Path(origin).stat().st_mtime_ns] for origin in found)]
    path = directory / BACKENDS_FILE
    with suppress(OSError, ValueError):
        kept = json.loads(path.read_text())
        if isinstance(kept, list) and kept[:-1] == key:
            return [str(name) for name in kept[-1]]
    program = Path(__file__).parent / "inference.py"
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(program)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MEASURE_TIMEOUT_S,
            check=True,
        )
        backends = [str(name) for name in json.loads(done.stdout)]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []  # installed, but not able to run here
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([*key, backends]))
    return backends


def parse_backends(text: str) -> tuple[str, ...]:
    """Return the names in `NAME,NAME`, best first. Raises `ValueError` for one named twice."""
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    if len(set(names)) < len(names):
        raise ValueError(f"backends: one is named twice in {text!r}")
    return names


def choose_backends(wanted: Sequence[str], here: Sequence[str]) -> list[str]:
    """Return the backends to use, best first: `wanted`, or all that are here.

    Raises `ValueError` when one of `wanted` is not here.
    """
    missing = [name for name in wanted if name not in here]
    if missing:
        found = ", ".join(here) or "none: pip install 'peernode[inference]'"
        raise ValueError(f"backends: {', '.join(missing)} is not here; what is here: {found}")
    return list(wanted or here)
