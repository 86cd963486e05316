"""What nodes ask each other for their callers: golden bytes, and hostile ones."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gossip.errors import RemoteProtocolError
from peernode.foreign_messages import (
    ACCEPT_LENGTH_MAX,
    Ask,
    Ended,
    Refusal,
    Reply,
    Row,
    View,
    decode_ask,
    decode_reply,
    encode,
)

GOLDEN = Path(__file__).parent / "golden" / "foreign_frames.hex"
JOB = 1 << 40
ASKS = [
    Ask(2, "job.get", JOB, 30_000, b"", 0, b"right"),
    Ask(2, "job.cancel", JOB, 0, b"", 0, b"right"),
    Ask(2, "job.logs", JOB, 0, b"text/plain", 0, b"right"),
    Ask(2, "job.events", JOB, 0, b"", 7, b"right"),
    Ask(2, "blob.get", JOB, 0, b"", 0, b"right"),
    Ask(2, "blob.content", JOB, 0, b"", 0, b"right"),
    Ask(2, "blob.pass", JOB, 0, b"", 0, b"right"),
]
REPLIES: list[Reply] = [
    Refusal("not_found", b"there is none", b""),
    View("4-2", True, b"application/json", b"{}"),
    View("", False, b"text/plain", b""),
    Ended(b"request", b"snapshot"),
    Row(b"attributes", None),
    Row(b"attributes", b"pass"),
]


def test_golden_frames() -> None:
    """These bytes are what other versions read and write. A new layout is a new version."""
    lines = GOLDEN.read_text().split()
    assert lines == [encode(message).hex() for message in [*ASKS, *REPLIES]]
    assert [decode_ask(bytes.fromhex(line)) for line in lines[: len(ASKS)]] == ASKS
    assert [decode_reply(bytes.fromhex(line)) for line in lines[len(ASKS) :]] == REPLIES


@pytest.mark.parametrize(
    "bad",
    [
        Ask(2, "job.delete", JOB, 0, b"", 0, b""),  # type: ignore[arg-type]
        Ask(2, "job.get", 0, 0, b"", 0, b""),
        Ask(2, "job.get", JOB, -1, b"", 0, b""),
        Ask(2, "job.get", JOB, 0, bytes(ACCEPT_LENGTH_MAX + 1), 0, b""),
        Ask(2, "job.get", JOB, 0, b"", 0, bytes(20_000)),
    ],
)
def test_what_is_out_of_bounds_is_refused(bad: Ask) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_ask(encode(bad))


def test_a_revision_cannot_break_out_of_its_header() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_reply(encode(View('1"\r\nset-cookie: x', True, b"application/json", b"{}")))


@given(st.binary(max_size=300))
def test_noise_is_refused(frame: bytes) -> None:
    for decode in (decode_ask, decode_reply):
        with pytest.raises(RemoteProtocolError):
            decode(frame)
