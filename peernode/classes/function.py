"""Functions: programs that workers run, in immutable versions."""

import ast
import keyword
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from peernode import access, idempotency, listing, names
from peernode.api import require_match
from peernode.calls import (
    Answer,
    Body,
    Call,
    ObjectClass,
    ObjectView,
    Operation,
    Parameter,
    View,
)
from peernode.classes import job
from peernode.classes.project import WAIT_CHANGE
from peernode.problems import Problem
from peernode.registry import Entry, FunctionAttributes, Version, place_of
from peernode.schemas import check_schema
from peernode.terms import (
    LimitsBody,
    RequiresBody,
    RetryBody,
    TermsBody,
    from_row,
    to_row,
)
from peernode.timestamps import rfc3339
from peernode.transactions import Transaction
from storage import cid, ids
from storage.blobs import Content, Release
from storage.places import Class
from worker.protocol import Isolation

if TYPE_CHECKING:
    from peernode.node import Node

SOURCE_INLINE_MAX_BYTES: Final = 64 * 1024
"""Largest source that rides in the function's record. Source: the design's federation rule."""
SOURCE_SIZE_MAX_BYTES: Final = 1 << 20
"""Largest Python source. Source: the JSON body it comes in."""
VERSIONS_MAX: Final = 100
"""Most versions of a function. Source: what fits a record beside 64 KiB of source."""
RUNTIMES_AVAILABLE: Final = frozenset({"python"})
"""What workers of this build can run."""
Runtime = Literal["python", "wasm", "onnx", "exec"]
Description = Annotated[str, msgspec.Meta(max_length=1024)]


class Create(Body, frozen=True, kw_only=True):
    """A function to be, and its first version."""

    project: str
    name: str
    runtime: Runtime
    source: str | None = None
    blob: str | None = None
    entry: str | None = None
    description: Description = ""
    requires: RequiresBody | None = None
    limits: LimitsBody | None = None
    isolation: Isolation | None = None
    retry: RetryBody | None = None
    input_schema: dict[str, Any] | None = None


class Set(Body, frozen=True, kw_only=True):
    """New code (then a new version), or new terms."""

    source: str | None = None
    blob: str | None = None
    entry: str | None = None
    description: Description | None = None
    requires: RequiresBody | None = None
    limits: LimitsBody | None = None
    isolation: Isolation | None = None
    retry: RetryBody | None = None
    input_schema: dict[str, Any] | None = None


class Rollback(Body, frozen=True, kw_only=True):
    """The version to make current."""

    version: int


class CallBody(Body, frozen=True, kw_only=True):
    """A job to be, of this function."""

    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    function_version: int | None = None
    inputs: dict[str, job.BlobInput] | None = None
    requires: RequiresBody | None = None
    limits: LimitsBody | None = None
    retry: RetryBody | None = None
    isolation: Isolation | None = None


class VersionView(View, frozen=True, kw_only=True):
    """One version."""

    version: int
    cid: str
    size_bytes: int
    runtime: str
    entry: str
    created_at: str


