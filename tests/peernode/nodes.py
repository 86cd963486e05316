"""Whole nodes in memory, for tests: a store that survives its node, a caller, a scripted worker.

Nothing here waits for a real clock or a real socket.  `settle` runs everything that can run; what
is left waits for a message, a durable batch, or time.
"""

import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import httpx
import msgspec
import trio
import trio.testing

from peernode.config import Config
from peernode.identity import Secrets
from peernode.node import Node, Seams, open_node
from storage.memory_store import MemoryStore
from storage.store import Batch, Done
from worker import protocol
from worker.link import LinkError, ToWorkerBatch, decode_batch, encode_batch

T = TypeVar("T")
M = TypeVar("M", bound=protocol.Message)

START_MS = 1_800_000_000_000
"""When tests begin: 2027-01-15."""
PATIENCE_S = 3600.0
"""Virtual seconds; no test waits longer for anything."""
PASSWORD = "correct horse battery"
ECHO = "def handler(input):\n    return input\n"
SECRETS = Secrets(b"s" * 32, b"p" * 32, "pno1." + "0" * 48)
CONFIG = Config(
    workers=0, signup="open", isolation="process", password_memory_bytes=8192, password_passes=1
)


async def settle() -> None:
    """Return when nothing can run any more without a message, a batch or the clock."""
    await trio.testing.wait_all_tasks_blocked()


class WallClock:
    """A wall clock that stands still until it is set."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


class SeededEntropy:
    """Bytes that look random and are the same each time."""

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._drawn = itertools.count()

    def token_bytes(self, size_bytes: int) -> bytes:
        name = f"{self._seed}/{next(self._drawn)}".encode()
        return hashlib.shake_256(name).digest(size_bytes)


async def inline(function: Callable[..., T], /, *args: Any) -> T:
    """Run a blocking function here and now."""
    return function(*args)


class Gate:
    """A store's way of telling that batches are durable, which can be held back."""

    def __init__(self) -> None:
        self.held: list[Callable[[], object]] | None = None
        self._running = False
        self._due: list[Callable[[], object]] = []

    def hold(self) -> None:
        """Tell nothing from now on."""
        if self.held is None:
            self.held = []

    def release(self) -> None:
        """Tell what was held back, and everything else at once again."""
        held, self.held = self.held or [], None
        for callback in held:
            self(callback)

    def __call__(self, callback: Callable[[], object]) -> None:
        if self.held is not None:
            self.held.append(callback)
            return
        self._due.append(callback)
        if self._running:
            return
        self._running = True
        try:
            while self._due:
                self._due.pop(0)()
        finally:
            self._running = False


class Disk(MemoryStore):
    """A store in memory that can be full, slow to tell, and left behind by a node that died."""

    def __init__(self, rows: Sequence[Mapping[bytes, bytes]] | None = None) -> None:
        self.gate = Gate()
        super().__init__(deliver=self.gate)
        self._paused = False
        self.submitted: list[Batch] = []
        for table, found in enumerate(rows or ()):
            self._rows[table].update(found)
            self._keys[table].extend(sorted(found))
            self._used_bytes += sum(len(key) + len(value) for key, value in found.items())

    def submit(self, batch: Batch, done: Done | None = None, *, lazy: bool = False) -> None:
        self.submitted.append(batch)
        super().submit(batch, done, lazy=lazy or self._paused)

    def pause(self) -> None:
        """Commit nothing from now on, so that readers see what was there."""
        self._paused = True

    def resume(self) -> None:
        """Commit what waits, in order, and everything at once again."""
        self._paused = False
        self._commit()

    def let_go(self) -> None:
        """Hold nothing back any more: who waits for a batch cannot be cancelled."""
        self.gate.release()
        if self._paused:
            self.resume()

    def copy(self) -> "Disk":
        """Return what a node finds that starts after this one lost its power now."""
        return Disk([dict(rows) for rows in self._rows])

    def fill(self, room_bytes: int = 0) -> None:
        """Have no room for more than `room_bytes` from now on."""
        self._capacity_bytes = self._used_bytes + room_bytes

    def make_room(self) -> None:
        self._capacity_bytes = 64 << 30

    def snapshot(self) -> tuple[dict[bytes, bytes], ...]:
        """Return all rows, to compare."""
        return tuple(dict(rows) for rows in self._rows)


