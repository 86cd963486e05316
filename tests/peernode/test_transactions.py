"""Read, decide, write: again if what was read has changed, and not at all if it was refused."""

import pytest
import trio
from hypothesis import given, settings, strategies as st

from peernode.committer import Committer
from peernode.problems import Problem
from peernode.transactions import ATTEMPTS_MAX, Transaction, Transactions
from storage.errors import StoreFull
from storage.memory_store import MemoryStore
from storage.store import Batch, Conflict, Table
from tests.peernode.nodes import Disk, settle

KEY = b"counter"


def number(row: bytes | None) -> int:
    return int(row or b"0")


def increment(transaction: Transaction) -> int:
    value = number(transaction.get(Table.META, KEY)) + 1
    transaction.put(Table.META, KEY, b"%d" % value)
    return value


async def test_a_body_runs_again_on_what_is_there_after_a_conflict() -> None:
    disk = Disk()
    seen: list[int] = []

    def body(transaction: Transaction) -> int:
        value = number(transaction.get(Table.META, KEY))
        seen.append(value)
        if len(seen) == 1:  # Somebody else is quicker.
            disk.apply(Batch(puts=[(Table.META, KEY, b"41")]))
        transaction.put(Table.META, KEY, b"%d" % (value + 1))
        return value + 1

    assert await Transactions(Committer(disk)).run(body) == 42
    assert seen == [0, 41]
    assert disk.get(Table.META, KEY) == b"42"


async def test_fifty_writers_of_one_key_lose_no_update() -> None:
    disk = Disk()
    disk.pause()  # All of them read before the first learns that it is through.
    transactions = Transactions(Committer(disk))
    values: list[int] = []

    async def writer() -> None:
        values.append(await transactions.run(increment))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(writer)
        await settle()
        disk.resume()
    assert sorted(values) == list(range(1, 51))
    assert number(disk.get(Table.META, KEY)) == 50
    assert len(disk.submitted) <= 100, "those that lost once take turns, one commit each"


async def test_who_lost_once_waits_for_its_turn_and_not_for_luck() -> None:
    disk = Disk()
    transactions = Transactions(Committer(disk))
    order: list[str] = []
    rivals = iter(range(3))

    def unlucky(transaction: Transaction) -> None:
        transaction.get(Table.META, KEY)
        order.append("unlucky")
        if next(rivals, None) is not None:
            disk.apply(Batch(puts=[(Table.META, KEY, b"%d" % len(order))]))
        transaction.put(Table.META, KEY, b"mine")

    await transactions.run(unlucky)
    assert order == ["unlucky"] * 4
    assert disk.get(Table.META, KEY) == b"mine"


async def test_a_body_that_always_loses_gives_up() -> None:
    disk = Disk()
    tries: list[int] = []

    def hopeless(transaction: Transaction) -> None:
        transaction.get(Table.META, KEY)
        tries.append(1)
        disk.apply(Batch(puts=[(Table.META, KEY, b"%d" % len(tries))]))
        transaction.put(Table.META, KEY, b"mine")

    with pytest.raises(Problem) as refused:
        await Transactions(Committer(disk)).run(hopeless)
    assert refused.value.code == "overloaded"
    assert len(tries) == ATTEMPTS_MAX + 1


async def test_what_comes_after_comes_when_it_is_durable_in_order_and_once() -> None:
    disk = Disk()
    disk.gate.hold()
    done: list[str] = []
    tries: list[int] = []

    def body(transaction: Transaction) -> None:
        tries.append(1)
        transaction.get(Table.META, KEY)
        if len(tries) == 1:
            disk.apply(Batch(puts=[(Table.META, KEY, b"7")]))
        transaction.put(Table.META, b"other", b"")
        transaction.after += [lambda: done.append("first"), lambda: done.append("second")]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Transactions(Committer(disk)).run, body)
        await settle()
        assert done == []
        disk.gate.release()
    assert len(tries) == 2
    assert done == ["first", "second"]


