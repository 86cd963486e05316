"""ASGI's lifespan protocol: the application's start before, and its end after, all requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from peernode.http_service import Application, ApplicationError, Message


@asynccontextmanager
async def lifespan(app: Application, state: dict[str, Any]) -> AsyncIterator[None]:
    """Run `app`'s lifespan around the block; it may fill `state`.

    Raise `ApplicationError` if it refuses to start or to stop, and its own error if it has one.
    """
    inbox, receive = trio.open_memory_channel[Message](2)
    send, outbox = trio.open_memory_channel[Message](2)

    async def run() -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        async with send:
            await app({**scope, "state": state}, receive.receive, send.send)

    async def expect(phase: str) -> None:
        await inbox.send({"type": f"lifespan.{phase}"})
        try:
            answer = await outbox.receive()
        except trio.EndOfChannel:
            raise ApplicationError(f"lifespan {phase}: the application ended") from None
        if answer["type"] != f"lifespan.{phase}.complete":
            raise ApplicationError(f"lifespan {phase}: {answer.get('message') or answer['type']}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await expect("startup")
        yield
        await expect("shutdown")
