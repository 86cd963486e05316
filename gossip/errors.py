"""What can go wrong between nodes, and whose fault it is.

Network implementations translate their library's errors into these, once, at the seam; machines
hand them out inside effects.  A `penalty` is what scoring takes off a peer: zero where nobody is
to blame.
"""

from typing import Final

PENALTY_MALFORMED: Final = 5
"""For a message that breaks the protocol. Source: guess; sixteen of them cut a peer off."""
PENALTY_FORGED: Final = 20
"""For content that is not what it claims to be. Source: guess; four of them cut a peer off."""


class GossipError(Exception):
    """Base of this package's errors."""


class PeerError(GossipError):
    """Something between this node and one peer did not come about."""

    penalty: int = 0


class PeerUnreachable(PeerError):
    """There is no way to the peer, or it does not serve what it was asked for. May pass."""


class PeerClosed(PeerError):
    """The peer or the network between ended a stream. May pass."""


class PeerTimeout(PeerError):
    """The peer did not answer in time. May pass."""


class PeerBusy(PeerError):
    """The peer, or this node, has as much to do of this kind as it takes at once. Will pass."""


class PeerRefused(PeerError):
    """The peer is of another mesh or speaks another version: trying again is pointless."""


class RemoteProtocolError(PeerError):
    """The peer broke a rule of a protocol, which the message names: remote fault."""

    def __init__(self, reason: str, penalty: int = PENALTY_MALFORMED) -> None:
        super().__init__(reason)
        self.penalty = penalty
