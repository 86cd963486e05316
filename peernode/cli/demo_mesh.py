"""Three nodes on this machine become a mesh: what is known at one is known at all.

Real nodes, each a process with a directory and a worker of its own, that speak to one another over
libp2p on the loopback.  What was changed at one node shows at another a moment later, which nothing
tells: each step looks until it does, and says how long that took.
"""

import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich import box
from rich.table import Table

from peernode.cli import demo_node, demo_story, options
from peernode.cli.demo_story import Story
from peernode.client import Client, ClientError, NotFound, Unauthenticated

USER: Final = "ada"
PROJECT: Final = "lab"
SOURCE: Final = "def handler(input):\n    return {'words': len(input['text'].split())}\n"
BLOB_SIZE_BYTES: Final = 3_000_000
"""Source: guess; a photograph."""
SEEN_TIMEOUT_S: Final = 20.0
"""What does not show after this long will not. Source: guess, ten times a slow machine's."""
LOOK_INTERVAL_S: Final = 0.02
"""Source: what a person takes for at once, a tenth of a second, with room."""
RESULT_TIMEOUT_S: Final = 20.0
"""How long a job may take. Source: the demo's promise of a minute; they take 10 ms."""
COMMAND_TIMEOUT_S: Final = 30.0
"""Source: guess, three times what `join` gives itself."""
INVITE_SHOWN_CHARACTERS: Final = 24


class Node:
    """A node that can be switched off and on again; `client` is the user's, once there is one."""

    def __init__(self, directory: Path, name: str, port: int) -> None:
        self.name = name.upper()
        self.data = directory / name
        self.client = Client("http://127.0.0.1:1", "")
        self._port = port
        # Others find it at the same place again after it was off.
        self._p2p = f"/ip4/127.0.0.1/tcp/{_free_port()}"
        self._running = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        self.switch_off()

    def switch_on(self) -> None:
        """Run the node."""
        node = demo_node.open_node(
            self.data.parent, self._port, name=self.data.name, p2p=self._p2p, slots=1
        )
        self.url = self._running.enter_context(node)

    def switch_off(self) -> None:
        """Stop the node, if it runs."""
        self._running.close()

    def peers(self) -> list[dict[str, Any]]:
        """Return what the node says of the nodes it knows."""
        with options.operator(self.data, self.url) as operator:
            items: list[dict[str, Any]] = operator.get("mesh", "peers")["items"]
        return items

    def states(self) -> dict[str, str]:
        """Return node number -> state."""
        return {str(item["node_id"]): str(item["state"]) for item in self.peers()}

    def sees_two(self) -> bool:
        """Return whether it speaks with both others."""
        return [*self.states().values()].count("up") == 2


def tell(keep: Path | None, port: int, *, keep_running: bool) -> int:
    """Run the demo; return the exit code. `port` is the first node's."""

    def run(story: Story, directory: Path) -> Path:
        with ExitStack() as stack:
            a, b, c = (
                stack.enter_context(Node(directory, name, port if name == "a" else 0))
                for name in "abc"
            )
            _Tour(story, a, b, c).run(keep_running)
            with story.step("The nodes stop"):
                stack.close()
        return directory

    return demo_story.tell(keep, run)


