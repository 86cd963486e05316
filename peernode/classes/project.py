"""Projects: several users who share functions, data and quota."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from peernode import access, idempotency, listing, names, quotas, sealed_secrets
from peernode.adoption import Adoption
from peernode.api import require_match
from peernode.attributes import ProjectAttributes
from peernode.calls import (
    Answer,
    Body,
    Call,
    Nothing,
    ObjectClass,
    ObjectView,
    Operation,
    Parameter,
    View,
)
from peernode.classes.job import KEY
from peernode.classes.project_bodies import RemoveSecret, SecretView, SetSecret, secret_views
from peernode.content import METER_BLOB_BYTES, METER_BLOBS
from peernode.members import grant, revoke
from peernode.permissions import may_grant
from peernode.problems import Problem
from peernode.quotas import Quota
from peernode.registry import Entry, place_of
from peernode.sealed_secrets import SealedSecret
from peernode.timestamps import rfc3339
from peernode.transactions import Transaction
from storage import facts, ids
from storage.facts import Role
from storage.places import Class

if TYPE_CHECKING:
    from peernode.node import Node

EGRESS_MAX: Final = 64
"""Most hosts a project's functions may reach. Source: guess."""
Host = Annotated[str, msgspec.Meta(max_length=260, pattern=r"^[A-Za-z0-9.\-\[\]:]+$")]
DisplayName = Annotated[str, msgspec.Meta(max_length=256)]


class Create(Body, frozen=True, kw_only=True):
    """A project to be."""

    name: str
    display_name: DisplayName = ""


class Set(Body, frozen=True, kw_only=True):
    """What may change of a project."""

    display_name: DisplayName | None = None
    egress: Annotated[list[Host], msgspec.Meta(max_length=EGRESS_MAX)] | None = None
    quota: Quota | None = None


class AddMember(Body, frozen=True, kw_only=True):
    """A user's role in the project, new or changed."""

    user: str
    role: Literal["viewer", "invoker", "developer", "admin"]


class RemoveMember(Body, frozen=True, kw_only=True):
    """Who leaves."""

    user: str
    adopt: bool = True
    """Keep what the member made, and whom the member let in, as yours."""


class MemberView(View, frozen=True, kw_only=True):
    """A member and its role."""

    user: str
    name: str
    role: str


