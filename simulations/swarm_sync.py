"""Reconciliation in a swarm: each node's own `gossip.sync.Sync`, and when it is used.

When and with whom is as the daemon's driver has it (`peernode.sync_driver`): two nodes that are
linked anew compare at once, the one of the smaller name begins; each compares with a neighbour
drawn by lot now and then; and who was brought something that gossip would not bring any more tells
its other neighbours soon after.  Links that are there from the start are of nodes that know the
same, and compare nothing then.

Frames go over the links of the swarm, with gossip's.
"""

from collections.abc import Callable
from typing import Final, Protocol

from gossip.errors import PeerBusy, PeerClosed
from gossip.sync import Sync
from gossip.sync_events import (
    Accept,
    Applied,
    Apply,
    Closed,
    Done,
    Effect,
    Failed,
    Forged,
    Give,
    Given,
    Input,
    Insert,
    Open,
    Pause,
    Receive,
    Resume,
    Send,
    SyncConfig,
    Tick,
)
from gossip.sync_index import NONCE_SIZE_BYTES, Item, short_id
from gossip.sync_messages import PAYLOAD_OVERHEAD_BYTES, Stratum
from simulations import chance
from simulations.swarm import Swarm
from simulations.swarm_links import Node, Way
from simulations.swarm_records import Archive, Reader

MESH: Final = bytes(32)
AGAIN_S: Final = 1.0
FRESH_S: Final = 10.0
BUSY_TRIES_MAX: Final = 5
INTERVAL_S: Final = 30.0
"""These four as `peernode.sync_driver` and `peernode.config` have them."""


class Keeper(Protocol):
    """Who keeps records for the nodes."""

    def archive(self, number: int) -> Archive:
        """Return what a node keeps."""

    def take(self, number: int, record: bytes, source: int) -> None:
        """A node was brought a good record that it did not have; it is to be kept."""

    def session_over(self, number: int, done: Done, frames: int) -> None:
        """A session that a node opened ended well."""


class _Side:
    """One side of one session."""

    __slots__ = ("frames", "has_news", "is_opener", "peer", "tries")

    def __init__(self, peer: Node, is_opener: bool, tries: int) -> None:
        self.peer = peer
        self.is_opener = is_opener
        self.tries = tries
        self.frames = 0
        self.has_news = False


class _Member:
    """One node's machine."""

    __slots__ = ("accepted", "chance", "due", "entropy", "node", "sides", "sync", "tick_at")

    def __init__(self, node: Node, seed: int, life: int, archive: Archive) -> None:
        self.node = node
        self.chance = chance.named(seed, "sync", node.number, life)
        self.entropy = chance.SeededEntropy(seed, "sync", node.number, life)
        self.sync = Sync(SyncConfig(), name(node), MESH, records=archive)
        self.sides: dict[int, _Side] = {}
        self.due: dict[int, float] = {}
        """Node -> when to compare with it."""
        self.accepted: dict[int, int] = {}
        """Node -> the last session that it opened here."""
        self.tick_at: float | None = None


