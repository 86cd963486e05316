"""Key-value namespaces of a function, project or user."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from peernode import access, idempotency, listing, names
from peernode.api import require_match
from peernode.attributes import SpaceAttributes
from peernode.calls import (
    Answer,
    Call,
    Handler,
    ObjectClass,
    Operation,
    Parameter,
)
from peernode.classes.job import KEY
from peernode.classes.kv_bodies import (
    Create,
    Delete,
    Get,
    Increment,
    KeysView,
    KvView,
    ListKeys,
    NumberView,
    Owner,
    Put,
    Set,
    ValueView,
    VersionView,
    view,
)
from peernode.classes.project import WAIT_CHANGE
from peernode.permissions import Target
from peernode.problems import Problem, not_found
from peernode.registry import place_of
from peernode.space_limits import check_key, check_value
from peernode.spaces import (
    LocalSpaceRow,
    Space,
)
from peernode.timestamps import rfc3339
from peernode.transactions import Transaction
from storage.places import Class, Mode

if TYPE_CHECKING:
    from peernode.foreign_kv import Method
    from peernode.node import Node

_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
CLEAR_LENGTH: Final = 1000


def _target(node: "Node", call: Call, space: Space) -> Target:
    own = space.owner_class is Class.USER and space.owner == call.actor.user
    return access.target(node, call.actor, "kv", space.id, space.project, own=own)


def _find(node: "Node", call: Call, verb: str) -> Space:
    space = node.spaces.get(call.object_id)
    if space is None:
        access.require(call.actor, "get", Target(class_name="kv"), str(call.object_id))
        raise not_found("kv", str(call.object_id))
    access.require(call.actor, verb, _target(node, call, space))
    return space


def _owner(node: "Node", call: Call, owner: Owner) -> tuple[Class, int, int]:
    """Return the class and id of the owner, and the function if it is one; raises `Problem`."""
    given = [
        (name, text)
        for name in ("user", "project", "function")
        if (text := getattr(owner, name)) is not None
    ]
    if len(given) != 1:
        raise Problem("invalid_field", "owner: one of user, project, function", field="owner")
    name, text = given[0]
    identifier = access.parse_reference(text, f"owner.{name}")
    if name == "user":
        own = identifier == call.actor.user
        access.require(call.actor, "create", access.target(node, call.actor, "kv", 0, 0, own=own))
        return Class.USER, identifier, 0
    class_ = Class.PROJECT if name == "project" else Class.FUNCTION
    entry = node.registry.get(class_, identifier)
    project = entry.project if entry else 0
    target = access.target(node, call.actor, "kv", 0, project)
    if entry is None or not access.may(call.actor, "create", target):
        call.object_id = identifier
        access.find(node, call, class_, "get")
        access.require(call.actor, "create", target)
    return Class.PROJECT, project, identifier if name == "function" else 0


async def _create(node: "Node", call: Call) -> Answer:
    body: Create = call.body
    for class_name in ("project", "function"):
        if (text := getattr(body.owner, class_name)) is not None:
            identifier = access.parse_reference(text, f"owner.{class_name}")
            await access.meet(node, call.actor, class_name, identifier)
    owner_class, owner, function = _owner(node, call, body.owner)
    if body.scope == "local" and body.mode == "cas":
        raise Problem(
            "invalid_field",
            "mode: a local namespace is exact as it is; leave mode out",
            field="mode",
        )
    name, new, now_ms = names.check(body.name), node.ids.next(), node.clock.wall_ms()
    claim = idempotency.claim(call.header(b"idempotency-key"), owner, "kv", call.raw)

    def make(transaction: Transaction) -> int:
        made = idempotency.take(transaction, claim, new, now_ms)
        if made != new:
            return made
        names.claim(transaction, Class.KV_SPACE, function or owner, name, new)
        if body.scope == "local":
            row = LocalSpaceRow(
                name=name,
                owner_class=int(owner_class),
                owner=owner,
                function=function,
                display_name=body.display_name,
                created_ms=now_ms,
            )
            node.spaces.put_local(transaction, new, row)
        else:
            mode = Mode.CAS if body.mode == "cas" else Mode.LWW
            attributes = SpaceAttributes(
                name=name, display_name=body.display_name, function=function
            )
            place = place_of(Class.KV_SPACE, new, owner_class, owner, mode)
            node.registry.put(transaction, call.actor, place, attributes)
        return new

    call.object_id = await node.transactions.run(make)
    return Answer(
        status=201,
        value=view(_find(node, call, "get")),
        headers=((b"location", b"/kv/%d" % call.object_id),),
    )


async def _get(node: "Node", call: Call) -> Answer:
    _find(node, call, "get")
    await node.wait_changed(call)
    return Answer(value=view(_find(node, call, "get")))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    require_match(call, _find(node, call, "set").revision)

    def change(transaction: Transaction) -> None:
        space = _find(node, call, "set")
        if space.place is None:
            row = node.spaces.local_row(transaction, space.id)
            # The row, not what is in memory, which may be behind it for a moment.
            require_match(call, str(row.revision))
            row = msgspec.structs.replace(
                row, display_name=body.display_name, revision=row.revision + 1
            )
            node.spaces.put_local(transaction, space.id, row)
            transaction.after.append(lambda: node.changed(space.id))
            return
        require_match(call, space.revision)
        attributes = SpaceAttributes(
            name=space.name, display_name=body.display_name, function=space.function
        )
        node.registry.put(transaction, call.actor, space.place, attributes)

    await node.transactions.run(change)
    return Answer(value=view(_find(node, call, "get")))


async def _delete(node: "Node", call: Call) -> Answer:
    require_match(call, _find(node, call, "delete").revision)

    def body(transaction: Transaction) -> Space:
        space = _find(node, call, "delete")
        owner = space.function or space.owner
        names.release(transaction, Class.KV_SPACE, owner, space.name, space.id)
        if space.place is None:
            node.spaces.kill_local(transaction, space.id)
            transaction.after.append(lambda: node.changed(space.id))
        else:
            node.registry.kill(transaction, call.actor, space.place)
        return space

    space = await node.transactions.run(body)
    if space.place is None:
        while await node.transactions.run(
            lambda transaction: node.spaces.clear(transaction, space.id, CLEAR_LENGTH)
        ):
            pass
    return Answer(status=204)


async def _put(node: "Node", call: Call) -> Answer:
    body: Put = call.body
    key, value = check_key(body.key), check_value(bytes(body.value))
    if body.if_version is not None and _VERSION.fullmatch(body.if_version) is None:
        raise Problem("invalid_field", "if_version: not a version", field="if_version")

    def write(transaction: Transaction) -> int:
        space = _find(node, call, "key_put")
        return node.spaces.put(
            transaction,
            call.actor,
            space,
            key,
            value,
            if_version=body.if_version,
            ttl_s=body.ttl_s,
        )

    version = await node.transactions.run(write)
    return Answer(value=VersionView(key=body.key, version=str(version)))


async def _get_key(node: "Node", call: Call) -> Answer:
    body: Get = call.body
    space = _find(node, call, "key_get")
    held = node.spaces.read(space, check_key(body.key))
    if held is None:
        raise Problem("not_found", f"key: there is no key {body.key!r}", field="key")
    return Answer(
        value=ValueView(
            key=body.key,
            value=msgspec.Raw(held.value),
            version=str(held.version),
            expires_at=rfc3339(held.expires_ms) if held.expires_ms else None,
        )
    )


async def _delete_key(node: "Node", call: Call) -> Answer:
    body: Delete = call.body
    key = check_key(body.key)

    def write(transaction: Transaction) -> int:
        space = _find(node, call, "key_delete")
        held = node.spaces.read(space, key, transaction)
        if held is None:
            raise Problem("not_found", f"key: there is no key {body.key!r}", field="key")
        if body.if_version is not None:
            node.spaces.check_version(space, held, body.if_version)
        return node.spaces.write(transaction, call.actor, space, key, None)

    version = await node.transactions.run(write)
    return Answer(value=VersionView(key=body.key, version=str(version)))


async def _list_keys(node: "Node", call: Call) -> Answer:
    body: ListKeys = call.body
    space = _find(node, call, "key_list")
    after = b"" if body.cursor is None else check_key(body.cursor)
    prefix = b"" if not body.prefix else check_key(body.prefix)
    keys, last = await node.spaces.keys(space, prefix, after, body.limit)
    items = [key.decode("utf-8", "surrogatepass") for key in keys]
    cursor = None if last is None else last.decode("utf-8", "surrogatepass")
    return Answer(value=KeysView(items=items, next=cursor))


async def _increment(node: "Node", call: Call) -> Answer:
    body: Increment = call.body
    key = check_key(body.key)

    def write(transaction: Transaction) -> tuple[int, int]:
        space = _find(node, call, "key_increment")
        return node.spaces.increment(transaction, call.actor, space, key, body.by)

    value, version = await node.transactions.run(write)
    return Answer(value=NumberView(key=body.key, value=value, version=str(version)))


def _elsewhere(method: "Method", handler: Handler) -> Handler:
    """Return what answers for a namespace of another node: that node, if it alone may."""

    async def answer(node: "Node", call: Call) -> Answer:
        space = node.spaces.get(call.object_id)
        if space is None or not node.spaces.is_elsewhere(space):
            return await handler(node, call)
        assert node.foreign is not None
        try:
            return await node.foreign.kv.ask(call, method, space)
        except Problem as problem:
            if problem.code == "home_unreachable":
                _find(node, call, f"key_{method}")  # Who may not know of it is told nothing.
            raise

    return answer


def _candidates(node: "Node", call: Call, before: int) -> Iterator[KvView]:
    owners = access.listed_projects(node, call)
    if call.actor.kind == "user" and "project" not in call.query:
        owners = [*owners, call.actor.user]
    found = [space for owner in owners for space in node.spaces.owned(owner) if space.id < before]
    for space in sorted(found, key=lambda space: -space.id):
        if access.may(call.actor, "list", _target(node, call, space)):
            yield view(space)


async def _list(node: "Node", call: Call) -> Answer:
    return await listing.page(
        call,
        KvView,
        lambda before: _candidates(node, call, before),
        applied=frozenset({"project"}),
    )


_PROBLEMS = ("not_found", "forbidden", "too_large", "storage_full")

KV = ObjectClass(
    name="kv",
    summary="A key-value namespace of a function, project or user.",
    view=KvView,
    list=Operation(
        handler=_list,
        summary="List namespaces, newest first",
        parameters=(
            Parameter(name="project", description="only of this project"),
            Parameter(name="name", description="only those called so"),
        ),
    ),
    create=Operation(
        handler=_create,
        summary="Make a namespace",
        body=Create,
        answer=KvView,
        status=201,
        problems=("not_found", "forbidden", "name_taken"),
        parameters=(KEY,),
    ),
    get=Operation(
        handler=_get,
        summary="Read a namespace's attributes",
        answer=KvView,
        problems=("not_found",),
        parameters=(WAIT_CHANGE,),
    ),
    set=Operation(
        handler=_set,
        summary="Change a namespace's display name",
        body=Set,
        answer=KvView,
        problems=("not_found", "forbidden", "precondition_failed"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Delete a namespace and its entries for ever",
        status=204,
        problems=("not_found", "forbidden", "precondition_failed"),
    ),
    methods={
        "put": Operation(
            handler=_put,
            elsewhere=_elsewhere("put", _put),
            summary="Set a key",
            body=Put,
            answer=VersionView,
            problems=(*_PROBLEMS, "version_mismatch", "would_lose_updates", "home_unreachable"),
        ),
        "get": Operation(
            handler=_get_key,
            while_held_back=True,
            elsewhere=_elsewhere("get", _get_key),
            summary="Read a key",
            body=Get,
            answer=ValueView,
            problems=("not_found", "home_unreachable"),
        ),
        "delete": Operation(
            handler=_delete_key,
            elsewhere=_elsewhere("delete", _delete_key),
            summary="Delete a key",
            body=Delete,
            answer=VersionView,
            problems=(*_PROBLEMS, "version_mismatch", "would_lose_updates", "home_unreachable"),
        ),
        "list": Operation(
            handler=_list_keys,
            while_held_back=True,
            elsewhere=_elsewhere("list", _list_keys),
            summary="List keys by prefix",
            body=ListKeys,
            answer=KeysView,
            problems=("not_found", "home_unreachable"),
        ),
        "increment": Operation(
            handler=_increment,
            elsewhere=_elsewhere("increment", _increment),
            summary="Add to a number",
            body=Increment,
            answer=NumberView,
            problems=(*_PROBLEMS, "conflict", "would_lose_updates", "home_unreachable"),
        ),
    },
)
