"""How jobs are kept: three rows, each a CBOR array that starts with its version.

* The *request* (`Table.JOBS`) is immutable.  Its row is deterministic CBOR, so its CID, the job's
  `request_cid`, is that of the row's bytes, and any node that holds them can verify them.
* The *lease* (`Table.LIVE`) is there while a job is not over.  It may ride on a later commit: one
  that is lost in a crash means that the attempt is handed out again under a higher fence.
* The *outcome* (`Table.OUTCOMES`) is written once, in the batch that deletes the lease.
"""

from typing import Any, Final, NamedTuple

from storage import codec
from storage.errors import RecordError

VERSION: Final = 1


class Request(NamedTuple):
    """What was asked for, for ever."""

    function: int
    version: int
    project: int
    caller: int
    """User who handed it in."""
    parent: int
    """Job that handed it in, or 0."""
    created_ms: int
    input: bytes
    """JSON text."""
    blobs: list[list[Any]]
    """`inputs`: [name, blob id], sorted by name."""
    granted: list[int]
    """Blobs the caller could read when handing in; the job may read these besides."""
    terms: bytes
    """What the caller asked for, as `terms.to_row` gives it."""


class Lease(NamedTuple):
    """Where a job that is not over stands."""

    attempt: int = 0
    fence: int = 0
    worker: int = 0
    """0: it waits."""
    leased_ms: int = 0
    running: bool = False
    lost_on: list[int] = []  # noqa: RUF012  (never changed: a tuple would come back as a list)
    priority: int = 0


class Change(NamedTuple):
    """One state a job was in. `sequence` numbers a job's events, progress included."""

    sequence: int
    state: str
    at_ms: int
    attempt: int
    worker: int
    cause: str


class Outcome(NamedTuple):
    """How a job ended, for ever."""

    state: str
    attempt: int
    fence: int
    worker: int
    code: str
    """Empty when it succeeded."""
    payload: bytes
    """The result as JSON text, or the error's message."""
    traceback: str
    started_ms: int
    finished_ms: int
    wall_s: float
    cpu_s: float
    rss_max_bytes: int
    backend: str
    isolation: str
    progress: list[Any] | None
    """[fraction, message] as last reported."""
    history: list[list[Any]]
    """Fields of `Change`, oldest first."""


def encode(row: Request | Lease | Outcome) -> bytes:
    """Return the bytes to keep."""
    return codec.dump_row([VERSION, *row])


NO_LEASE: Final = b""
"""The lease of a job that was just handed in, as kept: there is nothing to say yet."""


def _fields(row: bytes) -> list[Any]:
    fields: list[Any] = codec.load_row(row)
    if fields[0] != VERSION:
        raise RecordError(f"a job row has version {fields[0]}; this build reads {VERSION}")
    return fields[1:]


def decode_request(row: bytes) -> Request:
    """Return the request kept as `row`; raises `RecordError` for another version."""
    return Request._make(_fields(row))


def decode_lease(row: bytes) -> Lease:
    """Return the lease kept as `row`."""
    return Lease._make(_fields(row)) if row else Lease()


def decode_outcome(row: bytes) -> Outcome:
    """Return the outcome kept as `row`."""
    return Outcome._make(_fields(row))
