"""A worker that is attached from the command line: how soon, and what it takes when it has nothing
to do.

Memory is that of its whole tree of processes: the agent, and once it has run a job at level
`sandbox` the zygote, the process that is kept warm and the spare.  `pss` counts a page that several
share once in all, and `private` what would be free if they all ended.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import figures
from tests.benchmarks.daemon import NOOP, Daemon, descendants, end_with_parent
from tests.benchmarks.load import Connection

RUNS = 5
PATIENCE_S = 60.0
LOOK_AGAIN_S = 0.005


class Attached:
    """A worker of `node`, from its command to its end."""

    def __init__(self, node: Daemon, worker: str, token: str, directory: Path) -> None:
        url = f"http://127.0.0.1:{node.address[1]}"
        command = [sys.executable, "-m", "peernode", "worker", "attach", url, "--slots", "2"]
        command += ["--directory", str(directory)]
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--token", token] if token else command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        operator = (node.data / "operator.token").read_text().strip()
        link = node.connect()
        while state(link, operator, worker) != "attached":
            assert time.perf_counter() - begin < PATIENCE_S, "it is not attached"
            time.sleep(LOOK_AGAIN_S)
        self.taken_s = time.perf_counter() - begin
        link.close()

    def memory_bytes(self) -> dict[str, int]:
        """Return what its processes take together: `pss`, `private`, and how many there are."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        found = {"processes": len(pids), "pss": 0, "private": 0}
        for pid in pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name == "Pss":
                    found["pss"] += int(rest.split()[0]) * 1024
                elif name.startswith("Private_"):
                    found["private"] += int(rest.split()[0]) * 1024
        return found

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0


def state(link: Connection, operator: str, worker: str) -> str:
    return str(link.call("GET", f"/worker/{worker}", operator)["state"])


def main() -> None:
    with Daemon(workers=0) as node:
        node.sign_up()
        function = node.deploy("noop", NOOP)
        first, again = [], []
        memory: dict[str, list[dict[str, int]]] = {"new": [], "idle": []}
        runs = figures.Runs(RUNS)
        for _ in runs:
            with tempfile.TemporaryDirectory(prefix="peernode-bench-") as directory:
                link = node.connect()
                operator = (node.data / "operator.token").read_text().strip()
                made = link.call("POST", "/worker", operator, {})
                worker = Attached(node, made["id"], made["token"], Path(directory))
                first.append(worker.taken_s)
                worker.end()
                worker = Attached(node, made["id"], "", Path(directory))
                again.append(worker.taken_s)
                figures.wait_until_quiet()
                memory["new"].append(worker.memory_bytes())
                for number in range(4):
                    job = {"function": function, "input": number}
                    ended = link.call("POST", "/job?wait=30", node.token, job)
                    assert ended["state"] == "succeeded", ended
                figures.wait_until_quiet()
                memory["idle"].append(worker.memory_bytes())
                worker.end()
                link.close()
    figures.emit("attach_first", first, "s", busy=runs.busy)
    figures.emit("attach_again", again, "s", busy=runs.busy)
    for name, found in memory.items():
        for kind in ("pss", "private"):
            values = [each[kind] / 1e6 for each in found]
            processes = found[0]["processes"]
            figures.emit(f"worker_{name}_{kind}", values, "MB", processes=processes)


if __name__ == "__main__":
    main()
