"""Who is connected, who is subscribed to what, and who is in whose mesh.

A topic's *mesh* is the handful of peers that messages are passed to in full.  Both ends agree on it
by GRAFT and PRUNE; after a PRUNE neither grafts the other for a while (*backoff*), connected or
not.  A topic that we only publish to has a *fanout* instead, which nobody is told of.

Who may come into a mesh: a subscriber, not in backoff, whose score is not negative, who keeps up
with what it is sent, and who is not an explicit peer: those get every message anyway.

All tables are dicts, whose order is that of insertion: the same inputs give the same choices.
"""

from collections.abc import Mapping, MutableSequence, Sequence
from typing import Protocol, TypeVar

from gossip import wire_encode
from gossip.config import Config
from gossip.outbox import Outbox, Peer
from gossip.scoring import Scores

T = TypeVar("T")


class Chance(Protocol):
    """What is needed of `random.Random`."""

    def random(self) -> float:
        """Return a number from 0 up to 1."""

    def choice(self, seq: Sequence[T]) -> T:
        """Return one of them."""

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Return `k` of them, in random order."""

    def shuffle(self, x: MutableSequence[T]) -> None:
        """Bring them into random order."""


class Topic:
    """A topic that is ours, or a peer's, or that we publish to."""

    __slots__ = ("fanout", "mesh", "name", "published_at", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscribers: dict[bytes, Peer] = {}
        self.mesh: dict[bytes, Peer] | None = None
        """`None`: we are not subscribed."""
        self.fanout: dict[bytes, Peer] | None = None
        self.published_at = 0.0


class Overlay:
    """Peers, topics and meshes."""

    __slots__ = (
        "_backoffs",
        "_fanouts",
        "_joined",
        "_outbox",
        "_scores",
        "chance",
        "config",
        "grafts",
        "peers",
        "prunes",
        "topics",
    )

    def __init__(self, config: Config, chance: Chance, outbox: Outbox, scores: Scores) -> None:
        self.config = config
        self.chance = chance
        self._outbox = outbox
        self._scores = scores
        self.peers: dict[bytes, Peer] = {}
        self.topics: dict[str, Topic] = {}
        self._joined: dict[str, dict[bytes, Peer]] = {}
        self._fanouts: dict[str, Topic] = {}
        self._backoffs: dict[tuple[str, bytes], float] = {}
        self.grafts = 0
        self.prunes = 0

    @property
    def joined(self) -> Mapping[str, dict[bytes, Peer]]:
        """The mesh of each topic of ours."""
        return self._joined

    @property
    def fanouts(self) -> Mapping[str, Topic]:
        """The topics we lately published to without being subscribed."""
        return self._fanouts

    # --- peers ------------------------------------------------------------------------------

    def add(self, peer: Peer) -> None:
        """A peer came: tell it what we are subscribed to."""
        self.peers[peer.id] = peer
        for topic in self._joined:
            self._outbox.subscription(peer, wire_encode.subscription(topic, True))

    def renew(self, peer: Peer) -> None:
        """What was on its way to a peer is lost: tell it everything again.

        A GRAFT of one that has us in its mesh already changes nothing there.
        """
        for topic, mesh in self._joined.items():
            self._outbox.subscription(peer, wire_encode.subscription(topic, True))
            if peer.id in mesh:
                self._outbox.control(peer, wire_encode.graft(topic))

    def remove(self, peer: Peer) -> None:
        """A peer is gone. Its backoffs stay."""
        del self.peers[peer.id]
        for name in peer.topics:
            topic = self.topics[name]
            del topic.subscribers[peer.id]
            for members in (topic.mesh, topic.fanout):
                if members is not None:
                    members.pop(peer.id, None)
            self._tidy(topic)

    def weigh(self, peer: Peer) -> None:
        """Disconnect a peer whose score is too low."""
        value = peer.standing.value
        if value <= self.config.score.disconnect_below and not peer.explicit:
            self._outbox.doom(peer, f"its score is {value:.0f}", is_misbehaving=True)

    # --- subscriptions ----------------------------------------------------------------------

    def subscribed(self, peer: Peer, name: str, now: float) -> bool:
        """A peer subscribed; return whether there was room to remember it."""
        if name in peer.topics:
            return True
        if len(peer.topics) >= self.config.topics_max:
            return False
        topic = self._topic(name)
        peer.topics[name] = None
        topic.subscribers[peer.id] = peer
        sparse = topic.mesh is not None and len(topic.mesh) < self.config.degree_low
        if sparse and self._eligible(peer, topic, now):
            # Not at the next heartbeat only: a node that comes is in the mesh at once.
            self.graft(peer, topic, now)
        return True

    def unsubscribed(self, peer: Peer, name: str, now: float) -> None:
        """A peer unsubscribed."""
        if name not in peer.topics:
            return
        del peer.topics[name]
        topic = self.topics[name]
        del topic.subscribers[peer.id]
        if topic.mesh is not None and topic.mesh.pop(peer.id, None) is not None:
            self._scores.pruned(peer.standing, name, now)
        if topic.fanout is not None:
            topic.fanout.pop(peer.id, None)
        self._tidy(topic)

    def join(self, name: str, now: float) -> None:
        """Subscribe to a topic. Raises `ValueError` if there are too many."""
        if name in self._joined:
            return
        if len(self._joined) >= self.config.own_topics_max:
            raise ValueError(f"more than {self.config.own_topics_max} topics")
        topic = self._topic(name)
        mesh = topic.mesh = self._joined[name] = {}
        for peer in self.peers.values():
            self._outbox.subscription(peer, wire_encode.subscription(name, True))
        fanout, topic.fanout = topic.fanout or {}, None
        self._fanouts.pop(name, None)
        for peer in fanout.values():
            if self._eligible(peer, topic, now):
                self.graft(peer, topic, now)
        self.fill(topic, self.config.degree - len(mesh), now)

    def leave(self, name: str, now: float) -> None:
        """Unsubscribe from a topic."""
        mesh = self._joined.get(name)
        if mesh is None:
            return
        topic = self.topics[name]
        for peer in list(mesh.values()):
            self.prune(peer, topic, self.config.unsubscribe_backoff_s, now)
        del self._joined[name]
        topic.mesh = None
        for peer in self.peers.values():
            self._outbox.subscription(peer, wire_encode.subscription(name, False))
        self._tidy(topic)

    # --- the mesh ---------------------------------------------------------------------------

    def candidates(self, topic: Topic, now: float, least: float = 0.0) -> list[Peer]:
        """Return the peers that may come into the mesh and have at least this score."""
        return [
            peer
            for peer in topic.subscribers.values()
            if self._eligible(peer, topic, now) and peer.standing.value >= least
        ]

    def fill(self, topic: Topic, count: int, now: float) -> None:
        """Graft up to `count` peers, by chance."""
        if count > 0:
            found = self.candidates(topic, now)
            for peer in self.chance.sample(found, min(count, len(found))):
                self.graft(peer, topic, now)

    def graft(self, peer: Peer, topic: Topic, now: float) -> None:
        """Take a peer into the mesh and tell it."""
        self._enter(peer, topic, now)
        self._outbox.control(peer, wire_encode.graft(topic.name))

    def prune(self, peer: Peer, topic: Topic, backoff_s: float, now: float) -> None:
        """Take a peer out of the mesh, if it is there, and tell it not to graft for a while."""
        self.prunes += 1
        if topic.mesh is not None and topic.mesh.pop(peer.id, None) is not None:
            self._scores.pruned(peer.standing, topic.name, now)
        self._back_off(topic.name, peer.id, now + backoff_s)
        self._outbox.control(peer, wire_encode.prune(topic.name, int(backoff_s)))

    def grafted_by(self, peer: Peer, name: str, now: float) -> int:
        """A peer grafted us; return how many misdeeds that was.

        An unknown topic is met with silence: an answer would tell strangers what we know.
        """
        config = self.config
        mesh = self._joined.get(name)
        if mesh is None or peer.id in mesh:
            return 0
        topic = self.topics[name]
        until = self._backoffs.get((name, peer.id), 0.0)
        misdeeds = 0
        if now < until:
            pruned_at = until - config.backoff_s
            misdeeds = 2 if now < pruned_at + config.graft_flood_s else 1
        full = len(mesh) >= config.degree_high and not peer.outbound
        welcome = not (misdeeds or full or peer.explicit) and peer.standing.value >= 0
        if welcome and self.subscribed(peer, name, now):
            if peer.id not in mesh:
                self._enter(peer, topic, now)
        else:
            self.prune(peer, topic, config.backoff_s, now)
        return misdeeds

    def pruned_by(self, peer: Peer, name: str, backoff_s: int, now: float) -> None:
        """A peer pruned us; it may say for how long."""
        mesh = self._joined.get(name)
        if mesh is None:
            return
        if mesh.pop(peer.id, None) is not None:
            self._scores.pruned(peer.standing, name, now)
        wanted = backoff_s or self.config.backoff_s
        self._back_off(name, peer.id, now + min(wanted, self.config.backoff_max_s))

    # --- the fanout -------------------------------------------------------------------------

    def fanout(self, name: str, now: float) -> Sequence[Peer]:
        """Return the peers for a message of a topic we are not subscribed to."""
        topic = self.topics.get(name)
        if topic is None:
            return ()
        if topic.fanout is None:
            if len(self._fanouts) >= self.config.own_topics_max:
                return self._publishable(topic, {}, self.config.degree)
            topic.fanout = {}
            self._fanouts[name] = topic
        topic.published_at = now
        self.fill_fanout(topic)
        return list(topic.fanout.values())

    def fill_fanout(self, topic: Topic) -> None:
        """Drop from a fanout who may not be published to, and complete it."""
        least, fanout = self.config.score.publish_below, topic.fanout or {}
        topic.fanout = kept = {
            peer.id: peer for peer in fanout.values() if peer.standing.value >= least
        }
        for peer in self._publishable(topic, kept, self.config.degree - len(kept)):
            kept[peer.id] = peer

    def drop_fanout(self, topic: Topic) -> None:
        """Nothing was published there for long."""
        topic.fanout = None
        del self._fanouts[topic.name]
        self._tidy(topic)

    # --- time passes, and what is asserted --------------------------------------------------

    def forget_backoffs(self, now: float) -> None:
        """Forget the backoffs that are over."""
        slack = self.config.backoff_slack_s
        if self._backoffs:
            self._backoffs = {
                key: until for key, until in self._backoffs.items() if until + slack > now
            }

    def check(self) -> None:
        """Assert that the tables agree with each other and limits are kept."""
        for name, topic in self.topics.items():
            assert topic.name == name
            assert topic.subscribers or topic.mesh is not None or topic.fanout is not None
            assert self._joined.get(name) is topic.mesh
            assert (name in self._fanouts) == (topic.fanout is not None)
            assert topic.mesh is None or topic.fanout is None
            for members in (topic.subscribers, topic.mesh or {}, topic.fanout or {}):
                for peer_id, peer in members.items():
                    assert self.peers.get(peer_id) is peer, "a peer that is gone"
                    assert name in peer.topics, "a peer that is not subscribed"
            assert not any(peer.explicit for peer in (topic.mesh or {}).values())
            for peer in (topic.mesh or {}).values():
                deeds = peer.standing.topics.get(name)
                assert deeds is not None, "in the mesh, and not scored"
                assert deeds.mesh_since is not None, "in the mesh, and scored as outside"
        for peer in self.peers.values():
            assert len(peer.topics) <= self.config.topics_max
            for name in peer.topics:
                assert self.topics[name].subscribers.get(peer.id) is peer
            for name, deeds in peer.standing.topics.items():
                if deeds.mesh_since is not None:
                    assert peer.id in self._joined.get(name, {}), "a mesh that is not ours"
        assert len(self._backoffs) <= self.config.backoffs_max
        assert len(self._joined) <= self.config.own_topics_max
        assert len(self.peers) <= self.config.peers_max

    # --- inside -----------------------------------------------------------------------------

    def _topic(self, name: str) -> Topic:
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name)
        return topic

    def _tidy(self, topic: Topic) -> None:
        if not topic.subscribers and topic.mesh is None:
            if topic.fanout is not None:
                topic.fanout = None
                del self._fanouts[topic.name]
            del self.topics[topic.name]

    def _eligible(self, peer: Peer, topic: Topic, now: float) -> bool:
        if topic.mesh is None or peer.id in topic.mesh:
            return False
        if peer.explicit or peer.slow or peer.doomed or peer.standing.value < 0:
            return False
        until = self._backoffs.get((topic.name, peer.id))
        return until is None or until + self.config.backoff_slack_s <= now

    def _enter(self, peer: Peer, topic: Topic, now: float) -> None:
        assert topic.mesh is not None
        topic.mesh[peer.id] = peer
        self.grafts += 1
        self._scores.grafted(peer.standing, topic.name, now)

    def _back_off(self, name: str, peer: bytes, until: float) -> None:
        key = name, peer
        if self._backoffs.get(key, 0.0) < until:
            # The last to end stands last, roughly: the first goes when there are too many.
            self._backoffs.pop(key, None)
            self._backoffs[key] = until
            if len(self._backoffs) > self.config.backoffs_max:
                del self._backoffs[next(iter(self._backoffs))]

    def _publishable(self, topic: Topic, but: Mapping[bytes, Peer], count: int) -> list[Peer]:
        least = self.config.score.publish_below
        found = [
            peer
            for peer in topic.subscribers.values()
            if peer.id not in but and not peer.explicit and peer.standing.value >= least
        ]
        return self.chance.sample(found, max(0, min(count, len(found))))
