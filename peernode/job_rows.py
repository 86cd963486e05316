"""How jobs are kept: three rows, each with its version in front.

* The *request* (`Table.JOBS`) is immutable.  Its row is deterministic CBOR, so its CID, the job's
  `request_cid`, is that of the row's bytes, and any node that holds them can verify them.  The
  other two never leave the node and are MessagePack, which costs an eighth of the time.
* The *lease* (`Table.LIVE`) is there while a job is not over.  It may ride on a later commit: one
  that is lost in a crash means that the attempt is handed out again under a higher fence.
* The *outcome* (`Table.OUTCOMES`) is written once, in the batch that deletes the lease.
"""

from typing import Any, Final, NamedTuple

import msgspec

from storage import codec
from storage.errors import RecordError

VERSION: Final = 1
FIELDS_MIN: Final = 10
"""Fields that every request has; later ones are left out where they are empty."""


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
    passes: list[list[Any]] = []  # noqa: RUF012  (never changed, as `Lease.lost_on`)
    """[blob id, its home's pass (`blob_snapshots`)] of granted blobs of other nodes."""
    certificate: bytes = b""
    """The caller's, of a node in a mesh: for the project's blobs at other nodes."""

    def pass_for(self, blob: int) -> bytes:
        """Return the pass for a granted blob of another node, or nothing."""
        return next((passed for named, passed in self.passes if named == blob), b"")


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
    backend_fallback_from: str = ""
    """The worker's best backend where that did not run the model; rows without it are older."""


NO_LEASE: Final = b""
"""The lease of a job that was just handed in, as kept: there is nothing to say yet."""

_PREFIX: Final = bytes([VERSION])
_encode = msgspec.msgpack.Encoder().encode
_decode_lease = msgspec.msgpack.Decoder(Lease).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode


def encode_request(request: Request) -> bytes:
    """Return the bytes to keep of a request: deterministic, whatever made them."""
    fields = list(request)
    while not fields[-1] and len(fields) > FIELDS_MIN:
        fields.pop()
    return codec.dump_row([VERSION, *fields])


def encode(row: Lease | Outcome) -> bytes:
    """Return the bytes to keep."""
    if isinstance(row, Outcome) and not row.backend_fallback_from:
        return _PREFIX + _encode(row[:-1])
    return _PREFIX + _encode(row)


def decode_request(row: bytes) -> Request:
    """Return the request kept as `row`; raises `RecordError` for another version."""
    version, *fields = codec.load_row(row)
    _check(version)
    return Request(*fields)


def decode_lease(row: bytes) -> Lease:
    """Return the lease kept as `row`; raises `RecordError` for another version."""
    if not row:
        return Lease()
    _check(row[0])
    return _decode_lease(row[1:])


def decode_outcome(row: bytes) -> Outcome:
    """Return the outcome kept as `row`; raises `RecordError` for another version."""
    _check(row[0])
    return _decode_outcome(row[1:])


def _check(version: int) -> None:
    if version != VERSION:
        raise RecordError(f"a job row has version {version}; this build reads {VERSION}")
