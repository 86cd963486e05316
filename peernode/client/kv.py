"""Key-value namespaces: making one, and its methods."""

from collections.abc import Mapping
from typing import Any

from peernode.client.effects import Emit, Object, Operation, ask, send
from peernode.client.errors import ConfigurationError
from peernode.client.objects import PAGE_LENGTH, RESOLVERS, create, path_of, post


def create_namespace(
    owner: Mapping[str, str], name: str, scope: str, mode: str | None
) -> Operation[Object]:
    """Create a KV namespace. `owner` is `{"project": REFERENCE}`, or `user` or `function`."""
    resolved = {}
    for kind, reference in owner.items():
        if kind not in {"project", "function", "user"}:
            raise ConfigurationError(f"a namespace belongs to a project, function or user: {kind}")
        resolved[kind] = yield from RESOLVERS[kind](reference)
    body: dict[str, Any] = {"owner": resolved, "name": name, "scope": scope}
    if mode is not None:
        body["mode"] = mode
    return (yield from create("kv", body))


def get(space_id: str, key: str) -> Operation[Object]:
    """Return `{key, value, version, ...}`. Raises `NotFound`."""
    request = post(path_of("kv", space_id, "get"), {"key": key}, repeatable=True)
    return (yield from send(request)).object()


def put(
    space_id: str, key: str, value: Any, if_version: str | None, ttl_s: float | None
) -> Operation[Object]:
    """Set a key. Not repeated after a cut when it is conditional: it might refuse itself."""
    body: dict[str, Any] = {"key": key, "value": value}
    if if_version is not None:
        body["if_version"] = if_version
    if ttl_s is not None:
        body["ttl_s"] = ttl_s
    request = post(path_of("kv", space_id, "put"), body, repeatable=if_version is None)
    return (yield from send(request)).object()


def delete(space_id: str, key: str) -> Operation[None]:
    """Delete a key. Raises `NotFound`."""
    request = post(path_of("kv", space_id, "delete"), {"key": key}, repeatable=True)
    reply = yield from ask(request)
    if not (reply.status == 404 and reply.attempt > 1):
        reply.checked()


def increment(space_id: str, key: str, by: int) -> Operation[Object]:
    """Add to a number. Never repeated once it may have arrived."""
    body = {"key": key, "by": by}
    return (yield from send(post(path_of("kv", space_id, "increment"), body))).object()


def keys(space_id: str, prefix: str) -> Operation[None]:
    """Emit every key that begins with `prefix`, in order."""
    cursor: str | None = ""
    while cursor is not None:
        body: dict[str, Any] = {"prefix": prefix, "limit": PAGE_LENGTH}
        if cursor:
            body["cursor"] = cursor
        request = post(path_of("kv", space_id, "list"), body, repeatable=True)
        answer = (yield from send(request)).object()
        for key in answer.get("items", []):
            yield Emit(key)
        cursor = answer.get("next")
