"""What records say of objects: one struct a class, as it stands in a record's payload.

Fields are only ever added, with defaults, so that every record that was signed stays readable; a
struct that may be large leaves out what is not set.

What it leaves out: who may write it (`storage.authority`), and what an API shows (`classes`).
"""

from typing import Annotated, Final

import msgspec

from peernode.sealed_secrets import SealedSecret
from peernode.wheel_rows import Wheel
from storage import codec
from storage.places import Class
from storage.records import Record


class Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version of a function and its program. `arch`: all that runs it; empty, left out: any."""

    version: int
    runtime: str
    entry: str
    cid: bytes
    size_bytes: int
    input_schema: bytes | None
    created_ms: int
    wheels: list[int] = []
    """Which of the function's."""
    arch: Annotated[str, msgspec.Meta(max_length=63)] = ""


class UserAttributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payload of a user's record."""

    display_name: str = ""


class ProjectAttributes(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Payload of a project's record."""

    name: str
    display_name: str = ""
    egress: list[str] = []
    secrets: list[SealedSecret] = []


class FunctionAttributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payload of a function's record."""

    name: str
    description: str = ""
    terms: bytes = b"{}"
    current: int
    versions: list[Version]
    source: bytes | None = None
    """Of the newest version, if it is small enough to ride along."""
    wheels: list[Wheel] = []


class SpaceAttributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payload of a global namespace's record."""

    name: str
    display_name: str = ""
    function: int = 0
    """The function it belongs to, within its project; 0: none."""


Attributes = UserAttributes | ProjectAttributes | FunctionAttributes | SpaceAttributes

ATTRIBUTES: Final[dict[Class, type[Attributes]]] = {
    Class.USER: UserAttributes,
    Class.PROJECT: ProjectAttributes,
    Class.FUNCTION: FunctionAttributes,
    Class.KV_SPACE: SpaceAttributes,
}


def encode_attributes(attributes: Attributes) -> bytes:
    """Return attributes as a record's payload."""
    return codec.encode(msgspec.to_builtins(attributes, builtin_types=(bytes,)))


def decode_attributes(record: Record) -> Attributes:
    """Return what a record says of an object; raises `CodecError` or `msgspec.ValidationError`."""
    kind = ATTRIBUTES[record.body.place.class_]
    value = codec.decode(record.body.payload, len(record.body.payload))
    return msgspec.convert(value, kind, builtin_types=(bytes,))
