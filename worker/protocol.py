"""What a node and a worker say to each other: the messages of one link.

A link carries *batches* both ways: each WebSocket message is one CBOR array of messages, each of
them an array `[kind, field, ...]`.  Batches are what makes 2500 jobs a second cheap: whatever is
ready when the link is free goes out together.

The worker speaks first (`Hello`), the node answers `Welcome` or closes.  The node then leases
jobs; a `Program` always precedes the first lease that names it on a link.  A job's `fence` names
one attempt: anything that carries another fence than the job's current one is refused
(`Refused`), and changes nothing.  The worker keeps every `Finished` until it is acknowledged
(`Acked`), and sends it again after a reconnect; `Acked` means durable at the node.

Function inputs and results travel as opaque JSON text (bytes), never as CBOR values: they may hold
floats, which the deterministic subset that records use has no place for.

Limits: `Limits` below; every one is checked by the receiver.

`docs/worker-protocol.md` says all of this to who writes a worker in another language; a test
compares the two.
"""

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

VERSION: Final = 1
"""Protocol version, in `Hello` and `Welcome`. Another version is refused by name."""

MESSAGE_SIZE_MAX_BYTES: Final = 4 * 1024 * 1024
"""Largest WebSocket message. Source: a 1 MiB result, its writes and a batch around them."""

BATCH_LENGTH_MAX: Final = 1024
"""Most messages in one batch. Source: guess."""

CHUNK_SIZE_MAX_BYTES: Final = 1024 * 1024
"""Most blob bytes in one call or reply. Source: the UnixFS chunk size."""

SOURCE_SENT_MAX_BYTES: Final = 1024 * 1024
"""Largest source in a `Program`. Source: a quarter of `MESSAGE_SIZE_MAX_BYTES`."""

Isolation = Literal["wasm", "sandbox", "process"]
Runtime = Literal["python", "wasm", "onnx", "exec"]
ErrorCode = Literal[
    "function_error",  # the function raised; traceback says where
    "result_invalid",  # what it returned is not JSON (or over the limit of a result's depth)
    "exited",  # its process ended by itself, or by a signal that was not ours
    "memory_limit",
    "output_limit",  # result, log or a written file over output_bytes
    "process_limit",
    "run_timeout",
    "heartbeat_timeout",
    "setup_failed",  # the program could not be started on this worker: its author's fault
    "backend_unavailable",  # no backend took the model, or not the best in strict inference
    "write_refused",  # a buffered KV or blob write could not be applied
]


