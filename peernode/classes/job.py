"""Jobs: one asynchronous run of a function.

A job is handed in (`POST /job`, or `POST /function/:id/call`), and from then on lives at this node
until it is over, whether or not anyone asks for it.  The request never changes; what changes is in
`GET /job/:id`.
"""

import heapq
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec
import trio

from peernode import access, idempotency, listing
from peernode.api import require_match
from peernode.blob_references import find_references
from peernode.calls import (
    Answer,
    Call,
    Nothing,
    ObjectClass,
    Operation,
    Parameter,
    View,
    number,
)
from peernode.classes.job_bodies import (
    Create,
    JobView,
    LogLine,
    LogView,
    ProgressView,
    Set,
    change_view,
    view,
)
from peernode.functions import FunctionVersion
from peernode.job_rows import Change, Request
from peernode.live_jobs import Report
from peernode.permissions import Target
from peernode.problems import Problem, not_found
from peernode.terms import TermsBody, check_limits, to_row
from peernode.timestamps import rfc3339
from peernode.transactions import Transaction
from storage import codec, ids
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

PRIORITY_MAX: Final = 1000
LOG_LINES_MAX: Final = 100_000
EVENT_ID_LENGTH_MAX: Final = 19
"""Digits of an event's id. Source: what fits 63 bits."""
SSE_PING_S: Final = 15.0
"""Comment sent on a silent event stream. Source: common proxies close after 30 to 60 s."""


def find(node: "Node", call: Call, verb: str) -> tuple[Request, JobView]:
    """Return the job a call is about, if its caller may do `verb`; raises `Problem`."""
    request = node.live.request(call.object_id)
    if request is None:
        if call.actor.kind != "anonymous":
            node.lives.require()  # There may have been one.
        access.require(call.actor, "get", Target(class_name="job"), str(call.object_id))
        raise not_found("job", str(call.object_id))
    target = access.target(
        node,
        call.actor,
        "job",
        call.object_id,
        request.project,
        own=request.caller == call.actor.user,
    )
    access.require(call.actor, verb, target)
    with_content = access.may(call.actor, "read_content", target)
    found = view(node, call.object_id, request, with_content=with_content)
    if found is None or found.finished_at is None:
        node.lives.require()  # It may have been over before.
    if found is None:
        raise not_found("job", str(call.object_id))
    return request, found


async def hand_in(
    node: "Node", call: Call, version: FunctionVersion, body: Create, parent: int = 0
) -> Answer:
    """Hand in a job and answer 202, or 200 if the call waits and it ends in time."""
    target = access.target(node, call.actor, "job", 0, version.project)
    if not access.may(call.actor, "create", target):
        access.require(
            call.actor,
            "call",
            access.target(node, call.actor, "function", version.function, version.project),
        )
        access.require(call.actor, "create", target)
    raw_input = b"null" if body.input is msgspec.UNSET else bytes(body.input)
    if version.input_schema is not None:
        from peernode.schemas import check_input

        check_input(version.input_schema, raw_input)
    inputs = sorted((body.inputs or {}).items())
    texts = [blob.blob for _, blob in inputs]
    if b'"blob"' in raw_input:
        texts += find_references(raw_input)
    readable = await access.readable_blobs(node, call.actor, texts) if texts else {}
    named: list[list[Any]] = [[name, int(blob.blob)] for name, blob in inputs]
    stated = (body.requires, body.prefers, body.limits, body.retry, body.isolation)
    terms = b"{}"
    if stated != (None, None, None, None, None):
        check_limits(body.limits, node.config.policy)
        terms = to_row(
            TermsBody(
                requires=body.requires,
                prefers=body.prefers,
                limits=body.limits,
                retry=body.retry,
                isolation=body.isolation,
            )
        )
    wait_s = _wait_s(node, call)
    job, _ = await node.jobs.hand_in(
        version,
        call.actor.user,
        raw_input,
        blobs=named,
        granted=sorted(readable),
        passes=_passes(readable),
        certificate=_certificate(node, call),
        terms=terms,
        parent=parent,
        claim=_claim(call, version),
    )
    if wait_s:
        await node.live.wait_ended(job, wait_s)
    request = node.live.request(job)
    found = None
    if request is not None:
        found = view(node, job, request, with_content=True, with_reasons=False)
    if found is None:
        raise not_found("job", str(job))
    status = 200 if wait_s and found.finished_at else 202
    return Answer(status=status, value=found, headers=((b"location", b"/job/%d" % job),))


