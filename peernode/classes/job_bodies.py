"""What goes in and comes out of the API for jobs."""

from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec
import trio

from peernode.calls import (
    Body,
    ObjectView,
    View,
)
from peernode.job_rows import Change, Outcome, Request
from peernode.live_jobs import LiveJob
from peernode.terms import LimitsBody, PrefersBody, RequiresBody, RetryBody
from peernode.timestamps import rfc3339
from storage import ids
from worker.events import TERMINAL
from worker.protocol import Isolation

if TYPE_CHECKING:
    from peernode.node import Node


NULL: Final = msgspec.Raw(b"null")
ESTIMATE_MAX_S: Final = 366 * 86400.0
"""Later starts are not told. Source: the longest time limit."""


State = Literal[
    "queued", "leased", "running", "succeeded", "failed", "cancelled", "expired", "poisoned"
]


class BlobInput(Body, frozen=True, kw_only=True):
    """A blob passed to a function by name."""

    blob: str


class Create(Body, frozen=True, kw_only=True):
    """A job to be."""

    function: str
    function_version: int | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: dict[str, BlobInput] | None = None
    requires: RequiresBody | None = None
    prefers: PrefersBody | None = None
    limits: LimitsBody | None = None
    retry: RetryBody | None = None
    isolation: Isolation | None = None


class Set(Body, frozen=True, kw_only=True):
    """What may change of a job, while it is queued."""

    priority: int


class ErrorView(View, omit_defaults=True, frozen=True, kw_only=True):
    """Why a job did not succeed."""

    code: str
    message: str
    traceback: str | None = None


class ProgressView(View, frozen=True, kw_only=True):
    """What the function last reported."""

    fraction: float | None
    message: str


class UsageView(View, frozen=True, kw_only=True):
    """What the last attempt used."""

    wall_s: float
    cpu_s: float
    rss_max_bytes: int


class ReasonView(View, frozen=True, kw_only=True):
    """One reason why a job waits."""

    code: str
    detail: str
    worker: str | None


class ChangeView(View, frozen=True, kw_only=True):
    """One state a job was in."""

    state: str
    at: str
    attempt: int
    worker: str | None
    cause: str | None


