"""The real side of `simulations.validation`: the same trials on real processes.

    python -m tests.benchmarks.bench_validation PATH [RUNS]

Each run opens a mesh of its own and plays all trials on it, one after the other; PATH is written
after each.  Nothing else should run meanwhile: what competes for the cores is in the figures.
Where that cannot be had, `chrt --rr 1` in front lets all that is measured go first.
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

import msgspec

from simulations import provenance
from simulations.node_settings import IN_MEMORY
from simulations.residuals import NO_DELAY, Real, Stored, collect, statistic
from simulations.trials import TRIALS, WITHOUT_DELAY
from tests.benchmarks import figures
from tests.benchmarks.real_town import echo, open_real_town
from tests.blackbox.lines import UP

RUNS = 3
OTHER_SEEDS = 1000


def main(path: Path, count: int) -> None:
    """Run everything, and keep what was observed."""
    real = Real(
        commit=str(provenance.commit()),
        cores=os.cpu_count() or 1,
        system=f"Linux {platform.release()}, Python {platform.python_version()}",
        load=[],
        in_memory=IN_MEMORY.is_dir(),
        goes_first=os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
        seeds=[],
        runs={},
    )
    for seed in range(1, count + 1):
        figures.wait_until_quiet()
        real.load.append(round(os.getloadavg()[0], 2))
        collect(real.runs, "control", [echo()])
        with (
            tempfile.TemporaryDirectory(
                prefix="peernode-validation-", dir=IN_MEMORY if real.in_memory else None
            ) as place,
            open_real_town(Path(place)) as town,
        ):
            for name, trial in TRIALS.items():
                collect(real.runs, name, [town.play(trial, seed)])
            town.lengthen(UP)
            for trial in WITHOUT_DELAY.values():
                # Other keys than those of before.
                collect(real.runs, NO_DELAY, [town.play(trial, seed + OTHER_SEEDS)])
        real.seeds.append(seed)
        path.write_bytes(msgspec.json.encode(Stored(format=2, real=real)) + b"\n")
    for metrics in real.runs.values():
        for metric, runs in metrics.items():
            for name in ("p50", "p95"):
                values = [statistic(name, run) for run in runs]
                figures.emit(f"real_{metric}_{name}", values, "s", load=max(real.load))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else RUNS)
