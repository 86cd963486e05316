"""What becomes of a message that a peer brings.

    known?  ->  topic of ours?  ->  rules of StrictSign  ->  signature  ->  judge
       |              |                      |                  |            |
    duplicate      unwanted                invalid           invalid      accept: deliver, pass on
                                                                          reject: invalid
                                                                          ignore: neither
                                                                          None: deliver, wait for
                                                                                `Judge`

The cheap comes first: a copy costs a look in a table.  Only what is signed is remembered: a forgery
cannot occupy the id of a message that is still to come.  Messages that await a verdict are bounded
in number and bytes; those over the bound are dropped and nobody is blamed.

Who brings an invalid message is blamed each time, also for copies of one that is known to be
invalid, and for those brought while it was being judged.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias, assert_never

from gossip.errors import RemoteProtocolError
from gossip.lazy_push import LazyPush
from gossip.mesh_events import Deliver, Verdict
from gossip.message_cache import COUNTED, IGNORED, INVALID, JUDGED, VALID
from gossip.outbox import Outbox, Peer
from gossip.overlay import Overlay
from gossip.scoring import Scores
from gossip.wire import Draft, Message

Verifier: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""Whether, for (public key, signature, signed bytes), the signature is right. Never raises."""
Judgement: TypeAlias = Callable[[Message], Verdict | None]
"""What the application thinks of a message; `None`: it says so later. Never raises."""


NOBODY: Final[Mapping[bytes, None]] = MappingProxyType({})


def accept(message: Message) -> Verdict:
    """Accept every message."""
    return Verdict.ACCEPT


class _Copies:
    """Who brought a message that waits for its verdict, or was accepted a moment ago."""

    __slots__ = ("at", "first", "others", "topic")

    def __init__(self, topic: str, first: bytes, at: float) -> None:
        self.topic = topic
        self.first = first
        self.at = at
        """When it came, or was accepted."""
        self.others: dict[bytes, None] = {}


