"""Blobs of other nodes: attributes from their home, bytes from whoever has them.

The home says what a blob is, and whether its caller may read it.  Its bytes then come block by
block, each verified, into this node's cache, and go out while they come; the next reader finds them
here.  Who reads only a part has its blocks asked for one by one, and not what is before it.  When
the home cannot be asked, what it last said is answered, from here or from a neighbour, for a day at
most (`blob_snapshots`), and the right is judged by the same table here.

A job reads a blob with a pass: it is the `certificate` of its actor, who comes here for no other.
"""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final, NamedTuple

from gossip.errors import PeerError
from gossip.fetch_events import (
    Block,
    Found,
    Missing,
    Overloaded,
    TimedOut,
    Unreachable as NotReached,
    Unusable,
)
from gossip.fetch_messages import Data, Kind, Refused, Thing
from gossip.fetch_tree import Tree
from peernode import access, blob_snapshots, foreign_messages as messages
from peernode.blob_snapshots import Attributes
from peernode.calls import Call
from peernode.content import BlobRow
from peernode.fetch_driver import FetchDriver, Ticket
from peernode.foreign_asking import Asking, Reply, Unreachable, missing
from peernode.foreign_cache import Cache, Entry
from peernode.foreign_config import Config
from peernode.foreign_members import Members
from peernode.foreign_rows import Rows
from peernode.permissions import Actor, Target
from peernode.problems import Problem
from storage import codec, ids
from storage.cid import CONTENT_SIZE_MAX_BYTES, Cid, is_leaf
from storage.errors import BlobError, InvalidData, RecordError
from storage.store import Store, Table

if TYPE_CHECKING:
    from peernode.node import Node

_CLASS: Final = "blob"


class Held(NamedTuple):
    """What is kept of a blob: as its home signed it, what that says, and when it came."""

    signed: bytes
    attributes: Attributes
    seen_ms: int


class Seen(NamedTuple):
    """A blob of another node, and when its home last said so; `None`: just now."""

    row: BlobRow
    stale_ms: int | None


