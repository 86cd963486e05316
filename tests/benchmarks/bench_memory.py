"""Start, memory at rest, and content that is larger than memory should ever be."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.benchmarks import figures, load
from tests.benchmarks.daemon import Daemon, descendants, memory_bytes
from tests.benchmarks.load import Connection

CHUNK_BYTES = 1 << 20
BLOB_BYTES = figures.scaled(1024) * CHUNK_BYTES


def main() -> None:
    measure_start()
    with Daemon(workers=1) as node:
        node.sign_up()
        measure_blobs(node)


def measure_start() -> None:
    """From the command to the ready line: with a new data directory, and with one that is there."""
    first, again, rss, worker_rss = [], [], [], []
    workers: list[int] = []
    runs = figures.Runs(3)
    for _ in runs:
        with tempfile.TemporaryDirectory(prefix="peernode-bench-") as directory:
            data = Path(directory) / "data"
            with Daemon(workers=1, data=data) as node:
                first.append(node.start_s)
            with Daemon(workers=1, data=data) as node:
                again.append(node.start_s)
                figures.wait_until_quiet()  # until the worker is up too
                rss.append(node.memory()["VmRSS"] / 2**20)
                workers = descendants(node.process.pid)
                worker_rss.append(sum(memory_bytes(pid)["VmRSS"] for pid in workers) / 2**20)
    figures.emit("start_first", first, "s", busy=runs.busy)
    figures.emit("start_again", again, "s", busy=runs.busy)
    figures.emit("idle_rss", rss, "MiB", of="daemon")
    figures.emit("idle_rss_worker", worker_rss, "MiB", processes=len(workers))


def measure_blobs(node: Daemon) -> None:
    up, down, up_growth, down_growth, up_cpu, down_cpu = [], [], [], [], [], []
    runs = figures.Runs(3)
    for run in runs:
        link = node.connect()
        before = node.cpu()
        with Peak(node) as peak:
            start = time.perf_counter()
            blob = upload(node, link, run)
            up.append(BLOB_BYTES / 1e6 / (time.perf_counter() - start))
        up_growth.append(peak.growth_bytes / 2**20)
        used = node.cpu() - before
        up_cpu.append((used.loop_s + used.writer_s) / (BLOB_BYTES / 2**30))
        before = node.cpu()
        with Peak(node) as peak:
            start = time.perf_counter()
            download(node, link, blob)
            down.append(BLOB_BYTES / 1e6 / (time.perf_counter() - start))
        down_growth.append(peak.growth_bytes / 2**20)
        used = node.cpu() - before
        down_cpu.append((used.loop_s + used.writer_s) / (BLOB_BYTES / 2**30))
        check_last_chunk(node, link, blob, run)
        link.call("DELETE", f"/blob/{blob}", node.token)
        link.close()
    more = {"size_bytes": BLOB_BYTES, "busy": runs.busy}
    figures.emit("blob_upload", up, "MB/s", **more)
    figures.emit("blob_upload_rss_growth", up_growth, "MiB", **more)
    figures.emit("blob_upload_cpu", up_cpu, "s/GiB", **more)
    figures.emit("blob_download", down, "MB/s", **more)
    figures.emit("blob_download_rss_growth", down_growth, "MiB", **more)
    figures.emit("blob_download_cpu", down_cpu, "s/GiB", **more)


def chunks(run: int) -> Iterator[bytes]:
    """Yield the content: chunks that nothing can compress, no two of them the same."""
    body = os.urandom(CHUNK_BYTES - 16)
    for number in range(BLOB_BYTES // CHUNK_BYTES):
        yield marker(run, number) + body


def marker(run: int, number: int) -> bytes:
    return run.to_bytes(8, "big") + number.to_bytes(8, "big")


def upload(node: Daemon, link: Connection, run: int) -> str:
    head = (
        f"POST /blob?project={node.project} HTTP/1.1\r\nHost: peernode\r\n"
        f"Authorization: Bearer {node.token}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {BLOB_BYTES}\r\n\r\n"
    )
    link.socket.sendall(head.encode())
    for chunk in chunks(run):
        link.socket.sendall(chunk)
    status, content = link.receive()
    assert status == 201, content.decode()
    return str(load.decode(content)["id"])


def download(node: Daemon, link: Connection, blob: str) -> None:
    link.socket.sendall(load.request("GET", f"/blob/{blob}/content", node.token))
    buffer = bytearray(CHUNK_BYTES)
    received = b""
    while b"\r\n\r\n" not in received:
        received += link.socket.recv(1 << 16)
    head, _, start = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    size = len(start)
    while size < BLOB_BYTES:
        got = link.socket.recv_into(buffer)
        assert got, f"closed after {size} bytes"
        size += got
    assert size == BLOB_BYTES


def check_last_chunk(node: Daemon, link: Connection, blob: str, run: int) -> None:
    """Read the mark of the last chunk by a range."""
    number = BLOB_BYTES // CHUNK_BYTES - 1
    first = number * CHUNK_BYTES
    content = load.request("GET", f"/blob/{blob}/content", node.token).replace(
        b"\r\n\r\n", f"\r\nRange: bytes={first}-{first + 15}\r\n\r\n".encode()
    )
    assert link.send(content) == (206, marker(run, number))


class Peak:
    """How far the node's memory rises above where it was."""

    def __init__(self, node: Daemon) -> None:
        self.growth_bytes = 0
        self._node = node
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._start_bytes = self._node.memory()["VmRSS"]
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            growth = self._node.memory()["VmRSS"] - self._start_bytes
            self.growth_bytes = max(self.growth_bytes, growth)


if __name__ == "__main__":
    main()
