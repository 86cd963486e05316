"""`edge` for WebAssembly modules and components: one table of calls, the same for both.

Every call is made of the `edge` module itself, so rights, limits, buffering and mistakes are those
of Python functions.  What a call refuses is told to the module; only what is over `output_bytes`
ends the job.
"""

from __future__ import annotations

import base64
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = Callable[..., str | bytes]

NOT_FOUND, FORBIDDEN, BACKEND_UNAVAILABLE, INVALID, FAILED = -1, -2, -3, -4, -5
"""What a core module's call returns when it is refused; `take` then has the reason."""
READ_SIZE_MAX_BYTES = 1024 * 1024
"""Most bytes of one `blob_read`. Source: the UnixFS chunk."""
MISTAKES = (
    ArithmeticError,
    AttributeError,
    KeyError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What `edge` raises for arguments that are none."""
SIGNATURES = {
    "kv_get": "tt",
    "kv_put": "tttf",
    "kv_delete": "tt",
    "kv_keys": "tt",
    "kv_increment": "tti",
    "kv_put_now": "tttf",
    "kv_delete_now": "tt",
    "kv_increment_now": "tti",
    "blob_stat": "t",
    "blob_read": "tii",
    "blob_put": "btt",
    "blob_delete": "t",
    "infer": "t",
    "http": "t",
    "progress": "ft",
    "log": "t",
    "job": "",
    "secret": "t",
    "call": "tt",
}
"""Name -> arguments: text, bytes, an integer of 64 bits, a float."""
BYTES = frozenset({"blob_read"})
"""Calls whose answer is bytes; of all others it is text, mostly JSON."""


class Refused(Exception):
    """A call failed: `code` for core modules, `name` and the message for all."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name


class Calls:
    """The calls of one process, over its `edge` module."""

    def __init__(self, edge: Any) -> None:
        self._edge = edge
        self.table: dict[str, Call] = {name: getattr(self, f"_{name}") for name in SIGNATURES}

    def make(self, name: str, arguments: list[Any]) -> str | bytes:
        """Make a call. Raises `Refused`, and `edge.OutputLimit`."""
        edge = self._edge
        try:
            return self.table[name](*arguments)
        except edge.OutputLimit:
            raise
        except edge.NotFound as error:
            raise Refused(NOT_FOUND, "not_found", str(error)) from None
        except edge.Forbidden as error:
            raise Refused(FORBIDDEN, "forbidden", str(error)) from None
        except edge.BackendUnavailable as error:
            raise Refused(BACKEND_UNAVAILABLE, error.code, str(error)) from None
        except edge.Error as error:
            raise Refused(FAILED, error.code, str(error)) from None
        except MISTAKES as error:
            raise Refused(INVALID, "invalid", f"{type(error).__name__}: {error}") from None

    def _kv_get(self, space: str, key: str) -> str:
        missing = object()
        value = self._edge.kv(space).get(key, missing)
        if value is missing:
            raise self._edge.NotFound(f"edge.kv({space!r}) has no {key!r}", "not_found")
        return self._json(value)

    def _kv_put(self, space: str, key: str, value: str, ttl_s: float) -> str:
        self._edge.kv(space).put(key, json.loads(value), ttl_s if ttl_s > 0 else None)
        return ""

    def _kv_delete(self, space: str, key: str) -> str:
        del self._edge.kv(space)[key]
        return ""

    def _kv_keys(self, space: str, prefix: str) -> str:
        return self._json(self._edge.kv(space).keys(prefix))

    def _kv_increment(self, space: str, key: str, by: int) -> str:
        self._edge.kv(space).increment(key, by)
        return ""

    def _kv_put_now(self, space: str, key: str, value: str, ttl_s: float) -> str:
        self._edge.kv(space).now.put(key, json.loads(value), ttl_s if ttl_s > 0 else None)
        return ""

    def _kv_delete_now(self, space: str, key: str) -> str:
        del self._edge.kv(space).now[key]
        return ""

    def _kv_increment_now(self, space: str, key: str, by: int) -> str:
        return str(self._edge.kv(space).now.increment(key, by))

    def _blob_stat(self, id: str) -> str:
        blob = self._edge.blob(id)
        names = ("id", "cid", "media_type", "size_bytes", "name")
        return self._json({name: getattr(blob, name) for name in names})

    def _blob_read(self, id: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length must not be negative")
        with self._edge.blob(id).open() as file:
            file.seek(offset)
            return bytes(file.read(min(length, READ_SIZE_MAX_BYTES)))

    def _blob_put(self, data: bytes, media_type: str, name: str) -> str:
        stored = self._edge.put_blob(data, media_type or "application/octet-stream", name)
        return str(stored.id)

    def _blob_delete(self, id: str) -> str:
        self._edge.delete_blob(id)
        return ""

    def _infer(self, request: str) -> str:
        asked = json.loads(request)
        outputs = self._edge.infer(asked["model"], asked["inputs"], bool(asked.get("strict")))
        return self._json(outputs)

    def _http(self, request: str) -> str:
        asked = json.loads(request)
        body = asked.get("body")
        if "body_base64" in asked:
            body = base64.b64decode(asked["body_base64"], validate=True)
        answer = self._edge.http(
            asked["method"],
            asked["url"],
            json=asked.get("json"),
            data=body,
            headers=asked.get("headers"),
            timeout_s=asked.get("timeout_s", 30),
        )
        found = {"status": answer.status, "headers": answer.headers}
        try:
            found["body"] = answer.content.decode()
        except UnicodeDecodeError:
            found["body_base64"] = base64.b64encode(answer.content).decode()
        return self._json(found)

    def _progress(self, fraction: float, message: str) -> str:
        self._edge.progress(None if fraction != fraction else fraction, message)
        return ""

    def _log(self, text: str) -> str:
        self._edge.log(text)
        return ""

    def _job(self) -> str:
        job, deadline = self._edge.job, self._edge.job.deadline
        found = {"id": job.id, "attempt": job.attempt}
        return self._json({**found, "deadline": deadline and deadline.isoformat()})

    def _secret(self, name: str) -> str:
        return str(self._edge.secret(name))

    def _call(self, function: str, text: str) -> str:
        return str(self._edge.call(function, json.loads(text)))

    def _json(self, value: Any) -> str:
        return str(self._edge.encode(value).decode())