class _Tour:
    """The story, and what its steps hand to one another."""

    def __init__(self, story: Story, a: Node, b: Node, c: Node) -> None:
        self._story = story
        self._a, self._b, self._c = a, b, c
        self._function = self._space = self._job = ""

    def run(self, keep_running: bool) -> None:
        """Tell all of it."""
        self._become_a_mesh()
        self._make_at_a()
        self._act_elsewhere()
        self._fetch_a_blob()
        self._go_on_without_a()
        self._come_back()
        self._evict_c()
        self._look_further(keep_running)
        if keep_running:
            signal.pause()

    def _become_a_mesh(self) -> None:
        a, b, c = self._a, self._b, self._c
        with self._story.step("Node A starts, a mesh of one"):
            a.switch_on()
            self._story.say(f"{a.url}, its data in {a.data}")
        for inviter, joiner in ((a, b), (b, c)):
            with self._story.step(f"Node {inviter.name} invites, node {joiner.name} joins"):
                invite = self._command("invite", "--data", str(inviter.data))[0]
                self._command("join", invite, "--data", str(joiner.data))
                joiner.switch_on()
                self._story.say(f"{joiner.url}, its data in {joiner.data}")
        with self._story.step("All three know of one another"):
            for node in (a, b, c):
                self._until(
                    f"{node.name} finds the others",
                    node.sees_two,
                )
            table = Table("node", "state at A", "there and back", "peer id", box=box.SIMPLE_HEAD)
            for peer in a.peers():
                latency_s = peer["latency_s"]
                latency = "" if latency_s is None else f"{latency_s * 1000:.1f} ms"
                table.add_row(str(peer["node_id"]), peer["state"], latency, peer["peer_id"])
            self._story.console.print(table)

    def _make_at_a(self) -> None:
        a = self._a
        with self._story.step(f"At A: a user, {USER}, a project, a function and a global key"):
            password = secrets.token_urlsafe(12)
            a.client = Client(a.url, "")
            a.client.signup(USER, password)
            a.client.login(USER, password)
            a.client.create_project(PROJECT)
            self._function = a.client.deploy(PROJECT, "count_words", SOURCE).id
            space = a.client.create_namespace("settings", project=PROJECT)
            space["greeting"] = "hello"
            self._space = space.id
            self._story.say(f"function {self._function}, key 'greeting' of namespace {space.id}")

    def _act_elsewhere(self) -> None:
        a, b, c = self._a, self._b, self._c
        with self._story.step(f"{USER} acts at B and C: a token for each, fetched from A"):
            for node in (b, c):
                node.client = a.client.at(node.url)
                self._until_known(f"{node.name} knows the function", node, self._function)
            self._until_key(c, "greeting", "hello")
        with self._story.step("A job handed in at B, for the function from A; asked for at C"):
            job = b.client.function(self._function).spawn({"text": "hand it in and leave"})
            self._story.say(f"job {job.id} is B's")
            result = c.client.job(job.id).result(RESULT_TIMEOUT_S)
            self._require(result, {"words": 5})
            self._story.say(f"C says: {result}")
        with self._story.step("A job handed in at A; asked for at C"):
            self._job = a.client.function(self._function).spawn({"text": "one for A"}).id
            result = c.client.job(self._job).result(RESULT_TIMEOUT_S)
            self._require(result, {"words": 3})
            self._story.say(f"job {self._job} is A's, C says: {result}")

    def _fetch_a_blob(self) -> None:
        content = secrets.token_bytes(BLOB_SIZE_BYTES)
        with self._story.step(f"A blob of {BLOB_SIZE_BYTES:,} bytes, stored at A, read at C"):
            blob = self._a.client.put_blob(content, project=PROJECT)
            if self._c.client.get_blob(str(blob["id"])) != content:
                raise ClientError("the blob read at C is not the one stored at A")
            self._story.say(f"blob {blob['id']}, the same bytes")

    def _go_on_without_a(self) -> None:
        a, b, c = self._a, self._b, self._c
        with self._story.step("A is switched off"):
            a.switch_off()
            self._until("B finds A down", lambda: b.states()["1"] == "down")
        with self._story.step("A's function runs at B all the same"):
            result = b.client.function(self._function).call(
                {"text": "nobody home"}, wait_s=RESULT_TIMEOUT_S
            )
            self._require(result, {"words": 2})
            self._story.say(f"B says: {result}")
        with self._story.step("A's job, which B never saw: B finds it at C"):
            answer = b.client.get_reply("job", self._job)
            result = answer.object()["result"]
            self._require(result, {"words": 3})
            if "stale" not in answer.headers:
                raise ClientError("an answer without its home does not say how old it is")
            self._story.say(
                f"B says: {result}, Stale: {answer.headers['stale']}, "
                f"job of node {answer.headers['origin-node']}"
            )
        with self._story.step("Meanwhile a key is changed at C"):
            c.client.kv(self._space)["greeting"] = "written while A was off"

    def _come_back(self) -> None:
        a = self._a
        with self._story.step("A is back, and all becomes one again"):
            a.switch_on()
            token = a.client.token
            a.client.close()
            a.client = Client(a.url, token)
            self._until_key(a, "greeting", "written while A was off")

    def _evict_c(self) -> None:
        a, b, c = self._a, self._b, self._c
        with self._story.step("C is evicted: it is shut out everywhere"):
            number = str(c.client.health()["node_id"])
            self._command("evict", number, "--data", str(a.data))
            self._until("B hears of it", lambda: b.states()[number] == "evicted")
            self._until("C finds A gone", lambda: c.states()["1"] != "up")
            a.client.kv(self._space)["greeting"] = "not for C"
            self._until_key(b, "greeting", "not for C")
            self._require(c.client.kv(self._space)["greeting"], "written while A was off")
            self._story.say("C still has what it knew, and learns nothing new")

    def _look_further(self, keep_running: bool) -> None:
        self._story.console.print(
            f"\n[bold]Done in {self._story.elapsed_s:.1f} s.[/bold] Where to look next:"
        )
        if keep_running:
            for node in (self._a, self._b, self._c):
                self._story.say(f"{node.name}: {node.url}/docs, peernode peers --data {node.data}")
            self._story.say("Ctrl-C stops the nodes")
            return
        self._story.say("stay a while, with all three:  peernode demo --nodes 3 --keep-running")
        self._story.say("the same by hand, with two nodes:  README.md, 'Two machines'")
        self._story.say("how it works, and what an operator needs to know:  docs/mesh.md")

    # --- how it is told -----------------------------------------------------------------------

    def _command(self, *arguments: str) -> list[str]:
        """Run a command of peernode's, as a person does; return the lines it says."""
        shown = [
            f"{word[:INVITE_SHOWN_CHARACTERS]}..." if word.startswith("pnm1.") else word
            for word in arguments
        ]
        self._story.say(f"[dim]$ peernode {' '.join(shown)}[/dim]")
        command = [sys.executable, "-m", "peernode", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env=demo_node.environment(),
        )
        if done.returncode != 0:
            raise ClientError(f"peernode {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.splitlines()

    def _until(self, what: str, look: Callable[[], bool]) -> None:
        """Look until it is so, and say how long that took."""
        started_s = time.monotonic()
        while not look():
            if time.monotonic() - started_s > SEEN_TIMEOUT_S:
                raise ClientError(f"{what}: not within {SEEN_TIMEOUT_S:g} s")
            time.sleep(LOOK_INTERVAL_S)
        self._story.say(f"{what}, after {time.monotonic() - started_s:.2f} s")

    def _until_known(self, what: str, node: Node, function: str) -> None:
        def look() -> bool:
            try:
                node.client.get("function", function)
            except (NotFound, Unauthenticated):  # a token is good where its user is known
                return False
            return True

        self._until(what, look)

    def _until_key(self, node: Node, key: str, value: str) -> None:
        def look() -> bool:
            try:
                return bool(node.client.kv(self._space).get(key) == value)
            except (NotFound, Unauthenticated):
                return False

        self._until(f"{node.name} reads the key: {value!r}", look)

    def _require(self, found: object, wanted: object) -> None:
        if found != wanted:
            raise ClientError(f"found {found!r} and not {wanted!r}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
