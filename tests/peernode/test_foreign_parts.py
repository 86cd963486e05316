"""Parts of other nodes' content: readable at once, durable together, counted once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peernode.foreign_parts import WAITING_MAX, Parts
from storage.blobs import BlobStore
from storage.blocks import Config
from storage.cid import Cid, raw_leaf
from storage.errors import BlockMissing, StoreFull
from storage.memory_store import MemoryStore
from storage.store import Batch, Table

ROOT = raw_leaf(b"some content")
LARGE = [bytes([at]) * 100_000 for at in range(20)]
SMALL = b"a block that is a row"


async def inline(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


def block_files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("bafk*") if path.is_file()]


class World:
    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore()
        self.blobs = BlobStore(self.store, directory, Config())
        self.kept: list[tuple[Cid, int]] = []
        self.lost: list[Cid] = []
        self.parts = Parts(
            self.store,
            self.blobs,
            inline,
            lambda _, cid, size: self.kept.append((cid, size)),
            lambda _, cid: self.lost.append(cid),
        )

    async def take(self, data: bytes) -> bool | None:
        return await self.parts.take_in(ROOT, raw_leaf(data), data, is_checked=False)

    def rows(self) -> int:
        return len(self.store.scan(Table.FOREIGN_PARTS, b"", limit=100))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_part_is_read_at_once_and_counted_when_it_is_durable(world: World) -> None:
    assert await world.take(LARGE[0])
    cid = raw_leaf(LARGE[0])
    assert world.blobs.read_block(cid) == LARGE[0]
    assert (world.parts.of(ROOT), world.rows(), world.blobs.has(cid)) == ([cid], 0, False)
    await world.parts.flush()
    assert (world.parts.of(ROOT), world.rows(), world.blobs.has(cid)) == ([], 1, True)
    assert world.kept == [(cid, len(LARGE[0]))]


async def test_a_row_is_read_only_when_it_is_durable(world: World) -> None:
    assert await world.take(SMALL) is False
    assert await world.take(SMALL) is False
    await world.parts.flush()
    assert world.blobs.read_block(raw_leaf(SMALL)) == SMALL


async def test_several_become_durable_in_one_batch(world: World) -> None:
    for data in LARGE[:WAITING_MAX]:
        assert not world.parts.is_full
        assert await world.take(data)
    assert world.parts.is_full
    before = world.store.statistics().committed_batches
    await world.parts.flush()
    await world.parts.flush()
    assert world.store.statistics().committed_batches == before + 1
    assert world.rows() == WAITING_MAX


async def test_what_is_not_its_cid_is_not_kept(world: World) -> None:
    cid = raw_leaf(LARGE[0])
    for _ in range(2):
        assert await world.parts.take_in(ROOT, cid, LARGE[1], is_checked=False) is None
        await world.parts.take_in(ROOT, cid, LARGE[0], is_checked=True)
    await world.parts.flush()
    assert world.blobs.read_block(cid) == LARGE[0]
    assert world.rows() == 1


async def test_a_part_that_is_here_is_not_counted_again(world: World) -> None:
    for _ in range(2):
        assert await world.take(LARGE[0])
        assert await world.take(LARGE[0])
        await world.parts.flush()
    assert world.kept == [(raw_leaf(LARGE[0]), len(LARGE[0]))]
    assert world.store.get(Table.BLOCK_REFS, raw_leaf(LARGE[0])) is not None


async def test_what_cannot_be_made_durable_is_lost_and_takes_no_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await world.take(LARGE[0])
    cid = raw_leaf(LARGE[0])

    def refuse(_: object) -> None:
        raise StoreFull("no room")

    monkeypatch.setattr(world.store, "apply", refuse)
    with pytest.raises(StoreFull):
        await world.parts.flush()
    assert (world.lost, world.kept, world.parts.of(ROOT)) == ([cid], [], [])
    with pytest.raises(BlockMissing):
        world.blobs.read_block(cid)


async def test_a_file_that_an_upload_has_synced_is_not_replaced_by_one_that_is_not(
    world: World, tmp_path: Path
) -> None:
    with world.blobs.begin() as upload:
        upload.write(LARGE[0])
        content = upload.finish()
        (file,) = block_files(tmp_path)
        before = file.stat().st_ino
        assert await world.take(LARGE[0])
        assert file.stat().st_ino == before
        assert not list((tmp_path / "incoming").iterdir())
        world.store.apply(Batch(puts=content.puts, adds=content.adds))
    file.write_bytes(bytes(len(LARGE[0])))  # The disk lies: bytes that are wrong are replaced.
    other = raw_leaf(b"another content")
    world.store.apply(Batch(adds=[(add[0], add[1], -1) for add in content.adds]))
    await world.parts.take_in(other, raw_leaf(LARGE[0]), LARGE[0], is_checked=False)
    assert world.blobs.read_block(raw_leaf(LARGE[0])) == LARGE[0]


async def test_after_a_crash_nothing_is_left_of_what_was_not_durable(
    world: World, tmp_path: Path
) -> None:
    assert await world.take(LARGE[0])
    await world.parts.flush()
    assert await world.take(LARGE[1])
    again = BlobStore(world.store, tmp_path, Config())
    assert again.collect() == 1
    assert again.read_block(raw_leaf(LARGE[0])) == LARGE[0]
    with pytest.raises(BlockMissing):
        again.read_block(raw_leaf(LARGE[1]))
