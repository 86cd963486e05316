"""Nodes in a mesh: how soon all know, what others answer for, and what it costs to be there.

    python -m tests.benchmarks.bench_nodes [NODES]

NODES (5) real nodes on the loopback, a process each, all with links to all; the first is where
changes are made, jobs run and the user is at home.  A change is a key of a global namespace.  It is
*durable* when `put` has answered and *visible* when `get` at another node finds it; that is looked
for every 2 ms over a connection that stays.  All nodes and the looking share the machine's cores,
so what is measured is what the whole mesh can do on them.

Everything is run once: five nodes keep a small machine busy, and `busy` says how much others did.
"""

import itertools
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.benchmarks import bare_stream, bench_memory, figures, load
from tests.benchmarks.daemon import NOOP, SLEEP, Daemon
from tests.benchmarks.load import request
from tests.benchmarks.nodes import Nodes, free_port, key, last_error, sent_bytes

Item = TypeVar("Item")

RATE_LOW_PER_S = 100
RATE_HIGH_PER_S = 1000
PUBLISHERS = 4
"""Connections for the low rate: with one, a change would wait until the one before is durable."""
LOW_S = 15
HIGH_S = 10
SAMPLED = 5
"""Every so many changes one is looked for at all nodes; all of them would be another load."""
BURST = figures.scaled(10_000)
COMPLETE_MAX_S = 60.0
"""What is not complete after so long is counted as missing."""
JOBS = figures.scaled(1000)
ONE_BY_ONE = figures.scaled(300)
BLOB_MIB = figures.scaled(256)
IDLE_S = 30
"""A node compares with a peer about once in it."""
START_RUNS = 3
NODES_DEFAULT = 5
RECORDS_SCALED = 100_000
"""What the time of a join is scaled to, in proportion, and marked so."""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else NODES_DEFAULT
    measure_start()
    with Nodes(count) as nodes:
        figures.emit("join_command", nodes.join_s, "s", nodes=count)
        measure_idle(nodes)
        measure_jobs(nodes)
        measure_blob(nodes)
        changes = measure_visible(nodes)
        changes += measure_sustained(nodes)
        changes += measure_burst(nodes)
        measure_join(nodes, changes)
        for number, node in enumerate(nodes.all):
            warned = [str(entry.get("event")) for entry in last_error(node)]
            if warned:
                counted = {event: warned.count(event) for event in dict.fromkeys(warned)}
                figures.emit("warnings", [len(warned)], "lines", node=number + 1, of=counted)


# --- a node by itself -------------------------------------------------------------------------


def measure_start() -> None:
    """From the command to the ready line, with a new directory, and memory a while after."""
    started_s, resident = [], []
    runs = figures.Runs(START_RUNS)
    for _ in runs:
        with Daemon(workers=0, p2p=f"/ip4/127.0.0.1/tcp/{free_port()}") as node:
            started_s.append(node.start_s)
            time.sleep(2)
            resident.append(node.memory()["VmRSS"] / 2**20)
    figures.emit("p2p_start_first", started_s, "s", busy=runs.busy)
    figures.emit("p2p_idle_rss", resident, "MiB", busy=runs.busy, peers=0)


def measure_idle(nodes: Nodes) -> None:
    """What being there costs while nothing happens, reconciliation in its turn included."""
    busy = figures.wait_until_quiet()
    time.sleep(3)  # joining has settled
    before = [(node.cpu(), sent(node)) for node in nodes.all]
    time.sleep(IDLE_S)
    cpu, rates = [], []
    for node, (cpu_before, sent_before) in zip(nodes.all, before, strict=True):
        used = node.cpu() - cpu_before
        cpu.append(100 * (used.loop_s + used.writer_s) / IDLE_S)
        rates.append((sent(node) - sent_before) / IDLE_S)
    more = {"neighbours": len(nodes.all) - 1, "busy": busy}
    figures.emit("idle_cpu", cpu, "% of a core", of="each node", **more)
    figures.emit("idle_sent", rates, "B/s", of="each node", **more)
    resident = [node.memory()["VmRSS"] / 2**20 for node in nodes.all]
    figures.emit("p2p_idle_rss", resident, "MiB", busy=busy, peers=len(nodes.all) - 1)


