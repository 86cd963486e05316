"""Text that only some nodes can read: encrypted once, its key sealed to each of them.

    key     = 32 fresh bytes
    content = XChaCha20-Poly1305(key, value, associated data = context)
    box     = libsodium's sealed box of the key, one for each reader

A reader is named by its Ed25519 key, the one it signs with; the X25519 key that belongs to it is
libsodium's conversion.  `context` is not in what comes out: who opens says what he takes it for,
and a content that was encrypted for something else does not open, whoever moved it there.

Rules:

* A key encrypts one value and never a second, which is why the nonce can be fixed.
* Whoever has the boxes and contents sees how long a value is, and for whom.
* No word is said of who encrypted: what is around it is signed (`records`).

What it leaves out: where random bytes come from (they are arguments), and who may read.
"""

import hashlib
from typing import Final

import nacl.bindings
import nacl.exceptions

from storage.errors import InvalidData
from storage.signing import Keypair

KEY_SIZE_BYTES: Final = 32
"""Size of a key, and of the seed that a box takes."""
BOX_SIZE_BYTES: Final = nacl.bindings.crypto_box_SEALBYTES + KEY_SIZE_BYTES
"""Size of a sealed key."""
CONTENT_OVERHEAD_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
"""What a content has more than its value."""

_NONCE: Final = bytes(nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)


def encrypt(key: bytes, value: bytes, context: bytes) -> bytes:
    """Return `value` as a content of `context`, under a key that was never used before."""
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(value, context, _NONCE, key)


def decrypt(key: bytes, content: bytes, context: bytes) -> bytes:
    """Return the value of a content; raises `InvalidData` for another key or another context."""
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            content, context, _NONCE, key
        )
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
        raise InvalidData("this content does not open as what it is taken for") from error


def seal_key(reader: bytes, key: bytes, seed: bytes) -> bytes:
    """Return a box of `key` that the holder of the Ed25519 key `reader` can open.

    `seed`: 32 random bytes of this box's own.  Raises `InvalidData` if `reader` is no such key.
    """
    try:
        public_key = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(reader)
    except (nacl.exceptions.CryptoError, RuntimeError, ValueError) as error:
        raise InvalidData("nothing can be sealed to this key") from error
    ours, secret = nacl.bindings.crypto_box_seed_keypair(seed)
    # What `crypto_box_seal` does, but for the seed: that one draws its own.
    nonce = hashlib.blake2b(ours + public_key, digest_size=24).digest()
    return ours + nacl.bindings.crypto_box(key, nonce, public_key, secret)


def open_key(reader: Keypair, box: bytes) -> bytes:
    """Return the key in a box that was sealed to `reader`; raises `InvalidData` for any other."""
    public_key = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(reader.public_key)
    signing_key = reader.seed + reader.public_key
    secret = nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(signing_key)
    try:
        return nacl.bindings.crypto_box_seal_open(box, public_key, secret)
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
        raise InvalidData("this box is for somebody else") from error
