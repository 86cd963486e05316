"""What `Mesh` and `Batcher` may be told: every limit and waiting time, with its source.

Times are seconds.  "go" is go-libp2p-pubsub, "spec" the GossipSub 1.1 specification; values of
theirs are kept where nothing here is different.  Decay times say how long a counter takes to fall
to 1 %, as go's ScoreParameterDecay.
"""

from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicScoreConfig:
    """How a peer's doings in one topic count: P1 to P4 of the specification."""

    weight: float = 1.0
    """Factor of the topic's sum. Source: topics count alike."""

    mesh_time_weight: float = 1 / 3600
    """P1, for each second in our mesh. Source: Lotus; one point for an hour."""
    mesh_time_max_s: float = 3600.0
    """Source: Lotus."""

    first_weight: float = 1.0
    """P2, for each message that this peer brought first. Source: guess; see `first_max`."""
    first_max: float = 50.0
    """Source: two and a half invalid messages; more good deeds excuse no more bad ones."""
    first_decay_s: float = 3600.0
    """Source: Lotus, one hour."""

    deficit_weight: float = 0.0
    """P3, for the square of deliveries missing in the mesh; not above 0, and 0 switches it off.

    Source: off, because a topic of ours may be silent for hours, and P3 punishes silence."""
    deficit_threshold: float = 20.0
    """Deliveries below which a peer in the mesh has a deficit. Source: go's documentation."""
    deficit_max: float = 100.0
    """Most deliveries that are remembered. Source: five times the threshold."""
    deficit_decay_s: float = 600.0
    """Source: guess; a topic of 20 messages in two minutes keeps above the threshold."""
    deficit_window_s: float = 0.01
    """How long after the first copy another one counts as a delivery. Source: spec, 10 ms."""
    deficit_activation_s: float = 30.0
    """How long a peer must be in the mesh before it can have a deficit. Source: guess."""

    failure_weight: float = 0.0
    """P3b, for the square of deficits that peers left the mesh with; not above 0.

    Source: off, as P3."""
    failure_decay_s: float = 3600.0
    """Source: guess, as P2."""

    invalid_weight: float = -20.0
    """P4, for the square of invalid messages; below 0. Source: two of them graylist a stranger."""
    invalid_decay_s: float = 2600.0
    """Source: a factor of 0.9 a minute."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that would turn a punishment into a reward."""
        for name in ("deficit_weight", "failure_weight", "invalid_weight"):
            if getattr(self, name) > 0:
                raise ValueError(f"{name} must not be above 0")
        for item in fields(self):
            if not item.name.endswith("weight") and getattr(self, item.name) <= 0:
                raise ValueError(f"{item.name} must be greater than 0")
        for name in ("weight", "mesh_time_weight", "first_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """How a peer's score comes about (P5 to P7) and what follows from it."""

    topic: TopicScoreConfig = field(default_factory=TopicScoreConfig)
    """For every topic not in `topics`."""
    topics: tuple[tuple[str, TopicScoreConfig], ...] = ()

    topics_score_max: float = 100.0
    """Most that good deeds in all topics are worth. Source: two topics full of first copies."""
    application_weight: float = 1.0
    """P5, for the score the application gave. Source: the application scales its own."""
    colocation_weight: float = 0.0
    """P6, for the square of peers of one network above the threshold; not above 0.

    Source: off, because nodes of one site share a network, and a member costs an invite."""
    colocation_threshold: int = 3
    """Peers that may share a network. Source: guess."""
    behaviour_weight: float = -10.0
    """P7, for the square of misdeeds above the threshold; not above 0. Source: Lotus."""
    behaviour_threshold: float = 6.0
    """Misdeeds that are excused: promises broken by a loaded machine. Source: Lotus."""
    behaviour_decay_s: float = 3600.0
    """Source: Lotus."""
    malformed_misdeeds: float = 10.0
    """Misdeeds that a malformed RPC counts as. Source: takes a stranger to `disconnect_below`."""

    gossip_below: float = -10.0
    """Peers below neither get nor give IHAVE and IWANT. Source: go's documentation."""
    publish_below: float = -50.0
    """Peers below get no messages of ours. Source: go's documentation."""
    graylist_below: float = -80.0
    """What peers below send is not even parsed. Source: go's documentation."""
    disconnect_below: float = -160.0
    """Peers at or below are disconnected, and again whenever they come back. Source: twice that."""
    accept_exchange_at: float = 10.0
    """Least score of a peer whose PRUNE may name other peers to us. Source: ten good deeds."""
    opportunistic_below: float = 1.0
    """Median score of a mesh below which better peers are looked for. Source: spec, "small"."""

    decayed_below: float = 0.01
    """A counter below is 0. Source: go."""
    retain_s: float = 3600.0
    """How long the score of a peer that left is remembered. Source: security brief, 1 h."""
    retained_max: int = 4096
    """Most scores of peers that left. Source: guess; 2 MB."""
    topics_max: int = 64
    """Most topics a peer has counters for. Source: guess; a mesh has about ten topics."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for weights and thresholds that contradict each other."""
        for name in ("colocation_weight", "behaviour_weight"):
            if getattr(self, name) > 0:
                raise ValueError(f"{name} must not be above 0")
        order = (self.disconnect_below, self.graylist_below, self.publish_below, self.gossip_below)
        if list(order) != sorted(order) or order[-1] > 0:
            raise ValueError("disconnect, graylist, publish, gossip must rise and not be above 0")
        if self.accept_exchange_at < 0 or self.opportunistic_below < 0:
            raise ValueError("accept_exchange_at and opportunistic_below must not be negative")
        for name in ("behaviour_decay_s", "decayed_below", "retain_s", "malformed_misdeeds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than 0")
        for name in ("colocation_threshold", "retained_max", "topics_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the `Mesh`. All values are checked on construction."""

    degree: int = 6
    """D, peers in the mesh of a topic. Source: spec."""
    degree_low: int = 4
    """Dlo, peers below which more are grafted. Source: spec 1.0 (go has 5)."""
    degree_high: int = 12
    """Dhi, peers above which some are pruned. Source: spec."""
    degree_score: int = 4
    """Dscore, the best peers that survive pruning for certain. Source: spec."""
    degree_outbound: int = 2
    """Dout, peers that we dialled. Source: spec; below `degree_low` and at most half of D."""
    degree_lazy: int = 6
    """Dlazy, least peers outside the mesh that get IHAVE. Source: spec."""
    gossip_factor: float = 0.25
    """Share of peers outside the mesh that get IHAVE. Source: spec."""
    flood_publish: bool = True
    """Send own messages to every subscriber, not only to the mesh. Source: spec 1.1."""

    heartbeat_s: float = 1.0
    """Source: spec."""
    fanout_s: float = 60.0
    """How long peers of a topic we only publish to are kept. Source: spec."""
    backoff_s: float = 60.0
    """How long nobody grafts after a PRUNE. Source: spec."""
    unsubscribe_backoff_s: float = 10.0
    """The same after we unsubscribed. Source: spec."""
    backoff_max_s: float = 3600.0
    """Longest backoff a peer may ask for. Source: guess."""
    backoff_slack_s: float = 1.0
    """Added to backoffs of ours before grafting. Source: go, one heartbeat."""
    graft_flood_s: float = 10.0
    """A GRAFT so soon after the PRUNE is punished twice. Source: spec."""
    backoffs_max: int = 8192
    """Most backoffs kept. Source: guess; 1 MB."""
    opportunistic_ticks: int = 60
    """Heartbeats between two opportunistic graftings. Source: spec, one minute."""
    opportunistic_peers: int = 2
    """Peers grafted then. Source: spec."""

    history_windows: int = 5
    """Heartbeats that a message can be asked for. Source: spec."""
    gossip_windows: int = 3
    """Heartbeats that a message is told of. Source: spec."""
    cache_size_max_bytes: int = 64 << 20
    """Most bytes of messages that can be asked for. Source: guess; a burst of 1000 full batches."""
    cache_messages_max: int = 65536
    """Source: guess; 5 heartbeats at 13,000 messages a second."""
    seen_s: float = 120.0
    """Least time a message's id is remembered. Source: spec."""
    seen_max: int = 262144
    """Most ids remembered; above, the older half is forgotten. Source: guess; 50 MB."""

    ihave_ids_max: int = 5000
    """Ids in an IHAVE, and ids asked of or by a peer in a heartbeat. Source: go."""
    ihave_messages_max: int = 10
    """IHAVE of a peer that are read in a heartbeat. Source: go."""
    promise_s: float = 3.0
    """How long after IWANT a message may take. Source: spec."""
    ask_again_s: float = 1.0
    """How long an id is asked of one peer only. Source: one heartbeat, then another may be asked.

    (go asks all at once and gets as many copies; asking one alone lets a liar delay a message.)"""
    asked_max: int = 65536
    """Most ids asked for and not yet here. Source: guess; 10 MB."""
    retransmissions_max: int = 3
    """How often a peer may ask for the same message. Source: spec."""

    judging_max: int = 1024
    """Most messages that wait for `Judge`; above, they are dropped. Source: guess."""
    judging_size_max_bytes: int = 16 << 20
    """Source: guess; 256 full batches."""
    recent_max: int = 4096
    """Most messages whose copies still count for P3. Source: guess; a window is 10 ms."""
    judging_s: float = 30.0
    """How long a message waits for `Judge` before it is forgotten. Source: guess."""

    peers_max: int = 512
    """Most peers. Source: guess; more than a host has connections for."""
    topics_max: int = 256
    """Most topics of a peer that are remembered. Source: guess; ten times what a mesh has."""
    own_topics_max: int = 64
    """Most topics of our own, and as many that we only publish to. Source: guess."""
    exchange_peers_max: int = 16
    """Peers taken from a PRUNE. Source: go."""

    rpc_size_bytes: int = 256 << 10
    """Size at which an RPC is full. Source: guess; a quarter of the limit, four full batches."""
    queue_low_bytes: int = 256 << 10
    """Bytes on their way to a peer below which it has room again. Source: one full RPC."""
    queue_high_bytes: int = 1 << 20
    """Bytes above which it has none. Source: four full RPCs."""
    queue_max_bytes: int = 4 << 20
    """Bytes above which messages to it are dropped. Source: prototype; 10,000 messages of 300 B."""
    queue_control_bytes: int = 1 << 20
    """Bytes that control may need above that; then the peer is disconnected. Source: guess."""
    slow_s: float = 1.0
    """How long a peer may have no room before it is slow: gets nothing, and nobody waits for it.

    Source: measured; a stopped peer costs a publisher one second once, not one a message."""

    score: ScoreConfig = field(default_factory=ScoreConfig)

    def __post_init__(self) -> None:
        """Raise `ValueError` for values that contradict each other."""
        if not 0 < self.degree_low <= self.degree <= self.degree_high:
            raise ValueError("degree_low, degree, degree_high must rise from 1")
        if not 0 <= self.degree_score <= self.degree:
            raise ValueError("degree_score must be from 0 to degree")
        if not (self.degree_outbound < self.degree_low and 2 * self.degree_outbound <= self.degree):
            raise ValueError("degree_outbound must be below degree_low and half of degree")
        if not 0 <= self.gossip_factor <= 1:
            raise ValueError("gossip_factor must be from 0 to 1")
        if not 0 < self.gossip_windows <= self.history_windows:
            raise ValueError("gossip_windows must be from 1 to history_windows")
        if not 0 < self.queue_low_bytes <= self.queue_high_bytes <= self.queue_max_bytes:
            raise ValueError("queue_low_bytes, queue_high_bytes, queue_max_bytes must rise from 1")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.endswith(("_s", "_max")) and value <= 0:
                raise ValueError(f"{item.name} must be greater than 0")
            if item.name.endswith(("_bytes", "_ticks", "_peers")) and value < 1:
                raise ValueError(f"{item.name} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Settings of the `Batcher`."""

    size_max_bytes: int = 64 << 10
    """Largest batch. Source: DESIGN, a batch is at most 64 KiB; a larger record goes alone."""
    delay_s: float = 0.02
    """How long the first record of a batch waits. Source: measured; 1000 records/s at p50 11 ms,
    where 3 ms gave 156 ms on the same machine."""
    records_max: int = 1024
    """Most records in a batch. Source: 64 KiB of the smallest records (64 bytes)."""
    topics_max: int = 64
    """Most topics with an open batch. Source: `Config.own_topics_max`."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a value that allows no batch."""
        for item in fields(self):
            if getattr(self, item.name) <= 0:
                raise ValueError(f"{item.name} must be greater than 0")