class ProjectView(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A project."""

    name: str
    owner: str
    display_name: str
    egress: list[str]
    secrets: list[SecretView]
    quota: Quota
    members: list[MemberView]


class UsageView(View, frozen=True, kw_only=True):
    """A project's quota, and how much of it is used."""

    quota: Quota
    blobs: int
    blob_bytes: int
    jobs_unfinished: int
    functions: int


def view(node: "Node", entry: Entry) -> ProjectView:
    """Return the project as its members see it."""
    attributes: ProjectAttributes = entry.attributes
    members = [
        MemberView(user=str(user), name=node.user_name(user), role=role.name.lower())
        for user, role in node.registry.members(entry.id)
    ]
    owner = node.registry.authority.owner(entry.id) or 0
    quota = quotas.get(node.store, entry.id)
    return ProjectView(
        id=str(entry.id),
        class_name="project",
        revision=f"{entry.revision}-{node.registry.members_revision(entry.id)}",
        created_at=rfc3339(ids.created_ms(entry.id)),
        home_node=ids.node_number(entry.id),
        name=attributes.name,
        owner=str(owner),
        display_name=attributes.display_name,
        egress=attributes.egress,
        secrets=secret_views(attributes.secrets),
        quota=quota,
        members=members,
    )


async def _create(node: "Node", call: Call) -> Answer:
    body: Create = call.body
    access.require(call.actor, "create", access.target(node, call.actor, "project", 0, 0))
    name, owner, new = names.check(body.name), call.actor.user, node.ids.next()
    claim = idempotency.claim(call.header(b"idempotency-key"), owner, "project", call.raw)

    def make(transaction: Transaction) -> int:
        made = idempotency.take(transaction, claim, new, node.clock.wall_ms())
        if made != new:
            return made
        names.claim(transaction, Class.PROJECT, owner, name, new)
        statement = facts.ProjectOwner(new, owner, node.timestamps.tick())
        node.registry.add_fact(transaction, node.seal(statement))
        node.registry.put(
            transaction,
            call.actor,
            place_of(Class.PROJECT, new, Class.PROJECT, new),
            ProjectAttributes(name=name, display_name=body.display_name),
            born=True,
        )
        return new

    call.object_id = await node.transactions.run(make)
    entry = access.find(node, call, Class.PROJECT, "get")
    return Answer(
        status=201, value=view(node, entry), headers=((b"location", b"/project/%d" % entry.id),)
    )


async def _get(node: "Node", call: Call) -> Answer:
    access.find(node, call, Class.PROJECT, "get")
    await node.wait_changed(call)
    return Answer(value=view(node, access.find(node, call, Class.PROJECT, "get")))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    verbs = ["set_quota"] if body.quota is not None else []
    if (body.display_name, body.egress) != (None, None) or not verbs:
        verbs.append("set")
    for verb in verbs:
        access.find(node, call, Class.PROJECT, verb)
    require_match(call, view(node, access.find(node, call, Class.PROJECT, "get")).revision)

    def change(transaction: Transaction) -> None:
        current = access.find(node, call, Class.PROJECT, verbs[0])
        require_match(call, view(node, current).revision)
        if body.quota is not None:
            quotas.put(transaction, current.id, body.quota)
        if "set" in verbs:
            stated = {
                name: value
                for name in ("display_name", "egress")
                if (value := getattr(body, name)) is not None
            }
            attributes = msgspec.structs.replace(current.attributes, **stated)
            node.registry.put(transaction, call.actor, current.place, attributes)

    await node.transactions.run(change)
    return Answer(value=view(node, access.find(node, call, Class.PROJECT, "get")))


async def _delete(node: "Node", call: Call) -> Answer:
    entry = access.find(node, call, Class.PROJECT, "delete")
    require_match(call, view(node, entry).revision)
    if node.registry.owned(Class.FUNCTION, entry.id):
        raise Problem("conflict", "the project has functions", hint="delete its functions first")

    def body(transaction: Transaction) -> None:
        current = access.find(node, call, Class.PROJECT, "delete")
        owner = node.registry.authority.owner(current.id) or 0
        names.release(transaction, Class.PROJECT, owner, current.attributes.name, current.id)
        node.registry.kill(transaction, call.actor, current.place)

    await node.transactions.run(body)
    return Answer(status=204)


def _member(node: "Node", text: str) -> int:
    user = node.find_user(text)
    if user is None:
        raise Problem("not_found", f"user: there is no user {text!r}", field="user")
    return user


async def _add_member(node: "Node", call: Call) -> Answer:
    body: AddMember = call.body
    entry = access.find(node, call, Class.PROJECT, "add_member")
    user, role = _member(node, body.user), Role[body.role.upper()]
    _check_rank(node, call, entry.id, user, role)
    adoption = Adoption(node, call.actor, entry.id, user)
    await adoption.run()

    def body_of(transaction: Transaction) -> None:
        adoption.grant_again(transaction)
        grant(node, transaction, call.actor, entry.id, user, role)

    await node.transactions.run(body_of)
    return Answer(value=view(node, access.find(node, call, Class.PROJECT, "get")))


async def _remove_member(node: "Node", call: Call) -> Answer:
    body: RemoveMember = call.body
    user = _member(node, body.user)
    leaving = user == call.actor.user
    entry = access.find(node, call, Class.PROJECT, "get" if leaving else "remove_member")
    if node.registry.role(user, entry.id) is None:
        raise Problem("not_found", f"user: {body.user!r} is not a member", field="user")
    if not leaving:
        _check_rank(node, call, entry.id, user, None)
    elif node.registry.role(user, entry.id) is Role.OWNER:
        raise Problem("conflict", "the owner cannot leave the project", hint="delete it instead")
    adoption = None
    if body.adopt and not leaving:
        adoption = Adoption(node, call.actor, entry.id, user)
        await adoption.run()

    def body_of(transaction: Transaction) -> None:
        if adoption is not None:
            adoption.grant_again(transaction)
        revoke(node, transaction, call.actor, entry.id, user)

    await node.transactions.run(body_of)
    found = node.registry.get(Class.PROJECT, entry.id)
    return Answer(value=view(node, found or entry))


def _check_rank(node: "Node", call: Call, project: int, user: int, role: Role | None) -> None:
    own = node.registry.role(call.actor.user, project)
    held = node.registry.role(user, project)
    for touched in (role, held):
        if own is None or (touched is not None and not may_grant(own, touched)):
            raise Problem("forbidden", "you may only give and take roles below your own")


async def _set_secret(node: "Node", call: Call) -> Answer:
    body: SetSecret = call.body
    access.find(node, call, Class.PROJECT, "set_secret")
    sealed = sealed_secrets.seal(
        node.identity.mesh,
        call.object_id,
        body.name,
        body.value,
        _readers(node, body.nodes or [str(node.identity.number)]),
        node.entropy,
    )

    def change(secrets: list[SealedSecret]) -> list[SealedSecret]:
        return sealed_secrets.with_secret(secrets, sealed)

    return await _change_secrets(node, call, "set_secret", change)


async def _remove_secret(node: "Node", call: Call) -> Answer:
    body: RemoveSecret = call.body

    def change(secrets: list[SealedSecret]) -> list[SealedSecret]:
        if sealed_secrets.find(secrets, body.name) is None:
            raise Problem("not_found", f"name: there is no secret {body.name!r}", field="name")
        return sealed_secrets.without(secrets, body.name)

    return await _change_secrets(node, call, "remove_secret", change)


async def _change_secrets(
    node: "Node",
    call: Call,
    verb: str,
    change: Callable[[list[SealedSecret]], list[SealedSecret]],
) -> Answer:
    def body(transaction: Transaction) -> None:
        current = access.find(node, call, Class.PROJECT, verb)
        require_match(call, view(node, current).revision)
        secrets = change(current.attributes.secrets)
        attributes = msgspec.structs.replace(current.attributes, secrets=secrets)
        node.registry.put(transaction, call.actor, current.place, attributes)

    await node.transactions.run(body)
    return Answer(value=view(node, access.find(node, call, Class.PROJECT, "get")))


def _readers(node: "Node", texts: list[str]) -> dict[int, bytes]:
    """Return the numbers and keys of members of the mesh, or raise the `Problem`."""
    found = {}
    for text in texts:
        try:
            member = node.membership.find(text)
        except Problem as problem:
            raise Problem(
                "not_found", problem.detail.replace("node:", "nodes:", 1), field="nodes"
            ) from None
        if not node.membership.is_member(member.public_key):
            raise Problem("conflict", f"nodes: node {member.number} was evicted", field="nodes")
        found[member.number] = member.public_key
    return found


async def _usage(node: "Node", call: Call) -> Answer:
    entry = access.find(node, call, Class.PROJECT, "usage")
    return Answer(
        value=UsageView(
            quota=quotas.get(node.store, entry.id),
            blobs=node.content.usage(entry.id, METER_BLOBS),
            blob_bytes=node.content.usage(entry.id, METER_BLOB_BYTES),
            jobs_unfinished=node.live.unfinished(entry.id),
            functions=len(node.registry.owned(Class.FUNCTION, entry.id)),
        )
    )


def _candidates(node: "Node", call: Call, before: int) -> Iterator[ProjectView]:
    for project in access.listed_projects(node, call):
        entry = node.registry.get(Class.PROJECT, project)
        if entry is None or project >= before:
            continue
        if access.may(call.actor, "list", access.entry_target(node, call.actor, entry)):
            yield view(node, entry)


async def _list(node: "Node", call: Call) -> Answer:
    return await listing.page(call, ProjectView, lambda before: _candidates(node, call, before))


WAIT_CHANGE = Parameter(
    name="wait", description="seconds to wait for the revision to change", type="number"
)

PROJECT = ObjectClass(
    name="project",
    summary="Several users sharing functions, data and quota.",
    view=ProjectView,
    list=Operation(
        handler=_list,
        summary="List the projects you are in, newest first",
        parameters=(Parameter(name="name", description="only the one called so"),),
    ),
    create=Operation(
        handler=_create,
        summary="Make a project; you are its owner",
        body=Create,
        answer=ProjectView,
        status=201,
        problems=("name_taken", "invalid_field"),
        parameters=(KEY,),
    ),
    get=Operation(
        handler=_get,
        summary="Read a project",
        answer=ProjectView,
        problems=("not_found",),
        parameters=(WAIT_CHANGE,),
    ),
    set=Operation(
        handler=_set,
        summary="Change a project (quota: the operator)",
        body=Set,
        answer=ProjectView,
        problems=("not_found", "forbidden", "precondition_failed"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Delete an empty project for ever",
        status=204,
        problems=("not_found", "forbidden", "conflict", "precondition_failed"),
    ),
    methods={
        "add_member": Operation(
            handler=_add_member,
            summary="Give a user a role below your own",
            body=AddMember,
            answer=ProjectView,
            problems=("not_found", "forbidden"),
        ),
        "remove_member": Operation(
            handler=_remove_member,
            summary="Remove a member, or leave",
            body=RemoveMember,
            answer=ProjectView,
            problems=("not_found", "forbidden", "conflict"),
        ),
        "set_secret": Operation(
            handler=_set_secret,
            summary="Set a secret that only functions read, at the nodes that are named",
            body=SetSecret,
            answer=ProjectView,
            problems=(
                "not_found",
                "forbidden",
                "conflict",
                "too_large",
                "invalid_field",
                "precondition_failed",
            ),
        ),
        "remove_secret": Operation(
            handler=_remove_secret,
            summary="Remove a secret",
            body=RemoveSecret,
            answer=ProjectView,
            problems=("not_found", "forbidden", "precondition_failed"),
        ),
        "usage": Operation(
            handler=_usage,
            summary="Read quota and use",
            body=Nothing,
            answer=UsageView,
            problems=("not_found",),
        ),
    },
)
