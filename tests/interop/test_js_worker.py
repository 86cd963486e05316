"""A worker in another language, written from docs/worker-protocol.md, does a real node's jobs.

It is `worker/worker.mjs`: Node.js without any package.  Where Node is missing, or older than 20,
this is skipped.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.daemon import Daemon, Person, end_with_parent, expect
from tests.blackbox.test_worker_tls import free_port
from tests.worker.certificates import new_key, write_pair
from tests.worker.test_protocol import FROM_WORKER, GOLDEN, PROOF, TO_WORKER

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
NODE_VERSION_MIN = 20
HERE_ONLY = {"labels": {"language": "javascript"}}
ECHO = "def handler(input):\n    return input\n"
TALK = """
import edge

def handler(input):
    edge.log("half an hour later")
    edge.progress(0.5, "half way")
    space = edge.kv("state")
    before = space["count"]
    space["count"] = before + 1
    return {"before": before}
"""
WAIT = """
import os, time

def handler(input):
    open(input + ".began", "w").close()
    while not os.path.exists(input):
        time.sleep(0.01)
    return "done"
"""
BOOM = "def handler(input):\n    raise ValueError('boom')\n"


@pytest.fixture(scope="module")
def program() -> list[str]:
    """Return the command that is the worker, or skip."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").partition(".")[0]) < NODE_VERSION_MIN:
        pytest.skip(f"Node {NODE_VERSION_MIN} or later is needed, not {version.stdout.strip()}")
    return [found, str(HERE / "worker" / "worker.mjs")]


