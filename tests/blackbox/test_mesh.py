"""Nodes become a mesh: real processes on the loopback, joined by the command line.

What was changed at one node shows at another a moment later, which nothing tells: these tests look
again and again, for a while.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blackbox.conftest import ECHO
from tests.blackbox.daemon import PASSWORD, Daemon, Person, expect, refused
from tests.worker.wheel_files import NAME as WHEEL, make_wheel

pytestmark = pytest.mark.slow

SEEN_MAX_S = 20.0
"""After this long what does not show will not show."""
JOIN_MAX_S = 30.0
"""It takes two seconds; this long where two others want each core."""
GONE_S = 3.0
"""How long what must not come through is waited for."""


def peernode(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command line; return what it said, once it has ended as it has to."""
    done = subprocess.run(
        [sys.executable, "-m", "peernode", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    return done


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def make(data: Path, *, workers: int = 1) -> Daemon:
    """Return a node, not started yet, that other nodes find at the same place each time."""
    address = f"/ip4/127.0.0.1/tcp/{free_port()}"
    return Daemon(data, workers=workers, arguments=["--p2p", address])


def invite(inviter: Daemon, **body: Any) -> str:
    """Return an invite, as a program asks for it."""
    with inviter.operator() as operator:
        return str(expect(operator.post("/mesh/invite", json=body), 201)["invite"])


def join(inviter: Daemon, joiner: Daemon) -> Any:
    """Have a node that is stopped join by another's invite."""
    text = invite(inviter)
    started_s = time.monotonic()
    done = peernode("join", text, "--data", str(joiner.data), "--json")
    assert time.monotonic() - started_s < JOIN_MAX_S
    found = json.loads(done.stdout)
    assert found["inviter"] == inviter.peer_id
    return found


def eventually(look: Callable[[], Any], within_s: float = SEEN_MAX_S) -> Any:
    """Return what `look` finds, as soon as it is something."""
    ends_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < ends_s, "it did not show"
        time.sleep(0.02)
    return found


def peers(node: Daemon) -> dict[str, Any]:
    """Return node number -> what the node says of its peers, as the command line has it."""
    done = peernode("peers", "--data", str(node.data), "--json")
    return {item["node_id"]: item for item in json.loads(done.stdout)}


def states(node: Daemon) -> dict[str, str]:
    """Return node number -> state."""
    with node.operator() as operator:
        items = expect(operator.get("/mesh/peers"))["items"]
    return {item["node_id"]: item["state"] for item in items}


def in_state(node: Daemon, wanted: dict[str, str]) -> None:
    """Return once a node says so of these nodes."""
    eventually(lambda: wanted.items() <= states(node).items())


def at(node: Daemon, home: Daemon, person: Person) -> httpx.Client:
    """Return a client of `node` for a person whose home is another."""
    body = {"password": PASSWORD, "audience": [node.node_id]}
    with home.client() as client:
        token = expect(client.post(f"/user/{person.name}/login", json=body))["token"]
    return node.client(token)


def shown(client: httpx.Client, path: str) -> Any:
    """Return an object, once it is there."""

    def look() -> Any:
        answer = client.get(path)
        # A user that is not known yet has no token that could be good.
        assert answer.status_code in (200, 401, 404), answer.text
        return answer.json() if answer.status_code == 200 else None

    return eventually(look)


def value(client: httpx.Client, space: str, key: str, wanted: Any) -> None:
    """Return once a key has a value."""

    def look() -> bool:
        answer = client.post(f"/kv/{space}/get", json={"key": key})
        return answer.status_code == 200 and answer.json()["value"] == wanted

    eventually(look)


def space(person: Person, project: str, name: str, scope: str = "global") -> str:
    body = {"owner": {"project": project}, "name": name, "scope": scope}
    return str(expect(person.http.post("/kv", json=body), 201)["id"])


def run(client: httpx.Client, function: str, input: Any) -> Any:
    """Return a job's result."""
    body = {"function": function, "input": input}
    job = expect(client.post("/job", params={"wait": 30}, json=body))
    assert job["state"] == "succeeded", job
    return job["result"]


@dataclass(frozen=True)
class Mesh:
    """Three nodes: B came in by A, and C by B."""

    a: Daemon
    b: Daemon
    c: Daemon


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    place = tmp_path_factory.mktemp("mesh")
    a, b, c = (make(place / name) for name in "abc")
    with a:
        join(a, b)
        with b:
            join(b, c)
            with c:
                yield Mesh(a, b, c)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Mesh]:
    """Two nodes for a test that harms them; C is made and neither joined nor started."""
    a, b, c = make(tmp_path / "a", workers=0), make(tmp_path / "b"), make(tmp_path / "c", workers=0)
    with a:
        join(a, b)
        with b:
            yield Mesh(a, b, c)


def test_three_nodes_know_of_one_another(mesh: Mesh) -> None:
    numbers = {mesh.a.node_id, mesh.b.node_id, mesh.c.node_id}
    assert len(numbers) == 3
    for node in (mesh.a, mesh.b, mesh.c):
        in_state(node, {each: "self" if each == node.node_id else "up" for each in numbers})
        found = peers(node)
        assert set(found) == numbers
        assert found[node.node_id]["peer_id"] == node.peer_id
        for number, peer in found.items():
            assert peer["addresses"][0].startswith("/ip4/127.0.0.1/tcp/")
            if number != node.node_id:
                assert 0 <= peer["latency_s"] < 5
    table = peernode("peers", "--data", str(mesh.a.data)).stdout
    assert mesh.c.peer_id in table


def test_what_is_made_at_one_node_shows_at_all(mesh: Mesh) -> None:
    ada = mesh.a.sign_up("ada")
    project = ada.project("shown")
    function = ada.deploy(project, "echo", ECHO)
    kv = space(ada, project, "shown")
    expect(ada.http.post(f"/kv/{kv}/put", json={"key": "k", "value": {"n": 1}}))
    for node in (mesh.b, mesh.c):
        there = at(node, mesh.a, ada)
        assert shown(there, f"/user/{ada.id}")["name"] == "ada"
        assert shown(there, f"/project/{project}")["name"] == "shown"
        assert shown(there, f"/function/{function}")["name"] == "echo"
        assert shown(there, f"/kv/{kv}")["scope"] == "global"
        value(there, kv, "k", {"n": 1})
        assert run(there, function, [1, 2]) == [1, 2]
    # And the other way: what C writes, A reads.
    there = at(mesh.c, mesh.a, ada)
    expect(there.post(f"/kv/{kv}/put", json={"key": "k", "value": "from C"}))
    value(ada.http, kv, "k", "from C")


def test_a_local_key_and_a_worker_never_leave(mesh: Mesh) -> None:
    eve = mesh.a.sign_up("eve")
    project = eve.project("kept")
    local = space(eve, project, "kept", "local")
    expect(eve.http.post(f"/kv/{local}/put", json={"key": "k", "value": 1}))
    mark = space(eve, project, "mark")
    there = at(mesh.b, mesh.a, eve)
    shown(there, f"/kv/{mark}")  # What was made before would be there by now.
    assert there.post(f"/kv/{local}/get", json={"key": "k"}).status_code == 404
    with mesh.a.operator() as ours, mesh.b.operator() as theirs:
        homes = {item["home_node"] for item in expect(theirs.get("/worker"))["items"]}
        assert homes == {int(mesh.b.node_id)}
        (worker,) = expect(ours.get("/worker"))["items"]
        assert theirs.get(f"/worker/{worker['id']}").status_code == 404


def test_a_password_is_for_the_home_only(mesh: Mesh) -> None:
    pat = mesh.a.sign_up("pat")
    there = at(mesh.b, mesh.a, pat)
    shown(there, f"/user/{pat.id}")
    with mesh.b.client() as client:
        problem = refused(
            client.post(f"/user/{pat.id}/login", json={"password": PASSWORD}), 421, "misdirected"
        )
    assert problem["homes"]


def test_a_function_runs_elsewhere_with_its_home_switched_off(pair: Mesh) -> None:
    ada = pair.a.sign_up("ada")
    project = ada.project("away")
    function = ada.deploy(project, "echo", ECHO)
    there = at(pair.b, pair.a, ada)
    shown(there, f"/function/{function}")
    pair.a.kill()
    assert run(there, function, "alone") == "alone"
    in_state(pair.b, {"1": "down"})
    pair.a.start()


def test_what_a_function_brings_is_installed_elsewhere(pair: Mesh) -> None:
    ada = pair.a.sign_up("ada")
    project = ada.project("away")
    named = {"project": project, "name": WHEEL}
    blob = expect(ada.http.post("/blob", params=named, content=make_wheel()), 201)["id"]
    source = "import greeting\ndef handler(input):\n    return greeting.greet()\n"
    function = ada.deploy(project, "greet", source, wheels=[blob])
    there = at(pair.b, pair.a, ada)
    shown(there, f"/function/{function}")
    assert run(there, function, None) == "hello"
    pair.a.kill()
    assert run(there, function, None) == "hello"
    pair.a.start()


def test_a_node_that_was_cut_off_goes_on_and_all_becomes_one_again(pair: Mesh) -> None:
    ada = pair.a.sign_up("ada")
    project = ada.project("apart")
    kv = space(ada, project, "apart")
    function = ada.deploy(project, "echo", ECHO)
    there = at(pair.b, pair.a, ada)
    shown(there, f"/function/{function}")
    shown(there, f"/kv/{kv}")
    pair.a.kill()

    expect(there.post(f"/kv/{kv}/put", json={"key": "b", "value": 2}))
    made = expect(there.post("/project", json={"name": "made-apart"}), 201)["id"]
    bob = pair.b.sign_up("bob")
    assert run(there, function, 1) == 1

    pair.a.start()
    again = pair.a.client(ada.token)
    value(again, kv, "b", 2)
    shown(again, f"/project/{made}")
    shown(at(pair.a, pair.b, bob), f"/user/{bob.id}")
    expect(again.post(f"/kv/{kv}/put", json={"key": "a", "value": 1}))
    value(there, kv, "a", 1)


def test_both_nodes_restart_and_find_each_other(pair: Mesh) -> None:
    before = pair.b.node_id, pair.b.peer_id
    assert pair.b.stop() == 0
    assert pair.a.stop() == 0
    pair.b.start()
    assert (pair.b.node_id, pair.b.peer_id) == before
    ada = pair.b.sign_up("ada")
    pair.a.start()
    in_state(pair.a, {before[0]: "up"})
    shown(at(pair.a, pair.b, ada), f"/user/{ada.id}")


def test_an_invite_works_once_and_for_a_while(pair: Mesh, tmp_path: Path) -> None:
    said = peernode("invite", "--data", str(pair.a.data))
    text = said.stdout.splitlines()[0]
    assert " " not in text
    assert pair.a.peer_id in said.stderr
    peernode("join", text, "--data", str(pair.c.data))
    again = peernode("join", text, "--data", str(tmp_path / "d"), status=1)
    assert "used before" in again.stderr
    short = invite(pair.a, ttl_s=0.001)
    late = peernode("join", short, "--data", str(tmp_path / "d"), status=1)
    assert "expired" in late.stderr
    # The thief's own directory is as good as new for an invite of its own.
    join(pair.a, make(tmp_path / "d", workers=0))


def test_joining_needs_a_node_that_is_stopped_and_holds_nothing(pair: Mesh, tmp_path: Path) -> None:
    text = invite(pair.a)
    other = make(tmp_path / "other")  # Its local worker is nothing that binds it.
    with other:
        running = peernode("join", text, "--data", str(other.data), status=1)
        assert "open already" in running.stderr
        other.sign_up("zoe")
    full = peernode("join", text, "--data", str(other.data), status=1)
    assert "holds" in full.stderr
    assert f"--data {tmp_path / 'other-2'}" in full.stderr
    nonsense = peernode("join", text[:-9], "--data", str(tmp_path / "x"), status=1)
    assert "not copied whole" in nonsense.stderr
    # One that has run and made nothing may still join.
    with pair.c:
        pass
    join(pair.a, pair.c)
    with pair.c:
        in_state(pair.a, {pair.c.node_id: "up"})


def test_a_join_that_was_killed_is_done_again_and_once(pair: Mesh) -> None:
    text, command = invite(pair.a), [sys.executable, "-m", "peernode", "join"]
    for patience_s in (0.3, 0.6, 0.9, 1.2):
        process = subprocess.Popen(
            [*command, text, "--data", str(pair.c.data)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert process.wait(patience_s) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    found = json.loads(peernode("join", text, "--data", str(pair.c.data), "--json").stdout)
    assert sorted(states(pair.a)) == ["1", "2", "3"]
    with pair.c:
        assert pair.c.node_id == found["node_id"] == "3"
        in_state(pair.a, {"3": "up"})


def test_an_inviter_that_is_off_is_named(pair: Mesh, tmp_path: Path) -> None:
    text = invite(pair.b)
    pair.b.kill()
    done = peernode("join", text, "--data", str(tmp_path / "d"), "--timeout-s", "1", status=1)
    assert pair.b.peer_id in done.stderr
    pair.b.start()


def test_an_evicted_node_is_shut_out(pair: Mesh) -> None:
    join(pair.b, pair.c)
    with pair.c:
        number = pair.c.node_id
        for node in (pair.a, pair.b):
            in_state(node, {number: "up"})
        ada = pair.a.sign_up("ada")
        seen = at(pair.c, pair.a, ada)
        shown(seen, f"/user/{ada.id}")
        # The founder evicts whom another admitted, and that one hears of it too.
        peernode("evict", number, "--reason", "left", "--data", str(pair.a.data))
        for node in (pair.a, pair.b):
            in_state(node, {number: "evicted"})
        eventually(lambda: states(pair.c)["1"] != "up")
        late = ada.project("after")
        shown(at(pair.b, pair.a, ada), f"/project/{late}")
        with pytest.raises(AssertionError, match="did not show"):
            eventually(lambda: seen.get(f"/project/{late}").status_code == 200, GONE_S)
        assert pair.c.stop() == 0
        pair.c.start()
        with pytest.raises(AssertionError, match="did not show"):
            eventually(lambda: states(pair.c)["1"] == "up", GONE_S)
    peernode("evict", "1", "--data", str(pair.b.data), status=1)
