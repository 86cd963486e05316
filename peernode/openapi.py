"""The API's description, made from the table of classes: nothing in it is written twice."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from peernode.calls import ObjectClass, Operation, Page, Parameter
from peernode.problems import CODES

References: TypeAlias = Mapping[type[Any], Mapping[str, Any]]

VERSION: Final = "3.1.0"
_REFERENCE: Final = "#/components/schemas/{name}"
_PUSHED: Final = frozenset({"user", "project", "function", "kv"})
"""Classes of which a node asks another for what it does not know yet."""
_EVERY_CALL: Final = ("bad_request", "unauthenticated", "overloaded", "internal")
_PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457 problem",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"enum": list(CODES)},
        "hint": {"type": "string"},
        "field": {"type": "string"},
        "limit": {"type": "number"},
        "nodes": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "nodes that were asked, or could not be",
        },
        "retryable": {"type": "boolean"},
    },
}
_EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "one event of the stream, which ends with the job",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "for Last-Event-ID"},
        "event": {"enum": ["state", "progress"]},
        "data": {
            "type": "string",
            "description": "JSON, an element of a job's `history`, or of its `progress`",
        },
    },
}
_IF_MATCH: Final = Parameter(
    name="If-Match", where="header", description="only if the object is still at this revision"
)
_ELSEWHERE: Final[dict[str, Any]] = {
    "Origin-Node": {
        "description": "number of the node that is asked, if that is another one",
        "schema": {"type": "string"},
    },
    "Stale": {
        "description": "as-of TIME: that node cannot be asked, and this was known then",
        "schema": {"type": "string"},
    },
}
"""Headers of what is answered for another node."""
_LIST_PARAMETERS: Final = (
    Parameter(name="limit", description="objects a page, 1 to 1000", type="integer"),
    Parameter(name="cursor", description="`next` of the page before"),
)


def describe(
    classes: Mapping[str, ObjectClass], others: Mapping[str, Operation], title: str, version: str
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of `classes`, and of operations that are no class's."""
    types = _types(classes.values(), others.values())
    found, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    references = dict(zip(types, found, strict=True))
    paths: dict[str, Any] = {}
    for spec in classes.values():
        for call, operation in operations(spec):
            method, path = call.split(" ")
            described = _operation(references, spec, call, operation)
            paths.setdefault(path, {})[method.lower()] = described
    for call, operation in others.items():
        method, path = call.split(" ")
        described = _operation(references, None, call, operation)
        paths.setdefault(path, {})[method.lower()] = described
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas | {"Problem": _PROBLEM_SCHEMA},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
        "tags": [
            *({"name": spec.name, "description": spec.summary} for spec in classes.values()),
            {"name": "mesh", "description": "The nodes that know of one another."},
        ],
    }


def _types(specs: Iterable[ObjectClass], others: Iterable[Operation]) -> list[type[Any]]:
    found: dict[type[Any], None] = {Page: None}
    described = list(others)
    for spec in specs:
        found[spec.view] = None
        described += [operation for _, operation in operations(spec)]
    for operation in described:
        for kind in (operation.body, operation.answer):
            if kind is not None:
                found[kind] = None
    return list(found)


def operations(spec: ObjectClass) -> list[tuple[str, Operation]]:
    """Return the operations of a class as (`METHOD /path`, operation)."""
    root, one = f"/{spec.name}", f"/{spec.name}/{{id}}"
    return [
        (f"GET {root}", spec.list),
        (f"POST {root}", spec.create),
        (f"GET {one}", spec.get),
        (f"POST {one}", spec.set),
        (f"DELETE {one}", spec.delete),
        *((f"POST {one}/{name}", method) for name, method in spec.methods.items()),
        *((f"GET {one}/{name}", read) for name, read in spec.reads.items()),
    ]


def _operation(
    references: References, spec: ObjectClass | None, call: str, operation: Operation
) -> dict[str, Any]:
    _, path = call.split(" ")
    parameters = list(operation.parameters)
    if spec is not None and operation is spec.list:
        parameters += _LIST_PARAMETERS
    if "precondition_failed" in operation.problems:
        parameters.append(_IF_MATCH)
    described: dict[str, Any] = {
        "tags": [path.split("/")[1]],
        "operationId": call.replace(" /", "_").replace("/", "_").replace("{id}", "one").lower(),
        "summary": operation.summary,
        "parameters": [_parameter(parameter) for parameter in parameters],
        "responses": _responses(references, spec, operation),
    }
    if "{id}" in path:
        described["parameters"].insert(
            0, {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        )
    if operation.body is not None:
        described["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(operation.body)),
            "content": {"application/json": {"schema": references[operation.body]}},
        }
    elif operation.streams_body:
        described["requestBody"] = {
            "required": True,
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        }
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.description,
        "schema": {"type": parameter.type},
    }


def _responses(
    references: References, spec: ObjectClass | None, operation: Operation
) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.status != 204:
        if spec is not None and operation is spec.list:
            schema: Mapping[str, Any] = {
                "allOf": [
                    references[Page],
                    {"properties": {"items": {"type": "array", "items": references[spec.view]}}},
                ]
            }
        elif operation.answer is not None:
            schema = references[operation.answer]
        elif operation.media_type == "application/json":
            schema = {}
        elif operation.media_type == "text/event-stream":
            schema = _EVENT_SCHEMA
        else:
            schema = {"type": "string"}
        described = {operation.media_type: {"schema": schema}}
        described |= {text: {"schema": {"type": "string"}} for text in operation.media_types_also}
        content = {"content": described}
    stated = {"headers": _ELSEWHERE} if operation.elsewhere else {}
    responses: dict[str, Any] = {
        str(status): {
            "description": operation.summary,
            **stated,
            **(content if status != 304 else {}),
        }
        for status in (operation.status, *operation.statuses)
    }
    unmet = ("unreachable",) if spec is not None and spec.name in _PUSHED else ()
    for code in dict.fromkeys((*_EVERY_CALL, *operation.problems, *unmet)):
        responses.setdefault(
            str(CODES[code][0]),
            {
                "description": CODES[code][1],
                "content": {
                    "application/problem+json": {
                        "schema": {"$ref": _REFERENCE.format(name="Problem")}
                    }
                },
            },
        )
    responses["default"] = {
        "description": "Any other refusal",
        "content": {
            "application/problem+json": {"schema": {"$ref": _REFERENCE.format(name="Problem")}}
        },
    }
    return responses
