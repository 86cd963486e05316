"""What is on its way to each peer, and who cannot keep up.

During one `Mesh.handle` all that is to be said to a peer is collected and leaves as few RPCs as it
fits in.  The driver tells how many bytes left its queue (`Written`); what is queued is bounded in
bytes, never in messages:

* above `queue_high_bytes` a peer has no room, until it is below `queue_low_bytes` again; a
  publisher should wait while `room` is false;
* a peer without room for `slow_s` is *slow*: it gets no messages and nobody waits for it;
* above `queue_max_bytes` messages to it are dropped (it will be told of them by IHAVE), control is
  not: a lost GRAFT or subscription would leave two nodes with two opinions.  A peer that has no
  room even for that is disconnected.
"""

from collections.abc import Iterable

from gossip import wire_encode
from gossip.config import Config
from gossip.mesh_events import Disconnect, Effect, Send
from gossip.score_book import Standing


class Peer:
    """A connected peer."""

    __slots__ = (
        "controls",
        "doomed",
        "explicit",
        "fragments",
        "full_since",
        "id",
        "ids_asked",
        "ids_served",
        "ihave_messages",
        "outbound",
        "queued_bytes",
        "short_ids",
        "single",
        "slow",
        "staged_bytes",
        "standing",
        "topics",
    )

    def __init__(self, id: bytes, outbound: bool, explicit: bool, standing: Standing) -> None:
        self.id = id
        self.outbound = outbound
        self.explicit = explicit
        self.standing = standing
        self.short_ids = False
        """It writes message ids in 44 bytes."""
        self.topics: dict[str, None] = {}
        self.doomed = False
        """`Disconnect` was said: nothing goes to it and nothing from it counts any more."""
        # In this heartbeat:
        self.ihave_messages = 0
        self.ids_asked = 0
        self.ids_served = 0
        # On their way:
        self.single = b""
        """The message that is staged, if nothing else is: mostly so."""
        self.fragments: list[bytes] = []
        self.controls: list[bytes] = []
        self.staged_bytes = 0
        """Of `fragments` and `controls`."""
        self.queued_bytes = 0
        """With what is staged."""
        self.full_since: float | None = None
        self.slow = False


class Outbox:
    """Collects what is to be done, and keeps the accounts of what is on its way to peers."""

    __slots__ = (
        "_config",
        "_effects",
        "_full",
        "_staged",
        "dropped",
        "sent",
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        self._staged: list[Peer] = []
        self._effects: list[Effect] = []
        self._full: dict[bytes, Peer] = {}
        self.sent = 0
        """RPCs."""
        self.dropped = 0
        """Messages."""

    @property
    def room(self) -> bool:
        """Whether every peer that is not slow has room for more."""
        return all(peer.slow for peer in self._full.values())

    @property
    def deadline(self) -> float | None:
        """When the next peer may become slow."""
        if not self._full:
            return None
        waits = [
            peer.full_since
            for peer in self._full.values()
            if not peer.slow and peer.full_since is not None
        ]
        return min(waits) + self._config.slow_s if waits else None

    def say(self, effect: Effect) -> None:
        """Add something else than `Send`."""
        self._effects.append(effect)

    def doom(self, peer: Peer, reason: str, *, is_misbehaving: bool = False) -> None:
        """Disconnect a peer."""
        if not peer.doomed:
            peer.doomed = True
            self._effects.append(Disconnect(peer.id, reason, is_misbehaving))

    def message(self, peer: Peer, fragment: bytes) -> bool:
        """Send a message, if there is room; return whether there was."""
        dropped = self.dropped
        self.relay((peer,), fragment)
        return self.dropped == dropped

    def relay(self, peers: Iterable[Peer], fragment: bytes) -> None:
        """Send a message to all of these that have room for it."""
        size, most, staged = len(fragment), self._config.queue_max_bytes, self._staged
        for peer in peers:
            queued_bytes = peer.queued_bytes + size
            if peer.slow or peer.doomed or queued_bytes > most:
                self.dropped += 1
            elif peer.single or peer.staged_bytes:
                self._must(peer, peer.fragments, fragment)
            else:
                staged.append(peer)
                peer.single = fragment
                peer.queued_bytes = queued_bytes

    def subscription(self, peer: Peer, fragment: bytes) -> None:
        """Send a subscription."""
        self._must(peer, peer.fragments, fragment)

    def control(self, peer: Peer, field: bytes) -> None:
        """Send a field of a control."""
        self._must(peer, peer.controls, field)

    def _must(self, peer: Peer, part: list[bytes], data: bytes) -> None:
        if peer.doomed:
            return
        if peer.single:
            _join(peer)
        elif not peer.staged_bytes:
            self._staged.append(peer)
        part.append(data)
        peer.staged_bytes += len(data)
        peer.queued_bytes += len(data)

    def flush(self, now: float) -> list[Effect]:
        """Return what was collected: RPCs last."""
        high, effects = self._config.queue_high_bytes, self._effects
        self._effects = []
        for peer in self._staged:
            if peer.single and not peer.doomed and peer.queued_bytes <= high:
                # One message passed on, and room for more: by far the most frequent.
                effects.append(Send(peer.id, peer.single))
                peer.single = b""
                self.sent += 1
            else:
                self._flush_to(peer, effects, now)
        self._staged.clear()
        return effects

    def _flush_to(self, peer: Peer, effects: list[Effect], now: float) -> None:
        config = self._config
        if peer.single:
            _join(peer)
        rpcs = wire_encode.pack(peer.fragments, peer.controls, config.rpc_size_bytes)
        peer.queued_bytes += sum(map(len, rpcs)) - peer.staged_bytes
        peer.fragments.clear()
        peer.controls.clear()
        peer.staged_bytes = 0
        if peer.doomed:
            return
        if peer.queued_bytes > config.queue_max_bytes + config.queue_control_bytes:
            peer.doomed = True
            effects.append(Disconnect(peer.id, "it does not read what it is sent"))
            return
        self.sent += len(rpcs)
        effects += [Send(peer.id, rpc) for rpc in rpcs]
        if peer.queued_bytes > config.queue_high_bytes and peer.full_since is None:
            peer.full_since = now
            self._full[peer.id] = peer

    def written(self, peer: Peer, size_bytes: int) -> None:
        """So many bytes left the driver's queue."""
        peer.queued_bytes = max(0, peer.queued_bytes - size_bytes)
        if peer.full_since is not None and peer.queued_bytes < self._config.queue_low_bytes:
            self.forget(peer)

    def emptied(self, peer: Peer) -> None:
        """What was on its way is lost."""
        peer.queued_bytes = len(peer.single) + peer.staged_bytes
        self.forget(peer)

    def forget(self, peer: Peer) -> None:
        """The peer has room again, or is gone."""
        if self._full.pop(peer.id, None) is not None:
            peer.full_since = None
            peer.slow = False

    def find_slow(self, now: float) -> None:
        """Call those slow that have had no room for too long."""
        for peer in self._full.values():
            if peer.full_since is not None and now - peer.full_since >= self._config.slow_s:
                peer.slow = True

    def check(self) -> None:
        """Assert that nothing is left over between two inputs."""
        assert not self._staged
        assert not self._effects
        for peer_id, peer in self._full.items():
            assert peer.id == peer_id
            assert peer.full_since is not None
            assert peer.queued_bytes >= self._config.queue_low_bytes


def _join(peer: Peer) -> None:
    """Put a single message among the fragments: it is not alone any more."""
    peer.fragments.append(peer.single)
    peer.staged_bytes = len(peer.single)
    peer.single = b""
