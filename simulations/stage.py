"""The stage of a World run: a user, a project, its functions and workers, as people make them.

All of it is made over the nodes' real API, before virtual time counts: node 0 is home to the user
and the functions, and a run begins when every node that is up knows them and has its workers.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from simulations.calls import ask, wait_for
from simulations.clients import which
from simulations.examples import open_example
from simulations.inline_functions import Models
from simulations.load import Inputs, simulated_input
from simulations.scenario import Function, Scenario, Workers
from simulations.virtual_workers import SIMULATED, Ledger, Machine, VirtualWorker
from storage.places import Class

if TYPE_CHECKING:
    from peernode.node import Node
    from simulations.world import Caller, World

    Prepare = Callable[[Caller, str], Awaitable[list[int]]]

CLASSES: Final = (Class.FUNCTION, Class.PROJECT, Class.USER, Class.KV_SPACE)
"""Of what all nodes have to know."""


@dataclass(frozen=True, slots=True)
class Staged:
    """One function, ready to be called."""

    described: Function
    id: str
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class Stage:
    """What a run plays on."""

    caller: "Caller"
    project: str
    functions: dict[str, Staged]
    workers: list[VirtualWorker]


async def set_up(
    world: "World",
    scenario: Scenario,
    ledger: Ledger,
    models: Models,
    directory: Path,
    nursery: trio.Nursery,
    prepare: "Prepare",
) -> Stage:
    """Make what a scenario needs; its workers run in `nursery`.

    `directory` is for what workers write; `prepare(caller, project)` makes more, and returns ids
    that all nodes have to know.  Raises `SetUpError`, `Unexpected`.
    """
    caller = await world.sign_up("user", 0)
    token = caller.tokens[0]
    made = await ask(world, 0, "POST /project", {"name": "load"}, token=token, status=201)
    project = str(made.json()["id"])
    functions = {}
    for described in scenario.functions:
        functions[described.name] = await _deploy(world, described, project, caller)
    workers = [
        await _make_worker(world, machine, ledger, models, directory)
        for number, group in enumerate(scenario.workers)
        for machine in machines(group, number, world.size)
    ]
    for worker in workers:
        nursery.start_soon(worker.run)
    known = [int(staged.id) for staged in functions.values()]
    known += await prepare(caller, project)
    await wait_for(lambda: _is_ready(world, int(caller.id), known, workers))
    return Stage(caller, project, functions, workers)


def machines(group: Workers, number: int, size: int) -> list[Machine]:
    """Return the workers of the group with this number, of a world of `size` nodes."""
    return [
        Machine(
            node=node,
            name=f"worker-{number}-{node}-{count}",
            slots=group.slots,
            speed=group.speed,
            memory_bytes=group.memory_bytes,
            gpus=group.gpus,
            labels=group.labels,
            crash_mean_s=group.crash_mean_s,
            back_s=group.back_s,
        )
        for node in which(group.nodes, size)
        for count in range(group.count)
    ]


async def _deploy(world: "World", described: Function, project: str, caller: "Caller") -> Staged:
    source, entry = SIMULATED.decode(), "handler"
    example = None if described.example is None else open_example(described.example)
    if example is not None:
        source, entry = example.source, example.entry
    body: dict[str, Any] = {
        "project": project,
        "name": described.name,
        "runtime": "python",
        "source": source,
        "entry": entry,
    }
    if described.requires:
        body["requires"] = described.requires
    if described.prefers:
        body["prefers"] = described.prefers
    if described.retries_max is not None:
        body["retry"] = {"max_attempts": described.retries_max + 1}
    token = caller.tokens[0]
    made = await ask(world, 0, "POST /function", body, token=token, status=201)
    function = str(made.json()["id"])
    inputs: Inputs = simulated_input
    if example is not None:
        inputs = await example.prepare(world, project, function, caller.tokens)
    return Staged(described, function, inputs)


async def _make_worker(
    world: "World", machine: Machine, ledger: Ledger, models: Models, directory: Path
) -> VirtualWorker:
    token = world.operator_token(machine.node)
    body = {"name": machine.name}
    made = await ask(world, machine.node, "POST /worker", body, token=token, status=201)
    return VirtualWorker(
        machine,
        int(made.json()["id"]),
        world,
        ledger,
        models=models,
        clock=world.wall(machine.node),
        chance=world.chance("worker", machine.name),
        directory=directory / machine.name,
    )


def _is_ready(world: "World", user: int, objects: list[int], workers: list[VirtualWorker]) -> bool:
    for node in world.nodes:
        if node is not None and (
            node.registry.user(user) is None or not all(_knows(node, known) for known in objects)
        ):
            return False
    return all(
        (node := world.nodes[worker.machine.node]) is None or worker.id in node.dispatch.links
        for worker in workers
    )


def _knows(node: "Node", object_id: int) -> bool:
    return any(node.registry.get(class_, object_id) is not None for class_ in CLASSES)
