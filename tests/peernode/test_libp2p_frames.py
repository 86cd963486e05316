"""Frames out of bytes, however they are cut."""

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from gossip.errors import RemoteProtocolError
from gossip.wire_encode import varint
from peernode.libp2p_frames import FrameBuffer, Pieces, take_number


def drain(buffer: FrameBuffer) -> list[bytes]:
    frames = []
    while (frame := buffer.take()) is not None:
        frames.append(frame)
    return frames


@given(
    frames=st.lists(st.one_of(st.binary(max_size=5), st.binary(min_size=120, max_size=300))),
    cuts=st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_come_out_as_they_went_in_wherever_the_bytes_are_cut(
    frames: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(varint(len(frame)) + frame for frame in frames)
    buffer, got, start, turn = FrameBuffer(300), [], 0, 0
    while start < len(data):
        size = cuts[turn % len(cuts)]
        buffer.feed(data[start : start + size])
        got += drain(buffer)
        start, turn = start + size, turn + 1
    assert got == frames


@given(st.binary(max_size=200))
def test_any_bytes_give_frames_within_the_limit_or_a_remote_fault(data: bytes) -> None:
    buffer = FrameBuffer(20)
    buffer.feed(data)
    with suppress(RemoteProtocolError):
        assert all(len(frame) <= 20 for frame in drain(buffer))


def test_a_frame_over_the_limit_is_known_by_its_head() -> None:
    buffer = FrameBuffer(1000)
    buffer.feed(varint(1001))
    with pytest.raises(RemoteProtocolError):
        buffer.take()


def test_a_length_that_does_not_end() -> None:
    buffer = FrameBuffer(1000)
    buffer.feed(b"\xff" * 5)
    with pytest.raises(RemoteProtocolError):
        buffer.take()


def test_what_was_taken_is_not_kept() -> None:
    buffer = FrameBuffer(1000)
    for _ in range(100):
        buffer.feed(varint(1000) + bytes(1000))
        assert drain(buffer) == [bytes(1000)]
    assert len(buffer._data) == 0


@given(st.integers(0, 2**60 - 1), st.binary())
def test_numbers_come_back(number: int, rest: bytes) -> None:
    head = varint(number)
    assert take_number(head + rest) == (number, len(head))


@pytest.mark.parametrize("frame", [b"", b"\xff", b"\xff" * 20])
def test_a_frame_without_a_number(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        take_number(frame)


SIZES = st.one_of(st.integers(1, 30), st.integers(4000, 9000))


@given(st.lists(st.tuples(st.sampled_from(["extend", "peek", "drop", "front", "clear"]), SIZES)))
def test_pieces_are_a_queue_of_bytes(steps: list[tuple[str, int]]) -> None:
    pieces, held = Pieces(), b""
    for turn, (step, size) in enumerate(steps):
        if step == "extend":
            data = bytes([turn % 256]) * size
            pieces.extend(data)
            held += data
        elif step == "peek":
            assert pieces.peek(size) == held[:size]
        elif step == "drop":
            pieces.drop(min(size, len(held)))
            held = held[size:]
        elif step == "clear":
            pieces.clear()
            held = b""
        elif held:
            front = pieces[:size]
            assert 0 < len(front) <= size
            assert held.startswith(front)
            del pieces[:size]
            held = held[len(front) :]
        assert len(pieces) == len(held)
        assert bytes(pieces) == held


def test_small_pieces_take_no_more_room_than_their_bytes() -> None:
    pieces = Pieces()
    for _ in range(10_000):
        pieces.extend(b"ab")
    assert len(pieces._pieces) == 1
