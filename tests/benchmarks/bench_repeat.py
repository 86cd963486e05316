"""Whether the gallery's scenarios are the same run each time, and with each Python.

    python -m tests.benchmarks.bench_repeat [RUNS] [PYTHON ...]

Runs each scenario RUNS times (20) with this Python, and twice with each PYTHON that is named: of
another version, from an environment that has the same packages.  Each run is a process of its own
with a PYTHONHASHSEED of its own.  One JSON line a scenario:

    repeat_SCENARIO    how many trace hashes there were: 1, if all that happened was the same

It takes an hour of two cores, and nothing else need be quiet: no time is measured.
"""

import re
import subprocess
import sys

from simulations import gallery
from tests.benchmarks import figures

RUNS = 20
RUNS_ELSEWHERE = 2
HASH = re.compile(r"^PYTHONHASHSEED=\S+ +([0-9a-f]{64}) ", re.MULTILINE)
VERSION = "import platform; print(platform.python_version())"


def hashes(python: str, scenario: str, runs: int) -> list[str]:
    """Return the trace hash of each run."""
    command = [python, "-m", "simulations", "verify", scenario, "--runs", str(runs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return HASH.findall(done.stdout)


def version(python: str) -> str:
    return subprocess.check_output([python, "-c", VERSION], text=True).strip()


def main(runs: int, others: list[str]) -> int:
    """Return 0 if every scenario was always the same."""
    pythons = {version(python): python for python in (*others, sys.executable)}
    differ = 0
    for entry in gallery.entries():
        found: list[str] = []
        asked = 0
        for python in pythons.values():
            count = runs if python == sys.executable else RUNS_ELSEWHERE
            asked += count
            found += hashes(python, entry.name, count)
        different = len(set(found))
        differ += different != 1 or len(found) != asked
        figures.emit(
            f"repeat_{entry.name}",
            [different],
            "hashes",
            compared=len(found),
            asked=asked,
            pythons=sorted(pythons),
            hash=found[0] if different == 1 else None,
        )
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS, sys.argv[2:]))
