"""A real node in a process of its own, and what it costs the operating system."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.benchmarks.load import Connection

READY_MAX_S = 60.0
PR_SET_PDEATHSIG = 1
NOOP = "def handler(input):\n    return input\n"
SLEEP = "import time\n\ndef handler(input):\n    time.sleep(input)\n"


class Daemon:
    """`peernode up` with a temporary data directory, from its start to its clean exit."""

    def __init__(self, *, workers: int = 1, data: Path | None = None, p2p: str = "") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="peernode-bench-")
        self.data = data or Path(self._directory.name) / "data"
        self.log = Path(self._directory.name) / "log"
        command = [sys.executable, "-m", "peernode", "up", "--data", str(self.data)]
        command += ["--http", "127.0.0.1:0", "--signup", "open", "--workers", str(workers)]
        command += ["--p2p", p2p] if p2p else []
        started = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=end_with_parent,
            )
        try:
            port = self._wait_until_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.start_s = time.perf_counter() - started
        self.address = ("127.0.0.1", port)
        self.token = ""
        self.project = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.log.read_text(errors="replace")[-4000:], file=sys.stderr)
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert error is not None or status == 0, f"the node exited with {status}"
        self._directory.cleanup()

    def kill(self) -> None:
        """End the process as a power cut would, and keep its data."""
        self.process.kill()
        self.process.wait()

    def _wait_until_ready(self) -> int:
        """Return the port in the ready line, and let nothing block the node's output after it."""
        output = self.process.stdout
        assert output is not None
        timer = threading.Timer(READY_MAX_S, self.process.kill)
        timer.start()
        try:
            for line in output:
                if found := re.search(rb"http://127\.0\.0\.1:(\d+)", line):
                    threading.Thread(target=output.read, daemon=True).start()
                    return int(found[1])
        finally:
            timer.cancel()
        raise AssertionError(f"no ready line: {self.log.read_text(errors='replace')[-4000:]}")

    def sign_up(self) -> None:
        """Make the user and the project that the benchmarks act as."""
        link = self.connect()
        password = "correct horse battery staple"
        link.call("POST", "/user", "", {"name": "bench", "password": password})
        login = link.call("POST", "/user/bench/login", "", {"password": password})
        self.token = login["token"]
        self.project = link.call("POST", "/project", self.token, {"name": "bench"})["id"]
        link.close()

    def deploy(self, name: str, source: str) -> str:
        """Return the id of a new Python function."""
        link = self.connect()
        body = {"project": self.project, "name": name, "runtime": "python", "source": source}
        made = link.call("POST", "/function", self.token, body)
        link.close()
        return str(made["id"])

    def connect(self) -> Connection:
        return Connection(self.address)

    def cpu(self) -> "Cpu":
        """Return the CPU time used so far."""
        pid = self.process.pid
        loop_s = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
        workers_s = sum(process_cpu_s(worker) for worker in descendants(pid))
        return Cpu(loop_s, process_clock_s(pid) - loop_s, workers_s)

    def memory(self) -> dict[str, int]:
        """Return the node's memory by kind, in bytes, without its workers'."""
        return memory_bytes(self.process.pid)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however it does (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Cpu:
    """Seconds of CPU: the loop's thread, the other threads (the store's writer), the workers."""

    def __init__(self, loop_s: float, writer_s: float, workers_s: float) -> None:
        self.loop_s = loop_s
        self.writer_s = writer_s
        self.workers_s = workers_s

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(
            self.loop_s - other.loop_s,
            self.writer_s - other.writer_s,
            self.workers_s - other.workers_s,
        )


def process_clock_s(pid: int) -> float:
    """Return the CPU time of all threads of a process, ended ones too (see clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


def process_cpu_s(pid: int) -> float:
    """Return the CPU time of a process and of the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return process_clock_s(pid) + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from `pid`, without itself."""
    parents: dict[int, list[int]] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            parents.setdefault(int(fields[1]), []).append(int(directory.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def memory_bytes(pid: int) -> dict[str, int]:
    """Return the `Vm...` and `Rss...` lines of a process's status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        line.partition(":")[0]: int(line.split()[1]) * 1024
        for line in lines
        if line.endswith(" kB")
    }
