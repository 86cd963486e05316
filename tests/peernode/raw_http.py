"""A client that sends exactly the bytes it is told to, and small applications to talk to."""

import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from peernode.http_server import Config, Server, open_server
from peernode.http_service import Application, Receive, Scope, Send
from peernode.http_stream import Disconnected

PATIENCE_S = 20.0
"""A test that waits longer than this for anything fails."""


@dataclass
class Answer:
    status: int
    version: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = bytearray()

    async def send(self, *parts: bytes) -> None:
        with trio.fail_after(PATIENCE_S):
            for part in parts:
                await self.stream.send_all(part)

    async def _more(self) -> bool:
        with trio.fail_after(PATIENCE_S):
            data = await self.stream.receive_some(65536)
        self.buffer += data
        return bool(data)

    async def until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            assert await self._more(), f"ended after {bytes(self.buffer)!r}"
        size = self.buffer.index(end) + len(end)
        return self.take(size)

    def take(self, size: int) -> bytes:
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    async def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            assert await self._more(), f"ended after {bytes(self.buffer)!r}"
        return self.take(size)

    async def head(self) -> Answer:
        lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status = lines[0].split(" ")[:2]
        headers: dict[str, str] = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            assert name not in headers, f"{name} twice"
            headers[name] = value
        return Answer(int(status), version, headers, b"")

    async def answer(self, *, head_only: bool = False) -> Answer:
        answer = await self.head()
        if head_only or answer.status in (100, 101, 204, 304):
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.until(b"\r\n"), 16):
                answer.body += await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
            assert await self.exactly(2) == b"\r\n"
        elif "content-length" in answer.headers:
            answer.body = await self.exactly(int(answer.headers["content-length"]))
        else:
            answer.body = await self.rest()
        return answer

    async def ask(self, *parts: bytes, head_only: bool = False) -> Answer:
        await self.send(*parts)
        return await self.answer(head_only=head_only)

    async def rest(self) -> bytes:
        """Everything until the end of the stream; a reset is an end too."""
        try:
            while await self._more():
                pass
        except trio.BrokenResourceError:
            pass
        return self.take(len(self.buffer))


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        yield Client(stream)


class Errors(list[Exception]):
    """An `on_error` that remembers."""

    def __call__(self, error: Exception) -> None:
        self.append(error)


@asynccontextmanager
async def serving(
    app: Application,
    errors: Iterable[type[Exception]] = (),
    tls: ssl.SSLContext | None = None,
    **limits: Any,
) -> AsyncIterator[Server]:
    """Serve `app` with quick deadlines; it must report just these errors."""
    reported = Errors()
    config = Config(**{"deadline_scan_interval_s": 0.01} | limits)
    async with open_server(app, config=config, tls=tls, on_error=reported) as server:
        yield server
    assert [type(error) for error in reported] == list(errors)


def get(target: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "host: test", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes, *fields: str, target: str = "/") -> bytes:
    return get(target, f"content-length: {len(body)}", *fields, method="POST") + body


def chunked(*parts: bytes) -> bytes:
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return get("/", "transfer-encoding: chunked", method="POST") + encoded + b"0\r\n\r\n"


async def read_body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message["body"]
        if not message["more_body"]:
            return body


async def respond(
    send: Send,
    body: bytes = b"",
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what was asked, as JSON."""
    body = await read_body(receive)
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "version": scope["http_version"],
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]],
        "body": body.decode("latin-1"),
    }
    await respond(send, json.dumps(seen).encode())
