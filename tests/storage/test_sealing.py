"""What is sealed opens for whom it is meant, as what it was meant, and not otherwise."""

import nacl.bindings
import pytest
from hypothesis import given, settings, strategies as st

from storage.errors import InvalidData
from storage.sealing import (
    BOX_SIZE_BYTES,
    CONTENT_OVERHEAD_BYTES,
    decrypt,
    encrypt,
    open_key,
    seal_key,
)
from storage.signing import Keypair

ADA, BOB = Keypair.from_seed(b"a" * 32), Keypair.from_seed(b"b" * 32)
KEY, SEED = b"k" * 32, b"s" * 32
THIRTY_TWO = st.binary(min_size=32, max_size=32)


@settings(deadline=None)
@given(THIRTY_TWO, THIRTY_TWO, st.binary(max_size=5000), st.binary(max_size=100))
def test_what_is_sealed_opens_again(key: bytes, seed: bytes, value: bytes, context: bytes) -> None:
    content, box = encrypt(key, value, context), seal_key(ADA.public_key, key, seed)
    assert len(content) == len(value) + CONTENT_OVERHEAD_BYTES
    assert len(box) == BOX_SIZE_BYTES
    assert decrypt(open_key(ADA, box), content, context) == value


def test_a_box_opens_for_nobody_else() -> None:
    box = seal_key(ADA.public_key, KEY, SEED)
    with pytest.raises(InvalidData):
        open_key(BOB, box)


def test_a_content_opens_only_as_what_it_was_made_for() -> None:
    content = encrypt(KEY, b"value", b"one project")
    with pytest.raises(InvalidData):
        decrypt(KEY, content, b"another project")
    with pytest.raises(InvalidData):
        decrypt(b"x" * 32, content, b"one project")


def test_a_box_is_libsodiums_sealed_box() -> None:
    public_key = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(BOB.public_key)
    assert open_key(BOB, nacl.bindings.crypto_box_seal(KEY, public_key)) == KEY


@given(st.integers(0, BOX_SIZE_BYTES - 1), st.integers(1, 255))
def test_a_box_that_was_touched_does_not_open(at: int, change: int) -> None:
    box = bytearray(seal_key(ADA.public_key, KEY, SEED))
    box[at] ^= change
    with pytest.raises(InvalidData):
        assert open_key(ADA, bytes(box)) != KEY


@given(st.binary(max_size=200))
def test_anything_for_a_box_or_a_content_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidData):
        open_key(ADA, data)
    with pytest.raises(InvalidData):
        decrypt(KEY, data, b"")


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"short"])
def test_a_reader_that_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(InvalidData):
        seal_key(key, KEY, SEED)
