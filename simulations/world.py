"""A World: whole daemons in one process, under virtual time.

    async with open_world(scenario, seed, trace, metrics, graph=graph, lines=lines) as world:
        user = await world.sign_up("ada", 0)
        world.begin()
        answer = await world.request(3, "GET", "/project", token=user.tokens[3])
        await world.crash(3)

Each node is what `peernode up` runs, opened by the same function (`peernode.node.open_node`): HTTP
API, sessions, scheduler, gossip, reconciliation, fetching.  Only its seams are others: disk, clock,
entropy, network.  All nodes of a scenario are one mesh from the start (`simulations.founding`), and
who is linked with whom is the topology's.

A World runs inside `simulations.clock.run`, which also says what is not in it: threads and sockets.
What else is left out: processor time, but for what a scenario's `Costs` say; libp2p, Noise and TCP;
and nodes that join while it runs.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from peernode.config import Config
from peernode.node import Node
from simulations import chance, clock
from simulations.asgi_calls import Answer, Asked
from simulations.chance import VirtualClock
from simulations.distributions import draw
from simulations.founding import Mesh, found
from simulations.hosts import Host, NodeDown
from simulations.invariants import Invariants
from simulations.journal import Journal
from simulations.metrics import Metrics
from simulations.node_settings import config_of, open_backing
from simulations.processor import Processor
from simulations.scenario import Scenario
from simulations.trace import Trace
from simulations.virtual_disk import VirtualDisk
from simulations.world_network import Graph, Lines, WorldNetwork, WorldWire, require_short
from storage.certificates import AUDIENCE_MAX
from storage.store import Store

__all__ = ["Answer", "Caller", "NodeDown", "RefusedError", "World", "open_world"]

PASSWORD: Final = "correct horse battery"  # noqa: S105  (of nobody)
OVERHEARD_MAX: Final = 256
"""Frames kept of a node that is overheard. Source: guess; some minutes of gossip."""


class RefusedError(ValueError):
    """A node has refused what it was expected to do."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A user, with a token for each node."""

    id: str
    home: int
    tokens: tuple[str, ...]


