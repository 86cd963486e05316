"""WebAssembly components as functions: see `wasm_module`; the world is in `function.wit`."""

from __future__ import annotations

import json

import wasmtime
from wasmtime import component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MEMORIES_MAX = 8
"""Memories of a component's core modules. Source: guess; the process around it has a limit too."""
INTERFACE = "peernode:function/edge@1.0.0"


class Component:
    """A compiled component: called for each job, with JSON values."""

    def __init__(self, runtime: Any, engine: Any, calls: Any) -> None:
        self._runtime = runtime
        self._traps = runtime.beside("wasm_traps", "wasm_traps.py")
        self._limit = runtime.beside("wasm_module", "wasm_module.py").limit
        self._engine = engine
        self._refused = calls.Refused
        self._calls = calls.Calls(runtime.edge)
        self._component = component.Component.deserialize_file(engine, runtime.artifact)
        self._linker = component.Linker(engine)
        self._linker.add_wasip2()
        with self._linker.root() as root, root.add_instance(INTERFACE) as edge:
            for name in calls.SIGNATURES:
                edge.add_func(name.replace("_", "-"), self._function(name))

    def __call__(self, value: Any) -> Any:
        """Run one job. Raises `Ended`, and what `edge` raises."""
        ended = self._runtime.handling.Ended
        channel = self._runtime.channel
        store = wasmtime.Store(self._engine)
        wasi = wasmtime.WasiConfig()
        wasi.stdout_custom = lambda data: _print(channel, 1, data)
        wasi.stderr_custom = lambda data: _print(channel, 2, data)
        store.set_wasi(wasi)
        self._limit(store, self._runtime.memory_bytes, MEMORIES_MAX)
        text = self._runtime.edge.encode(value).decode()
        try:
            instance = self._linker.instantiate(store, self._component)
            handle = instance.get_func(store, "handle")
            if handle is None:
                raise ended("setup_failed", "it exports no handle: see function.wit")
            found = handle(store, text)
        except TypeError as error:
            raise ended("setup_failed", f"its handle is not of our world: {error}") from None
        except wasmtime.ExitTrap as error:
            raise ended("function_error", f"it exited with status {error.code}") from None
        except wasmtime.WasmtimeError as error:
            message = str(error)
            code = "memory_limit" if "exceeds memory limits" in message else "setup_failed"
            raise ended(code, message) from None
        except wasmtime.Trap as error:
            raise ended("function_error", *self._traps.told(error)) from None
        finally:
            store.close()
        return self._result(found, ended)

    def _result(self, found: Any, ended: Any) -> Any:
        if isinstance(found, component.Variant):
            if found.tag == "err":
                raise ended("function_error", str(found.payload))
            found = found.payload
        if not isinstance(found, str):
            raise ended("setup_failed", "its handle is not of our world")
        try:
            return json.loads(found) if found.strip() else None
        except (ValueError, RecursionError) as error:
            raise ended("result_invalid", f"the result is not JSON: {error}") from None

    def _function(self, name: str) -> Any:
        def function(store: Any, *arguments: Any) -> Any:
            try:
                return component.Variant("ok", self._calls.make(name, list(arguments)))
            except self._refused as error:
                refusal: Any = component.Record()
                refusal.code, refusal.message = error.name, str(error)
                return component.Variant("err", refusal)

        return function


def _print(channel: Any, stream: int, data: bytes) -> int:
    channel.output(stream, data)
    return len(data)
