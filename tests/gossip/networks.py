"""Networks to run the contract suite over: each a way to bring nodes up and join them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from gossip.memory_network import Wire, open_wire
from gossip.network import Network


class World(Protocol):
    """Some nodes of one kind of network."""

    networks: Sequence[Network]
    reported: list[tuple[str, Exception]]
    """What handlers let out, and at whom."""

    async def connect(self, one: Network, other: Network) -> None:
        """Make two nodes peers."""
        ...

    async def try_to_connect(self, one: Network, other: Network) -> bool:
        """Have one dial the other; tell whether they are peers then."""
        ...

    async def disconnect(self, one: Network, other: Network) -> None:
        """Break the link between them."""
        ...


class MemoryWorld:
    """Nodes in memory."""

    def __init__(self, wire: Wire, count: int, reported: list[tuple[str, Exception]]) -> None:
        self.wire = wire
        self.networks = [wire.join(f"peer-{number}") for number in range(count)]
        self.reported = reported

    async def connect(self, one: Network, other: Network) -> None:
        """Make two nodes peers."""
        assert self.wire.connect(one.peer, other.peer)
        await trio.lowlevel.checkpoint()

    async def try_to_connect(self, one: Network, other: Network) -> bool:
        """Have one dial the other; tell whether they are peers then."""
        await trio.lowlevel.checkpoint()
        return self.wire.connect(one.peer, other.peer)

    async def disconnect(self, one: Network, other: Network) -> None:
        """Break the link between them."""
        self.wire.disconnect(one.peer, other.peer)
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_memory_world(count: int) -> AsyncIterator[World]:
    """Bring up nodes in memory."""
    reported: list[tuple[str, Exception]] = []
    async with open_wire(report=lambda peer, error: reported.append((peer, error))) as wire:
        yield MemoryWorld(wire, count, reported)
