"""Clients: who hands jobs in, from where, and when they are there at all.

A client is up and down by turns, each time for as long as its group says; all are up when the run
begins.  Nothing that happens to a node or a job moves them: when a client is up follows from the
seed and its name alone.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from simulations.clock import current
from simulations.distributions import Distribution, draw
from simulations.scenario import Clients
from simulations.tables import Nodes
from simulations.trace import Trace

NEVER: Final = float("inf")


class Client:
    """One client."""

    def __init__(self, name: str, home: int, latency_s: float = 0.0) -> None:
        self.name = name
        self.home = home
        """Its node."""
        self.latency_s = latency_s
        """One way to any node."""
        self.is_up = True
        self.changes_at_s = NEVER
        """When that changes. trio's time."""
        self._comes_up: trio.Event | None = None

    @property
    def leaves_at_s(self) -> float:
        """When it goes down; now, if it is down."""
        return self.changes_at_s if self.is_up else trio.current_time()

    async def until_up(self) -> None:
        """Return when it is up, at once if it is."""
        if not self.is_up:
            if self._comes_up is None:
                self._comes_up = trio.Event()
            await self._comes_up.wait()

    def turn(self, lasts_s: float) -> None:
        """Go up or down, for so long."""
        self.is_up = not self.is_up
        self.changes_at_s = trio.current_time() + lasts_s
        if self.is_up and self._comes_up is not None:
            self._comes_up.set()
            self._comes_up = None


class Group:
    """Clients that are alike."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = list(clients)
        self._up = list(clients)
        self._places = {client: place for place, client in enumerate(clients)}
        """Where each stands among those that are up."""
        self.is_over = False
        """Nobody comes or goes any more."""

    def choose(self, chance: random.Random) -> Client | None:
        """Return any of those that are up, all equally likely."""
        return chance.choice(self._up) if self._up else None

    def note(self, client: Client) -> None:
        """Take note that a client has gone up or down."""
        if client.is_up:
            self._places[client] = len(self._up)
            self._up.append(client)
            return
        place, last = self._places.pop(client), self._up.pop()
        if last is not client:
            self._up[place] = last
            self._places[last] = place


class Place(Protocol):
    """Where clients live: a part of `simulations.world.World`."""

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        ...

    @property
    def size(self) -> int:
        """How many nodes there are."""
        ...

    def chance(self, *names: str | int) -> random.Random:
        """Return the generator of a name."""
        ...


def which(nodes: Nodes, size: int) -> list[int]:
    """Return the nodes that a scenario names, of `size`. Those that are not there are left out."""
    if nodes == "all":
        return list(range(size))
    if isinstance(nodes, int):
        return list(range(min(nodes, size)))
    return [number for number in nodes if 0 <= number < size]


def open_group(described: Clients, place: Place, trace: Trace) -> Group:
    """Return a group whose clients come and go from now on."""
    homes = which(described.nodes, place.size)
    clients = [
        Client(f"{described.name}-{number}", homes[number % len(homes)], described.latency_s)
        for number in range(described.count)
    ]
    group = Group(clients)
    if described.up_s is not None:
        for client in clients:
            chance = place.chance("client", client.name)
            _come_and_go(client, group, described.up_s, described.down_s, chance, place, trace)
    return group


def _come_and_go(
    client: Client,
    group: Group,
    up_s: Distribution,
    down_s: Distribution,
    chance: random.Random,
    place: Place,
    trace: Trace,
) -> None:
    call_at: Callable[..., None] = current().call_at

    def turn() -> None:
        if group.is_over:
            return
        client.turn(draw(down_s if client.is_up else up_s, chance))
        group.note(client)
        state = "up" if client.is_up else "down"
        trace.record(place.now, "client", client=client.name, state=state)
        call_at(client.changes_at_s, turn)

    client.changes_at_s = trio.current_time() + draw(up_s, chance)
    call_at(client.changes_at_s, turn)


def always_up(nodes: Nodes, size: int) -> Group:
    """Return clients that never leave, one at each node."""
    return Group([Client(f"client-{number}", number) for number in which(nodes, size)])
