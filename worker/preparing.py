"""What must be done for a program once before its jobs can run: fetched, compiled, written down.

Native Python needs nothing, unless it brings wheels: these are fetched and installed
(`worker.packages`).  A WebAssembly module is compiled to a file (`worker.wasm`), a model or an
executable is a file; sources too large for a message are fetched, checked against their CID.  Jobs
wait here meanwhile, in their order, and can be taken back; their own time has not begun.  What
fails fails all that wait, as `setup_failed`, and is tried anew when the next job comes.

The node is asked in the name of an attempt, and answers none that it has given up.  So a piece of a
program is asked for by the first that waits, and anew by the next when that one is taken back.

Compiling is done by a process of its own, with limits; the agent only waits for it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from storage import cid as content_id
from storage.cid import CHUNK_SIZE_BYTES, TreeBuilder
from worker import wasm
from worker.blob_cache import BlobCache, CacheError, is_cid
from worker.child import Attempt, LoadedProgram
from worker.gateway import CallError
from worker.packages import Packages
from worker.protocol import Wheel
from worker.sandbox.view import PACKAGES_NAME
from worker.wheel_names import WheelError, parse_name
from worker.wheels import SIZE_MAX_BYTES, WHEELS_MAX

APART_TIMEOUT_S: Final = 120.0
"""Longest time of a compiling process by the clock. Source: six times its limit of CPU time."""
MESSAGE_SIZE_MAX_BYTES: Final = 4096
"""Most bytes of what such a process says. Source: guess."""
COMPILES_MAX: Final = 2
"""Compiling processes at once. Source: guess; each takes a core, at low priority."""
PREPARED: Final = frozenset({"wasm", "onnx", "exec"})
"""Runtimes whose programs are prepared."""

Ask = Callable[[Attempt, str, dict[str, Any]], Awaitable[Any]]
"""Asks the node: see `gateway.Calls.ask`."""
Knowing = Callable[[int], AbstractContextManager[None]]
"""See `Supervisor.knowing`."""


class PreparingError(Exception):
    """A program cannot be made ready; the argument says why."""


class Preparing:
    """Programs that are being made ready, and the attempts that wait for them."""

    def __init__(
        self,
        directory: Path,
        cache: BlobCache,
        ask: Ask,
        submit: Callable[[Attempt], None],
        refuse: Callable[[Attempt, str], None],
        compile_time_max_s: int,
    ) -> None:
        """`directory`: where compiled code goes; an attempt ends with `submit` or `refuse`."""
        self._compile_time_max_s = compile_time_max_s
        self._directory = directory
        self._cache = cache
        self._packages: Packages | None = None
        self._ask = ask
        self._submit = submit
        self._refuse = refuse
        self._waiting: dict[LoadedProgram, list[Attempt]] = {}
        self._asking: dict[Attempt, trio.CancelScope] = {}
        """Those in whose name the node is being asked."""
        self._compiles = trio.CapacityLimiter(COMPILES_MAX)

    def open(self, scratch: Path, in_use: Callable[[], Iterable[str]]) -> None:
        """Install packages in `scratch` from now on; `in_use` returns those that must stay."""
        self._packages = Packages(scratch / PACKAGES_NAME, in_use)

    def take(self, attempt: Attempt, nursery: trio.Nursery, knowing: Knowing) -> bool:
        """Take an attempt whose program is not ready, or never will be; return whether it is so."""
        program = attempt.program
        if program.program.wheels and attempt.runtime != "python":
            # Behind the walls of WebAssembly they would be on this side.
            self._refuse(attempt, "wheels are for native Python, at level process or sandbox")
            return True
        if self._is_ready(program):
            return False
        if program in self._waiting:
            self._waiting[program].append(attempt)
        else:
            self._waiting[program] = [attempt]
            nursery.start_soon(self._prepare, program, knowing)
        return True

    def _is_ready(self, program: LoadedProgram) -> bool:
        if program.program.wheels:
            assert self._packages is not None
            return bool(program.packages) and self._packages.holds(program.packages)
        return program.program.runtime not in PREPARED or bool(program.artifact)

    def take_back(self, attempt: Attempt) -> bool:
        """Take out an attempt; return whether it waited here."""
        waiting = self._waiting.get(attempt.program, [])
        if attempt not in waiting:
            return False
        waiting.remove(attempt)
        if attempt in self._asking:
            self._asking[attempt].cancel()
        return True

    def drain(self) -> list[Attempt]:
        """Take out and return all that wait."""
        found = [attempt for waiting in self._waiting.values() for attempt in waiting]
        for attempt in found:
            self.take_back(attempt)
        return found

    async def _prepare(self, program: LoadedProgram, knowing: Knowing) -> None:
        why = ""
        try:
            if program.program.wheels:
                program.packages = await self._install(program, knowing)
            else:
                program.artifact = str(await self._artifact(program, knowing))
        except (PreparingError, WheelError) as error:
            why = str(error)
        except (CacheError, CallError) as error:
            what = "its wheels" if program.program.wheels else "its source"
            why = f"{what} cannot be had: {error.args[0]}"
        except OSError as error:
            why = f"it cannot be written down: {error}"
        for attempt in self._waiting.pop(program):
            if why:
                self._refuse(attempt, why)
            else:
                self._submit(attempt)

    async def _artifact(self, program: LoadedProgram, knowing: Knowing) -> Path:
        """Return the file of what runs."""
        said = program.program
        if said.runtime != "wasm":
            return await self._source(program)
        content = said.source
        if not content:
            path = await self._source(program)
            content = await trio.to_thread.run_sync(path.read_bytes)
        target = self._directory / wasm.key(content)
        if wasm.trusted(target):
            os.utime(target)
            return target
        wasm.make_directory(self._directory)
        async with self._compiles:
            why = await self._compile(content, target, knowing)
        if why:
            raise PreparingError(f"the module cannot be compiled: {why}")
        wasm.make_room(self._directory, wasm.COMPILED_MAX)
        return target

    async def _install(self, program: LoadedProgram, knowing: Knowing) -> str:
        """Return the directory with the packages that a program brings."""
        said = program.program
        check_wheels(said.wheels)
        assert self._packages is not None

        async def unpack(named: Sequence[tuple[str, str]], target: Path) -> str:
            with tempfile.TemporaryFile() as file:
                file.write(json.dumps(named).encode())
                file.seek(0)
                arguments = (str(target),)
                return await run_apart(arguments, file.fileno(), knowing, module="worker.wheels")

        files: list[Path] = []
        try:
            for index, wheel in enumerate(said.wheels):

                async def read(offset: int, length: int, index: int = index) -> bytes:
                    return await self._read(program, offset=offset, length=length, wheel=index)

                files.append(await self._cache.fetch(wheel.cid, wheel.size_bytes, read))
            return await self._packages.install(said.wheels, files, unpack)
        finally:
            for wheel, _ in zip(said.wheels, files, strict=False):
                self._cache.release(wheel.cid)

    async def _compile(self, content: bytes, target: Path, knowing: Knowing) -> str:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.seek(0)
            arguments = ("compile", str(target), str(self._compile_time_max_s))
            return await run_apart(arguments, file.fileno(), knowing)

    async def _source(self, program: LoadedProgram) -> Path:
        """Return a file with a program's source: from the message, or from the node."""
        said = program.program
        if said.source:
            cid, size_bytes = _cid(said.source), len(said.source)
        else:
            cid, size_bytes = said.cid, said.size_bytes

        async def read(offset: int, length: int) -> bytes:
            if said.source:
                return said.source[offset : offset + length]
            return await self._read(program, offset=offset, length=length)

        # Stays pinned for as long as this worker lives: programs are few, and blobs many.
        return await self._cache.fetch(cid, size_bytes, read)

    async def _read(self, program: LoadedProgram, **place: int) -> bytes:
        """Return a piece of a program, from the node. Raises `CallError`, `PreparingError`."""
        while waiting := self._waiting[program]:
            attempt = waiting[0]
            with trio.CancelScope() as self._asking[attempt]:
                try:
                    return bytes(await self._ask(attempt, "program.read", place))
                finally:
                    del self._asking[attempt]
        raise PreparingError("no job waits for it any more")


