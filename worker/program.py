"""The worker as a program: `python -m worker.agent --url URL --token-file FILE --directory DIR`.

It is the local worker of a node, or any worker.  The token comes from a file or the standard
input, never from the command line, which everybody on the machine can read.  It ends with status 0
on SIGTERM or SIGINT, with 1 when the node refuses it, and, with `--die-with-parent`, when its
standard input ends: its parent is then gone.
"""

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from storage.clock import SystemClock
from worker.agent import Config, run_agent
from worker.backends import parse_backends
from worker.egress_addresses import parse_networks
from worker.link import LinkRefused
from worker.offer import measure_offer
from worker.process_tree import become_subreaper
from worker.protocol import Offer
from worker.wasm import interpreter_path, user_cache
from worker.websocket_link import check_address, open_websocket_link


def main(arguments: list[str] | None = None) -> int:
    """Run a worker in this process; return the exit status (0 when it was told to stop)."""
    parser = argparse.ArgumentParser(prog="python -m worker.agent", description="A worker.")
    parser.add_argument(
        "--url", required=True, help="ws://127.0.0.1:PORT/worker/ID/attach, or wss://HOST..."
    )
    parser.add_argument(
        "--token-file", required=True, dest="token_path", help="a file with the token, - for stdin"
    )
    parser.add_argument("--slots", type=int, default=0, help="jobs at once; 0: one a core")
    parser.add_argument("--directory", type=Path, required=True, help="for scratch and cache")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--egress-networks",
        type=parse_networks,
        default=(),
        metavar="NETWORK,...",
        help="private networks that `edge.http` may reach",
    )
    parser.add_argument(
        "--isolation",
        choices=("process", "sandbox", "wasm"),
        help="weakest level it gives; unless said, none but for strangers' code",
    )
    parser.add_argument(
        "--backends",
        type=parse_backends,
        default=(),
        metavar="NAME,...",
        help="what may run models, best first; unless said, all that is here",
    )
    parser.add_argument(
        "--die-with-parent",
        action="store_true",
        help="end when the standard input ends: the parent holds its other end",
    )
    given = parser.parse_args(arguments)
    try:
        check_address(given.url)
    except ValueError as unusable:
        parser.error(f"--url: {unusable}")
    token = _read_token(given.token_path)
    offer = _offer(given, parser)
    become_subreaper()
    config = Config(
        directory=given.directory,
        adopts_orphans=True,
        egress_networks=given.egress_networks,
        interpreter=interpreter_path(user_cache()),
    )

    refusals: list[LinkRefused] = []

    async def run() -> None:
        async with _stoppable(given.die_with_parent):
            try:
                await run_agent(
                    lambda: open_websocket_link(given.url, token),
                    offer,
                    config,
                    clock=SystemClock(),
                )
            except LinkRefused as error:
                refusals.append(error)

    trio.run(run)
    for error in refusals:
        print(f"refused: {error}", file=sys.stderr)  # noqa: T201
    return 1 if refusals else 0


def _offer(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Offer:
    """Return what this machine offers; ends the program when it is asked for what is not here."""
    labels = dict(label.split("=", 1) for label in given.label if "=" in label)
    try:
        return measure_offer(given.slots, given.directory, labels, given.isolation, given.backends)
    except ValueError as wrong:
        parser.error(f"--{wrong}")


def _read_token(path: str) -> str:
    """Return the token: the first line of a file, or of the standard input."""
    if path != "-":
        return Path(path).read_text().strip()
    token = bytearray()
    # Byte by byte: what follows belongs to who waits for the end of the input.
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        token += byte
    return token.decode().strip()


@asynccontextmanager
async def _stoppable(with_parent: bool) -> AsyncIterator[None]:
    """Cancel the block on SIGTERM, SIGINT, or the end of the standard input."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            async def on_orphaned() -> None:
                # Not PR_SET_PDEATHSIG: it means the parent's *thread*, and parents spawn in any.
                while True:
                    await trio.lowlevel.wait_readable(0)
                    if not os.read(0, 4096):
                        nursery.cancel_scope.cancel()
                        return

            nursery.start_soon(on_signal)
            if with_parent:
                nursery.start_soon(on_orphaned)
            yield
            nursery.cancel_scope.cancel()
