"""What a worker measures about its machine, for its `Offer`.

Other programs are asked (the engines of models, a graphics card's driver) and rounds are counted
while the sandbox is tried: a first attach takes as long as the slowest of these, and not as all.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from worker import elf, wasm
from worker.accelerators import measure_accelerators
from worker.backends import choose_backends, measure_backends
from worker.benchmark import measure_speed, processor_name
from worker.capabilities import LEVELS
from worker.protocol import Isolation, Offer
from worker.sandbox.probe import measure_levels, offered

MEMORY_EXEC_FORBIDDEN: Final = 2
"""Value of `vm.memfd_noexec` at which no file in memory can be run. Source: Linux 6.3."""

SOFTWARE: Final = "peernode-worker/1"


def measure_offer(
    slots: int,
    directory: Path,
    labels: Mapping[str, str] | None = None,
    least: Isolation | None = None,
    backends: Sequence[str] = (),
) -> Offer:
    """Return what this machine offers; blocks for up to a second the first time.

    `slots` 0 means one for each core.  `directory` keeps what is costly to measure.  `least`: the
    weakest isolation level that it gives; `None`: none but for strangers' code.  `backends`: the
    only ones it may use, best first; empty: all.  Raises `ValueError` when one is not here.
    """
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor() as asking:
        here = asking.submit(measure_backends, directory)
        accelerators = asking.submit(measure_accelerators)
        speed = asking.submit(measure_speed, directory)  # what else runs does not change it
        # In this thread: what a sandbox starts ends with the thread that started it.
        native = offered(measure_levels(directory), least)
    chosen = choose_backends(backends, here.result())
    levels = pairs(native, chosen)
    return Offer(
        slots=slots or cores,
        cores=cores,
        memory_bytes=memory_bytes(),
        arch=platform.machine(),
        runtimes=list(levels),
        isolation=[level for level in LEVELS if any(level in of for of in levels.values())],
        levels=levels,
        backends=chosen,
        accelerators=accelerators.result(),
        labels=dict(labels or {}),
        python=platform.python_version(),
        pythons=pythons(os.environ.get("PATH", "")),
        wasm_engine=wasm_engine(),
        processor=processor_name(),
        system=platform.system(),
        libc=c_library(),
        speed_rounds_per_s=speed.result(),
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
