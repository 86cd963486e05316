"""Whole nodes that are a mesh, in memory: who is in it is on their disks from the start.

Every frame that goes over the wire is kept, so that a test can say what never left.
"""

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import msgspec
import trio

from gossip.memory_network import MemoryNetwork, Wire, open_wire
from gossip.network import FrameHandler, RequestHandler, Stream
from peernode.config import Config
from peernode.identity import enter_mesh
from peernode.node import Node, Seams, open_node
from peernode.peering import PeerNetwork
from storage import facts
from storage.facts import Fact, NodeGrant
from tests.peernode.meshes import keypair, peer_id, secrets
from tests.peernode.nodes import (
    CONFIG,
    PASSWORD,
    START_MS,
    Caller,
    Disk,
    SeededEntropy,
    WallClock,
    inline,
    settle,
)

NAMES = "abcde"
YEAR_MS = 366 * 86_400_000


def genesis() -> Fact:
    return facts.found_mesh(keypair("a"), "mesh", START_MS - 1000)


def grant(name: str, number: int, users_max: int | None = None) -> Fact:
    """Return the founder's word that a node is in, with this number."""
    mesh = genesis().id
    statement = NodeGrant(
        number=number,
        public_key=keypair(name).public_key,
        block=None,
        roles=(),
        users_max=users_max,
        not_before_ms=START_MS - 1000,
        expires_ms=START_MS + YEAR_MS,
        by=facts.FOUNDER_NUMBER,
        signed_at=(START_MS - 500) << 16,
    )
    return facts.assemble(statement, facts.sign(statement, keypair("a"), mesh), mesh)


class Overheard:
    """A line without delay that nothing is lost on, and what was said."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.loss = itertools.repeat(False)

    def delay_s(self, source: str, target: str, size_bytes: int) -> float:
        return 0.005

    def is_lost(self, source: str, target: str, size_bytes: int) -> bool:
        return next(self.loss)


class TappedNetwork:
    """A `PeerNetwork` over a wire; a test connects it, and reads along."""

    def __init__(self, network: MemoryNetwork, frames: list[bytes]) -> None:
        self._network = network
        self._frames = frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def addresses(self) -> list[str]:
        return []

    def add_peer(self, peer: str, addresses: object) -> None:
        pass

    def forget_peer(self, peer: str) -> None:
        pass

    remove_peer = forget_peer

    def review(self) -> None:
        pass

    async def listen(self) -> None:
        pass

    def serve_requests(
        self, protocol: str, handler: RequestHandler, *, size_max_bytes: int, **_: object
    ) -> None:
        self._network.serve_requests(protocol, handler, size_max_bytes=size_max_bytes)

    def serve_strangers(self, *_: object, **__: object) -> None:
        pass

    def serve_frames(self, handler: FrameHandler, *, size_max_bytes: int) -> None:
        def tap(peer: str, frame: bytes) -> None:
            self._frames.append(frame)
            handler(peer, frame)

        self._network.serve_frames(tap, size_max_bytes=size_max_bytes)

    async def request(self, peer: str, protocol: str, frame: bytes, **kwargs: Any) -> bytes:
        reply = await self._network.request(peer, protocol, frame, **kwargs)
        self._frames += (frame, reply)
        return reply

    async def open_stream(self, *args: Any, **kwargs: Any) -> Stream:
        return cast("Stream", _Tap(await self._network.open_stream(*args, **kwargs), self._frames))


class _Tap:
    """The opener's end of a stream: what goes either way passes here."""

    def __init__(self, stream: Stream, frames: list[bytes]) -> None:
        self._stream = stream
        self._frames = frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, frame: bytes) -> None:
        self._frames.append(frame)
        await self._stream.send(frame)

    async def receive(self) -> bytes:
        frame = await self._stream.receive()
        self._frames.append(frame)
        return frame


