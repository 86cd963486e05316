"""Kills, stops, full disks, second nodes: what a node has said stays true."""

import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trustme

from tests.blackbox.daemon import Daemon, Person, end_with_parent, expect, refused
from tests.blackbox.kill_node import survive
from tests.blackbox.test_jobs import events

pytestmark = pytest.mark.slow

OWN = {"PEERNODE_ISOLATION": "process"}
"""Functions here look at files of the test."""
QUICK = {"PEERNODE_LEASE_S": "1", "PEERNODE_RECONNECT_S": "1", **OWN}
"""Has a node miss a silent worker after a second."""
TMPFS_BYTES = 48 << 20
GATED = """
import os, time
import edge

def handler(input):
    edge.kv("seen").now.increment("started", 1)
    while input["gate"] and not os.path.exists(input["gate"]):
        if edge.job.attempt > 1 and input.get("once"):
            break
        time.sleep(0.01)
    edge.kv("seen").increment("done", 1)
    return edge.job.attempt
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", workers=1, environment=QUICK) as daemon:
        yield daemon


class Lab:
    """A user with a function that waits for a file, and a namespace it counts in."""

    def __init__(self, daemon: Daemon) -> None:
        self.person: Person = daemon.sign_up("ada")
        project = self.person.project("lab")
        self.gated = self.person.deploy(project, "gated", GATED)
        self.echo = self.person.deploy(project, "echo", "def handler(input):\n    return input\n")
        body = {"owner": {"project": project}, "name": "seen", "scope": "local"}
        self.space = expect(self.person.http.post("/kv", json=body), 201)["id"]

    def count(self, key: str) -> int:
        """Return a counter of the function."""
        answer = self.person.http.post(f"/kv/{self.space}/get", json={"key": key})
        return 0 if answer.status_code == 404 else int(expect(answer)["value"])

    def start(self, **input: Any) -> str:
        """Return a job that runs."""
        job = str(self.person.hand_in(self.gated, input)["id"])
        for _, _, data in events(self.person.http, job):
            if data.get("state") == "running":
                return job
        raise AssertionError("the job did not run")

    def reconnect(self, daemon: Daemon) -> None:
        """Talk to the node's next life."""
        self.person.http = daemon.client(self.person.token)


def test_twenty_kills_break_no_promise(tmp_path):
    assert survive(tmp_path, kills=20, seed=1) > 20


def test_a_worker_that_is_killed_loses_no_job(daemon):
    lab = Lab(daemon)
    job = lab.start(gate="/nonexistent", once=True)
    worker = daemon.worker_process()
    children = worker.children(recursive=True)
    assert children
    worker.kill()
    ended = lab.person.ended(job)
    assert (ended["state"], ended["result"], ended["attempt"]) == ("succeeded", 2, 2)
    assert [change["state"] for change in ended["history"]].count("succeeded") == 1
    assert lab.count("done") == 1
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_worker_that_is_killed_again_and_again_ends_as_a_failed_job(daemon):
    lab = Lab(daemon)
    job = lab.person.hand_in(lab.gated, {"gate": "/nonexistent"}, retry={"max_attempts": 2})["id"]
    runs = 0
    for _, _, data in events(lab.person.http, job):
        if data.get("state") == "running":
            runs += 1
            daemon.worker_process().kill()
    ended = lab.person.ended(job)
    assert runs == 2
    assert (ended["state"], ended["attempt"]) == ("failed", 2)
    assert lab.count("done") == 0
    assert lab.person.run(lab.echo, "next")["result"] == "next"


