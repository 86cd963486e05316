"""What goes into `Sync` and what comes out: frozen values, nothing else.

A *session* is a number that the driver gives to one stream, never twice.  Times are seconds of the
caller's monotonic clock, sizes are bytes.
"""

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from gossip.errors import PeerError
from gossip.sync_index import Item
from gossip.sync_messages import Stratum


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """Limits of reconciliation that a node may choose for itself; the others are the protocol's."""

    sessions_max: int = 4
    """Most sessions at once. Source: guess; each may hold some 30 MiB."""
    idle_s: float = 30.0
    """How long the other side may be silent when it is to speak. Source: guess; a commit of a
    quarter of a MiB of records on a bad disk."""
    session_s: float = 600.0
    """Longest session. Source: guess; `MOVED_MAX` records at 100 a second. What was moved until
    then stays, and another session goes on from there."""
    work_per_step_max: int = 500_000
    """Work before a `Pause`, in items that are hashed. Source: measurement, about 10 ms."""
    items_per_read_max: int = 1024
    """Most items in one `Give`. Source: as many as a frame may hold."""
    bulk_items_min: int = 2048
    """From so many items to come on, one session brings them and no other begins, or brings the
    same. Source: guess; a second's work, and five neighbours would make it five."""
    bulk_rate_min_per_s: float = 200.0
    """How fast it has to, or others may try. Source: guess; a tenth of what a slow core takes."""
    bulk_grace_s: float = 2.0
    """When that begins to count. Source: guess; ten round trips of a bad line."""
    gone_max: int = 256
    """Most items that one side may offer and then not have any more. Source: guess; what is
    overwritten while a session lasts."""


# --- inputs ---------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True):
    """Begin to compare with `peer`, over a stream that was opened for it."""

    session: int
    peer: str
    nonce: bytes
    """16 bytes that nobody can guess, new each time."""


class Accept(msgspec.Struct, frozen=True):
    """A peer opened a stream; its `Hello` comes next."""

    session: int
    peer: str
    nonce: bytes


class Receive(msgspec.Struct, frozen=True):
    """A frame came."""

    session: int
    frame: bytes


class Resume(msgspec.Struct, frozen=True):
    """Others had their turn: go on (see the effect `Pause`)."""

    session: int


class Given(msgspec.Struct, frozen=True):
    """What `Give` asked for: the payloads of its first items, of at least one.

    `None`: no longer here.
    """

    session: int
    payloads: tuple[bytes | None, ...]


class Applied(msgspec.Struct, frozen=True):
    """What `Apply` handed over is verified and kept; new items have been inserted."""

    session: int


class Forged(msgspec.Struct, frozen=True):
    """Something in `Apply` is not what its id says, or its signature is bad. Nothing was kept."""

    session: int
    reason: str


class Closed(msgspec.Struct, frozen=True):
    """The stream is over, by the other side or by ours."""

    session: int
    error: PeerError


class Insert(msgspec.Struct, frozen=True):
    """Something is now here, and to be offered."""

    stratum: Stratum
    item: Item


class Remove(msgspec.Struct, frozen=True):
    """Something is no longer here, or no longer to be offered."""

    stratum: Stratum
    item: Item


class Tick(msgspec.Struct, frozen=True):
    """Time passed: `Sync.deadline` was reached."""


Input: TypeAlias = (
    Open | Accept | Receive | Resume | Given | Applied | Forged | Closed | Insert | Remove | Tick
)

# --- effects --------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True):
    """Send a frame to the peer. Frames of one session keep their order."""

    session: int
    peer: str
    frame: bytes


class Pause(msgspec.Struct, frozen=True):
    """There is more to do: let others run, then give `Resume`."""

    session: int


class Give(msgspec.Struct, frozen=True):
    """Read the payloads of these items, as many of the first as fit in `size_max_bytes`.

    Each counts with `PAYLOAD_OVERHEAD_BYTES` on top.  Answer with `Given`; any payload that may be
    kept fits alone.
    """

    session: int
    peer: str
    stratum: Stratum
    items: tuple[Item, ...]
    size_max_bytes: int


class Apply(msgspec.Struct, frozen=True):
    """Verify and keep these, each of which must have the id that begins with its short id.

    Answer with `Applied` or `Forged`.  One that is good but not admissible (yet) is no forgery: it
    is kept or left, as merging says, and that is `Applied`.
    """

    session: int
    peer: str
    stratum: Stratum
    received: tuple[tuple[bytes, bytes], ...]
    """`(short id, payload)` each."""


class Done(msgspec.Struct, frozen=True):
    """The session is over, and both sides have what the other had; close the stream."""

    session: int
    peer: str
    sent: int
    """Items given."""
    received: int
    """Items taken."""
    sent_bytes: int
    received_bytes: int
    """Of all frames."""
    is_complete: bool
    """Whether nothing was left out; if not, open another session at once."""
    are_facts_equal: bool
    """Whether the facts were found to be equal before the records were compared."""


class Failed(msgspec.Struct, frozen=True):
    """The session is over before its end; what was applied stays. Close the stream."""

    session: int
    peer: str
    error: PeerError


Effect: TypeAlias = Send | Pause | Give | Apply | Done | Failed
