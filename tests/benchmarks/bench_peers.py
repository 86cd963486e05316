"""What one would use instead, on the same machine in the same session.

The scripts are not part of this tree.  `PEER_SCRIPTS` names their directory: `bench_NAME.py` each,
run by `$PEERS/venv-NAME/bin/python` (`PEERS` is /tmp/peers if unset) or, for those that need
nothing installed by pip, by this Python; each prints JSON lines with `peer`, `metric`, `value` and
`unit`.  What is not installed is said and skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import figures

WITHOUT_ENVIRONMENT = {"machine", "slurm", "workerd"}
PEER_MAX_S = 600.0


def main() -> None:
    if not (scripts := os.environ.get("PEER_SCRIPTS")):
        figures.skip("peers", "PEER_SCRIPTS names no directory")
        return
    peers = Path(os.environ.get("PEERS", "/tmp/peers"))
    for script in sorted(Path(scripts).glob("bench_*.py")):
        name = script.stem.removeprefix("bench_")
        python = peers / f"venv-{name}" / "bin" / "python"
        if python.exists():
            measure(name, [str(python), str(script)], peers)
        elif name in WITHOUT_ENVIRONMENT:
            measure(name, [sys.executable, str(script)], peers)
        else:
            figures.skip(f"peer_{name}", f"not installed: no {python}")


def measure(name: str, command: list[str], peers: Path) -> None:
    (peers / "out").mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command,
            cwd=peers,
            env={**os.environ, "PEERS": str(peers)},
            capture_output=True,
            text=True,
            timeout=PEER_MAX_S,
        )
    except subprocess.TimeoutExpired:
        figures.skip(f"peer_{name}", f"took over {PEER_MAX_S:.0f} s")
        return
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            figure = json.loads(line)
            name_of_figure = f"peer_{figure.pop('peer')}_{figure.pop('metric')}"
            runs = figure.pop("reps", 1)
            figure = {"name": name_of_figure, **figure, "runs": runs}
            print(json.dumps(figure), flush=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["said nothing"])[-1]
        figures.skip(f"peer_{name}", f"not installed, or failed: {why}")


if __name__ == "__main__":
    main()
