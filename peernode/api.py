"""The HTTP API: one grammar over the table of classes, as an ASGI app.

`GET|POST /:class`, `GET|POST|DELETE /:class/:id`, `POST /:class/:id/:method`.  The grammar is
regular, so a call is two dictionary look-ups and no router; pages that are not objects
(`peernode.pages`) are Starlette's.  Here is all that every call shares: authentication, load
shedding before a body is read, limits of bodies, JSON, ids, ETags, and the one place where what
goes wrong becomes a status.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import msgspec

from peernode.calls import Answer, Call, Headers, ObjectClass, ObjectView, Operation
from peernode.json_bodies import decode_body, read_body
from peernode.pairs import ahead
from peernode.permissions import Actor
from peernode.problems import Problem, not_found
from storage import ids
from storage.errors import BlobTooLarge, InvalidData, StoreClosed, StoreFull

if TYPE_CHECKING:
    from peernode.node import Node

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGES: Final = frozenset({"", "openapi.json", "docs", "health", "metrics"})
"""First parts of the paths that are pages and not classes."""
QUERY_LENGTH_MAX: Final = 64
"""Most query parameters. Source: guess."""

_encode = msgspec.json.Encoder().encode


def require_match(call: Call, revision: str) -> None:
    """Raise a `Problem` if the call's `If-Match` names another revision than the object's."""
    header = call.header(b"if-match")
    if header is None or header.strip() == b"*":
        return
    if revision.encode() not in [tag.strip().strip(b'"') for tag in header.split(b",")]:
        raise Problem(
            "precondition_failed",
            f"the object is at revision {revision}",
            hint="read it again, and repeat the change if it still applies",
        )


class Api:
    """The ASGI app."""

    def __init__(
        self,
        node: "Node",
        classes: Mapping[str, ObjectClass],
        others: Mapping[str, Operation],
        pages: Callable[[], App],
    ) -> None:
        self.answered: Counter[tuple[str, str, int]] = Counter()
        """(class, operation, status) -> answers, for metrics."""
        self.shed = 0
        self._node = node
        self._classes = classes
        self._others = others
        """`METHOD /path` -> operation that is no class's."""
        self._build_pages = pages
        self._active = 0
        self._active_max = node.config.requests_active_max
        self._decoders = {
            body: msgspec.json.Decoder(body)
            for operation in (
                *chain.from_iterable(map(_operations, classes.values())),
                *others.values(),
            )
            if (body := operation.body) is not None
        }

    @cached_property
    def _pages(self) -> App:
        return self._build_pages()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        parts = scope["path"].split("/")
        spec = self._classes.get(parts[1]) if len(parts) > 1 else None
        name = "?"
        try:
            if spec is not None:
                name, operation, id_text = _route(spec, scope["method"], parts)
            elif (other := self._others.get(f"{scope['method']} {scope['path']}")) is not None:
                name, operation, id_text = parts[-1], other, None
            else:
                await self._page(scope, receive, send, parts)
                return
            answer = await self._call(spec, operation, id_text, scope, receive)
        except Problem as problem:
            answer = _problem_answer(problem)
        except (StoreFull, StoreClosed, BlobTooLarge, InvalidData) as error:
            answer = _problem_answer(_translate(error))
        self.answered[(spec.name if spec else "?", name, answer.status)] += 1
        await respond(answer, send, head=scope["method"] == "HEAD")

    async def _page(self, scope: Scope, receive: Receive, send: Send, parts: list[str]) -> None:
        if len(parts) > 1 and parts[1] in PAGES:
            await self._pages(scope, receive, send)
            return
        if any(call.endswith(f" {scope['path']}") for call in self._others):
            raise Problem("method_not_allowed", f"{scope['method']} is not defined here")
        raise Problem(
            "unknown_class",
            f"there is no class {parts[1] if len(parts) > 1 else ''!r}",
            hint=f"classes: {', '.join(self._classes)}",
        )

    async def _call(
        self,
        spec: ObjectClass | None,
        operation: Operation,
        id_text: str | None,
        scope: Scope,
        receive: Receive,
    ) -> Answer:
        headers: Headers = scope["headers"]
        query_string = scope["query_string"]
        query = _query(query_string) if query_string else {}
        waits = operation.waits or "wait" in query
        if self._active >= self._active_max and not waits:
            self.shed += 1
            raise Problem(
                "overloaded",
                f"{self._active_max} calls are at work",
                limit=self._active_max,
                headers=(("Retry-After", "1"),),
            )
        authorization = None
        for key, value in headers:
            if key == b"authorization":
                authorization = value
                break
        client = _client(scope)
        actor = self._authenticate(authorization, client)
        call = Call(actor, headers, query, receive=receive, client=client)
        if id_text is not None and spec is not None:
            call.id_text = id_text
            call.object_id = self._object_id(spec, operation, id_text)
        if not waits:
            self._active += 1
        try:
            lives = self._node.lives
            if not lives.opened.is_set():
                await lives.started.wait()
                if scope["method"] not in ("GET", "HEAD") and not operation.while_held_back:
                    lives.require()
            if operation.body is not None:
                call.raw = await read_body(call)
                decoder = self._decoders[operation.body]
                call.body = decode_body(decoder, call.raw or b"{}")
            foreign, handler = self._node.foreign, operation.handler
            if foreign and spec and foreign.objects.is_unknown(spec.name, call.object_id):
                await foreign.objects.meet(spec.name, call.object_id, actor)
            if operation.elsewhere and foreign and foreign.is_elsewhere(call.object_id):
                handler = operation.elsewhere
            return await handler(self._node, call)
        finally:
            if not waits:
                self._active -= 1

    def _authenticate(self, authorization: bytes | None, client: str) -> Actor:
        try:
            actor = self._node.sessions.authenticate(authorization)
        except Problem:
            self._node.admit_anonymous(client)
            raise
        if actor.kind == "anonymous":
            self._node.admit_anonymous(client)
        return actor

    def _object_id(self, spec: ObjectClass, operation: Operation, text: str) -> int:
        try:
            return ids.parse_id(text)
        except InvalidData as error:
            if spec.named is not None and not text.isdigit():
                found = spec.named(self._node, text)
                if found is not None:
                    return found
                if operation.hides_unknown:
                    return 0
                raise not_found(spec.name, text) from None
            raise Problem("not_found", f"id: {error}", field="id") from None


