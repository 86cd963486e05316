"""What an operation asks of the world: frozen values, carried out by a transport.

An *operation* is a generator.  It yields effects, is resumed with their answers, and returns its
value; it does no I/O, reads no clock and draws no chance itself.  So each call of the SDK is
written once and driven twice: by `transport.Wire` (blocking) and `transport.AsyncWire` (trio).
A lost connection is thrown into the operation as `ConnectionFailed` at the effect that met it.

    Send   -> Reply          the whole exchange
    Open   -> Reply          head of the answer only; then
    Read   -> bytes          the next piece, b"" at its end
    Close  -> None           let go of an opened answer
    Wait   -> None           seconds pass
    Now    -> float          monotonic seconds
    Draw   -> float          chance, 0 <= x < 1
    NewKey -> str            a fresh idempotency key, from the operating system's entropy
    Emit   -> None           hand a value to whoever iterates
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias, TypeVar

import msgspec

from peernode.client.errors import ProblemError, problem_from

T = TypeVar("T")

Object: TypeAlias = dict[str, Any]
"""A JSON object as the node wrote it. Open: newer nodes may say more."""

Headers: TypeAlias = tuple[tuple[str, str], ...]

TIMEOUT_S = 30.0
"""Default patience for one read of an answer. Source: guess; waits add their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A request body read from a binary file, from where it stands to its end."""

    file: BinaryIO
    start: int | None
    """Offset to go back to for another attempt; `None`: it cannot be read twice."""
    size_bytes: int | None
    progress: Callable[[int, int | None], None] | None = None
    """Called with (bytes sent, size or `None`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. `path` begins with `/` and is already quoted."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Headers = ()
    content: bytes | Upload = b""
    repeatable: bool = False
    """Sending it twice has the effect of sending it once."""
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer. Header names are lower case; `content` is empty for an opened one."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    attempt: int = 1
    """How many times the request was sent for this answer."""

    def json(self) -> Any:
        """Return the body as JSON. Raises `ProblemError` when it is not."""
        try:
            return msgspec.json.decode(self.content)
        except msgspec.DecodeError as error:
            detail = f"the answer is not JSON ({error}): is this a peernode?"
            raise ProblemError(self.status, "not_json", detail) from error

    def object(self) -> Object:
        """Return the body as a JSON object. Raises `ProblemError` when it is not."""
        body = self.json()
        if not isinstance(body, dict):
            raise ProblemError(self.status, "not_an_object", "the answer is not a JSON object")
        return body

    def checked(self) -> "Reply":
        """Return itself, or raise the `ProblemError` it carries."""
        if self.status >= 400:
            raise problem_from(self.status, self.content)
        return self


@dataclass(frozen=True, slots=True)
class Send:
    """Exchange a request for a whole answer."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request, get the answer's head; errors (400 and up) come with their body."""

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Get the next piece of the opened answer."""


@dataclass(frozen=True, slots=True)
class Close:
    """Let go of the opened answer."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Now:
    """Read the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw a number, 0 <= x < 1."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """Make an idempotency key."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand a value to the caller who iterates."""

    value: Any


Effect: TypeAlias = Send | Open | Read | Close | Wait | Now | Draw | NewKey | Emit
Operation: TypeAlias = Generator[Effect, Any, T]


def send(request: Request) -> Operation[Reply]:
    """Exchange a request for its answer. Raises `ProblemError` for a refusal."""
    reply: Reply = yield Send(request)
    return reply.checked()


def ask(request: Request) -> Operation[Reply]:
    """Exchange a request for its answer, a refusal too."""
    reply: Reply = yield Send(request)
    return reply


def open_answer(request: Request) -> Operation[Reply]:
    """Open the answer to a request. Raises `ProblemError` for a refusal."""
    reply: Reply = yield Open(request)
    return reply.checked()


def read() -> Operation[bytes]:
    """Return the next piece of the opened answer; empty at its end."""
    piece: bytes = yield Read()
    return piece


def now() -> Operation[float]:
    """Return monotonic seconds."""
    seconds: float = yield Now()
    return seconds


def new_key() -> Operation[str]:
    """Return a fresh idempotency key."""
    key: str = yield NewKey()
    return key


class Course:
    """One operation under way: which effect it waits for, and what became of it."""

    def __init__(self, operation: Operation[Any]) -> None:
        self._operation = operation
        self._handed_out = False
        self.result: Any = None
        self.effect: Effect | None = None
        """The effect to carry out; `None` once the operation has returned."""
        self.answer(None)

    def advance(self) -> Effect | None:
        """Go past a value that was handed out; return the effect to carry out next."""
        if self._handed_out:
            self._handed_out = False
            self.answer(None)
        return self.effect

    def hand_out(self, effect: Emit) -> Any:
        """Return the emitted value; the operation stays at it until the caller wants more."""
        self._handed_out = True
        return effect.value

    def answer(self, value: Any) -> None:
        """Resume with the effect's answer."""
        try:
            self.effect = self._operation.send(value)
        except StopIteration as stop:
            self.effect, self.result = None, stop.value

    def fail(self, error: Exception) -> None:
        """Resume with an error at the effect."""
        try:
            self.effect = self._operation.throw(error)
        except StopIteration as stop:
            self.effect, self.result = None, stop.value

    def close(self) -> None:
        """Abandon the operation."""
        self.effect = None
        self._operation.close()