@asynccontextmanager
async def open_memory_node(
    disk: Disk | None = None,
    clock: WallClock | None = None,
    *,
    entropy: str = "",
    secrets: Secrets = SECRETS,
    **settings: Any,
) -> AsyncIterator[Node]:
    """Own a node on `disk`."""
    seams = Seams(
        clock=clock or WallClock(),
        entropy=SeededEntropy(entropy),
        offload=inline,
        store=disk if disk is not None else Disk(),
        secrets=secrets,
    )
    async with open_node(msgspec.structs.replace(CONFIG, **settings), seams) as node:
        yield node


class Caller:
    """Calls a node's API in memory. Each call names the status it expects."""

    def __init__(self, node: Node, token: str = "", client: str = "127.0.0.1") -> None:
        transport = httpx.ASGITransport(node.api, client=(client, 1))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.token = token
        self.id = ""
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://node", headers=headers, trust_env=False
        )

    async def call(self, method: str, path: str, status: int, **arguments: Any) -> Any:
        answer = await self.http.request(method, path, **arguments)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def get(self, path: str, status: int = 200, **headers: str) -> Any:
        return await self.call("GET", path, status, headers=headers)

    async def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """Post `body`; header names with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        json_body = {} if body is None else body
        return await self.call("POST", path, status, json=json_body, headers=named)

    async def delete(self, path: str, status: int = 204, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("DELETE", path, status, headers=named)

    async def blob(self, data: bytes, project: str = "", status: int = 201, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        path = f"/blob?project={project}" if project else "/blob"
        return await self.call("POST", path, status, content=data, headers=named)


async def sign_up(node: Node, name: str) -> Caller:
    """Return the caller of a new user."""
    anonymous = Caller(node)
    user = await anonymous.post("/user", {"name": name, "password": PASSWORD}, 201)
    login = await anonymous.post(f"/user/{name}/login", {"password": PASSWORD})
    caller = Caller(node, login["token"])
    caller.id = user["id"]
    return caller


@dataclass
class Lab:
    """A node with a user, a project and a function that returns its input."""

    node: Node
    disk: Disk
    clock: WallClock
    ada: Caller
    operator: Caller
    project: str
    echo: str
    nursery: trio.Nursery
    _names: Iterable[int] = field(default_factory=lambda: itertools.count(1))

    async def function(self, name: str, project: str = "", **fields: Any) -> str:
        body = {
            "project": project or self.project,
            "name": name,
            "runtime": "python",
            "source": ECHO,
        }
        return cast("str", (await self.ada.post("/function", body | fields, 201))["id"])

    async def space(self, name: str, scope: str = "local", **fields: Any) -> str:
        body = {"owner": {"project": self.project}, "name": name, "scope": scope}
        return cast("str", (await self.ada.post("/kv", body | fields, 201))["id"])

    async def job(self, input: Any = None, function: str = "", **fields: Any) -> str:
        """Hand in a job and return its id."""
        body = {"function": function or self.echo, "input": input, **fields}
        return cast("str", (await self.ada.post("/job", body, 202))["id"])

    async def worker(
        self,
        *,
        slots: int = 1,
        levels: Sequence[protocol.Isolation] = ("process",),
        attach: bool = True,
        **fields: Any,
    ) -> "Worker":
        """Return a scripted worker of this node, attached unless told otherwise."""
        made = await self.operator.post("/worker", fields, 201)
        worker = Worker(self.node, self.nursery, int(made["id"]), slots, levels)
        if attach:
            await worker.attach()
        return worker


@asynccontextmanager
async def open_lab(
    disk: Disk | None = None, clock: WallClock | None = None, **settings: Any
) -> AsyncIterator[Lab]:
    """Own a new node with a user, a project and a function."""
    disk, clock = disk or Disk(), clock or WallClock()
    async with open_memory_node(disk, clock, **settings) as node, trio.open_nursery() as nursery:
        ada = await sign_up(node, "ada")
        project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
        operator = Caller(node, SECRETS.operator_token)
        lab = Lab(node, disk, clock, ada, operator, project, "", nursery)
        lab.echo = await lab.function("echo")
        try:
            yield lab
        finally:
            lab.disk.let_go()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def reopen(lab: Lab, disk: Disk | None = None, **settings: Any) -> AsyncIterator[Lab]:
    """Own a node that starts on `disk` (default: what is on the lab's now), the lab's successor."""
    disk = disk if disk is not None else lab.disk.copy()
    async with (
        open_memory_node(disk, lab.clock, entropy="again", **settings) as node,
        trio.open_nursery() as nursery,
    ):
        ada, operator = Caller(node, lab.ada.token), Caller(node, lab.operator.token)
        ada.id = lab.ada.id
        try:
            yield Lab(node, disk, lab.clock, ada, operator, lab.project, lab.echo, nursery)
        finally:
            disk.let_go()
            nursery.cancel_scope.cancel()


OFFER = protocol.Offer(
    slots=1,
    cores=2,
    memory_bytes=1 << 32,
    arch="x86_64",
    runtimes=["python"],
    isolation=["process"],
)


class Worker:
    """A worker that says what a test has it say, and remembers what it is told."""

    def __init__(
        self,
        node: Node,
        nursery: trio.Nursery,
        id: int,
        slots: int = 1,
        levels: Sequence[protocol.Isolation] = ("process",),
    ) -> None:
        self.node = node
        self.id = id
        self.offer = msgspec.structs.replace(OFFER, slots=slots, isolation=list(levels))
        self.heard: list[protocol.Message] = []
        self.ended: list[str] = []
        """Why its links ended, oldest first."""
        self._nursery = nursery
        self._to_node: trio.MemorySendChannel[bytes] | None = None
        self._calls = itertools.count(1)

    async def attach(
        self, *held: protocol.Held, hello: protocol.Message | bytes | None = None
    ) -> None:
        """Connect and say Hello (or `hello`)."""
        to_node, receiving = trio.open_memory_channel[bytes](64)
        self._to_node = to_node
        self._nursery.start_soon(self._serve, receiving)
        if isinstance(hello, bytes):
            await self.send(hello)
            return
        await self.say(hello or protocol.Hello(protocol.VERSION, self.offer, list(held)))

    async def _serve(self, receiving: trio.MemoryReceiveChannel[bytes]) -> None:
        async def receive() -> bytes | None:
            try:
                return await receiving.receive()
            except trio.EndOfChannel:
                return None

        async def send(data: bytes) -> None:
            self.heard += decode_batch(data, ToWorkerBatch)

        row = self.node.workers.row(self.id)
        try:
            reason = await self.node.attachments.serve(
                self.id,
                receive,
                send,
                row.labels if row else {},
                hold=self.node.workers.hold(self.id),
            )
        except (LinkError, trio.TooSlowError) as error:
            reason = type(error).__name__
        finally:
            receiving.close()
        self.ended.append(reason)

    async def say(self, *messages: protocol.Message) -> None:
        """Send one batch and let the node take it in."""
        for data in encode_batch(messages):
            await self.send(data)

    async def send(self, data: bytes) -> None:
        assert self._to_node is not None
        await self._to_node.send(data)
        await settle()

    async def detach(self) -> None:
        """Break the link."""
        assert self._to_node is not None
        self._to_node.close()
        await settle()

    def all(self, kind: type[M], job: int | str | None = None) -> list[M]:
        """Return what it was told, of one kind (about one job), oldest first."""
        found = [message for message in self.heard if isinstance(message, kind)]
        if job is None:
            return found
        return [message for message in found if message.job == int(job)]  # type: ignore[attr-defined]

    def lease(self, job: int | str | None = None) -> protocol.Lease:
        """Return its newest lease (of `job`)."""
        return self.all(protocol.Lease, job)[-1]

    async def started(self, lease: protocol.Lease, elapsed_s: float = 0.0) -> None:
        await self.say(protocol.Started(lease.job, lease.fence, elapsed_s))

    async def finish(
        self, lease: protocol.Lease, result: Any = None, *writes: protocol.Write, **fields: Any
    ) -> None:
        """Say that an attempt succeeded with `result` and buffered `writes`."""
        await self.say(finished(lease, result, *writes, **fields))

    async def fail(self, lease: protocol.Lease, code: str = "function_error") -> None:
        await self.say(
            finished(lease, None, error_code=code, payload=b"it broke", traceback="line 1")
        )

    async def call(
        self, lease: protocol.Lease, operation: str, **arguments: Any
    ) -> protocol.Reply | protocol.Refused:
        """Return the node's answer to a call of function code."""
        number = next(self._calls)
        before = len(self.heard)
        await self.say(protocol.Call(number, lease.job, lease.fence, operation, arguments))
        for message in self.heard[before:]:
            if isinstance(message, protocol.Reply) and message.call == number:
                return message
            if isinstance(message, protocol.Refused) and message.job == lease.job:
                return message
        raise AssertionError(f"{operation} was not answered")

    async def ask(self, lease: protocol.Lease, operation: str, **arguments: Any) -> Any:
        """Return the answer to a call that goes well."""
        reply = await self.call(lease, operation, **arguments)
        assert isinstance(reply, protocol.Reply)
        assert reply.error == "", (reply.error, reply.answer)
        return reply.answer

    async def refused(self, lease: protocol.Lease, operation: str, **arguments: Any) -> str:
        """Return the code of a call that is refused."""
        reply = await self.call(lease, operation, **arguments)
        assert isinstance(reply, protocol.Reply)
        assert reply.error
        return reply.error

    async def upload(self, lease: protocol.Lease, data: bytes, **fields: Any) -> int:
        """Return the blob of a finished upload."""
        upload = (await self.ask(lease, "blob.begin", **fields))["upload"]
        await self.ask(lease, "blob.append", upload=upload, data=data)
        return cast("int", (await self.ask(lease, "blob.finish", upload=upload))["blob"])


def finished(
    lease: protocol.Lease, result: Any, *writes: protocol.Write, **fields: Any
) -> protocol.Finished:
    """Return the message that ends an attempt."""
    stated: dict[str, Any] = {
        "job": lease.job,
        "fence": lease.fence,
        "error_code": None,
        "payload": json.dumps(result).encode(),
        "traceback": "",
        "usage": protocol.Usage(START_MS, 0.25, 0.125, 1 << 20),
        "backend": "",
        "writes": list(writes),
    }
    return protocol.Finished(**(stated | fields))


def held(*leases: protocol.Lease) -> list[protocol.Held]:
    """Return what a worker says it holds."""
    return [protocol.Held(lease.job, lease.fence) for lease in leases]


@dataclass
class Exchange:
    """One raw ASGI call: what the app is given piece by piece, and what it sends."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    received: int = 0
    """Messages that the app asked for."""

    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(
    app: Callable[..., Awaitable[None]],
    method: str,
    path: str,
    messages: Iterable[dict[str, Any]] = ({"type": "http.request", "body": b""},),
    headers: Mapping[str, str] | None = None,
    *,
    query: bytes = b"",
    client: str = "127.0.0.1",
) -> Exchange:
    """Return what `app` answers to `messages`."""
    made, todo = Exchange(), iter(messages)

    async def receive() -> dict[str, Any]:
        made.received += 1
        return next(todo, {"type": "http.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            made.status = message["status"]
            made.headers = dict(message["headers"])
        else:
            made.body += message.get("body", b"")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": (client, 1),
    }
    await app(scope, receive, send)
    return made
