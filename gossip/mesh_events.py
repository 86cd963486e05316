"""What goes into `Mesh` and comes out of it: frozen values, nothing else.

A peer is named by the bytes of its peer id (38 for the Ed25519 keys of ours).  A message is named
by the 44 bytes of author key and seqno.  Times are seconds of the caller's monotonic clock.

They are msgspec structs because a message is told in several of them: making one takes a tenth of
what a frozen dataclass takes.
"""

import enum
from typing import TypeAlias

import msgspec

from gossip.wire import Message, PeerInfo


class Verdict(enum.Enum):
    """What the application thinks of a message."""

    ACCEPT = "accept"
    """Pass it on."""
    REJECT = "reject"
    """It is wrong and always was: do not pass it on, and hold it against who brought it (P4)."""
    IGNORE = "ignore"
    """Do not pass it on; nobody is to blame."""


# --- inputs -------------------------------------------------------------------------------------


class Connected(msgspec.Struct, frozen=True):
    """There is a connection; what is sent from now on goes out on a stream that we open.

    `outbound`: we dialled.  `network`: equal for peers that may be one machine (an address, or the
    /24 or /64 it is in); `None` for those that are not to be counted.
    """

    peer: bytes
    outbound: bool
    network: str | None = None


class Identified(msgspec.Struct, frozen=True, gc=False):
    """Identify told the peer's agent: `short_ids` for a js-libp2p, which writes ids in 44 bytes.

    Worth saying at once: until a peer is known to, it is told ids of 46 bytes, and a js-libp2p that
    is told those holds it against us.  It is learnt from its IHAVE and IDONTWANT, too.
    """

    peer: bytes
    short_ids: bool


class Disconnected(msgspec.Struct, frozen=True, gc=False):
    """The last connection is gone, and with it all that was on its way."""

    peer: bytes


class Reopened(msgspec.Struct, frozen=True, gc=False):
    """The stream we had opened broke, and there is a new one: what was on its way is lost."""

    peer: bytes


class Received(msgspec.Struct, frozen=True, gc=False):
    """One RPC came from a peer, without its length prefix. Empty frames are not RPCs."""

    peer: bytes
    rpc: bytes


class Written(msgspec.Struct, frozen=True, gc=False):
    """So many bytes of `Send.rpc` to this peer left the driver's queue."""

    peer: bytes
    size_bytes: int


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Send a message of our own."""

    topic: str
    data: bytes


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """Take part in a topic."""

    topic: str


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """Take part no longer."""

    topic: str


class Judge(msgspec.Struct, frozen=True, gc=False):
    """The verdict on a message that was delivered with `awaited`."""

    id: bytes
    verdict: Verdict


class Appraise(msgspec.Struct, frozen=True, gc=False):
    """The application's own score of a peer (P5), connected or remembered; replaces the last."""

    peer: bytes
    score: float


class Pardon(msgspec.Struct, frozen=True, gc=False):
    """The application has dealt with what a peer did: it begins anew, but for its `Appraise`."""

    peer: bytes


class Tick(msgspec.Struct, frozen=True, gc=False):
    """It is `Mesh.deadline`, or later."""


Input: TypeAlias = (
    Connected
    | Identified
    | Disconnected
    | Reopened
    | Received
    | Written
    | Publish
    | Subscribe
    | Unsubscribe
    | Judge
    | Appraise
    | Pardon
    | Tick
)


# --- effects ------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True, gc=False):
    """Put one RPC, with its length before it, behind what is on its way to this peer.

    RPCs are not to be joined into one; any number of frames may go into one write.
    """

    peer: bytes
    rpc: bytes


class Deliver(msgspec.Struct, frozen=True, gc=False):
    """A message of a topic of ours came, signed by its author.

    `awaited`: it is passed on only when `Judge` says so.
    """

    message: Message
    peer: bytes
    """Who brought it; its author is `message.source`."""
    awaited: bool


class Reset(msgspec.Struct, frozen=True, gc=False):
    """Reset the stream that this peer opened: it sent what no correct peer sends."""

    peer: bytes
    reason: str


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """Close the connection to a peer; `Disconnected` is expected to follow."""

    peer: bytes
    reason: str
    is_misbehaving: bool = False
    """Its score is too low: it would be disconnected again whenever it comes, until `Pardon`."""


class Exchange(msgspec.Struct, frozen=True):
    """A peer of good standing names others it knows in a topic; connecting is up to the driver."""

    peer: bytes
    topic: str
    peers: tuple[PeerInfo, ...]


Effect: TypeAlias = Send | Deliver | Reset | Disconnect | Exchange


# --- what is kept and shown ---------------------------------------------------------------------


class SavedScore(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be remembered of a peer that did wrong, over a restart of this node."""

    peer: bytes
    remaining_s: float
    """How long it is still to be remembered."""
    misdeeds: float
    invalid: tuple[tuple[str, float], ...]
    failures: tuple[tuple[str, float], ...]
    application: float


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes now, and counts since the start."""

    peers: int
    peers_slow: int
    topics: int
    mesh: int
    """Places in all meshes."""
    seen: int
    cached: int
    cached_bytes: int
    queued_bytes: int
    scores_retained: int
    asked: int
    judging: int

    received: int
    """RPCs."""
    sent: int
    """RPCs."""
    published: int
    delivered: int
    """Accepted or awaiting a verdict."""
    duplicates: int
    invalid: int
    """Messages that break a rule, have a wrong signature or were rejected."""
    unwanted: int
    """Messages of topics that are not ours, or ours come back."""
    malformed: int
    """RPCs that are no protobuf or break a limit."""
    graylisted: int
    """RPCs not parsed because of their sender's score."""
    dropped: int
    """Messages not sent, and not judged, for want of room."""
    grafts: int
    prunes: int
    ihave_ids_sent: int
    iwant_ids_sent: int
    iwant_served: int
    promises_broken: int
