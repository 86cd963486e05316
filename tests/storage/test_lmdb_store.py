"""What is particular to the store on disk: group commit, faults, one opener, the format."""

import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import lmdb
import pytest

from storage.errors import FormatError, StoreClosed, StoreError, StoreFull, StoreLocked
from storage.group_commit import EXIT_STATUS
from storage.lmdb_store import FORMAT_KEY, Config, LmdbStore
from storage.store import Batch, Result, Table
from tests.storage.stores import MIB, WAIT_S, Loop, Outcomes, open_lmdb

ROOT = Path(__file__).parents[2]


def put(key: bytes, value: bytes) -> Batch:
    return Batch(puts=[(Table.JOBS, key, value)])


def io_error(code: int) -> lmdb.Error:
    error = lmdb.Error(f"mdb_txn_commit: {os.strerror(code)}")
    error.code = code  # type: ignore[misc]
    return error


class Disk:
    """A `commit` that can be held back and can fail."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.held = False
        self.errors: list[lmdb.Error] = []
        self.attempts = 0

    def commit(self, transaction: lmdb.Transaction) -> None:
        self.attempts += 1
        if self.held:
            self.entered.release()
            assert self.allowed.acquire(timeout=WAIT_S)
        if self.errors:
            raise self.errors.pop(0)
        transaction.commit()


@pytest.fixture
def disk() -> Disk:
    return Disk()


class TestGroupCommit:
    def test_what_queues_during_a_commit_is_the_next_commit(
        self, tmp_path: Path, disk: Disk
    ) -> None:
        loop, outcomes = Loop(), Outcomes()
        store = open_lmdb(tmp_path, loop, commit=disk.commit)
        disk.held = True
        store.submit(put(b"0", b""), outcomes.done(0))
        assert disk.entered.acquire(timeout=WAIT_S)
        for number in range(1, 100):
            store.submit(put(b"%d" % number, b""), outcomes.done(number))
        disk.held = False
        disk.allowed.release()
        loop.run_one()
        assert outcomes == [(0, None)]
        loop.run_one()
        assert outcomes == [(number, None) for number in range(100)]
        assert store.statistics().commits == 2
        assert store.statistics().committed_batches == 100
        store.close()

    def test_a_lazy_batch_that_comes_during_a_commit_does_not_start_one(
        self, tmp_path: Path, disk: Disk
    ) -> None:
        loop, outcomes = Loop(), Outcomes()
        store = open_lmdb(tmp_path, loop, commit=disk.commit)
        disk.held = True
        store.submit(put(b"a", b""), outcomes.done(0))
        assert disk.entered.acquire(timeout=WAIT_S)
        store.submit(put(b"b", b""), outcomes.done(1), lazy=True)
        disk.held = False
        disk.allowed.release()
        loop.run_one()
        assert outcomes == [(0, None)]
        assert store.statistics().queued_batches == 1
        store.close()
        loop.run_one()
        assert outcomes == [(0, None), (1, None)]

    @pytest.mark.parametrize(
        "limit", [{"transaction_batches_max": 10}, {"transaction_size_max_bytes": 10_000}]
    )
    def test_a_commit_is_limited_in_batches_and_in_bytes(
        self, tmp_path: Path, limit: dict[str, int]
    ) -> None:
        loop, outcomes = Loop(), Outcomes()
        store = open_lmdb(tmp_path, loop, **limit)
        for number in range(100):
            batch = put(number.to_bytes(4, "big"), bytes(996))
            store.submit(batch, outcomes.done(number), lazy=number < 99)
        while len(outcomes) < 100:
            loop.run_one()
        assert outcomes == [(number, None) for number in range(100)]
        assert store.statistics().commits == 10
        store.close()

    def test_a_full_queue_refuses_and_recovers(self, tmp_path: Path) -> None:
        loop, outcomes = Loop(), Outcomes()
        store = open_lmdb(tmp_path, loop, queue_batches_max=3)
        for number in range(4):
            store.submit(put(b"%d" % number, b""), outcomes.done(number), lazy=True)
        with pytest.raises(StoreFull, match="3 batches wait"):
            store.apply(Batch())
        loop.run_one()
        ((number, result),) = outcomes
        assert number == 3
        assert isinstance(result, StoreFull)
        store.close()
        loop.run_one()
        assert outcomes[1:] == [(0, None), (1, None), (2, None)]

    def test_apply_is_for_any_thread(self, tmp_path: Path) -> None:
        store = open_lmdb(tmp_path)
        add = Batch(adds=[(Table.USAGE, b"u", 1)])

        def work() -> None:
            for _ in range(20):
                assert store.apply(add) is None
                assert store.get(Table.USAGE, b"u") is not None

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get(Table.USAGE, b"u") == (160).to_bytes(8, "big")
        store.close()


class TestFaults:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_full_disk_refuses_the_batch_and_the_next_one_passes(
        self, tmp_path: Path, disk: Disk, code: int
    ) -> None:
        store = open_lmdb(tmp_path, commit=disk.commit)
        disk.errors = [io_error(code)] * 2  # The batch; the small commit that might make room.
        with pytest.raises(StoreFull):
            store.apply(put(b"a", b"1"))
        assert store.get(Table.JOBS, b"a") is None
        assert store.apply(put(b"a", b"1")) is None
        store.close()

    def test_batches_of_a_commit_that_did_not_fit_are_tried_in_halves(
        self, tmp_path: Path, disk: Disk
    ) -> None:
        loop, outcomes = Loop(), Outcomes()
        store = open_lmdb(tmp_path, loop, commit=disk.commit)
        # All four; the first two; the first; what might make room; the second; the last two.
        disk.errors = [io_error(errno.ENOSPC)] * 4
        for number in range(4):
            store.submit(put(b"%d" % number, b""), outcomes.done(number), lazy=number < 3)
        loop.run_one()
        assert [type(result) for _, result in outcomes] == [StoreFull, *[type(None)] * 3]
        assert disk.attempts == 6
        assert [key for key, _ in store.scan(Table.JOBS)] == [b"1", b"2", b"3"]
        store.close()

    def test_a_commit_that_fails_otherwise_is_never_tried_again(
        self, tmp_path: Path, disk: Disk
    ) -> None:
        failures: list[BaseException] = []
        store = open_lmdb(tmp_path, commit=disk.commit, fail=failures.append)
        error = io_error(errno.EIO)
        disk.errors = [error]
        outcomes = Outcomes()
        store.submit(put(b"a", b"1"), outcomes.done(0), lazy=True)
        with pytest.raises(StoreError, match="unknown"):
            store.apply(put(b"b", b"1"))
        assert failures == [error]
        assert disk.attempts == 1
        assert outcomes == []
        with pytest.raises(StoreClosed):
            store.submit(Batch())
        store.close()

    def test_by_default_a_failed_commit_ends_the_process(self, tmp_path: Path) -> None:
        program = """
            import pathlib, sys
            from storage.lmdb_store import Config, LmdbStore
            from storage.store import Batch, Table
            def commit(transaction):
                raise OSError(5, "Input/output error")
            store = LmdbStore(pathlib.Path(sys.argv[1]), config=Config(),
                              deliver=lambda run: run(), commit=commit)
            store.apply(Batch(puts=[(Table.JOBS, b"a", b"1")]))
            print("acknowledged")
        """
        ended = run_program(program, str(tmp_path / "store"))
        assert ended.returncode == EXIT_STATUS
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1
        assert "Input/output error" in ended.stderr

    def test_a_short_write_is_a_full_disk_and_not_a_broken_one(self, tmp_path: Path) -> None:
        """LMDB says EIO when the kernel wrote a part; here a limit on the file's size does it."""
        program = """
            import pathlib, resource, sys
            from storage.errors import StoreFull
            from storage.lmdb_store import Config, LmdbStore
            from storage.store import Batch, Table
            store = LmdbStore(pathlib.Path(sys.argv[1]), config=Config(reserve_size_bytes=1 << 16),
                              deliver=lambda run: run())
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_001, 1_000_001))
            kept = 0
            try:
                while True:
                    store.apply(Batch(puts=[(Table.JOBS, b"%d" % kept, bytes(300_000))]))
                    kept += 1
            except StoreFull as full:
                print(kept)
            store.apply(Batch(deletes=[(Table.JOBS, b"0")]))
            assert store.apply(Batch(puts=[(Table.JOBS, b"again", bytes(200_000))])) is None
            store.close()
        """
        ended = run_program(program, str(tmp_path / "store"))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert int(ended.stdout) in (1, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 3000, 100_000])
