"""Keys of `cas` namespaces of other nodes: every call about them is carried out at their home.

A `cas` namespace is linearizable: its home alone writes its entries, and only what the home says is
read.  So a call about its keys, reads included, is passed on to the home with the caller's
certificate; the home judges and does it as if it had been called there, and what it answers is the
answer.  Without the home there is none (`home_unreachable`): nothing older would do.  Namespaces in
which the last writer wins are written and read at every node, and never come here.

    Ask      [1, version, method, space, body, auth]     the body of the call, as JSON
    Refusal  [2, code, stated]                           the fields of a `Problem`, as JSON
    Done     [3, body]                                   the answer's body, as JSON

A question that was sent and not answered may have been carried out.  It is never sent twice; the
problem says whether it was sent, so that its caller knows whether to look before asking again.

A job asks with its node's word in the place of a certificate (`foreign_passes`).  It reads, and
writes at once, as often as its attempts are repeated; what it buffers until it succeeds is one
batch with its own end, which no other node can be part of, and `edge_calls` refuses that.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec

from gossip.errors import PeerBusy, PeerError, PeerUnreachable, RemoteProtocolError
from gossip.fetch_messages import AUTH_SIZE_MAX_BYTES
from gossip.network import Network
from peernode.calls import Answer, Call, Operation
from peernode.classes.kv import KV
from peernode.foreign_asking import headers
from peernode.foreign_config import Config
from peernode.foreign_members import Members
from peernode.foreign_passes import Passes
from peernode.foreign_serving import Serving
from peernode.json_bodies import decode_body
from peernode.peer_frames import read_frame
from peernode.permissions import Actor, Target, require
from peernode.problems import CODES, FENCED, Problem, not_found
from peernode.space_limits import VALUE_SIZE_MAX_BYTES
from peernode.spaces import Space, home_unreachable
from storage import codec, ids
from storage.errors import StoreClosed, StoreError, StoreFull
from storage.ids import Id
from storage.nodes import Node as Member

if TYPE_CHECKING:
    from peernode.node import Node

PROTOCOL: Final = "/peernode/kv/1"
VERSION: Final = 1
ASK_SIZE_MAX_BYTES: Final = VALUE_SIZE_MAX_BYTES + AUTH_SIZE_MAX_BYTES + 8 * 1024
"""Largest question. Source: formula; a value, a right, and the longest key, written as escapes."""
REPLY_SIZE_MAX_BYTES: Final = 2 << 20
"""Largest reply. Source: formula; 1000 keys of 256 bytes, each byte written as an escape of six."""
STATED_SIZE_MAX_BYTES: Final = 16 * 1024
PASSED_ON: Final = frozenset({"overloaded", "storage_full"}) | FENCED
"""Problems from 500 on that are told as they are: the home did nothing, and says why."""

Method: TypeAlias = Literal["put", "get", "delete", "list", "increment"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
READS: Final[tuple[Method, ...]] = ("get", "list")


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array whose first element is the kind."""


class Ask(Message, frozen=True, tag=1):
    """Do this to the keys of a namespace, for the user of this certificate."""

    version: int
    method: Method
    id: Id
    body: bytes
    auth: Annotated[bytes, msgspec.Meta(max_length=AUTH_SIZE_MAX_BYTES)]


class Refusal(Message, frozen=True, tag=2):
    """No, and why."""

    code: str
    stated: Annotated[bytes, msgspec.Meta(max_length=STATED_SIZE_MAX_BYTES)]


class Done(Message, frozen=True, tag=3):
    """It is done, and this is the answer."""

    body: bytes


