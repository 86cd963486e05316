"""On what terms a job runs: what a function asks for, what its caller asks for, and the result.

A caller's terms replace a function's field by field; what neither says is a default.  Isolation is
not replaced: the strongest that node, function or caller asks for is what a job gets.  Nor is what
the node lets a job use: who states more here is refused (`check_limits`), and a function that was
deployed elsewhere gets the node's most.  The result splits by who keeps it: the scheduler
(`Requires`, `Retry`, `Timeouts`) and the worker (`Limits`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec

from peernode.calls import Body
from peernode.problems import Problem
from worker.capabilities import strongest
from worker.events import Preference, Requires, Retry, Timeouts
from worker.protocol import Isolation, Limits, Runtime

Seconds = Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Label = Annotated[str, msgspec.Meta(max_length=63)]

LabelPair = Annotated[str, msgspec.Meta(max_length=127, pattern="=")]
Weight = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
PREFERENCES: Final = msgspec.Meta(max_length=16)
"""Most preferences of one kind. Source: guess; each is looked at for each worker that attaches."""

MEMORY_MIN_BYTES: Final = 16 << 20
"""Least memory of a job. Source: an interpreter with nothing to do takes 10 MB."""
SIZE_MAX_BYTES: Final = 1 << 50
"""Most that can be written down at all. Source: guess; what a node gives is its policy."""
MEMORY: Final = msgspec.Meta(ge=MEMORY_MIN_BYTES, le=SIZE_MAX_BYTES)
Bytes = Annotated[int, msgspec.Meta(ge=1, le=SIZE_MAX_BYTES)]
QUEUE_S_DEFAULT: Final = 86400.0
MEMORY_STEP_BYTES: Final = 64 << 20
"""What memory needs are rounded up to. Source: guess; the scheduler keeps a queue for each need."""
INTERNED_MAX: Final = 65536
"""Distinct terms kept as one object each. Source: one a function version, with room."""


class LimitsBody(Body, omit_defaults=True, frozen=True, kw_only=True):
    """Limits of a job. Times are wall-clock seconds."""

    run_s: Seconds | None = None
    queue_s: Seconds | None = None
    total_s: Seconds | None = None
    heartbeat_s: Seconds | None = None
    memory_bytes: Annotated[int, MEMORY] | None = None
    output_bytes: Bytes | None = None
    processes: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] | None = None
    jobs_per_process: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None
    """1: a fresh process for each job."""


class RetryBody(Body, omit_defaults=True, frozen=True, kw_only=True):
    """Which failed attempts are tried again, how often, and how long after."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    backoff_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] | None = None
    on: list[Literal["error", "timeout", "limit", "lost"]] | None = None


class RequiresBody(Body, omit_defaults=True, frozen=True, kw_only=True):
    """What a job needs of a worker."""

    cpu: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    memory_bytes: Bytes | None = None
    gpu: Count | None = None
    gpu_memory_bytes: Bytes | None = None
    arch: Label | None = None
    labels: dict[Label, Label] | None = None


class PrefersBody(Body, omit_defaults=True, frozen=True, kw_only=True):
    """What a job likes its worker to have: weights that add up. It never waits for any of it."""

    labels: Annotated[dict[LabelPair, Weight], PREFERENCES] | None = None
    """By `NAME=VALUE`."""
    arch: Annotated[dict[Label, Weight], PREFERENCES] | None = None
    accelerators: Annotated[dict[Label, Weight], PREFERENCES] | None = None
    """By kind: `cuda`, `rocm`, `npu`, ..."""
    backends: Annotated[dict[Label, Weight], PREFERENCES] | None = None
    """By name of the ONNX execution provider."""


class TermsBody(Body, omit_defaults=True, frozen=True, kw_only=True):
    """The terms a function or a caller states."""

    requires: RequiresBody | None = None
    prefers: PrefersBody | None = None
    limits: LimitsBody | None = None
    retry: RetryBody | None = None
    isolation: Isolation | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """All terms of a job, nothing left open. Equal terms are one object."""

    requires: Requires
    retry: Retry
    timeouts: Timeouts
    limits: Limits
    isolation: Isolation
    prefers: tuple[Preference, ...]


_DEFAULTS: Final = Limits()
_ENCODE = msgspec.json.Encoder(order="deterministic").encode
_DECODE = msgspec.json.Decoder(TermsBody).decode
NO_TERMS: Final = b"{}"


def to_row(body: TermsBody) -> bytes:
    """Return stated terms as they are kept: deterministic JSON, `{}` for none."""
    return _ENCODE(body)


def from_row(row: bytes) -> TermsBody:
    """Return the terms of `to_row`."""
    return _DECODE(row)


def for_architecture(row: bytes, arch: str) -> bytes:
    """Return a function's terms for a program that only one architecture runs (empty: any does)."""
    if not arch:
        return row
    terms = from_row(row)
    requires = msgspec.structs.replace(terms.requires or RequiresBody(), arch=arch)
    return to_row(msgspec.structs.replace(terms, requires=requires))


