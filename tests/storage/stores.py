"""Stores for tests, and a stand-in for the loop whose thread receives results."""

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.group_commit import InlineCommit
from storage.lmdb_store import Config, LmdbStore
from storage.memory_store import MemoryStore
from storage.store import Batch, Result, Store

MIB = 1 << 20
WAIT_S = 30


class Loop:
    """Collects what a store delivers; the test's own thread runs it."""

    def __init__(self) -> None:
        self._callbacks: queue.Queue[Callable[[], object]] = queue.Queue()

    def deliver(self, callback: Callable[[], object]) -> None:
        self._callbacks.put(callback)

    def run_one(self) -> None:
        self._callbacks.get(timeout=WAIT_S)()

    def run_waiting(self) -> int:
        """Run what has been delivered already and return how many callbacks that was."""
        count = 0
        while not self._callbacks.empty():
            self._callbacks.get_nowait()()
            count += 1
        return count


class Outcomes(list[tuple[int, Result]]):
    """The results of numbered batches, in the order they came."""

    def done(self, number: int) -> Callable[[Result], None]:
        return lambda result: self.append((number, result))


def result_of(store: Store, loop: Loop, batch: Batch) -> Result:
    """Submit `batch` and run the loop until its result is there."""
    results: list[Result] = []
    store.submit(batch, results.append)
    while not results:
        loop.run_one()
    (result,) = results
    return result


def open_lmdb(path: Path, loop: Loop | None = None, **settings: Any) -> LmdbStore:
    """A store with a small map; `settings` go to `Config` or, by name, to the constructor."""
    named = ("fail", "commit", "make_writer")
    arguments = {name: settings.pop(name) for name in named if name in settings}
    config = Config(**{"map_size_max_bytes": 64 * MIB, "reserve_size_bytes": MIB // 4} | settings)
    deliver = loop.deliver if loop is not None else (lambda callback: callback())
    return LmdbStore(path, config=config, deliver=deliver, **arguments)


def open_store(kind: str, path: Path, loop: Loop, *, small: bool = False) -> Store:
    """One of the kinds; `small`: with room for about a mebibyte."""
    if kind == "memory":
        return MemoryStore(deliver=loop.deliver, capacity_bytes=MIB if small else 64 * MIB)
    writer = {"make_writer": InlineCommit} if kind == "inline" else {}
    return open_lmdb(path, loop, **({"map_size_max_bytes": MIB} if small else {}), **writer)
