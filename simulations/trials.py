"""Trials: small programs that measure a mesh through its API alone, wherever it runs.

A `Town` is a mesh of nodes with a user, a function and a namespace.  One Town is a World
(`in_world`, in virtual time); another is real processes on real sockets, behind proxies that delay
what they carry (tests/benchmarks/real_town.py).  The same program asks both, at the same times and
for the same things, so what differs is the mesh: that is what `simulations.validation` compares.

All nodes are linked with all, `LATENCY_S` one way.  Node 0 has `SLOTS` slots for jobs.
"""

import itertools
import random
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import trio

from simulations import chance, clock, topology
from simulations.arrivals import arrivals
from simulations.calls import ask
from simulations.inline_functions import Models
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.scenario import Complete, Costs, Function, Link, Poisson, Scenario, Workers
from simulations.stage import Stage, set_up
from simulations.trace import Trace
from simulations.virtual_workers import Ledger
from simulations.world import World, open_world

NODES: Final = 5
LATENCY_S: Final = 0.02
SLOTS: Final = 2
FUNCTION: Final = "work"
FAR: Final = 4
"""A node that is no job's home."""

LOOK_S: Final = 0.01
"""Pause between two looks for a key. Source: measured; with 4 ms the looking itself had keys show
5 ms later on two cores."""
UPDATES_PER_S: Final = 2.0
UPDATES_S: Final = 30.0
JOBS_PER_S: Final = 6.0
JOB_MEAN_S: Final = 0.25
"""With two slots the load is 0.75."""
JOBS_S: Final = 80.0
READS: Final = 40
READ_PAUSE_S: Final = 0.2
PARTED: Final = (0, 1)
"""Who is parted from the others."""
SETTLES_S: Final = 10.0
"""Quiet time before a mesh is parted."""
HEALS_MAX_S: Final = 120.0
"""After this long a mesh does not heal. Source: some intervals of reconciliation."""

Samples = dict[str, list[float]]
"""Metric -> what one run gave. The last part of a name is the unit."""


