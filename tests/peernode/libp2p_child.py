"""A node in a process of its own: says where it listens, echoes, lives until its stdin ends.

`python -m tests.peernode.libp2p_child NUMBER ADDRESS`
"""

import json
import os
import sys
import time

import trio

from tests.peernode.libp2p_world import open_node


async def echo(_: str, frame: bytes) -> bytes:
    return frame


async def main(number: int, listened: str) -> None:
    assert "libp2p" not in sys.modules, "imported before a network was opened"
    async with open_node(number, listened=listened) as network:
        network.serve_requests("/echo/1", echo, size_max_bytes=1000)
        pages = int(open("/proc/self/statm").read().split()[1])  # noqa: SIM115, ASYNC230
        said = {
            "peer": network.peer,
            "addresses": network.addresses(),
            "cpu_s": time.process_time(),
            "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        }
        print(json.dumps(said), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


trio.run(main, int(sys.argv[1]), sys.argv[2])
