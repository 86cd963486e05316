"""Frames of a child: exactly right, or none."""

import cbor2
import pytest
from hypothesis import given, strategies as st

from worker import frames
from worker.runtimes import python_child

DONE = [1, 5, None, b"1", "", 0.5, 0.25, 1024, "", [[1, 2, "k", b"3", None]], False]


def framed(value: object) -> bytes:
    body = cbor2.dumps(value)
    return len(body).to_bytes(4, "big") + body


def test_frames_are_taken_as_they_become_whole() -> None:
    data = framed(DONE) + framed([2, 1, b"text"]) + framed([3, None, "half way"])
    unread = bytearray()
    taken = []
    for number in range(len(data)):
        unread += data[number : number + 1]
        taken += list(frames.take_frames(unread))
    assert unread == b""
    assert [type(frame) for frame in taken] == [frames.Done, frames.Printed, frames.Progressed]


def test_both_sides_number_their_frames_alike() -> None:
    kinds = {
        frames.Setup: python_child.SETUP,
        frames.Run: python_child.RUN,
        frames.Reply: python_child.REPLY,
        frames.Done: python_child.DONE,
        frames.Printed: python_child.OUTPUT,
        frames.Progressed: python_child.PROGRESS,
        frames.Request: python_child.REQUEST,
    }
    for kind, number in kinds.items():
        assert kind.__struct_config__.tag == number
    assert frames.TICKET_BYTES == python_child.TICKET_BYTES


def test_what_the_agent_writes_the_child_reads() -> None:
    data = frames.encode_frame(frames.Reply(3, "", {"value": b"1", "list": [1, None]}))
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert cbor2.loads(data[4:]) == [3, 3, "", {"value": b"1", "list": [1, None]}]


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    unread = bytearray(len(data).to_bytes(4, "big") + data)
    try:
        for frame in frames.take_frames(unread):
            assert isinstance(
                frame, frames.Done | frames.Printed | frames.Progressed | frames.Request
            )
    except frames.FrameError:
        pass
    assert unread == b""


def test_a_frame_that_would_be_huge_is_refused_before_it_arrives() -> None:
    with pytest.raises(frames.FrameError, match="a frame of"):
        list(frames.take_frames(bytearray(b"\x7f\xff\xff\xff")))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (2, "unknown_code"),
        (3, b"{"),
        (3, b"NaN"),
        (4, "x" * 70_000),
        (5, float("nan")),
        (5, -1.0),
        (6, float("inf")),
        (7, -1),
        (9, [[3, 1, "k", 1 << 63]]),
        (9, [[4, -(1 << 64)]]),
        (9, [[7, 1]]),
        (10, 1),
    ],
)
def test_an_outcome_is_checked_field_by_field(place: int, value: object) -> None:
    list(frames.take_frames(bytearray(framed(DONE))))
    wrong = [*DONE]
    wrong[place] = value
    with pytest.raises(frames.FrameError):
        list(frames.take_frames(bytearray(framed(wrong))))