class Reconciliation:
    """All machines of a swarm."""

    def __init__(
        self, swarm: Swarm, keeper: Keeper, reader: Reader, *, interval_s: float = INTERVAL_S
    ) -> None:
        """Compare with a peer by lot each `interval_s`, half more or less."""
        self._swarm = swarm
        self._keeper = keeper
        self._reader = reader
        self._interval_s = interval_s
        self._members: dict[int, _Member] = {}
        self._numbers = 0
        self._lives = 0
        self.sessions = 0
        self.sent_bytes = 0

    def machine(self, number: int) -> Sync:
        """Return a node's machine."""
        return self._members[number].sync

    # --- what happens to nodes ----------------------------------------------------------------

    def begin(self, number: int) -> None:
        """A node is up, with what it keeps."""
        self._lives += 1
        node = self._swarm.nodes[number]
        member = _Member(node, self._swarm.seed, self._lives, self._keeper.archive(number))
        self._members[number] = member
        self._draw_lot(member)

    def end(self, number: int) -> None:
        """A node is gone."""
        del self._members[number]

    def insert(self, number: int, one: Item) -> None:
        """A node that is up keeps something new."""
        self._members[number].sync.handle(Insert(Stratum.RECORDS, one), self._swarm.now)

    def linked(self, one: Node, other: Node) -> None:
        """Two nodes are linked anew."""
        first, second = sorted((one, other), key=name)
        if first.number in self._members and second.number in self._members:
            self._plan(self._members[first.number], second.number, 0.0)
            late = self._members[second.number]
            self._plan(late, first.number, self._pause_s(late))

    def parted(self, one: Node, other: Node) -> None:
        """Two nodes are linked no more."""
        for node, peer in ((one, other), (other, one)):
            member = self._members.get(node.number)
            if member is None:
                continue
            member.due.pop(peer.number, None)
            for number in [n for n, side in member.sides.items() if side.peer is peer]:
                self._tell(member, Closed(number, PeerClosed("the link broke")))

    # --- when and with whom -------------------------------------------------------------------

    def _pause_s(self, member: _Member) -> float:
        return self._interval_s * member.chance.uniform(0.5, 1.5)

    def _draw_lot(self, member: _Member) -> None:
        def due() -> None:
            if self._members.get(member.node.number) is member:
                if ways := list(member.node.ways.values()):
                    peer = member.chance.choice(ways).target
                    self._plan(member, peer.number, 0.0)
                self._draw_lot(member)

        self._swarm.at(self._swarm.now + self._pause_s(member), due)

    def _plan(self, member: _Member, peer: int, delay_s: float, tries: int = 0) -> None:
        at = self._swarm.now + delay_s
        held = member.due.get(peer)
        if held is not None and held <= at:
            return
        member.due[peer] = at

        def due() -> None:
            if self._members.get(member.node.number) is member and member.due.get(peer) == at:
                del member.due[peer]
                self._open(member, peer, tries)

        self._swarm.at(at, due)

    def _open(self, member: _Member, peer: int, tries: int) -> None:
        node = self._swarm.nodes[peer]
        if node.id not in member.node.ways:
            return
        if name(node) in member.sync.peers or member.sync.is_carrying(self._swarm.now):
            self._busy(member, peer, tries)
            return
        self._numbers += 1
        member.sides[self._numbers] = _Side(node, True, tries)
        nonce = member.entropy.token_bytes(NONCE_SIZE_BYTES)
        self._tell(member, Open(self._numbers, name(node), nonce))

    def _busy(self, member: _Member, peer: int, tries: int) -> None:
        if tries < BUSY_TRIES_MAX:
            self._plan(member, peer, AGAIN_S * member.chance.uniform(0.5, 1.5), tries + 1)

    # --- sessions -----------------------------------------------------------------------------

    def _tell(self, member: _Member, input: Input) -> None:
        """Give a machine an input, and do what it says."""
        effects = member.sync.handle(input, self._swarm.now)
        if self._swarm.checking:
            member.sync.check()
        for effect in effects:
            self._do(member, effect)
        if member.sides and member.tick_at is None:
            self._arm(member)

    def _do(self, member: _Member, effect: Effect) -> None:
        match effect:
            case Send(session, _, frame):
                self._send(member, session, frame)
            case Pause(session):
                self._tell(member, Resume(session))
            case Give():
                self._tell(member, Given(effect.session, self._read(member, effect)))
            case Apply():
                self._tell(member, self._apply(member, effect))
            case Done(session):
                side = member.sides.pop(session)
                self._done(member, side, effect)
            case Failed(session, _, error):
                side = member.sides.pop(session)
                self._hang_up(member, side.peer, session)
                if isinstance(error, PeerBusy) and side.is_opener:
                    self._busy(member, side.peer.number, side.tries)

    def _done(self, member: _Member, side: _Side, done: Done) -> None:
        if side.is_opener:
            self.sessions += 1
            self._keeper.session_over(member.node.number, done, side.frames)
        if not done.is_complete:
            self._plan(member, side.peer.number, AGAIN_S)
        if side.has_news:
            for way in member.node.ways.values():
                if way.target is not side.peer:
                    self._plan(member, way.target.number, AGAIN_S)

    def _read(self, member: _Member, give: Give) -> tuple[bytes | None, ...]:
        archive, room = self._keeper.archive(member.node.number), give.size_max_bytes
        payloads: list[bytes | None] = []
        for one in give.items:
            payload = archive.get(one) if give.stratum is Stratum.RECORDS else None
            room -= len(payload or b"") + PAYLOAD_OVERHEAD_BYTES
            if room < 0:
                break
            payloads.append(payload)
        return tuple(payloads)

    def _apply(self, member: _Member, apply: Apply) -> Input:
        number, session = member.node.number, apply.session
        items = [self._reader.read(payload) for _, payload in apply.received]
        for (short, _), one in zip(apply.received, items, strict=True):
            if one is None or short_id(one) != short:
                return Forged(session, "not what its id says")
        side = member.sides[session]
        stale_ms = chance.START_MS + int((self._swarm.now - FRESH_S) * 1000)
        for (_, payload), one in zip(apply.received, items, strict=True):
            assert one is not None
            if one not in self._keeper.archive(number):
                side.has_news |= int.from_bytes(one[:8], "big") < stale_ms
                self._keeper.take(number, payload, side.peer.number)
        return Applied(session)

    # --- streams ------------------------------------------------------------------------------

    def _send(self, member: _Member, session: int, frame: bytes) -> None:
        side = member.sides.get(session)
        if side is None:
            return  # It was refused in the same breath.
        side.frames += 1
        self.sent_bytes += len(frame)
        is_opener = side.is_opener

        def hear(to: _Member) -> None:
            self._hear(to, member, session, frame, is_opener)

        self._over(member, side.peer, len(frame), hear)

    def _hang_up(self, member: _Member, peer: Node, session: int) -> None:
        closed = Closed(session, PeerClosed("the other side closed the stream"))
        self._over(member, peer, 0, lambda to: self._tell(to, closed))

    def _over(
        self, member: _Member, peer: Node, size_bytes: int, arrive: Callable[[_Member], None]
    ) -> None:
        way: Way | None = member.node.ways.get(peer.id)
        if way is None:
            return

        def arrived() -> None:
            to = self._members.get(peer.number)
            if to is not None:
                arrive(to)

        self._swarm.send_over(way, size_bytes, arrived)

    def _hear(
        self, member: _Member, sender: _Member, session: int, frame: bytes, is_opener: bool
    ) -> None:
        side = member.sides.get(session)
        if side is None:
            if not is_opener or member.accepted.get(sender.node.number, 0) >= session:
                return  # It is over.
            member.accepted[sender.node.number] = session
            side = member.sides[session] = _Side(sender.node, False, 0)
            nonce = member.entropy.token_bytes(NONCE_SIZE_BYTES)
            self._tell(member, Accept(session, name(sender.node), nonce))
        side.frames += 1
        self._tell(member, Receive(session, frame))

    def _arm(self, member: _Member) -> None:
        deadline = member.sync.deadline
        if deadline is None:
            return
        member.tick_at = deadline

        def due() -> None:
            member.tick_at = None
            if self._members.get(member.node.number) is member:
                self._tell(member, Tick())

        self._swarm.at(deadline, due)


def name(node: Node) -> str:
    """Return what a node is called in sessions."""
    return f"n{node.number}"
