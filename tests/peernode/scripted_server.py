"""A real HTTP server on loopback that answers as its script says, and cuts where it says so."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec


@dataclass
class Answer:
    """One answer; with `cut_after`, the connection dies after so many bytes of its body."""

    status: int = 200
    value: object = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None

    def bytes(self) -> bytes:
        body = msgspec.json.encode(self.value) if self.body is None else self.body
        headers = {"content-length": str(len(body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
        sent = body if self.cut_after is None else body[: self.cut_after]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent


CUT = Answer(cut_after=0)
"""Placeholder for no answer at all: compared by identity."""


@dataclass
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def json(self) -> object:
        return msgspec.json.decode(self.body)


class ScriptedServer:
    """Answers requests in order, from one thread; what it got is in `received`."""

    def __init__(self, script: list[Answer]) -> None:
        self.script = [*script]
        self.received: list[Received] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._closing = False
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()

    def answer_to(self, received: Received) -> Answer | None:
        """Return what is answered besides the script."""
        return None

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as reader:
                if self._closing:
                    return
                self._talk(connection, reader)

    def _talk(self, connection: socket.socket, reader) -> None:
        received = _read(reader)
        if received is None:
            return
        self.received.append(received)
        answer = self.answer_to(received)
        if answer is None:
            over = Answer(500, {"detail": "script is over"})
            answer = self.script.pop(0) if self.script else over
        if answer is not CUT:
            answer.headers.setdefault("connection", "close")
            connection.sendall(answer.bytes())
        connection.shutdown(socket.SHUT_WR)


def _read(reader) -> Received | None:
    first = reader.readline().decode()
    if not first:
        return None
    method, target, _ = first.split(" ")
    headers = {}
    while line := reader.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    else:
        body = reader.read(int(headers.get("content-length", "0")))
    return Received(method, target, headers, body)


S = TypeVar("S", bound=ScriptedServer)


@contextmanager
def scripted(*script: Answer, kind: type[S] = ScriptedServer) -> Iterator[S]:
    server = kind([*script])
    try:
        yield server
    finally:
        server.close()
