"""The six calls all classes share, names, and what is particular to users and projects.

Operations over the HTTP API, as `effects` describes them; no I/O here.  Names are resolved here:
`"project/name"` stands for a function or a KV namespace, a bare `"name"` for a project (and
for a function or namespace if only one is called so); digits are always an id.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from peernode.client.effects import (
    TIMEOUT_S,
    Emit,
    Headers,
    Object,
    Operation,
    Reply,
    Request,
    ask,
    new_key,
    send,
)
from peernode.client.errors import ConfigurationError, NotFound

PAGE_LENGTH = 200
"""Objects asked for at once. Source: guess, a round trip costs as much as reading them."""

JSON_HEADERS = (("content-type", "application/json"),)


def get(
    path: str, query: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S
) -> Request:
    """Return a GET."""
    pairs = tuple((query or {}).items())
    return Request(method="GET", path=path, query=pairs, repeatable=True, timeout_s=timeout_s)


def post(
    path: str,
    body: Mapping[str, Any],
    query: Mapping[str, str] | None = None,
    *,
    headers: Headers = (),
    repeatable: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Request:
    """Return a POST of a JSON object."""
    return Request(
        method="POST",
        path=path,
        query=tuple((query or {}).items()),
        headers=JSON_HEADERS + headers,
        content=msgspec.json.encode(body),
        repeatable=repeatable,
        timeout_s=timeout_s,
    )


def path_of(class_name: str, object_id: str, method: str = "") -> str:
    """Return the path of an object or of a method on it; the id may be a user's name."""
    path = f"/{quote(class_name, safe='')}/{quote(object_id, safe='')}"
    return f"{path}/{quote(method, safe='')}" if method else path


# --- the six calls ----------------------------------------------------------------------------


def create(class_name: str, body: Mapping[str, Any], key: str | None = None) -> Operation[Object]:
    """Create an object; safe to repeat, since it goes out under an idempotency key."""
    headers = (("idempotency-key", key or (yield from new_key())),)
    request = post(f"/{class_name}", body, headers=headers, repeatable=True)
    return (yield from send(request)).object()


def attributes(class_name: str, object_id: str) -> Operation[Object]:
    """Return an object's attributes."""
    return (yield from reply(class_name, object_id)).object()


def reply(class_name: str, object_id: str) -> Operation[Reply]:
    """Return an object's attributes as they came, with headers."""
    return (yield from send(get(path_of(class_name, object_id))))


def change(
    class_name: str, object_id: str, body: Mapping[str, Any], *, revision: str | None = None
) -> Operation[Object]:
    """Set attributes; with `revision`, only if the object still has it."""
    headers: Headers = () if revision is None else (("if-match", f'"{revision}"'),)
    path = path_of(class_name, object_id)
    return (yield from send(post(path, body, headers=headers))).object()


def delete(class_name: str, object_id: str) -> Operation[None]:
    """Delete an object. One that a lost first try has deleted counts as deleted."""
    request = Request(method="DELETE", path=path_of(class_name, object_id), repeatable=True)
    reply = yield from ask(request)
    if not (reply.status == 404 and reply.attempt > 1):
        reply.checked()


def call_method(
    class_name: str, object_id: str, method: str, body: Mapping[str, Any] | None = None
) -> Operation[Any]:
    """Call a method and return its answer, `None` when it has no body."""
    reply = yield from send(post(path_of(class_name, object_id, method), body or {}))
    return reply.json() if reply.content else None


def health() -> Operation[Object]:
    """Return what the node says of itself: `{status, node_id, peer_id}`."""
    return (yield from send(get("/health"))).object()


def listing(class_name: str, filters: Mapping[str, str]) -> Operation[None]:
    """Emit every object of a class that the caller may see, page by page."""
    cursor: str | None = ""
    while cursor is not None:
        items, cursor = yield from page(class_name, cursor, filters)
        for item in items:
            yield Emit(item)


def page(
    class_name: str, cursor: str, filters: Mapping[str, str]
) -> Operation[tuple[list[Object], str | None]]:
    """Return one page of a list, and where the next begins."""
    query = {**filters, "limit": str(PAGE_LENGTH)}
    if cursor:
        query["cursor"] = cursor
    body = (yield from send(get(f"/{class_name}", query))).object()
    return body.get("items", []), body.get("next")


