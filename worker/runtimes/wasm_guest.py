"""What runs inside the interpreter that is a WebAssembly component: Python functions, unchanged.

Built into the component together with `edge` and `handling` (`worker.wasm`), whose `Transport` and
whose caller's side stand here; the host's side is `wasm_python`.  Everything leaves through one
import, `ask`.  A fresh instance runs each job, from a snapshot taken when the component was built;
what is imported here is all of the standard library there is.

What the host gets from here was written by the function as much as by this file: it is checked
there.
"""

# ruff: noqa: F401, E401, I001
from __future__ import annotations

# The standard library of functions at level `wasm`; a list in docs/functions.md says the same.
import abc, argparse, array, ast, base64, bisect, binascii, calendar, cmath, codecs, collections
import collections.abc, colorsys, configparser, contextlib, contextvars, copy, csv, dataclasses
import datetime, decimal, difflib, email.message, enum, errno, fnmatch, fractions, functools
import graphlib, hashlib, heapq, hmac, html, html.entities, html.parser, inspect, io, ipaddress
import itertools, json, keyword, linecache, logging, math, numbers, operator, os, os.path, pathlib
import pprint, random, re, reprlib, secrets, shlex, statistics, string, struct, sys, textwrap
import time, tokenize, tomllib, traceback, types, typing, unicodedata, urllib.parse, uuid, warnings
import weakref, xml.etree.ElementTree, zlib

import marshal

import edge
import handling
import wit_world
from wasm_bytes import received, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

DTYPES = {
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "bool": "?",
}
"""Names of numpy's element types, as arrays have them there -> `struct`'s."""
FORMATS = {**{code: name for name, code in DTYPES.items()}, "l": "int32", "L": "uint32"}
READ_BYTES = 1024 * 1024
"""Bytes of a blob read at once. Source: the UnixFS chunk."""


class Array:
    """What `edge.infer` returns here, for want of numpy: a shape, an element type and numbers."""

    def __init__(self, dtype: str, shape: tuple[int, ...], values: Any) -> None:
        self.dtype = dtype
        self.shape = shape
        self._values = values

    def tolist(self) -> Any:
        """Return nested lists, or a number."""
        if not self.shape:
            return self._values[0]
        if not all(self.shape):
            return [self[i].tolist() for i in range(self.shape[0])]
        return self._values.cast("B").cast(DTYPES[self.dtype], self.shape).tolist()

    def tobytes(self) -> bytes:
        """Return the elements, row by row."""
        data: bytes = self._values.tobytes()
        return data

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single number has no length")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):
            found: Any = self
            for one in index:
                found = found[one]
            return found
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        rest = self.shape[1:]
        size = math.prod(rest)
        if not rest:
            return self._values[place]
        return Array(self.dtype, rest, self._values[place * size : (place + 1) * size])

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def item(self) -> Any:
        """Return the one number."""
        if len(self._values) != 1:
            raise TypeError("more than one number")
        return self._values[0]

    def __repr__(self) -> str:
        return f"edge.Array({self.dtype}, {self.shape})"


