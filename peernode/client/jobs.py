"""A job seen by its requester: hand it in, leave, come back, follow it, get its result.

`POST` goes out under an idempotency key, so a hand-in that is repeated after a lost connection
is one job.  Waiting is long polling in slices: a connection that dies in the middle costs one
slice and nothing else.  Events resume after the last one seen.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from peernode.client.effects import (
    Close,
    Emit,
    Headers,
    Object,
    Operation,
    Request,
    Wait,
    new_key,
    now,
    open_answer,
    read,
    send,
)
from peernode.client.errors import ConfigurationError, ConnectionFailed, JobFailed, JobTimeout
from peernode.client.objects import attributes, get, path_of, post
from peernode.client.sse import Parser

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired", "poisoned"})

WAIT_SLICE_S = 25.0
"""Longest single wait. Source: below the 30 s after which common proxies cut a silent answer."""

WAIT_SLACK_S = 15.0
"""How much longer than a wait its answer may take. Source: guess."""

EVENTS_QUIET_MAX_S = 60.0
"""Silence on an event stream after which it is opened anew. Source: four keep-alives of 15 s."""

EVENTS_CUTS_MAX = 8
"""Cuts of an event stream in a row, without an event between them, before giving up.
Source: guess; each is already retried by the connection's own policy."""

EVENTS_CUT_DELAY_S = 0.1
"""Pause after the first cut in a row; it grows by as much. Source: guess."""

IN_FLIGHT_DEFAULT = 64
"""Jobs that `map` has out at once. Source: guess, a few times the slots of a small mesh."""


class JobOptions(TypedDict, total=False):
    """What a caller may say about a job besides its input; the HTTP API's own fields."""

    function_version: int
    inputs: Mapping[str, str | Mapping[str, str]]
    """Name -> blob id, or `{"blob": ID}`."""
    requires: Mapping[str, Any]
    prefers: Mapping[str, Mapping[str, int]]
    """`labels` (by `NAME=VALUE`), `arch`, `accelerators`, `backends`: name -> weight."""
    limits: Mapping[str, Any]
    isolation: str
    retry: Mapping[str, Any]
    idempotency_key: str
    """Yours instead of a random one: two hand-ins under one key are one job."""


def spawn(
    function_id: str, input: Any, options: JobOptions, wait_s: float = 0.0
) -> Operation[Object]:
    """Hand in a job and return it; with `wait_s`, finished if it finishes in time."""
    body: dict[str, Any] = {"function": function_id, "input": input}
    for name, value in options.items():
        if name == "inputs":
            assert isinstance(value, Mapping)
            body[name] = {
                key: {"blob": blob} if isinstance(blob, str) else blob
                for key, blob in value.items()
            }
        elif name != "idempotency_key" and value is not None:
            body[name] = value
    key = options.get("idempotency_key") or (yield from new_key())
    request = post(
        "/job",
        body,
        {"wait": f"{wait_s:g}"} if wait_s > 0 else {},
        headers=(("idempotency-key", key),),
        repeatable=True,
        timeout_s=WAIT_SLACK_S + wait_s,
    )
    return (yield from send(request)).object()


def outcome(job: Object) -> Any:
    """Return the result of a finished job. Raises `JobFailed`."""
    if job["state"] != "succeeded":
        error = job.get("error") or {}
        raise JobFailed(
            str(job["id"]),
            str(job["state"]),
            str(error.get("code", "")),
            str(error.get("message", "")),
            error.get("traceback"),
        )
    return job.get("result")


def wait_for(job_id: str, timeout_s: float | None) -> Operation[Object]:
    """Return the finished job. Raises `JobTimeout` after `timeout_s`; `None` waits for ever."""
    started_at_s = yield from now()
    while True:
        elapsed_s = (yield from now()) - started_at_s
        slice_s = WAIT_SLICE_S
        if timeout_s is not None:
            slice_s = max(0.0, min(slice_s, timeout_s - elapsed_s))
        query = {"wait": f"{slice_s:.3f}"}
        request = get(path_of("job", job_id), query, timeout_s=slice_s + WAIT_SLACK_S)
        job = (yield from send(request)).object()
        if job["state"] in TERMINAL:
            return job
        elapsed_s = (yield from now()) - started_at_s
        if timeout_s is not None and elapsed_s >= timeout_s:
            raise JobTimeout(job_id, str(job["state"]), timeout_s)