@dataclass
class Federated:
    """Some nodes of one mesh."""

    wire: Wire
    overheard: Overheard
    clock: WallClock
    nursery: trio.Nursery
    nodes: dict[str, Node] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    tokens: dict[str, dict[str, str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    _starts: Iterator[int] = field(default_factory=itertools.count)
    _running: dict[str, tuple[trio.Event, trio.Event]] = field(default_factory=dict)

    @property
    def frames(self) -> list[bytes]:
        return self.overheard.frames

    async def start(self, name: str, clock: WallClock | None = None, **settings: Any) -> Node:
        """Have a node run, on its disk."""
        network = TappedNetwork(self.wire.join(peer_id(name)), self.frames)
        seams = Seams(
            clock=clock or self.clock,
            entropy=SeededEntropy(f"{name}/{next(self._starts)}"),
            offload=inline,
            store=self.disks[name],
            secrets=secrets(name),
            network=cast("PeerNetwork", network),
            chance=Random(name),
        )
        config = msgspec.structs.replace(CONFIG, **settings)
        self.nodes[name] = await self.nursery.start(self._host, name, config, seams)
        return self.nodes[name]

    async def _host(self, name: str, config: Config, seams: Seams, task_status: Any) -> None:
        stopping, stopped = self._running[name] = trio.Event(), trio.Event()
        async with open_node(config, seams) as node:
            task_status.started(node)
            await stopping.wait()
        stopped.set()

    async def stop(self, name: str) -> None:
        """End a node; what is on its disk stays."""
        disk = self.disks[name].copy()
        self.wire.leave(peer_id(name))
        self.disks[name].let_go()
        stopping, stopped = self._running.pop(name)
        stopping.set()
        await stopped.wait()
        del self.nodes[name]
        self.disks[name] = disk

    def join(self, *names: str) -> None:
        """Connect these with one another."""
        for one, other in itertools.combinations(names, 2):
            self.wire.connect(peer_id(one), peer_id(other))

    def part(self, one: str, other: str) -> None:
        self.wire.disconnect(peer_id(one), peer_id(other))

    async def sign_up(self, name: str, at: str) -> Caller:
        """Make a user at a node, with a token for each node there is; return the caller there."""
        home = Caller(self.nodes[at])
        user = await home.post("/user", {"name": name, "password": PASSWORD}, 201)
        self.ids[name] = user["id"]
        self.tokens[name] = {}
        for node_name, node in self.nodes.items():
            body = {"password": PASSWORD, "audience": [str(node.identity.number)]}
            answer = await home.post(f"/user/{name}/login", body)
            self.tokens[name][node_name] = answer["token"]
        return self.caller(name, at)

    def caller(self, name: str, at: str) -> Caller:
        caller = Caller(self.nodes[at], self.tokens[name][at])
        caller.id = self.ids[name]
        return caller

    def check(self) -> None:
        """Assert all invariants."""
        for node in self.nodes.values():
            assert node.federation is not None
            node.federation.gossip.mesh.check()
            node.federation.sync.sync.check()
            node.federation.ingestion.waiting.check()


@asynccontextmanager
async def open_federated(
    count: int = 3,
    *,
    connected: bool = True,
    also: Sequence[str] = (),
    users_max: int | None = None,
    **settings: Any,
) -> AsyncIterator[Federated]:
    """Own nodes "a", "b", ... of one mesh, "a" its founder, each connected to each.

    `also` are let in, and left to the test.  `users_max` is for all but the founder.
    """
    names, overheard = NAMES[:count], Overheard()
    numbers = list(enumerate([*names, *also], 1))
    grants = [grant(name, number, users_max) for number, name in numbers if number > 1]
    async with open_wire(overheard) as wire, trio.open_nursery() as nursery:
        made = Federated(wire, overheard, WallClock(), nursery)
        try:
            for number, name in enumerate(names, 1):
                made.disks[name] = Disk()
                enter_mesh(made.disks[name], genesis(), number, grants)
                await made.start(name, **settings)
            if connected:
                made.join(*names)
            await settle()
            yield made
            made.check()
        finally:
            with trio.CancelScope(shield=True):
                for name in list(made.nodes):
                    await made.stop(name)
