"""What goes in and comes out of the API for functions."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from peernode.attributes import FunctionAttributes, Version
from peernode.calls import (
    Body,
    ObjectView,
    View,
)
from peernode.classes import job_bodies
from peernode.registry import Entry
from peernode.terms import (
    LimitsBody,
    PrefersBody,
    RequiresBody,
    RetryBody,
    from_row,
)
from peernode.timestamps import rfc3339
from peernode.wheel_rows import wheels_of
from storage import cid, ids
from worker.protocol import Isolation

if TYPE_CHECKING:
    from peernode.node import Node


Runtime = Literal["python", "wasm", "onnx", "exec"]


Description = Annotated[str, msgspec.Meta(max_length=1024)]


class Create(Body, frozen=True, kw_only=True):
    """A function to be, and its first version."""

    project: str
    name: str
    runtime: Runtime
    source: str | None = None
    blob: str | None = None
    wheels: list[str] | None = None
    entry: str | None = None
    description: Description = ""
    requires: RequiresBody | None = None
    prefers: PrefersBody | None = None
    limits: LimitsBody | None = None
    isolation: Isolation | None = None
    retry: RetryBody | None = None
    input_schema: dict[str, Any] | None = None


class Set(Body, frozen=True, kw_only=True):
    """New code (then a new version), or new terms."""

    source: str | None = None
    blob: str | None = None
    wheels: list[str] | None = None
    entry: str | None = None
    description: Description | None = None
    requires: RequiresBody | None = None
    prefers: PrefersBody | None = None
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
    inputs: dict[str, job_bodies.BlobInput] | None = None
    requires: RequiresBody | None = None
    prefers: PrefersBody | None = None
    limits: LimitsBody | None = None
    retry: RetryBody | None = None
    isolation: Isolation | None = None


class WheelView(View, frozen=True, kw_only=True):
    """A package that a version brings."""

    name: str
    cid: str
    size_bytes: int


class VersionView(View, frozen=True, kw_only=True):
    """One version."""

    version: int
    cid: str
    size_bytes: int
    runtime: str
    entry: str
    wheels: list[WheelView]
    arch: str
    """The only architecture that runs it; empty: any."""
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
    prefers: PrefersBody | None
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
        versions=[_version(attributes, v) for v in attributes.versions],
        runtime=current.runtime,
        entry=current.entry,
        source=source,
        requires=terms.requires,
        prefers=terms.prefers,
        limits=terms.limits,
        isolation=terms.isolation,
        retry=terms.retry,
        input_schema=msgspec.Raw(current.input_schema or b"null"),
    )


def _version(attributes: FunctionAttributes, version: Version) -> VersionView:
    return VersionView(
        version=version.version,
        cid=cid.text(cid.Cid(version.cid)),
        size_bytes=version.size_bytes,
        runtime=version.runtime,
        entry=version.entry,
        wheels=[
            WheelView(
                name=wheel.name, cid=cid.text(cid.Cid(wheel.cid)), size_bytes=wheel.size_bytes
            )
            for wheel in wheels_of(attributes, version)
        ],
        arch=version.arch,
        created_at=rfc3339(version.created_ms),
    )