class JobView(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A job."""

    function: str
    function_version: int
    project: str
    caller: str
    parent: str | None
    request_cid: str
    state: State
    attempt: int
    input: msgspec.Raw
    result: msgspec.Raw
    error: ErrorView | None
    progress: ProgressView | None
    worker: str | None
    backend: str | None
    """What ran the last model; `null`: none ran."""
    backend_fallback_from: str | None
    """The worker's best backend, where that did not take the model and `backend` stood in."""
    isolation: str | None
    usage: UsageView | None
    priority: int
    pending_reasons: list[ReasonView]
    estimated_start_at: str | None
    """When it may start, while it waits: an estimate by measured run times; `null`: unknown."""
    history: list[ChangeView]
    started_at: str | None
    finished_at: str | None


class LogLine(View, frozen=True, kw_only=True):
    """One line of a job's output."""

    at: str
    stream: str
    text: str


class LogView(View, frozen=True, kw_only=True):
    """A job's output, oldest line first."""

    items: list[LogLine]


def _optional(identifier: int) -> str | None:
    return str(identifier) if identifier else None


def change_view(change: Change) -> ChangeView:
    """Return one state as readers see it."""
    return ChangeView(
        state=change.state,
        at=rfc3339(change.at_ms),
        attempt=change.attempt,
        worker=_optional(change.worker),
        cause=change.cause or None,
    )


def view(
    node: "Node", job: int, request: Request, *, with_content: bool, with_reasons: bool = True
) -> JobView | None:
    """Return the job as its readers see it, or `None` if it was deleted meanwhile.

    Why it waits is worked out only if asked for: it takes a look at every worker.
    """
    live = node.live.get(job)
    if live is not None:
        return _live_view(node, live, request, with_content, with_reasons)
    outcome = node.live.outcome(job)
    if outcome is None:
        return None
    request_cid = node.live.request_cid(job)
    return ended_view(job, request, outcome, request_cid=request_cid, with_content=with_content)


def _common(job: int, request: Request, *, request_cid: str, with_content: bool) -> dict[str, Any]:
    return {
        "id": str(job),
        "class_name": "job",
        "created_at": rfc3339(request.created_ms),
        "home_node": ids.node_number(job),
        "function": str(request.function),
        "function_version": request.version,
        "project": str(request.project),
        "caller": str(request.caller),
        "parent": _optional(request.parent),
        "request_cid": request_cid,
        "input": msgspec.Raw(request.input) if with_content else NULL,
    }


def ended_view(
    job: int, request: Request, outcome: Outcome, *, request_cid: str, with_content: bool
) -> JobView:
    """Return a job that is over, of this node or another, as its readers see it."""
    succeeded = outcome.state == "succeeded"
    error = None
    if not succeeded:
        error = ErrorView(
            code=outcome.code,
            message=outcome.payload.decode(errors="replace") if with_content else "",
            traceback=outcome.traceback or None if with_content else None,
        )
    progress = None
    if outcome.progress is not None and with_content:
        progress = ProgressView(fraction=outcome.progress[0], message=outcome.progress[1])
    return JobView(
        **_common(job, request, request_cid=request_cid, with_content=with_content),
        revision=f"{outcome.history[-1][0]}",
        state=cast("State", outcome.state),
        attempt=outcome.attempt,
        result=msgspec.Raw(outcome.payload) if succeeded and with_content else NULL,
        error=error,
        progress=progress,
        worker=_optional(outcome.worker),
        backend=outcome.backend or None,
        backend_fallback_from=outcome.backend_fallback_from or None,
        isolation=outcome.isolation,
        usage=UsageView(
            wall_s=outcome.wall_s, cpu_s=outcome.cpu_s, rss_max_bytes=outcome.rss_max_bytes
        ),
        priority=0,
        pending_reasons=[],
        estimated_start_at=None,
        history=[change_view(Change._make(fields)) for fields in outcome.history],
        started_at=rfc3339(outcome.started_ms) if outcome.started_ms else None,
        finished_at=rfc3339(outcome.finished_ms),
    )


def _estimated_start_at(node: "Node", job: int) -> str | None:
    starts_in_s = node.dispatch.scheduler.starts_in_s(job, trio.current_time())
    if starts_in_s is None or starts_in_s > ESTIMATE_MAX_S:
        return None
    return rfc3339(node.clock.wall_ms() + int(starts_in_s * 1000))


def _live_view(
    node: "Node", live: LiveJob, request: Request, with_content: bool, with_reasons: bool
) -> JobView:
    snapshot = node.dispatch.scheduler.snapshot(live.job)
    state: State = snapshot.state if snapshot else "queued"
    history = live.history()
    if state in TERMINAL:  # Decided, and not durable yet: nobody may see it.
        state = "running"
    reasons, start_at = [], None
    if state == "queued" and with_reasons:
        start_at = _estimated_start_at(node, live.job)
        reasons = [
            ReasonView(code=reason.code, detail=reason.detail, worker=_optional(reason.worker))
            for reason in node.dispatch.scheduler.reasons(live.job, trio.current_time())
        ]
    started = [change.at_ms for change in history if change.state == "running"]
    progress = None
    if live.progress is not None and with_content:
        progress = ProgressView(fraction=live.progress[0], message=live.progress[1])
    return JobView(
        **_common(
            live.job,
            request,
            request_cid=node.live.request_cid(live.job),
            with_content=with_content,
        ),
        revision=f"{live.sequence}-{live.priority}" if live.priority else str(live.sequence),
        state=state,
        attempt=snapshot.attempt if snapshot else 0,
        result=NULL,
        error=None,
        progress=progress,
        worker=_optional(snapshot.worker) if snapshot and state != "queued" else None,
        backend=None,
        backend_fallback_from=None,
        isolation=live.isolation,
        usage=None,
        priority=live.priority,
        pending_reasons=reasons,
        estimated_start_at=start_at,
        history=[change_view(change) for change in history],
        started_at=rfc3339(started[-1]) if started and state == "running" else None,
        finished_at=None,
    )