def sent(node: Daemon) -> int:
    return sent_bytes(node.process.pid)


# --- jobs and blobs of another node -------------------------------------------------------------


def measure_jobs(nodes: Nodes) -> None:
    busy = figures.wait_until_quiet()
    function = nodes.first.deploy("noop", NOOP)
    body = {"function": function, "input": 1}
    handed_in = [request("POST", "/job?wait=60", nodes.tokens[0], body)] * JOBS
    answers = load.many(nodes.first.address, handed_in)
    assert all(status == 200 for status, _ in answers)
    jobs = [load.decode(content)["id"] for _, content in answers]
    first, rest = jobs[:ONE_BY_ONE], jobs[ONE_BY_ONE:]
    more = {"nodes": len(nodes.all), "busy": busy}
    for name, number in (("job_get_local", 0), ("job_get_foreign", 1), ("job_get_cached", 1)):
        emit_times(name, ask(nodes, number, first), **more)
        emit_rate(f"{name}_rate", nodes, number, rest, **more)
    # A job that is not over cannot be kept: each question goes to its home.
    function = nodes.first.deploy("sleep", SLEEP)
    link = nodes.connect(0)
    running = link.call("POST", "/job", {"function": function, "input": 600})["id"]
    nodes.connect(1).wait_for(request("GET", f"/job/{running}", nodes.tokens[1]))
    times = ask(nodes, 1, [running] * ONE_BY_ONE)
    emit_times("job_get_foreign_running", times, **more)
    emit_rate("job_get_foreign_running_rate", nodes, 1, [running] * len(rest), **more)
    link.call("POST", f"/job/{running}/cancel", {})


def ask(nodes: Nodes, number: int, jobs: Iterable[str]) -> list[float]:
    """Return the seconds that each job took to be answered for, one after the other."""
    link = nodes.all[number].connect()
    times_s = []
    for job in jobs:
        content = request("GET", f"/job/{job}", nodes.tokens[number])
        started_s = time.perf_counter()
        status, answer = link.send(content)
        times_s.append(time.perf_counter() - started_s)
        assert status == 200, answer
    link.close()
    return times_s


def emit_times(name: str, times_s: list[float], **more: object) -> None:
    figures.emit(
        name,
        [1000 * figures.percentile(times_s, 0.5)],
        "ms",
        p99=figures.significant(1000 * figures.percentile(times_s, 0.99)),
        asked=len(times_s),
        **more,
    )


def emit_rate(name: str, nodes: Nodes, number: int, jobs: list[str], /, **more: object) -> None:
    contents = [request("GET", f"/job/{job}", nodes.tokens[number]) for job in jobs]
    started_s = time.perf_counter()
    answers = load.many(nodes.all[number].address, contents)
    took_s = time.perf_counter() - started_s
    refused = [answer for answer in answers if answer[0] != 200]
    assert not refused, refused[0]
    figures.emit(name, [len(jobs) / took_s], "/s", connections=32, **more)


