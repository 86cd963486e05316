"""WebAssembly modules as functions: WASI commands, and components of our world.

A **core module** is a WASI command (preview 1): the job's input is its standard input, its standard
output is the result, both JSON; an empty output is `null`.  Standard error goes to the job's log.
It may import `edge` (see `wasm_calls`, and docs/functions.md for the layout of arguments).  It sees
no file, no variable, no argument; each job gets a new instance, compiled once.

A **component** exports `handle: func(input: string) -> result<string, string>` and may import the
interface `peernode:function/edge` (`function.wit` beside this file).

What a module cannot do to its host: read or write outside of its memory (each pointer is checked
here), call back while a call runs (nothing is called then), take more than its limits (the store's,
and around it the process's), run for ever (the agent ends this process).
"""

from __future__ import annotations

import json
import os

import wasmtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TABLE_LENGTH_MAX = 100_000
"""Elements of a module's tables, together. Source: CPython's has 10,000."""
TABLES_MAX = 64
"""Tables of a program. Source: toolchains make one for each core module."""
INSTANCES_MAX = 64
"""Instances of core modules in a component. Source: CPython's has 11."""
MEGABYTE = 1024 * 1024
"""What an allocator asks for at once. Source: guess."""
STDIN = "/proc/self/fd/{}"


def load(runtime: Any) -> Any:
    """Return what runs the jobs of a compiled module."""
    engine = runtime.beside("wasm_engine", "wasm_engine.py")
    if not engine.trusted(runtime.artifact):
        raise runtime.handling.Ended("setup_failed", "the compiled module on disk is not trusted")
    calls = runtime.beside("wasm_calls", "wasm_calls.py")
    made = engine.make_engine()
    try:
        handler: Any = Command(runtime, made, calls)
    except wasmtime.WasmtimeError:  # it is not a core module
        components = runtime.beside("wasm_component", "wasm_component.py")
        handler = components.Component(runtime, made, calls)
    function = runtime.handling.Function(runtime.edge, runtime.program, lambda: handler)
    function.fresh = True
    return function


def limit(store: Any, memory_bytes: int, memories: int = 1) -> None:
    """Set a store's limits; `memory_bytes` is each memory's."""
    store.set_limits(
        memory_size=memory_bytes,
        table_elements=TABLE_LENGTH_MAX,
        instances=INSTANCES_MAX,
        tables=TABLES_MAX,
        memories=memories,
    )


