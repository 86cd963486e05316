"""The parser as a machine: what it makes of bytes does not depend on how they were cut."""

from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings, strategies as st

from peernode.http_request import RequestParser
from peernode.http_service import Config
from tests.peernode.raw_http import chunked, get, post

GOOD = [
    get("/a%20b?c=d", "Accept: */*", "x: \xe9"),
    post(b"hello", "x: y"),
    chunked(b"one", b"two"),
    get("http://other/a"),
    get("/", "upgrade: h2c", "connection: upgrade"),
    b"GET /old HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
]
BAD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"FOO\r\n",
    get("/%ff"),
    get("/", "a: \x00"),
    b"\r\nrubbish\r\n\r\n",
]


def outcome(parts: list[bytes]) -> tuple[list[Any], Any]:
    parser = RequestParser(Config())
    for part in parts:
        parser.feed(part)
    requests = [
        (
            request.method,
            request.path,
            request.raw_path,
            request.query_string,
            request.headers,
            request.keep_alive,
            request.complete,
            request.take_body(),
        )
        for request in parser.requests
    ]
    refusal = parser.refusal
    return requests, refusal and (refusal.status, refusal.code)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(GOOD), max_size=4),
    st.sampled_from([b"", *BAD]),
    st.lists(st.integers(0, 600), max_size=8),
)
@example(GOOD, BAD[0], list(range(600)))
def test_cutting_does_not_matter(good: list[bytes], bad: bytes, cuts: list[int]) -> None:
    whole = b"".join(good) + bad
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    parts = [whole[begin:end] for begin, end in pairwise(edges)]
    assert outcome(parts) == outcome([whole])
    requests, refusal = outcome([whole])
    assert len(requests) == len(good)
    assert bool(refusal) == bool(bad)


def test_spaces_around_a_value_are_not_part_of_it() -> None:
    parser = RequestParser(Config())
    parser.feed(b"GET / HTTP/1.1\r\nhost: \t test \t \r\na:\r\nb: \xff c \r\n\r\n")
    assert parser.requests[0].headers == [(b"host", b"test"), (b"a", b""), (b"b", b"\xff c")]


def test_nothing_is_taken_after_a_refusal() -> None:
    parser = RequestParser(Config())
    parser.feed(b"rubbish\r\n\r\n")
    parser.feed(get())
    assert not parser.requests
    assert parser.refusal is not None


def test_bytes_behind_a_websocket_handshake_are_kept_apart() -> None:
    parser = RequestParser(Config())
    handshake = get(
        "/",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-version: 13",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    parser.feed(get("/1") + handshake + b"\x81")
    parser.feed(get("/not a request"))
    assert [request.websocket for request in parser.requests] == [False, True]
    assert parser.trailing == b"\x81" + get("/not a request")


def test_a_closed_parser_takes_nothing() -> None:
    parser = RequestParser(Config())
    parser.close()
    parser.feed(get())
    assert not parser.requests
