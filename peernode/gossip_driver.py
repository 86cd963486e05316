"""Driver of `gossip.Mesh`: what is new here goes to the others at once, and theirs comes in.

One topic for each mesh.  What this node keeps of its own users and jobs is collected in batches and
published; what comes is judged on the spot by its bytes alone (size, layout, signatures), passed on
if it is good, and taken in by one task after the other's turn.  A batch of which everything is
known is not passed on again, so an old message that is sent once more ends at the first node.
Nor is one whose author is no member, as far as is known here.

A batch that is wrong is its author's fault, whose signature it has; who brought it loses in the
machine's score (P4) only, since a node of another make passes on what it cannot read.  A peer whom
that score puts out is cut off for good measure (`peernode.standing`).

An item of a batch is one byte, the `Stratum`, and the fact or record.

Gossip is a hint: what does not find room here is left to reconciliation.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, assert_never

import trio

from gossip import wire
from gossip.batcher import Batcher, unpack
from gossip.config import BatchConfig, Config
from gossip.errors import PENALTY_FORGED, PENALTY_MALFORMED, RemoteProtocolError
from gossip.mesh import Mesh
from gossip.mesh_events import (
    Appraise,
    Connected,
    Deliver,
    Disconnect,
    Disconnected,
    Effect,
    Exchange,
    Identified,
    Input,
    Pardon,
    Received,
    Reset,
    SavedScore,
    Send,
    Subscribe,
    Tick,
    Verdict,
    Written,
)
from gossip.network import Network, PeerDown, PeerEvent, PeerUp
from gossip.sync_messages import Stratum
from gossip.wire import Message
from peernode.records_in import ITEM_SIZE_MAX_BYTES, Checker, Ingestion
from peernode.standing import CUT_AT, Standing
from peernode.waiting import Item
from storage import signing
from storage.errors import InvalidData, SignatureError, StoreError
from storage.facts import Fact

BATCH_SIZE_MAX_BYTES: Final = ITEM_SIZE_MAX_BYTES + 64
"""Largest batch that is looked at. Source: formula, the largest record alone."""
INCOMING_MAX: Final = 20_000
"""Most items that wait to be kept; more are left to reconciliation. Source: a burst of 10,000 from
two nodes at once; some 30 MB."""
OUTGOING_MAX: Final = 20_000
"""Most own items that wait for room; more are left to reconciliation. Source: as `INCOMING_MAX`."""
FRAMES_HELD_MAX: Final = 4096
"""Most frames held for a peer whose queue is full. Source: the machine bounds their bytes."""
AGAIN_S: Final = 0.02
"""Pause before a full queue is tried again. Source: guess; a batch's own delay."""
PEERS_CACHED_MAX: Final = 1024
"""Peer ids that need not be parsed again. Source: twice the peers of a node."""
APPRAISE_S: Final = 60.0
"""Pause between two looks at what is forgiven. Source: a tenth of its half-life."""
UNHEARD_MAX: Final = 600
"""Most frames, between two such looks, of a peer that gossip does not listen to (graylist); who
sends more is cut off. Source: guess; ten a second, where an honest node sends one or two."""


def topic_of(mesh: bytes) -> str:
    """Return the topic of a mesh's facts and records."""
    return f"peernode/{mesh[:8].hex()}/records/1"


def encode_item(item: Item) -> bytes:
    """Return an item as it stands in a batch."""
    stratum = Stratum.FACTS if isinstance(item, Fact) else Stratum.RECORDS
    return bytes([stratum]) + item.encoded


def decode_item(data: bytes) -> tuple[Stratum, bytes]:
    """Return what `encode_item` wrote; raises `RemoteProtocolError`."""
    if not data or data[0] not in (Stratum.FACTS, Stratum.RECORDS):
        raise RemoteProtocolError("an item of no known kind")
    return Stratum(data[0]), data[1:]


@dataclass(frozen=True, slots=True)
class _Incoming:
    items: list[Item]
    author: str
    """Peer id of whoever signed the batch, and so vouches for it."""


