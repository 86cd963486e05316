"""CBOR, three times: strict for what is signed, fast for our own disk, hardened for a worker link.

**Strict** (`encode`, `decode`): the deterministic subset that records and facts are made of.  A
value has exactly one encoding, and `decode` refuses every other: a signature covers bytes, and two
nodes must never read one record differently.  The subset is DAG-CBOR without tags and floats:

* integers from -2**63 to 2**63-1, text in Unicode NFC, bytes, true, false, null;
* arrays and maps of definite length, maps with text keys, shorter keys first, then bytewise;
* no tags, floats, undefined, duplicate keys, trailing bytes; smallest form of every head;
* at most `DEPTH_MAX` containers within each other.

Nothing a user wrote is a CBOR value in here: JSON of users travels as opaque bytes.

**Rows** (`dump_row`, `load_row`): what this node wrote to its own disk.  Any CBOR; never for
foreign bytes.

**Messages** (`load_message`): what a worker sends.  Not canonical and with floats, but plain
values only, with limits on size and depth; it costs a tenth of `decode`.

RFC 8949; https://ipld.io/specs/codecs/dag-cbor/spec/.  This is cbor2's single home.
"""

import io
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, Never, TypeAlias, TypeVar

import cbor2
import msgspec

from storage.errors import CodecError, RecordError

T = TypeVar("T")

DEPTH_MAX: Final = 8
"""Most containers within each other in a strict value. Source: twice what records need."""
MESSAGE_DEPTH_MAX: Final = 32
"""Most containers within each other in a message. Source: guess; protocol messages need 6."""
INTEGER_MIN: Final = -(1 << 63)
INTEGER_MAX: Final = (1 << 63) - 1

Value: TypeAlias = "bool | int | str | bytes | Sequence[Value] | Mapping[str, Value] | None"
"""What `encode` takes; `decode` gives lists and dicts."""


def _refuse_tag(*_: object) -> Never:
    raise CodecError("a tag")


# Tags that cbor2 would interpret by itself, all overridden; `tag_hook` gets the others.
_TAGS: Final[Mapping[int, Any]] = dict.fromkeys(
    (*range(6), 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799),
    _refuse_tag,
)


def encode(value: Value) -> bytes:
    """Return the one strict encoding of `value`. Raises `CodecError` if it is not in the subset."""
    _check(value, DEPTH_MAX)
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, size_max_bytes: int) -> Any:
    """Return the value whose strict encoding is `data`: `encode(decode(data)) == data`.

    Raises `CodecError`, and nothing else, whatever the bytes.
    """
    if len(data) > size_max_bytes:
        raise CodecError(f"{len(data)} bytes, over the limit of {size_max_bytes}")
    value = _load(data, DEPTH_MAX)
    _check(value, DEPTH_MAX)
    if cbor2.dumps(value, canonical=True) != data:
        raise CodecError("not the deterministic encoding of its value")
    return value


def encode_struct(struct: msgspec.Struct) -> bytes:
    """Return the strict encoding of a msgspec Struct. Raises `CodecError`."""
    return encode(msgspec.to_builtins(struct, builtin_types=(bytes,)))


def decode_struct(data: bytes, size_max_bytes: int, type: type[T]) -> T:
    """Return the Struct (or union of them) whose strict encoding is `data`.

    Raises `CodecError` for what is not strict CBOR, `RecordError` for another shape.
    """
    value = decode(data, size_max_bytes)
    try:
        return msgspec.convert(value, type, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RecordError(f"of another shape: {error}") from error


def dump_row(value: object) -> bytes:
    """Return CBOR for a row of our own disk. Raises `CodecError` for what CBOR cannot say."""
    try:
        return cbor2.dumps(value)
    except cbor2.CBOREncodeError as error:
        raise CodecError(f"cannot be written: {error}") from error


def load_row(data: bytes) -> Any:
    """Return the value of a row that this node wrote. Never for foreign bytes.

    Raises `CodecError` if the row is damaged beyond reading; it does not look for subtler damage.
    """
    try:
        return cbor2.loads(data)
    except cbor2.CBORError as error:
        raise CodecError(f"a row is damaged: {error}") from error


def dump_message(value: object) -> bytes:
    """Return CBOR for the other end of a worker link. Raises `CodecError`."""
    return dump_row(value)


def load_message(data: bytes, size_max_bytes: int) -> Any:
    """Return a message of a worker link: plain values, with floats, of limited size and depth.

    Raises `CodecError`, and nothing else, whatever the bytes.
    """
    if len(data) > size_max_bytes:
        raise CodecError(f"{len(data)} bytes, over the limit of {size_max_bytes}")
    value = _load(data, MESSAGE_DEPTH_MAX)
    try:
        return msgspec.to_builtins(value, builtin_types=(bytes,))
    except TypeError as error:
        raise CodecError(f"not a plain value: {error}") from error


def _load(data: bytes, depth_max: int) -> Any:
    stream = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        stream,
        tag_hook=_refuse_tag,
        semantic_decoders=_TAGS,
        max_depth=depth_max,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )
    try:
        value = decoder.decode()
    except cbor2.CBORError as error:
        raise CodecError(f"not CBOR as it is taken here: {error}") from error
    if stream.read(1):
        raise CodecError("bytes after the value")
    return value


def _check(value: object, depth_left: int) -> None:
    """Raise `CodecError` unless `value` is of the strict subset. Types are exact: no subclasses."""
    kind = type(value)
    if kind is int:
        if not INTEGER_MIN <= value <= INTEGER_MAX:  # type: ignore[operator]
            raise CodecError("an integer is outside of 64 bits")
    elif kind is bytes or value is None or kind is bool:
        return
    elif kind is str:
        _check_text(value)  # type: ignore[arg-type]
    elif not depth_left:
        raise CodecError(f"over {DEPTH_MAX} containers within each other, or no value at all")
    elif kind is list or kind is tuple:
        for item in value:  # type: ignore[attr-defined]
            _check(item, depth_left - 1)
    elif kind is dict:
        for name, item in value.items():  # type: ignore[attr-defined]
            if type(name) is not str:
                raise CodecError("a map's key is not text")
            _check_text(name)
            _check(item, depth_left - 1)
    else:
        raise CodecError(f"a value of type {kind.__name__}")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    if not unicodedata.is_normalized("NFC", text):
        raise CodecError("text is not in Unicode NFC")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise CodecError("text holds a lone surrogate")