class Command:
    """A compiled WASI command: called for each job, with JSON values."""

    def __init__(self, runtime: Any, engine: Any, calls: Any) -> None:
        self._runtime = runtime
        self._traps = runtime.beside("wasm_traps", "wasm_traps.py")
        self._engine = engine
        self._module = wasmtime.Module.deserialize_file(engine, runtime.artifact)
        self._linker = wasmtime.Linker(engine)
        self._linker.define_wasi()
        self._host = Host(runtime.handling.Ended, calls, runtime.edge)
        self._host.define(self._linker)
        try:
            self._ready = self._linker.instantiate_pre(self._module)
        except wasmtime.WasmtimeError as error:
            raise runtime.handling.Ended("setup_failed", str(error)) from None
        self._stdin = os.memfd_create("stdin")

    def __call__(self, value: Any) -> Any:
        """Run one job. Raises `Ended`, and what `edge` raises."""
        ended = self._runtime.handling.Ended
        output = Output(self._runtime.channel)
        store = wasmtime.Store(self._engine)
        wasi = wasmtime.WasiConfig()
        self._fill(self._runtime.edge.encode(value))
        wasi.stdin_file = STDIN.format(self._stdin)
        wasi.stdout_custom = output.take
        wasi.stderr_custom = output.log
        store.set_wasi(wasi)
        limit(store, self._runtime.memory_bytes)
        self._host.answer = b""
        memory: Any = None
        try:
            exports: Any = self._ready.instantiate(store).exports(store)
            memory = exports["memory"]
            exports["_start"](store)
        except wasmtime.ExitTrap as error:
            if error.code:
                raise ended("function_error", f"it exited with status {error.code}") from None
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            message, backtrace = self._traps.told(error)
            if memory is None and not isinstance(error, wasmtime.Trap):
                code = "memory_limit" if "exceeds memory limits" in message else "setup_failed"
                raise ended(code, message) from None
            if memory is not None and self._is_full(memory.data_len(store)):
                message = f"it ran out of memory_bytes: {message}"
                raise ended("memory_limit", message, backtrace) from None
            raise ended("function_error", message, backtrace) from None
        finally:
            store.close()
        return output.result(ended)

    def _is_full(self, size_bytes: int) -> bool:
        """Return whether a memory is so large that what failed in it failed for want of more."""
        limit_bytes: int = self._runtime.memory_bytes
        return size_bytes > limit_bytes - max(MEGABYTE, size_bytes // 8)

    def _fill(self, text: bytes) -> None:
        os.ftruncate(self._stdin, 0)
        at = 0
        while at < len(text):
            at += os.pwrite(self._stdin, text[at:], at)


class Output:
    """What one job prints."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._text = bytearray()

    def take(self, data: bytes) -> int:
        """Keep a part of the result. The agent ends a job that prints more than its limit."""
        self._text += data
        if len(self._text) > OUTPUT_KEPT_MAX_BYTES:
            # It is no result any more: the agent counts it, and ends the job at its limit.
            self._channel.output(1, bytes(self._text))
            self._text.clear()
            self._over = True
        return len(data)

    _over = False

    def log(self, data: bytes) -> int:
        """Send standard error."""
        self._channel.output(2, data)
        return len(data)

    def result(self, ended: Any) -> Any:
        """Return what was printed, read as JSON. Raises `Ended`."""
        if self._over:
            message = f"it printed more than {OUTPUT_KEPT_MAX_BYTES} bytes: store a blob"
            raise ended("result_invalid", message)
        if not self._text.strip():
            return None
        try:
            return json.loads(self._text)
        except (ValueError, RecursionError) as error:
            raise ended("result_invalid", f"standard output is not JSON: {error}") from None


OUTPUT_KEPT_MAX_BYTES = 16 * 1024 * 1024
"""Largest result of a module. Source: the largest frame; larger ones belong into a blob."""


class Host:
    """The module `edge` for core modules: pointers, lengths, and an answer to be taken."""

    def __init__(self, ended: Any, calls: Any, edge: Any) -> None:
        self._ended = ended
        self._signatures = calls.SIGNATURES
        self._refused = calls.Refused
        self._calls = calls.Calls(edge)
        self.answer = b""
        """Of the last call, until the next."""

    def define(self, linker: Any) -> None:
        """Define all calls, and `take`."""
        i32, i64, f64 = (getattr(wasmtime.ValType, name)() for name in ("i32", "i64", "f64"))
        kinds = {"t": [i32, i32], "b": [i32, i32], "i": [i64], "f": [f64]}
        for name, signature in self._signatures.items():
            types = [kind for letter in signature for kind in kinds[letter]]
            linker.define_func(
                "edge",
                name,
                wasmtime.FuncType(types, [i32]),
                self._function(name, signature),
                access_caller=True,
            )
        linker.define_func(
            "edge", "take", wasmtime.FuncType([i32, i32], [i32]), self._take, access_caller=True
        )

    def _function(self, name: str, signature: str) -> Any:
        def function(caller: Any, *given: Any) -> int:
            arguments, rest = [], list(given)
            for letter in signature:
                first = rest.pop(0)
                if letter in "if":
                    arguments.append(first)
                else:
                    data = self._read(caller, name, first, rest.pop(0))
                    arguments.append(data.decode("utf-8", "replace") if letter == "t" else data)
            try:
                answer = self._calls.make(name, arguments)
            except self._refused as error:
                self.answer = str(error).encode()
                return int(error.code)
            self.answer = answer.encode() if isinstance(answer, str) else answer
            return len(self.answer)

        return function

    def _take(self, caller: Any, pointer: int, room: int) -> int:
        data = self.answer[: room & 0xFFFFFFFF]
        memory, at = self._place(caller, "take", pointer, len(data))
        memory.write(caller, data, at)
        return len(self.answer)

    def _read(self, caller: Any, name: str, pointer: int, length: int) -> bytes:
        memory, at = self._place(caller, name, pointer, length & 0xFFFFFFFF)
        return bytes(memory.read(caller, at, at + (length & 0xFFFFFFFF)))

    def _place(self, caller: Any, name: str, pointer: int, length: int) -> tuple[Any, int]:
        """Return the module's memory and a place in it. Raises `Ended` if it is not in there."""
        memory = caller.get("memory")
        at = pointer & 0xFFFFFFFF
        if not isinstance(memory, wasmtime.Memory) or at + length > memory.data_len(caller):
            message = f"edge.{name}: {length} bytes at {at} are not in its memory"
            raise self._ended("function_error", message)
        return memory, at
