"""What is particular to the store in memory; what every store does is `test_store_contract`."""

import pytest

from storage.errors import StoreFull
from storage.memory_store import MemoryStore
from storage.store import Batch, Result, Table


def put(key: bytes, value: bytes) -> Batch:
    return Batch(puts=[(Table.JOBS, key, value)])


def test_done_runs_before_submit_returns() -> None:
    store, results = MemoryStore(), list[Result]()
    store.submit(put(b"a", b"1"), results.append)
    assert results == [None]


def test_a_batch_submitted_from_a_done_is_applied_at_once_and_reported_after_those_before() -> None:
    store, order = MemoryStore(), list[str]()

    def first(result: Result) -> None:
        order.append("first")
        store.submit(put(b"a", b"2"), lambda _: order.append("inner"))
        assert store.get(Table.JOBS, b"a") == b"2"
        order.append("first ends")

    store.submit(put(b"a", b"1"), first, lazy=True)
    store.submit(put(b"b", b"1"), lambda _: order.append("second"))
    assert order == ["first", "first ends", "second", "inner"]


def test_an_exception_in_a_done_reaches_the_caller_and_the_store_goes_on() -> None:
    store, results = MemoryStore(), list[Result]()

    def fail(result: Result) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        store.submit(put(b"a", b"1"), fail)
    store.submit(put(b"b", b"1"), results.append)
    assert results == [None]


def test_capacity_is_the_sum_of_keys_and_values() -> None:
    store = MemoryStore(capacity_bytes=10)
    store.apply(put(b"a", bytes(4)))
    store.apply(put(b"b", bytes(4)))
    assert store.statistics().used_bytes == 10
    with pytest.raises(StoreFull):
        store.apply(put(b"c", b""))
    store.apply(put(b"a", bytes(4)))
    store.apply(Batch(puts=[(Table.JOBS, b"c", b"")], deletes=[(Table.JOBS, b"b")]))
    assert store.statistics().used_bytes == 6