def test_a_filesystem_without_room_is_a_full_store_that_recovers(
    small_disk: Path, size: int
) -> None:
    with contextlib.closing(open_lmdb(small_disk / "store")) as store:
        count = fill(store, size)
        assert count * size > 500_000
        # Something else takes the last block, too.
        other = small_disk / "other"
        with pytest.raises(OSError, match="No space left"):
            other.write_bytes(bytes(2 * MIB))
        with pytest.raises(StoreFull):
            store.apply(put(b"large", bytes(300_000)))
        keys = [key for key, _ in store.scan(Table.JOBS, limit=100_000)]
        assert len(keys) == count
        for key in keys[: count // 2]:
            assert store.apply(Batch(deletes=[(Table.JOBS, key)])) is None
        for number in range(count // 8):
            assert store.apply(put(b"again %d" % number, bytes(size))) is None
        other.unlink()
        assert store.apply(put(b"more", bytes(100_000))) is None
    with contextlib.closing(open_lmdb(small_disk / "store")) as store:
        assert store.get(Table.JOBS, b"more") == bytes(100_000)


def fill(store: LmdbStore, size: int) -> int:
    """Put rows until none fits, a few at a time where they are small; return how many."""
    together = max(1, 20_000 // size)
    count = 0
    while True:
        keys = [(count + more).to_bytes(4, "big") for more in range(together)]
        try:
            store.apply(Batch(puts=[(Table.JOBS, key, bytes(size)) for key in keys]))
        except StoreFull:
            return count
        count += together


class TestOpening:
    def test_rows_are_there_after_closing_and_opening(self, tmp_path: Path) -> None:
        store = open_lmdb(tmp_path / "deep" / "store")
        store.apply(put(b"a", b"1"))
        store.close()
        store = open_lmdb(tmp_path / "deep" / "store")
        assert store.get(Table.JOBS, b"a") == b"1"
        store.close()

    def test_opening_an_existing_store_writes_nothing(self, tmp_path: Path) -> None:
        open_lmdb(tmp_path).close()
        before = (tmp_path / "data.mdb").read_bytes()
        open_lmdb(tmp_path).close()
        assert (tmp_path / "data.mdb").read_bytes() == before

    def test_only_the_owner_may_look(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        path.mkdir(mode=0o755)
        open_lmdb(path).close()
        assert path.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}

    def test_a_second_opener_in_this_process_is_told(self, tmp_path: Path) -> None:
        store = open_lmdb(tmp_path)
        with pytest.raises(StoreLocked, match=f"open already, in process {os.getpid()}"):
            open_lmdb(tmp_path)
        assert store.apply(put(b"a", b"1")) is None
        store.close()
        open_lmdb(tmp_path).close()

    def test_a_second_opener_in_another_process_is_told(self, tmp_path: Path) -> None:
        store = open_lmdb(tmp_path)
        program = """
            import pathlib, sys
            from storage.errors import StoreLocked
            from storage.lmdb_store import Config, LmdbStore
            try:
                LmdbStore(pathlib.Path(sys.argv[1]), config=Config(), deliver=lambda run: run())
            except StoreLocked as locked:
                print(locked)
        """
        ended = run_program(program, str(tmp_path))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert f"in process {os.getpid()}" in ended.stdout
        store.close()

    def test_another_format_is_refused_and_both_are_named(self, tmp_path: Path) -> None:
        store = open_lmdb(tmp_path)
        store.apply(Batch(puts=[(Table.META, FORMAT_KEY, b"7")]))
        store.close()
        with pytest.raises(FormatError, match=r"has format 7; this program reads format 1"):
            open_lmdb(tmp_path)
        with pytest.raises(FormatError):  # and the lock was given back
            open_lmdb(tmp_path)

    def test_a_file_that_is_no_store_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "data.mdb").write_bytes(b"not a store" * 1000)
        with pytest.raises(StoreError, match="cannot be opened"):
            open_lmdb(tmp_path)

    def test_a_directory_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError, match="cannot be opened"):
            open_lmdb(tmp_path / "file")

    def test_a_new_store_takes_little_disk_however_large_its_map(self, tmp_path: Path) -> None:
        store = LmdbStore(tmp_path, config=Config(), deliver=lambda run: run())
        store.apply(put(b"a", b"1"))
        blocks = (tmp_path / "data.mdb").stat().st_blocks
        assert blocks * 512 < 4 * MIB
        assert store.statistics().capacity_bytes == Config().map_size_max_bytes
        store.close()


def test_readers_in_other_threads_see_whole_batches(tmp_path: Path) -> None:
    loop = Loop()
    store = open_lmdb(tmp_path, loop)
    torn: list[object] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            values = {value for _, value in store.scan(Table.JOBS)}
            if len(values) > 1:
                torn.append(values)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    results: list[Result] = []
    for number in range(60):
        puts = [(Table.JOBS, bytes([key]), b"%d" % number) for key in range(20)]
        store.submit(Batch(puts=puts), results.append)
    while len(results) < 60:
        loop.run_one()
    ended.set()
    for reader in readers:
        reader.join()
    store.close()
    assert torn == []
    assert results == [None] * 60


def run_program(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
