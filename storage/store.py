"""The seam to a disk: ordered tables of bytes, written by atomic batches.

A store is *synchronous to read* (a read costs about a microsecond, so it happens in the loop's own
thread) and *asynchronous to write*: `submit` queues a batch and returns; one writer commits many
batches in one transaction (group commit) and then reports each batch's result.  When `done` is
called with `None` the batch is durable and every later read sees it.

Rules the two implementations (`LmdbStore`, `MemoryStore`) keep, and one contract suite checks:

1. A batch is applied whole or not at all, and batches are applied in the order of `submit`.
2. `expects` are tested inside the writing transaction, against everything submitted before; the
   first that fails makes the batch a `Conflict` and nothing of it is written.
3. Within a batch the order is expects, adds, puts, deletes.
4. A full store (`StoreFull`) refuses the batch, keeps everything that was there, stays readable,
   still takes batches that only delete, and recovers unaided when there is room.
5. Keys are 1 to `KEY_SIZE_MAX_BYTES` bytes; both implementations refuse others (`ValueError`).

What it leaves out: transactions that read.  A decision that depends on what is stored reads first
and names what it read in `expects`; on `Conflict` it reads again.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from storage.errors import StoreError

KEY_SIZE_MAX_BYTES = 511
"""Longest key, in bytes. Source: LMDB's compiled-in limit."""


class Table(enum.IntEnum):
    """Every table of a node. A key's layout is documented by the module that owns the table.

    Integers in keys are big-endian, so that byte order is number order.
    """

    META = 0
    """name -> value: identity, high-water marks, boot count, format version."""
    FACTS = 1
    """fact id (32) -> signed authority fact."""
    RECORDS = 2
    """slot (16) + author (8) -> signed record: attributes of users, projects, functions, spaces."""
    JOBS = 3
    """job id (8) -> immutable request."""
    LIVE = 4
    """job id (8) -> lease; a row for each job that is not terminal, and for no other."""
    OUTCOMES = 5
    """job id (8) -> terminal snapshot."""
    PROJECT_JOBS = 6
    """project id (8) + job id (8) -> empty."""
    IDEMPOTENCY = 7
    """scope and key, hashed (16) -> object id, body hash, expiry."""
    EXPIRIES = 8
    """due time in ms (8) + kind (1) + key -> empty: what a sweeper removes."""
    KV_LOCAL = 9
    """namespace id (8) + user key -> value, version, expiry. Never leaves the node."""
    BLOBS = 10
    """blob id (8) -> attributes."""
    PROJECT_BLOBS = 11
    """project id (8) + blob id (8) -> empty."""
    BLOCKS = 12
    """CID -> bytes of a block of at most 64 KiB."""
    BLOCK_REFS = 13
    """CID -> number of references, as a counter (see `Batch.adds`)."""
    WORKERS = 14
    """worker id (8) -> attributes. Never leaves the node."""
    VAULT = 15
    """user id (8) -> wrapped key. Never leaves the node."""
    LOGS = 16
    """job id (8) + sequence (8) -> log lines of a finished job."""
    DEAD = 17
    """id (8) -> deletion time: ids that are deleted for ever."""
    NAMES = 18
    """class (1) + owner id (8) + name -> id: uniqueness at the home node."""
    USAGE = 19
    """project id (8) + meter (1) -> counter (see `Batch.adds`)."""
    KV_KEYS = 20
    """namespace id (8) + user key -> empty: the keys that a global namespace has ever had."""
    ENTRIES = 21
    """slot (16) + author (8) -> signed record: entries of global namespaces."""
    KV_SPACES = 22
    """namespace id (8) -> attributes of a local namespace. Never leaves the node."""
    FOREIGN_JOBS = 23
    """job id (8) of another node -> when it was seen, its request and its home's snapshot."""
    FOREIGN_BLOBS = 24
    """blob id (8) of another node -> when it was seen, its attributes."""
    FOREIGN_CONTENT = 25
    """CID of fetched content (36) -> its size, whether all of it is here, when it was used."""
    FOREIGN_PARTS = 26
    """CID of fetched content (36) + CID of a block of it that is here (36) -> its size (4)."""
    SOURCES = 27
    """function id (8) + CID (36) -> empty: sources that this node refers to."""


Put: TypeAlias = tuple[Table, bytes, bytes]
Delete: TypeAlias = tuple[Table, bytes]
Add: TypeAlias = tuple[Table, bytes, int]
Expect: TypeAlias = tuple[Table, bytes, bytes | None]


class Batch(msgspec.Struct, frozen=True):
    """What is written together, and what must be so for it to be written.

    `puts` set rows, `deletes` remove them (a missing row is no error).  `adds` change counters:
    rows of 8 bytes, signed and big-endian; a missing row counts as 0 and one that reaches 0 is
    removed.  `expects` name the value a row must have, or `None` for "no such row".
    """

    puts: Sequence[Put] = ()
    deletes: Sequence[Delete] = ()
    adds: Sequence[Add] = ()
    expects: Sequence[Expect] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """The first expectation that did not hold, and what was there instead."""

    table: Table
    key: bytes
    found: bytes | None


Result: TypeAlias = Conflict | StoreError | None
"""What became of a batch: `None` is "durable"; an error is `StoreFull` or `StoreClosed`."""

Done: TypeAlias = Callable[[Result], None]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A store's own figures, for metrics and for tests."""

    used_bytes: int
    capacity_bytes: int
    queued_batches: int
    commits: int
    committed_batches: int


class Store(Protocol):
    """Ordered tables of bytes. See the module's rules."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the committed value of `key`, or `None`."""
        ...

    def scan(
        self,
        table: Table,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` committed rows with `start <= key < stop`, in key order.

        `stop=None` is the end of the table.  `reverse` gives the last rows first.
        """
        ...

    def submit(self, batch: Batch, done: Done | None = None, *, lazy: bool = False) -> None:
        """Queue `batch`; call `done` once, in the loop's thread, with what became of it.

        `lazy` does not start a commit: the batch rides on the next one.  Never raises for what is
        wrong with the disk; that is the result.
        """
        ...

    def apply(self, batch: Batch) -> Conflict | None:
        """Commit `batch` now and block until it is durable: for start-up and offline commands.

        Raises `StoreFull` or `StoreClosed`.
        """
        ...

    def statistics(self) -> Statistics:
        """Return figures about this store."""
        ...

    def close(self) -> None:
        """Commit what is queued and release the files. Later calls raise `StoreClosed`."""
        ...
