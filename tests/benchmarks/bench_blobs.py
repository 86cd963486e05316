"""What content costs: `python -m tests.benchmarks.bench_blobs [DIRECTORY] [MEBIBYTES]`.

One JSON line a figure.  The floors are hashing alone, and the same files written, synced and
renamed without hashing; content in and out can be no faster than the slower of the two.
"""

import hashlib
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from storage.blobs import BlobStore
from storage.blocks import Config
from storage.cid import CHUNK_SIZE_BYTES
from storage.lmdb_store import Config as StoreConfig, LmdbStore
from storage.store import Batch

ROUNDS = 3


def emit(name: str, value: float, unit: str, **more: object) -> None:
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, **more}), flush=True)


def rate(call: Callable[[], object], size_bytes: int) -> float:
    """Mebibytes a second, the median of some runs."""
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return size_bytes / 2**20 / sorted(took)[ROUNDS // 2]


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def piece(number: int) -> bytes:
    """A mebibyte unlike every other."""
    return number.to_bytes(8, "big") + bytes(CHUNK_SIZE_BYTES - 8)


def measure_floors(directory: Path, mebibytes: int) -> None:
    data = piece(0)

    def hash_all() -> None:
        for _ in range(mebibytes):
            hashlib.sha256(data).digest()

    names = itertools.count()

    def write_all() -> None:
        for _ in range(mebibytes):
            path = directory / "floor"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(file, data)
            os.fdatasync(file)
            os.close(file)
            path.rename(directory / f"floor-{next(names)}")

    emit("floor_sha256", rate(hash_all, mebibytes * CHUNK_SIZE_BYTES), "MiB/s")
    emit("floor_files", rate(write_all, mebibytes * CHUNK_SIZE_BYTES), "MiB/s")
    for path in directory.glob("floor-*"):
        path.unlink()


def measure_content(directory: Path, mebibytes: int) -> None:
    store = LmdbStore(directory / "store", config=StoreConfig(), deliver=lambda run: run())
    blobs = BlobStore(store, directory / "blobs", Config())
    size_bytes = mebibytes * CHUNK_SIZE_BYTES
    runs = iter(range(ROUNDS))
    contents = []
    before_bytes = rss_bytes()

    def upload() -> None:
        first = next(runs) * mebibytes
        with blobs.begin() as upload:
            for number in range(first, first + mebibytes):
                upload.write(piece(number))
            contents.append(upload.finish())
            store.apply(Batch(puts=contents[-1].puts, adds=contents[-1].adds))

    emit("upload", rate(upload, size_bytes), "MiB/s")

    def read() -> None:
        with blobs.open(contents[0].cid) as reader:
            assert sum(map(len, reader.chunks())) == size_bytes

    emit("read_verified", rate(read, size_bytes), "MiB/s")
    emit("memory_growth", (rss_bytes() - before_bytes) / 2**20, "MiB", mebibytes=mebibytes)

    start = time.perf_counter()
    blobs.open(contents[0].cid).close()
    emit("open_close", (time.perf_counter() - start) * 1e3, "ms", mebibytes=mebibytes)
    release = blobs.release(contents[0].cid)
    store.apply(Batch(adds=release.adds))
    start = time.perf_counter()
    assert blobs.sweep(release.blocks) == len(release.blocks)
    emit("sweep", (time.perf_counter() - start) * 1e3, "ms", blocks=len(release.blocks))
    start = time.perf_counter()
    assert blobs.collect() == 0
    emit("collect", (time.perf_counter() - start) * 1e3, "ms", blocks=2 * mebibytes)
    store.close()
    emit("memory_max", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, "MiB")


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else None
    mebibytes = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    with tempfile.TemporaryDirectory(dir=where) as name:
        measure_floors(Path(name), mebibytes)
        measure_content(Path(name), mebibytes)


if __name__ == "__main__":
    main()
