"""Waiting for the disk: cancellable until a batch is queued, and not after."""

import pytest
import trio

from peernode.committer import Committer
from storage.errors import StoreClosed, StoreFull
from storage.store import Batch, Conflict, Table
from tests.peernode.nodes import Disk, settle

BATCH = Batch(puts=[(Table.META, b"a", b"1")])


async def test_a_write_returns_when_the_batch_is_durable_and_not_before() -> None:
    disk = Disk()
    disk.gate.hold()
    written: list[Conflict | None] = []

    async def write() -> None:
        written.append(await Committer(disk).write(BATCH))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await settle()
        assert written == []
        disk.gate.release()
    assert written == [None]


async def test_a_cancelled_writer_writes_nothing() -> None:
    disk = Disk()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Committer(disk).write(BATCH)
    assert scope.cancelled_caught
    assert disk.submitted == []


async def test_once_queued_a_writer_learns_what_became_of_its_batch_even_if_cancelled() -> None:
    disk = Disk()
    disk.gate.hold()
    learned: list[object] = []
    scope = trio.CancelScope()

    async def write() -> None:
        with scope:
            learned.append(await Committer(disk).write(BATCH))
            await trio.lowlevel.checkpoint()
            learned.append("went on")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await settle()
        scope.cancel()
        await settle()
        assert learned == []
        disk.gate.release()
    assert learned == [None], "the cancellation is seen at the next checkpoint"


async def test_a_batch_can_be_begun_and_waited_for_later() -> None:
    disk = Disk()
    pending = Committer(disk).begin(BATCH)
    assert disk.get(Table.META, b"a") == b"1"
    assert await pending.wait() is None


async def test_a_conflict_is_an_answer_and_a_full_disk_an_error() -> None:
    disk = Disk()
    committer = Committer(disk)
    expecting = Batch(puts=BATCH.puts, expects=[(Table.META, b"b", b"there")])
    assert await committer.write(expecting) == Conflict(Table.META, b"b", None)
    disk.fill()
    with pytest.raises(StoreFull):
        await committer.write(BATCH)
    disk.make_room()
    assert await committer.write(BATCH) is None
    disk.close()
    with pytest.raises(StoreClosed):
        await committer.write(BATCH)
