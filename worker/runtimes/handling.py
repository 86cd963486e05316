"""A handler is called: from the job's JSON text to the outcome that the agent is told.

One file for every process or interpreter that runs functions, loaded by its path or built in:
it knows nothing but the `edge` module it is given, and imports little.  Whatever a function
raises, returns or is, comes out as an error code of the protocol, a payload and a traceback.
"""

from __future__ import annotations

import errno
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Outcome = tuple[str | None, bytes, str]

ERROR_SIZE_MAX_CHARACTERS = 4096
"""Longest error message. Source: guess."""
TRACEBACK_SIZE_MAX_CHARACTERS = 32 * 1024
"""Longest traceback: its beginning and its end. Source: guess."""


class Ended(Exception):
    """A program that is not Python failed: with this code, message and traceback."""

    def __init__(self, code: str, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.trace = trace


class Function:
    """One program's handler, loaded when its first job runs, and called for each job."""

    fresh = False
    """Nothing of a job outlives it in this process, however it ended."""

    def __init__(
        self,
        edge: Any,
        program: tuple[str, str, bytes],
        load: Callable[[], Callable[[Any], Any]] | None = None,
        full: tuple[int, ...] = (errno.EFBIG,),
    ) -> None:
        """`program`: name, entry and source; `load` returns a handler that is not its source's.

        `full`: errors that say that the job wrote too much.
        """
        self._full = full
        self._edge = edge
        self._program = program
        self._load = load or (lambda: load_source(program))
        self._handler: Callable[[Any], Any] | None = None

    def outcome(
        self, session: Any, text: bytes, blobs: dict[str, int], result_max: int, output_max: int
    ) -> Outcome:
        """Call the handler; return the error code or `None`, the payload and the traceback."""
        edge = self._edge
        try:
            if self._handler is None:
                self._handler = self._load()
        except (SystemExit, MemoryError, Ended) as error:
            return self._failure(error)
        except BaseException as error:  # noqa: BLE001  (a program may raise anything)
            return ("setup_failed", *describe(error, self._program))
        try:
            value = edge.decode(text)
            if blobs:
                value = self._named_inputs(session, value, blobs)
            result = self._handler(value)
        except BaseException as error:  # noqa: BLE001  (a function may raise anything)
            return self._failure(error)
        try:
            if isinstance(result, bytes | bytearray | memoryview):
                payload: bytes = edge.encode(edge.put_blob(result))
            else:
                payload = edge.encode(result)
            if len(payload) > output_max:
                return "output_limit", b"the result is over output_bytes", ""
            if len(payload) > result_max:
                payload = edge.encode(edge.put_blob(payload, "application/json"))
            return None, payload, ""
        except (TypeError, ValueError, RecursionError) as error:
            message, trace = describe(error, self._program)
            return "result_invalid", b"the result is not JSON: " + message, trace
        except BaseException as error:  # noqa: BLE001  (a result may bring its own code)
            return self._failure(error)

    def _named_inputs(self, session: Any, value: Any, blobs: dict[str, int]) -> Any:
        """Add named blobs to `edge.inputs`, and to the input where it is an object or null."""
        session.inputs = {name: self._edge.Blob(str(number)) for name, number in blobs.items()}
        if value is None:
            return dict(session.inputs)
        return {**session.inputs, **value} if isinstance(value, dict) else value

    def _failure(self, error: BaseException) -> Outcome:
        code = "function_error"
        if isinstance(error, Ended):
            message = str(error)[:ERROR_SIZE_MAX_CHARACTERS]
            return error.code, message.encode("utf-8", "backslashreplace"), shortened(error.trace)
        if isinstance(error, SystemExit):
            code = "exited"
        elif isinstance(error, MemoryError):
            # Its frames hold the memory that describing it would need.
            error.__traceback__ = None
            return "memory_limit", b"the function ran out of memory_bytes", ""
        elif isinstance(error, self._edge.OutputLimit):
            code = "output_limit"
        elif isinstance(error, self._edge.BackendUnavailable):
            code = "backend_unavailable"
        elif isinstance(error, OSError) and error.errno in self._full:
            code = "output_limit"
        return (code, *describe(error, self._program))


def compiled(program: tuple[str, str, bytes]) -> types.CodeType:
    """Return the code of a program's source. Raises what `compile` does."""
    name, _, source = program
    return compile(source, f"<function {name}>", "exec", dont_inherit=True)


def load_source(
    program: tuple[str, str, bytes], code: types.CodeType | None = None
) -> Callable[[Any], Any]:
    """Run a program's source (`code`: compiled already) and return its handler."""
    name, entry, _ = program
    module = types.ModuleType("function")
    module.__file__ = f"<function {name}>"
    sys.modules["function"] = module
    exec(code or compiled(program), module.__dict__)  # noqa: S102  (what this process is for)
    handler = getattr(module, entry, None)
    if not callable(handler):
        raise LookupError(f"the program has no function {entry!r}")
    return handler  # type: ignore[no-any-return]


def describe(error: BaseException, program: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """Return an exception's message and traceback as bounded text, whatever it is."""
    try:
        import linecache
        import traceback

        name, _, source = program
        file = f"<function {name}>"
        lines = source.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[file] = (len(source), None, lines, file)
        # The first frames are this file's.
        here = describe.__code__.co_filename
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == here:
            trace = trace.tb_next
        whole = shortened("".join(traceback.format_exception(type(error), error, trace)))
        message = f"{type(error).__name__}: {error}"[:ERROR_SIZE_MAX_CHARACTERS]
        return (
            message.encode("utf-8", "backslashreplace"),
            whole.encode("utf-8", "backslashreplace").decode(),
        )
    except BaseException:  # noqa: BLE001  (describing it runs the function's code again)
        return b"an exception that cannot be described", ""


def shortened(trace: str) -> str:
    """Return a traceback, or its beginning and its end."""
    if len(trace) <= TRACEBACK_SIZE_MAX_CHARACTERS:
        return trace
    half = TRACEBACK_SIZE_MAX_CHARACTERS // 2
    return trace[:half] + "\n...\n" + trace[-half:]