class FunctionView(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A function. `source` is shown to developers of its project."""

    project: str
    name: str
    description: str
    version: int
    versions: list[VersionView]
    runtime: str
    entry: str
    source: str | None
    requires: RequiresBody | None
    limits: LimitsBody | None
    isolation: Isolation | None
    retry: RetryBody | None
    input_schema: msgspec.Raw


def view(node: "Node", entry: Entry, *, with_source: bool) -> FunctionView:
    """Return the function as its readers see it."""
    attributes: FunctionAttributes = entry.attributes
    current = next(v for v in attributes.versions if v.version == attributes.current)
    terms = from_row(attributes.terms)
    source = None
    if with_source and current.runtime == "python":
        source = node.programs.source(attributes, current).decode(errors="replace")
    return FunctionView(
        id=str(entry.id),
        class_name="function",
        revision=entry.revision,
        created_at=rfc3339(ids.created_ms(entry.id)),
        home_node=ids.node_number(entry.id),
        project=str(entry.project),
        name=attributes.name,
        description=attributes.description,
        version=attributes.current,
        versions=[_version(v) for v in attributes.versions],
        runtime=current.runtime,
        entry=current.entry,
        source=source,
        requires=terms.requires,
        limits=terms.limits,
        isolation=terms.isolation,
        retry=terms.retry,
        input_schema=msgspec.Raw(current.input_schema or b"null"),
    )


def _version(version: Version) -> VersionView:
    return VersionView(
        version=version.version,
        cid=cid.text(cid.Cid(version.cid)),
        size_bytes=version.size_bytes,
        runtime=version.runtime,
        entry=version.entry,
        created_at=rfc3339(version.created_ms),
    )


def _shown(node: "Node", call: Call) -> FunctionView:
    entry = access.find(node, call, Class.FUNCTION, "get")
    target = access.entry_target(node, call.actor, entry)
    return view(node, entry, with_source=access.may(call.actor, "read_source", target))


def check_python(source: bytes, entry: str) -> None:
    """Raise a `Problem` unless `source` compiles and defines `entry` at its top level."""
    if len(source) > SOURCE_SIZE_MAX_BYTES:
        raise Problem("too_large", "source: too large", field="source", limit=SOURCE_SIZE_MAX_BYTES)
    if not entry.isidentifier() or keyword.iskeyword(entry):
        raise Problem("invalid_field", f"entry: {entry!r} is not a name", field="entry")
    try:
        tree = ast.parse(source, "function.py")
        compile(tree, "function.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise Problem(
            "invalid_source", f"source: line {error.lineno}: {error.msg}", field="source"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Problem(
            "invalid_source", f"source: {str(error) or type(error).__name__}", field="source"
        ) from None
    if entry not in _defined(tree):
        raise Problem(
            "invalid_source",
            f"source: it defines no {entry!r} at its top level",
            hint="def handler(input): ...",
            field="source",
        )


def _defined(tree: ast.AST) -> set[str]:
    """Return the names that may be bound at the top level."""
    found: set[str] = set()
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        statement = todo.pop()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(statement.name)
            continue
        if isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
            found.add(statement.id)
        elif isinstance(statement, ast.alias):
            found.add((statement.asname or statement.name).split(".")[0])
        todo += ast.iter_child_nodes(statement)
    return found


async def _code(node: "Node", call: Call, body: Create | Set, runtime: str, entry: str) -> bytes:
    """Return the code a body brings, checked; raises `Problem`."""
    if (body.source is None) == (body.blob is None):
        raise Problem(
            "invalid_field", "source: either source or blob, and not both", field="source"
        )
    if runtime not in RUNTIMES_AVAILABLE:
        raise Problem(
            "runtime_unavailable",
            f"runtime: no build runs {runtime!r} yet",
            field="runtime",
            hint=f"available: {', '.join(sorted(RUNTIMES_AVAILABLE))}",
        )
    if body.source is not None:
        code = body.source.encode("utf-8", "surrogatepass")
    else:
        assert body.blob is not None
        blob = access.readable_blob(node, call.actor, body.blob)
        row = node.content.row(blob)
        if row is None or row.size_bytes > SOURCE_SIZE_MAX_BYTES:
            raise Problem(
                "too_large",
                "blob: too large for a source",
                field="blob",
                limit=SOURCE_SIZE_MAX_BYTES,
            )
        code = await node.content.read_piece(row.cid, 0, row.size_bytes)
    check_python(code, entry)
    return code


def _terms(body: Create | Set, held: TermsBody) -> bytes:
    return to_row(
        TermsBody(
            requires=body.requires or held.requires,
            limits=body.limits or held.limits,
            retry=body.retry or held.retry,
            isolation=body.isolation or held.isolation,
        )
    )


def _keep(transaction: Transaction, content: Content) -> None:
    for table, key, value in content.puts:
        transaction.put(table, key, value)
    for table, key, amount in content.adds:
        transaction.add(table, key, amount)


async def _create(node: "Node", call: Call) -> Answer:
    body: Create = call.body
    project = access.parse_reference(body.project, "project")
    target = access.target(node, call.actor, "function", 0, project)
    if not access.may(call.actor, "create", target):
        call.object_id = project
        access.find(node, call, Class.PROJECT, "get")
        access.require(call.actor, "create", target)
    name, entry_name = names.check(body.name), body.entry or "handler"
    code = await _code(node, call, body, body.runtime, entry_name)
    schema = None if body.input_schema is None else check_schema(body.input_schema)
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
                )
            ],
            source=code if len(code) <= SOURCE_INLINE_MAX_BYTES else None,
        )

        def make(transaction: Transaction) -> int:
            made = idempotency.take(transaction, claim, new, now_ms)
            if made != new:
                return made
            access.require(
                call.actor, "create", access.target(node, call.actor, "function", 0, project)
            )
            names.claim(transaction, Class.FUNCTION, project, name, new)
            _keep(transaction, content)
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
    await node.wait_changed(call)
    return Answer(value=_shown(node, call))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    entry = access.find(node, call, Class.FUNCTION, "set")
    require_match(call, entry.revision)
    newest: Version = entry.attributes.versions[-1]
    new_code = body.source is not None or body.blob is not None
    code = b""
    if new_code:
        code = await _code(node, call, body, newest.runtime, body.entry or newest.entry)
    elif body.entry is not None or body.input_schema is not None:
        raise Problem(
            "invalid_field",
            "entry and input_schema belong to a version: send the source too",
            field="entry" if body.entry is not None else "input_schema",
        )
    schema = None if body.input_schema is None else check_schema(body.input_schema)
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
                _keep(transaction, content)
                attributes = _with_version(node, attributes, body, content, code, schema)
            node.registry.put(transaction, call.actor, current.place, attributes)

        await node.transactions.run(change)
    return Answer(value=_shown(node, call))


def _with_version(
    node: "Node",
    attributes: FunctionAttributes,
    body: Set,
    content: Content,
    code: bytes,
    schema: bytes | None,
) -> FunctionAttributes:
    """Return a function's attributes with one more version, which is current."""
    newest = attributes.versions[-1]
    if len(attributes.versions) >= VERSIONS_MAX:
        raise Problem(
            "conflict",
            f"a function has at most {VERSIONS_MAX} versions",
            hint="deploy under another name",
            limit=VERSIONS_MAX,
        )
    version = Version(
        version=newest.version + 1,
        runtime=newest.runtime,
        entry=body.entry or newest.entry,
        cid=bytes(content.cid),
        size_bytes=len(code),
        input_schema=newest.input_schema if body.input_schema is None else schema,
        created_ms=node.clock.wall_ms(),
    )
    return msgspec.structs.replace(
        attributes,
        versions=[*attributes.versions, version],
        current=version.version,
        source=code if len(code) <= SOURCE_INLINE_MAX_BYTES else None,
    )


async def _delete(node: "Node", call: Call) -> Answer:
    entry = access.find(node, call, Class.FUNCTION, "delete")
    require_match(call, entry.revision)
    releases: list[Release] = []

    def body(transaction: Transaction) -> None:
        current = access.find(node, call, Class.FUNCTION, "delete")
        releases.clear()
        names.release(transaction, Class.FUNCTION, current.project, current.attributes.name)
        releases.extend(
            node.content.release(transaction, version.cid)
            for version in current.attributes.versions
        )
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
    version = access.callable_version(node, call.actor, str(call.object_id), body.function_version)
    asked = job.Create(
        function=str(call.object_id),
        function_version=body.function_version,
        input=body.input,
        inputs=body.inputs,
        requires=body.requires,
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


_PROBLEMS = ("not_found", "forbidden", "invalid_source", "runtime_unavailable", "name_taken")

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
            answer=job.JobView,
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
