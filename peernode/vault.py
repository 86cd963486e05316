"""Where a user's keys lie at its home node: sealed under its password, useless without the pepper.

    KEK = BLAKE2b(argon2id(password, salt), key = pepper)
    row = header, salt, nonce, secretbox(KEK, key seed and next key seed)

The row is in `Table.VAULT`; the pepper is a file outside the database, so that a copy of the
database alone cannot be attacked by guessing, however weak the passwords.  Neither leaves the node.

Rules:

* A password that is wrong and a user that has no row are told apart neither by the answer nor by
  the time it takes.  (A row sealed under an older, cheaper configuration takes that one's time.)
* A row says what its key cost, so a new configuration opens old rows.
* Passwords are compared as NFC: the same characters typed on another keyboard are the same.

`seal` and `open` are slow by design, 0.14 s and 64 MiB by default, and free the interpreter
meanwhile: a driver calls them in a thread, at most `LOGIN_CONCURRENCY_MAX` at once, and reads and
writes rows in its own.

What it leaves out: rate limits (`rate_limits`), and what the keys then sign (`sessions`).
"""

import hashlib
import os
import stat
import struct
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import nacl.exceptions
import nacl.pwhash
import nacl.secret

from peernode.problems import Problem
from storage.clock import Entropy
from storage.store import Put, Store, Table

LOGIN_CONCURRENCY_MAX: Final = 2
"""Passwords looked at at once. Source: 64 MiB each; more would let callers take the memory."""

PASSWORD_LENGTH_MIN: Final = 8
"""Least characters of a password. Source: NIST SP 800-63B, 5.1.1.1."""
PASSWORD_LENGTH_MAX: Final = 1024
"""Most characters of a password. Source: guess; beyond any passphrase."""

PASSES_MAX: Final = 64
MEMORY_MAX_BYTES: Final = 1 << 30
"""Most that a password may cost: a damaged row must not take the node down. Source: guess."""

SECRET_SIZE_BYTES: Final = 32
"""Size of a pepper, of a key seed and of an operator's secret."""

_FILE_SIZE_MAX_BYTES: Final = 4096
"""Most that is read of a secret file. Source: far more than any of ours."""

_FORMAT: Final = 1
_HEADER: Final = struct.Struct(">BIQ")
"""Format, argon2id passes, argon2id memory in bytes."""
_SALT_SIZE_BYTES: Final = 16
_NONCE_SIZE_BYTES: Final = 24
_SEALED_SIZE_BYTES: Final = 2 * SECRET_SIZE_BYTES + 16
ROW_SIZE_BYTES: Final = _HEADER.size + _SALT_SIZE_BYTES + _NONCE_SIZE_BYTES + _SEALED_SIZE_BYTES
"""Size of every row."""
_PERSONALISATION: Final = b"peernode/vault/1"
_TOKEN_PERSONALISATION: Final = b"pn-token-vault1"


class SecretFileError(Exception):
    """A file that holds a secret cannot be used; the message says why and what to do."""


class VaultRowError(Exception):
    """A row of the vault is not one of ours: the disk, or whoever wrote to it, is at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a password costs to try. Raises `ValueError` for what no row may ask for."""

    memory_bytes: int = 64 << 20
    """argon2id memory. Source: OWASP asks for 19 MiB at least."""
    passes: int = 3
    """argon2id passes. Source: with 64 MiB, 0.14 s on the reference machine."""

    def __post_init__(self) -> None:
        if not nacl.pwhash.argon2id.MEMLIMIT_MIN <= self.memory_bytes <= MEMORY_MAX_BYTES:
            raise ValueError(f"password memory: {self.memory_bytes} bytes")
        if not 1 <= self.passes <= PASSES_MAX:
            raise ValueError(f"password passes: {self.passes}")


@dataclass(frozen=True, slots=True)
class Seeds:
    """The secrets of a user: the seeds of its present signing key and of the one after it."""

    key: bytes = field(repr=False)
    next_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != SECRET_SIZE_BYTES or len(self.next_key) != SECRET_SIZE_BYTES:
            raise ValueError(f"a seed is {SECRET_SIZE_BYTES} bytes")