@dataclass(frozen=True, slots=True)
class Policy:
    """What a node asks of every job that it runs."""

    isolation: Isolation = "process"
    """The weakest level."""
    jobs_per_process: int | None = None
    """The most jobs that one process runs."""
    memory_bytes: int = SIZE_MAX_BYTES
    """The most memory of a job, its processes together."""
    output_bytes: int = SIZE_MAX_BYTES
    """The most that a job writes."""

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """The most of each limit that is a size, by its name."""
        return ("memory_bytes", self.memory_bytes), ("output_bytes", self.output_bytes)


def check_limits(stated: LimitsBody | None, policy: Policy) -> None:
    """Raise a `Problem` for a limit beyond what the node lets any job have."""
    if stated is None:
        return
    for name, most in policy.sizes:
        value = getattr(stated, name)
        if value is not None and value > most:
            raise Problem(
                "invalid_field",
                f"limits.{name}: {value} is over {most}, the most that this node lets a job have",
                hint="state less, or ask the operator",
                field=f"limits.{name}",
                limit=most,
            )


@lru_cache(maxsize=INTERNED_MAX)
def resolve(
    runtime: Runtime,
    function_terms: bytes,
    caller_terms: bytes,
    policy: Policy = Policy(),
    wheels: tuple[str, ...] = (),
) -> Terms:
    """Return the terms of a job from those of its function and its caller (rows of `to_row`).

    `wheels`: the tags of what its program brings.

    Where safety is at stake nobody's word is replaced: the strongest isolation and the fewest jobs
    for a process win, and of memory and output nobody gets more than the node's most.  Nor is
    replaced what an executable says of its architecture.
    """
    function, caller = from_row(function_terms), from_row(caller_terms)
    limits = _merge(function.limits, caller.limits, LimitsBody)
    requires = _merge(function.requires, caller.requires, RequiresBody)
    bound = function.requires if runtime == "exec" else None
    retry = _merge(function.retry, caller.retry, RetryBody)
    stated_retry: dict[str, Any] = {
        name: value
        for name in ("max_attempts", "backoff_s")
        if (value := getattr(retry, name)) is not None
    }
    if retry.on is not None:
        stated_retry["on"] = frozenset(retry.on)
    isolation = strongest((policy.isolation, function.isolation, caller.isolation))
    worker_limits: dict[str, Any] = {
        name: value
        for name in ("run_s", "heartbeat_s", "memory_bytes", "output_bytes", "processes")
        if (value := getattr(limits, name)) is not None
    }
    for name, most in policy.sizes:
        worker_limits[name] = min(worker_limits.get(name, getattr(_DEFAULTS, name)), most)
    jobs = [policy.jobs_per_process]
    jobs += [body.limits.jobs_per_process for body in (function, caller) if body.limits]
    worker_limits["jobs_per_process"] = min((most for most in jobs if most), default=None)
    return Terms(
        _intern(
            Requires(
                runtime=runtime,
                isolation=isolation,
                cpu=requires.cpu or 1,
                memory_bytes=_rounded(requires.memory_bytes or 0),
                gpu=requires.gpu or 0,
                gpu_memory_bytes=requires.gpu_memory_bytes or 0,
                arch=(bound or requires).arch or "",
                labels=tuple(sorted((requires.labels or {}).items())),
                wheels=wheels,
            )
        ),
        Retry(**stated_retry),
        Timeouts(
            queue_s=limits.queue_s or QUEUE_S_DEFAULT,
            run_s=limits.run_s,
            total_s=limits.total_s,
            heartbeat_s=limits.heartbeat_s,
        ),
        Limits(**worker_limits),
        isolation,
        _preferences(_merge(function.prefers, caller.prefers, PrefersBody)),
    )


def _preferences(prefers: PrefersBody) -> tuple[Preference, ...]:
    """Return preferences in an order of their own; those that weigh nothing are left out."""
    weights = (
        [Preference("label", pair, weight) for pair, weight in (prefers.labels or {}).items()]
        + [Preference("arch", arch, weight) for arch, weight in (prefers.arch or {}).items()]
        + [
            Preference("accelerator", x, weight)
            for x, weight in (prefers.accelerators or {}).items()
        ]
        + [Preference("backend", name, weight) for name, weight in (prefers.backends or {}).items()]
    )
    kept = [preference for preference in weights if preference.weight]
    return tuple(sorted(kept, key=lambda one: (one.kind, one.value)))


def _rounded(size_bytes: int) -> int:
    """Return the next multiple of a step: jobs of like needs wait in one queue."""
    return -(-size_bytes // MEMORY_STEP_BYTES) * MEMORY_STEP_BYTES


@lru_cache(maxsize=INTERNED_MAX)
def _intern(requires: Requires) -> Requires:
    return requires


def _merge(function: Any, caller: Any, kind: type[Any]) -> Any:
    if function is None or caller is None:
        return caller or function or kind()
    stated = {
        name: value
        for name in kind.__struct_fields__
        if (value := getattr(caller, name)) is not None
    }
    return msgspec.structs.replace(function, **stated)