def check_wheels(wheels: Sequence[Wheel]) -> None:
    """Raise `PreparingError` for wheels that are not fetched."""
    if len(wheels) > WHEELS_MAX:
        raise PreparingError(f"over {WHEELS_MAX} wheels")
    if sum(wheel.size_bytes for wheel in wheels) > SIZE_MAX_BYTES:
        raise PreparingError(f"its wheels have over {SIZE_MAX_BYTES} bytes")
    for wheel in wheels:
        parse_name(wheel.name)
        if not is_cid(wheel.cid):  # it becomes a file's name
            raise PreparingError("a wheel has no CID")


async def run_apart(
    arguments: tuple[str, ...],
    stdin: int,
    knowing: Knowing,
    timeout_s: float = APART_TIMEOUT_S,
    *,
    module: str = "worker.wasm",
) -> str:
    """Run a module in a process of its own; return why it failed, or nothing."""
    with subprocess.Popen(  # noqa: ASYNC220  (starting takes a millisecond or two)
        [sys.executable, "-m", module, *arguments, "--die-with-parent"],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        descriptor = os.pidfd_open(process.pid)
        with knowing(process.pid):
            try:
                with trio.move_on_after(timeout_s):
                    await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        said = (process.stdout.read(MESSAGE_SIZE_MAX_BYTES) or b"").decode("utf-8", "replace")
    if status == 0:
        return ""
    if status < 0:
        return f"that took too much time or memory ({signal.Signals(-status).name})"
    return said or f"status {status}"


def _cid(data: bytes) -> str:
    tree = TreeBuilder(lambda _cid, _node: None)
    for at in range(0, len(data), CHUNK_SIZE_BYTES):
        part = data[at : at + CHUNK_SIZE_BYTES]
        tree.add(content_id.raw_leaf(part), len(part))
    return content_id.text(tree.finish().cid)
