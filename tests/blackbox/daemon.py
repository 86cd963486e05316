"""A real node in a process of its own, as its operator and its callers have it.

Nothing here knows the node's code: a process, its ready line, its files, HTTP, signals.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from tests.worker.levels import missing_sandbox

READY_MAX_S = 60.0
STOP_MAX_S = 30.0
PR_SET_PDEATHSIG = 1
PASSWORD = "correct horse battery staple"
CHEAP_PASSWORDS = {"PEERNODE_PASSWORD_MEMORY_BYTES": "8388608", "PEERNODE_PASSWORD_PASSES": "1"}
"""Makes a login take milliseconds; the node's defaults are for those who fear thieves."""
_READY = re.compile(
    r"ready (?P<url>https?://\S+) node_id=(?P<node_id>\d+) peer_id=(?P<peer_id>\S+)"
)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however it does (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Daemon:
    """`peernode up` on a data directory; may be killed and started again."""

    def __init__(
        self,
        data: Path,
        *,
        workers: int = 1,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        http: str = "127.0.0.1:0",
        verify: Any = True,
    ) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        self.url = ""
        self.node_id = ""
        self.peer_id = ""
        self.process: subprocess.Popen[str] | None = None
        self.command = [sys.executable, "-m", "peernode", "up", "--data", str(data)]
        self.command += ["--http", http, "--signup", "open", "--workers", str(workers)]
        self.command += arguments
        level = {"PEERNODE_ISOLATION": "process"} if missing_sandbox() else {}
        self._environment = {**os.environ, **CHEAP_PASSWORDS, **level, **(environment or {})}
        self._verify = verify
        self._clients: list[httpx.Client] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_clients()
        if self.process is None:
            return
        if error is not None:
            self.kill()
            return
        status = self.stop()
        assert status == 0, f"the node exited with {status}: {self.output()}"

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def start(self) -> None:
        """Start the node and return when it says that it is ready.

        Clients of a life before are closed: the port is another.
        """
        assert self.process is None
        self._close_clients()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                text=True,
                preexec_fn=end_with_parent,
            )
        assert process.stdout is not None
        timer = threading.Timer(READY_MAX_S, process.kill)
        timer.start()
        try:
            found = _READY.fullmatch(process.stdout.readline().strip())
        finally:
            timer.cancel()
        if found is None:
            process.kill()
            process.wait()
            process.stdout.close()
            raise AssertionError(f"no ready line: {self.output()}")
        self.process = process
        self.url, self.node_id, self.peer_id = found["url"], found["node_id"], found["peer_id"]

    def kill(self) -> None:
        """End the node as a power cut would (SIGKILL)."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def terminate(self) -> None:
        """Tell the node to stop (SIGTERM), and return at once."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Tell the node to stop, wait until it has, and return its exit status."""
        self.terminate()
        return self.wait()

    def wait(self) -> int:
        """Return the exit status once the node has ended."""
        assert self.process is not None
        try:
            self.process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        status = self.process.wait()
        self.process.stdout.close()
        self.process = None
        return status

    def output(self) -> str:
        """Return the end of what the node has written to stderr."""
        return self.log.read_text(errors="replace")[-4000:]

    @property
    def operator_token(self) -> str:
        """The operator's token, from the file only its user can read."""
        return (self.data / "operator.token").read_text().strip()

    def client(self, token: str = "") -> httpx.Client:
        """Return an HTTP client that speaks with `token`; it is closed with the node."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(
            base_url=self.url, headers=headers, timeout=60, trust_env=False, verify=self._verify
        )
        self._clients.append(client)
        return client

    def operator(self) -> httpx.Client:
        """Return an HTTP client of the operator."""
        return self.client(self.operator_token)

    def sign_up(self, name: str) -> "Person":
        """Make a user who is logged in."""
        with self.client() as client:
            made = expect(client.post("/user", json={"name": name, "password": PASSWORD}), 201)
            token = self.login(name)
        return Person(str(made["id"]), name, token, self.client(token))

    def login(self, name: str) -> str:
        """Return a new token of a user that `sign_up` made."""
        with self.client() as client:
            answer = client.post(f"/user/{name}/login", json={"password": PASSWORD})
            return str(expect(answer)["token"])

    def worker_process(self) -> psutil.Process:
        """Return the process of the local worker."""
        assert self.process is not None
        found = [
            child
            for child in psutil.Process(self.process.pid).children()
            if "worker.agent" in child.cmdline()
        ]
        assert len(found) == 1, found
        return found[0]


class Person:
    """A user who is logged in."""

    def __init__(self, id: str, name: str, token: str, http: httpx.Client) -> None:
        self.id = id
        self.name = name
        self.token = token
        self.http = http

    def project(self, name: str) -> str:
        """Return the id of a new project."""
        return str(expect(self.http.post("/project", json={"name": name}), 201)["id"])

    def deploy(self, project: str, name: str, source: str, **more: Any) -> str:
        """Return the id of a new Python function."""
        body = {"project": project, "name": name, "runtime": "python", "source": source, **more}
        return str(expect(self.http.post("/function", json=body), 201)["id"])

    def run(self, function: str, input: Any = None, wait_s: float = 30, **more: Any) -> Any:
        """Return a job that has ended."""
        body = {"function": function, "input": input, **more}
        return expect(self.http.post("/job", params={"wait": wait_s}, json=body), 200)

    def hand_in(self, function: str, input: Any = None, **more: Any) -> Any:
        """Return a job that was accepted."""
        return expect(
            self.http.post("/job", json={"function": function, "input": input, **more}), 202
        )

    def ended(self, job: str, wait_s: float = 30) -> Any:
        """Return a job, once it has ended."""
        found = expect(self.http.get(f"/job/{job}", params={"wait": wait_s}))
        assert found["finished_at"] is not None, found
        return found

    def blob(self, content: bytes, **query: str) -> Any:
        """Return the attributes of a new blob."""
        return expect(self.http.post("/blob", params=query, content=content), 201)


def expect(answer: httpx.Response, status: int = 200) -> Any:
    """Return the JSON of an answer that has to have `status`."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:2000]}"
    return json.loads(answer.content) if answer.content else None


def refused(answer: httpx.Response, status: int, code: str, **named: Any) -> Any:
    """Return the problem of an answer that has to be that one."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:2000]}"
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.content)
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"] == f"urn:peernode:problem:{code}"
    assert "Traceback" not in answer.text
    for name, value in named.items():
        assert problem.get(name) == value, problem
    return problem
