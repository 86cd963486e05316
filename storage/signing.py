"""Ed25519 keys, signatures that cannot be mistaken for another's, and libp2p's name for a key.

What is signed is never a bare message but

    "peernode/1/" kind 0x00 mesh-id body

so that a signature given for one purpose, or in one mesh, is worth nothing for another.  `kind` is
a word without NUL and the mesh id has 32 bytes, so the three parts cannot run into each other.
Hashes that name things are separated in the same way.  Protocols that are not ours bring a prefix
of their own in what they sign: for them there is `sign_bytes` and `is_signed`.

Verification is libsodium's: it refuses keys of small order, keys and scalars that are not in
canonical form, and with them a second valid signature made from a first.

What it leaves out: keeping secrets (the vault's and the data directory's business), and where
random bytes come from: a seed is an argument.  SHA-256 is the hash throughout: it is what a CID
uses, and BLAKE3 would be one more dependency.  What is sealed with these keys is in `sealing`.
"""

import hashlib
from functools import lru_cache
from typing import Annotated, Final, TypeAlias

import msgspec
import nacl.bindings
import nacl.exceptions

from storage.errors import InvalidData, SignatureError

SEED_SIZE_BYTES: Final = 32
PUBLIC_KEY_SIZE_BYTES: Final = 32
SIGNATURE_SIZE_BYTES: Final = 64
HASH_SIZE_BYTES: Final = 32
MESH_ID_SIZE_BYTES: Final = HASH_SIZE_BYTES

PublicKey: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Hash: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]

NO_MESH: Final = bytes(MESH_ID_SIZE_BYTES)
"""In place of a mesh's id where there is none yet: only a genesis is signed so."""

_OURS: Final = b"peernode/1/"
_PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
"""Identity multihash of 36 bytes: a protobuf of key type 1 (Ed25519) and 32 bytes of data."""
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID_LENGTH: Final = 52
PEER_IDS_KEPT_MAX: Final = 4096
"""Peer ids that need not be worked out again, either way. Source: measured; 50 us each, and all
members are asked for theirs whenever one has changed; 1 MB."""


class Keypair:
    """A secret key and its public key. Compares by identity and never prints its secret."""

    __slots__ = ("_secret", "public_key")

    def __init__(self, secret: bytes, public_key: bytes) -> None:
        self._secret = secret
        self.public_key = public_key
        """32 bytes."""

    @classmethod
    def from_seed(cls, seed: bytes) -> "Keypair":
        """Return the key pair of a 32-byte seed. Raises `ValueError` for another length."""
        if len(seed) != SEED_SIZE_BYTES:
            raise ValueError(f"a seed has {SEED_SIZE_BYTES} bytes")
        public_key, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        return cls(secret, public_key)

    @property
    def seed(self) -> bytes:
        """The secret seed, for whoever has to keep it."""
        return self._secret[:SEED_SIZE_BYTES]

    def seal(self, kind: str, mesh: bytes, body: bytes) -> "Seal":
        """Return the signature together with the key that verifies it."""
        return Seal(self.public_key, self.sign(kind, mesh, body))

    def sign(self, kind: str, mesh: bytes, body: bytes) -> bytes:
        """Return the 64-byte signature of `body` for this purpose in this mesh."""
        signed = nacl.bindings.crypto_sign(_message(kind, mesh, body), self._secret)
        return signed[:SIGNATURE_SIZE_BYTES]

    def sign_bytes(self, message: bytes) -> bytes:
        """Return the 64-byte signature of exactly these bytes, for a protocol that is not ours.

        Raises `ValueError` for what would pass for a message of ours.
        """
        if message.startswith(_OURS):
            raise ValueError("signed for a purpose, or not at all")
        return nacl.bindings.crypto_sign(message, self._secret)[:SIGNATURE_SIZE_BYTES]


class Seal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signature and the key it claims: enough to check it, not to know whose key that is."""

    public_key: PublicKey
    signature: Signature

    def verify(self, kind: str, mesh: bytes, body: bytes) -> None:
        """Raise `SignatureError` unless the key signed `body` for this purpose in this mesh."""
        verify(self.public_key, kind, mesh, body, self.signature)


def verify(public_key: bytes, kind: str, mesh: bytes, body: bytes, signature: bytes) -> None:
    """Raise `SignatureError` unless `public_key` signed `body` for this purpose in this mesh."""
    if len(public_key) != PUBLIC_KEY_SIZE_BYTES or len(signature) != SIGNATURE_SIZE_BYTES:
        raise SignatureError("a key or signature of another length")
    if not is_signed(public_key, signature, _message(kind, mesh, body)):
        raise SignatureError(f"the signature of a {kind} does not match")


def is_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether `public_key` signed exactly these bytes (see `Keypair.sign_bytes`)."""
    if len(public_key) != PUBLIC_KEY_SIZE_BYTES or len(signature) != SIGNATURE_SIZE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def fingerprint(kind: str, body: bytes) -> bytes:
    """Return the 32-byte hash that names `body` among things of its kind."""
    return hashlib.sha256(_domain(kind) + body).digest()


@lru_cache(maxsize=PEER_IDS_KEPT_MAX)
def peer_id(public_key: bytes) -> str:
    """Return libp2p's name for an Ed25519 key: `12D3KooW...`."""
    if len(public_key) != PUBLIC_KEY_SIZE_BYTES:
        raise ValueError(f"a public key has {PUBLIC_KEY_SIZE_BYTES} bytes")
    # The leading zero byte of the prefix is written as a leading "1".
    number = int.from_bytes(_PEER_ID_PREFIX + public_key, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return "1" + "".join(reversed(digits))


@lru_cache(maxsize=PEER_IDS_KEPT_MAX)
def parse_peer_id(written: str) -> bytes:
    """Return the public key in an Ed25519 peer id. Raises `InvalidData` for any other text."""
    if len(written) != _PEER_ID_LENGTH or written[0] != "1":
        raise InvalidData("not the peer id of an Ed25519 key")
    number = 0
    for letter in written[1:]:
        digit = _BASE58.find(letter)
        if digit < 0:
            raise InvalidData("not base58")
        number = number * 58 + digit
    # 51 digits of base 58 fit into 38 bytes, whatever they are.
    size_bytes = len(_PEER_ID_PREFIX) + PUBLIC_KEY_SIZE_BYTES
    data = number.to_bytes(size_bytes, "big")
    if not data.startswith(_PEER_ID_PREFIX):
        raise InvalidData("not the peer id of an Ed25519 key")
    return data[len(_PEER_ID_PREFIX) :]


def _domain(kind: str) -> bytes:
    if not kind or "\0" in kind:
        raise ValueError("a kind is a word without NUL")
    return _OURS + kind.encode("ascii") + b"\0"


def _message(kind: str, mesh: bytes, body: bytes) -> bytes:
    if len(mesh) != MESH_ID_SIZE_BYTES:
        raise ValueError(f"a mesh id has {MESH_ID_SIZE_BYTES} bytes")
    return _domain(kind) + mesh + body
