"""Several real nodes in one mesh, a process each, and one user who may act at all of them."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.benchmarks.daemon import Daemon, end_with_parent
from tests.benchmarks.load import Connection, decode, request

JOIN_MAX_S = 60.0
SEEN_MAX_S = 120.0
"""After this long what does not show is missing."""
PASSWORD = "correct horse battery staple"
POLL_S = 0.002
WAIT_POLL_S = 0.05
KEYS_LISTED = 100
"""Keys of a namespace that are listed together. A list costs the node 0.3 ms a key, so the last of
them is waited for first: otherwise looking would be what is measured."""


class Nodes:
    """A mesh of `count` nodes; the first has a worker, and is the home of the user."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._directory = tempfile.TemporaryDirectory(prefix="peernode-bench-mesh-")
        self.all: list[Daemon] = []
        self.tokens: list[str] = []
        self.join_s: list[float] = []
        """From the command `join` to its end, of each node but the first."""

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _begin(self) -> None:
        self.add(workers=1)
        self.first.sign_up()
        self.tokens.append(self.first.token)
        for _ in range(1, self._count):
            self.add()
            self.log_in()
        for node in self.all:
            self.wait_until_met(node, self._count - 1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in reversed(self.all):
            node.__exit__(kind, error, trace)
        self._directory.cleanup()

    @property
    def first(self) -> Daemon:
        """Where the user is at home."""
        return self.all[0]

    def add(self, *, workers: int = 0) -> Daemon:
        """Start another node, which has joined the others if there are any."""
        data = Path(self._directory.name) / str(len(self.all))
        if self.all:
            self._join(data)
        node = Daemon(workers=workers, data=data, p2p=f"/ip4/127.0.0.1/tcp/{free_port()}")
        self.all.append(node)
        return node

    def _join(self, data: Path) -> None:
        link = self.first.connect()
        invite = link.call("POST", "/mesh/invite", operator_token(self.first), {})["invite"]
        link.close()
        command = [sys.executable, "-m", "peernode", "join", invite, "--data", str(data)]
        started_s = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            timeout=JOIN_MAX_S,
            preexec_fn=end_with_parent,
        )
        self.join_s.append(time.perf_counter() - started_s)

    def restart(self, number: int, meanwhile: Callable[[Daemon], None]) -> Daemon:
        """Stop a node, do something with its directory, and start it again."""
        old = self.all[number]
        old.__exit__(None, None, None)
        meanwhile(old)
        p2p = f"/ip4/127.0.0.1/tcp/{free_port()}"
        node = self.all[number] = Daemon(workers=0, data=old.data, p2p=p2p)
        node.token, node.project = old.token, old.project
        return node

    def log_in(self) -> None:
        """Get the token for the newest node."""
        link = self.all[-1].connect()
        peers = link.call("GET", "/mesh/peers", operator_token(self.all[-1]))["items"]
        link.close()
        (number,) = [peer["node_id"] for peer in peers if peer["state"] == "self"]
        link = self.first.connect()
        body = {"password": PASSWORD, "audience": [number]}
        self.tokens.append(link.call("POST", "/user/bench/login", "", body)["token"])
        link.close()

    def wait_until_met(self, node: Daemon, count: int) -> None:
        """Return when `node` has links to `count` others."""
        link = node.connect()
        token = operator_token(node)

        def up() -> int:
            items = link.call("GET", "/mesh/peers", token)["items"]
            return sum(item["state"] == "up" for item in items)

        ends_s = time.monotonic() + SEEN_MAX_S
        while up() < count:
            assert time.monotonic() < ends_s, f"{up()} of {count} peers are up"
            time.sleep(0.05)
        link.close()

    def connect(self, number: int) -> "Caller":
        return Caller(self.all[number].connect(), self.tokens[number])

    def space(self, name: str) -> str:
        """Make a global namespace, and return its id once all know it."""
        body = {"owner": {"project": self.first.project}, "name": name, "scope": "global"}
        made = str(self.connect(0).call("POST", "/kv", body)["id"])
        for number in range(len(self.all)):
            self.connect(number).wait_for(request("GET", f"/kv/{made}", self.tokens[number]))
        return made

    def put(self, space: str, key: str, value: object) -> bytes:
        """Return the request that sets a key at the first node."""
        return request("POST", f"/kv/{space}/put", self.tokens[0], {"key": key, "value": value})


