"""Content goes in and out, is shared, given up, repaired; in any order and from many threads."""

import contextlib
import itertools
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from storage import cid as cids
from storage.batches import counter_value
from storage.blobs import BlobStore, Content, Reader, Upload
from storage.blocks import Config
from storage.cid import CHUNK_SIZE_BYTES, LINKS_MAX, Cid, TreeBuilder, raw_leaf
from storage.errors import BlobError, BlobTooLarge, BlockCorrupt, BlockMissing, StoreFull
from storage.memory_store import MemoryStore
from storage.store import Batch, Store, Table
from tests.storage.stores import MIB, open_lmdb

KIB = 1 << 10
Kind = Callable[[bytes], bytes | bytearray | memoryview]
KINDS: list[Kind] = [bytes, bytearray, memoryview]


class Shelf:
    """Content with the part of a node that owns it: rows, batches, deletions."""

    def __init__(self, store: Store, directory: Path | None, config: Config | None = None) -> None:
        self.store = store
        self.directory = directory
        self.config = config or Config()
        self.blobs = BlobStore(store, directory, self.config)

    def commit(self, content: Content) -> Cid:
        assert self.store.apply(Batch(puts=content.puts, adds=content.adds)) is None
        return content.cid

    def add(self, data: bytes) -> Cid:
        with self.blobs.begin() as upload:
            upload.write(data)
            return self.commit(upload.finish())

    def remove(self, cid: Cid) -> int:
        release = self.blobs.release(cid)
        self.store.apply(Batch(adds=release.adds))
        return self.blobs.sweep(release.blocks)

    def read(self, cid: Cid) -> bytes:
        with self.blobs.open(cid) as reader:
            data = b"".join(reader.chunks())
            assert len(data) == reader.size_bytes
            return data

    def files(self) -> set[str]:
        if self.directory is None:
            return set()
        assert list((self.directory / "incoming").iterdir()) == []
        return {path.name for path in (self.directory / "blocks").glob("*/*")}

    def kept(self) -> set[str]:
        rows = {cids.text(Cid(key)) for key, _ in self.store.scan(Table.BLOCKS)}
        assert rows.isdisjoint(self.files())
        return rows | self.files()

    def referenced(self) -> set[str]:
        rows = self.store.scan(Table.BLOCK_REFS)
        assert all(counter_value(value) > 0 for _, value in rows)
        return {cids.text(Cid(key)) for key, _ in rows}

    def file_of(self, data: bytes) -> Path:
        assert self.directory is not None
        (path,) = (self.directory / "blocks").glob(f"*/{cids.text(raw_leaf(data))}")
        return path


