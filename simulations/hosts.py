"""One node's machine in a World: what outlives the node's process, and each life of it.

A life is `peernode.node.open_node`, as `peernode up` has it, with seams of the simulation: a disk
that takes virtual time, a wall clock that may be wrong, a network in memory, keys that follow from
a seed, and no threads.  A life ends in order (`stop`) or from one moment to the next (`crash`):
then nothing of it is committed, sent or answered any more.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from peernode.config import Config
from peernode.http_stream import is_disconnect
from peernode.node import Node, Seams, open_node
from simulations.asgi_calls import Answer, Asked, Exchange, encode_body, scope_of
from simulations.chance import SeededEntropy, VirtualClock, named
from simulations.view_digests import ViewDigest
from simulations.virtual_disk import VirtualDisk
from simulations.world_network import WorldNetwork
from storage.errors import StoreError

if TYPE_CHECKING:
    from simulations.world import World

T = TypeVar("T")


class NodeDown(Exception):
    """The node is down, or went down before it answered."""


async def inline(function: Callable[..., T], /, *args: Any) -> T:
    """Run a blocking function here and now: there are no threads."""
    return function(*args)


class _Life:
    """One run of a node's process."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.stopping = trio.Event()
        """Set when it is to end in order."""
        self.begun = trio.Event()
        """Set when the node is up, or never will be."""
        self.over = trio.Event()
        self.is_ending = False


class Host:
    """A machine. `node` is `None` while it is down."""

    def __init__(self, world: "World", number: int, disk: VirtualDisk, config: Config) -> None:
        self.number = number
        self.disk = disk
        self.wall = VirtualClock(lambda: world.clock.now)
        self.node: Node | None = None
        self.life: trio.Nursery | None = None
        """Is cancelled with the node: what runs in it is part of the machine."""
        self.network: WorldNetwork | None = None
        self.up = trio.Event()
        self.overheard: deque[bytes] | None = None
        """Frames of gossip that its nodes received, if they are kept."""
        self._world = world
        self._config = config
        self._starts = 0
        self._views: ViewDigest | None = None
        self._calls: dict[Exchange, None] = {}
        self._life: _Life | None = None

    # --- lives ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin a life, after the one that is just ending; nothing if there is one.

        Returns when the node is up, or has gone down meanwhile.
        """
        while self._life is not None and self._life.is_ending:
            await self._life.over.wait()
        if self._life is None:
            self._life = life = _Life()
            self._world.nursery.start_soon(self._live, life)
            await life.begun.wait()

    async def stop(self) -> None:
        """End the life in order, as a signal does; nothing if there is none."""
        life = self._life
        if life is None:
            return
        if self.node is not None:
            await self.node.drain()
        life.stopping.set()
        await life.over.wait()

    async def crash(self) -> None:
        """Lose power, now; nothing if there is no life. Returns when all is cleared away."""
        life, network = self._life, self.network
        if life is None:
            return
        life.is_ending = True
        self.disk.lose_power()
        if network is not None and self._world.wire.has(network):
            self._world.wire.vanish(network.peer)
        self._down()
        life.scope.cancel()
        await life.over.wait()

    async def _live(self, life: "_Life") -> None:
        self._starts += 1
        try:
            with life.scope:
                await self._run(life)
        except* StoreError:
            if not life.scope.cancel_called:
                raise
        finally:
            self._down()
            self._life = None
            life.begun.set()
            life.over.set()

    async def _run(self, life: "_Life") -> None:
        world, number, start = self._world, self.number, self._starts
        peer = world.mesh.peers[number]
        async with trio.open_nursery() as handlers:
            network = self.network = WorldNetwork(
                world.wire,
                peer,
                (world.mesh.peers[other] for other in world.graph.neighbours(number)),
                named(world.seed, "dialling", number, start),
                handlers,
            )
            network.overheard = self.overheard
            world.wire.let_in(network)
            seams = Seams(
                clock=self.wall,
                entropy=SeededEntropy(world.seed, "node", number, start),
                offload=inline,
                store=self.disk.open(),
                secrets=world.mesh.secrets[number],
                network=network,
                chance=named(world.seed, "peers", number, start),
            )
            try:
                async with open_node(self._config, seams) as node:
                    network.allowed = node.membership.is_member
                    async with trio.open_nursery() as nursery:
                        self._begin(node, nursery)
                        life.begun.set()
                        await life.stopping.wait()
                        life.is_ending = True
                        self._down()
                        nursery.cancel_scope.cancel()
            finally:
                if world.wire.has(network):
                    world.wire.leave(peer)
                handlers.cancel_scope.cancel()

    def _begin(self, node: Node, nursery: trio.Nursery) -> None:
        self.node, self.life, self._views = node, nursery, None
        self.up.set()
        self._world.journal.record("node", node=self.number, state="up")
        for told in self._world.started:
            told(self.number, node)

    def _down(self) -> None:
        """Have the node be down for all others from now on; nothing if it is."""
        if self.node is None:
            return
        self.node = self.life = self._views = None
        self.up = trio.Event()
        for exchange in self._calls:
            exchange.done.set()
        self._world.journal.record("node", node=self.number, state="down")
        for told in self._world.ended:
            told(self.number)

    # --- what is asked of it --------------------------------------------------------------

    def overhear(self, frames_max: int) -> None:
        """Keep the last frames of gossip that arrive, from now on."""
        self.overheard = deque(self.overheard or (), maxlen=frames_max)
        if self.network is not None:
            self.network.overheard = self.overheard

    def view_digest(self) -> bytes:
        """Return the digest of what the node shows. Raises `NodeDown`."""
        if self.node is None:
            raise NodeDown(f"node {self.number} is down")
        if self._views is None:
            self._views = ViewDigest(self.node)
        return self._views.digest()

    async def request(
        self,
        method: str,
        path: str,
        body: Any,
        token: str | None,
        headers: Mapping[str, str] | None,
    ) -> Answer:
        """Return the node's answer. Raises `NodeDown`."""
        if self.life is None or self.node is None:
            raise NodeDown(f"node {self.number} is down")
        data = encode_body(body)
        asked = Asked(
            node=self.number,
            method=method,
            path=path,
            body=data,
            token=token,
            headers=headers,
            begun_s=self._world.clock.now,
        )
        exchange = Exchange(data)
        scope = scope_of(method, path, len(data), token=token, headers=headers)
        self._calls[exchange] = None
        self.life.start_soon(self._answer, self.node, scope, exchange)
        try:
            await exchange.done.wait()
        finally:
            exchange.leave()
            del self._calls[exchange]
        if not exchange.answer.status:
            raise NodeDown(f"node {self.number} went down")
        for told in self._world.answered:
            told(asked, exchange.answer)
        return exchange.answer

    async def _answer(self, node: Node, scope: dict[str, Any], exchange: Exchange) -> None:
        try:
            await self._world.processors[self.number].call()
            await node.api(scope, exchange.receive, exchange.send)
        except (OSError, ExceptionGroup) as error:
            if not (exchange.is_gone and is_disconnect(error)):
                raise
        finally:
            exchange.done.set()
