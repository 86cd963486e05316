"""The cache of contents on a worker's disk."""

import os
from pathlib import Path

import pytest
import trio

from tests.worker.fake_node import cid_of
from worker.blob_cache import BlobCache, CacheError, is_cid

ONE, TWO, THREE = b"1" * 1000, b"2" * 1000, b"3" * 1000


class Source:
    """Contents that count how often they are read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    async def __call__(self, offset: int, length: int) -> bytes:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        return self.data[offset : offset + length]


async def fetch(cache: BlobCache, data: bytes) -> Source:
    """Fetch and release one content."""
    source = Source(data)
    path = await cache.fetch(cid_of(data), len(data), source)
    assert path.read_bytes() == data
    cache.release(cid_of(data))
    return source


async def test_a_content_is_read_once(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    assert (await fetch(cache, ONE)).reads == 1
    assert (await fetch(cache, ONE)).reads == 0
    assert (await fetch(cache, b"")).reads == 0


async def test_fetches_at_the_same_time_share_one_read(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    source = Source(bytes(3 << 20))

    async def one() -> None:
        await cache.fetch(cid_of(source.data), len(source.data), source)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert source.reads == 3


async def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, size_max_bytes=2000)
    await fetch(cache, ONE)
    await fetch(cache, TWO)
    await fetch(cache, ONE)
    await fetch(cache, THREE)
    assert (await fetch(cache, ONE)).reads == 0
    assert (await fetch(cache, TWO)).reads == 1
    assert len(os.listdir(tmp_path)) == 2


async def test_what_is_used_stays(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, size_max_bytes=2000)
    await cache.fetch(cid_of(ONE), 1000, Source(ONE))
    await fetch(cache, TWO)
    await fetch(cache, THREE)
    assert (tmp_path / cid_of(ONE)).exists()
    await cache.fetch(cid_of(THREE), 1000, Source(THREE))
    with pytest.raises(CacheError, match="too_large"):
        await fetch(cache, TWO)
    cache.release(cid_of(ONE))
    await fetch(cache, TWO)


async def test_a_content_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="too_large"):
        await fetch(BlobCache(tmp_path, size_max_bytes=999), ONE)


@pytest.mark.parametrize("answer", [b"x" * 1000, b"1" * 999, b""])
async def test_wrong_bytes_are_refused_and_not_kept(tmp_path: Path, answer: bytes) -> None:
    cache = BlobCache(tmp_path)
    source = Source(answer)
    with pytest.raises(CacheError, match="content_corrupt"):
        await cache.fetch(cid_of(ONE), 1000, source)
    assert os.listdir(tmp_path) == []
    assert (await fetch(cache, ONE)).reads == 1


async def test_a_file_that_was_changed_is_fetched_again(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    await fetch(cache, ONE)
    path = tmp_path / cid_of(ONE)
    path.chmod(0o600)
    path.write_bytes(b"evil" * 250)
    assert (await fetch(cache, ONE)).reads == 1


async def test_contents_survive_a_restart_if_they_are_right(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)
    await fetch(cache, ONE)
    await fetch(cache, TWO)
    path = tmp_path / cid_of(TWO)
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    (tmp_path / f"{cid_of(THREE)}.part1").write_bytes(b"half")
    again = BlobCache(tmp_path)
    assert (await fetch(again, ONE)).reads == 0
    assert (await fetch(again, TWO)).reads == 1
    assert len(os.listdir(tmp_path)) == 2


async def test_a_fetch_that_fails_leaves_the_way_free(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path)

    async def broken(offset: int, length: int) -> bytes:
        raise RuntimeError("the link is gone")

    with pytest.raises(RuntimeError, match="the link is gone"):
        await cache.fetch(cid_of(ONE), 1000, broken)
    assert (await fetch(cache, ONE)).reads == 1


def test_only_cids_name_files() -> None:
    assert is_cid(cid_of(ONE))
    assert not is_cid("../../etc/passwd")
    assert not is_cid(cid_of(ONE).upper())