@pytest.fixture(params=["memory", "memory and files", "lmdb and files"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    lmdb = str(request.param).startswith("lmdb")
    store = open_lmdb(tmp_path / "store") if lmdb else MemoryStore()
    files = str(request.param).endswith("files")
    yield Shelf(store, tmp_path / "blobs" if files else None)
    store.close()


@pytest.fixture
def files(tmp_path: Path) -> Shelf:
    """Content in files, beside a store in memory."""
    return Shelf(MemoryStore(), tmp_path / "blobs")


def content(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def leaf(letter: bytes) -> bytes:
    return letter * CHUNK_SIZE_BYTES


class TestInAndOut:
    @pytest.mark.parametrize(
        "size", [0, 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 500_000]
    )
    def test_what_comes_out_is_what_went_in(self, shelf: Shelf, size: int) -> None:
        data = content(size)
        cid = shelf.add(data)
        assert shelf.read(cid) == data
        assert shelf.kept() == shelf.referenced()
        assert shelf.remove(cid) > 0
        assert shelf.kept() == shelf.referenced() == set()

    def test_any_range_comes_out(self, shelf: Shelf) -> None:
        data = content(2 * MIB + 7)
        cid = shelf.add(data)
        edges = [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 6, 2 * MIB + 7, 2 * MIB + 9]
        with shelf.blobs.open(cid) as reader:
            assert reader.size_bytes == len(data)
            for start, length in itertools.product(edges, [None, 0, 1, 7, MIB, 3 * MIB]):
                end = None if length is None else start + length
                assert b"".join(reader.chunks(start, length)) == data[start:end]
            assert reader.read_chunk(2) == data[2 * MIB :]
            with pytest.raises(IndexError):
                reader.read_chunk(3)
            with pytest.raises(ValueError, match="offset"):
                list(reader.chunks(-1))

    def test_each_block_can_be_read_alone(self, shelf: Shelf) -> None:
        root = shelf.add(leaf(b"a") + b"end")
        assert shelf.blobs.has(root)
        assert not shelf.blobs.has(raw_leaf(b"other"))
        for child, size_bytes in cids.decode_node(shelf.blobs.read_block(root)):
            assert shelf.blobs.has(child)
            assert len(shelf.blobs.read_block(child)) == size_bytes
        with pytest.raises(BlockMissing):
            shelf.blobs.read_block(raw_leaf(b"other"))

    def test_small_content_is_rows_and_large_content_is_files(self, files: Shelf) -> None:
        files.add(content(64 * KIB))
        assert files.files() == set()
        large = files.add(content(64 * KIB + 1))
        assert files.files() == {cids.text(large)}

    @settings(max_examples=20, deadline=None)
    @given(
        cuts=st.lists(st.integers(0, 2 * MIB + 9), max_size=6),
        kind=st.sampled_from([bytes, bytearray, memoryview]),
    )
    def test_the_pieces_do_not_matter(
        self, cuts: list[int], kind: Callable[[bytes], bytes]
    ) -> None:
        shelf, data = Shelf(MemoryStore(), None), content(2 * MIB + 9)
        with shelf.blobs.begin() as upload:
            for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
                upload.write(kind(data[start:end]))
            assert upload.finish().cid == shelf.add(data)

    def test_a_piece_may_be_reused_by_its_owner_after_write(self, shelf: Shelf) -> None:
        piece = bytearray(leaf(b"a"))
        with shelf.blobs.begin() as upload:
            upload.write(piece)
            upload.write(piece[:10])
            piece[:] = leaf(b"b")
            cid = shelf.commit(upload.finish())
        assert shelf.read(cid) == leaf(b"a") + b"a" * 10

    def test_content_over_the_limit_is_refused_and_nothing_stays(self, tmp_path: Path) -> None:
        shelf = Shelf(MemoryStore(), tmp_path, Config(size_max_bytes=2 * MIB))
        upload = shelf.blobs.begin()
        upload.write(bytes(2 * MIB))
        with pytest.raises(BlobTooLarge, match="over 2097152 bytes"):
            upload.write(b"1")
        assert shelf.kept() == set()
        with pytest.raises(ValueError, match="closed"):
            upload.write(b"")
        assert shelf.read(shelf.add(bytes(2 * MIB))) == bytes(2 * MIB)

    def test_a_finished_upload_takes_no_more(self, shelf: Shelf) -> None:
        with shelf.blobs.begin() as upload:
            upload.finish()
            with pytest.raises(ValueError, match="finished"):
                upload.write(b"1")
            with pytest.raises(ValueError, match="finished"):
                upload.finish()

    def test_an_upload_that_is_given_up_leaves_nothing(self, shelf: Shelf) -> None:
        with shelf.blobs.begin() as upload:
            upload.write(content(2 * MIB + 1))
        with shelf.blobs.begin() as upload:
            upload.write(content(2 * MIB + 1))
            upload.finish()
        upload.close()
        assert shelf.kept() == set()


class TestSharing:
    def test_equal_leaves_are_kept_once(self, files: Shelf) -> None:
        a = files.add(leaf(b"a") + leaf(b"b"))
        b = files.add(leaf(b"b") + leaf(b"c") + leaf(b"b"))
        assert len(files.files()) == 3
        files.remove(a)
        assert files.read(b) == leaf(b"b") + leaf(b"c") + leaf(b"b")
        assert len(files.files()) == 2
        files.remove(b)
        assert files.kept() == set()

    def test_equal_content_is_given_up_as_often_as_it_was_committed(self, shelf: Shelf) -> None:
        data = leaf(b"a") + b"end"
        cid = shelf.add(data)
        assert shelf.add(data) == cid
        assert shelf.remove(cid) == 0
        assert shelf.read(cid) == data
        assert shelf.remove(cid) == 3
        with pytest.raises(BlockMissing):
            shelf.blobs.open(cid)

    def test_a_durable_leaf_is_not_written_again(self, files: Shelf) -> None:
        files.add(leaf(b"a"))
        before = files.file_of(leaf(b"a")).stat().st_ino
        files.add(leaf(b"a") + leaf(b"b"))
        assert files.file_of(leaf(b"a")).stat().st_ino == before

    def test_a_leaf_that_only_an_upload_wrote_is_not_relied_on(self, files: Shelf) -> None:
        """It may not be synced yet: its name could vanish with the power."""
        with files.blobs.begin() as first, files.blobs.begin() as second:
            first.write(leaf(b"a"))
            before = files.file_of(leaf(b"a")).stat().st_ino
            second.write(leaf(b"a"))
            assert files.file_of(leaf(b"a")).stat().st_ino != before

    def test_two_equal_uploads_at_once_one_given_up(self, shelf: Shelf) -> None:
        data = content(2 * MIB + 1)
        with shelf.blobs.begin() as first, shelf.blobs.begin() as second:
            first.write(data)
            second.write(data)
            cid = shelf.commit(first.finish())
            first.close()
            assert second.finish().cid == cid
            second.close()
        assert shelf.read(cid) == data
        assert shelf.kept() == shelf.referenced()


class TestGivingUpMeanwhile:
    def test_what_is_being_read_stays_until_it_is_closed(self, shelf: Shelf) -> None:
        data = content(2 * MIB + 1)
        cid = shelf.add(data)
        with shelf.blobs.open(cid) as reader, shelf.blobs.open(cid) as other:
            first = reader.read_chunk(0)
            assert shelf.remove(cid) == 0
            other.close()
            assert first + b"".join(reader.chunks(MIB)) == data
            with pytest.raises(BlockMissing):
                shelf.blobs.open(cid)
        assert shelf.kept() == set()
        with pytest.raises(ValueError, match="closed"):
            reader.read_chunk(0)

    @pytest.mark.parametrize("when", ["first leaf written", "all written", "finished"])
    @pytest.mark.parametrize("commits", [True, False])
    def test_an_equal_upload_is_in_flight(self, shelf: Shelf, when: str, commits: bool) -> None:
        data = content(2 * MIB + 1)
        cid = shelf.add(data)
        with shelf.blobs.begin() as upload:
            upload.write(data[:MIB])
            if when == "first leaf written":
                shelf.remove(cid)
            upload.write(data[MIB:])
            if when == "all written":
                shelf.remove(cid)
            again = upload.finish()
            if when == "finished":
                shelf.remove(cid)
            if commits:
                shelf.commit(again)
        if commits:
            assert shelf.read(cid) == data
        assert shelf.kept() == shelf.referenced()

    def test_the_sweep_comes_after_another_commit(self, shelf: Shelf) -> None:
        data = content(MIB + 1)
        cid = shelf.add(data)
        release = shelf.blobs.release(cid)
        shelf.store.apply(Batch(adds=release.adds))
        shelf.add(data)
        assert shelf.blobs.sweep(release.blocks) == 0
        assert shelf.read(cid) == data

    def test_the_sweep_never_comes(self, shelf: Shelf) -> None:
        kept = shelf.add(content(MIB + 2))
        release = shelf.blobs.release(shelf.add(content(MIB + 1, seed=1)))
        shelf.store.apply(Batch(adds=release.adds))
        again = BlobStore(shelf.store, shelf.directory, shelf.config)
        assert again.collect() == len(release.blocks)
        assert again.collect() == 0
        assert shelf.kept() == shelf.referenced()
        assert shelf.read(kept) == content(MIB + 2)


class TestTheDiskLies:
    @pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
    def test_a_corrupt_leaf_is_never_served(self, files: Shelf, damage: str) -> None:
        cid = files.add(leaf(b"a") + leaf(b"b") + leaf(b"c"))
        path = files.file_of(leaf(b"b"))
        good = path.read_bytes()
        path.write_bytes({"flip": b"X" + good[1:], "truncate": good[:-1], "empty": b""}[damage])
        with files.blobs.open(cid) as reader:
            pieces = reader.chunks()
            assert next(pieces) == leaf(b"a")
            with pytest.raises(BlockCorrupt):
                next(pieces)
            with pytest.raises(BlockMissing):
                reader.read_chunk(1)
            assert reader.read_chunk(2) == leaf(b"c")
        assert files.directory is not None
        assert (files.directory / "quarantine" / path.name).read_bytes() != good
        # The same bytes from somewhere else repair it.
        other = files.add(leaf(b"b"))
        assert files.read(cid) == leaf(b"a") + leaf(b"b") + leaf(b"c")
        files.remove(other)
        files.remove(cid)
        assert files.kept() == set()

    def test_a_missing_leaf_is_missing_and_is_repaired(self, files: Shelf) -> None:
        cid = files.add(leaf(b"a"))
        files.file_of(leaf(b"a")).unlink()
        with pytest.raises(BlockMissing):
            files.blobs.open(cid)
        files.add(leaf(b"a"))
        assert files.read(cid) == leaf(b"a")

    def test_a_corrupt_row_goes_to_quarantine_too(self, shelf: Shelf) -> None:
        cid = shelf.add(b"good")
        shelf.store.apply(Batch(puts=[(Table.BLOCKS, cid, b"evil")]))
        with pytest.raises(BlockCorrupt):
            shelf.blobs.open(cid)
        with pytest.raises(BlockMissing):
            shelf.blobs.open(cid)
        shelf.add(b"good")
        assert shelf.read(cid) == b"good"
        if shelf.directory is not None:
            kept = shelf.directory / "quarantine" / cids.text(cid)
            assert kept.read_bytes() == b"evil"

    def test_a_block_that_was_repaired_meanwhile_is_not_put_in_quarantine(
        self, files: Shelf
    ) -> None:
        cid = files.add(leaf(b"a"))
        files.blobs._blocks._quarantine(cid)
        assert files.read(cid) == leaf(b"a")

    def test_quarantine_is_limited(self, tmp_path: Path) -> None:
        shelf = Shelf(MemoryStore(), tmp_path, Config(quarantine_files_max=2))
        for letter in (b"a", b"b", b"c", b"d"):
            cid = shelf.add(leaf(letter))
            shelf.file_of(leaf(letter)).write_bytes(b"evil")
            with pytest.raises(BlockCorrupt):
                shelf.blobs.open(cid)
        assert len(list((tmp_path / "quarantine").iterdir())) == 2

    def test_content_whose_node_is_lost_can_still_be_given_up(self, files: Shelf) -> None:
        cid = files.add(leaf(b"a") + leaf(b"b"))
        files.store.apply(Batch(deletes=[(Table.BLOCKS, cid)]))
        files.remove(cid)
        with pytest.raises(BlockMissing):
            files.blobs.open(cid)

    def test_a_directory_that_cannot_be_used_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(BlobError, match="cannot be used"):
            Shelf(MemoryStore(), tmp_path / "file")


class TestTreesFromElsewhere:
    """Valid blocks under a referenced root that together are not what the root says."""

    def keep(self, shelf: Shelf, blocks: dict[Cid, bytes], root: Cid) -> None:
        puts = [(Table.BLOCKS, cid, data) for cid, data in blocks.items()]
        shelf.store.apply(Batch(puts=puts, adds=[(Table.BLOCK_REFS, root, 1)]))

    def tree(self, leaves: list[tuple[Cid, int]]) -> tuple[dict[Cid, bytes], Cid]:
        nodes: dict[Cid, bytes] = {}
        builder = TreeBuilder(nodes.__setitem__)
        for cid, size_bytes in leaves:
            builder.add(cid, size_bytes)
        return nodes, builder.finish().cid

    def test_a_leaf_of_another_size_is_corrupt(self) -> None:
        shelf = Shelf(MemoryStore(), None)
        short = b"short"
        nodes, root = self.tree([(raw_leaf(short), MIB), (raw_leaf(short), 5)])
        self.keep(shelf, nodes | {raw_leaf(short): short}, root)
        with shelf.blobs.open(root) as reader, pytest.raises(BlockCorrupt, match="another size"):
            reader.read_chunk(0)

    def test_more_than_the_limit_is_refused_before_the_tree_is_read(self) -> None:
        shelf = Shelf(MemoryStore(), None, Config(size_max_bytes=2 * MIB))
        nodes, root = self.tree([(raw_leaf(b"1"), MIB)] * 3)
        self.keep(shelf, nodes, root)
        with pytest.raises(BlobTooLarge):
            shelf.blobs.open(root)

    def test_a_root_that_is_no_node_is_corrupt(self) -> None:
        shelf = Shelf(MemoryStore(), None)
        garbage = b"garbage"
        root = Cid(b"\x01\x70\x12\x20" + raw_leaf(garbage)[4:])
        self.keep(shelf, {root: garbage}, root)
        with pytest.raises(BlockCorrupt, match="not a tree"):
            shelf.blobs.open(root)

    def test_a_node_with_fewer_leaves_than_its_parent_says_is_corrupt(self) -> None:
        shelf = Shelf(MemoryStore(), None)
        honest, _ = self.tree([(raw_leaf(b"1"), MIB)] * (LINKS_MAX + 1))
        (full,) = (cid for cid, data in honest.items() if len(data) > 50_000)
        small, small_root = self.tree([(raw_leaf(b"1"), MIB)] * 2)
        forged = {cid: data.replace(full, small_root) for cid, data in honest.items()}
        (top,) = (data for data in forged.values() if data.find(small_root) >= 0)
        root = Cid(b"\x01\x70\x12\x20" + raw_leaf(top)[4:])
        self.keep(shelf, {**honest, **small, root: top}, root)
        with pytest.raises(BlockCorrupt, match="not what its parent says"):
            shelf.blobs.open(root)


class TestStarting:
    def test_half_written_files_are_removed_and_other_files_are_not_touched(
        self, files: Shelf
    ) -> None:
        assert files.directory is not None
        cid = files.add(leaf(b"a"))
        (files.directory / "incoming" / "7").write_bytes(b"half")
        (files.directory / "blocks" / "00").mkdir(exist_ok=True)
        (files.directory / "blocks" / "00" / "README").write_bytes(b"mine")
        again = Shelf(files.store, files.directory)
        assert again.blobs.collect() == 0
        assert again.files() == {cids.text(cid), "README"}
        assert again.read(cid) == leaf(b"a")

    def test_a_file_without_its_batch_is_collected(self, files: Shelf) -> None:
        upload = files.blobs.begin()
        upload.write(leaf(b"a") + leaf(b"b"))
        upload.finish()
        again = Shelf(files.store, files.directory)
        assert again.blobs.collect() == 2
        assert again.kept() == set()

    def test_collecting_leaves_uploads_at_work_alone(self, files: Shelf) -> None:
        with files.blobs.begin() as upload:
            upload.write(leaf(b"a") + leaf(b"b"))
            finished = upload.finish()
            assert files.blobs.collect() == 0
            files.commit(finished)
        assert files.read(finished.cid) == leaf(b"a") + leaf(b"b")


def test_a_disk_without_room_refuses_content_and_recovers(small_disk: Path) -> None:
    with contextlib.closing(open_lmdb(small_disk / "store")) as store:
        shelf = Shelf(store, small_disk / "blobs")
        kept = shelf.add(leaf(b"a"))
        with pytest.raises(StoreFull):
            shelf.add(content(10 * MIB))
        assert shelf.kept() == {cids.text(kept)}
        assert shelf.read(kept) == leaf(b"a")
        shelf.remove(kept)
        assert shelf.read(shelf.add(leaf(b"b"))) == leaf(b"b")


@pytest.mark.slow
def test_many_threads_with_equal_content(tmp_path: Path) -> None:
    """Eight threads add, read and remove four contents that share their leaves."""
    letters = [b"abc", b"bcd", b"ab", b"d"]
    contents = [b"".join(leaf(bytes([letter])) for letter in word) + word for word in letters]
    failures: list[BaseException] = []
    with contextlib.closing(open_lmdb(tmp_path / "store")) as store:
        shelf = Shelf(store, tmp_path / "blobs")

        def work(seed: int) -> None:
            choices = random.Random(seed)
            try:
                for _ in range(6):
                    data = choices.choice(contents)
                    cid = shelf.add(data)
                    assert shelf.read(cid) == data
                    shelf.remove(cid)
            except BaseException as error:  # noqa: BLE001  (reported by the test)
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert shelf.kept() == shelf.referenced() == set()


class ContentMachine(RuleBasedStateMachine):
    """Uploads, commits, readers, releases and restarts in any order lose and leak nothing."""

    uploads: Bundle[tuple[Upload, Content, bytes]] = Bundle("uploads")
    readers: Bundle[tuple[Reader, bytes]] = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.shelf = Shelf(MemoryStore(), directory)
        self.committed: list[tuple[Cid, bytes]] = []
        self.open_uploads = 0
        self.open_readers = 0

    @rule(target=uploads, word=st.text("ab", max_size=2), end=st.sampled_from([b"", b"end"]))
    def upload(self, word: str, end: bytes) -> tuple[Upload, Content, bytes]:
        data = b"".join(leaf(letter.encode()) for letter in word) + end
        upload = self.shelf.blobs.begin()
        upload.write(data)
        self.open_uploads += 1
        return upload, upload.finish(), data

    @rule(finished=consumes(uploads), commits=st.booleans())
    def end_upload(self, finished: tuple[Upload, Content, bytes], commits: bool) -> None:
        upload, content, data = finished
        if commits:
            self.committed.append((self.shelf.commit(content), data))
        upload.close()
        self.open_uploads -= 1

    @rule(target=readers, data=st.data())
    def open(
        self, data: st.DataObject
    ) -> tuple[Reader, bytes] | MultipleResults[tuple[Reader, bytes]]:
        if not self.committed:
            return multiple()
        cid, content = data.draw(st.sampled_from(self.committed))
        self.open_readers += 1
        return self.shelf.blobs.open(cid), content

    @rule(opened=consumes(readers))
    def read_and_close(self, opened: tuple[Reader, bytes]) -> None:
        reader, content = opened
        assert b"".join(reader.chunks()) == content
        reader.close()
        self.open_readers -= 1

    @rule(data=st.data(), sweeps=st.booleans())
    def release(self, data: st.DataObject, sweeps: bool) -> None:
        if not self.committed:
            return
        at = data.draw(st.integers(0, len(self.committed) - 1))
        cid, _ = self.committed.pop(at)
        release = self.shelf.blobs.release(cid)
        self.shelf.store.apply(Batch(adds=release.adds))
        if sweeps:
            self.shelf.blobs.sweep(release.blocks)

    @rule()
    def collect(self) -> None:
        self.shelf.blobs.collect()
        if not self.open_uploads and not self.open_readers:
            assert self.shelf.kept() == self.shelf.referenced()

    @invariant()
    def what_is_committed_is_kept(self) -> None:
        assert self.shelf.referenced() <= self.shelf.kept()
        assert {cids.text(cid) for cid, _ in self.committed} <= self.shelf.referenced()

    def teardown(self) -> None:
        for cid, data in self.committed:
            assert self.shelf.read(cid) == data
        self.stack.close()


ContentMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@pytest.mark.slow
class TestContentInAnyOrder(ContentMachine.TestCase):  # type: ignore[misc, valid-type]
    pass
