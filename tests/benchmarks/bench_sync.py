"""What reconciliation costs: bytes, turns and processor time, and what its index costs.

Two machines in one process, without sockets and without verification: what a peer gives is taken
as it is.  Bytes are those of finding out what differs, both ways, greetings and the comparison of
(equal, empty) facts included; the records themselves are extra.  `limit` is what may not be passed:
1.2 times what the algorithm takes with bounds of 8 bytes and ids of 16, which was simulated once.

Items are 64 a second for a million, so that bounds are as long as in a mesh: "scattered" lack or
add at random times, "partition" adds at the end, on both sides, half of them each.
"""

import gc
import random
import time
import tracemalloc
from collections import deque
from collections.abc import Sequence

from gossip.sync import Sync
from gossip.sync_events import (
    Accept,
    Applied,
    Apply,
    Done,
    Effect,
    Failed,
    Give,
    Given,
    Input,
    Insert,
    Open,
    Pause,
    Receive,
    Resume,
    Send,
    SyncConfig,
)
from gossip.sync_index import Index, Item, item
from gossip.sync_messages import Items, Ranges, Stratum, decode
from tests.benchmarks import figures

SCATTERED = {
    10_000: {1: 1300, 10: 7900, 100: 44_000, 1000: 170_000},
    100_000: {1: 1600, 10: 12_000, 100: 83_000, 1000: 475_000, 10_000: 1_700_000},
    1_000_000: {1: 1900, 10: 14_000, 100: 111_000, 1000: 739_000, 10_000: 4_200_000},
}
PARTITION = {1_000_000: {100: 3500, 1000: 19_000, 10_000: 178_000}}
SIMULATED_BYTES = {"scattered": SCATTERED, "partition": PARTITION}
LIMIT = 1.2
TURNS_LIMIT = 8
FIRST = (1_760_000_000_000 << 16, 15 << 16)
"""Of the first item, and between two, as hybrid timestamps."""
MESH = bytes(32)