class World:
    """The nodes of one run. Made by `open_world`; nodes are numbered from 0."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        journal: Journal,
        metrics: Metrics,
        graph: Graph,
        lines: Lines,
        nursery: trio.Nursery,
        config: Config,
        backing: Callable[[int], Callable[[], Store]] | None,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.journal = journal
        self.metrics = metrics
        self.graph = graph
        self.nursery = nursery
        """For what is part of the run and of no node."""
        self.clock = journal.clock
        self.size = len(graph.names)
        self.started: list[Callable[[int, Node], object]] = []
        """Are told of each node that is open, before it does anything more."""
        self.answered: list[Callable[[Asked, Answer], object]] = []
        """Are told of each call that was answered, and what its client heard."""
        self.ended: list[Callable[[int], object]] = []
        """Are told of each node that is down."""
        self.mesh: Mesh = found(self.size, seed)
        numbers = {peer: number for number, peer in enumerate(self.mesh.peers)}
        self.processors = [
            Processor(self.clock, scenario.costs, self.chance("processor", number))
            for number in range(self.size)
        ]
        self.wire = WorldWire(nursery, journal, lines, numbers, self.processors, self._report)
        self.invariants: Invariants | None = None
        """What is asserted after each step, if anything is."""
        self.hosts = [
            Host(
                self,
                number,
                VirtualDisk(
                    self.clock,
                    None if backing is None else backing(number),
                    partial(draw, scenario.costs.commit_s, self.chance("commits", number)),
                ),
                config,
            )
            for number in range(self.size)
        ]

    # --- time and chance ------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since the scenario began; 0 before."""
        return self.journal.now

    @property
    def trace(self) -> Trace:
        """What happened."""
        return self.journal.trace

    def begin(self) -> None:
        """Have the scenario's time begin: all is set up."""
        self.journal.begin()

    async def sleep_until(self, at_s: float) -> None:
        """Return at a time of the scenario."""
        await trio.sleep_until(self.journal.clock_time(at_s))

    def has_come(self, at_s: float) -> bool:
        """Tell whether it is a time of the scenario, or later; exactly."""
        return self.journal.has_come(at_s)

    def chance(self, *names: str | int) -> random.Random:
        """Return the generator of this name."""
        return chance.named(self.seed, *names)

    # --- nodes ----------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node | None]:
        """Return all nodes; `None` for one that is down."""
        return [host.node for host in self.hosts]

    def node(self, number: int) -> Node | None:
        """Return a node; `None`: it is down."""
        return self.hosts[number].node

    def life(self, number: int) -> trio.Nursery | None:
        """Return a nursery that is cancelled when the node goes down; `None`: it is down."""
        return self.hosts[number].life

    async def start(self, number: int) -> None:
        """Have a node run; nothing if it does."""
        await self.hosts[number].start()

    async def stop(self, number: int) -> None:
        """End a node in order; nothing if it is down."""
        await self.hosts[number].stop()

    async def crash(self, number: int) -> None:
        """Have a machine lose power: what was not committed is lost; nothing if it is down."""
        await self.hosts[number].crash()

    async def until_up(self, number: int) -> None:
        """Return once a node is up."""
        while self.hosts[number].node is None:
            await self.hosts[number].up.wait()

    def disk(self, number: int) -> VirtualDisk:
        """Return a node's disk, which may be slow or full."""
        return self.hosts[number].disk

    def wall(self, number: int) -> VirtualClock:
        """Return a node's wall clock, which may be wrong."""
        return self.hosts[number].wall

    def view_digest(self, number: int) -> bytes:
        """Return the digest of what a node shows (`simulations.view_digests`).

        Raises `NodeDown`.
        """
        return self.hosts[number].view_digest()

    # --- links ----------------------------------------------------------------------------

    def cut(self, source: int, target: int) -> None:
        """Let nothing through from one node to another; after a while their link breaks."""
        self.wire.cut(self.mesh.peers[source], self.mesh.peers[target])

    def heal(self, source: int, target: int) -> None:
        """Let everything through again."""
        self.wire.heal(self.mesh.peers[source], self.mesh.peers[target])

    def isolate(self, number: int) -> None:
        """Cut a node off from all others, both ways."""
        for other in self.graph.neighbours(number):
            self.cut(number, other)
            self.cut(other, number)
        self.journal.record("node", node=number, state="isolated")

    def rejoin(self, number: int) -> None:
        """End a node's isolation."""
        for other in self.graph.neighbours(number):
            self.heal(number, other)
            self.heal(other, number)
        state = "down" if self.hosts[number].node is None else "up"
        self.journal.record("node", node=number, state=state)

    def reset(self, one: int, other: int) -> None:
        """Break the link between two nodes; they will dial again."""
        self.wire.disconnect(self.mesh.peers[one], self.mesh.peers[other])

    def network(self, number: int) -> WorldNetwork | None:
        """Return a node's end of the network; `None`: it is down."""
        host = self.hosts[number]
        return None if host.node is None else host.network

    def sent_bytes(self, number: int) -> int:
        """Return the bytes of all frames that a node has sent so far."""
        return self.wire.sent_bytes[number]

    def overhear(self, number: int, frames_max: int = OVERHEARD_MAX) -> None:
        """Keep the last frames of gossip that reach a node, from now on."""
        self.hosts[number].overhear(frames_max)

    def overheard(self, number: int) -> Sequence[bytes]:
        """Return the frames kept of a node, oldest first."""
        return tuple(self.hosts[number].overheard or ())

    # --- users ----------------------------------------------------------------------------

    async def request(
        self,
        number: int,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return a node's answer to a call of its API.

        A body of bytes goes as it is, any other as JSON.  Whoever is cancelled meanwhile is a
        client that has left.  Raises `NodeDown` if the node is down or goes down before it answers.
        """
        return await self.hosts[number].request(method, path, body, token, headers)

    def operator_token(self, number: int) -> str:
        """Return the token of a node's operator."""
        return self.mesh.secrets[number].operator_token

    async def sign_up(self, name: str, home: int) -> Caller:
        """Return a new user of a node, with a token for each node. Raises `NodeDown`."""
        made = await self._expect(
            home, "POST", "/user", {"name": name, "password": PASSWORD}, status=201
        )
        user = str(made.json()["id"])
        own = {"password": PASSWORD, "audience": [str(self.mesh.node_number(home))]}
        token = (await self._expect(home, "POST", f"/user/{user}/login", own)).json()["token"]
        return Caller(user, home, await self.delegate(user, home, token))

    async def delegate(self, user: str, home: int, token: str) -> tuple[str, ...]:
        """Return a token of a user for each node, made with one for its home.

        Raises `NodeDown`, `RefusedError`.
        """
        numbers = [str(self.mesh.node_number(node)) for node in range(self.size)]
        tokens: list[str] = []
        for first in range(0, self.size, AUDIENCE_MAX):
            audience = numbers[first : first + AUDIENCE_MAX]
            path = f"/user/{user}/delegate"
            answer = await self._expect(home, "POST", path, {"audience": audience}, token=token)
            tokens += [answer.json()["token"]] * len(audience)
        return tuple(tokens)

    async def _expect(
        self, number: int, method: str, path: str, body: Any, *, status: int = 200, token: str = ""
    ) -> Answer:
        answer = await self.request(number, method, path, body, token=token or None)
        if answer.status != status:
            raise RefusedError(f"{method} {path}: {answer.status} {answer.body!r}")
        return answer

    # --- how it is opened and closed ------------------------------------------------------

    def _report(self, peer: str, error: Exception) -> None:
        """Raise what a handler let out: nobody expected it."""
        error.add_note(f"in a handler of node {self.wire.number(peer)}, at {self.now} s")
        raise error

    async def start_all(self) -> None:
        """Write the mesh on each disk, and have all nodes run."""
        positions = self.graph.positions_km
        for number, host in enumerate(self.hosts):
            store = host.disk.open()
            self.mesh.enter(store, number)
            store.close()
            if positions is not None:
                x, y = positions[number]
                self.journal.record("node", node=number, state="down", x=x, y=y)
        for number in range(self.size):
            await self.start(number)

    async def end_all(self) -> None:
        """Have no node run any more, without regard to what they are doing."""
        self.clock.each_step = None
        for told in (self.started, self.ended, self.answered):
            told.clear()
        for number in range(self.size):
            await self.crash(number)


@asynccontextmanager
async def open_world(
    scenario: Scenario,
    seed: int,
    trace: Trace,
    metrics: Metrics,
    *,
    graph: Graph,
    lines: Lines,
    checking: bool = False,
) -> AsyncIterator[World]:
    """Own a World whose nodes are all up; it ends with the block.

    `checking`: every invariant is asserted after each step, and what fails ends the run.  Raises
    `ScenarioError` for settings that nodes do not have, and for links too long to be dialled.
    """
    config = config_of(scenario)
    require_short(graph, lines)
    journal = Journal(clock.current(), trace)
    with open_backing(scenario) as backing, _single_errors():
        async with trio.open_nursery() as nursery:
            world = World(scenario, seed, journal, metrics, graph, lines, nursery, config, backing)
            if checking:
                world.invariants = Invariants(world)
            try:
                await world.start_all()
                yield world
            finally:
                journal.end()
                with trio.CancelScope(shield=True):
                    await world.end_all()
                nursery.cancel_scope.cancel()


@contextmanager
def _single_errors() -> Iterator[None]:
    """Raise an error by itself that is the only one of its group: what ended a run has a name."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
