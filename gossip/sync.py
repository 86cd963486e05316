"""Reconciliation: how two nodes find and exchange what only one of them knows.

Gossip is fast and may lose; this is what makes it true.  On connecting, after a partition, and now
and then with a peer chosen at random, two nodes hold a *session* (`sync_session`): facts first, to
the point where nothing is found any more, then records.  Whatever state the two were in, both then
have what either had, at a cost that grows with what differs and hardly with what there is
(`sync_comparison`): 100 records of a million for about 100 kB.

`Sync` is a machine: it is told what happened (`handle`, with the time) and answers what is to be
done.  It reads no clock, draws no lots and does no I/O.  Its rules:

* A node offers what it may stand for: facts whose chain is known, records that are admissible by
  its facts.  The driver says so with `Insert` and `Remove`, whatever the reason, as it happens.
* One session a peer, `sessions_max` in all.  When two nodes open one to each other at once, the
  one of the smaller peer id stands, and the other side's fails as busy.
* What comes in bulk, when a node is new or was away for long, comes once: while one session brings
  it at a good rate no other begins, and one that would bring the same ends as busy.
* A session is bounded in turns, bytes, items and time.  What has no room in one is found by the
  next; what was applied stays.
* A peer that breaks the rules ends its session and nothing else: `Failed` says which rule.

What it leaves out: signatures and merging (the driver's, on `Apply`), whom to compare with and
when, and who may take part at all (both the driver's).
"""

from collections.abc import Iterable
from typing import assert_never

from gossip.errors import PeerBusy
from gossip.sync_events import (
    Accept,
    Applied,
    Closed,
    Effect,
    Failed,
    Forged,
    Given,
    Input,
    Insert,
    Open,
    Receive,
    Remove,
    Resume,
    SyncConfig,
    Tick,
)
from gossip.sync_index import NONCE_SIZE_BYTES, Index, Item
from gossip.sync_messages import Stratum
from gossip.sync_session import Phase, Session