def main() -> None:
    rng = random.Random(1)
    for kind, sizes in SIMULATED_BYTES.items():
        for size, bytes_by_count in sizes.items():
            size = figures.scaled(size)
            times = [FIRST[0] + number * FIRST[1] for number in range(size)]
            held = [item(at, rng.randbytes(32)) for at in times]
            for count, simulated in bytes_by_count.items():
                count = min(count, size // 10)
                one, other = (scattered if kind == "scattered" else parted)(rng, held, count)
                measure(kind, size, count, simulated, one, other)
            del held
    measure_index(rng)


def scattered(
    rng: random.Random, held: list[Item], count: int
) -> tuple[Sequence[Item], Sequence[Item]]:
    """Let one side lack half of `count` and have the other half for itself, at any time."""
    lacking = frozenset(rng.sample(range(len(held)), count // 2))
    one = [each for number, each in enumerate(held) if number not in lacking]
    last = len(held) * FIRST[1]
    one += [
        item(FIRST[0] + rng.randrange(last), rng.randbytes(32)) for _ in range(count - count // 2)
    ]
    return one, held


def parted(
    rng: random.Random, held: list[Item], count: int
) -> tuple[Sequence[Item], Sequence[Item]]:
    """Let both sides write half of `count`, after all that they have in common."""
    last = FIRST[0] + len(held) * FIRST[1]
    written = [item(last + number * FIRST[1], rng.randbytes(32)) for number in range(count)]
    sides = [rng.random() < 0.5 for _ in written]
    one = [each for each, is_ours in zip(written, sides, strict=True) if is_ours]
    other = [each for each, is_ours in zip(written, sides, strict=True) if not is_ours]
    return held + one, held + other


class Pair:
    """Two machines and what they say to each other."""

    def __init__(self, one: Sequence[Item], other: Sequence[Item]) -> None:
        self.machines = {
            "one": Sync(SyncConfig(), "one", MESH, (), one),
            "other": Sync(SyncConfig(), "other", MESH, (), other),
        }
        self.found_bytes = 0
        self.turns = 0
        self.cpu_s: list[float] = []
        """Of each input."""
        self.ended: list[Done | Failed] = []
        self._todo: deque[tuple[str, Effect]] = deque()

    def run(self) -> None:
        self._tell("other", Accept(1, "one", bytes(16)))
        self._tell("one", Open(1, "other", bytes(16)))
        while self._todo:
            peer, effect = self._todo.popleft()
            match effect:
                case Send(_, to, frame):
                    self._count(frame)
                    self._tell(to, Receive(1, frame))
                case Pause():
                    self._tell(peer, Resume(1))
                case Give(_, _, _, items):
                    self._tell(peer, Given(1, tuple(bytes(each) for each in items)))
                case Apply(_, _, stratum, received):
                    for _, payload in received:
                        self.machines[peer].handle(Insert(stratum, Item(payload)), 0.0)
                    self._tell(peer, Applied(1))
                case Done() | Failed():
                    self.ended.append(effect)

    def _count(self, frame: bytes) -> None:
        message = decode(frame)
        if not isinstance(message, Items):
            self.found_bytes += len(frame)
        if isinstance(message, Ranges) and message.stratum is Stratum.RECORDS and message.end:
            self.turns += 1

    def _tell(self, peer: str, input: Input) -> None:
        began = time.process_time()
        effects = self.machines[peer].handle(input, 0.0)
        self.cpu_s.append(time.process_time() - began)
        self._todo.extend((peer, effect) for effect in effects)


def measure(
    kind: str, size: int, count: int, simulated: int, one: Sequence[Item], other: Sequence[Item]
) -> None:
    pair = Pair(one, other)
    # What a test keeps would be looked through by every collection; a node does not keep that.
    gc.collect()
    gc.freeze()
    pair.run()
    gc.unfreeze()
    done = pair.ended[0]
    assert isinstance(done, Done), done
    assert done.is_complete
    assert done.sent + done.received == count, (done, count)
    limit = round(simulated * LIMIT)
    if figures.SCALE == 1:
        assert pair.found_bytes <= limit, (pair.found_bytes, limit)
        assert pair.turns <= TURNS_LIMIT, pair.turns
    figures.emit(
        f"sync_{kind}",
        [pair.found_bytes],
        "bytes",
        items=size,
        differences=count,
        limit=limit,
        turns=pair.turns,
        cpu_ms_per_turn=figures.significant(sum(pair.cpu_s) * 1e3 / max(1, pair.turns)),
        cpu_ms_longest=figures.significant(max(pair.cpu_s) * 1e3),
    )


def measure_index(rng: random.Random) -> None:
    """Measure what an index takes of memory and time."""
    size = figures.scaled(1_000_000)
    items = [item(FIRST[0] + number * FIRST[1], rng.randbytes(32)) for number in range(size)]
    tracemalloc.start()
    index = Index()
    for each in items:
        index.insert(each)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    figures.emit("sync_index_memory", [taken / size], "bytes", items=size)
    index = Index()
    began = time.process_time()
    for each in items:
        index.insert(each)
    figures.emit(
        "sync_index_append", [(time.process_time() - began) / size * 1e6], "us", items=size
    )
    count = figures.scaled(20_000)
    last = size * FIRST[1]
    late = [item(FIRST[0] + rng.randrange(last), rng.randbytes(32)) for _ in range(count)]
    began = time.process_time()
    for each in late:
        index.insert(each)
    figures.emit(
        "sync_index_insert", [(time.process_time() - began) / count * 1e6], "us", items=size
    )
    key = rng.randbytes(32)
    values = []
    for _ in range(5):
        began = time.process_time()
        index.fingerprint(0, len(index), key)
        values.append((time.process_time() - began) * 1e3)
    figures.emit("sync_index_fingerprint", values, "ms", items=len(index))


if __name__ == "__main__":
    main()
