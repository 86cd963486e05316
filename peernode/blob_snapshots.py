"""A blob's attributes as they travel, and a home's word that a job may read it.

    attributes  [body, seal of the home];  body = [1, blob, row, issued, expires]
    pass        [body, seal of the home];  body = [1, blob, CID, node, issued, expires]

Both are signed when they leave the home.  Whoever holds *attributes* can show them to anyone while
they last, a day at most: so a blob that its home has deleted is forgotten everywhere by then, also
where the home was never asked again.  The right of whoever reads is judged besides, always.

A *pass* is what a job has in the place of its caller's rights: when the job is handed in, the
caller shows the blob's home that he may read it, and the home says that this node may have this
content for a job.  It is good at its home for as long as a job may wait, and for a day at other
nodes.  It names one node, so it is worth nothing to any other.
"""

from typing import Annotated, Final, Literal

import msgspec

from peernode.content import BlobRow, decode_row, encode_row
from peernode.timestamps import TIME_MAX_MS
from storage import cid as cids, codec
from storage.cid import CID_SIZE_BYTES, CONTENT_SIZE_MAX_BYTES
from storage.errors import RecordError, SignatureError
from storage.facts import NodeNumber
from storage.ids import Id
from storage.signing import Keypair, Seal

ATTRIBUTES_KIND: Final = "blob-attributes"
PASS_KIND: Final = "blob-pass"  # noqa: S105  (no password)
"""What a home node signs them as."""
LASTING_MS: Final = 24 * 3600 * 1000
"""How long what a home said is good without it. Source: guess; a working day and a night."""
PASS_LASTING_MS: Final = 7 * LASTING_MS
"""How long a home knows its pass again. Source: guess; longer than jobs are expected to wait."""
SIZE_MAX_BYTES: Final = 8 * 1024
"""Largest of either. Source: guess; attributes are at most 3 KiB."""

TimeMs = Annotated[int, msgspec.Meta(ge=0, le=TIME_MAX_MS)]
CidBytes = Annotated[bytes, msgspec.Meta(min_length=CID_SIZE_BYTES, max_length=CID_SIZE_BYTES)]


class _Attributes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    blob: Id
    row: bytes
    issued_ms: TimeMs
    expires_ms: TimeMs


class Pass(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A home's word that a node may have a blob's content, for a job."""

    version: Literal[1]
    blob: Id
    cid: CidBytes
    node: NodeNumber
    issued_ms: TimeMs
    expires_ms: TimeMs


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: bytes
    seal: Seal


class Attributes(msgspec.Struct, frozen=True):
    """A blob's attributes, and from when to when they are good."""

    row: BlobRow
    issued_ms: int
    expires_ms: int


def sign(home: Keypair, mesh: bytes, blob: int, row: BlobRow, now_ms: int) -> bytes:
    """Return the attributes of a blob of this node."""
    expires_ms = now_ms + LASTING_MS
    if row.delete_after_ms:
        expires_ms = max(now_ms, min(expires_ms, row.delete_after_ms))
    return _sign(
        home, mesh, ATTRIBUTES_KIND, _Attributes(1, blob, encode_row(row), now_ms, expires_ms)
    )


def verify(data: bytes, mesh: bytes, blob: int, home_key: bytes) -> Attributes:
    """Return the attributes of `blob` in `data`, signed by its home. Raises `InvalidData`."""
    signed = codec.decode_struct(data, SIZE_MAX_BYTES, _Signed)
    if signed.seal.public_key != home_key:
        raise SignatureError("attributes that are not signed by the blob's home")
    signed.seal.verify(ATTRIBUTES_KIND, mesh, signed.body)
    return read(data, blob)


def read(data: bytes, blob: int) -> Attributes:
    """Return attributes whose signature was checked before. Raises `InvalidData`."""
    body = codec.decode_struct(data, SIZE_MAX_BYTES, _Signed).body
    said = codec.decode_struct(body, SIZE_MAX_BYTES, _Attributes)
    if said.blob != blob:
        raise RecordError("the attributes of another blob")
    if not 0 <= said.expires_ms - said.issued_ms <= LASTING_MS:
        raise RecordError("attributes that last too long")
    return Attributes(_checked(said.row), said.issued_ms, said.expires_ms)


def sign_pass(home: Keypair, mesh: bytes, blob: int, cid: bytes, node: int, now_ms: int) -> bytes:
    """Return the pass of a node for a blob of this one."""
    return _sign(home, mesh, PASS_KIND, Pass(1, blob, cid, node, now_ms, now_ms + PASS_LASTING_MS))


def read_pass(data: bytes, mesh: bytes, home_key: bytes) -> Pass:
    """Return the pass in `data`, signed by a home. Raises `InvalidData`: it may be none at all."""
    signed = codec.decode_struct(data, SIZE_MAX_BYTES, _Signed)
    found = codec.decode_struct(signed.body, SIZE_MAX_BYTES, Pass)
    if signed.seal.public_key != home_key:
        raise SignatureError("a pass that is not signed by the blob's home")
    signed.seal.verify(PASS_KIND, mesh, signed.body)
    return found


def _sign(home: Keypair, mesh: bytes, kind: str, said: _Attributes | Pass) -> bytes:
    body = codec.encode_struct(said)
    return codec.encode_struct(_Signed(body, home.seal(kind, mesh, body)))


def _checked(encoded: bytes) -> BlobRow:
    """Return attributes that another node sent. Raises `InvalidData`."""
    try:
        row = decode_row(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not a blob's attributes: {error}") from None
    cids.from_bytes(row.cid)
    times = (row.created_ms, row.delete_after_ms)
    if not all(0 <= at_ms <= TIME_MAX_MS for at_ms in times):
        raise RecordError("a time outside of all years")
    if not 0 <= row.size_bytes <= CONTENT_SIZE_MAX_BYTES:
        raise RecordError("an impossible size")
    if not row.media_type.isascii() or not row.media_type.isprintable():
        raise RecordError("not a media type")
    return row
