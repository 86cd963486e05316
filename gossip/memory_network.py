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

from gossip.errors import PeerClosed, PeerTimeout, PeerUnreachable, RemoteProtocolError
from gossip.memory_stream import MemoryStream, require_frame
from gossip.network import (
    FrameHandler,
    PeerDown,
    PeerEvent,
    PeerUp,
    RequestHandler,
    Stream,
    StreamHandler,
    Watcher,
)

FRAMES_QUEUED_MAX: Final = 1024
"""Most frames of `send` on their way to one peer. Source: guess; 4 MB of small ones."""


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
class _Link:
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
        self._links: dict[tuple[str, str], _Link] = {}
        self._cuts: dict[tuple[str, str], None] = {}
        self._held: dict[tuple[str, str], list[Callable[[], None]]] = {}
        """What streams and requests sent over a direction that is cut."""
        self._last_at: dict[tuple[str, str], float] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = trio.Event()

    # --- for whoever arranges the network -------------------------------------------------

    def join(self, peer: str) -> "MemoryNetwork":
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
        """Make two nodes peers; tell whether they are, which a cut between them prevents."""
        if _pair(one, other) in self._links:
            return True
        if one == other or (one, other) in self._cuts or (other, one) in self._cuts:
            return False
        self._links[_pair(one, other)] = _Link({})
        self._nodes[one].tell(PeerUp(other))
        self._nodes[other].tell(PeerUp(one))
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

    def find(self, source: str, target: str) -> "tuple[MemoryNetwork, _Link] | None":
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


class MemoryNetwork:
    """One node's `Network`. Made by `Wire.join`."""

    def __init__(self, wire: Wire, peer: str) -> None:
        self._wire = wire
        self._peer = peer
        self._watchers: list[Watcher] = []
        self._frames: tuple[FrameHandler, int] | None = None
        self.requests: dict[str, tuple[RequestHandler, int]] = {}
        self.streams: dict[str, tuple[StreamHandler, int]] = {}
        self._queued: dict[str, int] = {}

    @property
    def peer(self) -> str:
        """This node's own id."""
        return self._peer

    def peers(self) -> list[str]:
        """Return the peers that are up, in the order they came."""
        return self._wire.peers(self._peer)

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of each peer that comes or goes from now on."""
        self._watchers.append(watcher)

    def serve_frames(self, handler: FrameHandler, *, size_max_bytes: int) -> None:
        """Give `handler` what peers `send`."""
        if self._frames is not None:
            raise ValueError("frames are served already")
        self._frames = handler, size_max_bytes

    def serve_requests(
        self, protocol: str, handler: RequestHandler, *, size_max_bytes: int
    ) -> None:
        """Let `handler` reply to requests."""
        self._require_unserved(protocol)
        self.requests[protocol] = handler, size_max_bytes

    def serve_streams(self, protocol: str, handler: StreamHandler, *, size_max_bytes: int) -> None:
        """Let `handler` talk over streams that peers open."""
        self._require_unserved(protocol)
        self.streams[protocol] = handler, size_max_bytes

    def send(self, peer: str, frame: bytes) -> bool:
        """Hand a frame to the peer's queue; tell whether it was taken."""
        require_frame(frame)
        found = self._wire.find(self._peer, peer)
        if found is None or self._queued.get(peer, 0) >= FRAMES_QUEUED_MAX:
            return False
        other, link = found
        self._queued[peer] = self._queued.get(peer, 0) + 1

        def deliver(has_arrived: bool) -> None:
            self._queued[peer] -= 1
            now = self._wire.find(self._peer, peer)
            if has_arrived and now is not None and now[1] is link:
                other.take_frame(self._peer, frame)

        self._wire.drop_or_carry(self._peer, peer, len(frame), deliver)
        return True

    async def request(
        self, peer: str, protocol: str, frame: bytes, *, reply_size_max_bytes: int, timeout_s: float
    ) -> bytes:
        """Return the peer's reply."""
        require_frame(frame)
        found = self._wire.find(self._peer, peer)
        if found is None:
            raise PeerUnreachable(f"{peer} is not up")
        other, link = found
        served = other.requests.get(protocol)
        if served is None:
            raise PeerUnreachable(f"{peer} does not serve {protocol}")
        handler, size_max_bytes = served
        # A stream of its own for each request: none waits for another, and a broken link ends all.
        ours, theirs = self._open(link, other, reply_size_max_bytes, size_max_bytes)

        async def reply(stream: Stream) -> None:
            await stream.send(await handler(stream.peer, await stream.receive()))

        with trio.move_on_after(timeout_s):
            try:
                await ours.send(frame)
                self._wire.nursery.start_soon(other.guard, reply, theirs)
                return await ours.receive()
            finally:
                await ours.aclose()
        raise PeerTimeout(f"{peer} did not reply in {timeout_s} s")

    async def open_stream(
        self, peer: str, protocol: str, *, size_max_bytes: int, timeout_s: float
    ) -> Stream:
        """Open a stream to the peer."""
        await trio.lowlevel.checkpoint()
        found = self._wire.find(self._peer, peer)
        if found is None:
            raise PeerUnreachable(f"{peer} is not up")
        other, link = found
        served = other.streams.get(protocol)
        if served is None:
            raise PeerUnreachable(f"{peer} does not serve {protocol}")
        handler, theirs_max_bytes = served
        ours, theirs = self._open(link, other, size_max_bytes, theirs_max_bytes)
        self._wire.nursery.start_soon(other.guard, handler, theirs)
        return ours

    # --- for the wire ---------------------------------------------------------------------

    def tell(self, event: PeerEvent) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher(event)

    def take_frame(self, peer: str, frame: bytes) -> None:
        """Hand over a frame that has arrived."""
        if self._frames is not None and len(frame) <= self._frames[1]:
            try:
                self._frames[0](peer, frame)
            except Exception as error:  # noqa: BLE001  (boundary: a fault of the handler)
                self._wire.report(self._peer, error)

    async def guard(self, handler: StreamHandler, stream: "MemoryStream") -> None:
        """Run a handler; whatever leaves it ends its stream, and is reported."""
        try:
            await handler(stream)
        except (PeerClosed, PeerTimeout, PeerUnreachable, RemoteProtocolError):
            pass  # Nobody's fault here: the stream is over.
        except Exception as error:  # noqa: BLE001  (boundary: a fault of the handler)
            self._wire.report(self._peer, error)
        finally:
            await stream.aclose()

    def _open(
        self, link: _Link, other: "MemoryNetwork", ours_max_bytes: int, theirs_max_bytes: int
    ) -> tuple[MemoryStream, MemoryStream]:
        """Return the two ends of a stream, each with the most bytes that it receives at once."""
        ours = self._end(link, other.peer, ours_max_bytes)
        theirs = other._end(link, self.peer, theirs_max_bytes)  # noqa: SLF001  (of our class)
        ours.other, theirs.other = theirs, ours
        return ours, theirs

    def _end(self, link: _Link, peer: str, received_max_bytes: int) -> MemoryStream:
        def carry(size_bytes: int, deliver: Callable[[], None]) -> None:
            self._wire.carry(self._peer, peer, size_bytes, deliver)

        def forget(stream: MemoryStream) -> None:
            link.streams.pop(stream, None)

        stream = MemoryStream(peer, carry, forget, received_max_bytes=received_max_bytes)
        link.streams[stream] = None
        return stream

    def _require_unserved(self, protocol: str) -> None:
        if protocol in self.requests or protocol in self.streams:
            raise ValueError(f"{protocol} is served already")


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
