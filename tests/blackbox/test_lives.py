"""A node whose data directory is put back as it was, and one that runs twice: real processes."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blackbox.daemon import Daemon, expect, refused
from tests.blackbox.test_mesh import (
    at,
    eventually,
    free_port,
    in_state,
    invite,
    join,
    peernode,
    shown,
)

pytestmark = pytest.mark.slow

ONCE = "import os\n\ndef handler(input):\n    return os.urandom(8).hex()\n"
"""Returns something else each time that it runs."""
SOON_S = 0.5
SELDOM_S = 30.0
"""As nodes do it."""


def make(data: Path, port: int, workers: int = 0, greeting_s: float = SOON_S) -> Daemon:
    """Return a node, not started yet, that greets so often."""
    address = ["--p2p", f"/ip4/127.0.0.1/tcp/{port}"]
    environment = {"PEERNODE_GREETING_INTERVAL_S": str(greeting_s)}
    return Daemon(data, workers=workers, arguments=address, environment=environment)


def status(node: Daemon) -> str:
    """Return what a node says of itself."""
    return str(httpx.get(f"{node.url}/health", trust_env=False).json()["status"])


def in_status(node: Daemon, wanted: str) -> None:
    eventually(lambda: status(node) == wanted)


@dataclass(frozen=True)
class World:
    """A home that has been stopped, and its peer; a job waits at the home, which has no worker."""

    home: Path
    port: int
    b: Daemon
    c: Daemon
    token: str
    """Of a user at home."""
    there: httpx.Client
    """The user's, at the peer."""
    space: str
    job: str

    def node(self, greeting_s: float = SOON_S) -> Daemon:
        """Return the node of what is in the home's directory, with a worker."""
        return make(self.home, self.port, 1, greeting_s)

    def put_back(self, backup: Path) -> None:
        """Put the home's directory back as it was."""
        # Out of the way at once: the worker of a node that was killed still tidies up there.
        gone = self.home.rename(self.home.with_name("gone"))
        shutil.rmtree(gone, ignore_errors=True)
        shutil.copytree(backup, self.home)

    def ended(self, home: Daemon) -> Any:
        """Return the job at home, once it has ended."""
        http = home.client(self.token)
        job = expect(http.get(f"/job/{self.job}", params={"wait": 30}))
        assert job["state"] == "succeeded", job
        return job


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    port = free_port()
    a, b = make(tmp_path / "a", port), make(tmp_path / "b", free_port())
    with contextlib.ExitStack() as running:
        with a:
            join(a, b)
            running.enter_context(b)
            in_state(a, {"2": "up"})
            ada = a.sign_up("ada")
            project = ada.project("lives")
            function = ada.deploy(project, "once", ONCE)
            body = {"owner": {"project": project}, "name": "exact", "scope": "global"}
            space = str(expect(ada.http.post("/kv", json=body | {"mode": "cas"}), 201)["id"])
            expect(ada.http.post(f"/kv/{space}/put", json={"key": "k", "value": "old"}))
            job = str(ada.hand_in(function)["id"])
            there = at(b, a, ada)
            shown(there, f"/kv/{space}")
        c = make(tmp_path / "c", free_port())
        yield World(tmp_path / "a", port, b, c, ada.token, there, space, job)


def numbers(node: Daemon) -> list[str]:
    """Return which nodes a node knows of."""
    with node.operator() as operator:
        return [item["node_id"] for item in expect(operator.get("/mesh/peers"))["items"]]


def live_on(world: World) -> dict[str, Any]:
    """Have the home do what a copy of before knows nothing of, and lose its power."""
    with world.node() as a:
        in_state(world.b, {"1": "up"})
        ended = world.ended(a)
        text = invite(a)
        done = peernode("join", text, "--data", str(world.c.data), "--json")
        number = json.loads(done.stdout)["node_id"]
        http = a.client(world.token)
        put = expect(http.post(f"/kv/{world.space}/put", json={"key": "k", "value": "new"}))
        project = expect(http.post("/project", json={"name": "since"}), 201)["id"]
        shown(world.there, f"/project/{project}")
        eventually(lambda: number in numbers(world.b))
        told = expect(world.there.get(f"/job/{world.job}"))
        assert told["result"] == ended["result"]
        a.kill()
    return {"told": told, "invite": text, "number": number, "put": put, "project": project}


def test_a_node_that_was_put_back_does_nothing_twice(world: World, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(world.home, backup)
    done = live_on(world)
    world.put_back(backup)
    with world.node(SELDOM_S) as a:
        http = a.client(world.token)
        # From the first call on: it waits for its peer's greeting before it answers.
        problem = refused(http.post("/project", json={"name": "x"}), 503, "recovering")
        assert problem["retryable"] is True
        refused(http.post(f"/kv/{world.space}/get", json={"key": "k"}), 503, "recovering")
        refused(http.get(f"/job/{world.job}"), 503, "recovering")
        said = peernode("status", "--data", str(a.data), status=1)
        assert "old copy" in said.stderr
    with world.node() as a:
        in_status(a, "ok")
        http = a.client(world.token)
        held = expect(http.post(f"/kv/{world.space}/get", json={"key": "k"}))
        assert (held["value"], held["version"]) == ("new", done["put"]["version"])
        job = expect(http.get(f"/job/{world.job}"))
        assert (job["state"], job["result"]) == ("succeeded", done["told"]["result"])
        assert job["finished_at"] == done["told"]["finished_at"]
        assert expect(http.get(f"/project/{done['project']}"))["name"] == "since"
        refused(http.post("/project", json={"name": "since"}), 409, "name_taken")
        made = expect(http.post("/project", json={"name": "after"}), 201)["id"]
        assert int(made) > int(done["project"])
        late = peernode("join", done["invite"], "--data", str(tmp_path / "d"), status=1)
        assert "not an invite of this node" in late.stderr
        fresh = join(a, make(tmp_path / "d", free_port()))
        assert fresh["node_id"] not in ("1", "2", done["number"])
        assert done["number"] in numbers(a)


def test_of_two_copies_that_run_at_once_neither_goes_on_until_the_operator_says_which(
    world: World, tmp_path: Path
) -> None:
    shutil.copytree(world.home, tmp_path / "twin")
    second = make(tmp_path / "twin", free_port(), greeting_s=SELDOM_S)
    with world.node(SELDOM_S) as a, second as twin:
        for node in (a, twin):
            in_status(node, "cloned")
            http = node.client(world.token)
            problem = refused(http.post("/project", json={"name": "x"}), 503, "cloned")
            assert "peernode resolve" in problem["hint"]
        assert "runs twice" in a.output()
        twin.kill()
        found = json.loads(peernode("resolve", "--data", str(a.data), "--json").stdout)
        assert (found["node_id"], found["state"]) == ("1", "self")
        assert status(a) == "ok"
        expect(a.client(world.token).post("/project", json={"name": "goes-on"}), 201)
        assert world.ended(a)["result"]
