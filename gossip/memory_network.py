"""A network in memory: many nodes in one process, over lines that may delay, lose and break.

    async with open_wire() as wire:
        one, other = wire.join("one"), wire.join("other")
        one.serve_requests(...)
        wire.connect("one", "other")

A `Wire` delivers every frame at a time that its `Line` says, from one heap in the order of time, so
with trio's clock turned by hand a run depends on nothing but its inputs: no clock and no chance of
its own.  Directions may be cut one by one: frames are lost then, streams and requests wait, and
when that has lasted `silence_max_s` the link breaks, as a health check would have it.

What it leaves out: bandwidth (a `Line` may know the size of a frame, but frames do not queue for
it), and what a peer's keys would prove.
"""

import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from gossip.memory_node import MemoryNetwork
from gossip.memory_stream import MemoryStream
from gossip.network import PeerDown, PeerUp

AGENT: Final = "peernode/memory"
"""What peers are told that a node in memory is."""


class Line(Protocol):
    """What happens to frames on their way."""

    def delay_s(self, source: str, target: str, size_bytes: int) -> float:
        """Return how long a frame takes."""
        ...

    def is_lost(self, source: str, target: str, size_bytes: int) -> bool:
        """Tell whether a frame of `send` is lost. What is on a stream never is."""
        ...


class PerfectLine:
    """No delay, no loss."""

    def delay_s(self, source: str, target: str, size_bytes: int) -> float:
        """Return 0."""
        return 0.0

    def is_lost(self, source: str, target: str, size_bytes: int) -> bool:
        """Return that it is not."""
        return False


@dataclass(slots=True)
class Link:
    """Two nodes that are up for each other."""

    streams: dict[MemoryStream, None]
    breaks_at: float | None = None


class Wire:
    """What connects the nodes of one process. Made by `open_wire`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        line: Line,
        silence_max_s: float,
        report: Callable[[str, Exception], None],
    ) -> None:
        self.nursery = nursery
        self.line = line
        self.report = report
        self._silence_max_s = silence_max_s
        self._nodes: dict[str, MemoryNetwork] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._cuts: dict[tuple[str, str], None] = {}
        self._held: dict[tuple[str, str], list[Callable[[], None]]] = {}
        """What streams and requests sent over a direction that is cut."""
        self._last_at: dict[tuple[str, str], float] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = trio.Event()

    # --- for whoever arranges the network -------------------------------------------------

    def join(self, peer: str) -> MemoryNetwork:
        """Return the network of a new node. Raises `ValueError` for an id that is taken."""
        if peer in self._nodes:
            raise ValueError(f"{peer} is there already")
        self._nodes[peer] = network = MemoryNetwork(self, peer)
        return network

    def leave(self, peer: str) -> None:
        """Take a node away, and all its links; it may join again. Raises `KeyError` if unknown."""
        for other in self.peers(peer):
            self.disconnect(peer, other)
        del self._nodes[peer]

    def connect(self, one: str, other: str) -> bool:
        """Have one node dial another; tell whether they are peers, which cuts prevent."""
        if _pair(one, other) in self._links:
            return True
        if one == other or (one, other) in self._cuts or (other, one) in self._cuts:
            return False
        ours, theirs = self._nodes[one], self._nodes[other]
        if ours.has_cut_off(other) or theirs.has_cut_off(one):
            return False
        self._links[_pair(one, other)] = Link({})
        ours.tell(PeerUp(other, is_outbound=True, agent=AGENT))
        theirs.tell(PeerUp(one, is_outbound=False, agent=AGENT))
        return True

    def disconnect(self, one: str, other: str) -> None:
        """Break the link between two nodes, and all that goes over it; nothing if there is none."""
        link = self._links.pop(_pair(one, other), None)
        if link is None:
            return
        for direction in ((one, other), (other, one)):
            self._held.pop(direction, None)
            self._last_at.pop(direction, None)
        for stream in list(link.streams):
            stream.break_off()
        self._nodes[one].tell(PeerDown(other))
        self._nodes[other].tell(PeerDown(one))

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from one node to another; after a while their link breaks."""
        self._cuts[source, target] = None
        link = self._links.get(_pair(source, target))
        if link is not None and link.breaks_at is None:
            link.breaks_at = breaks_at = trio.current_time() + self._silence_max_s

            def break_link() -> None:
                # It may have been healed, or made anew, since.
                still = self._links.get(_pair(source, target))
                if still is link and link.breaks_at == breaks_at:
                    self.disconnect(source, target)

            self.schedule(breaks_at, break_link)

    def heal(self, source: str, target: str) -> None:
        """Let frames through again; what streams and requests have sent meanwhile first."""
        self._cuts.pop((source, target), None)
        link = self._links.get(_pair(source, target))
        if link is not None and (target, source) not in self._cuts:
            link.breaks_at = None
        for deliver in self._held.pop((source, target), []):
            self.schedule(trio.current_time(), deliver)

    # --- for the nodes --------------------------------------------------------------------

    def find(self, source: str, target: str) -> tuple[MemoryNetwork, Link] | None:
        """Return a peer that is up, and the link to it."""
        link = self._links.get(_pair(source, target))
        return None if link is None else (self._nodes[target], link)

    def peers(self, peer: str) -> list[str]:
        """Return the peers of a node that are up."""
        pairs = (pair for pair in self._links if peer in pair)
        return [one if other == peer else other for one, other in pairs]

    def carry(self, source: str, target: str, size_bytes: int, deliver: Callable[[], None]) -> None:
        """Call `deliver` when a frame of a stream or request has arrived."""
        if (source, target) in self._cuts:
            self._held.setdefault((source, target), []).append(deliver)
        else:
            self.schedule(self._arrival(source, target, size_bytes), deliver)

    def drop_or_carry(
        self, source: str, target: str, size_bytes: int, deliver: Callable[[bool], None]
    ) -> None:
        """Call `deliver` when a frame of `send` arrives, or with `False` if it is lost."""
        is_lost = self.line.is_lost(source, target, size_bytes)
        is_lost |= (source, target) in self._cuts
        at = self._arrival(source, target, size_bytes)
        self.schedule(at, lambda: deliver(not is_lost))

    def schedule(self, at: float, act: Callable[[], None]) -> None:
        """Call `act` at a time, after all that was scheduled for that time before."""
        heapq.heappush(self._due, (at, next(self._numbers), act))
        self._changed.set()

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            self._changed = trio.Event()
            while self._due and self._due[0][0] <= trio.current_time():
                heapq.heappop(self._due)[2]()
            next_at = self._due[0][0] if self._due else float("inf")
            with trio.move_on_at(next_at):
                await self._changed.wait()

    def _arrival(self, source: str, target: str, size_bytes: int) -> float:
        """Return when a frame arrives: never before an earlier one of the same direction."""
        at = trio.current_time() + self.line.delay_s(source, target, size_bytes)
        at = max(at, self._last_at.get((source, target), at))
        self._last_at[source, target] = at
        return at


@asynccontextmanager
async def open_wire(
    line: Line | None = None,
    *,
    silence_max_s: float = 10.0,
    report: Callable[[str, Exception], None] | None = None,
) -> AsyncIterator[Wire]:
    """Open a wire; everything on it ends with the block.

    `report` is told which node's handler let which exception out; without it, that is raised.
    """

    def raise_again(_: str, error: Exception) -> None:
        raise error

    async with trio.open_nursery() as nursery:
        wire = Wire(nursery, line or PerfectLine(), silence_max_s, report or raise_again)
        nursery.start_soon(wire.run)
        yield wire
        nursery.cancel_scope.cancel()


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
