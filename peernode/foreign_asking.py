"""Asking another node: one question, one reply, and what it means when there is none.

What a caller is told: a `Problem` of the home is passed on; a home that cannot be asked is
`unreachable`, and whoever asks decides whether something older will do.  `nodes` in a problem
names the nodes by number: those that were asked (`not_found`) or could not be (`unreachable`).
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from gossip.errors import PeerBusy, PeerError, RemoteProtocolError
from gossip.network import Network, Stream
from peernode import foreign_messages as messages
from peernode.foreign_config import Config
from peernode.foreign_members import Members
from peernode.permissions import Actor, Target, require
from peernode.problems import CODES, FENCED, Problem
from peernode.timestamps import rfc3339
from storage import ids

if TYPE_CHECKING:
    from peernode.node import Node

ORIGIN: Final = b"origin-node"
STALE: Final = b"stale"
"""Headers of answers for another node."""
PASSED_ON_BELOW: Final = 500
"""Problems of the home with a lower status are the caller's; others are the home's own."""


Reply: TypeAlias = messages.View | messages.Ended | messages.Row
"""What a home answers that does not refuse."""


class Unreachable(Exception):
    """An object's home cannot be asked now."""


class Asking:
    """Questions to other nodes."""

    def __init__(self, node: "Node", network: Network, members: Members, config: Config) -> None:
        self._node = node
        self._network = network
        self._members = members
        self._config = config
        self._waits: dict[str, int] = {}
        """Home -> questions that wait there."""

    def home_or_refuse(self, actor: Actor, class_name: str, id: int) -> str | None:
        """Return the peer that is an id's home, or `None` if that node is a member no more.

        Raises the `Problem` of a caller without a token, and `not_found` if no node has made it.
        """
        if actor.kind == "anonymous":
            require(actor, "get", Target(class_name=class_name))
        if self._members.home_key(id) is None:
            raise missing(class_name, id, [])
        return self._members.home_peer(id)

    async def ask(
        self,
        operation: messages.Operation,
        id: int,
        actor: Actor,
        *,
        wait_s: float = 0.0,
    ) -> Reply:
        """Return the home's reply. Raises `Unreachable`, or the home's `Problem`."""
        peer = self._members.home_peer(id)
        if peer is None or not actor.certificate:
            raise Unreachable
        ask = _question(operation, id, actor, wait_s=wait_s)
        try:
            frame = await self._network.request(
                peer,
                messages.ASK,
                messages.encode(ask),
                reply_size_max_bytes=messages.REPLY_SIZE_MAX_BYTES,
                timeout_s=wait_s + self._config.ask_timeout_s,
            )
            reply = messages.decode_reply(frame)
        except PeerError as error:
            raise self._translate(peer, error) from error
        if isinstance(reply, messages.Refusal):
            if reply.code in FENCED:
                raise Unreachable
            raise _problem(reply, operation.partition(".")[0], id)
        return reply

    async def ask_until(
        self,
        operation: messages.Operation,
        id: int,
        actor: Actor,
        wait_s: float,
        is_final: Callable[[Reply], bool],
    ) -> Reply:
        """Return the first reply that is final, or the last one before `wait_s` are over.

        Each question waits at the home for a slice of that; those for whom there is no room there
        ask again after a pause.  Raises as `ask`.
        """
        until = trio.current_time() + wait_s
        home = self._members.home_peer(id) or ""
        reply = await self.ask(operation, id, actor)
        while not is_final(reply) and (left_s := until - trio.current_time()) > 0:
            if self._waits.get(home, 0) >= self._config.waits_max:
                await trio.sleep(min(left_s, self._config.poll_s))
                reply = await self.ask(operation, id, actor)
                continue
            self._waits[home] = self._waits.get(home, 0) + 1
            slice_s = min(left_s, self._config.wait_slice_s)
            try:
                reply = await self.ask(operation, id, actor, wait_s=slice_s)
            finally:
                self._waits[home] -= 1
                if not self._waits[home]:
                    del self._waits[home]
        return reply

    async def follow(
        self, operation: messages.Operation, id: int, actor: Actor, accept: bytes, after: int
    ) -> tuple[messages.View, AsyncGenerator[bytes, None]]:
        """Return what the home begins to say, and the pieces that follow.

        The pieces are begun already: close them.  Raises as `ask`.
        """
        peer = self._members.home_peer(id)
        if peer is None or not actor.certificate:
            raise Unreachable
        pieces = self._pieces(
            peer, messages.encode(_question(operation, id, actor, accept=accept, after=after))
        )
        try:
            reply = messages.decode_reply(await anext(pieces))
        except PeerError as error:
            await pieces.aclose()
            raise self._translate(peer, error) from error
        if not isinstance(reply, messages.View):
            await pieces.aclose()
            if isinstance(reply, messages.Refusal):
                raise _problem(reply, operation.partition(".")[0], id)
            raise Unreachable
        return reply, pieces

    async def _pieces(self, peer: str, ask: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the first reply, then each piece; a broken stream raises `PeerError`."""
        stream: Stream = await self._network.open_stream(
            peer,
            messages.FOLLOW,
            size_max_bytes=messages.PIECE_SIZE_MAX_BYTES + 1,
            timeout_s=self._config.ask_timeout_s,
        )
        try:
            await stream.send(ask)
            yield await stream.receive()
            while (frame := await stream.receive()) != messages.LAST:
                if frame[:1] != messages.MORE:
                    raise RemoteProtocolError("a piece that is none")
                yield frame[1:]
        finally:
            await stream.aclose()

    def _translate(self, peer: str, error: PeerError) -> Exception:
        self._members.blame(peer, error)
        if isinstance(error, PeerBusy):
            return Problem("overloaded", "this node asks as much as it does at once")
        return Unreachable()

    def unreachable(self, class_name: str, id: int, besides: Sequence[int] = ()) -> Problem:
        """Return what to tell when an object's home cannot be asked, and nobody else has it."""
        home = ids.node_number(id)
        nodes = list(dict.fromkeys([home, *besides]))
        return Problem(
            "unreachable",
            f"{class_name} {str(id)!r} is at node {home}, which cannot be asked now",
            hint="ask again later",
            nodes=nodes,
        )


def missing(class_name: str, id: int, asked: Sequence[int]) -> Problem:
    """Return what to tell when nobody has it, or the caller may not see it."""
    return Problem(
        "not_found",
        f"there is no {class_name} {str(id)!r} that you may see",
        nodes=list(asked),
    )


def headers(id: int, stale_ms: int | None = None) -> list[tuple[bytes, bytes]]:
    """Return what an answer for another node carries; `stale_ms` is when it was known."""
    found = [(ORIGIN, b"%d" % ids.node_number(id))]
    if stale_ms is not None:
        found.append((STALE, b"as-of " + rfc3339(stale_ms).encode()))
    return found


def _question(
    operation: messages.Operation,
    id: int,
    actor: Actor,
    *,
    wait_s: float = 0.0,
    accept: bytes = b"",
    after: int = 0,
) -> messages.Ask:
    return messages.Ask(
        version=messages.VERSION,
        operation=operation,
        id=id,
        wait_ms=int(wait_s * 1000),
        accept=accept[: messages.ACCEPT_LENGTH_MAX],
        after=after,
        auth=actor.certificate,
    )


def _problem(refusal: messages.Refusal, class_name: str, id: int) -> Problem:
    """Return what the home refused, for our caller."""
    home = ids.node_number(id)
    if refusal.code == "not_found":
        return missing(class_name, id, [home])
    known = CODES.get(refusal.code)
    if known is None or (known[0] >= PASSED_ON_BELOW and refusal.code != "overloaded"):
        return Problem(
            "unreachable", f"node {home} cannot answer now", hint="ask again later", nodes=[home]
        )
    detail, hint = refusal.detail.decode(errors="replace"), refusal.hint.decode(errors="replace")
    return Problem(refusal.code, detail, hint=hint)