class Content(io.RawIOBase):
    """A blob's bytes, read through the host."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path
        self._at = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move."""
        base = (0, self._at, self._size())[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read some bytes."""
        data = self._transport.read(self._path, self._at, min(len(buffer), READ_BYTES))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _size(self) -> int:
        return int(self._transport.host("size", {"path": self._path})[0])


class Transport:
    """How `edge` leaves the interpreter."""

    def host(
        self, operation: str, arguments: dict[str, Any], name: str = "", data: bytes = b""
    ) -> tuple[Any, bytes]:
        """Return the host's answer and the bytes that came with it. Raises `edge.Error`."""
        problem, answer, name, back = wit_world.ask(
            operation, json.dumps(arguments), *sent(name, data)
        )
        if problem:
            raise edge.Error(problem, problem)
        return json.loads(answer), received(name, back)[1]

    def request(self, operation: str, arguments: dict[str, Any]) -> tuple[str, Any]:
        """Ask the worker or the node."""
        name, data = "", b""
        plain = {}
        for key, value in arguments.items():
            if isinstance(value, bytes):
                name, data = key, value
            else:
                plain[key] = value
        problem, text, name, back = wit_world.ask(operation, json.dumps(plain), *sent(name, data))
        answer = json.loads(text)
        name, data = received(name, back)
        if name == ".":
            answer = data
        elif name:
            answer[name] = data
        return problem, answer

    def progress(self, fraction: float | None, message: str) -> None:
        """Send progress."""
        self.host("progress", {"fraction": fraction, "message": message})

    def log(self, text: str) -> None:
        """Send a line."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.host("log", {}, "text", text.encode("utf-8", "replace"))

    def open(self, path: str) -> io.BufferedReader:
        """Open a blob's content."""
        return io.BufferedReader(Content(self, path), READ_BYTES)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return a part of a content."""
        return self.host("read", {"path": path, "offset": offset, "length": length})[1]

    def infer(
        self, cid: str, path: str, inputs: Mapping[str, Any], strict: bool
    ) -> tuple[dict[str, Any], str]:
        """Run a model at the host."""
        rows: list[Any] = []
        parts: list[bytes] = []
        at = 0
        for name, value in inputs.items():
            dtype, shape, data = _flat(value)
            if dtype is None:
                rows.append([name, None, data])
                continue
            rows.append([name, dtype, shape, at, len(data)])
            parts.append(data)
            at += len(data)
        order = {"cid": cid, "path": path, "strict": bool(strict), "inputs": rows}
        text = json.dumps(order)
        problem, answer, name, back = wit_world.ask("infer", text, *sent("data", b"".join(parts)))
        found = json.loads(answer)
        if problem == "backend_unavailable":
            raise LookupError(found)
        if problem:
            raise ValueError(found)
        whole: Any = memoryview(received(name, back)[1])
        outputs: dict[str, Any] = {}
        for name, dtype, shape, start, size in found["outputs"]:
            if dtype is None:
                outputs[name] = shape
            else:
                values = whole[start : start + size].cast(DTYPES[dtype])
                outputs[name] = Array(dtype, tuple(shape), values)
        return outputs, found["backend"]


def _flat(value: Any) -> tuple[str | None, Any, Any]:
    """Return an array's element type, shape and bytes; no type for nested lists."""
    if isinstance(value, Array):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, array.array | memoryview | bytes | bytearray):
        view = memoryview(value)
        if view.format not in FORMATS:
            raise TypeError(f"elements of format {view.format!r} are not taken")
        return FORMATS[view.format], view.shape, view.tobytes()
    return None, None, value


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


class WitWorld(wit_world.WitWorld):  # type: ignore[misc]
    """What the host calls."""

    def compile(self, name: str, source: str) -> tuple[str, str, str]:
        """Compile a source; nothing of it runs."""
        program = (name, "", source.encode("latin-1"))
        try:
            code = handling.compiled(program)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            message, trace = handling.describe(error, program)
            return "", _text(message), trace
        return marshal.dumps(code).decode("latin-1"), "", ""

    def run(self, order: str, code: str, source: str, text: str) -> tuple[str, str, str, str]:
        """Run one job."""
        random.seed()  # the snapshot's would be everybody's
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        name, entry, job, blobs, result_max, output_max = json.loads(order)
        program = (name, entry, source.encode("latin-1"))
        session = edge.Session(Transport(), tuple(job), output_max)
        edge.bind(session)
        compiled = marshal.loads(code.encode("latin-1"))  # noqa: S302  (it is the compiler's)
        function = handling.Function(edge, program, lambda: handling.load_source(program, compiled))
        outcome, payload, trace = function.outcome(
            session, text.encode(), blobs, result_max, output_max
        )
        session.close()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
        writes = [
            [part.decode() if isinstance(part, bytes) else part for part in write]
            for write in (session.writes if outcome is None else ())
        ]
        more = json.dumps([session.backend, writes])
        return outcome or "", payload.decode("utf-8", "replace"), trace, more