def test_what_a_worker_says_too_late_is_refused(daemon, tmp_path):
    lab = Lab(daemon)
    gate = tmp_path / "gate"
    job = lab.start(gate=str(gate), once=True)
    first = daemon.worker_process()
    first.send_signal(signal.SIGSTOP)
    gate.touch()  # its process goes on, and ends with an outcome that nobody passes on
    with daemon.operator() as operator:
        made = expect(operator.post("/worker", json={}), 201)
        command = [sys.executable, "-m", "peernode", "worker", "attach", daemon.url]
        command += ["--token", made["token"], "--slots", "1", "--directory", str(tmp_path / "two")]
        command += ["--isolation", "process"]
        second = subprocess.Popen(command, preexec_fn=end_with_parent)
        try:
            ended = lab.person.ended(job)
            assert (ended["state"], ended["worker"], ended["attempt"]) == (
                "succeeded",
                made["id"],
                2,
            )
            first.send_signal(signal.SIGCONT)
            expect(operator.post(f"/worker/{made['id']}/drain"))
            later = lab.person.run(lab.echo, "later")  # the first is heard again
            assert later["worker"] != made["id"]
        finally:
            second.terminate()
            second.wait(10)
    assert expect(lab.person.http.get(f"/job/{job}")) == ended
    assert lab.count("done") == 1
    assert lab.count("started") == 2


