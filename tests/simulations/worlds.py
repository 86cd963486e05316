"""Worlds for tests: a few nodes, a run in virtual time, and what another process makes of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from simulations import chance, clock
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.scenario import Complete, Link, Scenario, Topology
from simulations.topology import build
from simulations.trace import Trace
from simulations.world import World, open_world

T = TypeVar("T")

LATENCY_S = 0.02
CONNECTED_S = 1.0
"""After this all links are up, and who was greeted has answered."""


def scenario(topology: Topology | int = 3, **settings: Any) -> Scenario:
    """Return a scenario; a number is so many nodes, each linked with each."""
    made = Complete(nodes=topology) if isinstance(topology, int) else topology
    settings.setdefault("link", Link(latency_s=LATENCY_S))
    return Scenario(name="test", duration_s=60, topology=made, **settings)


@asynccontextmanager
async def open_test_world(
    described: Scenario | int = 3, seed: int = 1, trace: Trace | None = None, **settings: Any
) -> AsyncIterator[World]:
    """Own a World, all of whose links are up, and whose time has just begun."""
    found = scenario(described) if isinstance(described, int) else described
    graph = build(found.topology, found.link, chance.named(seed, "topology"))
    lines = Lines(graph, found.link, chance.named(seed, "lines"))
    async with open_world(
        found, seed, trace or Trace(), Metrics(), graph=graph, lines=lines, **settings
    ) as world:
        await trio.sleep(CONNECTED_S)
        world.begin()
        yield world


def run(play: Callable[[], Awaitable[T]], seed: int = 1) -> T:
    """Return what `play()` returns in virtual time."""
    return clock.run(play, seed=seed)
