"""Workers: the operator's, attached by a process of their own."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.blackbox.daemon import Daemon, end_with_parent, expect, refused

pytestmark = pytest.mark.slow

Attach = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def attach(node: Daemon, tmp_path: Path) -> Iterator[Attach]:
    """Start a worker process with what `POST /worker` has answered."""
    processes: list[subprocess.Popen[str]] = []

    def start(
        made: dict[str, str], directory: str = "worker", url: str = ""
    ) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "peernode", "worker", "attach", url or node.url]
        command += ["--slots", "1"]
        command += ["--token", made["token"], "--directory", str(tmp_path / directory)]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, preexec_fn=end_with_parent
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


def test_workers_are_the_operators(lab, anonymous, operator):
    made = expect(operator.post("/worker", json={"name": "mine", "labels": {"a": "b"}}), 201)
    path = f"/worker/{made['id']}"
    for answer in (
        lab.http.get(path),
        lab.http.post(path, json={"name": "x"}),
        lab.http.delete(path),
        lab.http.post(f"{path}/cordon"),
        lab.http.post(f"{path}/drain"),
        lab.http.post(f"{path}/resume"),
    ):
        refused(answer, 404, "not_found")
    refused(lab.http.post("/worker", json={}), 403, "forbidden")
    refused(lab.http.get("/worker"), 403, "forbidden")
    refused(anonymous.get(path), 401, "unauthenticated")
    assert operator.delete(path).status_code == 204
    refused(operator.get(path), 404, "not_found")


def test_a_token_is_shown_once(operator):
    answer = operator.post("/worker", json={"labels": {"a": "b"}})
    made = expect(answer, 201)
    assert answer.headers["location"] == f"/worker/{made['id']}"
    read = operator.get(f"/worker/{made['id']}")
    assert made["token"] not in read.text
    assert expect(read) == {name: made[name] for name in made if name != "token"}
    assert (read.json()["state"], read.json()["offer"]) == ("detached", None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x" * 65}, "name"),
        ({"labels": {"a": 1}}, "labels[...]"),
        ({"labels": {"a": "x" * 64}}, "labels[...]"),
        ({"labels": {str(n): "" for n in range(65)}}, "labels"),
        ({"slots": 1}, "slots"),
    ],
)
def test_a_worker_that_makes_no_sense_is_not_made(operator, body, field):
    def known() -> list[str]:
        return [
            one["id"] for one in expect(operator.get("/worker", params={"limit": 1000}))["items"]
        ]

    before = known()
    answer = operator.post("/worker", json=body)
    refused(answer, 422, answer.json()["code"], field=field)
    assert known() == before


def test_the_local_worker_is_there(operator):
    local = [one for one in expect(operator.get("/worker"))["items"] if one["local"]]
    assert len(local) == 1
    path, deadline_s = f"/worker/{local[0]['id']}", time.monotonic() + 20
    while (offer := expect(operator.get(path, params={"wait": 1}))["offer"]) is None:
        assert time.monotonic() < deadline_s, "the local worker did not attach"
    assert offer["slots"] == 2
    assert "python" in offer["runtimes"]
    assert offer["memory_bytes"] > 0


def test_a_worker_attaches_runs_what_only_it_can_and_drains(lab, operator, attach):
    label = {"bench": lab.project}
    made = expect(operator.post("/worker", json={"labels": label}), 201)
    path = f"/worker/{made['id']}"
    waiting = [lab.person.hand_in(lab.echo, n, requires={"labels": label})["id"] for n in range(5)]
    job = expect(lab.http.get(f"/job/{waiting[0]}"))
    assert {reason["code"] for reason in job["pending_reasons"]}
    assert all(made["token"] not in str(reason) for reason in job["pending_reasons"])
    for number, priority in enumerate((0, 2, 1, -1, 0)):
        expect(lab.http.post(f"/job/{waiting[number]}", json={"priority": priority}))
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(operator.get, path, params={"wait": 30})
        attach(made)
        ended = [lab.person.ended(job) for job in waiting]
        assert expect(seen.result())["revision"] != made["revision"]
    assert {job["worker"] for job in ended} == {made["id"]}
    order = sorted(range(5), key=lambda n: (ended[n]["history"][1]["at"], ended[n]["started_at"]))
    assert [ended[n]["input"] for n in order] in ([1, 2, 0, 4, 3], order)
    worker = expect(operator.get(path))
    assert (worker["state"], worker["offer"]["slots"], worker["running"]) == ("attached", 1, 0)

    assert expect(operator.post(f"{path}/drain"))["state"] == "drained"
    held = lab.person.hand_in(lab.echo, requires={"labels": label})["id"]
    assert expect(lab.http.get(f"/job/{held}", params={"wait": 0.2}))["state"] == "queued"
    assert expect(operator.post(f"{path}/resume"))["state"] == "attached"
    assert lab.person.ended(held)["state"] == "succeeded"


def test_a_token_is_burnt_by_its_first_use(lab, operator, attach):
    label = {"bench": lab.project}
    made = expect(operator.post("/worker", json={"labels": label}), 201)
    attach(made)
    assert lab.person.run(lab.echo, requires={"labels": label})["worker"] == made["id"]
    second = attach(made, "again")
    assert second.wait(30) == 1
    assert second.stderr is not None
    assert "one first attach" in second.stderr.read()


def test_a_worker_that_is_deleted_is_sent_away(lab, operator, attach):
    label = {"bench": lab.project}
    made = expect(operator.post("/worker", json={"labels": label}), 201)
    process = attach(made)
    assert lab.person.run(lab.echo, requires={"labels": label})["worker"] == made["id"]
    assert operator.delete(f"/worker/{made['id']}").status_code == 204
    assert process.wait(30) == 1
    held = lab.person.hand_in(lab.echo, requires={"labels": label})["id"]
    assert expect(lab.http.get(f"/job/{held}"))["state"] == "queued"


def test_a_name_and_labels_change(operator):
    made = expect(operator.post("/worker", json={"name": "one"}), 201)
    path = f"/worker/{made['id']}"
    tag = operator.get(path).headers["etag"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda n: operator.post(
                    path, json={"labels": {"n": str(n)}}, headers={"If-Match": tag}
                ),
                range(8),
            )
        )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    changed = expect(operator.post(path, json={"name": "two"}))
    assert (changed["name"], int(changed["revision"])) == ("two", int(made["revision"]) + 2)
    stale = {"If-Match": tag}
    refused(operator.delete(path, headers=stale), 412, "precondition_failed")
    assert operator.delete(path).status_code == 204
    refused(operator.post(f"{path}/drain"), 404, "not_found")


def test_who_has_the_nodes_port_learns_neither_token_nor_proof(operator, attach, node, tmp_path):
    made = expect(operator.post("/worker", json={}), 201)
    heard: list[bytes] = []

    class Squatter(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            heard.append(f"{self.path} {self.headers}".encode())
            challenge = self.path.partition("?")[2]
            # It passes the question on to the node: which signs for its own port only.
            with node.client() as asked:
                body = asked.get(f"/health?{challenge}").content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Squatter) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        process = attach(made, url=url)
        assert process.wait(30) == 1
        assert "does not prove that it is the node" in process.stderr.read()
        # The same once it was attached: it goes on trying, in case the node comes back.
        process = attach(made)
        while expect(operator.get(f"/worker/{made['id']}"))["state"] != "attached":
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 0
        before = len(heard)
        process = attach(made | {"token": ""}, url=url)
        assert "does not prove" in process.stderr.readline()
        server.shutdown()
    assert len(heard) > before
    assert all(said.startswith(b"/health?challenge=") for said in heard)
    secret = made["token"].split(".")[2].encode()
    assert not any(secret in said or b"uthorization" in said for said in heard)


@pytest.mark.parametrize("secret", ["", "AAAA", "A" * 43])
def test_who_shows_no_token_does_not_attach(operator, attach, secret):
    made = expect(operator.post("/worker", json={}), 201)
    process = attach(made | {"token": f"pnw1.{made['id']}.{secret}"})
    assert process.wait(30) == 1
    assert expect(operator.get(f"/worker/{made['id']}"))["state"] == "detached"