def everything(class_name: str, filters: Mapping[str, str]) -> Operation[list[Object]]:
    """Return every object of a class with these attributes."""
    found: list[Object] = []
    cursor: str | None = ""
    while cursor is not None:
        items, cursor = yield from page(class_name, cursor, filters)
        found += items
    return found


# --- names ------------------------------------------------------------------------------------


def resolve_project(reference: str) -> Operation[str]:
    """Return the id of a project given by id or name."""
    if reference.isdigit():
        return reference
    found = yield from everything("project", {"name": reference})
    return only("project", reference, found)


def resolve_function(reference: str) -> Operation[str]:
    """Return the id of a function given by id, `project/name` or name."""
    if reference.isdigit():
        return reference
    project, _, name = reference.rpartition("/")
    filters = {"name": name}
    if project:
        filters["project"] = yield from resolve_project(project)
    found = yield from everything("function", filters)
    return only("function", reference, found)


def resolve_namespace(reference: str) -> Operation[str]:
    """Return the id of a KV namespace given by id, `project/name` or name."""
    if reference.isdigit():
        return reference
    project, _, name = reference.rpartition("/")
    found = yield from everything("kv", {"name": name})
    if project:
        project_id = yield from resolve_project(project)
        found = [space for space in found if space["owner"].get("project") == project_id]
    return only("kv", reference, found)


def resolve_user(reference: str) -> Operation[str]:
    """Return the id of a user given by id or name at this node."""
    if reference.isdigit():
        return reference
    return str((yield from attributes("user", reference))["id"])


RESOLVERS: Final[Mapping[str, Callable[[str], Operation[str]]]] = {
    "user": resolve_user,
    "project": resolve_project,
    "function": resolve_function,
    "kv": resolve_namespace,
}
"""Class -> the operation that turns a reference into an id."""


def only(kind: str, reference: str, found: list[Object]) -> str:
    """Return the id of the one object found. Raises `NotFound`; `ConfigurationError` for more."""
    if not found:
        raise NotFound(404, "not_found", f"there is no {kind} {reference!r} that you may see")
    if len(found) > 1:
        ids = ", ".join(str(item["id"]) for item in found[:5])
        raise ConfigurationError(
            f"{len(found)} objects of class {kind} are called {reference!r}",
            hint=f"name one by its id: {ids}",
        )
    return str(found[0]["id"])


# --- users and projects -----------------------------------------------------------------------


def signup(name: str, password: str, invite: str | None) -> Operation[Object]:
    """Create a user."""
    body = {"name": name, "password": password}
    return (yield from create("user", body if invite is None else body | {"invite": invite}))


def login(
    name: str, password: str, ttl_s: float | None, scopes: list[str] | None
) -> Operation[Object]:
    """Return `{token, expires_at}`, good at the node asked."""
    body: dict[str, Any] = {"password": password}
    if ttl_s is not None:
        body["ttl_s"] = ttl_s
    if scopes is not None:
        body["scopes"] = scopes
    request = post(path_of("user", name, "login"), body, repeatable=True)
    return (yield from send(request)).object()


def token_for(user: str, node_id: str) -> Operation[Object]:
    """Return `{token, expires_at}`, good at another node, of one who has a token of the home."""
    if not user:
        raise ConfigurationError(
            "it is not known whose token this is", hint="log in first, at the home of the user"
        )
    request = post(path_of("user", user, "delegate"), {"audience": [node_id]}, repeatable=True)
    return (yield from send(request)).object()


def add_member(project: str, user: str, role: str) -> Operation[Object]:
    """Give a user (id, or name at this node) a role in a project."""
    project_id = yield from resolve_project(project)
    body = {"user": (yield from resolve_user(user)), "role": role}
    request = post(path_of("project", project_id, "add_member"), body, repeatable=True)
    return (yield from send(request)).object()


def remove_member(project: str, user: str, adopt: bool) -> Operation[Object]:
    """Take a user out of a project; `adopt`: keep what he made there, as yours."""
    project_id = yield from resolve_project(project)
    body = {"user": (yield from resolve_user(user)), "adopt": adopt}
    request = post(path_of("project", project_id, "remove_member"), body, repeatable=True)
    return (yield from send(request)).object()
