"""When a message arrives: latency, a queue for the bandwidth, jitter, and loss as it shows in TCP.

Each direction of each link is by itself: a first-in-first-out line that a message holds for
`size / bandwidth`, then the way, then jitter.  Whatever chance does, messages of one direction
arrive in their order, as on a stream: one that was lost holds up those behind it.  A lost message
comes a time-out later, doubled each time it is lost again, and takes its share of the bandwidth
each time; or, where the scenario has it so, the link breaks.

Chance is by name, one generator a direction: what happens on one link changes nothing on another,
nor does a link that is added.

Two nodes without a link reach each other over the shortest way there is: with its latency, and a
line of its own.

What it leaves out: congestion of a link that several such ways share, TCP's slow start, and that
what comes after a loss arrives at once is all that is left of its windows.
"""

import math
import random
from array import array
from typing import Final

from simulations import chance
from simulations.distributions import draw
from simulations.scenario import Link
from simulations.topology import Graph

RETRIES_MAX: Final = 15
"""Tries after the first, then the link breaks. Source: net.ipv4.tcp_retries2 of Linux."""
RETRANSMIT_MAX_S: Final = 120.0
"""Source: TCP_RTO_MAX of Linux."""


class _Direction:
    """One way of one link."""

    __slots__ = ("free_at_s", "last_at_s", "latency_s", "rng")

    def __init__(self, latency_s: float, rng: random.Random) -> None:
        self.latency_s = latency_s
        self.rng = rng
        self.free_at_s = 0.0
        """When the last message so far has left."""
        self.last_at_s = 0.0
        """When it arrives."""


class Lines:
    """All directions of all links. `arrival_s` is asked in the order of time."""

    def __init__(self, graph: Graph, link: Link, rng: random.Random) -> None:
        self._graph = graph
        self._link = link
        self._size = graph.size
        self._seed = rng.getrandbits(64)
        self._is_plain = link.bandwidth_bytes_per_s is None and not link.jitter_s and not link.loss
        self._latency_s = {
            source * graph.size + target: way_s
            for source, ways in enumerate(graph.ways_s)
            for target, way_s in ways.items()
        }
        self._rows: dict[int, array[float]] = {}
        """How far all nodes are from one that talks to others than those it is linked with."""
        self._directions: dict[int, _Direction] = {}

    def arrival_s(self, source: int, target: int, size_bytes: int, now: float) -> float | None:
        """Return when a message that leaves now arrives; `None`: it does not, the link breaks."""
        key = source * self._size + target
        latency_s = self._latency_s.get(key)
        if latency_s is None:
            latency_s = self._find_way(source, target)
        if self._is_plain:
            return now + latency_s
        return self._pass(key, size_bytes, now)

    def steady_s(self, source: int, target: int) -> float | None:
        """Return how long each message takes, if that never changes: then nobody need ask."""
        return self.latency_s(source, target) if self._is_plain else None

    def latency_s(self, source: int, target: int) -> float:
        """Return how long the way is, without anything that changes."""
        latency_s = self._latency_s.get(source * self._size + target)
        return self._find_way(source, target) if latency_s is None else latency_s

    def reset(self, one: int, other: int) -> None:
        """Forget what is under way between two nodes, both directions: their link was broken."""
        for key in (one * self._size + other, other * self._size + one):
            direction = self._directions.get(key)
            if direction is not None:
                direction.free_at_s = direction.last_at_s = 0.0

    def _pass(self, key: int, size_bytes: int, now: float) -> float | None:
        """Queue, send, jitter, lose: the whole way, in this order."""
        link = self._link
        direction = self._directions.get(key)
        if direction is None:
            direction = self._directions[key] = self._open(key)
        sending_s = 0.0
        left_at_s = now
        if link.bandwidth_bytes_per_s is not None:
            sending_s = size_bytes / link.bandwidth_bytes_per_s
            left_at_s = direction.free_at_s = max(now, direction.free_at_s) + sending_s
        arrives_at_s = left_at_s + direction.latency_s
        if link.jitter_s:
            arrives_at_s += draw(link.jitter_s, direction.rng)
        if link.loss and direction.rng.random() < link.loss:
            tries = self._tries(direction)
            if tries is None:
                return None
            direction.free_at_s += tries * sending_s
            arrives_at_s += tries * sending_s + _waited_s(link.retransmit_s, tries)
        direction.last_at_s = arrives_at_s = max(arrives_at_s, direction.last_at_s)
        return arrives_at_s

    def _tries(self, direction: _Direction) -> int | None:
        """Return how often a lost message is sent again; `None`: it never arrives."""
        link = self._link
        if link.loss_effect == "reset":
            return None
        tries = 1
        while direction.rng.random() < link.loss:
            tries += 1
            if tries > RETRIES_MAX:
                return None
        return tries

    def _open(self, key: int) -> _Direction:
        source, target = divmod(key, self._size)
        rng = chance.named(self._seed, "line", source, target)
        return _Direction(self._latency_s[key], rng)

    def _find_way(self, source: int, target: int) -> float:
        """Return the latency of the shortest way between nodes without a link, and keep it."""
        row = self._rows.get(source)
        if row is None:
            row = self._rows[source] = array("d", self._graph.distances_s(source))
        key = source * self._size + target
        self._latency_s[key] = row[target]
        return row[target]


def _waited_s(retransmit_s: float, tries: int) -> float:
    """Return the sum of so many time-outs, each twice the one before, up to a maximum."""
    return math.fsum(min(retransmit_s * 2**number, RETRANSMIT_MAX_S) for number in range(tries))