class Sync:
    """All reconciliation of one node."""

    def __init__(
        self,
        config: SyncConfig,
        peer: str,
        mesh: bytes,
        facts: Iterable[Item] = (),
        records: Iterable[Item] = (),
    ) -> None:
        """Start with these items. `peer` is this node's own id, `mesh` the mesh's (32 bytes)."""
        self._config = config
        self._peer = peer
        self._mesh = mesh
        self._indexes = {Stratum.FACTS: Index(facts), Stratum.RECORDS: Index(records)}
        self._sessions: dict[int, Session] = {}
        self._openers: dict[str, int] = {}
        """Peers with a session, and its number; a session still without `Hello` is not here."""

    def handle(self, input: Input, now: float) -> list[Effect]:
        """Take in what happened at `now` and return what is to be done.

        What comes for a session that is over changes nothing.  Raises `ValueError` for what a
        driver must not do.
        """
        out: list[Effect] = []
        match input:
            case Receive(session, frame):
                self._receive(session, frame, now, out)
            case Resume(session):
                if found := self._sessions.get(session):
                    found.resume(now, out)
            case Given(session, payloads):
                if found := self._sessions.get(session):
                    found.given(payloads, now, out)
            case Applied(session):
                if found := self._sessions.get(session):
                    found.applied(now, out)
            case Forged(session, reason):
                if found := self._sessions.get(session):
                    found.forged(reason, out)
            case Closed(session, error):
                if found := self._sessions.get(session):
                    found.fail(error, out)
            case Insert(stratum, item):
                self._indexes[stratum].insert(item)
            case Remove(stratum, item):
                self._indexes[stratum].remove(item)
            case Open(session, peer, nonce):
                self._open(session, peer, nonce, now, out)
            case Accept(session, peer, nonce):
                self._accept(session, peer, nonce, now, out)
            case Tick():
                for running in list(self._sessions.values()):
                    running.tick(now, out)
            case _:
                assert_never(input)
        if isinstance(input, Receive | Resume | Given | Applied):
            self._relieve(input.session, now, out)
        self._forget()
        return out

    @property
    def deadline(self) -> float | None:
        """When to send `Tick` next, in the time of `now`; `None`: no need to."""
        return min((session.due for session in self._sessions.values()), default=None)

    @property
    def peers(self) -> list[str]:
        """The peers with whom there is a session, in the order of their beginning."""
        return list(self._openers)

    def is_carrying(self, now: float) -> bool:
        """Tell whether a session is bringing so much that no other is to begin."""
        return any(session.is_carrying(now) for session in self._sessions.values())

    def count(self, stratum: Stratum) -> int:
        """Return how many items of a stratum this node offers."""
        return len(self._indexes[stratum])

    def contains(self, stratum: Stratum, item: Item) -> bool:
        """Tell whether this node offers an item."""
        return item in self._indexes[stratum]

    def check(self) -> None:
        """Assert the invariants."""
        for index in self._indexes.values():
            index.check()
        for number, session in self._sessions.items():
            session.check()
            assert session.number == number
            assert session.phase is not Phase.OVER
        greeted = [s for s in self._sessions.values() if s.phase is not Phase.HELLO]
        assert {session.peer: session.number for session in greeted} == self._openers
        assert len(greeted) == len(self._openers) <= self._config.sessions_max
        assert len(self._sessions) <= 2 * self._config.sessions_max

    # --- sessions -------------------------------------------------------------------------

    def _open(self, number: int, peer: str, nonce: bytes, now: float, out: list[Effect]) -> None:
        session = self._make(number, peer, nonce, now)
        is_busy = peer in self._openers or self.is_carrying(now)
        if is_busy or len(self._openers) >= self._config.sessions_max:
            out.append(Failed(number, peer, PeerBusy("there is a session, or there are enough")))
            return
        self._sessions[number] = session
        self._openers[peer] = number
        session.open(out)

    def _accept(self, number: int, peer: str, nonce: bytes, now: float, out: list[Effect]) -> None:
        session = self._make(number, peer, nonce, now)
        waiting = [other for other in self._sessions.values() if other.phase is Phase.HELLO]
        is_waiting = any(other.peer == peer for other in waiting)
        if is_waiting or len(waiting) >= self._config.sessions_max:
            session.refuse(out)
            return
        self._sessions[number] = session

    def _receive(self, number: int, frame: bytes, now: float, out: list[Effect]) -> None:
        session = self._sessions.get(number)
        if session is None:
            return
        is_hello = session.phase is Phase.HELLO
        if is_hello and (self.is_carrying(now) or not self._has_room(session, out)):
            session.refuse(out)
            return
        session.receive(frame, now, out)
        if is_hello and session.phase is not Phase.OVER:
            self._openers[session.peer] = number

    def _has_room(self, session: Session, out: list[Effect]) -> bool:
        """Tell whether a peer's session may begin; ends our own where the peer's is to stand."""
        ours = self._openers.get(session.peer)
        if ours is None:
            return len(self._openers) < self._config.sessions_max
        if self._sessions[ours].phase is not Phase.WELCOME or self._peer < session.peer:
            return False
        self._sessions[ours].fail(PeerBusy("the peer opened a session at the same time"), out)
        del self._openers[session.peer]
        return True

    def _relieve(self, number: int, now: float, out: list[Effect]) -> None:
        """End a session that would bring what another is bringing."""
        session = self._sessions.get(number)
        if session is None or not session.is_laden:
            return
        others = (other for other in self._sessions.values() if other is not session)
        if any(other.is_carrying(now) for other in others):
            session.fail(PeerBusy("another session brings as much"), out)

    def _make(self, number: int, peer: str, nonce: bytes, now: float) -> Session:
        if number in self._sessions:
            raise ValueError(f"session {number} is there already")
        if len(nonce) != NONCE_SIZE_BYTES:
            raise ValueError(f"a nonce has {NONCE_SIZE_BYTES} bytes")
        return Session(number, peer, self._mesh, nonce, self._indexes, self._config, now)

    def _forget(self) -> None:
        """Drop the sessions that have ended."""
        for session in [s for s in self._sessions.values() if s.phase is Phase.OVER]:
            del self._sessions[session.number]
            if self._openers.get(session.peer) == session.number:
                del self._openers[session.peer]
