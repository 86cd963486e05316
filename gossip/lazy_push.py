"""Telling peers outside the mesh what there is (IHAVE), and giving what they ask for (IWANT).

What a flood of either costs is bounded: IHAVE by messages and ids of a peer in a heartbeat, IWANT
by ids of a peer in a heartbeat, by how often one message goes to one peer, and by the bytes that
may be on their way to it.

An IWANT is a *promise* of the peer that told: of each, one id drawn by chance is watched, and if
its message has not come from anybody in time, the promise is broken (P7).  Where this differs from
go-libp2p: an id is asked of one peer at a time, and of another a heartbeat later; asking all that
tell brings a copy from each.

A peer is told ids in the length that it writes itself.  js-libp2p, told ids of the other length,
asks again for what it has, counts broken promises, and refuses our GRAFT soon after.
"""

from collections.abc import Sequence

from gossip import wire, wire_encode
from gossip.message_cache import MessageCache, SeenCache
from gossip.outbox import Outbox, Peer
from gossip.overlay import Overlay, Topic
from gossip.scoring import Scores


class LazyPush:
    """The messages that can be asked for, those that were asked for, and the promises."""

    __slots__ = (
        "_asked",
        "_config",
        "_outbox",
        "_overlay",
        "_promises",
        "_scores",
        "broken",
        "cache",
        "ihave_ids_sent",
        "iwant_ids_sent",
        "seen",
        "served",
    )

    def __init__(
        self, overlay: Overlay, outbox: Outbox, scores: Scores, cache: MessageCache, seen: SeenCache
    ) -> None:
        self._config = overlay.config
        self._overlay = overlay
        self._outbox = outbox
        self._scores = scores
        self.cache = cache
        self.seen = seen
        self._asked: dict[bytes, float] = {}
        """Since when an id is asked of somebody."""
        self._promises: dict[bytes, dict[bytes, float]] = {}
        """Until when which peers may bring a watched id."""
        self.ihave_ids_sent = 0
        self.iwant_ids_sent = 0
        self.served = 0
        self.broken = 0

    @property
    def asked(self) -> int:
        """Ids asked for and not here yet."""
        return len(self._asked)

    # --- what peers say ---------------------------------------------------------------------

    def told(self, peer: Peer, offers: Sequence[wire.IHave], now: float) -> None:
        """A peer has messages: ask for those that were never seen."""
        config = self._config
        for offer in offers:
            learn(peer, offer.ids)
        if peer.standing.value < config.score.gossip_below:
            return
        peer.ihave_messages += 1
        room = config.ihave_ids_max - peer.ids_asked
        if peer.ihave_messages > config.ihave_messages_max or room <= 0:
            return
        wanted: dict[bytes, bytes] = {}
        """By id, the id as the peer writes it."""
        for offer in offers:
            if offer.topic in self._overlay.joined:
                wanted.update(self._wanted(offer.ids[: config.ihave_ids_max], now))
        if not wanted:
            return
        ids = list(wanted)
        if len(ids) > room:
            ids = self._overlay.chance.sample(ids, room)
        peer.ids_asked += len(ids)
        for message_id in ids:
            # At the end of the table, so that the first is always the oldest.
            self._asked.pop(message_id, None)
            self._asked[message_id] = now
        while len(self._asked) > config.asked_max:
            del self._asked[next(iter(self._asked))]
        watched = self._overlay.chance.choice(ids)
        self._promises.setdefault(watched, {}).setdefault(peer.id, now + config.promise_s)
        self.iwant_ids_sent += len(ids)
        self._outbox.control(peer, wire_encode.iwant([wanted[message_id] for message_id in ids]))

    def _wanted(self, written: Sequence[bytes], now: float) -> dict[bytes, bytes]:
        before, asked = now - self._config.ask_again_s, self._asked
        forms = wire.canonical_ids(self.seen.unseen(written))
        return {key: form for key, form in forms.items() if asked.get(key, before) <= before}

    def asked_by(self, peer: Peer, written: Sequence[bytes]) -> None:
        """A peer asks for messages: send those that are still here."""
        config = self._config
        if peer.standing.value < config.score.gossip_below:
            return
        room = max(0, config.ihave_ids_max - peer.ids_served)
        peer.ids_served += min(room, len(written))
        for form in written[:room]:
            message_id = wire.canonical_id(form)
            fragment = None if message_id is None else self.cache.get(message_id)
            if message_id is None or fragment is None:
                continue
            sent = self.cache.sent(message_id)
            times = sent.get(peer.id, 0)
            if times < config.retransmissions_max and self._outbox.message(peer, fragment):
                sent[peer.id] = times + 1
                self.served += 1

    def arrived(self, id: bytes) -> None:
        """A message is here: whoever promised it kept the promise."""
        if self._asked or self._promises:
            self._asked.pop(id, None)
            self._promises.pop(id, None)

    # --- at a heartbeat ---------------------------------------------------------------------

    def tell(self, topic: Topic, mesh: dict[bytes, Peer]) -> None:
        """Tell some peers that are not in the mesh which messages there are."""
        config, chance = self._config, self._overlay.chance
        if len(topic.subscribers) == len(mesh):
            return  # Nobody is outside: who is in the mesh is subscribed.
        ids = self.cache.gossip_ids(topic.name)
        if not ids:
            return
        least = config.score.gossip_below
        peers = [
            peer
            for peer in topic.subscribers.values()
            if peer.id not in mesh
            and not (peer.explicit or peer.slow or peer.standing.is_below(least))
        ]
        count = max(config.degree_lazy, int(config.gossip_factor * len(peers)))
        forms: dict[bool, bytes] = {}
        for peer in chance.sample(peers, min(count, len(peers))):
            if len(ids) > config.ihave_ids_max:
                # Others for each, so that together they hear of all.
                chosen = chance.sample(ids, config.ihave_ids_max)
                field = _ihave(topic.name, chosen, peer.short_ids)
            else:
                field = forms.get(peer.short_ids, b"")
                if not field:
                    field = forms[peer.short_ids] = _ihave(topic.name, ids, peer.short_ids)
            self.ihave_ids_sent += min(len(ids), config.ihave_ids_max)
            self._outbox.control(peer, field)

    def punish(self, now: float) -> None:
        """Hold broken promises against who made them."""
        broken: dict[bytes, int] = {}
        for message_id, peers in list(self._promises.items()):
            for peer in [peer for peer, until in peers.items() if until <= now]:
                del peers[peer]
                broken[peer] = broken.get(peer, 0) + 1
            if not peers:
                del self._promises[message_id]
        self.broken += sum(broken.values())
        for peer_id, count in broken.items():
            culprit = self._overlay.peers.get(peer_id)
            # One that left had no chance to keep its promise.
            if culprit is not None:
                self._scores.misdeed(culprit.standing, count, now)
                self._overlay.weigh(culprit)

    def shift(self, now: float) -> None:
        """Begin the next heartbeat."""
        self.cache.shift()
        before = now - self._config.promise_s
        while self._asked:
            oldest = next(iter(self._asked))
            if self._asked[oldest] > before:
                break
            del self._asked[oldest]
        for peer in self._overlay.peers.values():
            peer.ihave_messages = peer.ids_asked = peer.ids_served = 0

    def check(self) -> None:
        """Assert that tables are in order and limits kept."""
        self.cache.check()
        self.seen.check()
        assert list(self._asked.values()) == sorted(self._asked.values())
        assert len(self._asked) <= self._config.asked_max
        assert all(self._promises.values())
        for peer in self._overlay.peers.values():
            assert peer.ids_asked <= self._config.ihave_ids_max
            assert peer.ids_served <= self._config.ihave_ids_max


def learn(peer: Peer, written: Sequence[bytes]) -> None:
    """Take the length of a peer's ids from the first one it wrote of its own accord."""
    if written and wire.canonical_id(written[0]) is not None:
        peer.short_ids = len(written[0]) == wire.ID_SIZE_BYTES


def _ihave(topic: str, ids: list[bytes], short: bool) -> bytes:
    return wire_encode.ihave(topic, ids if short else wire.long_ids(ids))
