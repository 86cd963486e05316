"""Run the benchmarks named as arguments, or all: `python -m tests.benchmarks jobs memory`."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.daemon import end_with_parent

ALL = (
    "store",
    "jobs",
    "wasm",
    "api",
    "memory",
    "attach",
    "mesh",
    "sync",
    "nodes",
    "sandbox",
    "peers",
    "world",
)


def main() -> int:
    names = sys.argv[1:] or ALL
    if unknown := sorted(set(names) - set(ALL)):
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(ALL)}")
        return 2
    print(json.dumps(machine()), flush=True)
    # A process each, so that what one leaves behind does not weigh on the next.
    modules = [f"tests.benchmarks.bench_{name}" for name in names]
    failed = [name for name in modules if not succeeds(name)]
    for name in failed:
        print(f"{name} failed", file=sys.stderr)
    return 1 if failed else 0


def succeeds(module: str) -> bool:
    command = [sys.executable, "-m", module]
    return subprocess.run(command, preexec_fn=end_with_parent).returncode == 0


def machine() -> dict[str, object]:
    """Return what the figures are figures of."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "name": "machine",
        "value": os.cpu_count(),
        "unit": "cores",
        "runs": 1,
        "cpu": models[0] if models else platform.machine(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
