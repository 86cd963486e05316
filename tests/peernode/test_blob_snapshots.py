"""What a home says of its blobs: signed, for a while, and nothing else is taken."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from peernode import blob_snapshots
from peernode.blob_snapshots import LASTING_MS, PASS_LASTING_MS
from peernode.content import BlobRow
from storage import certificates, cid, codec, ids
from storage.errors import InvalidData
from storage.signing import Keypair

GOLDEN = Path(__file__).parent / "golden" / "blob_snapshots.hex"
HOME = Keypair.from_seed(b"h" * 32)
OTHER = Keypair.from_seed(b"o" * 32)
MESH = b"m" * 32
NOW_MS = 1_800_000_000_000
BLOB = ids.pack(NOW_MS, 1, 0)
ROW = BlobRow(
    cid=bytes(cid.raw_leaf(b"bytes")),
    size_bytes=5,
    media_type="text/plain",
    name="a name",
    project=7 << 20,
    owner=9 << 20,
    created_ms=NOW_MS,
)


def signed(row: BlobRow = ROW, keypair: Keypair = HOME) -> bytes:
    return blob_snapshots.sign(keypair, MESH, BLOB, row, NOW_MS)


def passed(keypair: Keypair = HOME) -> bytes:
    return blob_snapshots.sign_pass(keypair, MESH, BLOB, ROW.cid, 2, NOW_MS)


def test_golden_bytes() -> None:
    """These bytes are what other versions read and write. A new layout is a new version."""
    assert GOLDEN.read_text().split() == [signed().hex(), passed().hex()]


def test_what_was_signed_is_read_back() -> None:
    found = blob_snapshots.verify(signed(), MESH, BLOB, HOME.public_key)
    assert (found.row, found.issued_ms, found.expires_ms) == (ROW, NOW_MS, NOW_MS + LASTING_MS)
    right = blob_snapshots.read_pass(passed(), MESH, HOME.public_key)
    assert (right.blob, right.cid, right.node) == (BLOB, ROW.cid, 2)
    assert right.expires_ms == NOW_MS + PASS_LASTING_MS


@pytest.mark.parametrize(("after_ms", "lasts_ms"), [(500, 500), (2 * LASTING_MS, LASTING_MS)])
def test_a_blob_that_is_to_be_deleted_is_known_until_then_at_most(
    after_ms: int, lasts_ms: int
) -> None:
    row = msgspec.structs.replace(ROW, delete_after_ms=NOW_MS + after_ms)
    found = blob_snapshots.verify(signed(row), MESH, BLOB, HOME.public_key)
    assert found.expires_ms - NOW_MS == lasts_ms


@pytest.mark.parametrize(
    ("mesh", "blob", "key"),
    [
        (b"n" * 32, BLOB, HOME.public_key),
        (MESH, BLOB + 1, HOME.public_key),
        (MESH, BLOB, OTHER.public_key),
    ],
)
def test_it_is_good_for_one_blob_of_one_home_in_one_mesh(
    mesh: bytes, blob: int, key: bytes
) -> None:
    with pytest.raises(InvalidData):
        blob_snapshots.verify(signed(), mesh, blob, key)
    if blob == BLOB:
        with pytest.raises(InvalidData):
            blob_snapshots.read_pass(passed(), mesh, key)


def test_neither_is_the_other_nor_a_certificate() -> None:
    terms = certificates.Terms(
        user=9 << 20,
        epoch=0,
        audience=(HOME.public_key,),
        scopes=("*",),
        not_before_ms=0,
        expires_ms=NOW_MS,
        secret_hash=bytes(32),
        jti=bytes(8),
    )
    certificate = certificates.issue(HOME, MESH, terms).encoded
    for data in (signed(), certificate, b""):
        with pytest.raises(InvalidData):
            blob_snapshots.read_pass(data, MESH, HOME.public_key)
    for data in (passed(), certificate, b""):
        with pytest.raises(InvalidData):
            blob_snapshots.verify(data, MESH, BLOB, HOME.public_key)


@pytest.mark.parametrize(
    "changes",
    [
        {"cid": b"none"},
        {"size_bytes": -1},
        {"size_bytes": 1 << 62},
        {"media_type": "a\r\nb"},
        {"media_type": "é"},
        {"created_ms": -1},
        {"delete_after_ms": 1 << 60},
    ],
)
def test_a_home_that_lies_about_itself_is_not_shown(changes: dict[str, object]) -> None:
    row = msgspec.structs.replace(ROW, **changes)
    with pytest.raises(InvalidData):
        blob_snapshots.verify(signed(row), MESH, BLOB, HOME.public_key)


def test_attributes_for_longer_than_a_day_are_refused() -> None:
    outer = codec.decode(signed(), 8192)
    body = codec.decode(outer[0], 8192)
    body[4] = NOW_MS + LASTING_MS + 1
    encoded = codec.encode(body)
    seal = HOME.seal(blob_snapshots.ATTRIBUTES_KIND, MESH, encoded)
    data = codec.encode([encoded, msgspec.to_builtins(seal, builtin_types=(bytes,))])
    with pytest.raises(InvalidData, match="too long"):
        blob_snapshots.verify(data, MESH, BLOB, HOME.public_key)


@given(st.data())
def test_noise_is_refused(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([signed(), passed()]))
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    noise = whole[:at] + bytes([byte]) + whole[at + 1 :]
    for frame in (noise, whole[:at], data.draw(st.binary(max_size=64))):
        with pytest.raises(InvalidData):
            blob_snapshots.verify(frame, MESH, BLOB, HOME.public_key)
        with pytest.raises(InvalidData):
            blob_snapshots.read_pass(frame, MESH, HOME.public_key)
