"""What the gossip machine costs: processor time for a message, alone and among a thousand nodes.

    python -m tests.benchmarks.bench_mesh [NODES]

One JSON line a figure, in microseconds of processor time.  A first delivery has five peers to be
passed on to; signatures are libsodium's, or trusted where it says so.  The event heap carries real
bytes between NODES (1000) machines of mean degree 6 for 20 virtual seconds, 50 messages of 300
bytes in them; its figures include the heap.
"""

import gc
import hashlib
import heapq
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from gossip import wire, wire_encode
from gossip.config import Config
from gossip.mesh import Mesh
from gossip.mesh_events import (
    Connected,
    Deliver,
    Input,
    Publish,
    Received,
    Send,
    Subscribe,
    Tick,
    Written,
)
from tests.benchmarks.figures import emit, scaled
from tests.gossip.mesh_swarm import TOPIC, Key, peer_id, scribble, trust, verify

BATCH = 1000
RUNS = 5
SIZE_BYTES = 300
NEIGHBOURS = 6


def neighbour(number: int) -> bytes:
    return peer_id(("neighbour", number))


def ready(verifier: Callable[[bytes, bytes, bytes], bool]) -> Mesh:
    """Return a machine with six peers in its mesh."""
    key = Key.of("me")
    mesh = Mesh(
        Config(),
        me=key.id,
        sign=key.sign,
        verify=verifier,
        chance=random.Random(1),
        seqno=1,
        now=0.0,
    )
    mesh.handle(Subscribe(TOPIC), 0.0)
    hello = wire_encode.subscription(TOPIC, True)
    for number in range(NEIGHBOURS):
        mesh.handle(Connected(neighbour(number), outbound=True), 0.0)
        mesh.handle(Received(neighbour(number), hello), 0.0)
        graft = wire_encode.pack([], [wire_encode.graft(TOPIC)], 1 << 20)
        mesh.handle(Received(neighbour(number), graft[0]), 0.0)
    assert mesh.statistics().mesh == NEIGHBOURS
    return mesh


def messages(count: int) -> list[bytes]:
    """Return RPCs of one signed message each."""
    author = Key.of("author")
    made = []
    for seqno in range(count):
        unsigned = wire_encode.message(author.id, seqno, TOPIC, bytes(SIZE_BYTES))
        signature = author.sign(wire.SIGNED_PREFIX + unsigned)
        made.append(wire_encode.publish(unsigned, signature))
    return made


def timed_us(mesh: Mesh, inputs: list[Input], sends: int) -> float:
    """Return microseconds for each input, with what the driver answers to its effects."""
    gc.collect()
    began = time.process_time()
    for told in inputs:
        effects = mesh.handle(told, 0.0)
        assert len(effects) == sends
        for effect in effects:
            if type(effect) is Send:
                mesh.handle(Written(effect.peer, len(effect.rpc)), 0.0)
    return (time.process_time() - began) * 1e6 / len(inputs)


def single() -> None:
    count = scaled(BATCH)
    rpcs = messages(count)
    first: list[Input] = [Received(neighbour(0), rpc) for rpc in rpcs]
    again: list[Input] = [Received(neighbour(1), rpc) for rpc in rpcs]
    own: list[Input] = [Publish(TOPIC, bytes(SIZE_BYTES)) for _ in rpcs]
    figures: dict[str, list[float]] = {}
    for _ in range(RUNS):
        for name, verifier in (("verified", verify), ("trusted", trust)):
            mesh = ready(verifier)
            took = figures.setdefault(f"mesh_first_delivery_{name}", [])
            took.append(timed_us(mesh, first, NEIGHBOURS))
        figures.setdefault("mesh_duplicate", []).append(timed_us(mesh, again, 0))
        figures.setdefault("mesh_publish", []).append(timed_us(mesh, own, NEIGHBOURS))
    for name, values in figures.items():
        emit(name, values, "us", size_bytes=SIZE_BYTES)


