"""How other nodes have behaved, summed up: what they gave that was wrong for good.

Every part that takes something from a peer says here what it was worth (`PeerError.penalty`).  The
sum halves with time, so that mishaps which are far apart never add up.  At `CUT_AT` a peer is cut
off: no connection to it is made or kept (`peernode.peering` sees to that), for ten minutes the
first time and twice as long each time after, up to a day.  Then it is taken back with half of what
it had, and once it has been good for a day it is as if nothing had been.

The security brief begins with an hour.  A fault of a program that is repaired, or two versions that
understand each other badly, are likelier than an enemy, and for an enemy the doubling makes an hour
of the fourth time.

Gossip keeps a score of its own and adds this one to it; whom that score puts out is cut off here.
What it leaves out: how all this outlives the process (`standing_rows`).  Times are monotonic
seconds; of an account that was kept over a restart they may be negative.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

CUT_AT: Final = 80.0
"""Penalties at which a peer is cut off. Source: as `gossip.config.ScoreConfig.graylist_below`."""
HALF_LIFE_S: Final = 600.0
"""Source: guess; four faults in ten minutes are no accident."""
CUT_MIN_S: Final = 600.0
"""How long a peer is cut off the first time. Source: guess; see above."""
CUT_MAX_S: Final = 86_400.0
"""The longest, and how long one has to be good after it. Source: security brief, 24 h."""
PEERS_MAX: Final = 4096
"""Most peers remembered. Source: as `ScoreConfig.retained_max`."""
_FORGIVEN_BELOW: Final = 0.1
"""Penalties that are as good as none. Source: guess; two hours after the worst."""


@dataclass(frozen=True, slots=True)
class Account:
    """What is held against one peer."""

    penalty: float
    """The sum, as of `at`."""
    at: float
    cut_until: float
    """Until when it is cut off, or was."""
    cuts: int
    """How often it was cut off; 0: never, and `cut_until` says nothing."""

    def penalty_at(self, now: float) -> float:
        """Return what is left of the sum."""
        return float(self.penalty * 0.5 ** (max(0.0, now - self.at) / HALF_LIFE_S))

    def is_cut(self, now: float) -> bool:
        """Tell whether the peer is cut off."""
        return self.cuts > 0 and now < self.cut_until

    def is_over(self, now: float) -> bool:
        """Tell whether nothing is held against the peer any more."""
        is_good = self.cuts == 0 or now >= self.cut_until + CUT_MAX_S
        return is_good and self.penalty_at(now) < _FORGIVEN_BELOW


class Standing:
    """The accounts of peers, by peer id."""

    def __init__(
        self,
        report: Callable[[str, str, float], None],
        accounts: Mapping[str, Account] | None = None,
    ) -> None:
        """`report` is told of each penalty: peer, reason, and the sum of its penalties now.

        `accounts` is what was kept of an earlier run.
        """
        self._report = report
        self._accounts = dict(accounts or {})
        self._changed: dict[str, None] = {}

    def blame(self, peer: str, penalty: float, reason: str, now: float) -> None:
        """Add to a peer's penalties, and cut it off if they are too many.

        Of one that is cut off no more is noted, so its faults fill no log either.
        """
        before = self._accounts.get(peer, Account(0.0, now, now, 0))
        if before.is_cut(now):
            return
        self._accounts.pop(peer, None)
        total = min(before.penalty_at(now) + penalty, CUT_AT)
        until, cuts = before.cut_until, before.cuts
        if total >= CUT_AT:
            until, cuts = now + min(CUT_MIN_S * 2.0**cuts, CUT_MAX_S), cuts + 1
        if len(self._accounts) >= PEERS_MAX:
            self._make_room(now)
        self._accounts[peer] = Account(total, now, until, cuts)
        self._changed[peer] = None
        self._report(peer, reason, total)

    def penalty(self, peer: str, now: float) -> float:
        """Return the sum of a peer's penalties, as far as they are not forgiven."""
        account = self._accounts.get(peer)
        return 0.0 if account is None else account.penalty_at(now)

    def is_cut(self, peer: str, now: float) -> bool:
        """Tell whether a peer is cut off."""
        account = self._accounts.get(peer)
        return account is not None and account.is_cut(now)

    def cut(self, now: float) -> dict[str, float]:
        """Return the peers that are cut off, and until when each is."""
        accounts = self._accounts.items()
        return {peer: account.cut_until for peer, account in accounts if account.is_cut(now)}

    def blamed(self) -> list[str]:
        """Return the peers that have penalties, those blamed last at the end."""
        return list(self._accounts)

    def forget(self, now: float) -> None:
        """Drop the accounts of peers that nothing is held against any more."""
        for peer in [peer for peer, account in self._accounts.items() if account.is_over(now)]:
            self._drop(peer)

    def take_changed(self) -> dict[str, Account | None]:
        """Return the accounts that changed since the last call; `None`: it was dropped."""
        changed, self._changed = self._changed, {}
        return {peer: self._accounts.get(peer) for peer in changed}

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._accounts) <= PEERS_MAX
        assert all(account.penalty <= CUT_AT for account in self._accounts.values())

    def _make_room(self, now: float) -> None:
        """Drop who was blamed longest ago, and of those that are cut off one only if all are."""
        free = (peer for peer, account in self._accounts.items() if not account.is_cut(now))
        self._drop(next(free, next(iter(self._accounts))))

    def _drop(self, peer: str) -> None:
        del self._accounts[peer]
        self._changed[peer] = None
