"""Secrets of a project, as they stand in its record: everybody has them, and few can read them.

A project's record is at every node of the mesh, so a secret in it is sealed (`storage.sealing`) to
the nodes that are named when it is set.  What it is sealed as is bound to the mesh, the project and
its own name: who copies it into another project, or under another name, has something that no node
opens.

Rules:

* A value is seen by the node at which it is set, while it seals it, and by those it is sealed to.
* A node opens what is sealed to itself, and only for a job of the project (`edge_calls`).
* Setting a secret again replaces it whole, nodes included: so it is taken from a node, which keeps
  whatever it has seen.  Only a new value makes the old one worthless.

What it leaves out: who may set one (`permissions`), and what becomes of the value at the worker.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

from peernode.problems import Problem
from storage import ids, sealing
from storage.clock import Entropy
from storage.errors import InvalidData, RecordError
from storage.signing import Keypair

SECRETS_MAX: Final = 32
"""Most secrets of a project. Source: guess; keys of a few services each."""
READERS_MAX: Final = 16
"""Most nodes that a secret is sealed to. Source: guess; 84 bytes each."""
VALUE_SIZE_MAX_BYTES: Final = 4096
"""Largest value, as UTF-8. Source: guess; a private RSA key of 4096 bits as PEM has 3.3 KB."""
SECRETS_SIZE_MAX_BYTES: Final = 48 * 1024
"""Most bytes of all secrets of a project, sealed. Source: what a project's record has room for."""
ENTRY_OVERHEAD_BYTES: Final = 64
"""What a secret takes beside its name, content and boxes. Source: its CBOR, rounded up."""

_PURPOSE: Final = b"peernode/1/secret\0"

SecretName: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$(?!\n)", max_length=64)
]
"""In a form that JSON Schema knows too: Python's `$` alone would allow a line end behind it."""


class SealedKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The key of a content, for one node."""

    node: Annotated[int, msgspec.Meta(ge=1, lt=ids.NODE_NUMBERS)]
    box: Annotated[
        bytes, msgspec.Meta(min_length=sealing.BOX_SIZE_BYTES, max_length=sealing.BOX_SIZE_BYTES)
    ]


class SealedSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One secret, in its project's record."""

    name: SecretName
    content: Annotated[
        bytes, msgspec.Meta(max_length=VALUE_SIZE_MAX_BYTES + sealing.CONTENT_OVERHEAD_BYTES)
    ]
    boxes: Annotated[list[SealedKey], msgspec.Meta(min_length=1, max_length=READERS_MAX)]

    @property
    def nodes(self) -> list[int]:
        """Return the numbers of the nodes that can read it, in order."""
        return [box.node for box in self.boxes]

    @property
    def size_bytes(self) -> int:
        """Return about what it takes in a record; never less."""
        boxes = len(self.boxes) * (sealing.BOX_SIZE_BYTES + 8)
        return len(self.name) + len(self.content) + boxes + ENTRY_OVERHEAD_BYTES


def seal(
    mesh: bytes,
    project: int,
    name: str,
    value: str,
    readers: Mapping[int, bytes],
    entropy: Entropy,
) -> SealedSecret:
    """Return `value` sealed to `readers`, numbers of nodes and their public keys.

    Raises a `Problem` for a value that is too large or no text, and for a key that is none.
    """
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise Problem("invalid_field", "value: not Unicode text", field="value") from None
    if not 0 < len(encoded) <= VALUE_SIZE_MAX_BYTES:
        raise Problem(
            "too_large" if encoded else "invalid_field",
            f"value: {len(encoded)} bytes; a secret has 1 to {VALUE_SIZE_MAX_BYTES}",
            field="value",
            limit=VALUE_SIZE_MAX_BYTES,
        )
    key = entropy.token_bytes(sealing.KEY_SIZE_BYTES)
    boxes = []
    for number, public_key in sorted(readers.items()):
        try:
            seed = entropy.token_bytes(sealing.KEY_SIZE_BYTES)
            boxes.append(SealedKey(number, sealing.seal_key(public_key, key, seed)))
        except InvalidData as error:
            raise Problem("conflict", f"nodes: node {number}: {error}", field="nodes") from None
    content = sealing.encrypt(key, encoded, _context(mesh, project, name))
    return SealedSecret(name=name, content=content, boxes=boxes)


def reveal(secret: SealedSecret, mesh: bytes, project: int, number: int, keypair: Keypair) -> str:
    """Return the value of a secret of `project` to node `number`, whose keys these are.

    Raises `InvalidData` for what is not sealed to it, or not as this.
    """
    for sealed in secret.boxes:
        if sealed.node == number:
            key = sealing.open_key(keypair, sealed.box)
            value = sealing.decrypt(key, secret.content, _context(mesh, project, secret.name))
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise InvalidData("the value is no text") from None
    raise InvalidData("it is not sealed to this node")


def _context(mesh: bytes, project: int, name: str) -> bytes:
    return _PURPOSE + mesh + ids.key(project) + name.encode()


def find(secrets: Iterable[SealedSecret], name: str) -> SealedSecret | None:
    """Return the secret of that name, or `None`."""
    return next((secret for secret in secrets if secret.name == name), None)


def with_secret(secrets: Sequence[SealedSecret], new: SealedSecret) -> list[SealedSecret]:
    """Return all secrets, by name, with `new` in its place; raises a `Problem` over a limit."""
    found = sorted([*without(secrets, new.name), new], key=lambda secret: secret.name)
    if len(found) > SECRETS_MAX:
        raise Problem("conflict", f"a project has at most {SECRETS_MAX} secrets", limit=SECRETS_MAX)
    size_bytes = sum(secret.size_bytes for secret in found)
    if size_bytes > SECRETS_SIZE_MAX_BYTES:
        raise Problem(
            "too_large",
            f"the project's secrets would take {size_bytes} bytes",
            hint="keep large ones outside, and here the keys to them; or name fewer nodes",
            limit=SECRETS_SIZE_MAX_BYTES,
        )
    return found


def without(secrets: Iterable[SealedSecret], name: str) -> list[SealedSecret]:
    """Return all secrets but the one of that name."""
    return [secret for secret in secrets if secret.name != name]


def check(secrets: Sequence[SealedSecret]) -> None:
    """Raise `RecordError` unless these can stand in a record, whoever wrote it."""
    names = [secret.name for secret in secrets]
    if len(names) > SECRETS_MAX or len(set(names)) != len(names):
        raise RecordError(f"at most {SECRETS_MAX} secrets, each with a name of its own")
    for secret in secrets:
        if len(set(secret.nodes)) != len(secret.nodes):
            raise RecordError("a secret is sealed to a node once")