def measure_blob(nodes: Nodes) -> None:
    """A large blob read at another node, beside a bare stream of libp2p right before it."""
    bench_memory.BLOB_BYTES = BLOB_MIB << 20
    busy = figures.wait_until_quiet()
    home, reader = nodes.all[0], nodes.all[1]
    reader.token = nodes.tokens[1]
    link = home.connect()
    blob = bench_memory.upload(home, link, 0)
    link.close()
    nodes.connect(1).wait_for(request("GET", f"/blob/{blob}", nodes.tokens[1]))
    bare = bare_stream.measure(BLOB_MIB << 20)
    rates = []
    with bench_memory.Peak(home) as home_peak, bench_memory.Peak(reader) as reader_peak:
        for _ in range(2):
            link = reader.connect()
            started_s = time.perf_counter()
            bench_memory.download(reader, link, blob)
            rates.append((BLOB_MIB << 20) / 1e6 / (time.perf_counter() - started_s))
            link.close()
    fetched, kept = rates
    more = {"size_bytes": BLOB_MIB << 20, "busy": busy}
    figures.emit("bare_stream", [bare], "MB/s", **more)
    share = figures.significant(fetched / bare)
    figures.emit("blob_fetched", [fetched], "MB/s", of_bare_stream=share, **more)
    figures.emit("blob_kept", [kept], "MB/s", **more)
    figures.emit("blob_home_growth", [home_peak.growth_bytes / 2**20], "MiB", **more)
    figures.emit("blob_reader_growth", [reader_peak.growth_bytes / 2**20], "MiB", **more)


# --- changes ------------------------------------------------------------------------------------


def measure_visible(nodes: Nodes) -> int:
    """From durable at the first node until visible at all, at a steady rate."""
    busy = figures.wait_until_quiet()
    space = nodes.space("visible")
    count = figures.scaled(RATE_LOW_PER_S * LOW_S)
    durable_s: dict[int, float] = {}
    watchers = [Watcher(nodes, number, space) for number in range(1, len(nodes.all))]

    def publish(publisher: int) -> int:
        link = nodes.connect(0).link
        mine = range(publisher, count, PUBLISHERS)
        for number in paced(mine, RATE_LOW_PER_S / PUBLISHERS):
            status, answer = link.send(nodes.put(space, key("k", number), number))
            assert status == 200, answer
            if number % SAMPLED == 0:
                durable_s[number] = time.perf_counter()
                for watcher in watchers:
                    watcher.keys.put(number)
        return len(mine)

    started_s = time.perf_counter()
    at_each(range(PUBLISHERS), publish)
    took_s = time.perf_counter() - started_s
    seen = [watcher.finish() for watcher in watchers]
    times_s = [max(each[number] for each in seen) - at for number, at in durable_s.items()]
    emit_times(
        "visible_at_all",
        times_s,
        nodes=len(nodes.all),
        rate=figures.significant(count / took_s),
        busy=busy,
    )
    emit_missing("visible", nodes, space, count)
    return count


class Watcher:
    """Looks for keys at one node, one after the other."""

    def __init__(self, nodes: Nodes, number: int, space: str) -> None:
        self.keys: queue.Queue[int | None] = queue.Queue()
        self._seen_s: dict[int, float] = {}
        self._caller = nodes.connect(number)
        self._space = space
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while (number := self.keys.get()) is not None:
            self._seen_s[number] = self._caller.wait_for_key(self._space, key("k", number))

    def finish(self) -> dict[int, float]:
        """Return number of a key -> when it was seen, of all of them."""
        self.keys.put(None)
        self._thread.join()
        return self._seen_s


def measure_sustained(nodes: Nodes) -> int:
    """More changes a second for a while: all have to be everywhere in the end."""
    busy = figures.wait_until_quiet()
    space = nodes.space("sustained")
    count = figures.scaled(RATE_HIGH_PER_S * HIGH_S)
    rate, last_s = change(nodes, space, count, RATE_HIGH_PER_S)
    more = {"nodes": len(nodes.all), "changes": count, "busy": busy}
    figures.emit("sustained_rate", [rate], "/s", wanted=RATE_HIGH_PER_S, **more)
    seen_s = emit_missing("sustained", nodes, space, count)
    figures.emit("sustained_complete", [seen_s - last_s], "s after the last", **more)
    return count


