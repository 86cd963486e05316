"""The node's end of the links to its workers: what goes out, batched; what comes in, decoded.

A link's outbox is flushed by one task as fast as the worker reads, so messages that become ready
while one batch is on its way leave together.  What the messages mean is not decided here.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import trio

from worker.link import FromWorkerBatch, LinkBroken, decode_batch, encode_batch
from worker.protocol import FromWorker, Hello, Offer, ToWorker

Receive = Callable[[], Awaitable[bytes | None]]
Send = Callable[[bytes], Awaitable[None]]


class WorkerLink:
    """One attached worker: its outbox, and which programs it has been sent."""

    def __init__(self, worker: int, receive: Receive, send: Send) -> None:
        self.worker = worker
        self.offer: Offer | None = None
        """What it said that it offers."""
        self.programs: dict[str, object] = {}
        """program -> the function version it was sent as."""
        self.closed = trio.Event()
        self.reason = ""
        self._receive = receive
        self._send = send
        self._outbox: list[ToWorker] = []
        self._wake = trio.Event()

    def post(self, message: ToWorker) -> None:
        """Queue `message`; never waits."""
        self._outbox.append(message)
        if len(self._outbox) == 1:
            self._wake.set()

    def close(self, reason: str) -> None:
        """Have the link closed, telling the worker why."""
        self.reason = self.reason or reason
        self.closed.set()

    async def receive(self) -> Sequence[FromWorker] | None:
        """Return the next batch, or `None` at the link's end; raises `LinkBroken`."""
        data = await self._receive()
        if data is None:
            return None
        return cast("Sequence[FromWorker]", decode_batch(data, FromWorkerBatch))

    async def receive_hello(self) -> tuple[Hello, Sequence[FromWorker]]:
        """Return the worker's first message and what came with it; raises `LinkBroken`."""
        batch = await self.receive()
        if not batch or not isinstance(batch[0], Hello):
            raise LinkBroken("a worker's first message is Hello")
        return batch[0], batch[1:]

    async def pump(self) -> None:
        """Send what is posted, until cancelled or the link breaks; `send` says so by `OSError`."""
        while True:
            if not self._outbox:
                self._wake = trio.Event()
                await self._wake.wait()
            outbox, self._outbox = self._outbox, []
            try:
                for data in encode_batch(outbox):
                    await self._send(data)
            except OSError:
                self.close("the link broke")
                return
