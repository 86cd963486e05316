"""An empty node joins a mesh that knows 100,000 records.

    python -m tests.benchmarks.bench_join [NODES]

The records are keys of a global namespace, each signed by the node's own code in this process, on
the directory of the first node while that is stopped: so they are there in seconds.  NODES (1) have
them when the empty one comes; it is complete when it offers as many as they do, and then every
thousandth key is read from it.
"""

import sys
import time
from pathlib import Path

import trio

from peernode.config import Config
from peernode.node import open_node
from peernode.transactions import Transaction
from tests.benchmarks import bench_memory, figures
from tests.benchmarks.daemon import Cpu, Daemon
from tests.benchmarks.load import request
from tests.benchmarks.nodes import Nodes, key, last_error, shown

RECORDS = figures.scaled(100_000)
SIGNED_AT_ONCE = 500
COMPLETE_MAX_S = 300.0
SAMPLED = 1000
RECORDS_SHOWN = "peernode_mesh_records"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with Nodes(1) as nodes:
        space = nodes.space("full")
        started_s = time.perf_counter()
        nodes.restart(0, lambda old: trio.run(fill, old.data, nodes.tokens[0], space))
        figures.emit("join_filled", [time.perf_counter() - started_s], "s", records=RECORDS)
        wait_for_records(nodes.first, RECORDS)  # It reads them from its disk.
        for _ in range(1, count):
            wait_for_records(nodes.add(), RECORDS)
            nodes.log_in()
        measure(nodes, space)


async def fill(data: Path, token: str, space: str) -> None:
    """Write `RECORDS` keys as the user would, on the directory of a node that is stopped."""
    async with open_node(Config(data=data, workers=0, log_level="error")) as node:
        actor = node.sessions.authenticate(f"Bearer {token}".encode())
        known = node.spaces.get(int(space))
        assert known is not None
        for first in range(0, RECORDS, SIGNED_AT_ONCE):
            numbers = range(first, min(RECORDS, first + SIGNED_AT_ONCE))

            def write(transaction: Transaction, numbers: range = numbers) -> None:
                for number in numbers:
                    content = b"%d" % number
                    node.spaces.put(transaction, actor, known, key("k", number).encode(), content)

            await node.transactions.run(write)


def measure(nodes: Nodes, space: str) -> None:
    busy = figures.wait_until_quiet()
    wanted = shown(nodes.first)[RECORDS_SHOWN]
    before = nodes.first.cpu()
    started_s = time.perf_counter()
    joiner = nodes.add()
    ready_s, at_ready = time.perf_counter(), joiner.cpu()
    with bench_memory.Peak(joiner) as peak:
        wait_for_records(joiner, wanted)
    complete_s = time.perf_counter()
    given, taken = nodes.first.cpu() - before, joiner.cpu() - at_ready
    nodes.log_in()
    caller = nodes.connect(len(nodes.all) - 1)
    for number in range(0, RECORDS, SAMPLED):
        body = {"key": key("k", number)}
        status, answer = caller.link.send(request("POST", f"/kv/{space}/get", caller.token, body))
        assert status == 200, answer
    more = {"records": RECORDS, "neighbours": len(nodes.all) - 1, "busy": busy}
    figures.emit("join_full_ready", [ready_s - started_s], "s", **more)
    figures.emit("join_full_complete", [complete_s - started_s], "s", **more)
    rate = RECORDS / (complete_s - ready_s)
    figures.emit("join_full_rate", [rate], "/s", of="from ready to complete", **more)
    emit_cpu("join_full_cpu_joiner", taken, **more)
    emit_cpu("join_full_cpu_giver", given, **more)
    figures.emit("join_full_growth", [peak.growth_bytes / 2**20], "MiB", **more)
    warned = [str(entry.get("event")) for node in nodes.all for entry in last_error(node)]
    figures.emit("join_full_warnings", [len(warned)], "lines", of=sorted(set(warned)), **more)


def emit_cpu(name: str, used: Cpu, **more: object) -> None:
    spent_s = used.loop_s + used.writer_s
    figures.emit(name, [1e6 * spent_s / RECORDS], "us a record", **more)


def wait_for_records(node: Daemon, count: float) -> None:
    """Return when a node offers as many records."""
    ends_s = time.monotonic() + COMPLETE_MAX_S
    while (found := shown(node)[RECORDS_SHOWN]) < count:
        assert time.monotonic() < ends_s, f"{found} of {count} records"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
