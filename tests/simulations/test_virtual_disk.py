"""A disk under virtual time: first what every store promises, then what only this one does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from simulations.clock import SimClock
from simulations.virtual_disk import VirtualDisk, VirtualStore, open_lmdb
from storage.errors import StoreClosed, StoreFull
from storage.memory_store import MemoryStore
from storage.store import Batch, Result, Store, Table
from tests.storage.stores import MIB, Loop
from tests.storage.test_store_contract import (  # noqa: F401  (run here, over this store)
    StoreMachine,
    TestAFullStore,
    TestBatches,
    TestClosing,
    TestLazyBatches,
    TestReading,
    TestScanning,
    put,
)


class ClockLoop(Loop):
    """The clock runs what is due, one thing after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = SimClock()

    def run_one(self) -> None:
        self.clock._go_on(float("inf"))

    def run_waiting(self) -> int:
        count = len(self.clock._calls)
        while self.clock._calls:
            self.run_one()
        return count


def open_virtual(loop: ClockLoop, capacity_bytes: int = 64 * MIB) -> VirtualStore:
    rows = MemoryStore(deliver=lambda callback: callback(), capacity_bytes=capacity_bytes)
    return VirtualDisk(loop.clock, lambda: rows).open()


@pytest.fixture
def loop() -> ClockLoop:
    return ClockLoop()


@pytest.fixture
def store(loop: ClockLoop) -> Iterator[Store]:
    store = open_virtual(loop)
    yield store
    store.close()


@pytest.fixture
def small_store(loop: ClockLoop) -> Iterator[Store]:
    store = open_virtual(loop, MIB)
    yield store
    store.close()


class VirtualMachine(StoreMachine):
    kind = "virtual"

    def open(self) -> Store:
        if not isinstance(self.loop, ClockLoop):
            self.loop = ClockLoop()
            self.disk = VirtualDisk(self.loop.clock)
        return self.disk.open()


VirtualMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


@pytest.mark.slow
class TestVirtualDiskAgainstAModel(VirtualMachine.TestCase):  # type: ignore[misc, valid-type]
    pass


def submit(store: Store, batch: Batch, *, lazy: bool = False) -> list[Result]:
    """Return what becomes the batch's result."""
    results: list[Result] = []
    store.submit(batch, results.append, lazy=lazy)
    return results


def test_a_commit_comes_later_even_if_it_takes_no_time(loop: ClockLoop, store: Store) -> None:
    told = submit(store, put(b"a", b"1"))
    assert told == []
    assert store.get(Table.JOBS, b"a") is None
    loop.run_waiting()
    assert told == [None]
    assert store.get(Table.JOBS, b"a") == b"1"
    assert loop.clock.now == 0.0


def test_what_comes_while_a_commit_is_under_way_goes_into_the_next() -> None:
    loop = ClockLoop()
    disk = VirtualDisk(loop.clock)
    disk.commit_s = 0.5
    store = disk.open()
    ended: list[tuple[str, float]] = []

    def note(name: str, batch: Batch) -> None:
        store.submit(batch, lambda _: ended.append((name, loop.clock.now)))

    note("first", put(b"a", b"1"))
    note("with it", put(b"b", b"1"))
    loop.run_one()
    note("second", put(b"c", b"1"))
    note("with that", put(b"d", b"1"))
    loop.run_waiting()
    assert ended == [("first", 0.5), ("with it", 0.5), ("second", 1.0), ("with that", 1.0)]
    assert disk.commits == 2


def test_each_commit_may_take_its_own_time() -> None:
    loop = ClockLoop()
    disk = VirtualDisk(loop.clock)
    times = iter([1.0, 0.25])
    disk.commit_s = lambda: next(times)
    store = disk.open()
    for key in (b"a", b"b"):
        submit(store, put(key, b"1"))
        loop.run_waiting()
    assert loop.clock.now == 1.25


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_without_power_what_was_not_committed_is_gone(kind: str, tmp_path: Path) -> None:
    loop = ClockLoop()
    backing = None if kind == "memory" else lambda: open_lmdb(tmp_path)
    disk = VirtualDisk(loop.clock, backing)
    store = disk.open()
    kept = submit(store, put(b"kept", b"1"))
    loop.run_waiting()
    disk.commit_s = 1.0
    under_way = submit(store, put(b"under way", b"1"))
    loop.run_one()
    queued = submit(store, put(b"queued", b"1"))
    lazy = submit(store, put(b"lazy", b"1"), lazy=True)
    disk.lose_power()
    assert kept == [None]
    assert all(isinstance(told[0], StoreClosed) for told in (under_way, queued, lazy))
    after = submit(store, put(b"after", b"1"))
    assert isinstance(after[0], StoreClosed), "who waits does not wait for ever"
    with pytest.raises(StoreClosed):
        store.apply(put(b"now", b"1"))
    loop.run_waiting()
    again = disk.open()
    assert again.scan(Table.JOBS) == [(b"kept", b"1")]
    again.close()


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_a_store_that_is_closed_in_order_leaves_everything(kind: str, tmp_path: Path) -> None:
    disk = VirtualDisk(SimClock(), None if kind == "memory" else lambda: open_lmdb(tmp_path))
    store = disk.open()
    told = submit(store, put(b"a", b"1"))
    lazy = submit(store, put(b"b", b"1"), lazy=True)
    store.close()
    assert told == lazy == [None]
    assert [key for key, _ in disk.open().scan(Table.JOBS)] == [b"a", b"b"]


def test_a_disk_is_used_by_one_at_a_time() -> None:
    disk = VirtualDisk(SimClock())
    disk.open()
    with pytest.raises(ValueError, match="in use"):
        disk.open()


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_a_full_disk_refuses_what_grows_and_takes_the_rest(kind: str, tmp_path: Path) -> None:
    disk = VirtualDisk(SimClock(), None if kind == "memory" else lambda: open_lmdb(tmp_path))
    store = disk.open()
    store.apply(put(b"a", b"12345678"))
    store.apply(put(b"b", b"1"))
    disk.full = True
    with pytest.raises(StoreFull):
        store.apply(put(b"c", b"1"))
    with pytest.raises(StoreFull):
        store.apply(put(b"a", b"123456789"))
    with pytest.raises(StoreFull):
        store.apply(Batch(adds=[(Table.USAGE, b"u", 1)]))
    assert store.apply(put(b"a", b"87654321")) is None
    assert store.apply(Batch(deletes=[(Table.JOBS, b"b")])) is None
    assert store.scan(Table.JOBS) == [(b"a", b"87654321")]
    disk.full = False
    assert store.apply(put(b"c", b"1")) is None
    store.close()
