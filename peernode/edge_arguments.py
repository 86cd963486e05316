"""Arguments of function code's calls; see `worker.protocol.OPERATIONS`."""

from typing import Annotated, TypeAlias

import msgspec

from peernode.content import MEDIA_TYPE_DEFAULT
from worker.protocol import CHUNK_SIZE_MAX_BYTES

Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Length: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=CHUNK_SIZE_MAX_BYTES)]


class KvOpen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kv.open`: a namespace by its name."""

    name: str


class KvKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kv.get`, `kv.delete`: one key."""

    space: int
    key: str


class KvList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kv.list`: a page of keys."""

    space: int
    prefix: str = ""
    cursor: str | None = None


class KvPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kv.put`: a key and its value, as JSON text; if it is at a version, if one is given."""

    space: int
    key: str
    value: bytes
    ttl_s: float | None = None
    if_version: str | None = None


class KvIncrement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kv.increment`: a key, and how much to add."""

    space: int
    key: str
    by: int


class SecretGet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`secret.get`: a secret of the project by its name."""

    name: str


class BlobId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`blob.stat`: one blob."""

    blob: int


class BlobRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`blob.read`: a piece of one blob, in bytes."""

    blob: int
    offset: Offset
    length: Length


class ProgramRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`program.read`: a piece of the job's own program or of one of its wheels, in bytes."""

    offset: Offset
    length: Length
    wheel: Annotated[int, msgspec.Meta(ge=0)] | None = None


class BlobBegin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`blob.begin`: a blob to be."""

    media_type: str = MEDIA_TYPE_DEFAULT
    name: str = ""


class BlobAppend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`blob.append`: more bytes."""

    upload: int
    data: bytes


class UploadId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`blob.finish`: an upload."""

    upload: int


class JobCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`job.call`: a function of the project, and its input as JSON text."""

    function: str
    input: bytes