Word = Annotated[str, msgspec.Meta(max_length=256)]
Words = Annotated[list[Word], msgspec.Meta(max_length=64)]
Levels = Annotated[list[Isolation], msgspec.Meta(max_length=8)]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
"""What an offer is made of. Source: guess; ten times what a machine says, and sums stay small."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array whose first element is the kind."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator of a machine. Travels as a map that may grow, as `Offer` does."""

    kind: Word
    """`cuda`, `rocm`, `intel`, `npu`, `tpu`, ...; what counts as a GPU: `worker.capabilities`."""
    name: Word = ""
    memory_bytes: Size = 0
    """0: not known, or the machine's own."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker measured about its machine.

    Travels as a map, so that it can grow: who reads it ignores names it does not know, and what is
    missing has the default here.
    """

    slots: Annotated[int, msgspec.Meta(ge=0, le=4096)]
    """Jobs it runs at once."""
    cores: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
    memory_bytes: Size
    arch: Word
    """As `uname -m` has it: `x86_64`, `aarch64`, ..."""
    runtimes: Words
    isolation: Levels
    """Levels this worker can give, of `wasm`, `sandbox`, `process`."""
    levels: Annotated[dict[Word, Levels], msgspec.Meta(max_length=64)] = {}
    """The levels of each runtime; empty: every runtime at every level of `isolation`."""
    backends: Words = []
    """What runs models, best first: see `worker.inference`; empty where none is installed."""
    accelerators: Annotated[list[Accelerator], msgspec.Meta(max_length=64)] = []
    labels: Annotated[dict[Word, Word], msgspec.Meta(max_length=64)] = {}
    python: Word = ""
    """Version of the interpreter that runs Python functions."""
    pythons: Words = []
    """Versions of all interpreters on the machine, as `3.11`."""
    wasm_engine: Word = ""
    """Name and version; empty where none is installed."""
    processor: Word = ""
    """Its name, for people."""
    system: Word = ""
    """Operating system, as `uname -s` has it."""
    libc: Word = ""
    """C library that compiled wheels meet, as `glibc 2.36`; empty where it is not known."""
    speed_rounds_per_s: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    """Of one core, in rounds of `worker.benchmark`; 0: not measured."""
    software: Word = ""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one job, all resolved (no defaults left to fill in). `None`: no limit."""

    run_s: float | None = None
    heartbeat_s: float | None = None
    memory_bytes: int = 1 << 30
    output_bytes: int = 64 << 20
    result_bytes: int = 1 << 20
    """Largest inline result; the child turns a larger one into a blob."""
    processes: int = 64
    jobs_per_process: int | None = None
    """After so many jobs a process is replaced; 1: a fresh one for each job."""


# --- worker to node -------------------------------------------------------------------------


class Held(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One attempt the worker runs or has finished without an acknowledgement."""

    job: int
    fence: int


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What an attempt used."""

    started_ms: int
    """Wall clock of the worker, ms since 1970."""
    wall_s: float
    cpu_s: float
    rss_max_bytes: int


class KvPut(Message, frozen=True, tag=1):
    """A buffered write: set a key. `value` is JSON text."""

    space: int
    key: str
    value: bytes
    ttl_s: float | None = None


class KvDelete(Message, frozen=True, tag=2):
    """A buffered write: delete a key."""

    space: int
    key: str


class KvIncrement(Message, frozen=True, tag=3):
    """A buffered write: add to a number (local and cas spaces only)."""

    space: int
    key: str
    by: int


class BlobKeep(Message, frozen=True, tag=4):
    """A buffered write: keep the blob of a finished upload."""

    blob: int


class BlobDelete(Message, frozen=True, tag=5):
    """A buffered write: delete a blob."""

    blob: int


Write: TypeAlias = KvPut | KvDelete | KvIncrement | BlobKeep | BlobDelete


class Hello(Message, frozen=True, tag=10):
    """First message of a worker."""

    version: int
    offer: Offer
    held: list[Held]


class Beat(Message, frozen=True, tag=11):
    """The worker lives: renews the leases of everything it holds."""


class Started(Message, frozen=True, tag=12):
    """A job runs. Left out for a job that ends within `STARTED_DELAY_S` of its start."""

    job: int
    fence: int
    elapsed_s: float
    """How long it has run when this is sent."""


class Progress(Message, frozen=True, tag=13):
    """A function reported progress (also its heartbeat). At most 10 a second a job."""

    job: int
    fence: int
    fraction: float | None
    message: str


class Log(Message, frozen=True, tag=14):
    """Output of a job: lines of `edge.log`, stdout and stderr, in order."""

    job: int
    fence: int
    lines: list[tuple[int, str, str]]
    """`(wall ms, stream, text)`; stream is `log`, `stdout`, `stderr`; text is valid Unicode."""


class Finished(Message, frozen=True, tag=15):
    """An attempt is over. Kept by the worker until `Acked`."""

    job: int
    fence: int
    error_code: ErrorCode | None
    """`None`: it succeeded."""
    payload: bytes
    """The result as JSON text, or the error's message as UTF-8."""
    traceback: str
    usage: Usage
    backend: str
    """What ran the last model, one of the offer's `backends`, or empty."""
    writes: list[Write]
    """Applied in the transaction that makes the job succeeded; empty when it did not."""


class Returned(Message, frozen=True, tag=16):
    """A recalled or drained lease given back, never started."""

    job: int
    fence: int


class Call(Message, frozen=True, tag=17):
    """A call of function code that needs its answer now."""

    call: int
    """Number chosen by the worker, unique on the link."""
    job: int
    fence: int
    operation: str
    """See `OPERATIONS` for names, arguments and answers."""
    arguments: dict[str, Any]


