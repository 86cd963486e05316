"""How well each peer behaves: GossipSub 1.1's peer score.

A peer's score is the sum, over topics, of

    P1   time in our mesh                   P3   (missing deliveries in the mesh)^2, negative
    P2   messages it brought first          P3b  (the same when it left the mesh)^2, negative
                                            P4   (invalid messages)^2, negative

capped from above, and of P5 (what the application says), P6 ((peers of its network above a
threshold)^2, negative) and P7 ((misdeeds above a threshold)^2, negative: broken promises, grafting
too soon, malformed RPCs).  Counters decay at every heartbeat.

Good deeds count from the next heartbeat on, bad ones at once.

Where this differs from the specification: what a peer did wrong is remembered when it leaves even
if its score was positive, and survives a restart (`saved`); it does not decay while the peer is
away.  Otherwise a new connection would wash it clean, a little at a time.  What it did well is
forgotten when it leaves.

Left out: what follows from a score (the `Mesh` compares it with thresholds), and why a message is
invalid.

https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md#peer-scoring
"""

from collections.abc import Iterable

from gossip.config import ScoreConfig
from gossip.mesh_events import SavedScore
from gossip.score_book import Book, Deeds, Standing


class Scores:
    """The standings of all peers that are connected or remembered."""

    __slots__ = (
        "_book",
        "_config",
        "_connected",
        "_retained",
    )

    def __init__(self, config: ScoreConfig, heartbeat_s: float) -> None:
        self._config = config
        self._book = Book(config, heartbeat_s)
        self._connected: dict[bytes, Standing] = {}
        self._retained: dict[bytes, Standing] = {}

    @property
    def retained(self) -> int:
        """How many peers that are not connected are remembered."""
        return len(self._retained)

    # --- peers come and go ------------------------------------------------------------------

    def connected(self, peer: bytes, network: str | None, now: float) -> Standing:
        """Return the standing of a peer that came, perhaps again."""
        standing = self._retained.pop(peer, None) or Standing(peer, self._book)
        standing.beats = self._book.beats
        standing.expires_at = None
        standing.network = network
        self._connected[peer] = standing
        if network is not None:
            networks = self._book.networks
            networks[network] = networks.get(network, 0) + 1
        self._book.weigh(standing, now)
        return standing

    def disconnected(self, peer: bytes, now: float) -> None:
        """Forget what a peer did well, and remember what it did wrong."""
        standing = self._connected.pop(peer)
        self._book.bring_up_to_date(standing)
        network = standing.network
        if network is not None:
            standing.network = None
            networks = self._book.networks
            networks[network] -= 1
            if not networks[network]:
                del networks[network]
        for topic, deeds in list(standing.topics.items()):
            if deeds.mesh_since is not None:
                self.pruned(standing, topic, now)
            deeds.first = 0.0
            if not (deeds.invalid or deeds.failures):
                del standing.topics[topic]
        standing.application = min(0.0, standing.application)
        if standing.topics or standing.misdeeds or standing.application:
            self._retain(standing, now + self._config.retain_s)

    def restore(self, saved: Iterable[SavedScore], now: float) -> None:
        """Remember what `saved` gave before a restart."""
        for score in saved:
            standing = Standing(score.peer, self._book)
            standing.misdeeds = score.misdeeds
            standing.application = min(0.0, score.application)
            for topic, invalid in score.invalid:
                self._deeds(standing, topic).invalid = invalid
            for topic, failures in score.failures:
                self._deeds(standing, topic).failures = failures
            self._retain(standing, now + min(score.remaining_s, self._config.retain_s))

    def saved(self, now: float) -> tuple[SavedScore, ...]:
        """Return what is to be remembered over a restart: of every peer that did wrong."""
        found = []
        for standing in (*self._connected.values(), *self._retained.values()):
            self._book.bring_up_to_date(standing)
            invalid = [(t, deeds.invalid) for t, deeds in standing.topics.items() if deeds.invalid]
            failures = [(t, d.failures) for t, d in standing.topics.items() if d.failures]
            application = min(0.0, standing.application)
            if not (invalid or failures or standing.misdeeds or application):
                continue
            until = standing.expires_at
            score = SavedScore(
                peer=standing.peer,
                remaining_s=self._config.retain_s if until is None else max(0.0, until - now),
                misdeeds=standing.misdeeds,
                invalid=tuple(invalid),
                failures=tuple(failures),
                application=application,
            )
            found.append(score)
        return tuple(found)

    # --- what peers do ----------------------------------------------------------------------

    def grafted(self, standing: Standing, topic: str, now: float) -> None:
        """The peer came into our mesh of a topic."""
        deeds = self._deeds(standing, topic)
        deeds.mesh_since = now
        deeds.deliveries = 0.0
        if self._book.rules_of(topic).config.deficit_weight:
            standing.is_spotless = False

    def pruned(self, standing: Standing, topic: str, now: float) -> None:
        """The peer left our mesh of a topic; a deficit it leaves with sticks to it."""
        deeds = self._deeds(standing, topic)
        config = self._book.rules_of(topic).config
        if config.failure_weight:
            deeds.failures += self._book.deficit(deeds, config, now) ** 2
            standing.is_spotless = False
        deeds.mesh_since = None
        deeds.deliveries = 0.0

    def first(self, standing: Standing, topic: str) -> None:
        """The peer was the first to bring a valid message."""
        deeds = self._deeds(standing, topic)
        config = self._book.rules_of(topic).config
        deeds.first = min(deeds.first + 1.0, config.first_max)
        if deeds.mesh_since is not None and deeds.deliveries < config.deficit_max:
            deeds.deliveries = min(deeds.deliveries + 1.0, config.deficit_max)

    def again(self, standing: Standing, topic: str) -> None:
        """The peer brought a copy of a valid message, soon after the first."""
        deeds = self._deeds(standing, topic)
        if deeds.mesh_since is not None:
            most = self._book.rules_of(topic).config.deficit_max
            deeds.deliveries = min(deeds.deliveries + 1.0, most)

    def invalid(self, standing: Standing, topic: str, now: float) -> None:
        """The peer brought an invalid message."""
        self._deeds(standing, topic).invalid += 1.0
        self._book.weigh(standing, now)

    def misdeed(self, standing: Standing, count: float, now: float) -> None:
        """The peer broke the protocol so many times."""
        self._book.bring_up_to_date(standing)
        standing.misdeeds += count
        self._book.weigh(standing, now)

    def appraise(self, peer: bytes, score: float, now: float) -> None:
        """Take the application's score of a peer. Nothing good is kept of one that is away."""
        if peer not in self._connected:
            score = min(0.0, score)
            if not score and peer not in self._retained:
                return
        standing = self.standing(peer, now)
        self._book.bring_up_to_date(standing)
        standing.application = score
        self._book.weigh(standing, now)

    def pardon(self, peer: bytes, now: float) -> None:
        """Forget what a peer did wrong, but for what the application thinks of it."""
        standing = self._connected.get(peer) or self._retained.get(peer)
        if standing is None:
            return
        self._book.bring_up_to_date(standing)
        standing.misdeeds = 0.0
        for deeds in standing.topics.values():
            deeds.invalid = deeds.failures = 0.0
        if standing.expires_at is not None and not standing.application:
            del self._retained[peer]
        self._book.weigh(standing, now)

    def standing(self, peer: bytes, now: float) -> Standing:
        """Return the standing of a peer, here or away; one that was forgotten is remembered."""
        standing = self._connected.get(peer) or self._retained.get(peer)
        if standing is None:
            standing = Standing(peer, self._book)
            self._retain(standing, now + self._config.retain_s)
        return standing

    def window_s(self, topic: str) -> float:
        """Return how long after the first copy others count; 0 where P3 is off."""
        config = self._book.rules_of(topic).config
        counts = config.deficit_weight or config.failure_weight
        return config.deficit_window_s if counts else 0.0

    # --- time passes ------------------------------------------------------------------------

    def refresh(self, now: float) -> None:
        """Let counters decay for one heartbeat, forget who is long gone."""
        self._book.beat(now)
        if not self._retained:
            return
        for standing in list(self._retained.values()):
            if standing.expires_at is not None and standing.expires_at <= now:
                del self._retained[standing.peer]

    def check(self) -> None:
        """Assert that tables agree with each other and limits are kept."""
        assert not self._connected.keys() & self._retained.keys()
        assert len(self._retained) <= self._config.retained_max
        assert all(standing.expires_at is None for standing in self._connected.values())
        assert all(standing.expires_at is not None for standing in self._retained.values())
        named = [s.network for s in self._connected.values() if s.network is not None]
        assert self._book.networks == {network: named.count(network) for network in named}
        for standing in self._connected.values():
            assert len(standing.topics) <= self._config.topics_max
            assert standing.misdeeds >= 0

    # --- inside -----------------------------------------------------------------------------

    def _deeds(self, standing: Standing, topic: str) -> Deeds:
        """Return what a peer did in a topic, up to date."""
        if standing.beats != self._book.beats:
            self._book.bring_up_to_date(standing)
        topics = standing.topics
        deeds = topics.get(topic)
        if deeds is None:
            if len(topics) >= self._config.topics_max:
                # Never one of the mesh, unless all are: those are bounded by our own topics.
                idle = (name for name, kept in topics.items() if kept.mesh_since is None)
                del topics[next(idle, next(iter(topics)))]
            deeds = topics[topic] = Deeds()
        return deeds

    def _retain(self, standing: Standing, until: float) -> None:
        standing.expires_at = until
        self._retained[standing.peer] = standing
        if len(self._retained) > self._config.retained_max:
            del self._retained[next(iter(self._retained))]
