"""A job that is over, as it travels: its request, and how it ended in its home's words.

    request   the row as its home keeps it; its CID is the job's `request_cid`
    snapshot  [body, seal of the home];  body = [1, job, request CID, outcome row]

A snapshot is signed when it leaves the node and not before.  Whoever holds both can show them to
anyone: that the request is the one that was handed in follows from its CID, that the job had this
request and this outcome from its home's signature, and whose key that is from the mesh's facts.

Both come from outside here, so every field that is shown later is checked first; that a home tells
the truth about what it ran is beyond what anyone can check.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from peernode import job_rows
from peernode.job_rows import Change, Outcome, Request
from peernode.timestamps import TIME_MAX_MS
from storage import cid as cids, codec
from storage.cid import Cid
from storage.errors import RecordError, SignatureError
from storage.ids import Id
from storage.signing import Keypair, Seal

KIND: Final = "job-snapshot"
"""What a home node signs it as."""
SIZE_MAX_BYTES: Final = (1 << 20) + 128 * 1024
"""Largest request, and largest snapshot. Source: as `gossip.fetch_messages` has it."""
ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "expired", "poisoned"})

T = TypeVar("T")


class Snapshot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a home says of a job that is over."""

    version: Literal[1]
    job: Id
    request_cid: Annotated[bytes, msgspec.Meta(min_length=36, max_length=36)]
    outcome: bytes
    """As `job_rows` keeps it."""


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: bytes
    seal: Seal


class Ended(msgspec.Struct, frozen=True):
    """A job that is over, verified: what was asked for and what came of it."""

    job: int
    request: Request
    request_cid: str
    outcome: Outcome


def sign(home: Keypair, mesh: bytes, job: int, request_row: bytes, outcome: Outcome) -> bytes:
    """Return the snapshot of a job of this node."""
    request_cid = bytes(cids.raw_leaf(request_row))
    body = codec.encode_struct(Snapshot(1, job, request_cid, job_rows.encode(outcome)))
    return codec.encode_struct(_Signed(body, home.seal(KIND, mesh, body)))


def verify(data: bytes, mesh: bytes, job: int, home_key: bytes) -> Snapshot:
    """Return the snapshot of `job` in `data`, signed by its home. Raises `InvalidData`."""
    signed = codec.decode_struct(data, SIZE_MAX_BYTES, _Signed)
    if signed.seal.public_key != home_key:
        raise SignatureError("a snapshot that is not signed by the job's home")
    signed.seal.verify(KIND, mesh, signed.body)
    snapshot = codec.decode_struct(signed.body, SIZE_MAX_BYTES, Snapshot)
    if snapshot.job != job:
        raise RecordError("the snapshot of another job")
    read_outcome(snapshot.outcome)
    return snapshot


def read(request_row: bytes, snapshot: Snapshot) -> Ended:
    """Return a job from its parts. Raises `InvalidData` unless they belong together."""
    request = check_request(request_row, snapshot.request_cid)
    request_cid = cids.text(Cid(snapshot.request_cid))
    return Ended(snapshot.job, request, request_cid, read_outcome(snapshot.outcome))


def check_request(row: bytes, request_cid: bytes) -> Request:
    """Return the request of this CID that came from another node. Raises `InvalidData`."""
    if cids.raw_leaf(row) != request_cid:
        raise SignatureError("not the request of this CID")
    fields = codec.load_message(row, SIZE_MAX_BYTES)
    if not isinstance(fields, list) or not fields or fields[0] != job_rows.VERSION:
        raise RecordError("not a request of a version that is known here")
    request = _convert(fields[1:], Request)
    _check_time(request.created_ms)
    _check_json(request.input)
    return request


def read_outcome(row: bytes) -> Outcome:
    """Return an outcome that came from another node. Raises `InvalidData`."""
    try:
        outcome = job_rows.decode_outcome(row) if row else None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not an outcome: {error}") from None
    if outcome is None or outcome.state not in ENDED or not outcome.history:
        raise RecordError("not the outcome of a job")
    for change in _convert(outcome.history, list[Change]):
        _check_time(change.at_ms)
    if outcome.progress is not None:
        _convert(outcome.progress, tuple[float | None, str])
    _check_time(outcome.started_ms)
    _check_time(outcome.finished_ms)
    if outcome.state == "succeeded":
        _check_json(outcome.payload)
    return outcome


def _convert(value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RecordError(f"of another shape: {error}") from None


def _check_time(at_ms: int) -> None:
    if not 0 <= at_ms <= TIME_MAX_MS:
        raise RecordError("a time outside of all years")


def _check_json(text: bytes) -> None:
    """Raise `RecordError` unless `text` may stand in an answer as it is."""
    try:
        text.decode()
        msgspec.json.decode(text, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise RecordError(f"not JSON: {error}") from None