async def test_a_body_that_raises_writes_nothing_and_does_nothing_after() -> None:
    disk = Disk()

    def body(transaction: Transaction) -> None:
        increment(transaction)
        transaction.after.append(lambda: pytest.fail("it was not written"))
        raise Problem("conflict", "no")

    with pytest.raises(Problem):
        await Transactions(Committer(disk)).run(body)
    assert disk.submitted == []


async def test_a_full_disk_is_raised_and_nothing_comes_after() -> None:
    disk = Disk()
    disk.fill()

    def body(transaction: Transaction) -> None:
        increment(transaction)
        transaction.after.append(lambda: pytest.fail("it was not written"))

    transactions = Transactions(Committer(disk))
    with pytest.raises(StoreFull):
        await transactions.run(body)
    disk.make_room()
    assert await transactions.run(increment) == 1


async def test_a_body_that_only_reads_writes_nothing_and_returns_what_holds() -> None:
    disk = Disk()
    tries: list[int] = []

    def read(transaction: Transaction) -> bytes | None:
        tries.append(1)
        found = transaction.get(Table.META, KEY)
        if len(tries) == 1:
            disk.apply(Batch(puts=[(Table.META, KEY, b"new")]))
        return found

    assert await Transactions(Committer(disk)).run(read) == b"new"
    assert all(not (b.puts or b.deletes or b.adds) for b in disk.submitted)


async def test_a_refusal_that_rests_on_what_has_changed_is_decided_again() -> None:
    disk = Disk()
    tries: list[int] = []

    def refuse_if_empty(transaction: Transaction) -> bytes:
        tries.append(1)
        found = transaction.get(Table.META, KEY)
        if len(tries) == 1:
            disk.apply(Batch(puts=[(Table.META, KEY, b"new")]))
        if found is None:
            raise Problem("not_found", "nothing there")
        return found

    assert await Transactions(Committer(disk)).run(refuse_if_empty) == b"new"
    assert len(tries) == 2


def test_a_transaction_sees_its_own_writes_and_remembers_what_it_read_first() -> None:
    store = MemoryStore()
    store.apply(Batch(puts=[(Table.META, KEY, b"1")]))
    transaction = Transaction(store)
    assert transaction.get(Table.META, KEY) == b"1"
    store.apply(Batch(puts=[(Table.META, KEY, b"2")]))
    assert transaction.get(Table.META, KEY) == b"1"
    transaction.put(Table.META, KEY, b"3")
    assert transaction.get(Table.META, KEY) == b"3"
    transaction.delete(Table.META, KEY)
    assert transaction.get(Table.META, KEY) is None
    assert transaction.batch() == Batch(
        puts=[], deletes=[(Table.META, KEY)], adds=[], expects=[(Table.META, KEY, b"1")]
    )
    assert store.apply(transaction.batch()) == Conflict(Table.META, KEY, b"2")


def test_what_was_known_can_be_expected_although_the_disk_knows_more() -> None:
    store = MemoryStore()
    store.apply(Batch(puts=[(Table.META, KEY, b"new")]))
    transaction = Transaction(store)
    transaction.expect(Table.META, KEY, b"old")
    transaction.put(Table.META, KEY, b"mine")
    assert store.apply(transaction.batch()) == Conflict(Table.META, KEY, b"new")


ROWS = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=2)), max_size=6)
SUMS = st.lists(st.tuples(st.sampled_from([b"x", b"y"]), st.integers(-5, 5)), max_size=6)


@settings(max_examples=40)
@given(puts=ROWS, adds=SUMS)
def test_including_a_batch_is_writing_its_parts(
    puts: list[tuple[bytes, bytes]], adds: list[tuple[bytes, int]]
) -> None:
    batch = Batch(
        puts=[(Table.META, key, value) for key, value in puts],
        adds=[(Table.USAGE, key, amount) for key, amount in adds],
    )
    left, right = MemoryStore(), MemoryStore()
    left.apply(batch)
    transaction = Transaction(right)
    transaction.include(batch)
    right.apply(transaction.batch())
    assert left._rows == right._rows
