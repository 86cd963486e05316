"""One node's end of a network in memory. See `gossip.memory_network`."""

from typing import TYPE_CHECKING, Final

import trio

from gossip.errors import PeerError, PeerTimeout, PeerUnreachable, RemoteProtocolError
from gossip.memory_stream import MemoryStream, require_frame
from gossip.network import (
    FaultWatcher,
    FrameHandler,
    PeerEvent,
    RequestHandler,
    Stream,
    StreamHandler,
    Watcher,
)

if TYPE_CHECKING:
    from gossip.memory_network import Link, Wire

FRAMES_QUEUED_MAX: Final = 1024
"""Most frames of `send` on their way to one peer. Source: guess; 4 MB of small ones."""


class MemoryNetwork:
    """One node's `Network`. Made by `Wire.join`."""

    def __init__(self, wire: "Wire", peer: str, nursery: trio.Nursery | None = None) -> None:
        """`nursery` is where handlers run; the wire's if there is none."""
        self.links: dict[str, Link] = {}
        """Peers that are up, in the order they came."""
        self.is_gone = False
        """It has lost its power."""
        self._wire = wire
        self._peer = peer
        self._nursery = nursery or wire.nursery
        self._watchers: list[Watcher] = []
        self._fault_watchers: list[FaultWatcher] = []
        self._cut_off: dict[str, None] = {}
        self._frames: tuple[FrameHandler, int] | None = None
        self.requests: dict[str, tuple[RequestHandler, int]] = {}
        self.streams: dict[str, tuple[StreamHandler, int]] = {}

    @property
    def peer(self) -> str:
        """This node's own id."""
        return self._peer

    def peers(self) -> list[str]:
        """Return the peers that are up, in the order they came."""
        return list(self.links)

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of each peer that comes or goes from now on."""
        self._watchers.append(watcher)

    def watch_faults(self, watcher: FaultWatcher) -> None:
        """Tell `watcher` of each rule that a peer breaks from now on."""
        self._fault_watchers.append(watcher)

    def cut_off(self, peer: str) -> None:
        """Break the link to a peer, and have none with it until it is taken back."""
        self._cut_off[peer] = None
        self._wire.disconnect(self._peer, peer)

    def take_back(self, peer: str) -> None:
        """Let a peer that was cut off connect again."""
        self._cut_off.pop(peer, None)

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
        link = self.links.get(peer)
        if link is None or link.queued.get(self._peer, 0) >= FRAMES_QUEUED_MAX:
            return False
        self._wire.post(link, self._peer, frame)
        return True

    async def request(
        self, peer: str, protocol: str, frame: bytes, *, reply_size_max_bytes: int, timeout_s: float
    ) -> bytes:
        """Return the peer's reply."""
        require_frame(frame)
        link, other = self._require_up(peer)
        served = other.requests.get(protocol)
        if served is None:
            raise PeerUnreachable(f"{peer} does not serve {protocol}")
        handler, size_max_bytes = served
        # A stream of its own for each request: none waits for another, and a broken link ends all.
        ours, theirs = self._open(link, protocol, reply_size_max_bytes, size_max_bytes)

        async def reply(stream: Stream) -> None:
            await stream.send(await handler(stream.peer, await stream.receive()))

        with trio.move_on_after(timeout_s):
            try:
                await ours.send(frame)
                other.answer(reply, theirs)
                return await ours.receive()
            finally:
                await ours.aclose()
        raise PeerTimeout(f"{peer} did not reply in {timeout_s} s")

    async def open_stream(
        self, peer: str, protocol: str, *, size_max_bytes: int, timeout_s: float
    ) -> Stream:
        """Open a stream to the peer."""
        await trio.lowlevel.checkpoint()
        link, other = self._require_up(peer)
        served = other.streams.get(protocol)
        if served is None:
            raise PeerUnreachable(f"{peer} does not serve {protocol}")
        handler, theirs_max_bytes = served
        ours, theirs = self._open(link, protocol, size_max_bytes, theirs_max_bytes)
        other.answer(handler, theirs)
        return ours

    # --- for the wire ---------------------------------------------------------------------

    def tell(self, event: PeerEvent) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher(event)

    def has_cut_off(self, peer: str) -> bool:
        """Tell whether this node has nothing to do with a peer."""
        return peer in self._cut_off

    def arrived(self, link: "Link", target: "MemoryNetwork", frame: bytes | None) -> None:
        """Note that a frame of `send` is not on its way any more; `None`: it is lost."""
        link.queued[self._peer] -= 1
        if frame is not None and target.links.get(self._peer) is link:
            target.take_frame(self._peer, frame)

    def answer(self, handler: StreamHandler, stream: MemoryStream) -> None:
        """Have a handler of this node run, if there is still a node."""
        if not self.is_gone:
            self._nursery.start_soon(self.guard, handler, stream)

    def take_frame(self, peer: str, frame: bytes) -> None:
        """Hand over a frame that has arrived."""
        if self._frames is None:
            return
        if len(frame) > self._frames[1]:
            self._tell_fault(peer, RemoteProtocolError(f"a frame of {len(frame)} bytes"))
            return
        try:
            self._frames[0](peer, frame)
        except PeerError as error:
            self._tell_fault(peer, error)
        except Exception as error:  # noqa: BLE001  (boundary: a fault of the handler)
            self._wire.report(self._peer, error)

    async def guard(self, handler: StreamHandler, stream: "MemoryStream") -> None:
        """Run a handler; whatever leaves it ends its stream, and is reported."""
        try:
            await handler(stream)
        except PeerError as error:
            self._tell_fault(stream.peer, error)
        except Exception as error:  # noqa: BLE001  (boundary: a fault of the handler)
            self._wire.report(self._peer, error)
        finally:
            await stream.aclose()

    def _tell_fault(self, peer: str, error: PeerError) -> None:
        if error.penalty:
            for watcher in self._fault_watchers:
                watcher(peer, error)

    def _require_up(self, peer: str) -> "tuple[Link, MemoryNetwork]":
        link = self.links.get(peer)
        if link is None:
            raise PeerUnreachable(f"{peer} is not up")
        return link, link.target(self._peer)

    def _open(
        self, link: "Link", protocol: str, ours_max_bytes: int, theirs_max_bytes: int
    ) -> tuple[MemoryStream, MemoryStream]:
        """Return the two ends of a stream, each with the most bytes that it receives at once."""
        peer = link.target(self._peer).peer
        ours = MemoryStream(self._wire, link, self._peer, peer, protocol, ours_max_bytes)
        theirs = MemoryStream(self._wire, link, peer, self._peer, protocol, theirs_max_bytes)
        ours.other, theirs.other = theirs, ours
        return ours, theirs

    def _require_unserved(self, protocol: str) -> None:
        if protocol in self.requests or protocol in self.streams:
            raise ValueError(f"{protocol} is served already")
