"""Function code run in this process, without threads: what a virtual worker does not pretend.

A function is ordinary Python that blocks in each call of `edge`, and here nothing may block: the
answer comes from a node that lives in the same thread.  So a handler is run until it asks for
something that is not known yet, is left there by an exception, and is run again from its beginning
once the answer has come; what it asked before is answered at once from what is remembered.  That is
right for a function that does the same each time, and one that does not is found out when its
questions differ, and fails.  `handling` and `edge` are the worker's own files.

What differs from a process: a function's module is loaded anew for each attempt, so nothing of one
job is found by the next; `edge.progress` and output are told when the handler has returned; and
`edge.http` meets a made-up internet, which takes everything (`answer_http`).  Inference runs on one
thread.
"""

import io
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, BinaryIO, Final

import msgspec

from worker import frames
from worker.child import Attempt
from worker.egress import is_allowed
from worker.protocol import Write
from worker.runtimes import handling
from worker.runtimes.python_child import load_edge

LOG, STDOUT, STDERR = 0, 1, 2
"""Indices of `worker.output.STREAMS`."""
CALLS_MAX: Final = 100_000
"""Most calls of `edge` in one job: each runs the handler again. Source: guess."""
BACKENDS: Final = ("CPUExecutionProvider",)
"""What runs models, where it is installed: one engine, so that results repeat."""

Answer = Callable[[frames.Request], Awaitable[frames.Reply]]


class _AskedError(BaseException):
    """The handler asked for what is not known yet."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a handler ended: the fields of `worker.protocol.Finished`."""

    error_code: str | None
    payload: bytes
    traceback: str
    backend: str
    writes: tuple[Write, ...]
    printed: tuple[tuple[int, bytes], ...]
    """Stream and bytes."""
    progress: tuple[float | None, str] | None


@dataclass(slots=True)
class _Call:
    operation: str
    arguments: Any
    answer: Any = None


@dataclass(slots=True)
class _Transport:
    """What `edge` asks, in order; the answers that are known; what was said on the way."""

    models: "Models"
    known: list[_Call]
    at: int = 0
    asking: _Call | None = None
    printed: list[tuple[int, bytes]] = field(default_factory=list)
    said: tuple[float | None, str] | None = None

    def request(self, operation: str, arguments: dict[str, Any]) -> tuple[str, Any]:
        """Return the answer to a call, or leave the handler."""
        call = self._next(operation, arguments)
        problem, answer = call.answer
        return problem, answer

    def infer(
        self, cid: str, path: str, inputs: Mapping[str, Any], strict: bool
    ) -> tuple[dict[str, Any], str]:
        """Run a model, once."""
        if self.asking is None and self.at == len(self.known):
            outputs = self.models.run(cid, path, inputs, strict)
            self.known.append(_Call("infer", cid, outputs))
        call = self._next("infer", cid)
        outputs, backend = call.answer
        return outputs, backend

    def progress(self, fraction: float | None, message: str) -> None:
        """Keep the newest."""
        self.said = (fraction, message)

    def log(self, text: str) -> None:
        """Keep a line of `edge.log`."""
        self.printed.append((LOG, text.encode("utf-8", "replace") + b"\n"))

    def open(self, path: str) -> BinaryIO:
        """Open a local copy of a content."""
        return open(path, "rb")

    def _next(self, operation: str, arguments: Any) -> _Call:
        if self.asking is not None:  # the function caught our exception, and went on
            raise _AskedError
        if self.at == len(self.known):
            self.asking = _Call(operation, arguments)
            raise _AskedError
        call = self.known[self.at]
        self.at += 1
        if (call.operation, call.arguments) != (operation, arguments):
            raise RuntimeError("this function asks for something else each time it runs")
        return call


class Models:
    """Models loaded in this process, for all virtual workers."""

    def __init__(self) -> None:
        self._engine: Any = None

    def run(
        self, cid: str, path: str, inputs: Mapping[str, Any], strict: bool
    ) -> tuple[dict[str, Any], str]:
        """Run a model on one thread. Raises `LookupError` where nothing runs models."""
        if self._engine is None:
            try:
                from worker.inference import Engine
            except ImportError as error:
                raise LookupError(f"{error.name} is not installed") from None
            self._engine = Engine(list(BACKENDS), threads=1)
        outputs, backend = self._engine.run(cid, path, inputs, strict)
        return outputs, backend


async def run_inline(
    attempt: Attempt, answer: Answer, models: Models, source: bytes | None = None
) -> Ending:
    """Run an attempt's handler to its end; `answer` answers its requests.

    `source`: other source than the program's.
    """
    edge = load_edge()
    said = attempt.program.program
    program = (said.program, said.entry, said.source if source is None else source)
    lease = attempt.lease
    known: list[_Call] = []
    for number in range(CALLS_MAX):
        transport = _Transport(models, known)
        session = _session(edge, transport, attempt)
        out, err = io.StringIO(), io.StringIO()
        edge.bind(session)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                ended = handling.Function(edge, program).outcome(
                    session,
                    lease.input,
                    lease.blobs,
                    lease.limits.result_bytes,
                    lease.limits.output_bytes,
                )
        finally:
            edge.bind(None)
            sys.modules.pop("function", None)
        if transport.asking is None:
            for stream, file in ((STDOUT, out), (STDERR, err)):
                if text := file.getvalue():
                    transport.printed.append((stream, text.encode("utf-8", "backslashreplace")))
            return _ending(ended, session, transport)
        asked = transport.asking
        asked.answer = await _answer(asked, number, answer, attempt)
        known.append(asked)
    return Ending("output_limit", b"it calls edge too often", "", "", (), (), None)


async def _answer(asked: _Call, number: int, answer: Answer, attempt: Attempt) -> tuple[str, Any]:
    if asked.operation == "http":
        return answer_http(asked.arguments, attempt.program.program.egress)
    reply = await answer(frames.Request(number, asked.operation, asked.arguments))
    return reply.problem, reply.answer


def answer_http(arguments: Mapping[str, Any], allowed: list[str]) -> tuple[str, Any]:
    """Return what the made-up internet answers: every host that is allowed takes everything."""
    from urllib.parse import urlsplit

    try:
        url = urlsplit(arguments["url"])
        is_listed = is_allowed(url.scheme, url.hostname or "", url.port, allowed)
    except ValueError:
        return "invalid_request", None
    if not is_listed:
        return "forbidden", None
    return "", {"status": 204, "headers": {}, "content": b""}


def _session(edge: ModuleType, transport: _Transport, attempt: Attempt) -> Any:
    class Session(edge.Session):  # type: ignore[misc, name-defined]
        """Reports progress by no clock."""

        def report(self, fraction: float | None, message: str) -> None:
            transport.progress(fraction, message)

    lease = attempt.lease
    job = (str(lease.job), lease.attempt, lease.deadline_ms)
    return Session(transport, job, lease.limits.output_bytes)


def _ending(ended: tuple[str | None, bytes, str], session: Any, transport: _Transport) -> Ending:
    error_code, payload, traceback = ended
    writes = () if error_code else tuple(session.writes)
    return Ending(
        error_code,
        payload,
        traceback,
        session.backend,
        msgspec.convert(writes, tuple[Write, ...], builtin_types=(bytes,)),
        tuple(transport.printed),
        transport.said,
    )
