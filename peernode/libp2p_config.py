"""What the libp2p network may be told: every limit and waiting time, with its source."""

from dataclasses import dataclass, fields
from typing import Final

from gossip.wire import RPC_SIZE_MAX_BYTES

AGENT: Final = "peernode/1"
"""What others are told that we are (identify's agent version)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Libp2pConfig:
    """Limits and times of `peernode.libp2p_network`. Times are seconds."""

    announced: tuple[str, ...] = ()
    """Addresses to tell others instead of those listened on: `/ip4/../tcp/..`, `/dns/../tcp/..`."""

    mdns: bool = False
    """Whether members on the same network are looked for, and told where we are."""
    mdns_interfaces: tuple[str, ...] = ()
    """The addresses of this machine to do that at; all if empty."""

    dial_timeout_s: float = 5.0
    """For TCP, Noise and Yamux together. Source: two lost SYNs (3 s) and a slow line."""
    handshake_timeout_s: float = 5.0
    """For whoever connects to us. Source: as `dial_timeout_s`."""
    handshakes_max: int = 64
    """Most handshakes at once; an old one ends for a new one. Source: 0.3 s of their work."""
    handshakes_per_host_max: int = 16
    """Most of them from one host. Source: guess; a quarter of all."""
    handshakes_per_host_burst: int = 32
    """Most that a host begins at once. Source: 0.15 s of their work; a rack that is switched on."""
    handshakes_per_host_per_s: float = 8.0
    """And in the long run. Source: 4 % of a core."""
    replacements_burst: int = 16
    """Connections of a peer that take the place of its live link, at once. Source: two copies of a
    node that run at once take turns, and it is by that that they are found out (`lives`), each
    after four turns of the other if no greeting is lost."""
    replacements_per_minute: float = 30.0
    """And in the long run. Source: as above; 2 % of a core."""
    identify_timeout_s: float = 2.0
    """For a peer to say what software it is; then it is up without. Source: guess."""
    negotiation_timeout_s: float = 10.0
    """For agreeing on a stream's protocol. Source: py-libp2p."""

    retry_delay_min_s: float = 0.2
    """Before dialling again. Source: a process restarts in about a second."""
    retry_delay_max_s: float = 30.0
    """Source: guess; a partition that heals is noticed by one side within half of it."""
    stable_after_s: float = 10.0
    """A link that was up for so long is dialled again without delay. Source: guess."""
    turns_max: int = 16
    """So often what came up for a shorter time does not make the delay longer than eight times the
    least. Source: as `replacements_burst`; whoever takes turns with us is heard of soon or not."""

    health_interval_s: float = 5.0
    """Between pings of Yamux. Source: guess; 100 bytes a second with 8 peers."""
    silence_max_s: float = 15.0
    """Nothing heard for so long: the link is broken. Source: three pings."""
    stall_max_s: float = 30.0
    """A peer that reads no gossip for so long is cut. Source: guess; twice `silence_max_s`."""

    frames_queued_max: int = 1024
    """Most frames of `send` that wait for one peer. Source: as in memory."""
    bytes_queued_max: int = 8 * RPC_SIZE_MAX_BYTES
    """Most bytes of them. Source: a few of the largest frames."""
    requests_open_max: int = 256
    """Most requests that one peer has open here, a protocol. Source: guess; long waits count."""
    streams_open_max: int = 128
    """Most streams that one peer has open here. Source: half of what Yamux lets it open."""

    strangers_max: int = 16
    """Most connections of who is not a peer; the oldest ends for a new one. Source: guess."""
    stranger_lifetime_s: float = 20.0
    """How long each may last. Source: a join takes one request."""
    stranger_requests_per_minute: float = 6.0
    """Requests of strangers from one host. Source: a person types an invite."""
    stranger_requests_burst: int = 10
    """Most of them at once. Source: guess; a classroom behind one address."""
    stranger_hosts_max: int = 4096
    """Most hosts, and keys, that are counted. Source: 1 MB; over it, the oldest is forgotten."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a limit that is not above 0."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{item.name} must be greater than 0")