class Vault:
    """The sealed keys of the users whose home is this node."""

    def __init__(
        self, store: Store, pepper: bytes, entropy: Entropy, config: Config | None = None
    ) -> None:
        if len(pepper) != SECRET_SIZE_BYTES:
            raise ValueError(f"a pepper is {SECRET_SIZE_BYTES} bytes")
        self._store = store
        self._pepper = pepper
        self._entropy = entropy
        self._config = config or Config()
        # Opens for no password, and costs what a real row costs.
        self._nobody = self._header() + entropy.token_bytes(ROW_SIZE_BYTES - _HEADER.size)

    def row(self, user: int) -> bytes | None:
        """Return the row of `user`, or `None`. Reads the store: call it in the loop's thread."""
        return self._store.get(Table.VAULT, user.to_bytes(8, "big"))

    def put(self, user: int, row: bytes) -> Put:
        """Return what a batch writes to keep `row` as that of `user`."""
        return Table.VAULT, user.to_bytes(8, "big"), row

    def seal(self, password: str, seeds: Seeds, *, name: str = "password") -> bytes:
        """Return a new row that opens with `password`. Slow.

        Raises the `Problem` `invalid_field` for a password that is against the rules; `name` is
        what the request calls it.
        """
        password_bytes = normalise(password, name=name)
        salt = self._entropy.token_bytes(_SALT_SIZE_BYTES)
        nonce = self._entropy.token_bytes(_NONCE_SIZE_BYTES)
        config = self._config
        box = self._box(password_bytes, salt, config.passes, config.memory_bytes)
        sealed = box.encrypt(seeds.key + seeds.next_key, nonce).ciphertext
        return self._header() + salt + nonce + sealed

    def open(self, row: bytes | None, password: str, *, name: str = "password") -> Seeds:
        """Return what `row` holds. Slow, and as slow for `None`: a user that is not known.

        Raises the `Problem` `wrong_credentials`, or `invalid_field` for what cannot be anyone's
        password; and `VaultRowError` for a row that we did not write.
        """
        password_bytes = normalise(password, name=name)
        passes, memory_bytes, salt, nonce, sealed = _parse(self._nobody if row is None else row)
        box = self._box(password_bytes, salt, passes, memory_bytes)
        try:
            secrets = box.decrypt(sealed, nonce)
        except nacl.exceptions.CryptoError:
            raise Problem("wrong_credentials", "the name or the password is wrong") from None
        return Seeds(secrets[:SECRET_SIZE_BYTES], secrets[SECRET_SIZE_BYTES:])

    def seal_for_token(self, secret: bytes, seeds: Seeds) -> bytes:
        """Return a row that opens with a token's secret, which needs no slow hash: it is random."""
        nonce = self._entropy.token_bytes(_NONCE_SIZE_BYTES)
        return nonce + self._token_box(secret).encrypt(seeds.key + seeds.next_key, nonce).ciphertext

    def open_for_token(self, row: bytes, secret: bytes) -> Seeds:
        """Return what a row of `seal_for_token` holds; raises the `Problem` `wrong_credentials`."""
        try:
            secrets = self._token_box(secret).decrypt(
                row[_NONCE_SIZE_BYTES:], row[:_NONCE_SIZE_BYTES]
            )
        except (nacl.exceptions.CryptoError, ValueError):
            raise Problem("wrong_credentials", "this token does not open the user's key") from None
        return Seeds(secrets[:SECRET_SIZE_BYTES], secrets[SECRET_SIZE_BYTES:])

    def _token_box(self, secret: bytes) -> nacl.secret.SecretBox:
        key = hashlib.blake2b(
            secret, key=self._pepper, digest_size=SECRET_SIZE_BYTES, person=_TOKEN_PERSONALISATION
        ).digest()
        return nacl.secret.SecretBox(key)

    def _header(self) -> bytes:
        return _HEADER.pack(_FORMAT, self._config.passes, self._config.memory_bytes)

    def _box(
        self, password: bytes, salt: bytes, passes: int, memory_bytes: int
    ) -> nacl.secret.SecretBox:
        stretched = nacl.pwhash.argon2id.kdf(
            SECRET_SIZE_BYTES, password, salt, opslimit=passes, memlimit=memory_bytes
        )
        key = hashlib.blake2b(
            stretched, key=self._pepper, digest_size=SECRET_SIZE_BYTES, person=_PERSONALISATION
        ).digest()
        return nacl.secret.SecretBox(key)


