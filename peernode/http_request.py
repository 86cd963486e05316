"""Bytes in, requests out: a machine around llhttp that adds what llhttp leaves to its user.

`RequestParser.feed` takes whatever arrived and queues each request whose head is complete; its body
grows as more is fed.  Every message is an object of its own, because one read may hold many: a
parser that keeps "the current request" answers one client's request with another's headers.

llhttp refuses, strictly: both Content-Length and Transfer-Encoding, repeated or malformed lengths,
obs-fold, bare CR or LF, NUL and other control characters, spaces before a colon.  Added here:
limits on target, header size and count, and queued requests; the Host rules of RFC 9112 section
3.2; versions other than 1.0 and 1.1; transfer codings other than chunked; targets that are not
UTF-8 once decoded; upgrades.  The first fault ends the stream: it becomes `refusal`, which is due
*after* the answers to the requests queued before it.

What it leaves out: trailers (counted, dropped), chunk extensions (ignored), HTTP/2.
"""

import re
from collections import deque
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools

from peernode.http_service import Config, Refusal

_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_SPECIAL: Final = frozenset(
    (b"host", b"expect", b"transfer-encoding", b"content-length", b"upgrade"),
)


class Request:
    """One request. All of the head is known when the parser queues it."""

    __slots__ = (
        "body",
        "complete",
        "expects_continue",
        "headers",
        "host",
        "http_version",
        "keep_alive",
        "length",
        "method",
        "path",
        "query_string",
        "raw_path",
        "target",
        "transfer_encoding",
        "upgrade",
        "websocket",
    )

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.http_version = "1.1"
        self.raw_path = b""
        """The path as sent, percent-encoded, without the query."""
        self.path = ""
        self.query_string = b""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case, in the order sent."""
        self.host: bytes | None = None
        self.length: bytes | None = None
        self.transfer_encoding: bytes | None = None
        self.upgrade: bytes | None = None
        self.websocket = False
        """A sound opening handshake: the connection's next bytes are frames."""
        self.keep_alive = False
        self.expects_continue = False
        """The client waits for 100 before it sends the body."""
        self.body: list[bytes] = []
        """What arrived and was not taken yet."""
        self.complete = False
        """Nothing more of the body will come."""

    def take_body(self) -> bytes:
        """Return what arrived of the body and forget it."""
        parts = self.body
        if not parts:
            return b""
        self.body = []
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Refused(Exception):
    """Leaves a callback of the parser; the reason is in `RequestParser.refusal`."""


