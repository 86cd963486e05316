"""A client that costs little: HTTP/1.1 over raw sockets, one thread.

`Connection` waits for each answer; `many` keeps a number of connections busy, each with one request
at a time, and sends the next as soon as one is free.
"""

import itertools
import json
import selectors
import socket
import uuid
from collections.abc import Iterable
from typing import Any

TIMEOUT_S = 120.0


def request(
    method: str, path: str, token: str, body: object = None, *, unique: bool = False
) -> bytes:
    """Return the bytes of a request; `unique` adds an Idempotency-Key of its own."""
    head = f"{method} {path} HTTP/1.1\r\nHost: peernode\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if unique:
        head += f"Idempotency-Key: {uuid.uuid4().hex}\r\n"
    text = b"" if body is None else json.dumps(body).encode()
    if text:
        head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    return f"{head}\r\n".encode() + text


def answer(received: bytes) -> tuple[int, bytes, bytes] | None:
    """Return status, body and what follows of the first answer in `received`, once complete."""
    head, separator, rest = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    status = int(head[9:12])
    _, found, after = head.lower().partition(b"content-length:")
    assert found or status == 204, head
    length = int(after.partition(b"\r\n")[0]) if found else 0
    if len(rest) < length:
        return None
    return status, rest[:length], rest[length:]


def decode(content: bytes) -> Any:
    return json.loads(content)


class Connection:
    """One connection, one request at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.socket.close()

    def send(self, content: bytes) -> tuple[int, bytes]:
        """Send a request's bytes; return status and body of the answer."""
        self.socket.sendall(content)
        return self.receive()

    def receive(self) -> tuple[int, bytes]:
        received = b""
        while True:
            more = self.socket.recv(1 << 20)
            assert more, f"closed by the node after {received[:200]!r}"
            received += more
            if parts := answer(received):
                assert not parts[2]
                return parts[0], parts[1]

    def call(self, method: str, path: str, token: str, body: object = None) -> Any:
        """Return the JSON of an answer, which must be a success."""
        status, content = self.send(request(method, path, token, body))
        assert 200 <= status < 300, f"{method} {path}: {status} {content.decode()}"
        return decode(content) if content else None


def many(
    address: tuple[str, int], requests: Iterable[bytes], connections: int = 32
) -> list[tuple[int, bytes]]:
    """Send `requests` over `connections`; return statuses and bodies in the order of arrival."""
    waiting = iter(requests)
    answers: list[tuple[int, bytes]] = []
    with selectors.DefaultSelector() as selector:
        links = []
        for content in itertools.islice(waiting, connections):
            link = socket.create_connection(address, timeout=TIMEOUT_S)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(link, selectors.EVENT_READ, (link, bytearray()))
            links.append(link)
            link.sendall(content)
        busy = len(links)
        while busy:
            ready = selector.select(TIMEOUT_S)
            assert ready, f"no answer for {TIMEOUT_S} s"
            for key, _ in ready:
                link, buffer = key.data
                more = link.recv(1 << 16)
                assert more, f"closed by the node after {bytes(buffer[:200])!r}"
                buffer += more
                if not (parts := answer(bytes(buffer))):
                    continue
                answers.append(parts[:2])
                buffer.clear()
                if (following := next(waiting, None)) is None:
                    busy -= 1
                else:
                    link.sendall(following)
        for link in links:
            link.close()
    return answers
