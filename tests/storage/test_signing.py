import hashlib

import nacl.signing
import pytest
from hypothesis import example, given, strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from storage import signing
from storage.errors import InvalidData, SignatureError
from storage.signing import NO_MESH, Keypair, Seal

MESH = b"m" * 32
KEYS = Keypair.from_seed(b"k" * 32)
seeds = st.binary(min_size=32, max_size=32)
ORDER = 2**252 + 27742317777372353535851937790883648493


@given(seeds, st.binary(max_size=100))
def test_a_signature_verifies(seed: bytes, body: bytes) -> None:
    keys = Keypair.from_seed(seed)
    assert keys.seed == seed
    signature = keys.sign("record", MESH, body)
    signing.verify(keys.public_key, "record", MESH, body, signature)
    keys.seal("record", MESH, body).verify("record", MESH, body)
    assert keys.seal("record", MESH, body) == Seal(keys.public_key, signature)


def test_signatures_are_those_of_rfc_8032_over_the_documented_bytes() -> None:
    message = b"peernode/1/record\0" + MESH + b"body"
    theirs = nacl.signing.SigningKey(KEYS.seed).sign(message).signature
    assert KEYS.sign("record", MESH, b"body") == theirs


def test_a_signature_is_worth_nothing_for_another_purpose_mesh_body_or_key() -> None:
    signature = KEYS.sign("record", MESH, b"body")
    other = Keypair.from_seed(b"o" * 32).public_key
    for key, kind, mesh, body in [
        (KEYS.public_key, "fact", MESH, b"body"),
        (KEYS.public_key, "record", NO_MESH, b"body"),
        (KEYS.public_key, "record", MESH, b"body2"),
        (other, "record", MESH, b"body"),
    ]:
        with pytest.raises(SignatureError):
            signing.verify(key, kind, mesh, body, signature)


def test_a_second_signature_cannot_be_made_from_a_first() -> None:
    signature = KEYS.sign("record", MESH, b"body")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    malleated = signature[:32] + scalar.to_bytes(32, "little")
    with pytest.raises(SignatureError):
        signing.verify(KEYS.public_key, "record", MESH, b"body", malleated)


@pytest.mark.parametrize(
    "key",
    [
        bytes(32),  # of order 4
        b"\x01" + bytes(31),  # the neutral point
        b"\xec" + b"\xff" * 30 + b"\x7f",  # of order 2
        b"\xee" + b"\xff" * 30 + b"\x7f",  # 1, not canonical
        b"\xff" * 32,
        b"short",
        bytes(33),
    ],
)
def test_keys_that_verify_too_much_are_refused(key: bytes) -> None:
    for signature in (bytes(64), b"\x01" + bytes(63)):
        with pytest.raises(SignatureError):
            signing.verify(key, "record", MESH, b"body", signature)


def test_a_signature_of_another_length_is_refused() -> None:
    signature = KEYS.sign("record", MESH, b"body")
    for other in (b"", signature[:-1], signature + b"\0"):
        with pytest.raises(SignatureError):
            signing.verify(KEYS.public_key, "record", MESH, b"body", other)


@pytest.mark.parametrize("kind", ["", "a\0b"])
def test_a_kind_cannot_run_into_what_follows(kind: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        KEYS.sign(kind, MESH, b"")


def test_lengths_are_checked_where_they_matter() -> None:
    with pytest.raises(ValueError, match="mesh"):
        KEYS.sign("record", b"short", b"")
    with pytest.raises(ValueError, match="seed"):
        Keypair.from_seed(b"short")
    with pytest.raises(ValueError, match="public key"):
        signing.peer_id(b"short")


def test_a_key_pair_does_not_show_its_secret() -> None:
    assert KEYS.seed.hex() not in repr(KEYS)
    assert repr(KEYS.seed) not in repr(KEYS)


def test_fingerprints_of_two_kinds_differ() -> None:
    assert signing.fingerprint("a", b"x") == hashlib.sha256(b"peernode/1/a\0x").digest()
    assert signing.fingerprint("a", b"x") != signing.fingerprint("b", b"x")


@given(seeds)
def test_a_peer_id_is_the_one_libp2p_gives(seed: bytes) -> None:
    theirs = create_new_key_pair(seed).public_key
    ours = Keypair.from_seed(seed).public_key
    assert theirs.to_bytes() == ours
    written = signing.peer_id(ours)
    assert written == ID.from_pubkey(theirs).to_string()
    assert written.startswith("12D3KooW")
    assert signing.parse_peer_id(written) == ours


@given(st.text(max_size=60) | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabc", min_size=51))
@example("1" + "z" * 51)
@example("1" + "0" * 51)
@example("1" * 52)
@example("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
def test_text_that_is_no_peer_id_is_refused(written: str) -> None:
    try:
        key = signing.parse_peer_id(written)
    except InvalidData:
        return
    assert signing.peer_id(key) == written


def test_bytes_of_another_protocol_are_signed_as_they_are() -> None:
    keys = Keypair.from_seed(b"k" * 32)
    signature = keys.sign_bytes(b"libp2p-pubsub:hello")
    assert signing.is_signed(keys.public_key, signature, b"libp2p-pubsub:hello")
    assert not signing.is_signed(keys.public_key, signature, b"libp2p-pubsub:hullo")
    assert not signing.is_signed(bytes(32), signature, b"libp2p-pubsub:hello")
    assert not signing.is_signed(b"short", signature, b"libp2p-pubsub:hello")
    assert not signing.is_signed(keys.public_key, b"short", b"libp2p-pubsub:hello")


def test_bytes_that_would_pass_for_a_message_of_ours_are_not_signed() -> None:
    keys = Keypair.from_seed(b"k" * 32)
    with pytest.raises(ValueError, match="purpose"):
        keys.sign_bytes(b"peernode/1/record\0" + bytes(32) + b"body")
