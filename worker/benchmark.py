"""How fast one core of this machine is, roughly: a small fixed workload, counted for a moment.

A *round* is some integer arithmetic in the interpreter, a hash of 16 KiB and a sort of 256 numbers:
what function code does when it does not wait.  The figure is rounds a second of one core, by the
fastest round of many, since whatever else runs can only make them slower.  It says which of two
machines is likely faster and is no measure of anything else: the scheduler takes it as a hint, by
powers of two (`worker.estimates`), and corrects itself by the run times that it sees.
"""

import json
import platform
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

MEASURE_S: Final = 0.1
"""How long rounds are counted. Source: measured; 700 rounds on the reference machine, whose
fastest differs by 3 % between runs."""
SPEED_FILE: Final = "speed.json"
"""What the last measurement found, in the worker's directory."""

_BLOCK: Final = bytes(range(256)) * 64


def run_round() -> int:
    """Do one round of work; the result says that it was done."""
    total = 0
    for number in range(1500):
        total = (total * 31 + number) & 0xFFFFFFFF
    numbers = sorted((number * 7919) % 1009 for number in range(256))
    return total ^ numbers[128] ^ sha256(_BLOCK).digest()[0]


def count_rounds() -> int:
    """Return rounds a second of one core, now. Takes a tenth of a second."""
    began_s = time.perf_counter()
    until_s, best_s = began_s + MEASURE_S, MEASURE_S
    while began_s < until_s:
        run_round()
        ended_s = time.perf_counter()
        best_s = min(best_s, ended_s - began_s)
        began_s = ended_s
    return round(1 / best_s) if best_s > 0 else 0


def measure_speed(directory: Path) -> int:
    """Return rounds a second of one core, as measured once on this machine.

    What was found is kept in `directory` until another machine or interpreter is there.
    """
    key = [sys.version, platform.machine(), processor_name(), platform.release()]
    path = directory / SPEED_FILE
    with suppress(OSError, ValueError):
        kept = json.loads(path.read_text())
        if isinstance(kept, list) and kept[:-1] == key and isinstance(kept[-1], int):
            return int(kept[-1])
    speed = count_rounds()
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([*key, speed]))
    return speed


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of this machine's processor; empty where nothing tells it."""
    with suppress(OSError):
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return value.strip()[:128]
    return platform.processor()[:128]
