"""GossipSub 1.1, wire-compatible, as a machine without I/O: gossip that makes the truth fast.

`Mesh` is told what happened (`handle`, with the time) and answers what is to be done.  It reads no
clock and does no I/O; chance, signing and verifying are handed in.  Inputs and effects are in
`gossip.mesh_events`, bytes in `gossip.wire`, limits in `gossip.config`.

A message goes at once to the few peers of the topic's mesh (`gossip.overlay`), which pass it on;
peers outside are told of it at the next heartbeat and may ask (`gossip.lazy_push`).  Own messages
go to all subscribers.  What peers do is scored (`gossip.scoring`), and a poor score costs them, in
this order: their place in the mesh, gossip, our messages, a hearing, the connection.

Rules:

* A message that is delivered is signed by its author (StrictSign), of a topic of ours, and not
  seen before.  It is passed on only once the application accepted it: `judge` says so on the spot,
  or answers `None`, and the driver sends `Judge` later.
* Whatever bytes come, nothing is raised.  A malformed RPC costs its sender ten misdeeds and its
  stream; a message that breaks a rule counts as invalid; a message of another topic, or one of
  ours come back, is dropped without blame (we may have restarted, or lately left the topic).
* Every table is bounded; `Config` says by what.
* The same inputs, chance and signatures give the same effects.

What the driver does: open one stream to each peer and write `Send` with a length before it; read
the streams that peers open; say `Connected` before the first `Received`, `Identified` as soon as
it can, `Written` after each write; `Tick` at `deadline`; have a publisher wait while `room` is
false.

Left out: delivery for certain (`Sync` is the truth, gossip a hint), delivery in order, replays from
before `seen_s` (the application answers IGNORE to what it knows), limits on the rate of what comes
in (the driver's), peer exchange of our own, IDONTWANT (1.2; worth it for large messages only).

https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md; D. Vyzovitis et
al., "GossipSub: Attack-Resilient Message Propagation in the Filecoin and ETH2.0 Networks", 2020.
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias, assert_never

from gossip import heartbeat, wire, wire_encode
from gossip.config import Config
from gossip.errors import RemoteProtocolError
from gossip.intake import Intake, Judgement, Verifier, accept
from gossip.lazy_push import LazyPush, learn
from gossip.mesh_events import (
    Appraise,
    Connected,
    Disconnect,
    Disconnected,
    Effect,
    Exchange,
    Identified,
    Input,
    Judge,
    Pardon,
    Publish,
    Received,
    Reopened,
    Reset,
    SavedScore,
    Statistics,
    Subscribe,
    Tick,
    Unsubscribe,
    Written,
)
from gossip.message_cache import VALID, MessageCache, SeenCache
from gossip.outbox import Outbox, Peer
from gossip.overlay import Chance, Overlay
from gossip.scoring import Scores

Sign: TypeAlias = Callable[[bytes], bytes]
"""Returns our Ed25519 signature of exactly these bytes."""
Reader: TypeAlias = Callable[[bytes], wire.Rpc]
"""Returns what an RPC says, as `wire.decode_rpc`; a simulation reads equal bytes once for all."""


class Mesh:
    """One node's part in the gossip of its topics."""

    __slots__ = (
        "_cache",
        "_config",
        "_explicit",
        "_graylisted",
        "_heartbeat_at",
        "_intake",
        "_lazy",
        "_malformed",
        "_me",
        "_outbox",
        "_overlay",
        "_peers",
        "_published",
        "_read",
        "_received",
        "_scores",
        "_seen",
        "_seqno",
        "_sign",
        "_ticks",
    )

    def __init__(
        self,
        config: Config,
        *,
        me: bytes,
        sign: Sign,
        verify: Verifier,
        chance: Chance,
        seqno: int,
        now: float,
        judge: Judgement = accept,
        read: Reader = wire.decode_rpc,
        explicit: tuple[bytes, ...] = (),
        scores: Iterable[SavedScore] = (),
    ) -> None:
        """Start without peers and topics.

        `me` is our peer id (38 bytes).  `seqno` is greater than any that `me` used before: the
        nanoseconds of the wall clock do.  `explicit` peers always get and give every message; the
        driver keeps them connected.  `scores` is what `saved_scores` gave before.
        """
        if len(me) != wire.PEER_ID_SIZE_BYTES or not me.startswith(wire.PEER_ID_PREFIX):
            raise ValueError("me must be the peer id of an Ed25519 key")
        self._config = config
        self._me = me
        self._sign = sign
        self._seqno = seqno
        self._read = read
        self._explicit = explicit
        self._scores = Scores(config.score, config.heartbeat_s)
        self._scores.restore(scores, now)
        self._outbox = Outbox(config)
        self._overlay = Overlay(config, chance, self._outbox, self._scores)
        self._peers = self._overlay.peers
        self._seen = SeenCache(config.seen_s, config.seen_max)
        self._cache = MessageCache(
            config.history_windows,
            config.gossip_windows,
            config.cache_messages_max,
            config.cache_size_max_bytes,
        )
        self._lazy = LazyPush(self._overlay, self._outbox, self._scores, self._cache, self._seen)
        self._intake = Intake(
            self._overlay, self._outbox, self._scores, self._lazy, verify, judge, me, explicit
        )
        # Not all nodes of a site at once, that started together.
        self._heartbeat_at = now + chance.random() * config.heartbeat_s
        self._ticks = 0
        self._received = self._published = self._malformed = self._graylisted = 0

    # --- what happens -----------------------------------------------------------------------

    def handle(self, input: Input, now: float) -> list[Effect]:
        """Take in what happened at `now` (monotonic seconds) and return what is to be done.

        Raises `ValueError` for what the caller may not ask: a message that is too large, too many
        topics, a topic that has no name or too long a one.
        """
        match input:
            case Received():
                return self.receive(input.peer, input.rpc, now)
            case Written():
                if (found := self._overlay.peers.get(input.peer)) is not None:
                    self._outbox.written(found, input.size_bytes)
                return []
            case Tick():
                self._tick(now)
            case Publish(topic, data):
                self._publish(topic, data, now)
            case Judge(message_id, verdict):
                self._intake.settle(message_id, verdict, now)
            case Connected():
                self._connect(input, now)
            case Identified(peer, short_ids):
                if (found := self._overlay.peers.get(peer)) is not None:
                    found.short_ids = short_ids
            case Disconnected(peer):
                self._disconnect(peer, now)
            case Reopened(peer):
                if (found := self._overlay.peers.get(peer)) is not None:
                    self._outbox.emptied(found)
                    self._overlay.renew(found)
            case Subscribe(topic):
                wire.check_topic(topic)
                self._overlay.join(topic, now)
            case Unsubscribe(topic):
                self._overlay.leave(topic, now)
            case Appraise(peer, score):
                self._scores.appraise(peer, score, now)
                if (found := self._overlay.peers.get(peer)) is not None:
                    self._overlay.weigh(found)
            case Pardon(peer):
                self._scores.pardon(peer, now)
            case _:
                assert_never(input)
        return self._outbox.flush(now)

    def receive(self, id: bytes, data: bytes, now: float) -> list[Effect]:
        """Do as `handle` does with `Received(id, data)`, which need not be made."""
        peer = self._peers.get(id)
        if peer is None or peer.doomed:
            return []
        self._received += 1
        if peer.standing.is_below(self._config.score.graylist_below) and not peer.explicit:
            self._graylisted += 1
            return []
        try:
            rpc = self._read(data)
            if rpc.lone is not None and self._seen.get(rpc.lone.id) == VALID:
                self._intake.duplicates += 1  # By far the most frequent.
                return []
            for subscription in rpc.subscriptions:
                if subscription.subscribe:
                    self._overlay.subscribed(peer, subscription.topic, now)
                else:
                    self._overlay.unsubscribed(peer, subscription.topic, now)
            for draft in rpc.publish:
                self._intake.take(peer, draft, now)
            if rpc.control is not None:
                self._control(peer, rpc.control, now)
        except RemoteProtocolError as error:
            self._malformed += 1
            self._scores.misdeed(peer.standing, self._config.score.malformed_misdeeds, now)
            self._outbox.say(Reset(id, str(error)))
            self._overlay.weigh(peer)
        return self._outbox.flush(now)

    @property
    def deadline(self) -> float:
        """When to send `Tick` next, in the time of `now`."""
        slow_at = self._outbox.deadline
        return self._heartbeat_at if slow_at is None else min(slow_at, self._heartbeat_at)

    @property
    def room(self) -> bool:
        """Whether every peer has room for more, but those that keep everybody waiting."""
        return self._outbox.room

    def score(self, peer: bytes) -> float:
        """Return a connected peer's score; 0 for others."""
        found = self._overlay.peers.get(peer)
        return 0.0 if found is None else found.standing.value

    def saved_scores(self, now: float) -> tuple[SavedScore, ...]:
        """Return what is to be remembered of peers over a restart."""
        return self._scores.saved(now)

    # --- peers come and go, and say things --------------------------------------------------

    def _connect(self, input: Connected, now: float) -> None:
        peer_id, overlay = input.peer, self._overlay
        if peer_id in overlay.peers or peer_id == self._me:
            return
        if len(overlay.peers) >= self._config.peers_max:
            self._outbox.say(Disconnect(peer_id, "too many peers"))
            return
        standing = self._scores.connected(peer_id, input.network, now)
        explicit = peer_id in self._explicit
        peer = Peer(peer_id, input.outbound, explicit, standing)
        overlay.add(peer)
        self._overlay.weigh(peer)

    def _disconnect(self, id: bytes, now: float) -> None:
        peer = self._overlay.peers.get(id)
        if peer is not None:
            self._outbox.forget(peer)
            self._overlay.remove(peer)
            self._scores.disconnected(id, now)

    def _control(self, peer: Peer, control: wire.Control, now: float) -> None:
        if control.unwanted:
            learn(peer, (control.unwanted_first,))
        if control.ihave:
            self._lazy.told(peer, control.ihave, now)
        if control.iwant:
            self._lazy.asked_by(peer, control.iwant)
        misdeeds = 0
        for topic in control.graft:
            misdeeds += self._overlay.grafted_by(peer, topic, now)
        for prune in control.prune:
            self._overlay.pruned_by(peer, prune.topic, prune.backoff_s, now)
            if prune.peers and prune.topic in self._overlay.joined:
                self._exchange(peer, prune)
        if misdeeds:
            self._scores.misdeed(peer.standing, misdeeds, now)
            self._overlay.weigh(peer)

    def _exchange(self, peer: Peer, prune: wire.Prune) -> None:
        if peer.standing.value >= self._config.score.accept_exchange_at:
            named = tuple(prune.peers[: self._config.exchange_peers_max])
            self._outbox.say(Exchange(peer.id, prune.topic, named))

    def _publish(self, topic: str, data: bytes, now: float) -> None:
        wire.check_topic(topic)
        unsigned = wire_encode.message(self._me, self._seqno + 1, topic, data)
        if len(unsigned) + wire.SIGNATURE_SIZE_BYTES + 2 > wire.MESSAGE_SIZE_MAX_BYTES:
            raise ValueError(f"a message of {len(data)} bytes is too large")
        self._seqno += 1
        fragment = wire_encode.publish(unsigned, self._sign(wire.SIGNED_PREFIX + unsigned))
        message_id = self._me[2:] + self._seqno.to_bytes(wire_encode.SEQNO_SIZE_BYTES, "big")
        self._published += 1
        self._seen.put(message_id, VALID)
        self._cache.put(message_id, fragment, topic)
        known = self._overlay.topics.get(topic)
        if known is None:
            return
        if self._config.flood_publish:
            least = self._config.score.publish_below
            subscribers = known.subscribers.values()
            peers = [p for p in subscribers if p.standing.value >= least or p.explicit]
        else:
            chosen = self._overlay.fanout(topic, now) if known.mesh is None else ()
            peers = [*(known.mesh or {}).values(), *chosen, *self._intake.explicit(topic)]
        self._outbox.relay(peers, fragment)

    # --- time passes ------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._outbox.find_slow(now)
        if now < self._heartbeat_at:
            return
        self._heartbeat_at = now + self._config.heartbeat_s
        self._ticks += 1
        overlay, lazy = self._overlay, self._lazy
        self._seen.expire(now)
        self._intake.expire(now)
        overlay.forget_backoffs(now)
        self._scores.refresh(now)
        lazy.punish(now)
        opportunistic = self._ticks % self._config.opportunistic_ticks == 0
        for name, mesh in overlay.joined.items():
            topic = overlay.topics[name]
            heartbeat.maintain(overlay, topic, opportunistic, now)
            lazy.tell(topic, mesh)
        for topic in list(overlay.fanouts.values()):
            if topic.published_at + self._config.fanout_s < now:
                overlay.drop_fanout(topic)
            else:
                overlay.fill_fanout(topic)
                lazy.tell(topic, topic.fanout or {})
        lazy.shift(now)

    # --- what is asserted and shown ---------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants: after every test, and every simulated step."""
        self._overlay.check()
        self._outbox.check()
        self._scores.check()
        self._lazy.check()
        self._intake.check()
        most = self._config.queue_max_bytes + self._config.queue_control_bytes
        for peer in self._overlay.peers.values():
            assert not len(peer.single) + peer.staged_bytes
            assert peer.doomed or 0 <= peer.queued_bytes <= most

    def statistics(self) -> Statistics:
        """Return sizes now, and counts since the start."""
        overlay, outbox, lazy, intake = self._overlay, self._outbox, self._lazy, self._intake
        peers = overlay.peers.values()
        return Statistics(
            peers=len(peers),
            peers_slow=sum(peer.slow for peer in peers),
            topics=len(overlay.joined),
            mesh=sum(map(len, overlay.joined.values())),
            seen=len(self._seen),
            cached=len(self._cache),
            cached_bytes=self._cache.size_bytes,
            queued_bytes=sum(peer.queued_bytes for peer in peers),
            scores_retained=self._scores.retained,
            asked=lazy.asked,
            judging=intake.judging,
            received=self._received,
            sent=outbox.sent,
            published=self._published,
            delivered=intake.delivered,
            duplicates=intake.duplicates,
            invalid=intake.invalid,
            unwanted=intake.unwanted,
            malformed=self._malformed,
            graylisted=self._graylisted,
            dropped=outbox.dropped + intake.shed,
            grafts=overlay.grafts,
            prunes=overlay.prunes,
            ihave_ids_sent=lazy.ihave_ids_sent,
            iwant_ids_sent=lazy.iwant_ids_sent,
            iwant_served=lazy.served,
            promises_broken=lazy.broken,
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<Mesh: {now.topics} topics with {now.mesh} places for {now.peers} peers, "
            f"{now.peers_slow} of them slow; {now.published} messages published, "
            f"{now.delivered} delivered, {now.duplicates} came again>"
        )
