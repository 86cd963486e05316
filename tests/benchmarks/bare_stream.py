"""The floor of fetching: one stream between two hosts of libp2p as it is, a process each.

TCP, Noise and Yamux, without anything of ours: `python -m tests.benchmarks.bare_stream` listens,
says where, and writes to whoever opens a stream until its own input ends.
"""

import json
import logging
import subprocess
import sys
import time

import trio
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from tests.benchmarks.daemon import end_with_parent

PROTOCOL = TProtocol("/bench/1")
LISTENED = Multiaddr("/ip4/127.0.0.1/tcp/0")
CHUNK_BYTES = 1 << 20
READ_BYTES = 256 * 1024


def measure(size_bytes: int) -> float:
    """Return megabytes a second from one process to another."""
    logging.disable(logging.CRITICAL)
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bare_stream"]
    child = subprocess.Popen(
        [*command, str(size_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
    )
    with child:
        assert child.stdout is not None
        address = json.loads(child.stdout.readline())
        took_s = trio.run(receive, address, size_bytes)
        child.kill()
    return size_bytes / 1e6 / took_s


async def receive(address: str, size_bytes: int) -> float:
    host = new_host(listen_addrs=[LISTENED])
    async with host.run(listen_addrs=[LISTENED]):
        peer = info_from_p2p_addr(Multiaddr(address))
        await host.connect(peer)
        stream = await host.new_stream(peer.peer_id, [PROTOCOL])
        started_s = time.perf_counter()
        received = 0
        while received < size_bytes:
            got = await stream.read(READ_BYTES)
            assert got, f"closed after {received} bytes"
            received += len(got)
        return time.perf_counter() - started_s


async def serve(size_bytes: int) -> None:
    host = new_host(listen_addrs=[LISTENED])
    chunk = bytes(CHUNK_BYTES)

    async def write(stream: INetStream) -> None:
        try:
            for _ in range(0, size_bytes, CHUNK_BYTES):
                await stream.write(chunk)
        except Exception as error:  # noqa: BLE001  (it would end the whole process)
            print(repr(error), file=sys.stderr)

    host.set_stream_handler(PROTOCOL, write)
    async with host.run(listen_addrs=[LISTENED]):
        address = f"{host.get_addrs()[0]}"
        print(json.dumps(address), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(serve, int(sys.argv[1]))
