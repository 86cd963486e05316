"""Nodes over libp2p on loopback, for the seam's contract and for tests of our own."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from gossip.network import Network
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_network import Libp2pNetwork, open_libp2p_network
from tests.gossip.networks import World

ANYWHERE = "/ip4/127.0.0.1/tcp/0"
PATIENCE_S = 20
TRIED_S = 1.0
"""How long a connection that is to fail is waited for: many tries."""
QUICK = Libp2pConfig(retry_delay_min_s=0.02, retry_delay_max_s=0.2)

marks = [
    pytest.mark.slow,
    # What the library warns of when it is imported.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]


async def until(happened: Callable[[], object]) -> None:
    """Wait until something is so. Only a failure waits for long."""
    with trio.fail_after(PATIENCE_S):
        while not happened():  # noqa: ASYNC110  (it may be anything)
            await trio.sleep(0.002)


def seed(number: int) -> bytes:
    """Return the secret of a node's key."""
    return bytes([number]) * 32


def everybody(_: bytes) -> bool:
    """Allow all."""
    return True


@asynccontextmanager
async def open_node(
    number: int,
    *,
    allowed: Callable[[bytes], bool] = everybody,
    listened: str = ANYWHERE,
    config: Libp2pConfig = QUICK,
    reported: list[tuple[str, Exception]] | None = None,
) -> AsyncIterator[Libp2pNetwork]:
    """Open a node that listens. Its key follows from `number`."""
    faults: list[tuple[str, Exception]] = [] if reported is None else reported
    async with open_libp2p_network(
        seed(number),
        listened,
        allowed,
        random.Random(number),
        report=lambda peer, error: faults.append((peer, error)),
        config=config,
    ) as network:
        await network.listen()
        yield network
    if reported is None:
        assert faults == []


async def join(one: Libp2pNetwork, other: Libp2pNetwork) -> None:
    """Connect two nodes."""
    one.add_peer(other.peer, other.addresses())
    await until(lambda: other.peer in one.peers() and one.peer in other.peers())


class Libp2pWorld:
    """Nodes over libp2p."""

    def __init__(
        self, networks: list[Libp2pNetwork], reported: list[tuple[str, Exception]]
    ) -> None:
        self.networks = networks
        self.reported = reported

    async def connect(self, one: Network, other: Network) -> None:
        """Make two nodes peers."""
        assert isinstance(one, Libp2pNetwork)
        assert isinstance(other, Libp2pNetwork)
        await join(one, other)

    async def try_to_connect(self, one: Network, other: Network) -> bool:
        """Have one dial the other; tell whether they are peers then."""
        assert isinstance(one, Libp2pNetwork)
        assert isinstance(other, Libp2pNetwork)
        one.add_peer(other.peer, other.addresses())
        with trio.move_on_after(TRIED_S):
            await until(lambda: other.peer in one.peers() and one.peer in other.peers())
        return other.peer in one.peers()

    async def disconnect(self, one: Network, other: Network) -> None:
        """Break the link between them, which neither makes again."""
        assert isinstance(one, Libp2pNetwork)
        assert isinstance(other, Libp2pNetwork)
        one.forget_peer(other.peer)
        other.forget_peer(one.peer)
        await until(lambda: other.peer not in one.peers() and one.peer not in other.peers())


@asynccontextmanager
async def open_libp2p_world(count: int) -> AsyncIterator[World]:
    """Bring up nodes over libp2p."""
    reported: list[tuple[str, Exception]] = []
    async with AsyncExitStack() as stack:
        nodes = [open_node(number, reported=reported) for number in range(1, count + 1)]
        yield Libp2pWorld([await stack.enter_async_context(node) for node in nodes], reported)
