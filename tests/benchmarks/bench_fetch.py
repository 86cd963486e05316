"""A large blob from a neighbour: memory at both ends, and a fetch that is broken off half way.

    python -m tests.benchmarks.bench_fetch

Two real nodes on the loopback, a process each.  1 GiB is read at the one that has it not; then
another one is read there, and that node killed when half of it has come out, started again, and
asked anew: what the giver had sent by then, over the size, is what was sent twice.  The floor, a
bare stream of libp2p, is measured right before each.
"""

import time

from tests.benchmarks import bare_stream, bench_memory, figures, load
from tests.benchmarks.daemon import Cpu, Daemon
from tests.benchmarks.load import request
from tests.benchmarks.nodes import Nodes, free_port, shown

BLOB_MIB = figures.scaled(1024)
BROKEN_MIB = figures.scaled(256)
FLOOR_MIB = figures.scaled(256)
RUNS = 3
FETCHED = 'peernode_mesh_bytes_total{direction="sent",kind="/peernode/fetch/1"}'


def main() -> None:
    with Nodes(2) as nodes:
        nodes.all[1].token = nodes.tokens[1]
        measure_whole(nodes)
        measure_broken(nodes)


def put(nodes: Nodes, run: int, mib: int) -> str:
    """Make a blob at the first node, and return it once the other knows of it."""
    bench_memory.BLOB_BYTES = mib << 20
    link = nodes.first.connect()
    blob = bench_memory.upload(nodes.first, link, run)
    link.close()
    nodes.connect(1).wait_for(request("GET", f"/blob/{blob}", nodes.tokens[1]))
    return blob


def measure_whole(nodes: Nodes) -> None:
    home, reader = nodes.all
    rates, floors, home_growth, reader_growth, home_cpu, reader_cpu = [], [], [], [], [], []
    runs = figures.Runs(RUNS)
    for run in runs:
        blob = put(nodes, run, BLOB_MIB)
        floors.append(bare_stream.measure(FLOOR_MIB << 20))
        before = home.cpu(), reader.cpu()
        link = reader.connect()
        with bench_memory.Peak(home) as home_peak, bench_memory.Peak(reader) as reader_peak:
            started_s = time.perf_counter()
            bench_memory.download(reader, link, blob)
            rates.append((BLOB_MIB << 20) / 1e6 / (time.perf_counter() - started_s))
        link.close()
        home_cpu.append(milliseconds(home.cpu() - before[0]))
        reader_cpu.append(milliseconds(reader.cpu() - before[1]))
        home_growth.append(home_peak.growth_bytes / 2**20)
        reader_growth.append(reader_peak.growth_bytes / 2**20)
        nodes.connect(0).call("DELETE", f"/blob/{blob}")
    more = {"size_bytes": BLOB_MIB << 20, "busy": runs.busy}
    figures.emit("fetch_floor", floors, "MB/s", of="a bare stream", busy=runs.busy)
    shares = [rate / floor for rate, floor in zip(rates, floors, strict=True)]
    figures.emit("fetch", rates, "MB/s", **more)
    figures.emit("fetch_of_floor", shares, "of a bare stream", **more)
    figures.emit("fetch_cpu_home", home_cpu, "ms/MiB", **more)
    figures.emit("fetch_cpu_reader", reader_cpu, "ms/MiB", **more)
    figures.emit("fetch_growth_home", home_growth, "MiB", **more)
    figures.emit("fetch_growth_reader", reader_growth, "MiB", **more)


def milliseconds(used: Cpu) -> float:
    return 1000 * (used.loop_s + used.writer_s) / BLOB_MIB


def measure_broken(nodes: Nodes) -> None:
    """The reader is killed when half is out, and asked again after its start."""
    busy = figures.wait_until_quiet()
    blob = put(nodes, RUNS, BROKEN_MIB)
    size_bytes = BROKEN_MIB << 20
    before = shown(nodes.first).get(FETCHED, 0.0)
    link = nodes.all[1].connect()
    link.socket.sendall(load.request("GET", f"/blob/{blob}/content", nodes.tokens[1]))
    received, buffer = 0, bytearray(1 << 20)
    while received < size_bytes // 2:
        got = link.socket.recv_into(buffer)
        assert got, f"closed after {received} bytes"
        received += got
    nodes.all[1].kill()
    link.close()
    half = shown(nodes.first)[FETCHED] - before
    old = nodes.all[1]
    reader = nodes.all[1] = Daemon(
        workers=0, data=old.data, p2p=f"/ip4/127.0.0.1/tcp/{free_port()}"
    )
    reader.token = nodes.tokens[1]
    nodes.wait_until_met(reader, 1)
    again = reader.connect()
    bench_memory.download(reader, again, blob)
    again.close()
    twice = shown(nodes.first)[FETCHED] - before - size_bytes
    figures.emit(
        "fetch_sent_twice",
        [100 * twice / size_bytes],
        "% of the size",
        size_bytes=size_bytes,
        sent_before=half,
        broken="reader killed at half",
        busy=busy,
    )


if __name__ == "__main__":
    main()
