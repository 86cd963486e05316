"""From a call to the question `permissions.may` answers: what the object is to the actor."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from peernode.calls import Call
from peernode.functions import FunctionVersion
from peernode.permissions import Actor, Target, may, require as _require
from peernode.problems import Problem, not_found
from peernode.registry import Entry
from storage import ids
from storage.errors import InvalidData
from storage.places import Class

if TYPE_CHECKING:
    from peernode.node import Node

FOREIGN_BLOBS_MAX: Final = 100
"""Most blobs of other nodes named in one input. Source: guess; each is a question to its home."""

__all__ = [
    "callable_version",
    "find",
    "listed_projects",
    "may",
    "meet",
    "parse_reference",
    "readable_blob",
    "readable_blobs",
    "ready_version",
    "require",
    "target",
]


def target(
    node: "Node",
    actor: Actor,
    class_name: str,
    object_id: int,
    project: int,
    *,
    own: bool = False,
    granted: bool = False,
) -> Target:
    """Return what an object is to `actor`."""
    role = None
    if project and actor.kind == "user":
        role = node.registry.role(actor.user, project)
    return Target(
        class_name=class_name,
        id=object_id,
        project=project,
        role=role,
        own=own and actor.kind == "user",
        granted=granted,
    )


def require(actor: Actor, verb: str, wanted: Target, text: str = "") -> None:
    """Return if `actor` may; raises the `Problem` that tells no more than it may know."""
    _require(actor, verb, wanted, text or str(wanted.id))


def parse_reference(text: str, field: str) -> int:
    """Return the id in a body's field; raises a `Problem` that names the field."""
    try:
        return ids.parse_id(text)
    except InvalidData as error:
        raise Problem("invalid_field", f"{field}: {error}", field=field) from None


def find(node: "Node", call: Call, class_: Class, verb: str) -> Entry:
    """Return the object of a call, if its caller may do `verb`; raises `Problem`."""
    name = class_.name.lower()
    entry = node.registry.get(class_, call.object_id)
    if entry is None:
        require(call.actor, "get", Target(class_name=name), str(call.object_id))
        raise not_found(name, str(call.object_id))
    require(call.actor, verb, entry_target(node, call.actor, entry))
    return entry


def entry_target(node: "Node", actor: Actor, entry: Entry) -> Target:
    """Return what an object of the registry is to `actor`."""
    class_ = entry.place.class_
    name = "kv" if class_ is Class.KV_SPACE else class_.name.lower()
    owner = entry.place.owner if entry.place.owner_class is Class.USER else 0
    return target(
        node, actor, name, entry.id, entry.project, own=bool(owner) and owner == actor.user
    )


def callable_version(
    node: "Node", actor: Actor, function: str, number: int | None
) -> FunctionVersion:
    """Return the version of `function` that a job is to run; raises `Problem`."""
    identifier = parse_reference(function, "function")
    found = node.programs.get(identifier, number)
    if found is None:
        if node.registry.get(Class.FUNCTION, identifier) is not None and number is not None:
            raise Problem(
                "not_found",
                f"function_version: there is no version {number}",
                field="function_version",
            )
        raise Problem(
            "not_found",
            f"function: there is no function {function!r} that you may see",
            field="function",
        )
    wanted = target(node, actor, "function", identifier, found.project)
    if not may(actor, "call", wanted) and not may(actor, "get", wanted):
        if actor.kind == "anonymous":
            require(actor, "call", wanted)
        raise Problem(
            "not_found",
            f"function: there is no function {function!r} that you may see",
            field="function",
        )
    return found


async def meet(node: "Node", actor: Actor, class_name: str, id: int) -> None:
    """Return once an object that was just made at another node is known here, if there is one.

    Raises the `Problem` `unreachable` if that node cannot be asked.
    """
    foreign = node.foreign
    if foreign is not None and foreign.objects.is_unknown(class_name, id):
        await foreign.objects.meet(class_name, id, actor)


async def ready_version(
    node: "Node", actor: Actor, function: str, number: int | None
) -> FunctionVersion:
    """Return as `callable_version` does, once the version's source is here."""
    if node.foreign is not None:
        identifier = parse_reference(function, "function")
        await meet(node, actor, "function", identifier)
        await node.foreign.sources.ready(identifier, number)
    return callable_version(node, actor, function, number)


def readable_blob(node: "Node", actor: Actor, text: str) -> int:
    """Return the id of a blob of this node named in an input, if `actor` may read it."""
    try:
        identifier = ids.parse_id(text)
    except InvalidData:
        identifier = 0
    row = node.content.row(identifier) if identifier else None
    if row is None or not may(actor, "content", node.content.target(node, actor, row)):
        raise _unreadable(text)
    return identifier


def _unreadable(text: str) -> Problem:
    return Problem(
        "not_found", f"input: there is no blob {text!r} that you may read", field="input"
    )


async def readable_blobs(
    node: "Node", actor: Actor, texts: Iterable[str]
) -> dict[int, bytes | None]:
    """Return the blobs named in an input, if `actor` may read them, each with its home's pass.

    Blobs of this node need none.  Raises the `Problem` `not_found`, or `unreachable` for a blob
    of a node that cannot be asked.
    """
    found: dict[int, bytes | None] = {}
    for text in texts:
        try:
            blob = ids.parse_id(text)
        except InvalidData:
            raise _unreadable(text) from None
        if blob in found:
            continue
        if node.foreign is not None and node.foreign.is_elsewhere(blob):
            if sum(passed is not None for passed in found.values()) >= FOREIGN_BLOBS_MAX:
                raise Problem(
                    "too_large",
                    "input: it names too many blobs of other nodes",
                    field="input",
                    limit=FOREIGN_BLOBS_MAX,
                )
            try:
                found[blob] = await node.foreign.blobs.ask_pass(actor, blob)
            except Problem as problem:
                raise _unreadable(text) if problem.code == "not_found" else problem from None
        else:
            found[readable_blob(node, actor, text)] = None
    return found


def listed_projects(node: "Node", call: Call) -> list[int]:
    """Return the projects a list looks into: the one asked for, or all of the actor's."""
    asked = call.query.get("project")
    if asked is not None:
        return [parse_reference(asked, "project")]
    if call.actor.kind == "operator":
        return node.registry.all(Class.PROJECT)
    if call.actor.kind == "anonymous":
        require(call.actor, "list", Target(class_name="project"))
    return node.registry.projects_of(call.actor.user)