class GossipDriver:
    """One node's part in the gossip of its mesh."""

    def __init__(
        self,
        *,
        mesh: bytes,
        keypair: signing.Keypair,
        network: Network,
        checker: Checker,
        ingestion: Ingestion,
        standing: Standing,
        is_member: Callable[[bytes], bool],
        chance: random.Random,
        seqno: int,
        warn: Callable[..., None],
        scores: Iterable[SavedScore] = (),
        config: Config | None = None,
        batches: BatchConfig | None = None,
    ) -> None:
        """`seqno` is above all of earlier runs. `warn(event, **fields)` is for the operator.

        `is_member` is asked of the public keys of authors; `scores` is what `mesh.saved_scores`
        gave in an earlier run.
        """
        self.topic = topic_of(mesh)
        self.left_out = 0
        """Items that found no room, here or on their way out, and are left to reconciliation."""
        self._network = network
        self._checker = checker
        self._ingestion = ingestion
        self._standing = standing
        self._is_member = is_member
        self._warn = warn
        self._batch_config = batches or BatchConfig()
        self._batcher = Batcher(self._batch_config)
        self._outgoing: deque[Item] = deque()
        self._incoming: deque[_Incoming] = deque()
        self._incoming_items = 0
        self._judged: dict[bytes, list[Item]] = {}
        """Message -> what is in it, from its verdict until it is delivered a moment later."""
        self._held: dict[str, deque[bytes]] = {}
        self._unheard: dict[str, int] = {}
        """Peers that gossip does not listen to -> frames of theirs, since it was last looked."""
        self._graylist_below = (config or Config()).score.graylist_below
        self._up: dict[str, PeerUp] = {}
        self._unwanted: dict[str, None] = {}
        """Peers that are up and that the machine has no room for, or that do not read."""
        self._faults: deque[tuple[str, float, str]] = deque()
        """Whom to blame, how much and for what, once the machine has done with its input."""
        self._is_closed = False
        self._came = trio.Event()
        self._changed = trio.Event()
        self.mesh = Mesh(
            config or Config(),
            me=_to_bytes(network.peer),
            sign=keypair.sign_bytes,
            verify=signing.is_signed,
            chance=chance,
            seqno=seqno,
            now=trio.current_time(),
            judge=self._judge,
            scores=scores,
        )
        self._tell(Subscribe(self.topic))
        network.watch(self._see)
        network.serve_frames(self._receive, size_max_bytes=wire.RPC_SIZE_MAX_BYTES)
        for peer in network.peers():
            self._see(PeerUp(peer))

    def close(self) -> None:
        """Hear nothing any more."""
        self._is_closed = True

    def check(self) -> None:
        """Assert the invariants, those of the machine too."""
        self.mesh.check()
        assert len(self._outgoing) <= OUTGOING_MAX
        waiting = sum(len(batch.items) for batch in self._incoming)
        assert waiting == self._incoming_items <= INCOMING_MAX
        assert not self._judged
        assert all(len(frames) <= FRAMES_HELD_MAX for frames in self._held.values())
        self._checker.check_bounds()
        assert self._held.keys() <= self._up.keys()
        assert self._unwanted.keys() <= self._up.keys()

    # --- what this node says ----------------------------------------------------------------

    def publish(self, item: Item) -> None:
        """Have others told of what was made here and is durable."""
        if len(self._outgoing) >= OUTGOING_MAX:
            self.left_out += 1
            return
        self._outgoing.append(item)
        self._pump()
        self._changed.set()

    def pardon(self, peer: str) -> None:
        """Let a peer begin anew that was cut off for long enough."""
        self._tell(Pardon(_to_bytes(peer)))
        self.appraise(peer)

    def appraise(self, peer: str) -> None:
        """Tell the machine what a peer's standing is."""
        self._tell(Appraise(_to_bytes(peer), -self._standing.penalty(peer, trio.current_time())))

    def _pump(self) -> None:
        """Put into batches what there is room for."""
        now = trio.current_time()
        while self._outgoing and self.mesh.room:
            for message in self._batcher.add(
                self.topic, encode_item(self._outgoing.popleft()), now
            ):
                self._tell(message)

    # --- what comes -------------------------------------------------------------------------

    def _receive(self, peer: str, frame: bytes) -> None:
        if peer in self._unwanted or self._is_closed:
            return
        if self.mesh.score(_to_bytes(peer)) < self._graylist_below:
            self._unheard[peer] = self._unheard.get(peer, 0) + 1
            if self._unheard[peer] > UNHEARD_MAX:
                now = trio.current_time()
                self._standing.blame(peer, CUT_AT, "gossip: a flood that nobody hears", now)
        self._tell(Received(_to_bytes(peer), frame))

    def _judge(self, message: Message) -> Verdict:
        """Judge a batch by its bytes. IGNORE: nothing in it is new, or nobody vouches for it."""
        author = message.source[-32:]
        if not self._is_member(author):
            return Verdict.IGNORE
        try:
            found = unpack(message.data, BATCH_SIZE_MAX_BYTES, self._batch_config.records_max)
            items = self._checker.check_all(map(decode_item, found))
        except (RemoteProtocolError, InvalidData) as error:
            is_forged = isinstance(error, SignatureError)
            penalty = PENALTY_FORGED if is_forged else PENALTY_MALFORMED
            self._faults.append((signing.peer_id(author), penalty, f"a batch: {error}"))
            return Verdict.REJECT
        news = [item for item in items if self._ingestion.is_news(item)]
        if not news:
            return Verdict.IGNORE
        self._judged[message.id] = news
        return Verdict.ACCEPT

    def _deliver(self, message: Message) -> None:
        items = self._judged.pop(message.id, [])
        if self._incoming_items + len(items) > INCOMING_MAX:
            self.left_out += len(items)
            return
        self._incoming_items += len(items)
        self._incoming.append(_Incoming(items, signing.peer_id(message.source[-32:])))
        self._came.set()

    async def take_in(self) -> None:
        """Keep what comes until cancelled: what came while the disk was busy goes together."""
        while True:
            while self._incoming:
                batch = self._incoming.popleft()
                self._incoming_items -= len(batch.items)
                try:
                    refused = await self._ingestion.take(batch.items, batch.author)
                except StoreError as error:
                    self._warn("could not keep what another node knows", error=str(error))
                    continue
                now = trio.current_time()
                for refusal in refused:
                    self._standing.blame(refusal.sender, PENALTY_FORGED, refusal.reason, now)
            self._came = trio.Event()
            await self._came.wait()

    # --- peers and time ---------------------------------------------------------------------

    def _see(self, event: PeerEvent) -> None:
        if self._is_closed:
            return
        match event:
            case PeerUp(peer, is_outbound, agent):
                self._up[peer] = event
                self._unwanted.pop(peer, None)
                self._tell(Connected(_to_bytes(peer), outbound=is_outbound))
                if agent:
                    # A js-libp2p is written to in its own way.
                    self._tell(Identified(_to_bytes(peer), agent.startswith("js-libp2p")))
                if self._standing.penalty(peer, trio.current_time()):
                    self.appraise(peer)
            case PeerDown(peer):
                self._up.pop(peer, None)
                self._held.pop(peer, None)
                self._unwanted.pop(peer, None)
                self._tell(Disconnected(_to_bytes(peer)))

    async def run(self) -> None:
        """Give the machine its time until cancelled."""
        appraise_at = trio.current_time() + APPRAISE_S
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(min(self._deadline, appraise_at)):
                await self._changed.wait()
            now = trio.current_time()
            for message in self._batcher.tick(now):
                self._tell(message)
            for peer in list(self._held):
                self._send_held(peer)
            if now >= self.mesh.deadline:
                self._tell(Tick())
            self._pump()
            if now >= appraise_at:
                appraise_at = now + APPRAISE_S
                self._unheard.clear()
                for peer in self._standing.blamed():
                    self.appraise(peer)
                for peer in list(self._unwanted):
                    # Still up, and perhaps it fits or reads now: the machine has the last word.
                    self._see(self._up[peer])

    @property
    def _deadline(self) -> float:
        deadlines = [self.mesh.deadline]
        if (due := self._batcher.deadline) is not None:
            deadlines.append(due)
        if self._held or self._outgoing:
            deadlines.append(trio.current_time() + AGAIN_S)
        return min(deadlines)

    # --- the machine ------------------------------------------------------------------------

    def _tell(self, input: Input) -> None:
        todo = deque(self.mesh.handle(input, trio.current_time()))
        while todo:
            todo.extend(self._do(todo.popleft()))
        while self._faults:
            peer, penalty, reason = self._faults.popleft()
            self._standing.blame(peer, penalty, reason, trio.current_time())

    def _do(self, effect: Effect) -> list[Effect]:
        match effect:
            case Send(peer, rpc):
                return self._send(_to_text(peer), rpc)
            case Deliver(message):
                self._deliver(message)
            case Reset(peer, reason):
                self._faults.append((_to_text(peer), PENALTY_MALFORMED, f"gossip: {reason}"))
            case Disconnect(peer, reason, is_misbehaving):
                text = _to_text(peer)
                self._unwanted[text] = None
                self._held.pop(text, None)
                if is_misbehaving:
                    self._faults.append((text, CUT_AT, f"gossip: {reason}"))
                else:
                    self._warn("a peer takes no part in gossip", peer=text, reason=reason)
                return self.mesh.handle(Disconnected(peer), trio.current_time())
            case Exchange():
                pass  # Whom to connect to is said by the membership's facts, not by peers.
            case _:
                assert_never(effect)
        return []

    def _send(self, peer: str, rpc: bytes) -> list[Effect]:
        """Send a frame, or hold it until the peer's queue takes it."""
        held = self._held.get(peer)
        if held is None and self._network.send(peer, rpc):
            return self.mesh.handle(Written(_to_bytes(peer), len(rpc)), trio.current_time())
        if held is None:
            held = self._held[peer] = deque()
            self._changed.set()
        if len(held) < FRAMES_HELD_MAX:
            held.append(rpc)
            return []
        self.left_out += 1
        return self.mesh.handle(Written(_to_bytes(peer), len(rpc)), trio.current_time())

    def _send_held(self, peer: str) -> None:
        held = self._held[peer]
        while held and self._network.send(peer, held[0]):
            self._tell(Written(_to_bytes(peer), len(held.popleft())))
        if not held:
            self._held.pop(peer, None)


@lru_cache(maxsize=PEERS_CACHED_MAX)
def _to_bytes(peer: str) -> bytes:
    return wire.PEER_ID_PREFIX + signing.parse_peer_id(peer)


@lru_cache(maxsize=PEERS_CACHED_MAX)
def _to_text(peer: bytes) -> str:
    return signing.peer_id(peer[len(wire.PEER_ID_PREFIX) :])
