"""The frames of a reconciliation: golden bytes, one packed form, and no other."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from gossip.errors import RemoteProtocolError
from gossip.sync_messages import (
    FRAME_SIZE_MAX_BYTES,
    IDS_MAX,
    PAYLOADS_MAX,
    Answer,
    AnyMessage,
    End,
    Fingerprint,
    Hello,
    Ids,
    Items,
    Packer,
    Ranges,
    Refusal,
    Row,
    Stratum,
    Welcome,
    decode,
    encode,
    pack_rows,
    unpack_rows,
)
from storage import codec

GOLDEN = Path(__file__).parent / "golden" / "sync_frames.hex"

ROWS: list[Row] = [
    Fingerprint(b"", b"\x01\x02\x03", b"f" * 16),
    Ids(b"\x01\x02\x03", b"\x01\x02\x05", b"i" * 32),
    Answer(b"\x01\x02\x07", b"\x01\x02\x07\x09", b"h" * 16, (True, False, True)),
    Ids(b"\x01\x02\x07\x09", b"\x02", b""),
    Answer(b"\x03", b"", b"", (True,) * 9),
]
MESSAGES: list[AnyMessage] = [
    Hello(1, b"meshmesh", bytes(range(16))),
    Welcome(1, bytes(range(16, 32))),
    Refusal("busy"),
    Refusal("mesh"),
    Refusal("version"),
    Ranges(Stratum.FACTS, End.WHOLE, b""),
    Ranges(Stratum.RECORDS, End.MORE, pack_rows(ROWS)),
    Ranges(Stratum.RECORDS, End.CUT, pack_rows(ROWS[:1])),
    Items(Stratum.FACTS, []),
    Items(Stratum.RECORDS, [b"a record", None, b""]),
]


def test_golden_frames() -> None:
    """These bytes are what other versions read and write. A new layout is a new version."""
    assert GOLDEN.read_text().split() == [encode(message).hex() for message in MESSAGES]
    for line, message in zip(GOLDEN.read_text().split(), MESSAGES, strict=True):
        assert decode(bytes.fromhex(line)) == message


def test_rows_come_back() -> None:
    assert list(unpack_rows(pack_rows(ROWS))) == ROWS


def test_a_gap_costs_a_few_bytes_and_says_where_the_row_begins() -> None:
    row = Fingerprint(b"\x09", b"\x0a", bytes(16))
    packed = pack_rows([row])
    assert packed == b"\x00\x01\x09" + b"\x40\x01\x0a" + bytes(16)
    assert list(unpack_rows(packed)) == [row]


bounds = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=12, unique=True)


@st.composite
def row_lists(draw: Callable[..., object]) -> list[Row]:
    edges = [b"", *sorted(draw(bounds))]  # type: ignore[call-overload]
    rows: list[Row] = []
    for lower, upper in zip(edges, [*edges[1:], b""], strict=True):
        kind = draw(st.integers(0, 3))
        if kind == 1:
            rows.append(Fingerprint(lower, upper, draw(st.binary(min_size=16, max_size=16))))
        elif kind == 2:
            rows.append(Ids(lower, upper, bytes(16 * draw(st.integers(0, IDS_MAX)))))  # type: ignore[operator]
        elif kind == 3:
            wanted = tuple(draw(st.lists(st.booleans(), max_size=IDS_MAX)))  # type: ignore[call-overload]
            have = bytes(16 * draw(st.integers(0, 300)))  # type: ignore[operator]
            rows.append(Answer(lower, upper, have, wanted))
    return rows


@settings(max_examples=40, deadline=None)
@given(rows=row_lists())
def test_any_rows_come_back(rows: list[Row]) -> None:
    assert list(unpack_rows(pack_rows(rows))) == rows


@settings(max_examples=40, deadline=None)
@given(rows=row_lists(), frames=st.integers(1, 4))
def test_many_rows_take_many_frames(rows: list[Row], frames: int) -> None:
    packer = Packer()
    for row in rows:
        packer.add(row)
    parts = packer.finish()
    assert [row for part in parts for row in unpack_rows(part)] == rows
    assert packer.size_bytes == sum(map(len, parts))
    assert all(
        len(encode(Ranges(Stratum.RECORDS, End.MORE, p))) <= FRAME_SIZE_MAX_BYTES for p in parts
    )


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_random_rows_are_packed_as_they_should_be_or_refused(data: bytes) -> None:
    try:
        rows = list(unpack_rows(data))
    except RemoteProtocolError:
        return
    assert pack_rows(rows) == data


@settings(max_examples=40, deadline=None)
@given(rows=row_lists(), at=st.integers(0, 10_000), change=st.integers(1, 255))
def test_changed_rows_are_packed_as_they_should_be_or_refused(
    rows: list[Row], at: int, change: int
) -> None:
    packed = bytearray(pack_rows(rows))
    if packed:
        packed[at % len(packed)] ^= change
        test_random_rows_are_packed_as_they_should_be_or_refused.hypothesis.inner_test(
            bytes(packed)
        )  # type: ignore[attr-defined]


FINGERPRINT = bytes(16)


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"\x40", "end early"),
        (b"\x40\x01a" + bytes(15), "end early"),
        (b"\x80\x01a\x21" + bytes(33 * 16), "33 ids"),
        (b"\x80\x01a\x02" + bytes(16), "end early"),
        (b"\xc0\x01a\xff\xff\xff\x00", "end early"),
        (b"\xc0\x01a\x00\x00\x00\x03\xff", "more wants than ids"),
        (b"\x40\x02ab" + FINGERPRINT + b"\x40\x02ac" + FINGERPRINT, "not packed"),
        (b"\x40\x02ab" + FINGERPRINT + b"\x41\x01a" + FINGERPRINT, "out of order"),
        (b"\x40\x02ab" + FINGERPRINT + b"\x42\x00" + FINGERPRINT, "out of order"),
        (b"\x40\x02ab" + FINGERPRINT + b"\x41\x00" + FINGERPRINT, "out of order"),
        (b"\x40\x02ab" + FINGERPRINT + b"\x43\x01c" + FINGERPRINT, "impossible length"),
        (b"\x40\x29" + bytes(41) + FINGERPRINT, "impossible length"),
        (b"\x40\x00" + FINGERPRINT + b"\x40\x01a" + FINGERPRINT, "above the end"),
        (b"\x00\x01a", "ends in nothing"),
        (b"\x00\x00", "ends in nothing"),
        (b"\x00\x01a" + b"\x00\x01b" + b"\x40\x01c" + FINGERPRINT, "ends in nothing"),
    ],
)
def test_rows_that_nobody_packs(packed: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        list(unpack_rows(packed))


@pytest.mark.parametrize(
    "value",
    [
        [],
        [9],
        [1, 1, b"meshmesh", bytes(15)],
        [1, 1, b"mesh", bytes(16)],
        [1, 1, b"meshmesh", bytes(16), 0],
        [2, "1", bytes(16)],
        [3, "tired"],
        [4, 3, 1, b""],
        [4, 1, 3, b""],
        [4, 1, True, b""],
        [5, 1, [1]],
        [5, 1, [b""] * (PAYLOADS_MAX + 1)],
        {"a": 1},
        None,
    ],
)
def test_values_that_are_no_messages(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="not a message"):
        decode(codec.encode(value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame", [b"", b"\x84", b"\x9f\xff", b"\x18\x01", b"\xc0\x01", bytes(300_000)]
)
def test_bytes_that_are_no_messages(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(frame)


@settings(deadline=None)
@given(data=st.binary(max_size=100))
def test_random_bytes_are_refused_or_mean_what_they_say(data: bytes) -> None:
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    assert encode(message) == data
