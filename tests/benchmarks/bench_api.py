"""Calls that run no job: requests a second over 32 connections, and the node's CPU for each."""

import time
from collections.abc import Callable

from tests.benchmarks import figures, load
from tests.benchmarks.daemon import NOOP, Daemon

REQUESTS = figures.scaled(10_000)


def main() -> None:
    with Daemon(workers=1) as node:
        node.sign_up()
        link = node.connect()
        noop = node.deploy("noop", NOOP)
        body = {"function": noop, "input": 1}
        job = link.call("POST", "/job?wait=60", node.token, body)
        assert job["state"] == "succeeded", job
        space = link.call(
            "POST",
            "/kv",
            node.token,
            {"owner": {"project": node.project}, "name": "bench", "scope": "local"},
        )["id"]
        link.call("POST", f"/kv/{space}/put", node.token, {"key": "k", "value": "v" * 100})
        link.close()
        read_job = load.request("GET", f"/job/{job['id']}", node.token)
        health = load.request("GET", "/health", "")
        get = load.request("POST", f"/kv/{space}/get", node.token, {"key": "k"})

        def put(number: int) -> bytes:
            value = {"key": f"key-{number % 1000}", "value": "v" * 100}
            return load.request("POST", f"/kv/{space}/put", node.token, value)

        measure(node, "get_job", lambda _: read_job)
        measure(node, "get_health", lambda _: health)
        measure(node, "kv_get", lambda _: get)
        measure(node, "kv_put", put)


def measure(node: Daemon, name: str, content: Callable[[int], bytes]) -> None:
    requests = [content(number) for number in range(REQUESTS)]
    rates, loop, writer, client = [], [], [], []
    runs = figures.Runs(3)
    for _ in runs:
        before, client_before, start = node.cpu(), time.process_time(), time.perf_counter()
        answers = load.many(node.address, requests)
        rates.append(REQUESTS / (time.perf_counter() - start))
        client.append((time.process_time() - client_before) / REQUESTS * 1e6)
        used = node.cpu() - before
        loop.append(used.loop_s / REQUESTS * 1e6)
        writer.append(used.writer_s / REQUESTS * 1e6)
        for status, body in answers:
            assert status == 200, body.decode()
    more = {"requests": REQUESTS, "connections": 32, "busy": runs.busy}
    figures.emit(name, rates, "req/s", **more)
    figures.emit(f"{name}_cpu_loop", loop, "us/req", **more)
    if max(writer) > 1:
        figures.emit(f"{name}_cpu_writer", writer, "us/req", **more)
    figures.emit(f"{name}_cpu_client", client, "us/req", **more)


if __name__ == "__main__":
    main()