def _parse(row: bytes) -> tuple[int, int, bytes, bytes, bytes]:
    """Return passes, memory in bytes, salt, nonce and what is sealed."""
    if len(row) != ROW_SIZE_BYTES:
        raise VaultRowError(f"a vault row of {len(row)} bytes instead of {ROW_SIZE_BYTES}")
    format_number, passes, memory_bytes = _HEADER.unpack_from(row)
    if format_number != _FORMAT:
        raise VaultRowError(f"a vault row of format {format_number}; this build reads {_FORMAT}")
    if not (0 < passes <= PASSES_MAX and 0 < memory_bytes <= MEMORY_MAX_BYTES):
        raise VaultRowError(f"a vault row that asks for {passes} passes, {memory_bytes} bytes")
    nonce_at = _HEADER.size + _SALT_SIZE_BYTES
    sealed_at = nonce_at + _NONCE_SIZE_BYTES
    return (
        passes,
        memory_bytes,
        row[_HEADER.size : nonce_at],
        row[nonce_at:sealed_at],
        row[sealed_at:],
    )


def normalise(password: str, *, name: str = "password") -> bytes:
    """Return the bytes of `password` that are hashed: UTF-8 of its NFC.

    Raises the `Problem` `invalid_field`, which names the field and never the password.
    """
    if len(password) > PASSWORD_LENGTH_MAX:
        raise Problem(
            "invalid_field",
            f"{name}: longer than {PASSWORD_LENGTH_MAX} characters",
            field=name,
            limit=PASSWORD_LENGTH_MAX,
        )
    composed = unicodedata.normalize("NFC", password)
    if len(composed) < PASSWORD_LENGTH_MIN:
        raise Problem(
            "invalid_field",
            f"{name}: shorter than {PASSWORD_LENGTH_MIN} characters",
            field=name,
            limit=PASSWORD_LENGTH_MIN,
        )
    try:
        return composed.encode("utf-8")
    except UnicodeEncodeError:
        raise Problem("invalid_field", f"{name}: not Unicode text", field=name) from None


def load_secret_file(path: Path, entropy: Entropy, size_bytes: int = SECRET_SIZE_BYTES) -> bytes:
    """Return the secret kept in `path`, made on first use: raw bytes, mode 0600.

    For the pepper and for a node's key seed.  Raises `SecretFileError`.
    """
    return _load(path, lambda: entropy.token_bytes(size_bytes), size_bytes)


def load_secret_text(path: Path, make: Callable[[], str]) -> str:
    """Return the one line of text kept in `path`, made by `make` on first use, mode 0600.

    For the operator's token, which people read with `cat`.  Raises `SecretFileError`.
    """
    content = _load(path, lambda: make().encode("ascii") + b"\n", None)
    try:
        text = content.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise SecretFileError(f"{path}: holds no token; remove it, and a new one is made")
    return text


def _load(path: Path, make: Callable[[], bytes], size_bytes: int | None) -> bytes:
    try:
        if not path.exists():
            _create(path, make())
        return _read(path, size_bytes)
    except OSError as error:
        raise SecretFileError(f"{path}: {error.strerror or error}") from None


def _read(path: Path, size_bytes: int | None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretFileError(f"{path}: not a plain file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise SecretFileError(
                f"{path}: other users of this machine may use it (mode {mode:04o}); "
                f"run: chmod 600 {path}"
            )
        content = file.read(_FILE_SIZE_MAX_BYTES)
    if size_bytes is not None and len(content) != size_bytes:
        raise SecretFileError(
            f"{path}: {len(content)} bytes instead of {size_bytes}; restore it from a backup"
        )
    return content


def _create(path: Path, content: bytes) -> None:
    """Make `path` appear whole and durable, or leave the one that another process just made."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        os.unlink(name)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
