"""Whether this node may go on: a machine that is told which lives of its own others have seen.

A data directory that was put back as it was, or that was copied and runs twice, does not know what
has been given out since: ids, node numbers, versions, outcomes of jobs.  But others do, and they
have seen the life (`life_statements`) that did it.  So a node that is shown an *unknown life* of
its own, or that a life it knows has said more since, holds back until that is settled:

    asking --nothing unknown, or nobody there--> free
       |                                          |
       +------------ an unknown life -------------+--> recovering --its time goes on--> cloned
                                                           |                              |
                           free <--adopt-- it is quiet, and what others know is here    `Resolve`

* `asking`: a start with known peers waits a moment for the first greeting.  A node that nobody
  answers starts all the same.
* `recovering`: it is brought up to date by the peer that showed the life, and by a second one if
  another is up.  A life is *quiet* when a peer that showed it, and is still there, shows it for
  `quiet_s` with the same time.  It is over then: this node *adopts* it, as its own past, and begins
  a life above it.
* `cloned`: the same peer showed that life twice with a later time than before, so it is another
  process.  (Once may be the last word of one that has just ended.)  Only the operator knows which
  of the two is to go on (`Resolve`).

The same rule at the other instance makes both hold back.  Nothing here believes a peer: a life is
worth what its signature is, which is this node's own.

What it leaves out: signing, writing and fetching (`lives_driver`).
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, assert_never

from peernode.life_statements import Before, Life, last_of

RISES_MAX: Final = 2
"""How often a life's time goes on before it is another process. Source: see the module."""
SYNCED_WITH: Final = 2
"""How many peers bring a recovering node up to date. Source: one may lack what the other has."""
UNKNOWN_MAX: Final = 16
"""Most unknown lives at once. Source: guess; each is a copy that was run."""


class State(enum.Enum):
    """How this node stands to its own lives."""

    ASKING = "starting"
    FREE = "ok"
    RECOVERING = "recovering"
    CLONED = "cloned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Times, in seconds."""

    asking_s: float
    """How long a start waits for the first greeting."""
    quiet_s: float
    """How long an unknown life has to be quiet."""


# --- inputs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Up:
    """A peer can be asked."""

    peer: str


@dataclass(frozen=True, slots=True)
class Down:
    """It cannot any more."""

    peer: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A greeting: these heads of this node the peer has seen, all signed by its key."""

    peer: str
    lives: tuple[Life, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """All that the peer knows is here."""

    peer: str


@dataclass(frozen=True, slots=True)
class Resolve:
    """The operator says that this is the instance that goes on."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What `Adopt` says is on the disk, and the new life has this nonce."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """The `deadline` has come."""


Input: TypeAlias = Up | Down | Shown | Synced | Resolve | Adopted | Tick

# --- effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Go on: give out ids, write, answer, take jobs and run them."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Hold all that back."""


@dataclass(frozen=True, slots=True)
class FoundClone:
    """Tell the operator that this node runs twice."""


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Have all that the peer knows brought here; say `Synced` then."""

    peer: str


@dataclass(frozen=True, slots=True)
class Greet:
    """Greet the peer now, and say what it shows."""

    peer: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make these lives known durably, and this the number of the next; say `Adopted` then."""

    boot: int
    past: tuple[Before, ...]
    floor_ms: int
    """Whatever they gave out and said so lies below."""


Effect: TypeAlias = Open | Fence | FoundClone | Reconcile | Greet | Adopt


@dataclass(slots=True)
class _Unknown:
    """A life of this node that is not among its rows."""

    boot: int
    at_ms: int
    quiet_since: float
    rises: dict[str, int] = field(default_factory=dict)
    """Peer -> how often it showed it with a later time than before."""
    seen: dict[str, int] = field(default_factory=dict)
    """Peer that showed it -> the latest time that it showed."""


