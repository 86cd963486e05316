"""Python functions inside WebAssembly: the host's side of `wasm_guest`.

Each job gets a fresh instance of the interpreter, which nothing outlives; it holds no descriptor,
no file, no environment and nobody's memory.  What it asks for comes through `Guest.ask`, and what
it says at its end through the tuple that `run` returns: both are a stranger's words, checked here,
and again by the agent.  A trap, which the guest cannot catch, ends the job and nothing else.

Times are held by the agent, which ends this whole process.
"""

from __future__ import annotations

import json
import os

import wasmtime
from wasmtime import component

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

INSTANCES_MAX = 64
"""Core instances of the interpreter. Source: it has 11."""
TABLE_LENGTH_MAX = 100_000
"""Elements of its tables. Source: CPython's has 10,000."""
READ_SIZE_MAX_BYTES = 1024 * 1024
"""Most bytes of a content read at once. Source: the UnixFS chunk."""
CODES = {
    "function_error",
    "setup_failed",
    "exited",
    "memory_limit",
    "output_limit",
    "result_invalid",
    "backend_unavailable",
}
"""Error codes that a function's own process may report."""
MISTAKES = (
    ArithmeticError,
    AttributeError,
    KeyError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What comes of a request that no `edge` makes."""
WRITE_TYPES: dict[int, tuple[Any, ...]] = {
    1: (int, str, str, (int, float, type(None))),
    2: (int, str),
    3: (int, str, int),
    4: (int,),
    5: (int,),
}
"""Kind of a buffered write -> the types of its fields, with values as text."""


def load(runtime: Any) -> Interpreter:
    """Return what runs the jobs of a program in fresh interpreters."""
    return Interpreter(runtime)


class Interpreter:
    """A compiled interpreter and one program for it."""

    fresh = True

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        engine = runtime.beside("wasm_engine", "wasm_engine.py")
        if not engine.trusted(runtime.artifact):
            raise runtime.handling.Ended("setup_failed", "the interpreter on disk is not trusted")
        self._engine = engine.make_engine()
        self._component = component.Component.deserialize_file(self._engine, runtime.artifact)
        self._guest = Guest(runtime)
        self._linker = component.Linker(self._engine)
        self._linker.add_wasip2()
        with self._linker.root() as root:
            root.add_func("ask", self._guest.ask)
        self._run = self._component.get_export_index("run")
        name, _, source = runtime.program
        self._peak_bytes = 0
        """Resident memory when a guest was stopped, its own still included."""
        self._source = source.decode("latin-1")
        try:
            code, message, trace = self._call("compile", name, self._source)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            code, (message, trace) = "", self._told(error)
        if not code:
            raise runtime.handling.Ended("setup_failed", message, trace)
        self._code = code

    def outcome(
        self, session: Any, text: bytes, blobs: dict[str, int], result_max: int, output_max: int
    ) -> tuple[str | None, bytes, str]:
        """Run a job; return the error code or `None`, the payload and the traceback."""
        name, entry, _ = self._runtime.program
        order = [name, entry, session.job, blobs, result_max, output_max]
        self._guest.begin(session)
        before_bytes = _resident_bytes()
        try:
            code, payload, trace, more = self._call(
                "run", json.dumps(order), self._code, self._source, text.decode()
            )
            if len(payload) > result_max and not code:
                return "function_error", b"the function broke its interpreter", ""
            return self._checked(session, code, payload, trace, more)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            message, backtrace = self._told(error)
            if "exceeds memory limits" in message:
                return "memory_limit", b"the interpreter alone needs 20 MB of memory_bytes", ""
            if self._peak_bytes - before_bytes > self._runtime.memory_bytes * 3 // 4:
                # C code in the interpreter ends it when memory is short; Python code is told.
                return "memory_limit", b"the function ran out of memory_bytes", backtrace
            return "function_error", f"the interpreter stopped: {message}".encode(), backtrace
        except self._runtime.edge.OutputLimit as error:  # counted here too: see `Guest.ask`
            return "output_limit", str(error).encode(), ""
        except MemoryError:  # what it said does not fit this process
            return "memory_limit", b"the function ran out of memory_bytes", ""
        finally:
            self._guest.end()

    def _told(self, error: Exception) -> tuple[str, str]:
        told: tuple[str, str] = self._runtime.beside("wasm_traps", "wasm_traps.py").told(error)
        return told

    def _call(self, export: str, *arguments: str) -> tuple[str, ...]:
        """Call an export of a fresh instance."""
        channel = self._runtime.channel
        wasi = wasmtime.WasiConfig()
        wasi.stdout_custom = lambda data: _print(channel, 1, data)
        wasi.stderr_custom = lambda data: _print(channel, 2, data)
        store = wasmtime.Store(self._engine)
        store.set_wasi(wasi)
        store.set_limits(
            memory_size=self._runtime.memory_bytes,
            table_elements=TABLE_LENGTH_MAX,
            instances=INSTANCES_MAX,
            tables=INSTANCES_MAX,
            memories=INSTANCES_MAX,
        )
        try:
            instance = self._linker.instantiate(store, self._component)
            function = instance.get_func(store, export)
            if function is None:
                raise wasmtime.WasmtimeError(f"no {export}")
            found: tuple[str, ...] = function(store, *arguments)
            return found
        except BaseException:
            self._peak_bytes = _resident_bytes()
            raise
        finally:
            store.close()

    def _checked(
        self, session: Any, code: str, payload: str, trace: str, more: str
    ) -> tuple[str | None, bytes, str]:
        """Return what a guest said if it is of the right form, its writes put into `session`."""
        if code:
            known = code if code in CODES else "function_error"
            return known, payload.encode()[: 16 * 1024], trace[: 40 * 1024]
        edge = self._runtime.edge
        try:
            json.loads(payload)
            backend, writes = json.loads(more)
            for kind, *fields in writes:
                if not _fits(fields, WRITE_TYPES[kind]):
                    raise ValueError("a write")
                if kind == 1:
                    fields[2] = fields[2].encode()
                session.buffer([kind, *fields], sum(len(str(field)) for field in fields))
            session.backend = str(backend)[:256]
        except edge.OutputLimit as error:
            return "output_limit", str(error).encode(), ""
        except (ValueError, KeyError, TypeError, RecursionError):
            session.writes.clear()
            return "function_error", b"the function broke its interpreter", ""
        return None, payload.encode(), ""


def _fits(fields: list[Any], types: tuple[Any, ...]) -> bool:
    return len(fields) == len(types) and all(
        isinstance(field, kind) and not isinstance(field, bool)
        for field, kind in zip(fields, types, strict=True)
    )


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _print(channel: Any, stream: int, data: bytes) -> int:
    channel.output(stream, data)
    return len(data)


class Guest:
    """What a guest may ask of its host, for the job that runs."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._requests = runtime.beside("requests", "requests.py")
        passing = runtime.beside("wasm_bytes", "wasm_bytes.py")
        self._sent: Callable[[str, bytes], tuple[str, str]] = passing.sent
        self._received: Callable[[str, str], tuple[str, bytes]] = passing.received
        self._session: Any = None
        self._files: dict[str, tuple[str, int]] = {}
        """Contents this job has asked for, by what the guest knows them as: descriptors here."""
        self._own = {
            "progress": self._progress,
            "log": self._log,
            "read": self._read,
            "size": self._size,
            "infer": self._infer,
        }

    def begin(self, session: Any) -> None:
        """A job begins."""
        self._session = session

    def end(self) -> None:
        """A job is over: close what it had open."""
        for _, descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._session = None

    def ask(
        self, store: Any, operation: str, text: str, name: str, data: str
    ) -> tuple[str, str, str, str]:
        """Answer one request; see `wasm.WORLD` for what the texts are."""
        if self._session is None:  # while the source is compiled
            return "forbidden", "null", "", ""
        try:
            arguments = json.loads(text)
            name, content = self._received(name, data)
            own = self._own.get(operation)
            if own is not None:
                return own(arguments, content)
            if name:
                arguments[name] = content
            if self._requests.mistake(operation, arguments):
                return "invalid_field", "null", "", ""
            if operation == "blob.append":
                self._session.count_upload(len(content))
            problem, answer = self._runtime.channel.request(operation, arguments)
        except MISTAKES:
            return "invalid_field", "null", "", ""
        if operation == "blob.path" and not problem:
            return "", json.dumps(self._opened(answer)), "", ""
        return problem, *self._packed(answer)

    def _opened(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Open a content for the guest, which is told a name for it and not its place."""
        place = str(answer["path"])
        name = str(answer["cid"])
        if name not in self._files:
            self._files[name] = (place, os.open(place, os.O_RDONLY | os.O_CLOEXEC))
        return {**answer, "path": name}

    def _packed(self, answer: Any) -> tuple[str, str, str]:
        """Return an answer as JSON text, and the name and value of its one field of bytes."""
        if isinstance(answer, bytes):
            return "null", *self._sent(".", answer)
        name, data = "", b""
        if isinstance(answer, dict):
            for key, value in answer.items():
                if isinstance(value, bytes):
                    name, data = key, value
            answer = {key: value for key, value in answer.items() if key != name}
        return json.dumps(answer), *self._sent(name, data)

    def _read(self, arguments: dict[str, Any], data: bytes) -> tuple[str, str, str, str]:
        _, descriptor = self._files[arguments["path"]]
        length = min(int(arguments["length"]), READ_SIZE_MAX_BYTES)
        found = os.pread(descriptor, length, int(arguments["offset"]))
        return "", "null", *self._sent("data", found)

    def _size(self, arguments: dict[str, Any], data: bytes) -> tuple[str, str, str, str]:
        _, descriptor = self._files[arguments["path"]]
        return "", json.dumps(os.fstat(descriptor).st_size), "", ""

    def _progress(self, arguments: dict[str, Any], data: bytes) -> tuple[str, str, str, str]:
        fraction = arguments["fraction"]
        if fraction is not None:
            fraction = min(1.0, max(0.0, float(fraction)))
        self._runtime.channel.progress(fraction, str(arguments["message"])[:1024])
        return "", "null", "", ""

    def _log(self, arguments: dict[str, Any], data: bytes) -> tuple[str, str, str, str]:
        self._runtime.channel.log(data.decode("utf-8", "replace"))
        return "", "null", "", ""

    def _infer(self, arguments: dict[str, Any], data: bytes) -> tuple[str, str, str, str]:
        place, _ = self._files[arguments["path"]]
        rows_in = [(name, dtype, *rest) for name, dtype, *rest in arguments["inputs"]]
        try:
            engine = self._runtime.engine()
            inputs, view = {}, memoryview(data)
            for name, dtype, *rest in rows_in:
                if dtype is None:
                    inputs[name] = rest[0]
                else:
                    shape, at, size = rest
                    if dtype not in NUMBERS:
                        raise ValueError(f"no numbers are of type {dtype}")
                    inputs[name] = engine.tensor(view[at : at + size], dtype, [], shape)
            outputs, backend = engine.run(
                arguments["path"], place, inputs, bool(arguments["strict"])
            )
        except LookupError as error:
            return "backend_unavailable", json.dumps(str(error.args[0])), "", ""
        except Exception as error:  # noqa: BLE001  (onnxruntime raises anything)
            return "invalid_field", json.dumps(f"{type(error).__name__}: {error}"[:4096]), "", ""
        rows, parts, at = [], [], 0
        for name, value in outputs.items():
            if value.dtype.name in NUMBERS:
                part = value.tobytes()
                rows.append([name, value.dtype.name, value.shape, at, len(part)])
                parts.append(part)
                at += len(part)
            else:
                rows.append([name, None, value.tolist(), 0, 0])
        answer = json.dumps({"outputs": rows, "backend": backend})
        return "", answer, *self._sent("data", b"".join(parts))


NUMBERS = {"float32", "float64", "bool"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
