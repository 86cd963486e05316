"""Breaking: the faults of a scenario, done to a World.

Each fault draws from generators of its own, one a node where nodes break each by itself.  Faults
that overlap add up: a machine is up again when the last fault lets go of it, a direction is open
again when none holds it cut.  At `duration_s` all that can end has ended.

A member that is byzantine goes on as a node, and beside that sends what it should not: bytes that
mean nothing, frames that it has heard before, and records whose signature does not fit.

After each fault that parts nodes, `heal.converged_s` is how long it took until all nodes that are
up show the same, if they ever do; its label is the kind of fault.
"""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

import trio

from simulations.clients import which
from simulations.distributions import draw
from simulations.faults import (
    Byzantine,
    Churn,
    ClockSkew,
    ClockStep,
    Crash,
    DiskFull,
    Fault,
    Flapping,
    Partition,
    SlowDisk,
)
from simulations.metrics import Metrics
from simulations.probing import distinct_views
from simulations.trace import Trace

if TYPE_CHECKING:
    from peernode.node import Node
    from simulations.world import World

GARBAGE_SIZE_MAX_BYTES: Final = 512
"""Longest frame of nonsense. Source: guess; a small message."""
RECORDS_MAX: Final = 64
"""Of how many of its records a byzantine member takes one. Source: guess."""
LOOK_S: Final = 0.05
"""Pause between two looks whether a mesh has healed. Source: half a round trip around the world."""
PARTING: Final = (Crash, Churn, Partition, Flapping)
"""Faults after which nodes have to catch up."""


