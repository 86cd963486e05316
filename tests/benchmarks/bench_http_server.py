"""What a request costs the server: CPU microseconds, kernel included. One JSON line per figure.

    python -m tests.benchmarks.bench_http_server [--requests N] [--app bare|starlette|both]

The server runs in a process of its own, so its CPU time is its own; the client is raw sockets and a
selector, which costs less than the server.  hypercorn on trio is measured beside it if installed.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import selectors
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection

import trio

from peernode import http_server
from peernode.http_service import Application, Message, Receive, Scope, Send

BODY = b"x" * 200
POSTED = b'{"pad": "' + b"y" * 289 + b'"}'
GET = b"GET /j HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t\r\naccept: */*\r\n\r\n"
POST = (
    b"POST /p HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(POSTED)
) + POSTED
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"200")]


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 200 bytes, after the body if there is one."""
    if scope["method"] == "POST":
        message: Message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def starlette() -> Application:
    """Return the same as a Starlette application."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def get(request: Request) -> Response:
        return Response(BODY, media_type="application/json")

    async def post(request: Request) -> Response:
        await request.body()
        return Response(BODY, media_type="application/json")

    return Starlette(routes=[Route("/j", get), Route("/p", post, methods=["POST"])])


def run_ours(app: Application, ready: Connection) -> None:
    """Serve until SIGTERM."""

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with http_server.open_server(app) as server:
                ready.send(server.port)
                async for _ in signals:
                    break

    trio.run(main)


def run_hypercorn(app: Application, ready: Connection) -> None:
    """Serve the same with hypercorn until SIGTERM."""
    from hypercorn.config import Config  # type: ignore[import-not-found]
    from hypercorn.trio import serve  # type: ignore[import-not-found]

    config = Config()
    config.bind = ["127.0.0.1:0"]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve, app, config))
            ready.send(int(bound[0].rpartition(":")[2]))
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    trio.run(main)


def cpu_us(process: int) -> float:
    """Return the CPU time a process has used, user and system."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


def load(port: int, request: bytes, total: int, width: int) -> float:
    """Send `total` requests over `width` connections, one at a time each; return seconds."""
    selector = selectors.DefaultSelector()
    with ExitStack() as stack:
        clients = []
        for _ in range(width):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client, selectors.EVENT_READ)
            clients.append(client)
        began = time.perf_counter()
        sent = answered = 0
        for client in clients:
            client.sendall(request)
            sent += 1
        while answered < total:
            for key, _ in selector.select(10):
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                answer = ready.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200"), answer[:80]
                assert answer.endswith(BODY), answer[-80:]
                answered += 1
                if sent < total:
                    ready.sendall(request)
                    sent += 1
        return time.perf_counter() - began


def measure(name: str, target: Callable[[Connection], None], total: int) -> None:
    """Print the figures of one server."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs,))
    process.start()
    assert process.pid is not None
    try:
        port = ours.recv()
        load(port, GET, total // 5, 32)
        for figure, request, width in (
            ("get_200_bytes", GET, 32),
            ("post_300_bytes", POST, 32),
            ("get_200_bytes_one_connection", GET, 1),
        ):
            costs, rates = [], []
            for _ in range(3):
                before = cpu_us(process.pid)
                seconds = load(port, request, total, width)
                costs.append((cpu_us(process.pid) - before) / total)
                rates.append(total / seconds)
            figures = {
                "benchmark": "http_server",
                "server": name,
                "figure": figure,
                "cpu_us_per_request": round(statistics.median(costs), 1),
                "requests_per_s": round(statistics.median(rates)),
            }
            print(json.dumps(figures), flush=True)
    finally:
        process.terminate()
        process.join()


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--app", choices=("bare", "starlette", "both"), default="both")
    arguments = parser.parse_args()
    apps: dict[str, Application] = {}
    if arguments.app != "starlette":
        apps["bare"] = bare
    if arguments.app != "bare":
        apps["starlette"] = starlette()
    for name, app in apps.items():
        measure(name, partial(run_ours, app), arguments.requests)
    if importlib.util.find_spec("hypercorn") is None:
        print("hypercorn is not installed: not measured", file=sys.stderr)
        return
    for name, app in apps.items():
        measure(f"hypercorn+{name}", partial(run_hypercorn, app), arguments.requests // 4)


if __name__ == "__main__":
    main()