def _operations(spec: ObjectClass) -> list[Operation]:
    six = [spec.list, spec.create, spec.get, spec.set, spec.delete]
    return [*six, *spec.methods.values(), *spec.reads.values()]


def _route(spec: ObjectClass, method: str, parts: list[str]) -> tuple[str, Operation, str | None]:
    """Return the operation that a path of `spec` names, its name, and the id's text."""
    if method == "HEAD":
        method = "GET"
    length = len(parts)
    id_text: str | None
    if length == 2 or (length == 3 and not parts[2]):
        table: Mapping[str, tuple[str, Operation]] = {
            "GET": ("list", spec.list),
            "POST": ("create", spec.create),
        }
        id_text = None
    elif length == 3:
        table = {
            "GET": ("get", spec.get),
            "POST": ("set", spec.set),
            "DELETE": ("delete", spec.delete),
        }
        id_text = parts[2]
    elif length == 4:
        name, id_text = parts[3], parts[2]
        table = {}
        if name in spec.methods:
            table["POST"] = (name, spec.methods[name])
        if name in spec.reads:
            table["GET"] = (name, spec.reads[name])
        if not table:
            known = ", ".join([*spec.methods, *spec.reads])
            raise Problem(
                "unknown_method",
                f"{spec.name} has no method {name!r}",
                hint=f"methods: {known}" if known else "",
            )
    else:
        raise Problem("not_found", "a path has at most three parts: /class/id/method")
    found = table.get(method)
    if found is None:
        raise Problem(
            "method_not_allowed",
            f"{method} is not defined here",
            headers=(("Allow", ", ".join(table)),),
        )
    return found[0], found[1], id_text


def _query(query_string: bytes) -> dict[str, str]:
    name, _, value = query_string.partition(b"=")
    if value.isdigit() and name.isalpha():
        return {name.decode("ascii"): value.decode("ascii")}  # `wait=10`: nothing to unquote.
    try:
        return dict(
            parse_qsl(
                query_string.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=QUERY_LENGTH_MAX,
            )
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise Problem("bad_request", f"the query string is malformed: {error}") from None


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _translate(error: Exception) -> Problem:
    match error:
        case StoreFull():
            return Problem("storage_full", str(error), headers=(("Retry-After", "5"),))
        case StoreClosed():
            return Problem("draining", "this node is stopping")
        case BlobTooLarge():
            return Problem("too_large", str(error), field="body")
        case _:
            return Problem("invalid_field", str(error))


def _problem_answer(problem: Problem) -> Answer:
    return Answer(
        status=problem.status,
        content=problem.body(),
        media_type=b"application/problem+json",
        headers=[(key.lower().encode(), value.encode()) for key, value in problem.headers],
    )


async def respond(answer: Answer, send: Send, *, head: bool = False) -> None:
    """Send `answer`; for `head` without reading what it would stream."""
    headers = [(b"content-type", answer.media_type), *answer.headers]
    content = answer.content
    if content is None and answer.stream is None and answer.status != 204:
        content = _encode(answer.value)
        if isinstance(answer.value, ObjectView):
            headers.append((b"etag", b'"%b"' % answer.value.revision.encode()))
    if answer.stream is None:
        content = content or b""
        if answer.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if head:
        await answer.stream.aclose()
        await send({"type": "http.response.body", "body": b""})
        return
    async with ahead(answer.stream) as pieces:
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
