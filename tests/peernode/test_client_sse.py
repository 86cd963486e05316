"""Server-sent events come out as they went in, whatever pieces the network makes of them."""

import itertools

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from peernode.client.errors import ProblemError
from peernode.client.sse import EVENT_SIZE_MAX_BYTES, Event, Parser

STREAM = (
    b": hello\n\n"
    b'id: 1\nevent: state\ndata: {"state": "queued"}\n\n'
    b'id: 2\r\nevent: progress\r\ndata: {"fraction":\r\ndata:  0.5}\r\n\r\n'
    b"data: plain text\n\n"
)
EVENTS = [
    Event("1", "state", {"state": "queued"}),
    Event("2", "progress", {"fraction": 0.5}),
    Event("2", "message", "plain text"),
]


def test_events_are_read():
    assert Parser().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_pieces_do_not_matter(cuts):
    parser = Parser()
    edges = [0, *sorted(cuts), len(STREAM)]
    found = []
    for start, stop in itertools.pairwise(edges):
        found += parser.feed(STREAM[start:stop])
    assert found == EVENTS
    assert parser.last_id == "2"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=3))
@settings(max_examples=50)
def test_any_json_comes_through(values):
    stream = b"".join(
        b"id: %d\ndata: %b\n\n" % (n, msgspec.json.encode(v)) for n, v in enumerate(values)
    )
    assert [event.data for event in Parser().feed(stream)] == values


def test_half_an_event_is_none_yet():
    assert Parser().feed(b"id: 1\ndata: 1\n") == []


def test_the_last_id_of_an_earlier_stream_is_kept():
    assert Parser("7").feed(b"data: 1\n\n") == [Event("7", "message", 1)]


def test_an_endless_event_is_refused():
    parser = Parser()
    line = b"data: " + b"x" * (EVENT_SIZE_MAX_BYTES // 2) + b"\n"
    parser.feed(line)
    with pytest.raises(ProblemError, match="larger"):
        parser.feed(line + b"data: x")