class RequestParser:
    """See the module; the public attributes are its output."""

    __slots__ = (
        "_config",
        "_head_count",
        "_head_size",
        "_parser",
        "_progress",
        "_request",
        "_silent_size",
        "in_head",
        "refusal",
        "requests",
        "trailing",
        "upgraded",
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        self.requests: deque[Request] = deque()
        """Requests with a complete head that nobody took yet; take them with `popleft`."""
        self.refusal: Refusal | None = None
        self.in_head = False
        """A head has begun and is not complete."""
        self.upgraded = False
        self.trailing = bytearray()
        """Bytes behind a WebSocket's opening handshake."""
        self._request = Request()
        self._head_size = 0
        self._head_count = 0
        self._silent_size = 0
        self._progress = False
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Drop the parser, which refers back to this object."""
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; more than one read's worth at a time breaks the limits."""
        while data and self.refusal is None and self._parser is not None:
            if self.upgraded:
                self.trailing += data
                return
            self._progress = False
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # Another protocol than WebSocket was offered: the request stands without it.
                data = data[upgrade.args[0] :]
                continue
            except httptools.HttpParserCallbackError as error:
                if not isinstance(error.__context__, _Refused):
                    raise
            except httptools.HttpParserError as error:
                self.refusal = Refusal(400, "bad_request", f"Malformed HTTP: {error}.")
            self._watch_silence(len(data))
            return

    def _watch_silence(self, size: int) -> None:
        # llhttp holds on to an unfinished header field, chunk extension or run of empty lines
        # without a callback, so what it may hold is bounded here.
        if self._progress:
            self._silent_size = 0
            return
        self._silent_size += size
        if self.refusal is None and self._silent_size > self._config.header_size_max_bytes:
            self.refusal = self._header_too_large()

    def _header_too_large(self) -> Refusal:
        limit = self._config.header_size_max_bytes
        return Refusal(
            431,
            "headers_too_large",
            f"The request's header is over header_size_max_bytes, {limit}.",
            limit=limit,
        )

    def _refuse(self, refusal: Refusal) -> _Refused:
        self.refusal = refusal
        return _Refused()

    def _bad(self, detail: str) -> _Refused:
        return self._refuse(Refusal(400, "bad_request", detail))

    # What follows is called by httptools, from `feed`.

    def on_message_begin(self) -> None:
        """Begin a request, unless too many wait already."""
        limit = self._config.requests_pipelined_max
        if len(self.requests) >= limit:
            raise self._refuse(
                Refusal(
                    400,
                    "pipeline_too_long",
                    f"More requests wait on this connection than requests_pipelined_max, {limit}.",
                    limit=limit,
                    retryable=True,
                ),
            )
        self._request = Request()
        self._head_size = self._head_count = 0
        self._progress = self.in_head = True

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        request = self._request
        request.target += part
        self._progress = True
        size = len(request.target)
        limit = self._config.target_size_max_bytes
        if size > limit:
            detail = f"The request's target is over target_size_max_bytes, {limit}."
            raise self._refuse(Refusal(414, "target_too_long", detail, limit=limit))
        self._head_size = size

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or a trailer field: those are counted and dropped."""
        self._progress = True
        self._head_size += len(name) + len(value)
        self._head_count += 1
        if self._head_size > self._config.header_size_max_bytes:
            raise self._refuse(self._header_too_large())
        if self._head_count > self._config.header_count_max:
            limit = self._config.header_count_max
            detail = f"The request has more header fields than header_count_max, {limit}."
            raise self._refuse(Refusal(431, "headers_too_large", detail, limit=limit))
        if self.in_head:
            name = name.lower()
            value = value.rstrip(b" \t")  # llhttp strips only what is before the value.
            if name in _SPECIAL:
                self._take_special(name, value)
            self._request.headers.append((name, value))

    def _take_special(self, name: bytes, value: bytes) -> None:
        request = self._request
        match name:
            case b"host":
                if request.host is not None:
                    raise self._bad("More than one Host header field.")
                if _HOST.fullmatch(value) is None:
                    raise self._bad("The Host header field is not a host.")
                request.host = value
            case b"expect":
                request.expects_continue = value.lower() == b"100-continue"
            case b"transfer-encoding":
                request.transfer_encoding = value
            case b"content-length":
                request.length = value
            case _:
                request.upgrade = value

    def on_headers_complete(self) -> None:
        """Check the head as a whole and queue the request."""
        parser = self._parser
        assert parser is not None
        request = self._request
        self.in_head = False
        self._progress = True
        request.http_version = version = parser.get_http_version()
        request.method = parser.get_method().decode("ascii")
        request.keep_alive = parser.should_keep_alive()
        if version == "1.0":
            request.expects_continue = False
            if request.transfer_encoding is not None:
                raise self._bad("Transfer-Encoding in an HTTP/1.0 request.")
        elif version != "1.1":
            detail = "This server speaks HTTP/1.1 and HTTP/1.0."
            raise self._refuse(Refusal(505, "http_version", detail))
        elif request.host is None:
            raise self._bad("An HTTP/1.1 request needs a Host header field.")
        coding = request.transfer_encoding
        if coding is not None and coding.lower() != b"chunked":
            detail = "The only transfer coding understood is chunked."
            raise self._refuse(Refusal(501, "not_implemented", detail))
        self._split_target(request)
        if parser.should_upgrade():
            self._check_upgrade(request)
        self.requests.append(request)

    def _split_target(self, request: Request) -> None:
        target = request.target
        if request.method == "CONNECT":
            detail = "This server is not a proxy."
            raise self._refuse(Refusal(501, "not_implemented", detail))
        if b"#" in target:
            raise self._bad("The target has a fragment.")
        if target[:1] == b"/":
            raw_path, _, request.query_string = target.partition(b"?")
        elif target == b"*" and request.method == "OPTIONS":
            raw_path = target
        else:
            raw_path = self._split_absolute(request)
        request.raw_path = raw_path
        try:
            if b"%" in raw_path:
                path = unquote_to_bytes(raw_path)
                if b"\x00" in path:
                    raise self._bad("The path has a NUL character.")
                request.path = path.decode("utf-8")
            else:
                request.path = raw_path.decode("ascii")
        except UnicodeDecodeError:
            raise self._bad("The path is not UTF-8.") from None

    def _split_absolute(self, request: Request) -> bytes:
        try:
            url = httptools.parse_url(request.target)
        except httptools.HttpParserInvalidURLError:
            raise self._bad("The target is not a path or an absolute URL.") from None
        if (url.schema or b"").lower() not in (b"http", b"https"):
            raise self._bad("The target is not a path or an http URL.")
        if url.userinfo is not None or not url.host:
            raise self._bad("The target has user information or no host.")
        # RFC 9112 section 3.2.2: the target's host replaces the Host field's.
        host = re.split(rb"[/?]", request.target.partition(b"://")[2], maxsplit=1)[0]
        request.host = host
        request.headers = [
            (name, host if name == b"host" else value) for name, value in request.headers
        ]
        request.query_string = url.query or b""
        return url.path or b"/"

    def _check_upgrade(self, request: Request) -> None:
        if request.transfer_encoding is not None or request.length not in (None, b"0"):
            # llhttp would take the body for the next request.
            raise self._bad("An upgrade request has a body.")
        if (request.upgrade or b"").lower() != b"websocket":
            return
        if request.method != "GET" or request.http_version != "1.1":
            raise self._bad("A WebSocket handshake is a GET over HTTP/1.1.")
        fields = [value for name, value in request.headers if name == b"sec-websocket-version"]
        if fields != [b"13"]:
            raise self._refuse(
                Refusal(
                    426,
                    "upgrade_required",
                    "The WebSocket version spoken here is 13.",
                    headers=((b"sec-websocket-version", b"13"),),
                ),
            )
        keys = [value for name, value in request.headers if name == b"sec-websocket-key"]
        if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
            raise self._bad("Sec-WebSocket-Key is not 16 bytes in base64.")
        request.websocket = self.upgraded = True

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        self._request.body.append(part)
        self._progress = True

    def on_message_complete(self) -> None:
        """End the request."""
        self._request.complete = True
        self._progress = True
