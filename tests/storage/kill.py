"""A process that keeps rows and content until it is killed, and what must be true afterwards.

The process numbers its steps.  Step n writes a batch of three rows and a count, and four batches
before it; or it adds content; or it removes the oldest of several; which one depends on n alone.
It says `begin n` before a step and `end n` after the step is durable.  Killed at any moment,
everything up to the last `end` must be there, and the step that had begun must be there whole or
not at all.

    python -m tests.storage.kill DIRECTORY
"""

import contextlib
import random
import subprocess
import sys
from pathlib import Path

from storage import cid as cids
from storage.batches import counter_value
from storage.blobs import BlobStore
from storage.blocks import Config as BlobConfig
from storage.cid import Cid
from storage.lmdb_store import Config, LmdbStore
from storage.store import Batch, Put, Table

ROOT = Path(__file__).parents[2]
STEP_KEY = b"step"
COUNT_KEY = b"count"
SIZES_BYTES = (0, 100, 70_000, 1 << 20, (1 << 20) + 100, 5 << 19)
CONTENTS_MAX = 6
LINES_MAX = 40
DELAY_MAX_S = 0.004


def open_store(directory: Path) -> LmdbStore:
    # Small transactions, so that the batches of one step are committed in two.
    config = Config(map_size_max_bytes=1 << 30, transaction_batches_max=4)
    return LmdbStore(directory / "store", config=config, deliver=lambda run: run())


def rows_of(step: int) -> list[Put]:
    key = step.to_bytes(8, "big")
    return [(table, key, key * 40) for table in (Table.JOBS, Table.LIVE, Table.OUTCOMES)]


def parts_of(step: int) -> list[Put]:
    """Rows that the batches before `rows_of`, one each, carry along into the same commit."""
    return [(Table.LOGS, step.to_bytes(8, "big") + bytes([part]), b"part") for part in range(4)]


def content_of(step: int) -> bytes:
    """Different sizes of a few patterns, so that many share their blocks with others."""
    pattern = random.Random(step % 5).randbytes(1 << 16)
    return (pattern * 40)[: SIZES_BYTES[step % len(SIZES_BYTES)]]


def work(directory: Path) -> None:
    """Step until killed."""
    store = open_store(directory)
    blobs = BlobStore(store, directory / "blobs", BlobConfig())
    blobs.collect()
    step = counter_value(store.get(Table.META, STEP_KEY))
    while True:
        step += 1
        say(f"begin {step}")
        stepped = (Table.META, STEP_KEY, 1)
        key = step.to_bytes(8, "big")
        match step % 3:
            case 0:
                for part in parts_of(step):
                    store.submit(Batch(puts=[part]), lazy=True)
                batch = Batch(puts=rows_of(step), adds=[stepped, (Table.USAGE, COUNT_KEY, 1)])
                assert store.apply(batch) is None
            case 1:
                with blobs.begin() as upload:
                    upload.write(content_of(step))
                    content = upload.finish()
                    row = (Table.BLOBS, key, content.cid)
                    adds = [stepped, *content.adds]
                    assert store.apply(Batch(puts=[row, *content.puts], adds=adds)) is None
            case _:
                rows = store.scan(Table.BLOBS, limit=CONTENTS_MAX)
                if len(rows) < CONTENTS_MAX:
                    assert store.apply(Batch(adds=[stepped])) is None
                else:
                    (key, row_cid), *_ = rows
                    release = blobs.release(Cid(row_cid))
                    adds = [stepped, *release.adds]
                    assert store.apply(Batch(deletes=[(Table.BLOBS, key)], adds=adds)) is None
                    blobs.sweep(release.blocks)
        say(f"end {step}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def check(directory: Path, ended: int, begun: int) -> None:
    """Assert all that must be true after a kill between `end ended` and `end begun`."""
    with contextlib.closing(open_store(directory)) as store:
        step = counter_value(store.get(Table.META, STEP_KEY))
        assert ended <= step <= begun, f"step {step} is not in {ended}..{begun}"
        steps = [int.from_bytes(key, "big") for key, _ in store.scan(Table.JOBS, limit=10**6)]
        assert steps == list(range(3, step + 1, 3)), "a batch was lost"
        assert counter_value(store.get(Table.USAGE, COUNT_KEY)) == len(steps), "a batch was torn"
        for table in (Table.JOBS, Table.LIVE, Table.OUTCOMES):
            expected = [row[1:] for number in steps for row in rows_of(number) if row[0] == table]
            assert store.scan(table, limit=10**6) == expected, "a batch was torn"
        whole = [part[1:] for number in steps for part in parts_of(number)]
        logs = store.scan(Table.LOGS, limit=10**6)
        assert logs[: len(whole)] == whole, "an earlier batch was lost and a later one was not"
        following = [part[1:] for part in parts_of(step + 1)]
        assert logs[len(whole) :] == following[: len(logs) - len(whole)], "batches out of order"

        blobs = BlobStore(store, directory / "blobs", BlobConfig())
        blobs.collect()
        references: dict[bytes, int] = {}
        for key, row_cid in store.scan(Table.BLOBS, limit=10**6):
            with blobs.open(Cid(row_cid)) as reader:
                data = b"".join(reader.chunks())
            assert data == content_of(int.from_bytes(key, "big")), "content was lost"
            for block in blobs.release(Cid(row_cid)).blocks:
                references[block] = references.get(block, 0) + 1
        counted = store.scan(Table.BLOCK_REFS, limit=10**6)
        assert {key: counter_value(row) for key, row in counted} == references
        kept = {cids.text(Cid(key)) for key, _ in store.scan(Table.BLOCKS, limit=10**6)}
        kept |= {path.name for path in (directory / "blobs" / "blocks").glob("*/*")}
        assert kept == {cids.text(Cid(key)) for key in references}, "a block was leaked or lost"


def survive(directory: Path, kills: int, seed: int) -> int:
    """Kill a working process `kills` times at moments drawn from `seed`; return its last step."""
    choices = random.Random(seed)
    ended = begun = 0
    for _ in range(kills):
        lines = choices.randrange(1, LINES_MAX)
        delay_s = choices.uniform(0, DELAY_MAX_S)
        with subprocess.Popen(
            [sys.executable, "-m", "tests.storage.kill", str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=delay_s)
            process.kill()
            said += process.stdout.readlines()
        assert process.returncode == -9, f"it ended by itself: {process.returncode}"
        for line in said:
            word, number = line.split()
            if word == "end":
                ended = int(number)
            else:
                begun = int(number)
        check(directory, ended, begun)
    return ended


if __name__ == "__main__":
    work(Path(sys.argv[1]))