class ForeignBlobs:
    """Answers for blobs of other nodes."""

    def __init__(
        self,
        node: "Node",
        store: Store,
        cache: Cache,
        asking: Asking,
        members: Members,
        driver: FetchDriver,
        config: Config,
    ) -> None:
        self._node = node
        self._cache = cache
        self._asking = asking
        self._members = members
        self._driver = driver
        self._config = config
        self._rows = Rows(store, Table.FOREIGN_BLOBS, config.blobs_max, config.blobs_size_max_bytes)

    # --- attributes -------------------------------------------------------------------------

    async def find(self, call: Call, verb: str, wait_s: float = 0.0) -> Seen:
        """Return a blob that the call's actor may `get`, or read the `content` of.

        Raises the `Problem` `not_found`, `forbidden` or `unreachable`.
        """
        blob, actor = call.object_id, call.actor
        self._asking.home_or_refuse(actor, _CLASS, blob)
        try:
            operation: messages.Operation = "blob.content" if verb == "content" else "blob.get"
            reply = first = await self._asking.ask(operation, blob, actor)
            if wait_s:
                reply = await self._asking.ask_until(
                    operation, blob, actor, wait_s, lambda now: now != first
                )
        except Unreachable:
            return await self._without_home(actor, blob, verb)
        except Problem as problem:
            if problem.code == "not_found":
                self._forget_deleted(blob, actor)
            raise
        return Seen(self._keep(blob, reply).attributes.row, None)

    async def ask_pass(self, actor: Actor, blob: int) -> bytes:
        """Return what lets a job of `actor` read a blob, for as long as a job may wait.

        Raises the `Problem` `not_found`, or `unreachable` if the home cannot be asked.
        """
        self._asking.home_or_refuse(actor, _CLASS, blob)
        try:
            reply = await self._asking.ask("blob.pass", blob, actor)
        except Unreachable:
            raise self._asking.unreachable(_CLASS, blob) from None
        self._keep(blob, reply)
        if not isinstance(reply, messages.Row) or reply.passed is None:
            raise self._asking.unreachable(_CLASS, blob)
        return reply.passed

    def _keep(self, blob: int, reply: Reply) -> Held:
        """Keep what a home says of its blob. Raises `unreachable` if that is no use."""
        try:
            if not isinstance(reply, messages.Row):
                raise RecordError("not a blob")
            attributes = self._verified(blob, reply.attributes)
        except InvalidData as error:
            self._node.log.warning("a home's blob is not good", blob=str(blob), error=str(error))
            raise self._asking.unreachable(_CLASS, blob) from None
        return self._hold(blob, reply.attributes, attributes, self._node.clock.wall_ms())

    def _hold(self, blob: int, signed: bytes, attributes: Attributes, seen_ms: int) -> Held:
        self._rows.put(blob, codec.dump_row([signed, seen_ms]))
        return Held(signed, attributes, seen_ms)

    def signed(self, blob: int, row: BlobRow) -> bytes:
        """Return the attributes of a blob of this node for others."""
        identity = self._node.identity
        now_ms = self._node.clock.wall_ms()
        return blob_snapshots.sign(identity.keypair, identity.mesh, blob, row, now_ms)

    def held(self, blob: int) -> Held | None:
        """Return what is kept of a blob, as long as its home's word is good."""
        found = self._rows.get(blob)
        if found is None or self._members.home_key(blob) is None:
            return None
        signed, seen_ms = codec.load_row(found)
        try:
            attributes = blob_snapshots.read(signed, blob)
        except InvalidData:  # Kept by an older version, which had no signature.
            self._rows.drop(blob)
            return None
        if attributes.expires_ms <= self._node.clock.wall_ms():
            self._rows.drop(blob)
            return None
        return Held(signed, attributes, seen_ms)

    def target(self, actor: Actor, blob: int, row: BlobRow) -> Target:
        """Return what a blob is to `actor`, as known here."""
        granted = actor.kind == "job"
        return self._node.content.target(self._node, actor, row, blob, granted=granted)

    def fault_of(self, blob: int, data: bytes) -> str:
        """Return "" if `data` are attributes that the blob's home signed, or what is wrong."""
        try:
            self._verified(blob, data)
        except InvalidData as error:
            return str(error)
        return ""

    def check(self) -> None:
        """Assert the invariants."""
        self._rows.check()

    def _verified(self, blob: int, data: bytes) -> Attributes:
        key = self._members.home_key(blob)
        if key is None:
            raise RecordError("the blob's home is not known, or its word does not count")
        return blob_snapshots.verify(data, self._node.identity.mesh, blob, key)

    async def _without_home(self, actor: Actor, blob: int, verb: str) -> Seen:
        held = self.held(blob)
        if held is None and actor.certificate:
            held = await self._find_near(actor, blob)
        if held is None:
            if not actor.certificate:
                raise missing(_CLASS, blob, [])
            raise self._asking.unreachable(_CLASS, blob)
        row = held.attributes.row
        target = self.target(actor, blob, row)
        if not access.may(actor, "get", target):
            raise missing(_CLASS, blob, [self._node.identity.number])
        access.require(actor, verb, target)
        return Seen(row, held.seen_ms)

    async def _find_near(self, actor: Actor, blob: int) -> Held | None:
        """Return what a neighbour holds of a blob whose home cannot be asked."""
        home = self._members.home_peer(blob)
        providers = self._members.neighbours(*([home] if home else ()))
        outcome = await self._driver.fetch(
            Thing(Kind.ATTRIBUTES, blob, b""),
            actor.certificate,
            providers,
            self._config.find_timeout_s,
        )
        if not isinstance(outcome, Found):
            return None
        attributes = blob_snapshots.read(outcome.data, blob)
        # When that neighbour heard it is not known; the home said it when it signed it, at least.
        self._hold(blob, outcome.data, attributes, attributes.issued_ms)
        return self.held(blob)

    def _forget_deleted(self, blob: int, actor: Actor) -> None:
        """Forget a blob that its home has no more: it said so to one who could have read it."""
        held = self.held(blob)
        if held is not None and access.may(
            actor, "get", self.target(actor, blob, held.attributes.row)
        ):
            self._rows.drop(blob)

    # --- bytes ------------------------------------------------------------------------------

    async def stream(
        self, actor: Actor, blob: int, row: BlobRow, first_byte: int, length_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield verified bytes, at most a mebibyte at a time, while they come.

        The first piece is empty, and comes when the next one is here: take it before anything is
        answered.  Raises the `Problem` `not_found`, `unreachable`, `too_large` or
        `overloaded`, and `StorageError`.
        """
        root = Cid(row.cid)
        async with self._cache.hold(root, row.size_bytes) as entry:
            reading = _Reading(self, actor, blob, entry, is_part=length_bytes < row.size_bytes)
            top = Block(root, 0, 0, row.size_bytes)
            pieces = reading.pieces(top, 0, first_byte, first_byte + length_bytes)
            try:
                with self._cache.reading(entry):
                    first_piece = await anext(pieces, b"")
                    yield b""
                    if first_piece:
                        yield first_piece
                    async for piece in pieces:
                        yield piece
            finally:
                await pieces.aclose()
                reading.close()

    def begin(self, actor: Actor, blob: int, entry: Entry) -> Ticket:
        """Have what is not here of a blob's content fetched."""
        thing = Thing(Kind.BLOB, blob, bytes(entry.root))
        return self._driver.ask(
            thing,
            actor.certificate,
            self._members.providers(blob),
            self._config.content_timeout_s,
            entry.wake,
        )

    def withdraw(self, ticket: Ticket) -> None:
        """Wait no more for what `begin` began."""
        self._driver.withdraw(ticket)

    async def fetch_block(self, actor: Actor, blob: int, entry: Entry, block: Block) -> None:
        """Fetch one block of a blob's content. Raises `Problem` or `StorageError`."""
        thing = Thing(Kind.BLOB, blob, bytes(entry.root))
        asked: list[str] = []
        unreached: list[str] = []
        for provider in self._members.providers(blob):
            peer, timeout_s = provider.peer, self._config.ask_timeout_s
            try:
                reply = await self._driver.fetch_block(
                    thing, block, actor.certificate, peer, timeout_s
                )
            except PeerError as error:
                (asked if error.penalty else unreached).append(peer)
                continue
            if isinstance(reply, Data):
                return
            asked.append(peer)
            if provider.is_home and not (isinstance(reply, Refused) and reply.reason == "busy"):
                break
        if unreached:
            raise self._asking.unreachable(_CLASS, blob, self._members.numbers(tuple(unreached)))
        raise missing(_CLASS, blob, self._members.numbers(tuple(asked)))

    async def read(self, entry: Entry, cid: Cid) -> bytes:
        """Return a block that is here; raises `BlobError`."""
        return await self._cache.read(entry, cid)

    def complete(self, entry: Entry) -> None:
        """Take note that all of a content is here."""
        self._cache.complete(entry)

    def problem(self, blob: int, ticket: Ticket) -> Problem:
        """Return why no more of a blob comes."""
        match ticket.outcome:
            case Missing(asked):
                return missing(_CLASS, blob, self._members.numbers(asked))
            case NotReached(unreached, _) | TimedOut(unreached, _):
                return self._asking.unreachable(_CLASS, blob, self._members.numbers(unreached))
            case Overloaded():
                return Problem("overloaded", "this node fetches as much as it does at once")
            case Unusable(reason):
                return Problem("not_found", f"the content cannot be used: {reason}")
            case Found() | None:
                return Problem("overloaded", "the content could not be kept here; ask again")


class _Reading:
    """One reader of content that may still be coming."""

    def __init__(
        self, blobs: ForeignBlobs, actor: Actor, blob: int, entry: Entry, *, is_part: bool
    ) -> None:
        self._blobs = blobs
        self._actor = actor
        self._blob = blob
        self._entry = entry
        self._is_part = is_part
        self._ticket: Ticket | None = None
        self._tree = Tree(CONTENT_SIZE_MAX_BYTES)

    async def block(self, block: Block) -> bytes:
        """Return a block, once it is here."""
        entry, cid = self._entry, block.cid
        if entry.has(cid):
            try:
                return await self._blobs.read(entry, cid)
            except BlobError:
                entry.lost(cid)  # The disk lied: it is fetched again.
        if self._is_part:
            await self._blobs.fetch_block(self._actor, self._blob, entry, block)
        while not entry.has(cid):
            if self._ticket is None:
                self._ticket = self._blobs.begin(self._actor, self._blob, entry)
                continue
            ticket = self._ticket
            if ticket.error is not None:
                raise ticket.error
            if ticket.is_over:
                if not isinstance(ticket.outcome, Found):
                    raise self._blobs.problem(self._blob, ticket)
                self._blobs.complete(entry)
                continue
            await entry.changed()
        return await self._blobs.read(entry, cid)

    async def pieces(
        self, block: Block, at: int, first: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield bytes `first` to `end` of the content; `block` is what lies from `at` on."""
        data = await self.block(block)
        if is_leaf(block.cid):
            piece = data[max(0, first - at) : max(0, end - at)]
            if piece:
                yield piece
            return
        try:
            children = self._tree.children(block, data)
        except InvalidData:  # Good blocks, but of no content as it is taken here.
            raise missing(_CLASS, self._blob, [ids.node_number(self._blob)]) from None
        for child in children:
            if at + child.size_bytes > first and at < end:
                below = self.pieces(child, at, first, end)
                try:
                    async for piece in below:
                        yield piece
                finally:
                    await below.aclose()
            at += child.size_bytes

    def close(self) -> None:
        """Wait for nothing more."""
        if self._ticket is None:
            return
        if isinstance(self._ticket.outcome, Found):
            self._blobs.complete(self._entry)
        self._blobs.withdraw(self._ticket)