def _passes(readable: Mapping[int, bytes | None]) -> list[list[object]]:
    return [[blob, passed] for blob, passed in sorted(readable.items()) if passed is not None]


def _certificate(node: "Node", call: Call) -> bytes:
    """Return what lets this node ask others in the caller's name, where there are others."""
    return b"" if node.foreign is None else call.actor.certificate


def _claim(call: Call, version: FunctionVersion) -> idempotency.Claim | None:
    """Return the claim a call makes: what it asks for stands in its path too."""
    asked = b"%b\0%b" % (call.id_text.encode(), call.raw)
    return idempotency.claim(call.header(b"idempotency-key"), version.project, "job", asked)


def _wait_s(node: "Node", call: Call) -> float:
    wait_max_s = node.config.wait_max_s
    if "wait" in call.query:
        return number(call.query, "wait", 0, 0, wait_max_s)
    prefer = call.header(b"prefer")
    if prefer is None:
        return 0.0
    for part in prefer.decode("latin-1").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "wait" and value.isascii() and value.isdigit():
            return min(float(value), wait_max_s)
    return 0.0


async def _create(node: "Node", call: Call) -> Answer:
    body: Create = call.body
    version = await access.ready_version(node, call.actor, body.function, body.function_version)
    return await hand_in(node, call, version, body)


async def _get(node: "Node", call: Call) -> Answer:
    query = call.query
    _, found = find(node, call, "get")
    if query and "wait" in query and found.finished_at is None:
        await node.live.wait_ended(call.object_id, _wait_s(node, call))
        _, found = find(node, call, "get")
    return Answer(value=found)


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    _, found = find(node, call, "set")
    require_match(call, found.revision)
    if abs(body.priority) > PRIORITY_MAX:
        raise Problem(
            "invalid_field",
            f"priority: from -{PRIORITY_MAX} to {PRIORITY_MAX}",
            field="priority",
            limit=PRIORITY_MAX,
        )
    if found.state != "queued":
        raise Problem("conflict", f"the job is {found.state}; only a queued one has a priority")
    await node.jobs.reprioritise(call.object_id, body.priority)
    return Answer(value=find(node, call, "set")[1])


async def _delete(node: "Node", call: Call) -> Answer:
    request, found = find(node, call, "delete")
    require_match(call, found.revision)
    if found.finished_at is None:
        raise Problem("conflict", f"the job is {found.state}", hint="cancel it first")
    key = ids.key(call.object_id)

    def body(transaction: Transaction) -> None:
        if transaction.get(Table.JOBS, key) is None:
            raise not_found("job", str(call.object_id))
        transaction.delete(Table.JOBS, key)
        transaction.delete(Table.OUTCOMES, key)
        transaction.delete(Table.PROJECT_JOBS, ids.key(request.project) + key)
        for row, _ in transaction.scan(Table.LOGS, key, key + b"\xff" * 9, LOG_LINES_MAX):
            transaction.delete(Table.LOGS, row)

        transaction.after.append(lambda: node.live.recent.forget(call.object_id))

    await node.transactions.run(body)
    return Answer(status=204)


async def _cancel(node: "Node", call: Call) -> Answer:
    _, found = find(node, call, "cancel")
    if found.finished_at is not None and found.state != "cancelled":
        raise Problem("conflict", f"the job is {found.state} already")
    await node.jobs.cancel(call.object_id)
    found = find(node, call, "get")[1]
    if found.state != "cancelled":
        raise Problem("conflict", f"the job {found.state} before it could be cancelled")
    return Answer(value=found)