class Stated(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a `Problem` says; fields that are not here are not passed on."""

    detail: str
    hint: str = ""
    field: str = ""
    limit: int | float | None = None
    version: str = ""
    """Of `version_mismatch`: the version that the key has."""


Reply: TypeAlias = Refusal | Done


def encode(message: Ask | Reply) -> bytes:
    """Return the frame of a message."""
    return codec.encode_struct(message)


def decode_ask(frame: bytes) -> Ask:
    """Return the question in a frame. Raises `RemoteProtocolError`."""
    return read_frame(frame, ASK_SIZE_MAX_BYTES, Ask, "a question")


def decode_reply(frame: bytes) -> Reply:
    """Return the reply in a frame. Raises `RemoteProtocolError`."""
    return read_frame(frame, REPLY_SIZE_MAX_BYTES, Reply, "a reply")  # type: ignore[arg-type]


class ForeignKv:
    """Passes calls about keys on to their home, and carries out those of other nodes."""

    def __init__(
        self,
        node: "Node",
        network: Network,
        members: Members,
        passes: Passes,
        serving: Serving,
        config: Config,
    ) -> None:
        self._node = node
        self._network = network
        self._members = members
        self._passes = passes
        self._serving = serving
        self._config = config
        self._decoders: Mapping[Method, msgspec.json.Decoder[Any]] = {
            method: msgspec.json.Decoder(KV.methods[method].body) for method in METHODS
        }
        network.serve_requests(PROTOCOL, self.answer, size_max_bytes=ASK_SIZE_MAX_BYTES)

    async def ask(self, call: Call, method: Method, space: Space) -> Answer:
        """Answer a call about a key of `space`, whose home is another node. Raises `Problem`."""
        actor = call.actor
        if actor.kind == "anonymous":
            require(actor, "get", Target(class_name="kv"), str(space.id))
        peer = self._members.home_peer(space.id)
        is_job = actor.kind == "job"
        auth = self._passes.state(actor, space.id) if is_job else actor.certificate
        if peer is None or not auth:
            raise home_unreachable(space.id)
        body = msgspec.json.encode(call.body)
        frame = encode(Ask(VERSION, method, space.id, body, auth))
        if len(frame) > ASK_SIZE_MAX_BYTES:
            raise Problem("too_large", "a key or a value is too large", limit=VALUE_SIZE_MAX_BYTES)
        try:
            reply = decode_reply(
                await self._network.request(
                    peer,
                    PROTOCOL,
                    frame,
                    reply_size_max_bytes=REPLY_SIZE_MAX_BYTES,
                    timeout_s=self._config.ask_timeout_s,
                )
            )
            if isinstance(reply, Refusal):
                raise _problem(reply, space.id)
            value = _value(reply, KV.methods[method])
        except PeerBusy as error:
            raise Problem("overloaded", "this node asks as much as it does at once") from error
        except PeerError as error:
            self._members.blame(peer, error)
            is_unknown = method not in READS and not isinstance(error, PeerUnreachable)
            raise home_unreachable(space.id, was_sent=is_unknown) from error
        return Answer(value=value, headers=headers(space.id))

    async def answer(self, peer: str, frame: bytes) -> bytes:
        """Return the reply to a question. Raises `PeerError` for one that nobody may ask so."""
        ask = decode_ask(frame)
        member = self._members.require_member(peer)
        await self._node.lives.started.wait()
        with self._serving.working(peer) as is_free:
            try:
                self._node.lives.require()
                if not is_free:
                    raise Problem("overloaded", "that node asks too much at once")
                if ask.version != VERSION:
                    raise Problem("not_implemented", "another version of the nodes' language")
                space = self._node.spaces.get(ask.id)
                if space is None or space.mode != "cas" or self._members.is_elsewhere(ask.id):
                    raise not_found("kv", str(ask.id))
                actor = self._passes.job(ask.auth, ask.id, member)
                if actor is None:
                    actor = self._speaker(ask, member)
                call = Call(actor, [], {}, object_id=ask.id)
                call.body = decode_body(self._decoders[ask.method], ask.body)
                done = await KV.methods[ask.method].handler(self._node, call)
                reply: Reply = Done(msgspec.json.encode(done.value))
            except Problem as problem:
                reply = _refusal(problem)
            except StoreFull as error:
                reply = _refusal(Problem("storage_full", str(error)))
            except StoreClosed:
                reply = _refusal(Problem("draining", "that node is stopping"))
            except StoreError as error:
                reply = _refusal(Problem("internal", str(error)))
        return encode(reply)

    def _speaker(self, ask: Ask, member: Member) -> Actor:
        try:
            return self._members.speaker(member, ask.auth)
        except Problem:
            raise not_found("kv", str(ask.id)) from None


def _value(reply: Done, operation: Operation) -> Any:
    """Return an answer as this node would have made it. Raises `RemoteProtocolError`."""
    try:
        return msgspec.json.decode(reply.body, type=operation.answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not the answer to that: {error}") from error


def _refusal(problem: Problem) -> Refusal:
    stated = Stated(
        problem.detail,
        problem.hint,
        problem.field,
        problem.limit,
        problem.extra.get("version", ""),
    )
    return Refusal(problem.code, msgspec.json.encode(stated))


def _problem(refusal: Refusal, space: int) -> Problem:
    """Return what the home refused, for our caller. Raises `RemoteProtocolError`."""
    try:
        stated = msgspec.json.decode(refusal.stated, type=Stated)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"not a refusal: {error}") from error
    known = CODES.get(refusal.code)
    if known is None or (known[0] >= 500 and refusal.code not in PASSED_ON):
        return home_unreachable(space, was_sent=refusal.code != "draining")
    extra: dict[str, Any] = {"version": stated.version} if stated.version else {}
    return Problem(
        refusal.code,
        stated.detail,
        hint=stated.hint,
        field=stated.field,
        limit=stated.limit,
        nodes=[ids.node_number(space)],
        **extra,
    )
