"""What is known of one peer's behaviour, and the sum that makes a score of it.

A `Standing` holds a peer's counters.  Counters decay at every heartbeat, and are brought up to date
when somebody looks: most peers do nothing in most heartbeats, and a node with nothing to do should
cost nothing.  A peer that has nothing against it is `is_spotless`, and its score need not be worked
out to see that it is not below a threshold.

What the counters mean is in `gossip.scoring`.
"""

from gossip.config import ScoreConfig, TopicScoreConfig


class Deeds:
    """What a peer did in one topic."""

    __slots__ = ("deliveries", "failures", "first", "invalid", "mesh_since")

    def __init__(self) -> None:
        self.mesh_since: float | None = None
        """When it came into our mesh; `None`: it is not there."""
        self.first = 0.0
        self.deliveries = 0.0
        """Copies it brought while in the mesh, first or soon after."""
        self.failures = 0.0
        self.invalid = 0.0


class Standing:
    """One peer's counters and the score they make."""

    __slots__ = (
        "application",
        "beats",
        "book",
        "expires_at",
        "is_spotless",
        "misdeeds",
        "network",
        "peer",
        "topics",
        "weighed",
    )

    def __init__(self, peer: bytes, book: "Book") -> None:
        self.peer = peer
        self.book = book
        self.network: str | None = None
        self.topics: dict[str, Deeds] = {}
        self.application = 0.0
        self.misdeeds = 0.0
        self.beats = book.beats
        """The heartbeat as of which the counters are."""
        self.weighed = 0.0
        self.is_spotless = True
        """Nothing counts against it: its score is not below 0."""
        self.expires_at: float | None = None
        """When it is forgotten; `None`: the peer is connected."""

    @property
    def value(self) -> float:
        """The score, as of the last heartbeat or bad deed."""
        if self.beats != self.book.beats:
            self.book.bring_up_to_date(self)
        return self.weighed

    def is_below(self, least: float) -> bool:
        """Tell whether the score is below a threshold, which is not above 0."""
        return not self.is_spotless and self.value < least


class Rules:
    """A topic's config and its decay factors for one heartbeat."""

    __slots__ = ("config", "deficit", "failure", "first", "invalid")

    def __init__(self, config: TopicScoreConfig, heartbeat_s: float) -> None:
        self.config = config
        self.first = _factor(heartbeat_s, config.first_decay_s)
        self.deficit = _factor(heartbeat_s, config.deficit_decay_s)
        self.failure = _factor(heartbeat_s, config.failure_decay_s)
        self.invalid = _factor(heartbeat_s, config.invalid_decay_s)


class Book:
    """The rules of scoring, and how many heartbeats have passed."""

    __slots__ = (
        "_beat_at",
        "_default",
        "_misdeeds_factor",
        "_rules",
        "beats",
        "config",
        "networks",
    )

    def __init__(self, config: ScoreConfig, heartbeat_s: float) -> None:
        self.config = config
        self.beats = 0
        self.networks: dict[str, int] = {}
        """How many connected peers each network has."""
        self._beat_at = 0.0
        self._misdeeds_factor = _factor(heartbeat_s, config.behaviour_decay_s)
        self._default = Rules(config.topic, heartbeat_s)
        self._rules = {topic: Rules(rules, heartbeat_s) for topic, rules in config.topics}

    def rules_of(self, topic: str) -> Rules:
        """Return the rules of a topic."""
        return self._rules.get(topic, self._default)

    def beat(self, now: float) -> None:
        """Let counters decay for one heartbeat."""
        self.beats += 1
        self._beat_at = now

    def bring_up_to_date(self, standing: Standing) -> None:
        """Let the heartbeats pass that a standing has not seen; none do while its peer is away."""
        beats = self.beats - standing.beats
        standing.beats = self.beats
        if beats and standing.expires_at is None:
            self._decay(standing, beats)
            self.weigh(standing, self._beat_at)

    def deficit(self, deeds: Deeds, config: TopicScoreConfig, now: float) -> float:
        """Return how many deliveries are missing of a peer in the mesh."""
        since = deeds.mesh_since
        if since is None or now - since <= config.deficit_activation_s:
            return 0.0
        return max(0.0, config.deficit_threshold - deeds.deliveries)

    def weigh(self, standing: Standing, now: float) -> None:
        """Work out the score."""
        config = self.config
        total = 0.0
        spotless = not standing.misdeeds and standing.application >= 0
        for topic, deeds in standing.topics.items():
            rules = self.rules_of(topic).config
            score = deeds.first * rules.first_weight
            if deeds.mesh_since is not None:
                time_s = min(now - deeds.mesh_since, rules.mesh_time_max_s)
                score += time_s * rules.mesh_time_weight
            if rules.deficit_weight:
                score += self.deficit(deeds, rules, now) ** 2 * rules.deficit_weight
                spotless = False
            if deeds.failures or deeds.invalid:
                score += deeds.failures * rules.failure_weight
                score += deeds.invalid**2 * rules.invalid_weight
                spotless = False
            total += score * rules.weight
        total = min(total, config.topics_score_max)
        total += standing.application * config.application_weight
        if standing.network is not None and config.colocation_weight:
            surplus = self.networks[standing.network] - config.colocation_threshold
            if surplus > 0:
                total += surplus**2 * config.colocation_weight
            spotless = False
        if (excess := standing.misdeeds - config.behaviour_threshold) > 0:
            total += excess**2 * config.behaviour_weight
        standing.weighed = total
        standing.is_spotless = spotless

    def _decay(self, standing: Standing, beats: int) -> None:
        least = self.config.decayed_below
        if standing.misdeeds:
            standing.misdeeds = _decayed(standing.misdeeds, self._misdeeds_factor, beats, least)
        idle = []
        for topic, deeds in standing.topics.items():
            rules = self.rules_of(topic)
            if deeds.first:
                deeds.first = _decayed(deeds.first, rules.first, beats, least)
            if deeds.deliveries:
                deeds.deliveries = _decayed(deeds.deliveries, rules.deficit, beats, least)
            if deeds.failures:
                deeds.failures = _decayed(deeds.failures, rules.failure, beats, least)
            if deeds.invalid:
                deeds.invalid = _decayed(deeds.invalid, rules.invalid, beats, least)
            if deeds.mesh_since is None and not (deeds.first or deeds.failures or deeds.invalid):
                idle.append(topic)
        for topic in idle:
            del standing.topics[topic]


def _factor(heartbeat_s: float, decay_s: float) -> float:
    """Return the factor that leaves 1 % after `decay_s`."""
    return float(0.01 ** (heartbeat_s / decay_s))


def _decayed(value: float, factor: float, beats: int, least: float) -> float:
    value *= factor if beats == 1 else factor**beats
    return value if value >= least else 0.0