async def _retry(node: "Node", call: Call) -> Answer:
    request, found = find(node, call, "retry")
    if found.finished_at is None:
        raise Problem("conflict", f"the job is {found.state}")
    function = str(request.function)
    version = await access.ready_version(node, call.actor, function, request.version)
    # The new job has the rights of who hands it in now.
    readable = await access.readable_blobs(node, call.actor, map(str, request.granted))
    job, _ = await node.jobs.hand_in(
        version,
        call.actor.user,
        request.input,
        blobs=request.blobs,
        granted=request.granted,
        passes=_passes(readable),
        certificate=_certificate(node, call),
        terms=request.terms,
        parent=call.object_id,
        claim=_claim(call, version),
    )
    call.object_id = job
    return Answer(
        status=202, value=find(node, call, "get")[1], headers=((b"location", b"/job/%d" % job),)
    )


async def _logs(node: "Node", call: Call) -> Answer:
    find(node, call, "logs")
    key = ids.key(call.object_id)
    lines = [
        LogLine(at=rfc3339(at_ms), stream=stream, text=text)
        for _, row in node.store.scan(Table.LOGS, key, key + b"\xff" * 9, limit=LOG_LINES_MAX)
        for at_ms, stream, text in codec.load_row(row)
    ]
    accept = call.header(b"accept") or b""
    if accept.startswith(b"text/plain"):
        text = "".join(line.text + "\n" for line in lines)
        return Answer(content=text.encode(), media_type=b"text/plain; charset=utf-8")
    return Answer(value=LogView(items=lines))


async def _get_elsewhere(node: "Node", call: Call) -> Answer:
    assert node.foreign is not None
    return await node.foreign.jobs.get(call, _wait_s(node, call) if "wait" in call.query else 0.0)


async def _cancel_elsewhere(node: "Node", call: Call) -> Answer:
    assert node.foreign is not None
    return await node.foreign.jobs.cancel(call)


async def _logs_elsewhere(node: "Node", call: Call) -> Answer:
    assert node.foreign is not None
    return await node.foreign.jobs.follow(call, "job.logs")


async def _events_elsewhere(node: "Node", call: Call) -> Answer:
    assert node.foreign is not None
    return await node.foreign.jobs.follow(call, "job.events", _last_event(call))


def _last_event(call: Call) -> int:
    last = call.header(b"last-event-id") or call.query.get("after", "0").encode()
    if not last.isdigit() or len(last) > EVENT_ID_LENGTH_MAX:
        raise Problem(
            "invalid_field",
            "Last-Event-ID: not the id of an event",
            field="Last-Event-ID",
            limit=EVENT_ID_LENGTH_MAX,
        )
    return min(int(last), ids.ID_END - 1)


async def _events(node: "Node", call: Call) -> Answer:
    find(node, call, "events")
    return Answer(
        stream=_stream(node, call.object_id, _last_event(call)),
        media_type=b"text/event-stream",
        headers=((b"cache-control", b"no-store"),),
    )


