"""A node's end of a link, for tests: leases jobs, answers calls from dictionaries, keeps all."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from storage import cid as content_id
from storage.cid import CHUNK_SIZE_BYTES, TreeBuilder
from storage.clock import SystemClock
from tests.worker.wasm_programs import interpreter
from worker.agent import Config, run_agent
from worker.link import Link, LinkClosed, MemoryLink, open_pair
from worker.protocol import (
    SOURCE_SENT_MAX_BYTES,
    VERSION,
    Acked,
    Beat,
    Call,
    Finished,
    Held,
    Hello,
    Isolation,
    Lease,
    Limits,
    Log,
    Message,
    Offer,
    Program,
    Progress,
    Reply,
    Returned,
    Runtime,
    Started,
    Welcome,
    Wheel,
)

PATIENCE_S = 20.0
"""No test waits longer for anything."""

ECHO = "def handler(input):\n    return input\n"


def make_offer(slots: int = 1, backends: Sequence[str] = (), level: Isolation = "process") -> Offer:
    return Offer(
        slots=slots,
        cores=2,
        memory_bytes=1 << 32,
        arch="x86_64",
        python="3.11.7",
        runtimes=["python", "wasm", "onnx", "exec"],
        isolation=sorted({level, "process", "wasm"}),
        levels={
            "python": [level] if level != "wasm" else [],
            "wasm": ["wasm"],
            "onnx": [level if level != "wasm" else "process"],
            "exec": [level if level != "wasm" else "process"],
        },
        backends=list(backends),
    )


def cid_of(data: bytes) -> str:
    tree = TreeBuilder(lambda _cid, _node: None)
    for at in range(0, len(data), CHUNK_SIZE_BYTES):
        part = data[at : at + CHUNK_SIZE_BYTES]
        tree.add(content_id.raw_leaf(part), len(part))
    return content_id.text(tree.finish().cid)


@dataclass
class Space:
    scope: str = "local"
    mode: str = "lww"
    home: int = 0
    values: dict[str, bytes] = field(default_factory=dict)


class FakeNode:
    """Speaks the protocol as a node does. `acknowledge` and `answers` may be switched off."""

    def __init__(self, level: Isolation = "process") -> None:
        self.level = level
        self.link: Link | None = None
        self.hello: Hello | None = None
        self.hellos = 0
        self.messages: list[Message] = []
        self.acknowledge = True
        self.answers = True
        self.unanswered: list[Call] = []
        self.spaces: dict[str, Space] = {}
        self.secrets: dict[str, str] = {}
        self.blobs: dict[int, tuple[bytes, str]] = {}
        self.uploads: dict[int, tuple[bytearray, str]] = {}
        self.kept_back: list[bytes] = []
        self.calls: list[Call] = []
        self.number = 100
        self.large: dict[str, bytes] = {}
        """Sources too large to be sent along, by program."""
        self.wheels: dict[str, list[bytes]] = {}
        """By program."""
        self.programs: dict[int, str] = {}
        self._programs: dict[str, str] = {}
        self._sent_programs: set[str] = set()
        self._changed = trio.Event()

    # --- saying -------------------------------------------------------------------------------

    async def say(self, *messages: Message) -> None:
        assert self.link is not None
        await self.link.send(messages)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def lease(
        self,
        source: str | bytes = ECHO,
        input: Any = None,
        *,
        runtime: Runtime = "python",
        isolation: Isolation | None = None,
        limits: Limits | None = None,
        blobs: dict[str, int] | None = None,
        egress: Sequence[str] = (),
        entry: str = "handler",
        wheels: Sequence[tuple[str, bytes]] = (),
        **fields: Any,
    ) -> list[Message]:
        """Return the messages that lease one new job (its number is `self.number`)."""
        messages: list[Message] = []
        code = source.encode() if isinstance(source, str) else source
        key = f"{code!r}\0{runtime}\0{entry}\0{list(egress)}\0{wheels!r}"
        program = self._programs.setdefault(key, f"{len(self._programs) + 1}.1")
        if program not in self._sent_programs:
            self._sent_programs.add(program)
            sent = self._program(program, runtime, entry, code, egress)
            self.wheels[program] = [data for _, data in wheels]
            said = [Wheel(cid_of(data), len(data), name) for name, data in wheels]
            messages.append(msgspec.structs.replace(sent, wheels=said))
        lease = {
            "job": self.next_number(),
            "fence": self.number,
            "attempt": 1,
            "program": program,
            "input": json.dumps(input).encode(),
            "blobs": blobs or {},
            "limits": limits or Limits(),
            "isolation": isolation or self._level(runtime),
            "deadline_ms": None,
        }
        messages.append(Lease(**(lease | fields)))
        self.programs[self.number] = program
        return messages

    def _level(self, runtime: Runtime) -> Isolation:
        """Return the level of a job that says nothing of it."""
        if runtime == "wasm":
            return "wasm"
        return "process" if runtime in ("onnx", "exec") and self.level == "wasm" else self.level

    def _program(
        self, program: str, runtime: Runtime, entry: str, code: bytes, egress: Sequence[str]
    ) -> Program:
        if len(code) <= SOURCE_SENT_MAX_BYTES:
            return Program(program, runtime, entry, code, list(egress))
        self.large[program] = code
        return Program(program, runtime, entry, b"", list(egress), cid_of(code), len(code))

    async def run(self, source: str | bytes = ECHO, input: Any = None, **fields: Any) -> Finished:
        """Lease one job and return how it ended."""
        messages = self.lease(source, input, **fields)
        job = self.number
        await self.say(*messages)
        return await self.finished(job)

    # --- hearing ------------------------------------------------------------------------------

    async def finished(self, job: int) -> Finished:
        def found() -> Finished | None:
            return next(
                (m for m in self.messages if isinstance(m, Finished) and m.job == job), None
            )

        return await self.until(found)

    async def until(self, found: Any) -> Any:
        """Wait until `found()` is true, and return it."""
        with trio.fail_after(PATIENCE_S):
            while not (result := found()):
                await self._changed.wait()
            return result

    async def until_said(self, kind: type[Message], job: int) -> Any:
        return await self.until(
            lambda: next(
                (m for m in self.messages if isinstance(m, kind) and m.job == job),  # type: ignore[attr-defined]
                None,
            )
        )

    def said(self, kind: type[Message], job: int | None = None) -> list[Any]:
        return [
            message
            for message in self.messages
            if isinstance(message, kind) and (job is None or message.job == job)  # type: ignore[attr-defined]
        ]

    def lines(self, job: int) -> list[tuple[str, str]]:
        return [line[1:] for log in self.said(Log, job) for line in log.lines]

    async def serve(self, link: Link) -> None:
        """Be the node on one link, until it is over."""
        self.link = link
        self._sent_programs.clear()
        try:
            self.hello, *rest = await link.receive()  # type: ignore[assignment]
            assert isinstance(self.hello, Hello)
            self.hellos += 1
            await link.send([Welcome(VERSION, 7, 5.0)])
            self._notice()
            while True:
                for message in rest:
                    await self._take(message)
                self._notice()
                rest = await link.receive()
        except LinkClosed:
            pass

    def _notice(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _take(self, message: Message) -> None:
        self.messages.append(message)
        match message:
            case Finished():
                if self.acknowledge:
                    await self.say(Acked([Held(message.job, message.fence)]))
            case Call():
                self.calls.append(message)
                if self.answers:
                    await self.answer(message)
                else:
                    self.unanswered.append(message)
            case Beat() | Started() | Progress() | Log() | Returned():
                pass
            case _:
                raise AssertionError(message)

    async def answer(self, call: Call) -> None:
        try:
            if call.operation == "program.read":
                answer: Any = self._program_read(call.job, **call.arguments)
            else:
                answer = getattr(self, "_" + call.operation.replace(".", "_"))(**call.arguments)
            await self.say(Reply(call.call, "", answer))
        except KeyError:
            await self.say(Reply(call.call, "not_found", None))

    # --- the operations -----------------------------------------------------------------------

    def _space(self, space: int) -> Space:
        return list(self.spaces.values())[space]

    def _kv_open(self, name: str) -> dict[str, Any]:
        space = self.spaces[name]
        opened = {
            "space": list(self.spaces).index(name),
            "scope": space.scope,
            "mode": space.mode,
        }
        return {**opened, "home": space.home} if space.home else opened

    def _kv_get(self, space: int, key: str) -> dict[str, Any] | None:
        value = self._space(space).values.get(key)
        return None if value is None else {"value": value, "version": 1}

    def _kv_list(self, space: int, prefix: str, cursor: str | None) -> dict[str, Any]:
        keys = sorted(key for key in self._space(space).values if key.startswith(prefix))
        rest = [key for key in keys if cursor is None or key > cursor]
        return {"keys": rest[:2], "cursor": rest[1] if len(rest) > 2 else None}

    def _kv_put(
        self, space: int, key: str, value: bytes, ttl_s: float | None, if_version: str = ""
    ) -> dict[str, Any]:
        held = self._space(space).values.get(key)
        assert if_version in ("", "0" if held is None else "1")
        self._space(space).values[key] = value
        return {"version": 2}

    def _kv_delete(self, space: int, key: str) -> dict[str, Any]:
        self._space(space).values.pop(key, None)
        return {}

    def _kv_increment(self, space: int, key: str, by: int) -> dict[str, Any]:
        values = self._space(space).values
        value = int(values.get(key, b"0")) + by
        values[key] = str(value).encode()
        return {"value": value}

    def _blob_stat(self, blob: int) -> dict[str, Any]:
        data, media_type = self.blobs[blob]
        return {
            "cid": cid_of(data),
            "size_bytes": len(data),
            "media_type": media_type,
            "name": "face",
        }

    def _blob_read(self, blob: int, offset: int, length: int) -> bytes:
        return self.blobs[blob][0][offset : offset + length]

    def _program_read(self, job: int, offset: int, length: int, wheel: int | None = None) -> bytes:
        program = self.programs[job]
        whole = self.large[program] if wheel is None else self.wheels[program][wheel]
        return whole[offset : offset + length]

    def _blob_begin(self, media_type: str, name: str) -> dict[str, Any]:
        self.uploads[self.next_number()] = (bytearray(), media_type)
        return {"upload": self.number}

    def _blob_append(self, upload: int, data: bytes) -> dict[str, Any]:
        self.uploads[upload][0].extend(data)
        return {}

    def _blob_finish(self, upload: int) -> dict[str, Any]:
        data, media_type = self.uploads.pop(upload)
        self.blobs[self.next_number()] = (bytes(data), media_type)
        return {"blob": self.number, "cid": cid_of(bytes(data)), "size_bytes": len(data)}

    def _secret_get(self, name: str) -> dict[str, Any]:
        return {"value": self.secrets[name]}

    def _job_call(self, function: str, input: bytes) -> dict[str, Any]:
        return {"job": str(self.next_number())}


class Connector:
    """A link factory: each call makes a new pair and starts the node on its other end."""

    def __init__(self, node: FakeNode, nursery: trio.Nursery) -> None:
        self._node = node
        self._nursery = nursery
        self.allowed = trio.Event()
        self.allowed.set()
        self.ends: list[MemoryLink] = []

    async def __call__(self) -> MemoryLink:
        await self.allowed.wait()
        worker, node = open_pair()
        self.ends.append(node)
        self._nursery.start_soon(self._node.serve, node)
        return worker

    async def cut(self) -> None:
        """Break the newest link."""
        await self.ends[-1].aclose()


@asynccontextmanager
async def open_worker(
    directory: Path,
    *,
    slots: int = 1,
    backends: Sequence[str] = (),
    level: Isolation = "process",
    **settings: Any,
) -> AsyncIterator[tuple[FakeNode, Connector]]:
    """Run an agent against a `FakeNode`; jobs run at `level` unless their lease says otherwise."""
    async with trio.open_nursery() as nursery:
        node = FakeNode(level)
        connector = Connector(node, nursery)
        if node.level == "wasm":
            settings.setdefault("interpreter", interpreter())
        config = Config(directory=directory, **settings)

        async def agent() -> None:
            offer = make_offer(slots, backends, level)
            await run_agent(connector, offer, config, clock=SystemClock())

        nursery.start_soon(agent)
        await node.until(lambda: node.hello)
        yield node, connector
        nursery.cancel_scope.cancel()
