"""The API's grammar as values: classes of objects, their operations, a call and its answer.

Seven classes share six calls.  Everything that is particular to a class stands in one file of
`peernode.classes` as an `ObjectClass`; routing, bodies, errors, paging, idempotency and the OpenAPI
page are written once, over this table.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from peernode.permissions import Actor
from peernode.problems import Problem

if TYPE_CHECKING:
    from peernode.node import Node

PAGE_LENGTH_DEFAULT: Final = 50
PAGE_LENGTH_MAX: Final = 1000
"""Most objects in one page. Source: a page of jobs stays under a megabyte."""

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of request bodies: closed, so that a misspelt field is an error."""


class Nothing(Body, frozen=True, kw_only=True):
    """A body without fields; it may be left out."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of answers."""


class ObjectView(View, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """What every object has."""

    id: str
    class_name: str
    revision: str
    """Changes with every change of the object; also its ETag."""
    created_at: str
    home_node: int


class Page(View, frozen=True, kw_only=True):
    """One page of a list."""

    items: list[Any]
    next: str | None


class Call:
    """One call of the API, decoded as far as its operation asks for."""

    __slots__ = (
        "actor",
        "body",
        "client",
        "headers",
        "id_text",
        "object_id",
        "query",
        "raw",
        "receive",
    )

    def __init__(
        self,
        actor: Actor,
        headers: Headers,
        query: Mapping[str, str],
        *,
        object_id: int = 0,
        client: str = "",
        receive: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self.actor = actor
        self.headers = headers
        self.query = query
        self.object_id = object_id
        self.id_text = ""
        """What stood in place of the id."""
        self.client = client
        """The caller's network address."""
        self.receive = receive
        self.body: Any = None
        """The decoded body: an instance of the operation's `body`."""
        self.raw = b""
        """The body as it came."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first header called `name` (lower case), or `None`."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body's bytes as they arrive, for operations that stream it."""
        assert self.receive is not None
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the caller left while its body was read")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a call comes to: a value to encode as JSON, bytes, or a stream of bytes."""

    status: int = 200
    value: Any = None
    headers: Headers = ()
    content: bytes | None = None
    stream: AsyncGenerator[bytes, None] | None = None
    media_type: bytes = b"application/json"


Handler: TypeAlias = Callable[["Node", Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or header, for the API's description."""

    name: str
    description: str
    type: str = "string"
    where: str = "query"
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing a caller can do."""

    handler: Handler
    summary: str
    body: type[Body] | None = None
    """`None`: it takes no JSON body (it reads none, or streams it)."""
    answer: type[View] | None = None
    status: int = 200
    statuses: tuple[int, ...] = ()
    """Other statuses with the same answer."""
    parameters: tuple[Parameter, ...] = ()
    streams_body: bool = False
    media_type: str = "application/json"
    media_types_also: tuple[str, ...] = ()
    """Types of text that it answers with if `Accept` asks for them."""
    problems: tuple[str, ...] = ()
    """Codes that are particular to this operation."""
    hides_unknown: bool = False
    """An unknown name is its own business (object 0): it must answer as for a wrong password."""
    elsewhere: Handler | None = None
    """Answers for an object of another node of the mesh; `None`: only its home does."""
    while_held_back: bool = False
    """It is answered though it is called by POST while the node does not know what it has done
    (`lives`): it changes nothing."""
    waits: bool = False
    """It may take as long as its caller asks for, so it does not count as work in progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectClass:
    """One class of objects: the paper's table, one row a call."""

    name: str
    summary: str
    view: type[ObjectView]
    list: Operation
    create: Operation
    get: Operation
    set: Operation
    delete: Operation
    methods: Mapping[str, Operation] = field(default_factory=dict)
    """Name -> operation, called by POST."""
    reads: Mapping[str, Operation] = field(default_factory=dict)
    """Name -> operation, called by GET (and HEAD)."""
    named: Callable[["Node", str], int | None] | None = None
    """Finds an object by what stands in place of its id, where a class allows names."""


def number(query: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    """Return a numeric query parameter; raises a `Problem` that names it and its bounds."""
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise Problem(
            "invalid_field",
            f"{name}: {text!r} is not a number from {low:g} to {high:g}",
            field=name,
            limit=high,
        )
    return value
