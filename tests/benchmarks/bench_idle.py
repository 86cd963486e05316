"""What it costs a node to be there with eight neighbours, and what the bytes are.

    python -m tests.benchmarks.bench_idle [NODES]

NODES (9) real nodes, all with links to all, and nothing happens.  CPU is the whole process; bytes
are `peernode_mesh_bytes` of `/metrics` after and before: frames of each protocol, signs of life,
and `line`, which is all of it with what carries and encrypts it.
"""

import re
import sys
import time

from tests.benchmarks import figures
from tests.benchmarks.nodes import Nodes, sent_bytes, shown

NODES_DEFAULT = 9
SETTLE_S = 20.0
"""Meshes of gossip are built, and those who joined have compared with all."""
IDLE_S = max(10.0, 60 * min(1.0, figures.SCALE))
"""A node compares with a peer by lot about twice in it, and eight with it."""
SENT = re.compile(r'peernode_mesh_bytes_total\{direction="sent",kind="([^"]+)"\}')


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else NODES_DEFAULT
    with Nodes(count) as nodes:
        time.sleep(SETTLE_S)
        busy = figures.wait_until_quiet()
        before = [(node.cpu(), sent(shown(node))) for node in nodes.all]
        kernel = [sent_bytes(node.process.pid) for node in nodes.all]
        started_s = time.perf_counter()
        time.sleep(IDLE_S)
        took_s = time.perf_counter() - started_s
        used = [node.cpu() - cpu for node, (cpu, _) in zip(nodes.all, before, strict=True)]
        after = [sent(shown(node)) for node in nodes.all]
        more = {"of": "each node", "neighbours": count - 1, "busy": busy}
        share = [100 * (cpu.loop_s + cpu.writer_s) / took_s for cpu in used]
        figures.emit("idle_mesh_cpu", share, "% of a core", **more)
        for kind in sorted({kind for now in after for kind in now}):
            rates = [
                (now.get(kind, 0.0) - earlier.get(kind, 0.0)) / took_s
                for now, (_, earlier) in zip(after, before, strict=True)
            ]
            figures.emit(f"idle_mesh_sent_{kind.strip('/')}", rates, "B/s", **more)
        rates = [
            (sent_bytes(node.process.pid) - earlier) / took_s
            for node, earlier in zip(nodes.all, kernel, strict=True)
        ]
        figures.emit("idle_mesh_sent", rates, "B/s", **more)


def sent(figures_shown: dict[str, float]) -> dict[str, float]:
    found = ((SENT.fullmatch(name), value) for name, value in figures_shown.items())
    return {match[1]: value for match, value in found if match}


if __name__ == "__main__":
    main()