class Lives:
    """The machine. See the module."""

    def __init__(
        self,
        config: Config,
        boot: int,
        nonce: bytes,
        past: Iterable[Before],
        now: float,
        *,
        may_be_old: bool,
        floor_boot: int = 0,
    ) -> None:
        """Begin a life after those in `past`.

        `past` says up to which time each is known: a copy of a directory in use knows of the life
        that was using it, and not of what it did then.  `may_be_old`: there are peers who may know
        better.  Lives of numbers below `floor_boot` are
        known, though they are not in `past`.
        """
        self.boot = boot
        self.nonce = nonce
        self.state = State.ASKING if may_be_old else State.FREE
        self._config = config
        self._past = {before: (its_boot, at_ms) for its_boot, before, at_ms in past}
        self._floor_boot = floor_boot
        self._last_ms = 0
        self._asking_until = now + config.asking_s
        self._up: dict[str, None] = {}
        self._unknown: dict[bytes, _Unknown] = {}
        self._fenced_at = now
        self._heard: dict[str, float] = {}
        """Peer that showed an unknown life -> when it last answered."""
        self._wanted: dict[str, bool] = {}
        """Peer that is to bring this node up to date -> whether it has."""
        self._told_at: float | None = None
        self._asked_at: float | None = None
        """When peers were asked last whether an unknown life is quiet."""
        self._adopting: Adopt | None = None
        self._wake_at: float | None = self._asking_until if may_be_old else None

    @property
    def is_fenced(self) -> bool:
        """Tell whether this node holds back."""
        return self.state in (State.RECOVERING, State.CLONED)

    @property
    def unknown(self) -> list[Before]:
        """The lives that make it hold back."""
        return [(each.boot, nonce, each.at_ms) for nonce, each in self._unknown.items()]

    @property
    def deadline(self) -> float | None:
        """When to send `Tick` next; `None`: no need to."""
        return self._wake_at

    def say(self, above_ms: int) -> Life:
        """Return this life, as of now; all that it has given out is below `above_ms`."""
        self._last_ms = max(above_ms, self._last_ms + 1)
        past = last_of((boot, nonce, at_ms) for nonce, (boot, at_ms) in self._past.items())
        return Life(1, self.boot, self.nonce, self._last_ms, past)

    def handle(self, input: Input, now: float) -> list[Effect]:
        """Take in what happened at `now`, and return what is to be done."""
        out: list[Effect] = []
        match input:
            case Up(peer):
                self._up[peer] = None
                if self.is_fenced and (peer in self._wanted or len(self._wanted) < SYNCED_WITH):
                    self._want(peer, out)
            case Down(peer):
                self._up.pop(peer, None)
            case Shown(peer, lives):
                self._show(peer, lives, now, out)
            case Synced(peer):
                if peer in self._wanted:
                    self._wanted[peer] = True
            case Resolve():
                if self.is_fenced and self._told_at is None:
                    self._told_at = now
            case Adopted(nonce):
                self._begin(nonce, out)
            case Tick():
                if self.state is State.ASKING and now >= self._asking_until:
                    self._open(out)
            case _:
                assert_never(input)
        self._decide(now, out)
        return out

    def check(self) -> None:
        """Assert the invariants."""
        assert self.is_fenced == bool(self._unknown)
        for nonce, unknown in self._unknown.items():
            assert self._past.get(nonce, (0, -1))[1] < unknown.at_ms
        assert self.nonce not in self._past
        assert all(boot < self.boot for boot, _ in self._past.values())
        assert len(self._unknown) <= UNKNOWN_MAX
        assert self._adopting is None or self.is_fenced

    # --- being shown lives ----------------------------------------------------------------

    def _knows(self, life: Life) -> bool:
        if life.nonce == self.nonce:
            return life.at_ms <= self._last_ms
        if life.nonce in self._past:
            return life.at_ms <= self._past[life.nonce][1]
        return life.boot < self._floor_boot

    def _show(self, peer: str, lives: tuple[Life, ...], now: float, out: list[Effect]) -> None:
        strange = [life for life in lives if not self._knows(life)]
        if self.state is State.ASKING and not strange:
            self._open(out)
        if strange or peer in self._heard:
            self._heard[peer] = now
        for life in strange:
            if self._meet(peer, life, now):
                self._wanted[peer] = False
        if strange and not self.is_fenced:
            self.state, self._fenced_at = State.RECOVERING, now
            out.append(Fence())
        if strange:
            self._want(peer, out)
            for other in self._up:
                if other not in self._wanted and len(self._wanted) < SYNCED_WITH:
                    self._want(other, out)
        is_cloned = any(
            rises >= RISES_MAX for each in self._unknown.values() for rises in each.rises.values()
        )
        if self.state is State.RECOVERING and is_cloned:
            self.state = State.CLONED
            out.append(FoundClone())

    def _meet(self, peer: str, life: Life, now: float) -> bool:
        """Take note of an unknown life; tell whether there may be more to know of it."""
        found = self._unknown.get(life.nonce)
        if found is None:
            if len(self._unknown) < UNKNOWN_MAX:
                self._unknown[life.nonce] = found = _Unknown(life.boot, life.at_ms, now)
                found.seen[peer] = life.at_ms
            return found is not None
        before = found.seen.get(peer, life.at_ms)
        found.seen[peer] = max(before, life.at_ms)
        found.at_ms = max(found.at_ms, life.at_ms)
        if life.at_ms <= before:
            return False
        found.rises[peer] = found.rises.get(peer, 0) + 1
        found.quiet_since = now
        return True

    def _want(self, peer: str, out: list[Effect]) -> None:
        if not self._wanted.setdefault(peer, False):
            out.append(Reconcile(peer))

    # --- going on -------------------------------------------------------------------------

    def _decide(self, now: float, out: list[Effect]) -> None:
        """Adopt the unknown lives if it is time to, or know when to look again."""
        self._wake_at = self._asking_until if self.state is State.ASKING else None
        if not self.is_fenced or self._adopting is not None:
            return
        if self._told_at is not None:
            if not self._is_lacking(now, self._told_at + self._config.quiet_s):
                self._adopt(out)
            return
        quiet_at = self._config.quiet_s + max(
            unknown.quiet_since for unknown in self._unknown.values()
        )
        if self.state is State.CLONED:
            return
        if now < quiet_at:
            self._wake_at = quiet_at
        elif any(self._wanted.values()):
            patience_at = self._fenced_at + 2 * self._config.quiet_s
            if not self._is_lacking(now, patience_at) and self._is_quiet(now, quiet_at, out):
                self._adopt(out)

    def _is_lacking(self, now: float, patience_at: float) -> bool:
        """Tell whether to wait for somebody who is up and knows more: for long, or for a while."""
        lacking = [peer for peer, done in self._wanted.items() if not done and peer in self._up]
        if self._told_at is None and any(peer in self._heard for peer in lacking):
            return True  # It has shown what is lacking here.
        if lacking and now < patience_at:
            self._wake_at = patience_at
            return True
        return False

    def _is_quiet(self, now: float, quiet_at: float, out: list[Effect]) -> bool:
        """Tell whether somebody who showed a life, and is up, has answered since it is quiet."""
        there = [peer for peer in self._heard if peer in self._up]
        if not there or any(self._heard[peer] >= quiet_at for peer in there):
            return True
        if self._asked_at is None or now >= self._asked_at + self._config.quiet_s:
            self._asked_at = now
            out.extend(Greet(peer) for peer in there)
        self._wake_at = self._asked_at + self._config.quiet_s
        return False

    def _adopt(self, out: list[Effect]) -> None:
        boot = 1 + max(self.boot, *(unknown.boot for unknown in self._unknown.values()))
        floor_ms = max(unknown.at_ms for unknown in self._unknown.values())
        self._adopting = Adopt(boot, tuple(self.unknown), floor_ms)
        out.append(self._adopting)

    def _begin(self, nonce: bytes, out: list[Effect]) -> None:
        """Begin the life that follows on those that were adopted."""
        adopted, self._adopting = self._adopting, None
        if adopted is None:
            return
        self._past[self.nonce] = self.boot, self._last_ms
        for boot, before, at_ms in adopted.past:
            self._past[before] = boot, at_ms
            if self._unknown[before].at_ms <= at_ms:
                del self._unknown[before]
        self.boot, self.nonce = adopted.boot, nonce
        self._told_at = self._asked_at = None
        if self._unknown:
            self.state = State.RECOVERING  # Another one was shown meanwhile.
        else:
            self._open(out)

    def _open(self, out: list[Effect]) -> None:
        self.state = State.FREE
        self._heard.clear()
        self._wanted.clear()
        out.append(Open())