class Caller:
    """A user's connection to one node."""

    def __init__(self, link: Connection, token: str) -> None:
        self.link = link
        self.token = token
        self.seen_s = 0.0
        """When `wait_for_keys` had seen every hundredth key, and began to list all."""

    def call(self, method: str, path: str, body: object = None) -> Any:
        return self.link.call(method, path, self.token, body)

    def wait_for(self, content: bytes, pause_s: float = POLL_S) -> None:
        """Return as soon as a request succeeds: what it asks for is there."""
        ends_s = time.monotonic() + SEEN_MAX_S
        while (status := self.link.send(content)[0]) != 200:
            # A user that is not known yet has no token that could be good.
            assert status in (401, 404), status
            assert time.monotonic() < ends_s, "it did not show"
            time.sleep(pause_s)

    def wait_for_key(self, space: str, key: str) -> float:
        """Return the time when a key shows."""
        self.wait_for(request("POST", f"/kv/{space}/get", self.token, {"key": key}))
        return time.perf_counter()

    def wait_for_keys(self, space: str, prefix: str, count: int, within_s: float) -> int:
        """Return how many of `count` keys, as `key` names them, are missing after that time."""
        ends_s = time.monotonic() + within_s
        hundreds = range(0, count, KEYS_LISTED)
        for first in hundreds:
            last = key(prefix, min(count, first + KEYS_LISTED) - 1)
            content = request("POST", f"/kv/{space}/get", self.token, {"key": last})
            while self.link.send(content)[0] != 200 and time.monotonic() < ends_s:
                time.sleep(WAIT_POLL_S)
        self.seen_s = time.perf_counter()
        missing = 0
        for first in hundreds:
            wanted = min(KEYS_LISTED, count - first)
            body = {"prefix": key(prefix, first).removesuffix("00"), "limit": KEYS_LISTED}
            content = request("POST", f"/kv/{space}/list", self.token, body)
            while (found := self._listed(content)) < wanted and time.monotonic() < ends_s:
                time.sleep(WAIT_POLL_S)
            missing += wanted - found
        return missing

    def _listed(self, content: bytes) -> int:
        status, answer = self.link.send(content)
        if status in (401, 404):  # The user or the namespace is not known yet.
            return 0
        assert status == 200, answer
        return len(decode(answer)["items"])


def key(prefix: str, number: int) -> str:
    """Return a key; those of a hundred numbers differ in the last two digits."""
    return f"{prefix}{number:08}"


def shown(node: Daemon) -> dict[str, float]:
    """Return what a node's `/metrics` shows, by name and labels."""
    link = node.connect()
    status, content = link.send(request("GET", "/metrics", ""))
    link.close()
    assert status == 200, content
    lines = [line.rpartition(" ") for line in content.decode().splitlines() if line[:1] != "#"]
    return {name: float(value) for name, _, value in lines}


def operator_token(node: Daemon) -> str:
    return (node.data / "operator.token").read_text().strip()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def sent_bytes(pid: int) -> int:
    """Return what a process has sent to other nodes over connections that are still open.

    As `ss` has it from the kernel; raises `FileNotFoundError` where there is none.
    """
    done = subprocess.run(["ss", "-tinpH", "state", "established"], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    sent = 0
    for socket_line, information in zip(lines[::2], lines[1::2], strict=False):
        if f"pid={pid}," in socket_line:
            words = information.split()
            counted = [word for word in words if word.startswith("bytes_sent:")]
            sent += sum(int(word.partition(":")[2]) for word in counted)
    return sent


def last_error(node: Daemon) -> list[dict[str, Any]]:
    """Return what a node warned of, or worse."""
    found = []
    for line in node.log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.get("level") in ("warning", "error", "critical"):
                found.append(entry)
    return found
