"""What a node says to others and hears from them, in bytes, and what the bytes are for.

Counted where they are known: what is said under each protocol, frames and their heads; signs of
life; and all that goes over the sockets.  The difference is what it takes to carry them: the heads
of Yamux and Noise, negotiation, and the windows.  TCP's own is not seen here.

What it leaves out: which peer it was, since that would be a figure for each of thousands.
"""

from typing import Final

LINE: Final = "line"
"""All bytes on the sockets."""
PINGS: Final = "pings"
"""Signs of life of connections, asked for and given."""


class Count:
    """Bytes, both ways."""

    __slots__ = ("received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0


class Traffic:
    """The counts of one node, by what they are for: protocols, `PINGS`, `LINE`."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}

    def of(self, kind: str) -> Count:
        """Return the count of a kind; who asks names one that is ours, never a peer's word."""
        return self.counts.setdefault(kind, Count())
