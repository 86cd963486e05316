import unicodedata
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from storage import codec
from storage.errors import CodecError, RecordError

LIMIT = 10_000
texts = st.text().map(lambda text: unicodedata.normalize("NFC", text))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(codec.INTEGER_MIN, codec.INTEGER_MAX)
    | st.binary(max_size=40)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=12,
)


def depth(value: object) -> int:
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case _:
            return 0


# --- strict -------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(values)
def test_a_value_comes_back_from_its_one_encoding(value: Any) -> None:
    if depth(value) > codec.DEPTH_MAX:
        with pytest.raises(CodecError):
            codec.encode(value)
        return
    data = codec.encode(value)
    again = codec.decode(data, LIMIT)
    assert again == value
    assert codec.encode(again) == data


@given(st.dictionaries(texts, st.integers(0, 9), max_size=8))
def test_the_order_in_which_a_map_was_made_does_not_matter(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert codec.encode(value) == codec.encode(backwards)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_whatever_the_bytes_decode_gives_their_value_or_a_codec_error(data: bytes) -> None:
    try:
        value = codec.decode(data, LIMIT)
    except CodecError:
        return
    assert codec.encode(value) == data


@settings(max_examples=50)
@given(values.filter(lambda value: depth(value) <= codec.DEPTH_MAX), st.data())
def test_no_mutated_encoding_is_a_second_encoding_of_something(
    value: Any, data: st.DataObject
) -> None:
    good = codec.encode(value)
    at = data.draw(st.integers(0, len(good) - 1))
    mutated = good[:at] + data.draw(st.binary(max_size=3)) + good[at + 1 :]
    try:
        other = codec.decode(mutated, LIMIT)
    except CodecError:
        return
    assert codec.encode(other) == mutated


@pytest.mark.parametrize(
    "data",
    [
        "",
        "1800",  # a head that is not the smallest
        "190001",
        "1bffffffffffffffff",  # 2**64 - 1
        "3b8000000000000000",  # -2**63 - 1
        "c24101",  # a bignum that a naive check takes for 1
        "c249010000000000000000",
        "c11a00000000",  # tags
        "d9d9f700",
        "d81c80",
        "d81d00",
        "d82341ff",
        "d8638100",
        "f7",  # undefined
        "e0",  # simple values
        "f8ff",
        "f93c00",  # floats
        "fa3f800000",
        "fb3ff0000000000000",
        "9f01ff",  # indefinite lengths
        "bf616101ff",
        "5f4101ff",
        "7f6161ff",
        "0001",  # bytes after the value
        "a2616101616102",  # a duplicate key
        "a2616201616101",  # keys out of order
        "a262616101616201",  # longer key first
        "a10101",  # keys that are not text
        "a1410101",
        "a18001",
        "a1f401",
        "61ff",  # not UTF-8
        "63eda080",  # a surrogate
        "6365cc81",  # not NFC
        "ff",
        "1c",
        "818181818181818180",  # nine containers
        "5b7fffffffffffffff",  # lengths that are not there
        "9b7fffffffffffffff",
        "bb7fffffffffffffff",
        "9a0fffffff01",
        "81" * 5000 + "00",
        "c1" * 5000 + "00",
    ],
)
def test_what_is_not_in_the_subset_is_refused(data: str) -> None:
    with pytest.raises(CodecError):
        codec.decode(bytes.fromhex(data), LIMIT)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        1 << 63,
        -(1 << 63) - 1,
        {1: 2},
        {b"a": 2},
        {True: 2},
        {"e\u0301": 1},
        "e\u0301",
        "\ud800",
        {1, 2},
        bytearray(b"a"),
        [[[[[[[[[]]]]]]]]],
        cbor2.undefined,
        object(),
    ],
)
def test_a_value_outside_of_the_subset_is_not_encoded(value: Any) -> None:
    with pytest.raises(CodecError):
        codec.encode(value)


def test_eight_containers_are_not_too_many() -> None:
    value: Any = [[[[[[[[1]]]]]]]]
    assert codec.decode(codec.encode(value), LIMIT) == value


@pytest.mark.parametrize("load", [codec.decode, codec.load_message])
def test_over_the_size_limit_nothing_is_decoded(load: Any) -> None:
    assert load(b"\x01", 1) == 1
    with pytest.raises(CodecError, match="limit"):
        load(b"\x18\x18", 1)


@pytest.mark.slow
def test_every_tag_is_refused_by_number() -> None:
    for tag in range(1 << 16):
        data = b"\xd9" + tag.to_bytes(2, "big") + b"\x00"
        with pytest.raises(CodecError):
            codec._load(data, 8)


class Pair(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: int
    data: bytes


def test_a_struct_comes_back_as_itself_and_in_no_other_shape() -> None:
    pair = Pair(1, b"ab")
    data = codec.encode_struct(pair)
    assert data == bytes.fromhex("8201426162")
    assert codec.decode_struct(data, LIMIT, Pair) == pair
    for shape in ([1], [1, b"ab", 1], [1, "ab"], ["1", b"ab"], [True, b"ab"], {}, None):
        with pytest.raises(RecordError):
            codec.decode_struct(codec.encode(shape), LIMIT, Pair)  # type: ignore[arg-type]


# --- rows and messages --------------------------------------------------------------------------

plain = st.recursive(
    scalars | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=50)
@given(plain)
def test_rows_and_messages_come_back(value: Any) -> None:
    assert codec.load_row(codec.dump_row(value)) == value
    assert codec.load_message(codec.dump_message(value), LIMIT) == value


@settings(max_examples=200)
@given(st.binary(max_size=60))
@example(b"\x81" * 33 + b"\x00")
@example(b"\xf7")
@example(b"\xe0")
@example(b"\xd8\x23\x41\xff")
@example(b"\x9f\xff")
@example(b"\x00\x00")
@example(b"\xa1\xf4\x01")
@example(b"\xa2\x61\x61\x01\x61\x61\x02")
def test_whatever_the_bytes_a_message_is_plain_or_a_codec_error(data: bytes) -> None:
    try:
        value = codec.load_message(data, LIMIT)
    except CodecError:
        return
    msgspec.to_builtins(value, builtin_types=(bytes,))


@pytest.mark.parametrize(
    "data",
    [
        "0001",  # bytes after the value
        "9f01ff",  # indefinite lengths
        "5f4101ff",
        "a2616101616102",  # a duplicate key
        "a10101",  # keys that are neither text nor bytes
        "c24101",  # tags, whatever they would make
        "c11a00000000",
        "d9010281" + "01",
        "d81c80",
        "d82341ff",
        "d9ffff01",
    ],
)
def test_a_message_has_none_of_what_a_parser_can_be_fooled_with(data: str) -> None:
    with pytest.raises(CodecError):
        codec.load_message(bytes.fromhex(data), LIMIT)


def test_a_damaged_row_is_a_codec_error() -> None:
    with pytest.raises(CodecError, match="damaged"):
        codec.load_row(b"\x82\x01")
    with pytest.raises(CodecError, match="cannot be written"):
        codec.dump_row(object())


def test_the_golden_row_is_still_made_and_read_byte_for_byte() -> None:
    golden = bytes.fromhex((Path(__file__).parent / "golden" / "row.hex").read_text())
    row = {"name": "x", "at": 5, "b": b"\0", "f": 1.5, "l": [None, True]}
    assert codec.dump_row(row) == golden
    assert codec.load_row(golden) == row
