"""Blobs: binary data, named by an id and addressed by its content."""

import heapq
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from peernode import access, idempotency, listing
from peernode.api import require_match
from peernode.calls import (
    Answer,
    Body,
    Call,
    ObjectClass,
    ObjectView,
    Operation,
    Parameter,
    number,
)
from peernode.classes.job import KEY
from peernode.classes.project import WAIT_CHANGE
from peernode.content import MEDIA_TYPE_DEFAULT, BlobRow
from peernode.permissions import Target
from peernode.problems import Problem, not_found
from peernode.timestamps import TIME_MAX_MS, rfc3339
from peernode.transactions import Transaction
from storage import cid, ids
from storage.blobs import Release
from storage.cid import Cid
from storage.places import Class
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

MEDIA_TYPE_LENGTH_MAX: Final = 127
"""Source: RFC 6838, 4.2."""
_MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( ?;[ -~]*)?", re.ASCII
)
_RANGE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
BlobName = Annotated[str, msgspec.Meta(max_length=255)]


class Set(Body, frozen=True, kw_only=True):
    """What may change of a blob."""

    name: BlobName | None = None
    delete_after: datetime | msgspec.UnsetType | None = msgspec.UNSET
    """When it is to be deleted; `null`: never."""


class BlobView(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A blob's attributes."""

    cid: str
    size_bytes: int
    media_type: str
    name: str
    project: str | None
    owner: str
    delete_after: str | None


def view(blob: int, row: BlobRow) -> BlobView:
    """Return a blob's attributes as its readers see them."""
    return BlobView(
        id=str(blob),
        class_name="blob",
        revision=str(row.revision),
        created_at=rfc3339(row.created_ms),
        home_node=ids.node_number(blob),
        cid=cid.text(Cid(row.cid)),
        size_bytes=row.size_bytes,
        media_type=row.media_type,
        name=row.name,
        project=str(row.project) if row.project else None,
        owner=str(row.owner),
        delete_after=rfc3339(row.delete_after_ms) if row.delete_after_ms else None,
    )


def _find(node: "Node", call: Call, verb: str) -> BlobRow:
    row = node.content.row(call.object_id)
    if row is None:
        access.require(call.actor, "get", Target(class_name="blob"), str(call.object_id))
        raise not_found("blob", str(call.object_id))
    access.require(call.actor, verb, node.content.target(node, call.actor, row, call.object_id))
    return row


def check_media_type(header: bytes | None) -> str:
    """Return the media type of content; raises a `Problem` for what is none."""
    if header is None:
        return MEDIA_TYPE_DEFAULT
    text = header.decode("latin-1")
    if len(text) > MEDIA_TYPE_LENGTH_MAX or _MEDIA_TYPE.fullmatch(text) is None:
        raise Problem(
            "invalid_field",
            "Content-Type: not a media type",
            field="Content-Type",
            limit=MEDIA_TYPE_LENGTH_MAX,
        )
    return text


async def _create(node: "Node", call: Call) -> Answer:
    asked = call.query.get("project")
    project = 0 if asked is None else access.parse_reference(asked, "project")
    if project:
        await access.meet(node, call.actor, "project", project)
    target = access.target(node, call.actor, "blob", 0, project, own=project == 0)
    if project and not access.may(call.actor, "create", target):
        call.object_id = project
        access.find(node, call, Class.PROJECT, "get")
    access.require(call.actor, "create", target)
    media_type = check_media_type(call.header(b"content-type"))
    name = call.query.get("name", "")
    if len(name) > 255:
        raise Problem("invalid_field", "name: at most 255 characters", field="name", limit=255)
    declared = int(call.header(b"content-length") or 0)
    if declared > node.config.blob_size_max_bytes:
        raise Problem(
            "too_large",
            "the blob is too large",
            field="body",
            limit=node.config.blob_size_max_bytes,
        )
    node.content.check_quota(project, declared)
    new = node.ids.next()
    async with node.content.upload() as upload:
        async with aclosing(call.pieces()) as pieces:
            finished = await node.content.receive(upload, pieces)
        row = BlobRow(
            cid=bytes(finished.cid),
            size_bytes=finished.size_bytes,
            media_type=media_type,
            name=name,
            project=project,
            owner=call.actor.user,
            created_ms=node.clock.wall_ms(),
        )
        claim = idempotency.claim(
            call.header(b"idempotency-key"), project or call.actor.user, "blob", row.cid
        )

        def make(transaction: Transaction) -> int:
            made = idempotency.take(transaction, claim, new, row.created_ms)
            if made == new:
                node.content.check_quota(project, row.size_bytes, transaction)
                node.content.put(transaction, new, row, finished)
            return made

        call.object_id = await node.transactions.run(make)
    return Answer(
        status=201,
        value=view(call.object_id, _find(node, call, "get")),
        headers=((b"location", b"/blob/%d" % call.object_id),),
    )


async def _get(node: "Node", call: Call) -> Answer:
    _find(node, call, "get")
    await node.wait_changed(call)
    return Answer(value=view(call.object_id, _find(node, call, "get")))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    row = _find(node, call, "set")
    require_match(call, str(row.revision))
    changes: dict[str, Any] = {}
    if body.name is not None:
        changes["name"] = body.name
    if isinstance(body.delete_after, datetime):
        if body.delete_after.tzinfo is None:
            raise Problem(
                "invalid_field",
                "delete_after: a time needs its zone, such as Z",
                field="delete_after",
            )
        changes["delete_after_ms"] = max(1, int(body.delete_after.timestamp() * 1000))
        if changes["delete_after_ms"] > TIME_MAX_MS:
            raise Problem(
                "invalid_field",
                "delete_after: a time of the years up to 9999",
                field="delete_after",
            )
    elif body.delete_after is None:
        changes["delete_after_ms"] = 0

    def change(transaction: Transaction) -> BlobRow:
        current = _find(node, call, "set")
        require_match(call, str(current.revision))
        return node.content.change(transaction, call.object_id, **changes)

    changed = await node.transactions.run(change)
    node.changed(call.object_id)
    return Answer(value=view(call.object_id, changed))


async def _delete(node: "Node", call: Call) -> Answer:
    row = _find(node, call, "delete")
    require_match(call, str(row.revision))

    def body(transaction: Transaction) -> Release | None:
        _find(node, call, "delete")
        return node.content.delete(transaction, call.object_id)

    release = await node.transactions.run(body)
    node.changed(call.object_id)
    await node.content.sweep(release)
    return Answer(status=204)


def _range(header: bytes | None, size_bytes: int) -> tuple[int, int] | None:
    """Return (first, length) of the one range asked for, or `None` for the whole.

    Several ranges, other units and what makes no sense are answered with the whole, as RFC 9110
    allows; a range outside the content raises a `Problem`.
    """
    if header is None:
        return None
    found = _RANGE.fullmatch(header.decode("latin-1").strip())
    if found is None or found.group(1) == found.group(2) == "":
        return None
    if found.group(1) == "":
        length = min(int(found.group(2)), size_bytes)
        first, last = size_bytes - length, size_bytes - 1
    else:
        first = int(found.group(1))
        last = min(int(found.group(2)) if found.group(2) else size_bytes, size_bytes - 1)
        if found.group(2) and int(found.group(2)) < first:
            return None
    if first >= size_bytes or first > last:
        raise Problem(
            "range_not_satisfiable",
            f"the content has {size_bytes} bytes",
            headers=(("Content-Range", f"bytes */{size_bytes}"),),
        )
    return first, last - first + 1


async def _content(node: "Node", call: Call) -> Answer:
    row = _find(node, call, "content")
    return _answer(call, row, lambda first, length: node.content.stream(row.cid, first, length))


async def _get_elsewhere(node: "Node", call: Call) -> Answer:
    from peernode.foreign_asking import headers

    assert node.foreign is not None
    wait_s = number(call.query, "wait", 0, 0, node.config.wait_max_s)
    seen = await node.foreign.blobs.find(call, "get", wait_s)
    blob = call.object_id
    return Answer(value=view(blob, seen.row), headers=headers(blob, seen.stale_ms))


async def _content_elsewhere(node: "Node", call: Call) -> Answer:
    from peernode.foreign_asking import headers

    assert node.foreign is not None
    blobs, blob = node.foreign.blobs, call.object_id
    seen = await blobs.find(call, "content")
    answer = _answer(
        call,
        seen.row,
        lambda first, length: blobs.stream(call.actor, blob, seen.row, first, length),
    )
    answer.headers = [*answer.headers, *headers(blob, seen.stale_ms)]
    if answer.stream is not None:
        await anext(answer.stream)  # Whether there is anything is known before we say so.
    return answer


def _answer(
    call: Call, row: BlobRow, stream: Callable[[int, int], AsyncGenerator[bytes, None]]
) -> Answer:
    """Return the answer to a call for content; `stream(first, length)` gives the bytes."""
    tag = b'"%b"' % cid.text(Cid(row.cid)).encode()
    headers = [
        (b"etag", tag),
        (b"accept-ranges", b"bytes"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
        (b"content-disposition", b"attachment"),
        (b"cache-control", b"private, no-cache"),
    ]
    media_type = row.media_type.encode("latin-1")
    stated = (call.header(b"if-none-match") or b"").split(b",")
    matches = [known.strip().removeprefix(b"W/") for known in stated]
    if tag in matches or b"*" in matches:
        return Answer(status=304, headers=headers, content=b"", media_type=media_type)
    wanted = None
    if_range = call.header(b"if-range")
    if if_range is None or if_range.strip() == tag:
        wanted = _range(call.header(b"range"), row.size_bytes)
    first, length = wanted or (0, row.size_bytes)
    if wanted is not None:
        last = first + length - 1
        headers.append((b"content-range", b"bytes %d-%d/%d" % (first, last, row.size_bytes)))
    headers.append((b"content-length", b"%d" % length))
    return Answer(
        status=200 if wanted is None else 206,
        headers=headers,
        media_type=media_type,
        stream=stream(first, length),
    )


def _of_owner(node: "Node", call: Call, owner: int, before: int) -> Iterator[tuple[int, BlobRow]]:
    prefix = ids.key(owner)
    stop = prefix + ids.key(before)
    while rows := node.store.scan(
        Table.PROJECT_BLOBS, prefix, stop, reverse=True, limit=listing.SCAN_LENGTH
    ):
        for key, _ in rows:
            blob = int.from_bytes(key[8:], "big")
            row = node.content.row(blob)
            if row is not None and access.may(
                call.actor, "list", node.content.target(node, call.actor, row, blob)
            ):
                yield blob, row
        stop = rows[-1][0]


async def _list(node: "Node", call: Call) -> Answer:
    owners = access.listed_projects(node, call)
    if "project" not in call.query and call.actor.kind == "user":
        owners = [*owners, call.actor.user]

    def candidates(before: int) -> Iterator[BlobView]:
        lists = [_of_owner(node, call, owner, before) for owner in owners]
        for blob, row in heapq.merge(*lists, key=lambda found: -found[0]):
            yield view(blob, row)

    return await listing.page(call, BlobView, candidates)


BLOB = ObjectClass(
    name="blob",
    summary="Binary data, addressed by its content; its CID is the one other IPFS tools print.",
    view=BlobView,
    list=Operation(
        handler=_list,
        summary="List blobs, newest first",
        parameters=(Parameter(name="project", description="only of this project"),),
    ),
    create=Operation(
        handler=_create,
        summary="Store the request's body",
        answer=BlobView,
        status=201,
        streams_body=True,
        waits=True,
        parameters=(
            Parameter(name="project", description="the project it belongs to; none: it is yours"),
            Parameter(name="name", description="a name for people"),
            KEY,
        ),
        problems=("not_found", "forbidden", "too_large", "storage_full", "quota_exceeded"),
    ),
    get=Operation(
        handler=_get,
        summary="Read a blob's attributes",
        answer=BlobView,
        problems=("not_found", "unreachable"),
        parameters=(WAIT_CHANGE,),
        elsewhere=_get_elsewhere,
    ),
    set=Operation(
        handler=_set,
        summary="Change a blob's name, or when it is deleted",
        body=Set,
        answer=BlobView,
        problems=("not_found", "forbidden", "precondition_failed"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Delete a blob and free its bytes",
        status=204,
        problems=("not_found", "forbidden", "precondition_failed"),
    ),
    reads={
        "content": Operation(
            handler=_content,
            summary="Read a blob's bytes, or a range of them",
            media_type="*/*",
            statuses=(206, 304),
            waits=True,
            problems=("not_found", "range_not_satisfiable", "unreachable"),
            elsewhere=_content_elsewhere,
            parameters=(
                Parameter(name="Range", where="header", description="one range of bytes"),
                Parameter(
                    name="If-Range", where="header", description="the range if this is the ETag"
                ),
                Parameter(
                    name="If-None-Match", where="header", description="answer 304 for this ETag"
                ),
            ),
        ),
    },
)
