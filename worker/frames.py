"""What the agent and a child process say to each other, seen from the agent.

A frame is four bytes of length and a CBOR array `[kind, field, ...]`.  The child's side stands in
`worker.runtimes.python_child`, which imports nothing of this package.  What the agent sends is
its own work; what a child sends is *hostile*: it is bounded, of exactly known shape, or the child
is killed (`FrameError`).
"""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec

from storage.codec import dump_message, load_message
from storage.errors import CodecError
from worker.protocol import ErrorCode, Write
from worker.runtimes.requests import INTEGER_MAX, mistake, within

FRAME_SIZE_MAX_BYTES: Final = 16 * 1024 * 1024
"""Largest frame. Source: twice the largest answer of `edge.http`."""

TICKET_BYTES: Final = 8
"""Size of a ticket: a job's sequence number. Source: one pipe write is atomic up to 4096 bytes."""


class FrameError(Exception):
    """A child wrote what is no frame."""


class Setup(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The program of this child, once and first."""

    name: str
    entry: str
    source: bytes
    backends: list[str]
    scratch: str
    """Where to work, as it sees it."""
    runtime: str
    """Which of `python_child.PROGRAMS`, or `python` for native Python."""
    artifact: str
    """Path of what runs where that is not the source: a compiled module, a model."""
    packages: str
    """Directory with the packages that the program brings, as it sees it; empty: none."""
    memory_bytes: int
    output_bytes: int
    processes: int
    """Limits, for a child that sets the kernel's by itself before foreign code is there."""


class Run(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Run a job when its ticket is drawn."""

    sequence: int
    job: str
    attempt: int
    deadline_ms: int | None
    input: bytes
    blobs: dict[str, int]
    result_max_bytes: int
    output_max_bytes: int


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Answer to a request. `problem` is empty when it went well."""

    number: int
    problem: str
    answer: Any


class Done(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """A job is over."""

    sequence: int
    error_code: ErrorCode | None
    payload: bytes
    traceback: str
    wall_s: float
    cpu_s: float
    rss_max_bytes: int
    backend: str
    writes: list[Write]
    dirty: bool
    """Something is left behind: end this child."""


class Printed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Output of Python code. `stream` is an index of `output.STREAMS`."""

    stream: int
    data: bytes


class Progressed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """The function reported progress."""

    fraction: float | None
    message: str


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """A call that needs an answer, arguments as `runtimes.requests` says."""

    number: int
    operation: str
    arguments: dict[str, Any]


ToChild: TypeAlias = Setup | Run | Reply
FromChild: TypeAlias = Done | Printed | Progressed | Request


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    """Around a frame, so that `msgspec` looks its type up once."""

    frame: FromChild


def encode_frame(frame: ToChild) -> bytes:
    """Return the bytes of a frame."""
    body = dump_message(msgspec.to_builtins(frame, builtin_types=(bytes,)))
    return len(body).to_bytes(4, "big") + body


def take_frames(unread: bytearray) -> Iterator[FromChild]:
    """Yield the whole frames at the beginning of `unread`, and remove them from it.

    Raises `FrameError` for the first that is none.
    """
    at = 0
    try:
        while len(unread) - at >= 4:
            size = int.from_bytes(unread[at : at + 4], "big")
            if size > FRAME_SIZE_MAX_BYTES:
                raise FrameError(f"a frame of {size} bytes")
            if len(unread) - at - 4 < size:
                break
            body = bytes(unread[at + 4 : at + 4 + size])
            at += 4 + size
            yield _decode(body)
    finally:
        del unread[:at]


def _decode(body: bytes) -> FromChild:
    try:
        rows = load_message(body, FRAME_SIZE_MAX_BYTES)
        frame = msgspec.convert([rows], _Frame, builtin_types=(bytes,)).frame
    except (CodecError, msgspec.ValidationError) as error:
        raise FrameError(f"not a frame: {error}") from error
    match frame:
        case Done():
            _check_done(frame)
        case Request():
            _check_request(frame)
        case Printed():
            if not 0 <= frame.stream <= 2:
                raise FrameError("an unknown stream")
        case Progressed():
            _check(frame.fraction is None or 0 <= frame.fraction <= 1, "a fraction")
            _check(len(frame.message) <= 1024, "a message's length")
    return frame


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise FrameError(f"{what} is out of bounds")


def _check_done(done: Done) -> None:
    # Written so that NaN fails.
    _check(0 <= done.wall_s < 1e9 and 0 <= done.cpu_s < 1e9, "a duration")
    _check(0 <= done.rss_max_bytes < INTEGER_MAX, "a size")
    _check(len(done.traceback) <= 64 * 1024 and len(done.backend) <= 256, "a text")
    for write in done.writes:
        for value in msgspec.structs.astuple(write):
            _check_number(value)
    if done.error_code is None:
        try:
            msgspec.json.decode(done.payload, type=msgspec.Raw)
        except msgspec.DecodeError as error:
            raise FrameError(f"a result is not JSON: {error}") from error


def _check_request(request: Request) -> None:
    _check_number(request.number)
    if wrong := mistake(request.operation, request.arguments):
        raise FrameError(wrong)


def _check_number(value: object) -> None:
    if not within(value):
        raise FrameError("a number is out of bounds")