class Breaker:
    """Does faults to a world, and undoes them."""

    def __init__(
        self,
        world: "World",
        metrics: Metrics,
        trace: Trace,
        honest: Sequence[int],
        until_s: float,
    ) -> None:
        """`honest`: who has to agree in the end; `until_s`: when all faults end."""
        self._honest = honest
        self._world = world
        self._metrics = metrics
        self._trace = trace
        self._until_s = until_s
        self._downs: Counter[int] = Counter()
        """Node -> faults that hold it down."""
        self._cuts: Counter[tuple[int, int]] = Counter()
        """Source and target -> faults that hold the direction cut."""
        self._healing = 0
        """Grows with each fault that parts nodes."""

    async def play(self, number: int, fault: Fault) -> None:
        """Do the fault with this number, from its beginning to its end."""
        world = self._world
        if fault.at_s >= self._until_s:
            return
        await world.sleep_until(fault.at_s)
        nodes = which(fault.nodes, world.size)
        what = type(fault).__struct_config__.tag
        named = "all" if len(nodes) == world.size else ",".join(map(str, nodes))
        self._healing += isinstance(fault, PARTING)
        self._trace.record(world.now, "fault", what=str(what), nodes=named, state="begins")
        await self._do(number, fault, nodes)
        self._trace.record(world.now, "fault", what=str(what), nodes=named, state="ends")
        if isinstance(fault, PARTING) and not (isinstance(fault, Crash) and fault.for_s is None):
            await self._watch_healing(str(what))

    async def _do(self, number: int, fault: Fault, nodes: Sequence[int]) -> None:
        world = self._world
        match fault:
            case Crash():
                await self._each(nodes, partial(self._crash, number, fault))
            case Churn():
                await self._each(nodes, partial(self._churn, number, fault))
            case Partition():
                inside = dict.fromkeys(nodes)
                outside = [node for node in range(world.size) if node not in inside]
                ways = [(one, other) for one in nodes for other in outside]
                if not fault.one_way:
                    ways += [(other, one) for one, other in ways]
                with self._cut(ways):
                    await self._until(world.now + fault.for_s)
            case Flapping():
                await self._flap(number, fault, nodes)
            case SlowDisk():
                for node in nodes:
                    chance = world.chance("fault", number, node)
                    world.disk(node).commit_s = partial(draw, fault.commit_s, chance)
                await self._until(world.now + fault.for_s)
                for node in nodes:
                    world.disk(node).commit_s = world.disk(node).usual_s
            case DiskFull():
                for node in nodes:
                    world.disk(node).full = True
                await self._until(world.now + fault.for_s)
                for node in nodes:
                    world.disk(node).full = False
            case ClockStep():
                for node in nodes:
                    world.wall(node).step(fault.step_s)
            case ClockSkew():
                for node in nodes:
                    world.wall(node).drift_ppm += fault.drift_ppm
            case Byzantine():
                await self._each(nodes, partial(self._misbehave, number, fault))
            case _:
                assert_never(fault)

    async def _each(self, nodes: Sequence[int], act: Callable[[int], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(act, node)

    async def _until(self, at_s: float) -> None:
        """Return at a time, or when all faults end."""
        await self._world.sleep_until(min(at_s, self._until_s))

    # --- machines -----------------------------------------------------------------------------

    async def _crash(self, number: int, fault: Crash, node: int) -> None:
        await self._fell(node)
        if fault.for_s is None:
            return
        chance = self._world.chance("fault", number, node)
        await self._until(self._world.now + draw(fault.for_s, chance))
        await self._raise(node)

    async def _churn(self, number: int, fault: Churn, node: int) -> None:
        world, chance = self._world, self._world.chance("fault", number, node)
        while True:
            await self._until(world.now + draw(fault.up_s, chance))
            if world.has_come(self._until_s):
                return
            await self._fell(node)
            await self._until(world.now + draw(fault.down_s, chance))
            await self._raise(node)

    async def _fell(self, node: int) -> None:
        self._downs[node] += 1
        if self._downs[node] == 1:
            await self._world.crash(node)

    async def _raise(self, node: int) -> None:
        self._downs[node] -= 1
        if not self._downs[node]:
            await self._world.start(node)

    # --- links --------------------------------------------------------------------------------

    @contextmanager
    def _cut(self, ways: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Own a cut of directions."""
        for way in ways:
            self._cuts[way] += 1
            if self._cuts[way] == 1:
                self._world.cut(*way)
        try:
            yield
        finally:
            for way in ways:
                self._cuts[way] -= 1
                if not self._cuts[way]:
                    self._world.heal(*way)

    async def _flap(self, number: int, fault: Flapping, nodes: Sequence[int]) -> None:
        world, ends_s = self._world, min(self._world.now + fault.for_s, self._until_s)
        links = {
            (min(node, other), max(node, other)): None
            for node in nodes
            for other in world.graph.neighbours(node)
        }

        async def flap(one: int, other: int) -> None:
            chance = world.chance("fault", number, one, other)
            while True:
                await self._until(min(ends_s, world.now + draw(fault.up_s, chance)))
                if world.has_come(ends_s):
                    return
                world.reset(one, other)
                with self._cut([(one, other), (other, one)]):
                    await self._until(min(ends_s, world.now + draw(fault.down_s, chance)))

        async with trio.open_nursery() as nursery:
            for one, other in links:
                nursery.start_soon(flap, one, other)

    async def _watch_healing(self, label: str) -> None:
        """Observe when all nodes show the same; not if the next such fault comes before."""
        world, healing, ended_s = self._world, self._healing, self._world.now
        while distinct_views(world, self._honest) > 1:
            await trio.sleep(LOOK_S)
            if self._healing != healing:
                return
        took_s = world.now - ended_s
        self._metrics.observe("heal.converged_s", world.now, took_s, label=label)

    # --- members that are up to no good ---------------------------------------------------------

    async def _misbehave(self, number: int, fault: Byzantine, node: int) -> None:
        world, chance = self._world, self._world.chance("fault", number, node)
        world.overhear(node)
        while True:
            await self._until(world.now + chance.expovariate(fault.rate_per_s))
            if world.has_come(self._until_s):
                return
            behaviour = chance.choice(fault.behaviours)
            opened, network = world.node(node), world.network(node)
            if opened is None or network is None or not network.peers():
                continue
            frame: bytes | None = None
            match behaviour:
                case "garbage":
                    frame = chance.randbytes(chance.randint(1, GARBAGE_SIZE_MAX_BYTES))
                case "replay":
                    heard = world.overheard(node)
                    frame = chance.choice(heard) if heard else None
                case "forge":
                    _forge(opened, chance)
                case _:
                    assert_never(behaviour)
            if frame is not None:
                network.send(chance.choice(network.peers()), frame)


def _forge(node: "Node", chance: random.Random) -> None:
    """Tell the mesh of a record that nobody signed: one that it knows, with a bit changed."""
    known = list(itertools.islice(node.registry.records(), RECORDS_MAX))
    if not known or node.federation is None:
        return
    record = chance.choice(known)
    signature = record.seal.signature
    place = record.encoded.rindex(signature) + chance.randrange(len(signature))
    encoded = bytearray(record.encoded)
    encoded[place] ^= 1 << chance.randrange(8)
    node.federation.gossip.publish(dataclasses.replace(record, encoded=bytes(encoded)))
