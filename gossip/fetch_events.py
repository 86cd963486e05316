"""What goes into `Fetch` and what comes out: frozen values, nothing else.

Waiters are numbers that the driver gives, requests and fetches numbers that the machine gives; none
is used twice.  Times are seconds of the caller's monotonic clock.
"""

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from gossip.errors import PeerError
from gossip.fetch_messages import Thing
from storage.cid import Cid


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Limits of fetching."""

    fetches_max: int = 256
    """Most fetches at once. Source: guess; a fetch with nothing to do takes 3 kB."""
    waiters_max: int = 4096
    """Most waiters at once. Source: guess; as many connections as a node serves."""
    providers_max: int = 16
    """Most peers asked for one thing. Source: guess; a node has about 8 neighbours."""
    providers_at_once_max: int = 3
    """Most peers that one thing is asked of at once, copies apart. Source: guess; one connection
    is one core at the other side, and three of those fill most lines."""
    window: int = 4
    """Most requests with one peer at once, for one thing. Source: formula; 4 MiB cover 60 MB/s at
    a round trip of 60 ms."""
    copy_after_s: float = 1.0
    """How long a request may be open before another peer is asked for the same, when there is
    nothing else to ask for. Source: guess; a thousand times what it takes on a good line."""
    silence_s: float = 30.0
    """How long a peer that owes something may give nothing. Source: formula, 1 MiB at 35 kB/s."""
    misses_max: int = 16
    """After how many blocks in a row that it lacks a peer is asked no more. Source: guess."""
    content_size_max_bytes: int = 64 << 30
    """Largest content. Source: as `storage.blocks` has it."""
    blocks_tried_max: int = 32
    """How many blocks ahead are looked at for one that a peer with room may have. Source: twice
    what may be asked for at once."""


class Provider(msgspec.Struct, frozen=True):
    """A peer that may have the thing."""

    peer: str
    is_home: bool = False
    """Its word that there is no such thing is final."""


class Block(msgspec.Struct, frozen=True):
    """A block of content, and where in its tree it is."""

    cid: Cid
    depth: int
    index: int
    size_bytes: int
    """Of the content below, as its parent says; -1 for the root, of which nobody has said it."""


# --- inputs ---------------------------------------------------------------------------------


class Ask(msgspec.Struct, frozen=True):
    """Somebody wants a thing. Equal things asked for with equal `auth` are fetched once."""

    waiter: int
    thing: Thing
    auth: bytes
    """What shows the reader's right, to whoever is asked."""
    providers: tuple[Provider, ...]
    """Whom to ask, in this order: the home, who is known to have it, then neighbours."""
    deadline: float


class Withdraw(msgspec.Struct, frozen=True):
    """A waiter has gone away."""

    waiter: int


class LookedUp(msgspec.Struct, frozen=True):
    """Which of the blocks in `LookUp` are here already."""

    fetch: int
    look: int
    leaves: tuple[Cid, ...]
    nodes: tuple[tuple[Cid, bytes], ...]
    """With their bytes, which hash to the CID."""


class Replied(msgspec.Struct, frozen=True):
    """A reply came to a request."""

    request: int
    frame: bytes


class Unanswered(msgspec.Struct, frozen=True):
    """No reply will come."""

    request: int
    error: PeerError


class Verified(msgspec.Struct, frozen=True):
    """What `Verify` handed over is what it should be, and is kept."""

    request: int


class Bad(msgspec.Struct, frozen=True):
    """It is not, and is thrown away."""

    request: int
    reason: str


class Tick(msgspec.Struct, frozen=True):
    """Time passed: `Fetch.deadline` was reached."""


Input: TypeAlias = Ask | Withdraw | LookedUp | Replied | Unanswered | Verified | Bad | Tick

# --- effects --------------------------------------------------------------------------------


class LookUp(msgspec.Struct, frozen=True):
    """Say which of these blocks are here already: `LookedUp`."""

    fetch: int
    look: int
    thing: Thing
    blocks: tuple[Block, ...]


class Request(msgspec.Struct, frozen=True):
    """Send a frame to a peer; its reply is `Replied`, or else `Unanswered`."""

    request: int
    fetch: int
    peer: str
    frame: bytes
    deadline: float
    """When nobody waits for the thing any more."""


class Abandon(msgspec.Struct, frozen=True):
    """The reply to a request is not needed any more; what still comes changes nothing."""

    request: int


class Verify(msgspec.Struct, frozen=True):
    """Check what a peer gave, and keep it: `Verified` or `Bad`.

    A block must hash to its CID.  Of anything else (`block` is `None`) the signatures must be good
    and it must be what `thing` names.
    """

    request: int
    fetch: int
    peer: str
    thing: Thing
    block: Block | None
    data: bytes


class Penalise(msgspec.Struct, frozen=True):
    """A peer broke the rules; what is taken off is in the error."""

    peer: str
    error: PeerError


class Found(msgspec.Struct, frozen=True):
    """It is here now, all of it."""

    data: bytes
    """Of a small thing; empty for content, whose blocks the driver has."""
    sources: tuple[str, ...]
    """Peers that gave something; none, if all was here."""


class Missing(msgspec.Struct, frozen=True):
    """Everyone could be asked, or its home could, and it is not to be had."""

    asked: tuple[str, ...]


class Unreachable(msgspec.Struct, frozen=True):
    """Those who could be asked do not have all of it, and others could not be asked."""

    unreached: tuple[str, ...]
    asked: tuple[str, ...]


class TimedOut(msgspec.Struct, frozen=True):
    """The waiter's time is over."""

    unreached: tuple[str, ...]
    """Who could not be asked, or owes an answer."""
    asked: tuple[str, ...]
    """Who has answered."""


class Unusable(msgspec.Struct, frozen=True):
    """There are good blocks under this CID, but they are no content as it is taken here."""

    reason: str


class Overloaded(msgspec.Struct, frozen=True):
    """This node fetches as much as it does at once."""


Outcome: TypeAlias = Found | Missing | Unreachable | TimedOut | Unusable | Overloaded


class Answer(msgspec.Struct, frozen=True):
    """What became of it. Each waiter gets one, unless it was withdrawn."""

    waiter: int
    fetch: int
    outcome: Outcome


Effect: TypeAlias = LookUp | Request | Abandon | Verify | Penalise | Answer