async def _stream(node: "Node", job: int, after: int) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events until the job is over; ids are sequence numbers."""
    changes = node.live.changes(job, after)
    try:
        while True:
            change = None
            with trio.move_on_after(SSE_PING_S) as scope:
                change = await anext(changes, None)
            if scope.cancelled_caught:
                changes = node.live.changes(job, after)
                yield b": still here\n\n"
            elif change is None:
                return
            else:
                after = change.sequence
                name, shown = _event(change)
                data = msgspec.json.encode(shown)
                yield b"id: %d\nevent: %b\ndata: %b\n\n" % (change.sequence, name, data)
    finally:
        await changes.aclose()


def _event(event: Change | Report) -> tuple[bytes, View]:
    match event:
        case Report(_, fraction, message):
            return b"progress", ProgressView(fraction=fraction, message=message)
        case Change():
            return b"state", change_view(event)
    assert_never(event)


def _candidates(node: "Node", call: Call, before: int) -> Iterator[JobView]:
    lists = [
        _of_project(node, call, ids.key(project), before)
        for project in access.listed_projects(node, call)
    ]
    yield from heapq.merge(*lists, key=lambda found: -int(found.id))


def _of_project(node: "Node", call: Call, prefix: bytes, before: int) -> Iterator[JobView]:
    stop = prefix + ids.key(before)
    while rows := node.store.scan(
        Table.PROJECT_JOBS, prefix, stop, reverse=True, limit=listing.SCAN_LENGTH
    ):
        for key, _ in rows:
            job = int.from_bytes(key[8:], "big")
            request = node.live.request(job)
            if request is None:
                continue
            target = access.target(
                node,
                call.actor,
                "job",
                job,
                request.project,
                own=request.caller == call.actor.user,
            )
            if access.may(call.actor, "list", target):
                with_content = access.may(call.actor, "read_content", target)
                found = view(node, job, request, with_content=with_content, with_reasons=False)
                if found is not None:
                    yield found
        stop = rows[-1][0]


async def _list(node: "Node", call: Call) -> Answer:
    node.lives.require()
    return await listing.page(call, JobView, lambda before: _candidates(node, call, before))


_PREFER = Parameter(
    name="Prefer", where="header", description="wait=SECONDS, as RFC 7240 has it for `wait`"
)
_WAIT = Parameter(name="wait", description="seconds to wait for the job to end", type="number")
_ACCEPTING = (
    "not_found",
    "input_mismatch",
    "idempotency_mismatch",
    "storage_full",
    "too_large",
    "unreachable",
)
KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    description="the same key and body hand in the same job, for 24 h",
)

JOB = ObjectClass(
    name="job",
    summary="One asynchronous run of a function: handed in, kept, run where it fits, asked for.",
    view=JobView,
    list=Operation(
        handler=_list,
        summary="List jobs, newest first",
        answer=None,
        parameters=(
            Parameter(name="project", description="only of this project"),
            Parameter(name="state", description="only in this state"),
            Parameter(name="function", description="only of this function"),
        ),
    ),
    create=Operation(
        handler=_create,
        summary="Hand in a job; it runs whether or not you wait",
        body=Create,
        answer=JobView,
        status=202,
        statuses=(200,),
        parameters=(_WAIT, _PREFER, KEY),
        problems=_ACCEPTING,
    ),
    get=Operation(
        handler=_get,
        summary="Read a job, at once or when it has ended",
        answer=JobView,
        parameters=(_WAIT,),
        problems=("not_found", "unreachable"),
        elsewhere=_get_elsewhere,
    ),
    set=Operation(
        handler=_set,
        summary="Change the priority of a queued job",
        body=Set,
        answer=JobView,
        problems=("not_found", "conflict", "precondition_failed"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Delete a job that is over",
        status=204,
        problems=("not_found", "conflict", "precondition_failed"),
    ),
    methods={
        "cancel": Operation(
            handler=_cancel,
            summary="End a job and everything it started",
            body=Nothing,
            answer=JobView,
            problems=("not_found", "conflict", "unreachable"),
            elsewhere=_cancel_elsewhere,
            waits=True,
        ),
        "retry": Operation(
            handler=_retry,
            summary="Hand in the same request again, as a new job",
            body=Nothing,
            answer=JobView,
            status=202,
            parameters=(KEY,),
            problems=("not_found", "conflict"),
        ),
    },
    reads={
        "logs": Operation(
            handler=_logs,
            summary="Read a job's output (JSON, or text with Accept: text/plain)",
            answer=LogView,
            media_types_also=("text/plain",),
            problems=("not_found", "unreachable"),
            elsewhere=_logs_elsewhere,
        ),
        "events": Operation(
            handler=_events,
            summary="Follow a job as server-sent events",
            waits=True,
            media_type="text/event-stream",
            problems=("not_found", "unreachable"),
            elsewhere=_events_elsewhere,
            parameters=(
                Parameter(
                    name="Last-Event-ID", where="header", description="go on after this event"
                ),
            ),
        ),
    },
)