def test_a_node_that_is_told_to_stop_lets_jobs_end(daemon, tmp_path):
    lab = Lab(daemon)
    http = lab.person.http
    gate = tmp_path / "gate"
    job = lab.start(gate=str(gate))
    queued = lab.person.hand_in(lab.echo, "queued")["id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(http.get, f"/job/{job}", params={"wait": 20})
        daemon.terminate()
        while http.get("/health").status_code == 200:
            pass
        assert http.get("/health").json()["status"] == "draining"
        answer = http.post("/job", json={"function": lab.echo})
        assert refused(answer, 503, "draining")["retryable"] is True
        gate.touch()
        assert expect(waiting.result())["state"] == "succeeded"
    assert daemon.wait() == 0
    daemon.start()
    lab.reconnect(daemon)
    ended = lab.person.ended(job)
    assert (ended["state"], ended["result"], ended["attempt"]) == ("succeeded", 1, 1)
    assert lab.person.ended(queued)["result"] == "queued"


def test_a_job_that_does_not_end_in_time_runs_again_after_a_restart(tmp_path):
    environment = {"PEERNODE_DRAIN_S": "0.2", **OWN}
    with Daemon(tmp_path / "data", workers=1, environment=environment) as daemon:
        lab = Lab(daemon)
        gate = tmp_path / "gate"
        job = lab.start(gate=str(gate))
        assert daemon.stop() == 0
        gate.touch()
        daemon.start()
        lab.reconnect(daemon)
        assert lab.person.ended(job)["state"] == "succeeded"
        assert (lab.count("started"), lab.count("done")) == (2, 1)


def test_a_second_node_on_the_same_data_is_refused(daemon):
    lab = Lab(daemon)
    assert daemon.process is not None
    second = subprocess.run(daemon.command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"open already, in process {daemon.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert "ready" not in second.stdout
    assert lab.person.run(lab.echo, "still here")["result"] == "still here"


def test_everything_is_there_after_a_restart(daemon):
    lab = Lab(daemon)
    blob = lab.person.blob(b"x" * 2_000_000)
    job = lab.person.run(lab.echo, {"a": 1})
    paths = [f"/job/{job['id']}", f"/blob/{blob['id']}", f"/kv/{lab.space}", "/user/ada"]
    before = [expect(lab.person.http.get(path)) for path in paths]
    identity = (daemon.node_id, daemon.peer_id, daemon.operator_token)
    assert daemon.stop() == 0
    daemon.start()
    lab.reconnect(daemon)
    assert (daemon.node_id, daemon.peer_id, daemon.operator_token) == identity
    assert [expect(lab.person.http.get(path)) for path in paths] == before
    assert lab.person.http.get(f"/blob/{blob['id']}/content").content == b"x" * 2_000_000
    assert int(lab.person.hand_in(lab.echo)["id"]) > int(job["id"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system that is soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)]
    try:
        done = subprocess.run(["mount", *options], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount(8)")
    if done.returncode != 0:
        pytest.skip("this user cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_loses_nothing_and_a_node_recovers_from_it(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(12 << 20))
    with Daemon(small_disk / "data", workers=1) as daemon:
        lab = Lab(daemon)
        http = lab.person.http
        before = lab.person.run(lab.echo, "before")
        blobs = []
        for number in range(200):
            content = number.to_bytes(4, "big") * (1 << 18)
            answer = http.post("/blob", content=content)
            if answer.status_code != 201:
                break
            blobs.append((answer.json()["id"], content))
        assert refused(answer, 507, "storage_full")["retryable"] is True
        assert blobs
        (small_disk / "filling").write_bytes(b"")
        with (small_disk / "filling").open("ab", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        accepted, refusals = [], 0
        while refusals < 3:
            answer = http.post("/job", json={"function": lab.echo, "input": "x" * 50_000})
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])
                assert len(accepted) < 400
            else:
                refused(answer, 507, "storage_full")
                refusals += 1
        assert expect(http.get(f"/job/{before['id']}")) == before
        assert http.get(f"/blob/{blobs[0][0]}/content").content == blobs[0][1]
        assert expect(http.get("/health"))["status"] == "ok"
        ballast.unlink()
        for job in accepted:
            assert lab.person.ended(job)["result"] == "x" * 50_000
        assert lab.person.run(lab.echo, "after")["result"] == "after"
        for blob, content in blobs:
            assert http.get(f"/blob/{blob}/content").content == content
        assert http.delete(f"/blob/{blobs[0][0]}").status_code == 204
        listed = expect(http.get("/job", params={"limit": 1000}))["items"]
        assert len(listed) == len(accepted) + 2


def test_deleting_makes_room_on_a_full_disk(small_disk):
    with Daemon(small_disk / "data", workers=0) as daemon:
        lab = Lab(daemon)
        http = lab.person.http
        blobs = []
        while (answer := http.post("/blob", content=bytes(len(blobs)) * 2 + b"x" * (1 << 20))) and (
            answer.status_code == 201
        ):
            blobs.append(answer.json()["id"])
            assert len(blobs) < 100
        refused(answer, 507, "storage_full")
        for blob in blobs[:8]:
            assert http.delete(f"/blob/{blob}").status_code == 204
        lab.person.blob(b"y" * (1 << 20))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """Return what a client trusts, and the value of --tls."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context, f"{chain},{key}"


def test_tls_from_the_first_byte(tmp_path, certificate):
    context, tls = certificate
    arguments = ["--tls", tls]
    with Daemon(tmp_path / "data", arguments=arguments, verify=context) as daemon:
        assert daemon.url.startswith("https://127.0.0.1:")
        lab = Lab(daemon)
        assert lab.person.run(lab.echo, "over TLS")["result"] == "over TLS"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{daemon.url}/health", trust_env=False)
        with pytest.raises(httpx.TransportError):
            httpx.get(daemon.url.replace("https", "http") + "/health", trust_env=False)
        expect(lab.person.http.get("/health"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--http", "0.0.0.0:0"], "TLS"),
        (["--http", "[::]:0"], "TLS"),
        (["--http", "127.0.0.1:99999"], "http"),
        (["--http", "nonsense"], "http"),
        (["--tls", "one"], "tls"),
        (["--tls", "/nonexistent/cert,/nonexistent/key"], "tls"),
        (["--workers", "many"], "workers"),
        (["--workers", "-1"], "workers"),
        (["--signup", "never"], "signup"),
        (["--data", "/proc/nowhere"], "/proc/nowhere"),
        (["--config", "/nonexistent.toml"], "/nonexistent.toml"),
    ],
)
def test_a_node_that_cannot_start_says_why_in_a_line(tmp_path, arguments, said):
    command = [*Daemon(tmp_path / "data").command, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stdout


def test_a_port_that_is_taken_is_named(tmp_path, daemon):
    port = daemon.url.rpartition(":")[2]
    command = [*Daemon(tmp_path / "other").command, "--http", f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_node_stops_while_a_reader_follows_a_job(daemon):
    lab = Lab(daemon)
    job = lab.person.hand_in(lab.echo, requires={"labels": {"no": "worker"}})["id"]
    seen = events(lab.person.http, job)
    assert next(seen)[2]["state"] == "queued"
    assert daemon.stop() == 0
    with pytest.raises((StopIteration, httpx.TransportError)):
        next(seen)
    daemon.start()
    lab.reconnect(daemon)
    assert expect(lab.person.http.get(f"/job/{job}"))["state"] == "queued"
