"""What a worker measures about its machine, for its `Offer`."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from worker import elf, wasm
from worker.accelerators import measure_accelerators
from worker.benchmark import measure_speed, processor_name
from worker.capabilities import LEVELS
from worker.protocol import Isolation, Offer
from worker.sandbox.probe import measure_levels, offered

BACKENDS_FILE: Final = "backends.json"
"""What the last measurement of backends found, in the worker's directory."""

MEASURE_TIMEOUT_S: Final = 60.0
"""Longest time for one measuring program. Source: guess; onnxruntime loads in 0.5 s."""

MEMORY_EXEC_FORBIDDEN: Final = 2
"""Value of `vm.memfd_noexec` at which no file in memory can be run. Source: Linux 6.3."""

SOFTWARE: Final = "peernode-worker/1"


def measure_offer(
    slots: int,
    directory: Path,
    labels: Mapping[str, str] | None = None,
    least: Isolation | None = None,
) -> Offer:
    """Return what this machine offers; blocks for up to a second the first time.

    `slots` 0 means one for each core.  `directory` keeps what is costly to measure.  `least`: the
    weakest isolation level that it gives; `None`: none but for strangers' code.
    """
    cores = len(os.sched_getaffinity(0))
    backends = measure_backends(directory)
    levels = pairs(offered(measure_levels(directory), least), backends)
    return Offer(
        slots=slots or cores,
        cores=cores,
        memory_bytes=memory_bytes(),
        arch=platform.machine(),
        runtimes=list(levels),
        isolation=[level for level in LEVELS if any(level in of for of in levels.values())],
        levels=levels,
        backends=backends,
        accelerators=measure_accelerators(),
        labels=dict(labels or {}),
        python=platform.python_version(),
        pythons=pythons(os.environ.get("PATH", "")),
        wasm_engine=wasm_engine(),
        processor=processor_name(),
        system=platform.system(),
        libc=c_library(),
        speed_rounds_per_s=measure_speed(directory),
        software=SOFTWARE,
    )


def pairs(native: list[Isolation], backends: list[str]) -> dict[str, list[Isolation]]:
    """Return which runtimes this worker runs at which levels, weakest first.

    `native`: those that native code can have here.  Python at level `wasm` comes later, when its
    interpreter is there: see `worker.interpreter`.
    """
    levels: dict[str, list[Isolation]] = {"python": native}
    if backends and native:
        levels["onnx"] = native
    if native and runs_executables():
        levels["exec"] = native
    if wasm.installed("wasmtime"):
        levels["wasm"] = ["wasm"]
    return levels


def runs_executables() -> bool:
    """Return whether this kernel runs programs of a known machine from memory."""
    forbidden = False
    with suppress(OSError, ValueError):  # before Linux 6.3 nothing forbids it
        forbidden = int(Path("/proc/sys/vm/memfd_noexec").read_text()) == MEMORY_EXEC_FORBIDDEN
    here = platform.system() == "Linux" and platform.machine() in elf.MACHINES.values()
    return here and not forbidden


def memory_bytes() -> int:
    """Return the memory this process may use: the machine's, or its control group's if less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or `max`
            machine = min(machine, int(Path(path).read_text()))
    return machine


def measure_backends(directory: Path) -> list[str]:
    """Return the execution providers of onnxruntime, best first; empty where it is missing.

    Asked of a program of its own, because importing it costs half a second and 50 MB; what it
    said is kept until another onnxruntime or interpreter is installed.
    """
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        return []
    key = [sys.version, found.origin, Path(found.origin).stat().st_mtime_ns]
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


def c_library() -> str:
    """Return name and version of the GNU C library as `glibc 2.36`, or "" for any other."""
    with suppress(ValueError, OSError):
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    return ""


def wasm_engine() -> str:
    """Return name and version of the WASM engine that is installed, or ""."""
    with suppress(PackageNotFoundError):
        return f"wasmtime {version('wasmtime')}"
    return ""


def pythons(path: str) -> list[str]:
    """Return the Python versions on `path` (the variable `PATH`), lowest first, as `3.11`."""
    found: set[int] = set()
    for directory in path.split(os.pathsep):
        with suppress(OSError):
            for entry in os.scandir(directory or "."):
                minor = entry.name.removeprefix("python3.")
                if entry.name.startswith("python3.") and minor.isdigit() and len(minor) < 4:
                    found.add(int(minor))
    return [f"3.{minor}" for minor in sorted(found)]