class Intake:
    """Takes in messages and passes on the good ones."""

    __slots__ = (
        "_config",
        "_explicit",
        "_joined",
        "_judge",
        "_judging",
        "_judging_bytes",
        "_lazy",
        "_me",
        "_outbox",
        "_overlay",
        "_recent",
        "_scores",
        "_seen",
        "_verify",
        "delivered",
        "duplicates",
        "invalid",
        "shed",
        "unwanted",
    )

    def __init__(
        self,
        overlay: Overlay,
        outbox: Outbox,
        scores: Scores,
        lazy: LazyPush,
        verify: Verifier,
        judge: Judgement,
        me: bytes,
        explicit: tuple[bytes, ...],
    ) -> None:
        self._config = overlay.config
        self._overlay = overlay
        self._joined = overlay.joined
        self._outbox = outbox
        self._scores = scores
        self._lazy = lazy
        self._seen = lazy.seen
        self._verify = verify
        self._judge = judge
        self._me = me
        self._explicit = explicit
        self._judging: dict[bytes, tuple[Message, _Copies]] = {}
        self._judging_bytes = 0
        self._recent: dict[bytes, _Copies] = {}
        """Accepted in this heartbeat, where copies count (P3)."""
        self.delivered = self.duplicates = self.invalid = self.unwanted = self.shed = 0

    @property
    def judging(self) -> int:
        """How many messages await their verdict."""
        return len(self._judging)

    def take(self, peer: Peer, draft: Draft, now: float) -> None:
        """A peer brought a message. Raises `RemoteProtocolError` if it is not one."""
        message_id = draft.id
        known = self._seen.get(message_id)
        if known == VALID:
            self.duplicates += 1  # By far the most frequent.
            return
        if known or message_id in self._judging:
            self._again(peer, draft, known, now)
            return
        topic = draft.topic
        if topic not in self._joined:
            self.unwanted += 1
            return
        try:
            message, seal = draft.message(topic)
        except RemoteProtocolError:
            self._blame(peer, topic, now)
            return
        if message.source == self._me:
            self.unwanted += 1
            return
        if not self._verify(seal.public_key, seal.signature, seal.signed):
            self._blame(peer, topic, now)
            return
        self._lazy.arrived(message.id)
        verdict = self._judge(message)
        if verdict is Verdict.ACCEPT:
            self._deliver(message, peer.id, awaited=False)
            self._accept(message, peer.id, NOBODY, now)
        elif verdict is None:
            self._await(message, peer.id, now)
        elif verdict is Verdict.REJECT:
            self._seen.put(message.id, INVALID)
            self._blame(peer, topic, now)
        else:
            self._seen.put(message.id, IGNORED)

    def settle(self, message_id: bytes, verdict: Verdict, now: float) -> None:
        """The application judged a message. One that was given up waiting for changes nothing."""
        waiting = self._judging.pop(message_id, None)
        if waiting is None:
            return
        message, copies = waiting
        self._judging_bytes -= _size_bytes(message)
        match verdict:
            case Verdict.ACCEPT:
                self._accept(message, copies.first, copies.others, now)
            case Verdict.IGNORE:
                self._seen.put(message_id, IGNORED)
            case Verdict.REJECT:
                self._seen.put(message_id, INVALID)
                for peer_id in (copies.first, *copies.others):
                    peer = self._overlay.peers.get(peer_id)
                    if peer is not None:
                        self._blame(peer, copies.topic, now)
                    else:
                        # It need not think that it only has to leave before the verdict.
                        away = self._scores.standing(peer_id, now)
                        self._scores.invalid(away, copies.topic, now)
            case _:
                assert_never(verdict)

    def explicit(self, topic: str) -> list[Peer]:
        """Return the explicit peers that are subscribed to a topic."""
        found = [self._overlay.peers.get(peer_id) for peer_id in self._explicit]
        return [peer for peer in found if peer is not None and topic in peer.topics]

    def expire(self, now: float) -> None:
        """Give up waiting for verdicts that are late."""
        self._recent.clear()
        late = now - self._config.judging_s
        for message, copies in list(self._judging.values()):
            if copies.at > late:
                break
            self.settle(message.id, Verdict.IGNORE, now)

    def check(self) -> None:
        """Assert that accounts are true and limits kept."""
        held = sum(_size_bytes(message) for message, _ in self._judging.values())
        assert self._judging_bytes == held <= self._config.judging_size_max_bytes
        assert len(self._judging) <= self._config.judging_max
        assert len(self._recent) <= self._config.recent_max
        for message_id, (message, copies) in self._judging.items():
            assert message.id == message_id
            assert copies.first not in copies.others

    def _again(self, peer: Peer, draft: Draft, known: int, now: float) -> None:
        """A peer brought a message that somebody brought before."""
        self.duplicates += 1
        if known == INVALID:
            if draft.topic in self._overlay.joined:
                self._blame(peer, draft.topic, now)
            return
        if known == COUNTED:
            copies = self._recent.get(draft.id)
        else:
            waiting = self._judging.get(draft.id)
            copies = waiting and waiting[1]
        if copies is None or peer.id in copies.others or peer.id == copies.first:
            return
        copies.others[peer.id] = None
        if known == COUNTED and now - copies.at <= self._scores.window_s(copies.topic):
            self._scores.again(peer.standing, copies.topic)

    def _blame(self, peer: Peer, topic: str, now: float) -> None:
        """A peer brought an invalid message."""
        self.invalid += 1
        self._scores.invalid(peer.standing, topic, now)
        self._overlay.weigh(peer)

    def _deliver(self, message: Message, peer_id: bytes, *, awaited: bool) -> None:
        self.delivered += 1
        self._outbox.say(Deliver(message, peer_id, awaited))

    def _await(self, message: Message, peer_id: bytes, now: float) -> None:
        size = _size_bytes(message)
        full = self._judging_bytes + size > self._config.judging_size_max_bytes
        if full or len(self._judging) >= self._config.judging_max:
            self.shed += 1
            self._seen.put(message.id, IGNORED)
            return
        self._seen.put(message.id, JUDGED)
        self._judging[message.id] = message, _Copies(message.topic, peer_id, now)
        self._judging_bytes += size
        self._deliver(message, peer_id, awaited=True)

    def _accept(
        self, message: Message, first: bytes, others: Mapping[bytes, None], now: float
    ) -> None:
        """Pass a message on, and thank who brought it."""
        overlay, topic = self._overlay, message.topic
        is_counted = self._scores.window_s(topic) > 0
        self._seen.put(message.id, COUNTED if is_counted else VALID)
        self._lazy.cache.put(message.id, message.fragment, topic)
        if (peer := overlay.peers.get(first)) is not None:
            self._scores.first(peer.standing, topic)
        if is_counted:
            self._count_copies(message, first, others, now)
        mesh = self._joined.get(topic)
        if mesh is None:
            return
        have = {first, message.source, *others}
        peers = [peer for peer_id, peer in mesh.items() if peer_id not in have]
        if self._explicit:
            peers += [peer for peer in self.explicit(topic) if peer.id not in have]
        self._outbox.relay(peers, message.fragment)

    def _count_copies(
        self, message: Message, first: bytes, others: Mapping[bytes, None], now: float
    ) -> None:
        """Count the copies that came before the verdict, and those soon to come (P3)."""
        for peer_id in others:
            if (peer := self._overlay.peers.get(peer_id)) is not None:
                self._scores.again(peer.standing, message.topic)
        if len(self._recent) < self._config.recent_max:
            copies = self._recent[message.id] = _Copies(message.topic, first, now)
            copies.others.update(others)


def _size_bytes(message: Message) -> int:
    """Return what a message takes in memory: its data stand in its fragment once more."""
    return len(message.fragment) + len(message.data)