FromWorker: TypeAlias = Hello | Beat | Started | Progress | Log | Finished | Returned | Call

# --- node to worker -------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag=30):
    """The node took the worker."""

    version: int
    worker: int
    beat_interval_s: float


class Wheel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A package that a program brings: a wheel, which `program.read` has."""

    cid: str
    size_bytes: int
    name: str
    """Its file name."""


class Program(Message, frozen=True, tag=31):
    """A function version, sent before the first lease that names it."""

    program: str
    """`"<function id>.<version>"`."""
    runtime: Runtime
    entry: str
    """Name of the handler in the source."""
    source: bytes
    """Empty when it is larger than `SOURCE_SENT_MAX_BYTES`: `program.read` has it."""
    egress: list[str]
    """Hosts that `edge.http` may reach, as `host` or `host:port`."""
    cid: str = ""
    """Content address of a source that is not sent along, and its size."""
    size_bytes: int = 0
    wheels: list[Wheel] = []
    """What is importable beside its source; of a Python program only."""


class Lease(Message, frozen=True, tag=32):
    """Run this attempt."""

    job: int
    fence: int
    attempt: int
    program: str
    input: bytes
    """JSON text."""
    blobs: dict[str, int]
    """`inputs`: name -> blob id."""
    limits: Limits
    isolation: Isolation
    """The level to run at; the worker offered it."""
    deadline_ms: int | None
    """Wall clock by which the whole job must be over, for `edge.job`."""


class Kill(Message, frozen=True, tag=33):
    """End this attempt and everything it started; answer nothing."""

    job: int
    fence: int
    reason: str


class Recall(Message, frozen=True, tag=34):
    """Give this lease back if it has not started."""

    job: int
    fence: int


class Acked(Message, frozen=True, tag=35):
    """These outcomes are durable: forget them."""

    attempts: list[Held]


class Refused(Message, frozen=True, tag=36):
    """This attempt is not the job's current one: stop it and forget it."""

    job: int
    fence: int


class Reply(Message, frozen=True, tag=37):
    """Answer to a `Call`."""

    call: int
    error: str
    """Empty when it went well, else a problem code such as `not_found` or `forbidden`."""
    answer: Any


class Drain(Message, frozen=True, tag=38):
    """Finish what runs, give back what has not started, take nothing new."""


ToWorker: TypeAlias = Welcome | Program | Lease | Kill | Recall | Acked | Refused | Reply | Drain

STARTED_DELAY_S: Final = 0.02
"""A job that ends sooner sends no `Started`. Source: ten times the cost of a no-op job."""

OPERATIONS: Final = {
    "kv.open": "{name} -> {space: int, scope, mode, home: int of another node}; not_found",
    "kv.get": "{space, key} -> {value: bytes JSON, version: int} or null",
    "kv.list": "{space, prefix, cursor: str or null} -> {keys: [str], cursor: str or null}",
    "kv.put": "{space, key, value: bytes JSON, ttl_s, if_version} -> {version}; applied now",
    "kv.delete": "{space, key} -> {}; applied now",
    "kv.increment": "{space, key, by} -> {value: int}; applied now",
    "blob.stat": "{blob} -> {cid: str, size_bytes, media_type, name}",
    "blob.read": "{blob, offset, length <= CHUNK_SIZE_MAX_BYTES} -> bytes",
    "program.read": "{offset, length <= CHUNK_SIZE_MAX_BYTES, wheel: int or null} -> bytes of the "
    "job's program, or of the wheel of that index",
    "blob.begin": "{media_type, name} -> {upload: int}",
    "blob.append": "{upload, data: bytes} -> {}",
    "blob.finish": "{upload} -> {blob: int, cid: str, size_bytes}; kept only if the job keeps it",
    "secret.get": "{name} -> {value: str}; not_found; kept in memory only, out of every log",
    "job.call": "{function: str, input: bytes JSON} -> {job: str}; a child job",
}
"""Operations of `Call`: arguments -> answer."""