@contextmanager
def attached(command: list[str], url: str, directory: Path, token: str = "") -> Iterator[Any]:
    """Run the worker; it has to end well when it is told to."""
    directory.mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with subprocess.Popen(
        [*command, url, str(directory), *([token] if token else [])],
        env={"PATH": path},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def world(
    tmp_path: Path, arguments: Sequence[str] = (), **more: Any
) -> Iterator[tuple[Daemon, Person, Callable[[str], str]]]:
    """Yield a node without workers, a user, and what deploys a source.

    The worker has no walls around functions, and the node asks for none.
    """
    arguments = [*arguments, "--isolation", "process"]
    with Daemon(tmp_path / "data", workers=0, arguments=arguments, **more) as node:
        person = node.sign_up("ada")
        project = person.project("p")
        names = iter("abcdefgh")
        yield node, person, lambda source: person.deploy(project, next(names), source)


def test_it_reads_and_writes_every_golden_message(program: list[str]) -> None:
    done = subprocess.run(
        [*program, "--golden", str(GOLDEN)], capture_output=True, text=True, check=True, timeout=30
    )
    *messages, proof = done.stdout.splitlines()
    assert proof == f"proof {PROOF}"
    lines = [line.split() for line in GOLDEN.read_text().splitlines()[:-1]]
    for line, (name, golden), message in zip(
        messages, lines, [*FROM_WORKER, *TO_WORKER], strict=True
    ):
        kind = message.__struct_config__.tag
        assert line.split() == [name, str(kind), str(len(message.__struct_fields__)), golden]


def test_it_does_jobs_and_says_how_they_went(program: list[str], tmp_path: Path) -> None:
    with world(tmp_path) as (node, person, deploy):
        made = expect(node.operator().post("/worker", json={"labels": {"room": "3"}}), 201)
        with attached(program, node.url, tmp_path / "js", made["token"]):
            echo = deploy(ECHO)
            for value in ({"ü": [1.5, -(2**63), None, "😀"]}, "x" * 300_000, 0):
                done = person.run(echo, value, requires=HERE_ONLY)
                assert (done["state"], done["result"]) == ("succeeded", value)
                assert (done["worker"], done["isolation"]) == (made["id"], "process")
            many = [person.hand_in(echo, n)["id"] for n in range(20)]
            assert [person.ended(job)["result"] for job in many] == list(range(20))
            failed = person.run(deploy(BOOM))
            assert (failed["state"], failed["error"]["code"]) == ("failed", "function_error")
            assert failed["error"]["message"] == "boom"
            assert "ValueError" in failed["error"]["traceback"]

            talk = deploy(TALK)
            project = failed["project"]
            owner = {"owner": {"project": project}, "name": "state", "scope": "local"}
            space = expect(person.http.post("/kv", json=owner), 201)["id"]
            put = {"key": "count", "value": 41}
            expect(person.http.post(f"/kv/{space}/put", json=put))
            told = person.run(talk)
            assert told["result"] == {"before": 41}
            assert told["progress"] == {"fraction": 0.5, "message": "half way"}
            found = expect(person.http.post(f"/kv/{space}/get", json={"key": "count"}))
            assert found["value"] == 42
            logs = expect(person.http.get(f"/job/{told['id']}/logs"))["items"]
            assert "half an hour later" in [line["text"] for line in logs]

            shown = expect(node.operator().get(f"/worker/{made['id']}"))
            assert shown["state"] == "attached"
            assert shown["offer"]["labels"] == {"language": "javascript", "room": "3"}
            assert shown["offer"]["software"].startswith("interop-worker")


def test_it_stops_what_is_cancelled_or_takes_too_long_and_gives_back(
    program: list[str], tmp_path: Path
) -> None:
    with world(tmp_path) as (node, person, deploy):
        made = expect(node.operator().post("/worker", json={}), 201)
        with attached(program, node.url, tmp_path / "js", made["token"]):
            wait = deploy(WAIT)
            late = person.run(wait, str(tmp_path / "never"), limits={"run_s": 0.5})
            assert (late["state"], late["error"]["code"]) == ("expired", "run_timeout")
            jobs = [person.hand_in(wait, str(tmp_path / f"w{n}"))["id"] for n in range(2)]
            for job in jobs:
                events = person.http.get(f"/job/{job}", params={"wait": 0.1})
                assert expect(events)["state"] in ("leased", "running")
                assert expect(person.http.post(f"/job/{job}/cancel"))["state"] == "cancelled"
            after = person.run(wait, str(tmp_path / "never.began"))
            assert after["result"] == "done", "the slots are free again"
            drained = expect(node.operator().post(f"/worker/{made['id']}/drain"))
            assert drained["state"] == "drained"


def test_it_keeps_its_job_over_a_restart_of_the_node_and_needs_no_token_again(
    program: list[str], tmp_path: Path
) -> None:
    http, go = f"127.0.0.1:{free_port()}", tmp_path / "go"
    with world(tmp_path, http=http) as (node, person, deploy):
        made = expect(node.operator().post("/worker", json={}), 201)
        with attached(program, node.url, tmp_path / "js", made["token"]):
            job = person.hand_in(deploy(WAIT), str(go))["id"]
            for event in _events(person, job):
                if '"running"' in event:
                    break
            node.kill()
            go.touch()
            node.start()
            person.http = node.client(node.login("ada"))
            done = person.ended(job)
            assert (done["state"], done["attempt"], done["result"]) == ("succeeded", 1, "done")
        with attached(program, node.url, tmp_path / "js"):
            assert person.run(done["function"], str(go))["worker"] == made["id"]
        with attached(program, node.url, tmp_path / "thief", made["token"]) as thief:
            assert thief.wait(30) == 1
            assert "401" in thief.stderr.read()


def test_it_trusts_the_key_that_its_token_names(program: list[str], tmp_path: Path) -> None:
    pair = write_pair(tmp_path, new_key())
    with world(tmp_path, arguments=["--tls", pair], verify=False) as (node, person, deploy):
        made = expect(node.operator().post("/worker", json={}), 201)
        wrong = made["token"].rpartition(".")[0] + "." + "A" * 43
        with attached(program, node.url, tmp_path / "wrong", wrong) as refused:
            assert refused.wait(30) == 1
            assert "does not have the key" in refused.stderr.read()
        with attached(program, node.url, tmp_path / "js", made["token"]):
            assert person.run(deploy(ECHO), 1)["worker"] == made["id"]


def _events(person: Person, job: str) -> Iterator[str]:
    with person.http.stream("GET", f"/job/{job}/events") as answer:
        yield from answer.iter_lines()
