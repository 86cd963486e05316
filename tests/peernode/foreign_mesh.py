"""A mesh in memory, for tests of what nodes answer for each other.

Node 1 is the home: it has users, a project, a function, jobs and blobs.  The others know its facts
and records from their start, and nothing travels but what is asked for.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import trio

from gossip.memory_network import MemoryNetwork, Wire, open_wire
from peernode.foreign import Config, Foreign
from peernode.identity import MESH_KEY, NUMBER_KEY, Secrets
from peernode.node import Node
from storage import facts, signing
from storage.store import Table
from tests.peernode.nodes import (
    SECRETS,
    START_MS,
    Caller,
    Disk,
    Lab,
    WallClock,
    Worker,
    open_lab,
    open_memory_node,
    settle,
    sign_up,
)

YEAR_MS = 365 * 86_400_000


def secrets(number: int) -> Secrets:
    """Return the secrets of a node; node 1 is the lab's."""
    return SECRETS if number == 1 else Secrets(bytes([number]) * 32, b"p" * 32, "pno1." + "1" * 48)


def key_of(number: int) -> signing.Keypair:
    return signing.Keypair.from_seed(secrets(number).seed)


def peer_of(number: int) -> str:
    return signing.peer_id(key_of(number).public_key)


@dataclass
class Mesh:
    """Nodes that know each other, all connected."""

    wire: Wire
    lab: Lab
    clock: WallClock
    users: dict[str, Caller]
    """The users at home."""
    nodes: dict[int, Node]
    networks: dict[int, MemoryNetwork]
    disks: dict[int, Disk]
    worker: Worker

    async def caller(self, number: int, user: str = "ada", **fields: Any) -> Caller:
        """Return a user as caller at a node, with a token that its home has given out for it."""
        if number == 1:
            return self.users[user]
        body = {"audience": [str(number)], **fields}
        made = await self.users[user].post(f"/user/{user}/delegate", body)
        caller = Caller(self.nodes[number], made["token"])
        caller.id = self.users[user].id
        return caller

    def part(self, one: int, *others: int) -> None:
        """Break the links between a node and others (default: all)."""
        for other in others or [number for number in self.nodes if number != one]:
            self.wire.disconnect(peer_of(one), peer_of(other))

    def meet(self, one: int, other: int) -> None:
        assert self.wire.connect(peer_of(one), peer_of(other))

    async def ended_job(self, result: Any = None, user: str = "ada", **fields: Any) -> str:
        """Return a job at home that has succeeded."""
        body = {"function": self.lab.echo, "input": {"n": 1}, **fields}
        job = (await self.users[user].post("/job", body, 202))["id"]
        await settle()
        await self.worker.finish(self.worker.lease(job), result)
        return cast("str", job)

    async def queued_job(self) -> str:
        """Return a job at home that runs on the worker."""
        job = await self.lab.job({"n": 1})
        await settle()
        return job

    def foreign(self, number: int) -> Foreign:
        found = self.nodes[number].foreign
        assert found is not None
        return found

    def check(self) -> None:
        for number in self.nodes:
            self.foreign(number).check()


async def fetch(caller: Caller, path: str, status: int = 200, **headers: str) -> httpx.Response:
    """Return the whole answer to a GET."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await caller.http.get(path, headers=named)
    assert answer.status_code == status, (answer.status_code, answer.text)
    return answer


async def _grant(home: Node, number: int) -> None:
    grant = facts.NodeGrant(
        number=number,
        public_key=key_of(number).public_key,
        block=None,
        roles=(),
        users_max=None,
        not_before_ms=0,
        expires_ms=START_MS + YEAR_MS,
        by=1,
        signed_at=home.timestamps.tick(),
    )
    fact = home.seal(grant)
    await home.transactions.run(lambda transaction: home.registry.add_fact(transaction, fact))


def disk_of(home: Disk, number: int) -> Disk:
    """Return what a node has on its disk that knows the home's facts and records."""
    rows: list[dict[bytes, bytes]] = [{} for _ in Table]
    for table in (Table.FACTS, Table.RECORDS):
        rows[table] = dict(home.scan(table, limit=100_000))
    mesh = home.get(Table.META, MESH_KEY)
    assert mesh is not None
    rows[Table.META] = {MESH_KEY: mesh, NUMBER_KEY: number.to_bytes(2, "big")}
    return Disk(rows)


def attach(node: Node, network: MemoryNetwork, config: Config | None = None) -> Foreign:
    """Have a node answer for others, and ask them."""
    node.foreign = foreign = Foreign(node, network, config)
    node.spawn(foreign.run)
    return foreign


@asynccontextmanager
async def open_mesh(
    count: int = 2,
    *,
    users: Sequence[str] = (),
    config: Config | None = None,
    sources: Sequence[str] = (),
    wheels: Sequence[tuple[str, bytes]] = (),
    connected: bool = True,
) -> AsyncIterator[Mesh]:
    """Own a mesh of `count` nodes. `users` live at home besides ada; `sources` are functions.

    Each of these brings `wheels`, by name.
    """
    clock = WallClock()
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(open_wire())
        lab = await stack.enter_async_context(open_lab(clock=clock))
        callers = {"ada": lab.ada, **{name: await sign_up(lab.node, name) for name in users}}
        for number in range(2, count + 1):
            await _grant(lab.node, number)
        brought = []
        for name, data in wheels:
            path = f"/blob?project={lab.project}&name={name}"
            brought.append((await lab.ada.call("POST", path, 201, content=data))["id"])
        for at, source in enumerate(sources):
            await lab.function(f"source{at}", source=source, wheels=brought)
        nodes, networks, disks = {1: lab.node}, {1: wire.join(peer_of(1))}, {1: lab.disk}
        attach(lab.node, networks[1], config)
        for number in range(2, count + 1):
            disks[number] = disk_of(lab.disk, number)
            networks[number] = wire.join(peer_of(number))
            nodes[number] = await stack.enter_async_context(
                open_memory_node(
                    disks[number], clock, entropy=f"node {number}", secrets=secrets(number)
                )
            )
            attach(nodes[number], networks[number], config)
        for one in nodes:
            for other in nodes:
                if connected and one < other:
                    wire.connect(peer_of(one), peer_of(other))
        worker = await lab.worker()
        mesh = Mesh(wire, lab, clock, callers, nodes, networks, disks, worker)
        await trio.lowlevel.checkpoint()
        yield mesh
        mesh.check()
