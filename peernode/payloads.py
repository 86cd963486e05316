"""What may stand in a record's payload, asked of what comes from other nodes before it is kept.

Whoever reads the view relies on what is written here at home: names that are names, versions that
are in order, a source that is what its CID says.  The check looks at the record alone, so every
node comes to the same answer and none keeps what another refuses.
"""

from typing import Final

import msgspec

from peernode import names, sealed_secrets, terms
from peernode.attributes import (
    FunctionAttributes,
    ProjectAttributes,
    SpaceAttributes,
    UserAttributes,
    decode_attributes,
)
from peernode.problems import Problem
from peernode.space_limits import VALUE_SIZE_MAX_BYTES
from storage import codec
from storage.certificates import Milliseconds
from storage.cid import from_bytes as parse_cid, raw_leaf
from storage.errors import InvalidData, RecordError
from storage.places import Class
from storage.records import PAYLOAD_SIZE_MAX_BYTES, Record
from worker.wheel_names import WheelError, parse_name
from worker.wheels import SIZE_MAX_BYTES, WHEELS_MAX

SCHEMA: Final = 1
"""Layout of payloads that this program reads."""


def check_payload(record: Record) -> None:
    """Raise `InvalidData` unless this node can show what a record says."""
    if record.body.schema != SCHEMA:
        raise RecordError(f"a payload of layout {record.body.schema}")
    if record.body.place.class_ is Class.BLOB:
        raise RecordError("what a blob is, is asked for and never sent around")
    if record.is_tombstone:
        return
    try:
        if record.body.place.class_ is Class.KV_ENTRY:
            _check_entry(record)
        else:
            _check_attributes(record)
    except (InvalidData, Problem, WheelError, ValueError, TypeError) as error:
        # msgspec's errors are ValueErrors.
        raise RecordError(f"the payload of a {record.class_name}: {error}") from None


def _check_entry(record: Record) -> None:
    value, _ = msgspec.convert(
        codec.decode(record.body.payload, PAYLOAD_SIZE_MAX_BYTES[Class.KV_ENTRY]),
        tuple[bytes, Milliseconds],
        builtin_types=(bytes,),
    )
    if len(value) > VALUE_SIZE_MAX_BYTES:
        raise RecordError("an entry is over its limit")
    msgspec.json.decode(value, type=msgspec.Raw)
    value.decode()


def _check_attributes(record: Record) -> None:
    match decode_attributes(record):
        case UserAttributes():
            pass
        case ProjectAttributes(name=name, secrets=secrets):
            names.check(name)
            sealed_secrets.check(secrets)
        case SpaceAttributes(name=name):
            names.check(name)
        case FunctionAttributes() as function:
            _check_function(function)


def _check_function(function: FunctionAttributes) -> None:
    names.check(function.name)
    terms.from_row(function.terms)
    numbers = [version.version for version in function.versions]
    if not numbers or numbers != sorted(dict.fromkeys(numbers)) or numbers[0] < 1:
        raise RecordError("versions are numbered upwards from 1")
    if function.current not in numbers:
        raise RecordError("the current version is none of them")
    for wheel in function.wheels:
        parse_name(wheel.name)
        parse_cid(wheel.cid)
        if not 0 <= wheel.size_bytes <= SIZE_MAX_BYTES:
            raise RecordError("a wheel of a size that none has")
    for version in function.versions:
        if len(version.wheels) > WHEELS_MAX:
            raise RecordError(f"a version with over {WHEELS_MAX} wheels")
        if not all(0 <= index < len(function.wheels) for index in version.wheels):
            raise RecordError("a version brings a wheel that is not there")
        if version.input_schema is not None:
            msgspec.json.decode(version.input_schema, type=msgspec.Raw)
    newest = function.versions[-1]
    if function.source is not None and (
        len(function.source) != newest.size_bytes or bytes(raw_leaf(function.source)) != newest.cid
    ):
        raise RecordError("the source is not the newest version's")