def measure_burst(nodes: Nodes) -> int:
    """As many changes as fast as one node takes them, until all nodes have all."""
    busy = figures.wait_until_quiet()
    space = nodes.space("burst")
    resident = [node.memory()["VmRSS"] for node in nodes.all]
    started_s = time.perf_counter()
    rate, last_s = change(nodes, space, BURST, None)
    complete_s = emit_missing("burst", nodes, space, BURST)
    more = {"nodes": len(nodes.all), "changes": BURST, "busy": busy}
    figures.emit("burst_durable_rate", [rate], "/s", of="the first node", **more)
    figures.emit("burst_complete", [complete_s - started_s], "s", **more)
    figures.emit("burst_complete_after_last", [complete_s - last_s], "s", **more)
    growth = [
        (node.memory()["VmRSS"] - before) / 2**20
        for node, before in zip(nodes.all, resident, strict=True)
    ]
    figures.emit("burst_rss_growth", growth, "MiB", of="each node", **more)
    return BURST


def change(nodes: Nodes, space: str, count: int, rate_per_s: int | None) -> tuple[float, float]:
    """Set that many keys; return how many a second became durable, and when the last had."""
    contents: Iterable[bytes] = [nodes.put(space, key("k", each), each) for each in range(count)]
    started_s = time.perf_counter()
    answers = load.many(
        nodes.first.address, contents if rate_per_s is None else paced(contents, rate_per_s), 64
    )
    last_s = time.perf_counter()
    refused = [answer for answer in answers if answer[0] != 200]
    assert not refused, refused[0]
    return count / (last_s - started_s), last_s


def paced(items: Iterable[Item], rate_per_s: float) -> Iterator[Item]:
    """Yield each item when it is due, or at once if it is late."""
    started_s = time.perf_counter()
    for number, item in zip(itertools.count(), items):
        time.sleep(max(0.0, started_s + number / rate_per_s - time.perf_counter()))
        yield item


def emit_missing(name: str, nodes: Nodes, space: str, count: int) -> float:
    """Wait until all nodes have all keys, for a while; say how many they have not.

    Returns when every hundredth key showed at all; listing each single one comes after that.
    """
    callers = [nodes.connect(number) for number in range(len(nodes.all))]

    def missing(number: int) -> int:
        return callers[number].wait_for_keys(space, "k", count, COMPLETE_MAX_S)

    found = at_each(range(len(nodes.all)), missing)
    figures.emit(f"{name}_missing", [sum(found)], "changes", of=count * len(nodes.all), each=found)
    return max(caller.seen_s for caller in callers)


def at_each(numbers: Iterable[int], call: Callable[[int], int]) -> list[int]:
    """Return what `call` returns for each number, all at once in threads."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(call, numbers))


def measure_join(nodes: Nodes, changes: int) -> None:
    """An empty node joins a mesh that knows much: from the command until it has all."""
    busy = figures.wait_until_quiet()
    spaces = nodes.connect(0).call("GET", "/kv?limit=100")["items"]
    wanted = {"visible": figures.scaled(RATE_LOW_PER_S * LOW_S), "burst": BURST}
    wanted["sustained"] = figures.scaled(RATE_HIGH_PER_S * HIGH_S)
    assert sum(wanted.values()) == changes
    started_s = time.perf_counter()
    nodes.add()
    ready_s = time.perf_counter()
    nodes.log_in()
    caller, missing = nodes.connect(len(nodes.all) - 1), 0
    for space in spaces:
        missing += caller.wait_for_keys(space["id"], "k", wanted[space["name"]], COMPLETE_MAX_S)
    complete_s = caller.seen_s  # at most: the other namespaces were listed before
    more = {"records": changes, "neighbours": len(nodes.all) - 1, "busy": busy}
    figures.emit("join_missing", [missing], "changes", **more)
    figures.emit("join_ready", [ready_s - started_s], "s", **more)
    figures.emit("join_complete", [complete_s - started_s], "s", **more)
    rate = changes / (complete_s - ready_s)
    figures.emit("join_rate", [rate], "/s", of="from ready to complete", **more)
    scaled_s = ready_s - started_s + RECORDS_SCALED / rate
    figures.emit("join_scaled", [scaled_s], "s", scaled_to=RECORDS_SCALED, measured=False, **more)


if __name__ == "__main__":
    main()
