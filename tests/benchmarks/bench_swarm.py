"""What a swarm costs: processor time for a delivery and an event, and the largest asked for.

    python -m tests.benchmarks.bench_swarm [NODES ...]

For each number of nodes (1000 and 10,000): a random regular graph of degree 6 on steady links,
records of 300 bytes by nodes by lot, 10 a second, until all have all of them.  Signatures are
verified for real, each once.  One JSON line a figure:

    swarm_delivery     us of processor time for each message that a node is delivered
    swarm_event        the same for each event: an RPC that arrives, a heartbeat
    swarm_run          s of processor time for all of it, without making the nodes
    swarm_set_up       s of processor time to make the nodes, link them and let meshes form
    swarm_node         kB of memory for each node

The floor is the machine alone, with all it touches in caches: 7 us for a first delivery with five
peers to pass it on to, 0.9 us for a copy, of which there are about 3 a delivery at this degree.
What is above that is links, event list and trace, and mostly memory that is in no cache: every
event is at another node, and 10,000 of them have 370 MB.
"""

import random
import resource
import sys
import time

from gossip.wire import Message
from simulations import chance, topology
from simulations.links import Lines
from simulations.scenario import Regular
from simulations.swarm import Swarm, quiet_collector
from simulations.swarm_links import Node
from simulations.swarm_runs import LINK
from tests.benchmarks.figures import emit, scaled

DEGREE = 6
SIZE_BYTES = 300
RATE_PER_S = 10
TOPIC = "t"


class Counter:
    """Counts deliveries."""

    delivered = 0

    def deliver(self, node: Node, message: Message, source: Node, awaited: bool) -> None:
        self.delivered += 1

    def linked(self, dialler: Node, listener: Node) -> None: ...

    def parted(self, one: Node, other: Node) -> None: ...

    def refused(self, node: Node, effect: object) -> None: ...


def make(nodes: int) -> Swarm:
    graph = topology.build(Regular(nodes=nodes, degree=DEGREE), LINK, chance.named(1, "topology"))
    swarm = Swarm(1, Lines(graph, LINK, chance.named(1, "lines")))
    for _ in range(nodes):
        swarm.add()
    for edge in graph.edges:
        swarm.connect(edge.one, edge.other)
    swarm.subscribe_all(TOPIC)
    swarm.run(3.0)
    return swarm


def memory_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(nodes: int, messages: int) -> None:
    begun_s, begun_kb = time.process_time(), memory_kb()
    with quiet_collector():
        swarm = make(nodes)
        made_s = time.process_time()
        counter = swarm.watcher = Counter()
        events, rng = swarm.events, random.Random(1)
        for number in range(messages):
            data = b"%08d" % number + bytes(SIZE_BYTES - 8)
            swarm.publish(rng.randrange(nodes), data, TOPIC)
            swarm.run(1 / RATE_PER_S)
        swarm.run(3.0)
    took_s = time.process_time() - made_s
    more = {
        "nodes": nodes,
        "messages": messages,
        "coverage": counter.delivered / messages / (nodes - 1),
        "trace": swarm.trace.digest()[:16],
    }
    emit("swarm_delivery", [took_s * 1e6 / max(1, counter.delivered)], "us", **more)
    emit("swarm_event", [took_s * 1e6 / (swarm.events - events)], "us", **more)
    emit("swarm_run", [took_s], "s", **more)
    emit("swarm_set_up", [made_s - begun_s], "s", nodes=nodes)
    emit("swarm_node", [(memory_kb() - begun_kb) / nodes], "kB", nodes=nodes)


def main() -> None:
    asked = [int(word) for word in sys.argv[1:]] or [scaled(1000), scaled(10_000)]
    for nodes in asked:
        run(max(10, nodes), scaled(100))


if __name__ == "__main__":
    main()
