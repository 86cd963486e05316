"""Fetching what is asked for, against copying everything everywhere.

A blob of B bytes has a home, and N nodes may read it.  On demand a node fetches it at its first
read and keeps it: with k reads at nodes chosen by lot, (N - 1) (1 - (1 - 1 / N)^k) nodes have
fetched it (the home has it; occupancy: Feller, volume I, II.5).  For Poisson reads with mean k the
bracket is 1 - exp(-k / N).  Copied everywhere it costs (N - 1) B at once, and each read is local.

The price of the first is a wait: a request must go there, and the bytes come back.
"""

import math


def fetched_copies(nodes: int, reads: int) -> float:
    """Return how many nodes have fetched a thing after so many reads at random nodes."""
    return (nodes - 1) * (1 - (1 - 1 / nodes) ** reads)


def fetched_copies_poisson(nodes: int, reads_mean: float) -> float:
    """Return the same for a Poisson number of reads."""
    return -(nodes - 1) * math.expm1(-reads_mean / nodes)


def popularity(things: int, exponent: float) -> list[float]:
    """Return what share of the reads each of `things` gets, the most popular first (Zipf)."""
    weights = [rank**-exponent for rank in range(1, things + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def demand_bytes(
    nodes: int, things: int, reads_mean: float, size_bytes: float, exponent: float = 0.0
) -> float:
    """Return how many bytes are fetched on demand, for Poisson reads of all things together."""
    copies = math.fsum(
        fetched_copies_poisson(nodes, reads_mean * share) for share in popularity(things, exponent)
    )
    return copies * size_bytes


def everywhere_bytes(nodes: int, things: int, size_bytes: float) -> float:
    """Return how many bytes it takes to copy everything to every node."""
    return (nodes - 1) * things * size_bytes


def first_read_s(
    latency_s: float,
    size_bytes: float,
    bandwidth_bytes_per_s: float | None,
    *,
    round_trips: int = 1,
) -> float:
    """Return the time of a read that is not local: there, back, and the bytes.

    With one round trip it is a lower bound; whoever asks first and then fetches has two.
    """
    bytes_s = 0.0 if bandwidth_bytes_per_s is None else size_bytes / bandwidth_bytes_per_s
    return 2 * round_trips * latency_s + bytes_s


def available(node_up: float, copies: int) -> float:
    """Return how likely it is that some node with a copy is up, if they fail independently."""
    return 1 - (1 - node_up) ** copies