UNBOUNDED_BYTES = 1 << 60
LINKS_WITHOUT_QUEUES = Config(
    queue_low_bytes=UNBOUNDED_BYTES,
    queue_high_bytes=UNBOUNDED_BYTES,
    queue_max_bytes=UNBOUNDED_BYTES,
)
"""Nothing waits at the sender, so `Written` need not be said."""


class Heap:
    """The least world that a thousand machines need."""

    def __init__(self, count: int, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.ids = [peer_id(number) for number in range(count)]
        self.index = {name: number for number, name in enumerate(self.ids)}
        self.nodes = [
            Mesh(
                LINKS_WITHOUT_QUEUES,
                me=self.ids[number],
                sign=scribble,
                verify=trust,
                chance=random.Random(seed * 1_000_003 + number),
                seqno=1000,
                now=0.0,
            )
            for number in range(count)
        ]
        self.heap: list[tuple[float, int, int, Input]] = []
        self.order = self.events = self.delivered = 0
        self.last: dict[tuple[int, int], float] = {}
        self.latencies_s: list[float] = []
        self.trace = hashlib.sha256()
        links: dict[tuple[int, int], None] = {}
        for number in range(1, count):
            links[rng.randrange(number), number] = None
        while len(links) < count * 3:
            low, high = sorted(rng.sample(range(count), 2))
            links[low, high] = None
        for number in range(count):
            self.push(0.0, number, Subscribe(TOPIC))
            self.push(self.nodes[number].deadline, number, Tick())
        for low, high in links:
            self.push(0.01, low, Connected(self.ids[high], outbound=False))
            self.push(0.01, high, Connected(self.ids[low], outbound=True))

    def push(self, at: float, number: int, input: Input) -> None:
        self.order += 1
        heapq.heappush(self.heap, (at, self.order, number, input))

    def run(self, until: float) -> None:
        heap, rng, mean = self.heap, self.rng, math.log(0.04)
        sent_at: dict[bytes, float] = {}
        while heap and heap[0][0] <= until:
            now, _, number, told = heapq.heappop(heap)
            self.events += 1
            node = self.nodes[number]
            kind = type(told)
            if kind is Publish:
                sent_at[told.data[:8]] = now
            effects = node.handle(told, now)
            if kind is Tick:
                self.push(node.deadline, number, told)
            for effect in effects:
                if type(effect) is Send:
                    receiver = self.index[effect.peer]
                    delay = min(0.08, max(0.02, rng.lognormvariate(mean, 0.35)))
                    at = max(now + delay, self.last.get((number, receiver), 0.0) + 1e-6)
                    self.last[number, receiver] = at
                    self.push(at, receiver, Received(self.ids[number], effect.rpc))
                    self.trace.update(effect.rpc)
                elif type(effect) is Deliver:
                    self.delivered += 1
                    self.latencies_s.append(now - sent_at[effect.message.data[:8]])


def swarm(count: int, published: int) -> None:
    per_delivery: list[float] = []
    per_event: list[float] = []
    more: dict[str, Any] = {}
    for _ in range(2):
        world = Heap(count, seed=1)
        for number in range(published):
            data = b"%08d" % number + bytes(SIZE_BYTES - 8)
            world.push(5 + number * 0.1, world.rng.randrange(count), Publish(TOPIC, data))
        gc.collect()
        began = time.process_time()
        world.run(20.0)
        took_us = (time.process_time() - began) * 1e6
        per_delivery.append(took_us / world.delivered)
        per_event.append(took_us / world.events)
        latencies = sorted(world.latencies_s)
        more = {
            "nodes": count,
            "messages": published,
            "coverage": world.delivered / published / (count - 1),
            "p50_ms": round(statistics.median(latencies) * 1e3),
            "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3),
            "trace": world.trace.hexdigest()[:16],
        }
    emit("mesh_heap_delivery", per_delivery, "us", **more)
    emit("mesh_heap_event", per_event, "us", nodes=count, events=world.events)


def main() -> None:
    single()
    swarm(int(sys.argv[1]) if len(sys.argv) > 1 else max(10, scaled(1000)), scaled(50))


if __name__ == "__main__":
    main()