class Town(Protocol):
    """A mesh that can be measured."""

    function: str
    """Id of a function whose input says how long it takes (`virtual_workers.SIMULATED`)."""
    space: str
    """Id of a global namespace."""

    def now(self) -> float:
        """Return the time in seconds, from anywhere."""
        ...

    async def call(self, node: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and value of a node's answer to the user."""
        ...

    async def part(self, nodes: Sequence[int]) -> None:
        """Let nothing through between these nodes and all others, and tell nobody."""
        ...

    async def mend(self) -> None:
        """Let everything through again."""
        ...


Trial = Callable[[Town, int], Awaitable[Samples]]
"""What measures a town, with a seed for what is asked when."""


class TrialError(Exception):
    """A mesh did not do what is to be measured."""


async def visibility(town: Town, seed: int) -> Samples:
    """Return how long after it was durable a key showed at each other node.

    Changes are made at the nodes in turn, at random times, `UPDATES_PER_S` in all.
    """
    rng = chance.named(seed, "visibility")
    seen_s: list[float] = []
    begun_s = town.now()
    async with trio.open_nursery() as nursery:
        for number, at_s in enumerate(_times(UPDATES_PER_S, UPDATES_S, rng)):
            await _until(town, begun_s + at_s)
            key = f"visible-{seed}-{number}"
            phases = [rng.random() for _ in range(NODES)]
            nursery.start_soon(_change, town, number % NODES, key, number, phases, seen_s)
    return {"key.visible_s": seen_s}


async def _change(
    town: Town, maker: int, key: str, number: int, phases: Sequence[float], seen_s: list[float]
) -> None:
    await _put(town, maker, key, number)
    durable_s = town.now()

    async def watch(node: int) -> None:
        await _shown(town, node, key, number, LOOK_S, phases[node])
        seen_s.append(town.now() - durable_s)

    async with trio.open_nursery() as nursery:
        for node in range(NODES):
            if node != maker:
                nursery.start_soon(watch, node)


async def sojourn(town: Town, seed: int) -> Samples:
    """Return how long jobs took from being handed in to the answer with their result.

    Arrivals are Poisson and durations exponential: with `SLOTS` slots an M/M/2.
    """
    took_s: list[float] = []
    begun_s = town.now()

    async def one(duration_s: float) -> None:
        handed_in_s = town.now()
        await _run(town, duration_s)
        took_s.append(town.now() - handed_in_s)

    async with trio.open_nursery() as nursery:
        for at_s, duration_s in jobs_of(seed):
            await _until(town, begun_s + at_s)
            nursery.start_soon(one, duration_s)
    return {"job.sojourn_s": took_s}


def jobs_of(seed: int) -> list[tuple[float, float]]:
    """Return when each job of `sojourn` arrives, and how long it takes, in seconds."""
    rng = chance.named(seed, "sojourn")
    return [(at_s, rng.expovariate(1 / JOB_MEAN_S)) for at_s in _times(JOBS_PER_S, JOBS_S, rng)]


async def first_read(town: Town, seed: int) -> Samples:
    """Return how long a node took to answer for another's job that it had never heard of."""
    rng = chance.named(seed, "first read")
    took_s: list[float] = []
    for _ in range(READS):
        job = await _run(town, 0.0)
        await trio.sleep(READ_PAUSE_S * (0.5 + rng.random()))
        asked_s = town.now()
        status, value = await town.call(FAR, "GET", f"/job/{job}")
        took_s.append(town.now() - asked_s)
        if status != 200 or value["state"] != "succeeded":
            raise TrialError(f"job {job} was answered {status}: {value}")
    return {"job.first_read_s": took_s}


async def alone(town: Town, seed: int) -> Samples:
    """Return how long a node takes by itself: to read a key that it has, and to change one."""
    rng = chance.named(seed, "alone")
    read_s: list[float] = []
    changed_s: list[float] = []
    for number in range(READS):
        key = f"alone-{seed}-{number}"
        await trio.sleep(READ_PAUSE_S * (0.5 + rng.random()))
        asked_s = town.now()
        await _put(town, FAR, key, number)
        changed_s.append(town.now() - asked_s)
        await trio.sleep(READ_PAUSE_S * (0.5 + rng.random()))
        asked_s = town.now()
        await _shown(town, FAR, key, number, 0.0, 0.0)
        read_s.append(town.now() - asked_s)
    return {"call.read_s": read_s, "call.change_s": changed_s}


def healing(name: str, for_s: float, times: int) -> Trial:
    """Return a trial: how long after a partition of `for_s` all show what both sides wrote."""

    async def trial(town: Town, seed: int) -> Samples:
        rng = chance.named(seed, "healing", name)
        took_s: list[float] = []
        for number in range(times):
            await trio.sleep(SETTLES_S + rng.random())
            took_s.append(await _heal(town, f"{name}-{seed}-{number}", for_s, rng))
        return {f"heal.{name}_s": took_s}

    return trial


async def _heal(town: Town, mark: str, for_s: float, rng: random.Random) -> float:
    parted_s = town.now()
    await town.part(PARTED)
    await _until(town, parted_s + for_s / 2)
    written = {f"{mark}-{node}": node for node in (PARTED[0], FAR)}
    for key, node in written.items():
        await _put(town, node, key, node)
    await _until(town, parted_s + for_s)
    await town.mend()
    mended_s = town.now()
    with trio.move_on_after(HEALS_MAX_S):
        async with trio.open_nursery() as nursery:
            for key, value in written.items():
                for node in range(NODES):
                    phase = rng.random()
                    nursery.start_soon(_shown, town, node, key, value, LOOK_S, phase)
        return town.now() - mended_s
    raise TrialError(f"not healed after {HEALS_MAX_S} s")


async def _until(town: Town, at_s: float) -> None:
    await trio.sleep(max(0.0, at_s - town.now()))


async def _put(town: Town, node: int, key: str, value: int) -> None:
    body = {"key": key, "value": value}
    status, answer = await town.call(node, "POST", f"/kv/{town.space}/put", body)
    if status != 200:
        raise TrialError(f"put was answered {status}: {answer}")


async def _shown(town: Town, node: int, key: str, value: int, pause_s: float, phase: float) -> None:
    """Return when a node shows a key's value; `phase` (0 to 1) of a pause is when one looks."""
    await trio.sleep(phase * pause_s)
    while True:
        status, answer = await town.call(node, "POST", f"/kv/{town.space}/get", {"key": key})
        if status == 200 and answer["value"] == value:
            return
        if status not in (200, 404):
            raise TrialError(f"get was answered {status}: {answer}")
        await trio.sleep(pause_s)


async def _run(town: Town, duration_s: float) -> str:
    """Return the id of a job at node 0 once it has ended."""
    body = {"function": town.function, "input": {"duration_s": duration_s, "result_bytes": 16}}
    status, job = await town.call(0, "POST", "/job?wait=300", body)
    if status != 200 or job["state"] != "succeeded":
        raise TrialError(f"a job was answered {status}: {job}")
    return str(job["id"])


def _times(rate_per_s: float, until_s: float, rng: random.Random) -> list[float]:
    times = (at_s for at_s, _ in arrivals(Poisson(rate_per_s=rate_per_s), rng))
    return list(itertools.takewhile(lambda at_s: at_s < until_s, times))


TRIALS: Final[Mapping[str, Trial]] = {
    "visibility": visibility,
    "sojourn": sojourn,
    "first read": first_read,
    "short partition": healing("short", 10.0, 3),
    "long partition": healing("long", 30.0, 2),
}
"""By name, in their order."""
WITHOUT_DELAY: Final[Mapping[str, Trial]] = {
    "alone": alone,
    "first read": first_read,
    "visibility": visibility,
}
"""Trials that are played over lines of no length: what nodes take by themselves."""


# --- in a World ------------------------------------------------------------------------------


SCENARIO: Final = Scenario(
    name="validation",
    duration_s=1.0,
    topology=Complete(nodes=NODES),
    workers=[Workers(nodes=[0], slots=SLOTS)],
    functions=[Function(name=FUNCTION)],
)
"""What a World is made of; the trials bring their own load."""


def in_world(
    trial: Trial, seed: int, *, latency_s: float = LATENCY_S, costs: Costs | None = None
) -> Samples:
    """Return what a trial measures of a World; without `costs` its nodes' work takes no time."""
    link = Link(latency_s=latency_s)
    scenario = msgspec.structs.replace(SCENARIO, costs=costs or Costs())

    async def main() -> Samples:
        trace, metrics = Trace(), Metrics()
        graph = topology.build(scenario.topology, link, chance.named(seed, "topology"), ".")
        lines = Lines(graph, link, chance.named(seed, "lines"))
        async with open_world(scenario, seed, trace, metrics, graph=graph, lines=lines) as world:
            with tempfile.TemporaryDirectory() as directory:
                town = await _settle(world, scenario, Path(directory))
                return await trial(town, seed)

    return clock.run(main, seed=seed)


async def _settle(world: World, scenario: Scenario, directory: Path) -> "_WorldTown":
    spaces: list[str] = []

    async def prepare(caller: Any, project: str) -> list[int]:
        body = {"owner": {"project": project}, "name": "trials", "scope": "global"}
        made = await ask(world, 0, "POST /kv", body, token=caller.tokens[0], status=201)
        spaces.append(str(made.json()["id"]))
        return [int(spaces[0])]

    ledger = Ledger(lambda *_: None)
    stage = await set_up(world, scenario, ledger, Models(), directory, world.nursery, prepare)
    world.begin()
    return _WorldTown(world, stage, spaces[0])


class _WorldTown:
    """A World as a town. Its time is virtual."""

    def __init__(self, world: World, stage: Stage, space: str) -> None:
        self.function = stage.functions[FUNCTION].id
        self.space = space
        self._world = world
        self._tokens = stage.caller.tokens
        self._parted: list[tuple[int, int]] = []

    def now(self) -> float:
        return self._world.now

    async def call(self, node: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = await self._world.request(node, method, path, body, token=self._tokens[node])
        return answer.status, answer.json()

    async def part(self, nodes: Sequence[int]) -> None:
        others = [node for node in range(self._world.size) if node not in nodes]
        self._parted = [
            way for one in nodes for other in others for way in ((one, other), (other, one))
        ]
        for way in self._parted:
            self._world.cut(*way)

    async def mend(self) -> None:
        for way in self._parted:
            self._world.heal(*way)
        self._parted = []