def result(job_id: str, timeout_s: float | None) -> Operation[Any]:
    """Return what the function returned. Raises `JobFailed`, `JobTimeout`."""
    return outcome((yield from wait_for(job_id, timeout_s)))


def call(function_id: str, input: Any, wait_s: float | None, options: JobOptions) -> Operation[Any]:
    """Hand in a job and return its result, one round trip if it is quick.

    Raises `JobTimeout` after `wait_s`; `None` waits for ever.
    """
    started_at_s = yield from now()
    first_s = WAIT_SLICE_S if wait_s is None else min(wait_s, WAIT_SLICE_S)
    job = yield from spawn(function_id, input, options, first_s)
    if job["state"] in TERMINAL:
        return outcome(job)
    left_s = None
    if wait_s is not None:
        left_s = max(0.0, wait_s - ((yield from now()) - started_at_s))
    return (yield from result(str(job["id"]), left_s))


def map_inputs(
    function_id: str,
    inputs: Iterable[Any],
    in_flight_max: int,
    return_errors: bool,
    options: JobOptions,
) -> Operation[None]:
    """Emit the results of one job an input, in the order of the inputs.

    At most `in_flight_max` are out at once.  A `JobFailed` ends it, unless `return_errors`: then
    it is emitted in its place.
    """
    if "idempotency_key" in options:
        raise ConfigurationError("one idempotency key for many jobs would make them one job")
    out: deque[str] = deque()
    for each in inputs:
        if len(out) >= in_flight_max:
            yield from _emit_result(out.popleft(), return_errors)
        out.append(str((yield from spawn(function_id, each, options))["id"]))
    while out:
        yield from _emit_result(out.popleft(), return_errors)


def _emit_result(job_id: str, return_errors: bool) -> Operation[None]:
    try:
        value = yield from result(job_id, None)
    except JobFailed as error:
        if not return_errors:
            raise
        value = error
    yield Emit(value)


def cancel(job_id: str) -> Operation[Object]:
    """Cancel a job, running or not, and return it. Raises `ProblemError` when it is over."""
    request = post(path_of("job", job_id, "cancel"), {}, repeatable=True)
    return (yield from send(request)).object()


def retry(job_id: str) -> Operation[Object]:
    """Hand in the same request again; return the new job."""
    return (yield from send(post(path_of("job", job_id, "retry"), {}))).object()


def logs(job_id: str) -> Operation[str]:
    """Return what a job has written and logged so far, a line each."""
    request = replace(
        get(path_of("job", job_id, "logs")), headers=(("accept", "text/plain; charset=utf-8"),)
    )
    reply = yield from send(request)
    return reply.content.decode("utf-8", "replace")


def log_lines(job_id: str) -> Operation[list[Object]]:
    """Return what a job has written and logged so far, as `{at, stream, text}`."""
    answer = (yield from send(get(path_of("job", job_id, "logs")))).object()
    lines: list[Object] = answer.get("items", [])
    return lines


def events(job_id: str, after: str = "") -> Operation[None]:
    """Emit a job's events until it is over, those already kept first."""
    parser = Parser(after)
    cuts = 0
    while True:
        headers: Headers = (("accept", "text/event-stream"), ("accept-encoding", "identity"))
        if parser.last_id:
            headers += (("last-event-id", parser.last_id),)
        request = Request(
            method="GET",
            path=path_of("job", job_id, "events"),
            headers=headers,
            repeatable=True,
            timeout_s=EVENTS_QUIET_MAX_S,
        )
        complete = False
        try:
            yield from open_answer(request)
            while piece := (yield from read()):
                for event in parser.feed(piece):
                    cuts = 0
                    yield Emit(event)
            complete = True
        except ConnectionFailed:
            if cuts >= EVENTS_CUTS_MAX:
                raise
        yield Close()
        # The node ends the stream of a job that is over; any other end is a cut.
        if complete and (yield from attributes("job", job_id))["state"] in TERMINAL:
            return
        cuts += 1
        yield Wait(EVENTS_CUT_DELAY_S * cuts)
        parser = Parser(parser.last_id)  # half an event may lie in the old one's buffer
