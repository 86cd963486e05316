"""Functions: programs that workers run, in immutable versions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from peernode import access, idempotency, listing, names
from peernode.api import require_match
from peernode.attributes import FunctionAttributes, Version
from peernode.calls import (
    Answer,
    Call,
    ObjectClass,
    Operation,
    Parameter,
)
from peernode.classes import function_versions, function_wheels, job, job_bodies
from peernode.classes.function_bodies import (
    CallBody,
    Create,
    FunctionView,
    Rollback,
    Set,
    view,
)
from peernode.classes.project import WAIT_CHANGE
from peernode.problems import Problem
from peernode.program_checks import (
    PROGRAM_SIZE_MAX_BYTES,
    architecture,
    check_level,
    check_program,
)
from peernode.python_source import (
    APART_FROM_BYTES,
    SOURCE_SIZE_MAX_BYTES,
    check_python,
    check_python_apart,
)
from peernode.registry import place_of
from peernode.terms import (
    TermsBody,
    check_limits,
    from_row,
    to_row,
)
from peernode.transactions import Transaction
from storage.blobs import Release
from storage.places import Class

if TYPE_CHECKING:
    from peernode.node import Node


def _shown(node: "Node", call: Call) -> FunctionView:
    entry = access.find(node, call, Class.FUNCTION, "get")
    target = access.entry_target(node, call.actor, entry)
    return view(node, entry, with_source=access.may(call.actor, "read_source", target))


async def _code(node: "Node", call: Call, body: Create | Set, runtime: str, entry: str) -> bytes:
    """Return the code a body brings, checked; raises `Problem`."""
    if (body.source is None) == (body.blob is None):
        raise Problem(
            "invalid_field", "source: either source or blob, and not both", field="source"
        )
    size_max_bytes = SOURCE_SIZE_MAX_BYTES if runtime == "python" else PROGRAM_SIZE_MAX_BYTES
    if body.source is not None:
        code = body.source.encode("utf-8", "surrogatepass")
    else:
        assert body.blob is not None
        blob = access.readable_blob(node, call.actor, body.blob)
        row = node.content.row(blob)
        if row is None or row.size_bytes > size_max_bytes:
            raise Problem(
                "too_large",
                "blob: too large for a source",
                field="blob",
                limit=size_max_bytes,
            )
        code = await node.content.read_piece(row.cid, 0, row.size_bytes)
    if runtime != "python":
        check_program(runtime, code)
    elif len(code) < APART_FROM_BYTES:
        check_python(code, entry)
    else:
        await node.content.offload(check_python_apart, code, entry)
    return code


def _schema(body: Create | Set) -> bytes | None:
    """Return the input schema a body brings, checked; raises `Problem`."""
    if body.input_schema is None:
        return None
    from peernode.schemas import check_schema

    return check_schema(body.input_schema)


def _terms(body: Create | Set, held: TermsBody) -> bytes:
    return to_row(
        TermsBody(
            requires=body.requires or held.requires,
            prefers=body.prefers or held.prefers,
            limits=body.limits or held.limits,
            retry=body.retry or held.retry,
            isolation=body.isolation or held.isolation,
        )
    )


async def _create(node: "Node", call: Call) -> Answer:
    body: Create = call.body
    project = access.parse_reference(body.project, "project")
    await access.meet(node, call.actor, "project", project)
    target = access.target(node, call.actor, "function", 0, project)
    if not access.may(call.actor, "create", target):
        call.object_id = project
        access.find(node, call, Class.PROJECT, "get")
        access.require(call.actor, "create", target)
    name, entry_name = names.check(body.name), body.entry or "handler"
    check_level(body.runtime, body.isolation)
    check_limits(body.limits, node.config.policy)
    function_wheels.check_level(body.isolation, brings=bool(body.wheels))
    code = await _code(node, call, body, body.runtime, entry_name)
    wheels = await function_wheels.brought(node, call, project, body.runtime, body)
    schema = _schema(body)
    new, now_ms = node.ids.next(), node.clock.wall_ms()
    claim = idempotency.claim(call.header(b"idempotency-key"), project, "function", call.raw)
    async with node.content.upload() as upload:
        content = await node.content.offload(node.content.keep_bytes, upload, code)
        attributes = FunctionAttributes(
            name=name,
            description=body.description,
            terms=_terms(body, TermsBody()),
            current=1,
            versions=[
                Version(
                    version=1,
                    runtime=body.runtime,
                    entry=entry_name,
                    cid=bytes(content.cid),
                    size_bytes=len(code),
                    input_schema=schema,
                    created_ms=now_ms,
                    arch=architecture(body.runtime, code),
                )
            ],
            source=function_versions.riding(code),
        )
        attributes = function_versions.with_wheels(attributes, wheels)

        def make(transaction: Transaction) -> int:
            made = idempotency.take(transaction, claim, new, now_ms)
            if made != new:
                return made
            access.require(
                call.actor, "create", access.target(node, call.actor, "function", 0, project)
            )
            names.claim(transaction, Class.FUNCTION, project, name, new)
            node.content.keep_source(transaction, new, content)
            function_wheels.keep(node, transaction, new, wheels)
            place = place_of(Class.FUNCTION, new, Class.PROJECT, project)
            node.registry.put(transaction, call.actor, place, attributes)
            return new

        call.object_id = await node.transactions.run(make)
    return Answer(
        status=201,
        value=_shown(node, call),
        headers=((b"location", b"/function/%d" % call.object_id),),
    )


async def _get(node: "Node", call: Call) -> Answer:
    if "wait" in call.query:
        access.find(node, call, Class.FUNCTION, "get")
        await node.wait_changed(call)
    return Answer(value=_shown(node, call))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    entry = access.find(node, call, Class.FUNCTION, "set")
    require_match(call, entry.revision)
    newest: Version = entry.attributes.versions[-1]
    check_level(newest.runtime, body.isolation)
    isolation = body.isolation or from_row(entry.attributes.terms).isolation
    function_wheels.check_level(isolation, brings=function_wheels.brings(newest, body))
    new_code = body.source is not None or body.blob is not None
    code, wheels = b"", None
    if new_code:
        code = await _code(node, call, body, newest.runtime, body.entry or newest.entry)
        if body.wheels is not None:
            wheels = await function_wheels.brought(node, call, entry.project, newest.runtime, body)
    for field in () if new_code else ("entry", "input_schema", "wheels"):
        if getattr(body, field) is not None:
            raise Problem(
                "invalid_field", f"{field} belongs to a version: send the source too", field=field
            )
    schema = _schema(body)
    check_limits(body.limits, node.config.policy)
    async with node.content.upload() as upload:
        content = None
        if new_code:
            content = await node.content.offload(node.content.keep_bytes, upload, code)

        def change(transaction: Transaction) -> None:
            current = access.find(node, call, Class.FUNCTION, "set")
            require_match(call, current.revision)
            attributes: FunctionAttributes = current.attributes
            attributes = msgspec.structs.replace(
                attributes,
                terms=_terms(body, from_row(attributes.terms)),
                description=attributes.description
                if body.description is None
                else body.description,
            )
            if content is not None:
                node.content.keep_source(transaction, current.id, content)
                function_wheels.keep(node, transaction, current.id, wheels or ())
                version = (body, content, code, schema, node.clock.wall_ms())
                attributes = function_versions.with_version(attributes, *version)
                attributes = function_versions.with_wheels(attributes, wheels)
            node.registry.put(transaction, call.actor, current.place, attributes)

        await node.transactions.run(change)
    return Answer(value=_shown(node, call))


async def _delete(node: "Node", call: Call) -> Answer:
    entry = access.find(node, call, Class.FUNCTION, "delete")
    require_match(call, entry.revision)
    releases: list[Release] = []

    def body(transaction: Transaction) -> None:
        current = access.find(node, call, Class.FUNCTION, "delete")
        releases.clear()
        name = current.attributes.name
        names.release(transaction, Class.FUNCTION, current.project, name, current.id)
        releases.extend(node.content.release_sources(transaction, current.id))
        node.registry.kill(transaction, call.actor, current.place)

    await node.transactions.run(body)
    for release in releases:
        await node.content.sweep(release)
    return Answer(status=204)


async def _rollback(node: "Node", call: Call) -> Answer:
    body: Rollback = call.body
    entry = access.find(node, call, Class.FUNCTION, "rollback")
    require_match(call, entry.revision)

    def change(transaction: Transaction) -> None:
        current = access.find(node, call, Class.FUNCTION, "rollback")
        if body.version not in [v.version for v in current.attributes.versions]:
            raise Problem(
                "not_found", f"version: there is no version {body.version}", field="version"
            )
        attributes = msgspec.structs.replace(current.attributes, current=body.version)
        node.registry.put(transaction, call.actor, current.place, attributes)

    await node.transactions.run(change)
    return Answer(value=_shown(node, call))


async def _call(node: "Node", call: Call) -> Answer:
    body: CallBody = call.body
    function = str(call.object_id)
    version = await access.ready_version(node, call.actor, function, body.function_version)
    asked = job_bodies.Create(
        function=str(call.object_id),
        function_version=body.function_version,
        input=body.input,
        inputs=body.inputs,
        requires=body.requires,
        prefers=body.prefers,
        limits=body.limits,
        retry=body.retry,
        isolation=body.isolation,
    )
    return await job.hand_in(node, call, version, asked)


def _candidates(node: "Node", call: Call, before: int) -> Iterator[FunctionView]:
    found = sorted(
        (
            function
            for project in access.listed_projects(node, call)
            for function in node.registry.owned(Class.FUNCTION, project)
            if function < before
        ),
        reverse=True,
    )
    for function in found:
        entry = node.registry.get(Class.FUNCTION, function)
        if entry is None:
            continue
        if access.may(call.actor, "list", access.entry_target(node, call.actor, entry)):
            yield view(node, entry, with_source=False)


async def _list(node: "Node", call: Call) -> Answer:
    return await listing.page(call, FunctionView, lambda before: _candidates(node, call, before))


_PROBLEMS = ("not_found", "forbidden", "invalid_source", "name_taken")

FUNCTION = ObjectClass(
    name="function",
    summary="A program that workers run, in immutable versions.",
    view=FunctionView,
    list=Operation(
        handler=_list,
        summary="List functions, newest first",
        parameters=(
            Parameter(name="project", description="only of this project"),
            Parameter(name="name", description="only the one called so"),
        ),
    ),
    create=Operation(
        handler=_create,
        summary="Deploy a function",
        body=Create,
        answer=FunctionView,
        status=201,
        problems=_PROBLEMS,
        parameters=(job.KEY,),
    ),
    get=Operation(
        handler=_get,
        summary="Read a function",
        answer=FunctionView,
        problems=("not_found",),
        parameters=(WAIT_CHANGE,),
    ),
    set=Operation(
        handler=_set,
        summary="Deploy a new version, or change terms",
        body=Set,
        answer=FunctionView,
        problems=(*_PROBLEMS, "conflict", "precondition_failed"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Delete a function for ever",
        status=204,
        problems=("not_found", "forbidden", "precondition_failed"),
    ),
    methods={
        "call": Operation(
            handler=_call,
            summary="Hand in a job of this function",
            body=CallBody,
            answer=job_bodies.JobView,
            status=202,
            statuses=(200,),
            problems=("not_found",),
            parameters=job.JOB.create.parameters,
        ),
        "rollback": Operation(
            handler=_rollback,
            summary="Make an older version current",
            body=Rollback,
            answer=FunctionView,
            problems=("not_found", "forbidden", "precondition_failed"),
        ),
    },
)
