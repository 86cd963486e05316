"""The frames of fetching: golden bytes, and hostile ones."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from gossip.errors import RemoteProtocolError
from gossip.fetch_messages import (
    AUTH_SIZE_MAX_BYTES,
    DATA_SIZE_MAX_BYTES,
    FRAME_SIZE_MAX_BYTES,
    HOLDERS_MAX,
    REQUEST_SIZE_MAX_BYTES,
    AnyMessage,
    Data,
    Get,
    Kind,
    Missing,
    Refused,
    decode_reply,
    decode_request,
    encode,
    path,
)
from storage import codec
from storage.cid import LEVELS_MAX, LINKS_MAX, raw_leaf
from storage.errors import InvalidData

GOLDEN = Path(__file__).parent / "golden" / "fetch_frames.hex"

BLOB = 1 << 40
REQUESTS = [
    Get(1, Kind.BLOB, BLOB, raw_leaf(b"golden"), 0, 0, b"right"),
    Get(1, Kind.BLOB, BLOB, raw_leaf(b"golden"), 2, LINKS_MAX + 7, b""),
    Get(1, Kind.REQUEST, BLOB, b"", 0, 0, b"right"),
    Get(1, Kind.SNAPSHOT, BLOB, b"", 0, 0, b"right"),
    Get(1, Kind.RECORD, BLOB, bytes(32), 0, 0, b"right"),
]
REPLIES = [
    Data(b"content"),
    Missing(False, []),
    Missing(True, ["12D3KooWaaaa", "12D3KooWbbbb"]),
    Refused("right"),
    Refused("busy"),
    Refused("version"),
]


def test_golden_frames() -> None:
    """These bytes are what other versions read and write. A new layout is a new version."""
    lines = GOLDEN.read_text().split()
    messages: list[AnyMessage] = [*REQUESTS, *REPLIES]
    assert lines == [encode(message).hex() for message in messages]
    requests, replies = lines[: len(REQUESTS)], lines[len(REQUESTS) :]
    assert [decode_request(bytes.fromhex(line)) for line in requests] == REQUESTS
    assert [decode_reply(bytes.fromhex(line)) for line in replies] == REPLIES


def test_the_largest_of_everything_fits() -> None:
    reply = encode(Data(bytes(DATA_SIZE_MAX_BYTES)))
    assert len(reply) <= FRAME_SIZE_MAX_BYTES
    assert decode_reply(reply) == Data(bytes(DATA_SIZE_MAX_BYTES))
    get = Get(
        1, Kind.BLOB, (1 << 63) - 1, bytes(64), 3, LINKS_MAX**3 - 1, bytes(AUTH_SIZE_MAX_BYTES)
    )
    assert len(encode(get)) <= REQUEST_SIZE_MAX_BYTES
    assert decode_request(encode(get)) == get


GET = [1, 1, 1, BLOB, b"name", 0, 0, b"auth"]


def changed(at: int, value: object) -> list[object]:
    return [*GET[:at], value, *GET[at + 1 :]]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "not a request"),
        (GET[:-1], "not a request"),
        ([*GET, 1], "not a request"),
        (changed(0, 2), "not a request"),
        (changed(2, 9), "not a request"),
        (changed(3, 0), "not a request"),
        (changed(3, -1), "not a request"),
        (changed(4, bytes(65)), "not a request"),
        (changed(5, LEVELS_MAX + 1), "not a request"),
        (changed(5, True), "not a request"),
        (changed(6, -1), "not a request"),
        (changed(6, 1), "no tree has one"),
        (changed(7, bytes(AUTH_SIZE_MAX_BYTES + 1)), "not a request"),
        ([1, 1, 3, BLOB, b"", 1, 0, b""], "of what has none"),
        ([2, b"data"], "not a request"),
    ],
)
def test_what_is_no_request(value: list[object], says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        decode_request(codec.encode(value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        [],
        GET,
        [2],
        [2, "text"],
        [2, b"", b""],
        [3, 1, []],
        [3, False, ["peer"] * (HOLDERS_MAX + 1)],
        [3, False, ["x" * 65]],
        [3, False, [""]],
        [4, "tired"],
        [5],
        None,
    ],
)
def test_what_is_no_reply(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="not a reply"):
        decode_reply(codec.encode(value))  # type: ignore[arg-type]


def test_a_reply_over_the_limit() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        decode_reply(bytes(FRAME_SIZE_MAX_BYTES + 1))


@settings(deadline=None)
@given(data=st.binary(max_size=80))
def test_random_bytes_are_refused_or_mean_what_they_say(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            message = decode(data)
        except RemoteProtocolError:
            continue
        assert encode(message) == data


@settings(deadline=None)
@given(depth=st.integers(0, LEVELS_MAX), data=st.data())
def test_a_place_is_a_path_and_back(depth: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, LINKS_MAX**depth - 1))
    at = 0
    for child in path(depth, index):
        assert 0 <= child < LINKS_MAX
        at = at * LINKS_MAX + child
    assert at == index


EDGES = [0, 1, 23, 24, 255, 256, 65535, 65536, DATA_SIZE_MAX_BYTES]


@pytest.mark.parametrize("size_bytes", EDGES)
def test_data_has_the_one_form_that_the_codec_gives_it(size_bytes: int) -> None:
    data = Data(bytes(size_bytes))
    assert encode(data) == codec.encode_struct(data)
    assert decode_reply(encode(data)) == data


@pytest.mark.parametrize("size_bytes", EDGES)
def test_data_in_any_other_form_is_refused(size_bytes: int) -> None:
    data = bytes(size_bytes)
    for count in (1, 2, 4, 8):
        if size_bytes < 1 << 8 * count:
            head = bytes([0x58 + (1, 2, 4, 8).index(count)]) + size_bytes.to_bytes(count, "big")
            frame = b"\x82\x02" + head + data
            if frame != encode(Data(data)):
                with pytest.raises(RemoteProtocolError):
                    decode_reply(frame)
    for frame in (encode(Data(data)) + b"x", encode(Data(data + b"x"))[:-1]):
        with pytest.raises(RemoteProtocolError):
            decode_reply(frame)


@given(st.binary(max_size=40).map(lambda rest: b"\x82\x02" + rest))
def test_what_looks_like_data_is_taken_as_the_codec_takes_it(frame: bytes) -> None:
    try:
        expected = codec.decode_struct(frame, FRAME_SIZE_MAX_BYTES, Data)
    except InvalidData:
        with pytest.raises(RemoteProtocolError):
            decode_reply(frame)
    else:
        assert decode_reply(frame) == expected
