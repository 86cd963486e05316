"""The seam between a worker and its node: a `Link` carries batches of messages both ways.

Two implementations: a WebSocket (`worker.websocket_link`) and a pair in memory (`open_pair`, for
tests and simulations).  Both carry *encoded* batches, so that what cannot be written down cannot
be said in a test either.

A batch is one CBOR array of messages, each an array `[kind, field, ...]`.  Reading is strict:
unknown kinds, missing or additional fields, wrong types and over-long batches are refused
(`LinkBroken`), and so the link ends.  A batch that would be over `MESSAGE_SIZE_MAX_BYTES` is
halved until its parts fit.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import trio

from storage.codec import dump_message, load_message
from storage.errors import CodecError
from worker.protocol import (
    BATCH_LENGTH_MAX,
    MESSAGE_SIZE_MAX_BYTES,
    FromWorker,
    Message,
    ToWorker,
)

PAIR_BUFFER_BATCHES: Final = 64
"""Batches one side of a pair may send ahead. Source: guess."""


class LinkError(Exception):
    """Base of what can go wrong with a link."""


class LinkClosed(LinkError):
    """The link is over: the other side or the network ended it. A new one may work."""


class LinkBroken(LinkError):
    """The other side broke the protocol, and the link is over: remote fault."""


class LinkRefused(LinkError):
    """The node does not take this worker (token, version): trying again is pointless."""


class Link(Protocol):
    """Batches of messages, in order, both ways. One sender and one receiver at a time."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Send a batch; returns when the link can take another. Raises `LinkClosed`."""
        ...

    async def receive(self) -> list[Message]:
        """Return the next batch. Raises `LinkClosed` at the end, `LinkBroken` on nonsense."""
        ...

    async def aclose(self) -> None:
        """Close the link. Never raises; closing twice is fine."""
        ...


class FromWorkerBatch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A batch a node may receive."""

    messages: list[FromWorker]


class ToWorkerBatch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A batch a worker may receive."""

    messages: list[ToWorker]


Batch = type[FromWorkerBatch] | type[ToWorkerBatch]
"""What one side may receive. A struct around the list, whose type `msgspec` looks up once."""


def encode_batch(messages: Sequence[Message]) -> list[bytes]:
    """Encode `messages` as one batch, or as several where one would be too large.

    Raises `ValueError` when a single message is over `MESSAGE_SIZE_MAX_BYTES`.
    """
    if len(messages) <= BATCH_LENGTH_MAX:
        data = dump_message(msgspec.to_builtins(messages, builtin_types=(bytes,)))
        if len(data) <= MESSAGE_SIZE_MAX_BYTES:
            return [data]
        if len(messages) == 1:
            raise ValueError(f"a {type(messages[0]).__name__} of {len(data)} bytes")
    half = len(messages) // 2
    return encode_batch(messages[:half]) + encode_batch(messages[half:])


def decode_batch(data: bytes, batch: Batch) -> list[Message]:
    """Decode one batch that came over a link. Raises `LinkBroken` for all that is not exact."""
    try:
        rows: Any = load_message(data, MESSAGE_SIZE_MAX_BYTES)
        messages = msgspec.convert([rows], batch, builtin_types=(bytes,)).messages
    except (CodecError, msgspec.ValidationError) as error:
        raise LinkBroken(f"not a batch of messages: {error}") from error
    if len(messages) > BATCH_LENGTH_MAX:
        raise LinkBroken(f"a batch of {len(messages)} messages, over {BATCH_LENGTH_MAX}")
    return list(messages)


class MemoryLink:
    """One end of a pair in memory."""

    def __init__(
        self,
        sending: trio.MemorySendChannel[bytes],
        receiving: trio.MemoryReceiveChannel[bytes],
        batch: Batch,
    ) -> None:
        self._sending = sending
        self._receiving = receiving
        self._batch = batch

    async def send(self, messages: Sequence[Message]) -> None:
        """Send a batch to the other end."""
        for data in encode_batch(messages):
            try:
                await self._sending.send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise LinkClosed("the other end closed the link") from error

    async def receive(self) -> list[Message]:
        """Return the next batch from the other end."""
        try:
            data = await self._receiving.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise LinkClosed("the other end closed the link") from error
        return decode_batch(data, self._batch)

    async def aclose(self) -> None:
        """Close both directions."""
        self._sending.close()
        self._receiving.close()


def open_pair() -> tuple[MemoryLink, MemoryLink]:
    """Return the two ends of a link in memory: the worker's and the node's."""
    to_node, from_worker = trio.open_memory_channel[bytes](PAIR_BUFFER_BATCHES)
    to_worker, from_node = trio.open_memory_channel[bytes](PAIR_BUFFER_BATCHES)
    worker = MemoryLink(to_node, from_node, ToWorkerBatch)
    node = MemoryLink(to_worker, from_worker, FromWorkerBatch)
    return worker, node
