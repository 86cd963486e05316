"""How other nodes have behaved, summed up: what they gave that was wrong for good.

Every part that takes something from a peer says here what it was worth (`PeerError.penalty`).  The
sum halves with time, so a node that was repaired is taken back; above `CUT_AT` a peer is cut off:
nothing is asked of it or answered.  Gossip keeps a score of its own, and adds this one to it.
"""

from collections.abc import Callable
from typing import Final

CUT_AT: Final = 80.0
"""Penalties at which a peer is cut off. Source: as `gossip.config.ScoreConfig.graylist_below`."""
HALF_LIFE_S: Final = 600.0
"""Source: guess; a peer that was cut off is heard again after some minutes."""
PEERS_MAX: Final = 4096
"""Most peers remembered. Source: as `ScoreConfig.retained_max`."""


class Standing:
    """The penalties of peers, by peer id. Times are monotonic seconds."""

    def __init__(self, report: Callable[[str, str, float], None]) -> None:
        """`report` is told of each penalty: peer, reason, and the sum of its penalties now."""
        self._report = report
        self._penalties: dict[str, tuple[float, float]] = {}

    def blame(self, peer: str, penalty: float, reason: str, now: float) -> None:
        """Add to a peer's penalties."""
        total = self.penalty(peer, now) + penalty
        self._penalties.pop(peer, None)
        while len(self._penalties) >= PEERS_MAX:
            del self._penalties[next(iter(self._penalties))]
        self._penalties[peer] = total, now
        self._report(peer, reason, total)

    def penalty(self, peer: str, now: float) -> float:
        """Return the sum of a peer's penalties, as far as they are not forgiven."""
        total, at = self._penalties.get(peer, (0.0, now))
        return float(total * 0.5 ** ((now - at) / HALF_LIFE_S))

    def is_cut(self, peer: str, now: float) -> bool:
        """Tell whether a peer is cut off."""
        return self.penalty(peer, now) >= CUT_AT

    def blamed(self) -> list[str]:
        """Return the peers that have penalties, those blamed last at the end."""
        return list(self._penalties)
