"""Jobs: how many a second, how soon one is back, what each costs, and what waiting ones cost."""

import time
from collections.abc import Callable

from tests.benchmarks import figures, load
from tests.benchmarks.daemon import NOOP, SLEEP, Daemon

JOBS = figures.scaled(2000)
LATENCIES = figures.scaled(600)
CONNECTIONS = 32


def main() -> None:
    with Daemon(workers=1) as node:
        node.sign_up()
        noop = node.deploy("noop", NOOP)
        hand_in_and_read(node, noop, figures.scaled(500), one_by_one)
        measure_rate(node, noop, "jobs_read_one_by_one", one_by_one)
        measure_rate(node, noop, "jobs_read_over_32", all_at_once)
        measure_latency(node, noop)
    measure_slots()
    measure_queued()


Read = Callable[[Daemon, list[str]], list[bytes]]


def hand_in(node: Daemon, function: str, count: int) -> list[str]:
    """Hand `count` jobs in over 32 connections; return their ids."""
    body = {"function": function, "input": 1}
    requests = (load.request("POST", "/job", node.token, body, unique=True) for _ in range(count))
    answers = load.many(node.address, requests, CONNECTIONS)
    for status, content in answers:
        assert status == 202, content.decode()
    return [load.decode(content)["id"] for _, content in answers]


def one_by_one(node: Daemon, jobs: list[str]) -> list[bytes]:
    """Read the jobs back over one connection, last first, each when it is done."""
    link = node.connect()
    requests = (read_request(node, job) for job in reversed(jobs))
    answers = [link.send(content)[1] for content in requests]
    link.close()
    return answers


def all_at_once(node: Daemon, jobs: list[str]) -> list[bytes]:
    """Read the jobs back over 32 connections, last first, each when it is done."""
    requests = (read_request(node, job) for job in reversed(jobs))
    return [content for _, content in load.many(node.address, requests, CONNECTIONS)]


def read_request(node: Daemon, job: str) -> bytes:
    return load.request("GET", f"/job/{job}?wait=60", node.token)


def hand_in_and_read(node: Daemon, function: str, count: int, read: Read) -> tuple[float, float]:
    """Return the seconds that handing in took, and those until the last job was read back."""
    start = time.perf_counter()
    jobs = hand_in(node, function, count)
    handed_in = time.perf_counter()
    answers = read(node, jobs)
    end = time.perf_counter()
    for content in answers:
        assert load.decode(content)["state"] == "succeeded", content.decode()
    assert len(set(jobs)) == len(answers) == count
    return handed_in - start, end - start


def measure_rate(node: Daemon, function: str, name: str, read: Read) -> None:
    rates, hand_in_rates, loop, writer, workers, client = [], [], [], [], [], []
    runs = figures.Runs(5)
    for _ in runs:
        before, client_before = node.cpu(), time.process_time()
        hand_in_s, total_s = hand_in_and_read(node, function, JOBS, read)
        client.append((time.process_time() - client_before) / JOBS * 1e6)
        used = node.cpu() - before
        rates.append(JOBS / total_s)
        hand_in_rates.append(JOBS / hand_in_s)
        loop.append(used.loop_s / JOBS * 1e6)
        writer.append(used.writer_s / JOBS * 1e6)
        workers.append(used.workers_s / JOBS * 1e6)
    more = {"jobs": JOBS, "busy": runs.busy}
    figures.emit(name, rates, "jobs/s", **more)
    figures.emit(f"{name}_handed_in", hand_in_rates, "jobs/s", **more)
    figures.emit(f"{name}_cpu_loop", loop, "us/job", **more)
    figures.emit(f"{name}_cpu_writer", writer, "us/job", **more)
    figures.emit(f"{name}_cpu_worker_and_child", workers, "us/job", **more)
    figures.emit(f"{name}_cpu_client", client, "us/job", **more)


def measure_latency(node: Daemon, function: str) -> None:
    """One at a time on one connection: in two requests, and in one that waits."""

    def in_two(link: load.Connection) -> bytes:
        _, content = link.send(hand_in_request(node, function, ""))
        return link.send(read_request(node, load.decode(content)["id"]))[1]

    def in_one(link: load.Connection) -> bytes:
        return link.send(hand_in_request(node, function, "?wait=60"))[1]

    for name, call in (("job_latency", in_two), ("job_latency_wait", in_one)):
        middle, slow = [], []
        runs = figures.Runs(3)
        for _ in runs:
            link = node.connect()  # a new one: the node closes those that idle
            took = []
            for _ in range(LATENCIES):
                start = time.perf_counter()
                content = call(link)
                took.append((time.perf_counter() - start) * 1e3)
                assert load.decode(content)["state"] == "succeeded", content.decode()
            link.close()
            middle.append(figures.percentile(took, 0.5))
            slow.append(figures.percentile(took, 0.99))
        figures.emit(f"{name}_p50", middle, "ms", jobs=LATENCIES, busy=runs.busy)
        figures.emit(f"{name}_p99", slow, "ms", jobs=LATENCIES, busy=runs.busy)


def hand_in_request(node: Daemon, function: str, query: str) -> bytes:
    body = {"function": function, "input": 1}
    return load.request("POST", f"/job{query}", node.token, body, unique=True)


def measure_slots() -> None:
    """64 jobs of one second on 8 slots: 8 seconds if nothing else cost time."""
    with Daemon(workers=8) as node:
        node.sign_up()
        noop, sleep = node.deploy("noop", NOOP), node.deploy("sleep", SLEEP)
        hand_in_and_read(node, noop, 64, all_at_once)
        hand_in_and_read(node, sleep, 8, all_at_once)
        took = []
        runs = figures.Runs(3)
        for _ in runs:
            _, total_s = hand_in_and_read(node, sleep, figures.scaled(64), all_at_once)
            took.append(total_s)
        figures.emit("jobs_64_of_1s_on_8_slots", took, "s", ideal=8, busy=runs.busy)


def measure_queued() -> None:
    """What one more job costs when many wait already, and what the waiting ones take up."""
    batch = figures.scaled(1000)
    with Daemon(workers=0) as node:
        node.sign_up()
        noop = node.deploy("noop", NOOP)
        hand_in(node, noop, batch)
        queued = batch
        before = node.memory()
        for depth in (figures.scaled(1000), figures.scaled(100_000)):
            hand_in(node, noop, depth - queued)
            queued = depth
            if depth > batch:
                after = node.memory()
                added = depth - batch
                figures.emit(
                    "queued_jobs_rss",
                    [(after["VmRSS"] - before["VmRSS"]) / 2**20],
                    "MiB",
                    jobs=added,
                    bytes_a_job=round((after["VmRSS"] - before["VmRSS"]) / added),
                    anonymous_mib=round((after["RssAnon"] - before["RssAnon"]) / 2**20, 1),
                )
            loop, writer = [], []
            runs = figures.Runs(3)
            for _ in runs:
                start = node.cpu()
                hand_in(node, noop, batch)
                queued += batch
                used = node.cpu() - start
                loop.append(used.loop_s / batch * 1e6)
                writer.append(used.writer_s / batch * 1e6)
            figures.emit(f"hand_in_cpu_loop_at_{depth}_queued", loop, "us/job", busy=runs.busy)
            figures.emit(f"hand_in_cpu_writer_at_{depth}_queued", writer, "us/job", busy=runs.busy)


if __name__ == "__main__":
    main()
