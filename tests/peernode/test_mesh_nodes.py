"""Several whole nodes are one mesh: what is changed at one is known at all."""

from typing import Any

import pytest
import trio
import trio.testing

from storage.store import Table
from tests.peernode.federated import Federated, open_federated
from tests.peernode.nodes import ECHO, Caller

CANARY = "yellow-bird-that-stays-at-home"


async def make_project(mesh: Federated, ada: Caller) -> str:
    return str((await ada.post("/project", {"name": "lab"}, 201))["id"])


async def deploy(caller: Caller, project: str, name: str, source: str = ECHO) -> str:
    body = {"project": project, "name": name, "runtime": "python", "source": source}
    return str((await caller.post("/function", body, 201))["id"])


async def make_space(caller: Caller, project: str, **fields: Any) -> str:
    body = {"owner": {"project": project}, "name": "state", "scope": "global"}
    return str((await caller.post("/kv", body | fields, 201))["id"])


async def test_a_function_made_at_one_node_is_called_at_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = await make_project(mesh, ada)
        function = await deploy(ada, project, "echo")
        await trio.sleep(2)
        there = mesh.caller("ada", "b")
        job = await there.post(f"/function/{function}/call", {"input": 1}, 202)
        assert (await there.get(f"/job/{job['id']}"))["state"] == "queued"
