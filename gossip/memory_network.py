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
from typing import Any, Final, Protocol, TypeAlias

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


Delivery: TypeAlias = tuple[int, str, Callable[..., object], tuple[object, ...]]
"""A frame of a stream or request: its size, what it is of, and what to call with it."""


class PerfectLine:
    """No delay, no loss."""

    def delay_s(self, source: str, target: str, size_bytes: int) -> float:
        """Return 0."""
        return 0.0

    def is_lost(self, source: str, target: str, size_bytes: int) -> bool:
        """Return that it is not."""
        return False


class Link:
    """Two nodes that are up for each other."""

    __slots__ = (
        "breaks_at",
        "ended",
        "ends",
        "held",
        "is_silent",
        "last_at",
        "opened_at",
        "queued",
        "streams",
    )

    def __init__(self, one: MemoryNetwork, other: MemoryNetwork) -> None:
        self.ends = {one.peer: one, other.peer: other}
        """As they were when it came about: who has left and joined again is somebody else."""
        self.streams: dict[MemoryStream, None] = {}
        self.queued: dict[str, int] = {}
        """Source -> frames of `send` that are on their way."""
        self.held: dict[str, list[Delivery]] = {}
        """Source -> what streams and requests sent while its direction was cut."""
        self.last_at: dict[str, float] = {}
        """Source -> when its last frame arrives."""
        self.breaks_at: float | None = None
        self.is_silent = False
        """One end is gone without a word."""
        self.opened_at = trio.current_time()
        self.ended = trio.Event()

    @property
    def was_up_s(self) -> float:
        """How long it has been there."""
        return trio.current_time() - self.opened_at

    def target(self, source: str) -> MemoryNetwork:
        """Return the end that is not `source`."""
        one, other = self.ends
        return self.ends[other if source == one else one]


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
        self._cuts: dict[tuple[str, str], None] = {}
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._changed = trio.Event()

    # --- for whoever arranges the network -------------------------------------------------

    def join(self, peer: str) -> MemoryNetwork:
        """Return the network of a new node. Raises `ValueError` for an id that is taken."""
        network = MemoryNetwork(self, peer, self.nursery)
        self.admit(network)
        return network

    def admit(self, network: MemoryNetwork) -> None:
        """Let a node in. Raises `ValueError` for an id that is taken."""
        if network.peer in self._nodes:
            raise ValueError(f"{network.peer} is there already")
        self._nodes[network.peer] = network

    def leave(self, peer: str) -> None:
        """Take a node away, and all its links; it may join again. Raises `KeyError` if unknown."""
        for link in list(self._nodes[peer].links.values()):
            self.end_link(link)
        del self._nodes[peer]

    def vanish(self, peer: str) -> None:
        """Take a node away without a word, as one that lost its power.

        Others find out by its silence, or when it is back and connects.  It may join again.  Raises
        `KeyError` if it is unknown.
        """
        network = self._nodes.pop(peer)
        links = list(network.links.values())
        network.links.clear()
        network.is_gone = True
        for link in links:
            link.is_silent = True
            self._break_later(link)
            for stream in [each for each in link.streams if each.owner == peer]:
                stream.break_off()

    def connect(self, one: str, other: str) -> bool:
        """Have one node dial another; tell whether they are peers, which cuts prevent."""
        ours, theirs = self._nodes.get(one), self._nodes.get(other)
        if ours is None or theirs is None or ours is theirs:
            return False
        for old in (ours.links.get(other), theirs.links.get(one)):
            if old is not None and not old.is_silent:
                return True
        if (one, other) in self._cuts or (other, one) in self._cuts:
            return False
        if ours.has_cut_off(other) or theirs.has_cut_off(one):
            return False
        for old in (ours.links.get(other), theirs.links.get(one)):
            if old is not None:  # The other end had not found out yet that this one was gone.
                self.end_link(old)
        ours.links[other] = theirs.links[one] = Link(ours, theirs)
        ours.tell(PeerUp(other, is_outbound=True, agent=AGENT))
        theirs.tell(PeerUp(one, is_outbound=False, agent=AGENT))
        return True

    def disconnect(self, one: str, other: str) -> None:
        """Break the link between two nodes, and all that goes over it; nothing if there is none."""
        for peer, at in ((one, other), (other, one)):
            node = self._nodes.get(peer)
            link = None if node is None else node.links.get(at)
            if link is not None:
                self.end_link(link)

    def end_link(self, link: Link) -> None:
        """Break a link, and all that goes over it; nothing if it is broken."""
        if link.ended.is_set():
            return
        link.ended.set()
        told = []
        for peer, end in link.ends.items():
            other = link.target(peer).peer
            if end.links.get(other) is link:
                del end.links[other]
                told.append((end, other))
        link.held.clear()
        for stream in list(link.streams):
            stream.break_off()
        for end, other in told:
            end.tell(PeerDown(other))

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from one node to another; after a while their link breaks."""
        self._cuts[source, target] = None
        link = self._find(source, target)
        if link is not None and link.breaks_at is None:
            self._break_later(link)

    def heal(self, source: str, target: str) -> None:
        """Let frames through again; what streams and requests have sent meanwhile first."""
        self._cuts.pop((source, target), None)
        link = self._find(source, target)
        if link is None or link.is_silent:
            return
        if (target, source) not in self._cuts:
            link.breaks_at = None
        for size_bytes, what, deliver, args in link.held.pop(source, []):
            self.carry(link, source, size_bytes, what, deliver, *args)

    def peers(self, peer: str) -> list[str]:
        """Return the peers of a node that are up."""
        return self._nodes[peer].peers()

    # --- for the nodes --------------------------------------------------------------------

    def carry(
        self,
        link: Link,
        source: str,
        size_bytes: int,
        what: str,
        deliver: Callable[..., object],
        *args: object,
    ) -> None:
        """Call `deliver` when a frame of a stream or request has arrived; `what` names it."""
        if link.is_silent or (source, link.target(source).peer) in self._cuts:
            link.held.setdefault(source, []).append((size_bytes, what, deliver, args))
            return
        at = self.arrival(link, source, size_bytes, what)
        if at is None:
            self.schedule(trio.current_time(), self.end_link, link)
        else:
            self.schedule(at, self.hand_over, link.target(source), size_bytes, deliver, *args)

    def hand_over(
        self,
        target: MemoryNetwork,
        size_bytes: int,
        deliver: Callable[..., object],
        *args: object,
    ) -> None:
        """Call `deliver`: a frame of a stream or request has arrived at `target`."""
        deliver(*args)

    def post(self, link: Link, source: str, frame: bytes) -> None:
        """Have a frame of `send` arrive, or not."""
        network, target = link.ends[source], link.target(source)
        link.queued[source] = link.queued.get(source, 0) + 1
        is_lost = self.line.is_lost(source, target.peer, len(frame))
        is_lost |= link.is_silent or (source, target.peer) in self._cuts
        at = self.arrival(link, source, len(frame), "", is_lost=is_lost)
        if at is None:
            self.schedule(trio.current_time(), self.end_link, link)
        else:
            self.schedule(at, network.arrived, link, target, None if is_lost else frame)

    def schedule(self, at: float, act: Callable[..., object], *args: object) -> None:
        """Call `act(*args)` at a time, after all that was scheduled for that time before."""
        heapq.heappush(self._due, (at, next(self._numbers), act, args))
        self._changed.set()

    def arrival(
        self, link: Link, source: str, size_bytes: int, what: str, *, is_lost: bool = False
    ) -> float | None:
        """Return when a frame arrives: never before an earlier one of the same direction.

        `what` names the protocol; it is empty for gossip.  `is_lost`: it would arrive then.  `None`
        is that the link breaks of it.
        """
        target = link.target(source).peer
        at = trio.current_time() + self.line.delay_s(source, target, size_bytes)
        at = link.last_at[source] = max(at, link.last_at.get(source, at))
        return at

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            self._changed = trio.Event()
            while self._due and self._due[0][0] <= trio.current_time():
                _, _, act, args = heapq.heappop(self._due)
                act(*args)
            next_at = self._due[0][0] if self._due else float("inf")
            with trio.move_on_at(next_at):
                await self._changed.wait()

    def _find(self, one: str, other: str) -> Link | None:
        for peer, at in ((one, other), (other, one)):
            if (node := self._nodes.get(peer)) is not None and at in node.links:
                return node.links[at]
        return None

    def _break_later(self, link: Link) -> None:
        """End a link that stays silent, as a health check would."""
        link.breaks_at = breaks_at = trio.current_time() + self._silence_max_s

        def break_link() -> None:
            # It may have been healed, or cut anew, since.
            if link.breaks_at == breaks_at:
                self.end_link(link)

        self.schedule(breaks_at, break_link)


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
