"""What a function's record says once there is one more version of it."""

from collections.abc import Sequence
from typing import Final

import msgspec

from peernode.attributes import FunctionAttributes, Version
from peernode.classes.function_bodies import Set
from peernode.classes.function_wheels import Brought
from peernode.problems import Problem
from peernode.program_checks import architecture
from peernode.wheel_rows import merged
from storage import codec
from storage.blobs import Content
from storage.places import Class
from storage.records import PAYLOAD_SIZE_MAX_BYTES

SOURCE_INLINE_MAX_BYTES: Final = 64 * 1024
"""Largest source that rides in the function's record. Source: the design's federation rule."""
VERSIONS_MAX: Final = 100
"""Most versions of a function. Source: what fits a record beside 64 KiB of source."""
PAYLOAD_MAX_BYTES: Final = PAYLOAD_SIZE_MAX_BYTES[Class.FUNCTION]


def riding(code: bytes) -> bytes | None:
    """Return a source if it may ride along in the record."""
    return code if len(code) <= SOURCE_INLINE_MAX_BYTES else None


def with_version(
    attributes: FunctionAttributes,
    body: Set,
    content: Content,
    code: bytes,
    schema: bytes | None,
    created_ms: int,
) -> FunctionAttributes:
    """Return a function's attributes with one more version, which is current."""
    newest = attributes.versions[-1]
    if len(attributes.versions) >= VERSIONS_MAX:
        raise Problem(
            "conflict",
            f"a function has at most {VERSIONS_MAX} versions",
            hint="deploy under another name",
            limit=VERSIONS_MAX,
        )
    version = Version(
        version=newest.version + 1,
        runtime=newest.runtime,
        entry=body.entry or newest.entry,
        cid=bytes(content.cid),
        size_bytes=len(code),
        input_schema=newest.input_schema if body.input_schema is None else schema,
        created_ms=created_ms,
        arch=architecture(newest.runtime, code),
    )
    return msgspec.structs.replace(
        attributes,
        versions=[*attributes.versions, version],
        current=version.version,
        source=riding(code),
    )


def with_wheels(
    attributes: FunctionAttributes, found: Sequence[Brought] | None
) -> FunctionAttributes:
    """Return attributes whose newest version brings these; `None`: what the one before brought.

    A source that leaves no room for them does not ride along.  Raises `Problem` for too many.
    """
    *older, newest = attributes.versions
    if found is None:
        wheels, indices = attributes.wheels, older[-1].wheels
    else:
        wheels, indices = merged(attributes.wheels, [one.wheel for one in found])
    newest = msgspec.structs.replace(newest, wheels=indices)
    attributes = msgspec.structs.replace(attributes, wheels=wheels, versions=[*older, newest])
    for source in (attributes.source, None):
        attributes = msgspec.structs.replace(attributes, source=source)
        if len(codec.encode_struct(attributes)) <= PAYLOAD_MAX_BYTES:
            return attributes
    raise Problem(
        "conflict",
        f"its versions and their wheels are over {PAYLOAD_MAX_BYTES} bytes of a function's record",
        hint="deploy under another name",
        limit=PAYLOAD_MAX_BYTES,
    )
