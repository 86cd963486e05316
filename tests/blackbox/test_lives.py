"""A node whose data directory is put back as it was, and one that runs twice: real processes."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blackbox.daemon import Daemon, Person, expect, refused
from tests.blackbox.test_mesh import at, eventually, free_port, in_state, invite, join, peernode

pytestmark = pytest.mark.slow

ONCE = "import os\n\ndef handler(input):\n    return os.urandom(8).hex()\n"
"""Returns something else each time that it runs."""
SOON = {"PEERNODE_GREETING_INTERVAL_S": "0.5"}


def make(data: Path, port: int, workers: int = 0, *, soon: bool = True) -> Daemon:
    """Return a node, not started yet, that greets often, or as seldom as nodes do."""
    address = ["--p2p", f"/ip4/127.0.0.1/tcp/{port}"]
    return Daemon(data, workers=workers, arguments=address, environment=SOON if soon else {})


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
    ada: Person
    there: httpx.Client
    """Ada's at the peer."""
    space: str
    job: str

    def start(self, workers: int = 1, *, soon: bool = True) -> Daemon:
        """Start what is in the home's directory."""
        node = make(self.home, self.port, workers, soon=soon)
        node.start()
        return node

    def put_back(self, backup: Path) -> None:
        """Put the home's directory back as it was."""
        shutil.rmtree(self.home)
        shutil.copytree(backup, self.home)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    port = free_port()
    a, b = make(tmp_path / "a", port), make(tmp_path / "b", free_port())
    c = make(tmp_path / "c", free_port())
    a.start()
    join(a, b)
    with b:
        in_state(a, {"2": "up"})
        ada = a.sign_up("ada")
        project = ada.project("lives")
        function = ada.deploy(project, "once", ONCE)
        body = {"owner": {"project": project}, "name": "exact", "scope": "global", "mode": "cas"}
        space = str(expect(ada.http.post("/kv", json=body), 201)["id"])
        expect(ada.http.post(f"/kv/{space}/put", json={"key": "k", "value": "old"}))
        job = str(ada.hand_in(function)["id"])
        there = at(b, a, ada)
        eventually(lambda: there.get(f"/kv/{space}").status_code == 200)
        assert a.stop() == 0
        yield World(tmp_path / "a", port, b, c, ada, there, space, job)


def lives_on(world: World) -> dict[str, Any]:
    """Have the home do what a copy of before knows nothing of, and lose its power."""
    a = world.start()
    in_state(world.b, {"1": "up"})
    ended = _ended(a, world)
    texts = [invite(a) for _ in range(2)]
    joined = json.loads(peernode("join", texts[0], "--data", str(world.c.data), "--json").stdout)
    with a.client(world.ada.token) as http:
        put = expect(http.post(f"/kv/{world.space}/put", json={"key": "k", "value": "new"}))
        project = expect(http.post("/project", json={"name": "since"}), 201)["id"]
    eventually(lambda: world.there.get(f"/project/{project}").status_code == 200)
    numbers = eventually(lambda: [n for n in _numbers(world.b) if n not in ("1", "2")])
    assert numbers == [joined["node_id"]]
    told = expect(world.there.get(f"/job/{world.job}"))
    assert told["result"] == ended["result"]
    a.kill()
    return {"told": told, "invites": texts, "number": joined["node_id"], "put": put, "id": project}


def _ended(a: Daemon, world: World) -> Any:
    with a.client(world.ada.token) as http:
        job = expect(http.get(f"/job/{world.job}", params={"wait": 30}))
    assert job["state"] == "succeeded", job
    return job


def _numbers(node: Daemon) -> list[str]:
    with node.operator() as operator:
        return [item["node_id"] for item in expect(operator.get("/mesh/peers"))["items"]]


def test_a_node_that_was_put_back_does_nothing_twice(world: World, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(world.home, backup)
    done = lives_on(world)
    world.put_back(backup)
    a = world.start(soon=False)
    with a.client(world.ada.token) as http:
        # From the first call on: it waits for its peer's greeting before it answers.
        problem = refused(http.post("/project", json={"name": "x"}), 503, "recovering")
        assert problem["retryable"] is True
        refused(http.post(f"/kv/{world.space}/get", json={"key": "k"}), 503, "recovering")
        refused(http.get(f"/job/{world.job}"), 503, "recovering")
    said = peernode("status", "--data", str(a.data), status=1)
    assert "old copy" in said.stderr
    assert a.stop() == 0
    a = world.start()
    try:
        in_status(a, "ok")
        with a.client(world.ada.token) as http:
            held = expect(http.post(f"/kv/{world.space}/get", json={"key": "k"}))
            assert (held["value"], held["version"]) == ("new", done["put"]["version"])
            job = expect(http.get(f"/job/{world.job}"))
            assert (job["state"], job["result"]) == ("succeeded", done["told"]["result"])
            assert job["finished_at"] == done["told"]["finished_at"]
            assert expect(http.get(f"/project/{done['id']}"))["name"] == "since"
            refused(http.post("/project", json={"name": "since"}), 409, "name_taken")
            made = expect(http.post("/project", json={"name": "after"}), 201)["id"]
            assert int(made) > int(done["id"])
        for text in done["invites"]:
            late = peernode("join", text, "--data", str(tmp_path / "d"), status=1)
            assert "not an invite of this node" in late.stderr
        d = make(tmp_path / "d", free_port())
        assert join(a, d)["node_id"] not in ("1", "2", done["number"])
        with world.c:
            in_state(a, {done["number"]: "up"})
    finally:
        assert a.stop() == 0
    a.start()
    assert status(a) in ("starting", "ok")
    with a.client(world.ada.token) as http:
        expect(http.post("/project", json={"name": "as-ever"}), 201)
    assert a.stop() == 0


def test_of_two_copies_that_run_at_once_neither_goes_on_until_the_operator_says_which(
    world: World, tmp_path: Path
) -> None:
    shutil.copytree(world.home, tmp_path / "twin")
    a, twin = world.start(), make(tmp_path / "twin", free_port(), workers=1)
    in_state(world.b, {"1": "up"})
    told = _ended(a, world)
    twin.start()
    for node in (a, twin):
        in_status(node, "cloned")
    for node in (a, twin):
        with node.client(world.ada.token) as http:
            problem = refused(http.post("/project", json={"name": "x"}), 503, "cloned")
            assert "peernode resolve" in problem["hint"]
        assert "runs twice" in node.output()
    twin.kill()
    found = json.loads(peernode("resolve", "--data", str(a.data), "--json").stdout)
    assert (found["node_id"], found["state"]) == ("1", "self")
    assert status(a) == "ok"
    with a.client(world.ada.token) as http:
        expect(http.post("/project", json={"name": "goes-on"}), 201)
        assert expect(http.get(f"/job/{world.job}"))["result"] == told["result"]
    assert a.stop() == 0
