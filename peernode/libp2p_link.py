"""A link: one connection to a peer, and all that goes over it.

It is *up* once the peer has let us open our stream of gossip, until the connection ends.  When
either stream of gossip ends, so does the connection: a peer that is up can be heard and told.
Requests of a protocol share one stream; what else a peer opens has a task of its own, outside the
link's, since whoever talks over it hears of the end by himself.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from gossip.errors import PeerClosed, PeerError, PeerUnreachable
from gossip.network import FaultWatcher, FrameHandler, RequestHandler, StreamHandler
from gossip.wire import PROTOCOL as GOSSIP, RPC_SIZE_MAX_BYTES
from peernode import libp2p_identify as identify
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_connection import Connection, end_stream
from peernode.libp2p_patches import Substream
from peernode.libp2p_requests import RequestChannel, answer_requests
from peernode.libp2p_stream import WRITE_SIZE_BYTES, FrameStream
from peernode.traffic import Traffic


@dataclass(slots=True)
class Services:
    """What this node serves, to whom, and whom it tells of faults."""

    report: Callable[[Exception], None]
    allowed: Callable[[bytes], bool]
    identity: identify.Identity
    frames: tuple[FrameHandler, int] | None = None
    requests: dict[str, tuple[RequestHandler, int]] = field(default_factory=dict)
    streams: dict[str, tuple[StreamHandler, int]] = field(default_factory=dict)
    strangers: dict[str, None] = field(default_factory=dict)
    """Requests that are answered to everybody."""
    fault_watchers: list[FaultWatcher] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)

    def protocols(self) -> list[str]:
        """Return all protocols that a peer may ask for."""
        return [GOSSIP, identify.IDENTIFY, identify.PING, *self.requests, *self.streams]

    def fault(self, peer: str, error: PeerError) -> None:
        """Tell of a rule that a peer broke, if it is to blame for what happened."""
        if error.penalty:
            for watcher in self.fault_watchers:
                watcher(peer, error)


class _Opening:
    """A channel for the requests of one protocol, or why there is none."""

    def __init__(self) -> None:
        self.decided = trio.Event()
        self.channel: RequestChannel | None = None
        self.error: PeerError = PeerClosed("the link is over")


class Link:
    """A connection to a peer. Runs in `run`."""

    def __init__(
        self,
        connection: Connection,
        services: Services,
        config: Libp2pConfig,
        outer: trio.Nursery,
        tell: Callable[["Link", bool], None],
    ) -> None:
        """`outer` runs handlers; `tell` hears that the link is up, and that it is not any more."""
        self.connection = connection
        self.peer = connection.peer
        self.agent = ""
        """What software the peer says it is."""
        self.is_up = False
        self.was_up_s = 0.0
        """How long the link was up, once it is over."""
        self.ended = trio.Event()
        self._services = services
        self._config = config
        self._outer = outer
        self._tell = tell
        self._decided = trio.Event()
        self._identified = trio.Event()
        self._up_at = 0.0
        self._nursery: trio.Nursery | None = None
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._queued = trio.Event()
        self._channels: dict[str, _Opening] = {}
        self._streams_open = 0
        self._requests_open: dict[str, int] = {}
        self._is_listening = False

    async def run(self) -> None:
        """Carry everything until the connection ends. Never raises."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._accept)
                nursery.start_soon(self._send_gossip)
                nursery.start_soon(self._identify)
                await self.connection.run(self._config)
                self.end()
                nursery.cancel_scope.cancel()
        finally:
            self.end()
            self.ended.set()

    def end(self) -> None:
        """Break the connection and tell of it, once."""
        self.connection.break_off()
        self._decided.set()
        if self.is_up:
            self.is_up = False
            self.was_up_s = trio.current_time() - self._up_at
            self._tell(self, False)

    # --- to the peer ----------------------------------------------------------------------

    def send(self, frame: bytes) -> bool:
        """Queue a frame of gossip; tell whether there was room."""
        is_full = (
            len(self._queue) >= self._config.frames_queued_max
            or self._queued_bytes + len(frame) > self._config.bytes_queued_max
        )
        if is_full or not self.is_up:
            return False
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._queued.set()
        return True

    async def request(self, protocol: str, frame: bytes, reply_size_max_bytes: int) -> bytes:
        """Return the reply. Raises what `Network.request` does, except for the time-out."""
        opening = self._channels.get(protocol)
        if opening is None or (opening.channel is not None and opening.channel.is_over):
            if not self.is_up or self._nursery is None:
                raise PeerUnreachable(f"{self.peer} is not up")
            opening = self._channels[protocol] = _Opening()
            self._nursery.start_soon(self._run_channel, protocol, opening)
        await opening.decided.wait()
        if opening.channel is None:
            raise opening.error
        return await opening.channel.request(frame, reply_size_max_bytes)

    async def open_stream(self, protocol: str, size_max_bytes: int) -> FrameStream:
        """Open a stream. Raises `PeerUnreachable`."""
        timeout_s = self._config.negotiation_timeout_s
        try:
            stream = await self.connection.open_stream(protocol, timeout_s)
        except PeerClosed as error:
            raise PeerUnreachable(str(error)) from error
        count = self._services.traffic.of(protocol)
        return FrameStream(self.peer, stream, size_max_bytes=size_max_bytes, count=count)

    async def _run_channel(self, protocol: str, opening: _Opening) -> None:
        try:
            timeout_s = self._config.negotiation_timeout_s
            stream = await self.connection.open_stream(protocol, timeout_s)
            count = self._services.traffic.of(protocol)
            frames = FrameStream(self.peer, stream, size_max_bytes=0, count=count)
            opening.channel = RequestChannel(frames, self._config.requests_open_max)
            opening.decided.set()
            await opening.channel.run()
        except PeerError as error:
            opening.error = error
        finally:
            if self._channels.get(protocol) is opening:
                del self._channels[protocol]
            opening.decided.set()

    async def _identify(self) -> None:
        """Ask what software the peer is, for a short while. Never raises."""
        await self.connection.started.wait()
        timeout_s = self._config.identify_timeout_s
        with suppress(PeerError), trio.move_on_after(timeout_s):
            stream = await self.connection.open_stream(identify.IDENTIFY, timeout_s)
            try:
                self.agent = await identify.ask_agent(stream)
            finally:
                await end_stream(stream)
        self._identified.set()

    async def _send_gossip(self) -> None:
        try:
            await self.connection.started.wait()
            timeout_s = self._config.negotiation_timeout_s
            stream = FrameStream(
                self.peer,
                await self.connection.open_stream(GOSSIP, timeout_s),
                size_max_bytes=0,
                count=self._services.traffic.of(GOSSIP),
            )
            await self._identified.wait()
            self.is_up, self._up_at = True, trio.current_time()
            self._decided.set()
            self._tell(self, True)
            is_stalled = False
            while not is_stalled:
                await self._queued.wait()
                with trio.move_on_after(self._config.stall_max_s) as scope:
                    await stream.send_all(self._take_queued())
                is_stalled = scope.cancelled_caught
        except PeerError:
            pass
        self.end()

    def _take_queued(self) -> list[tuple[bytes]]:
        """Return some of the frames that wait, at least one."""
        frames: list[tuple[bytes]] = []
        size = 0
        while self._queue and size < WRITE_SIZE_BYTES:
            frame = self._queue.popleft()
            frames.append((frame,))
            size += len(frame)
        self._queued_bytes -= size
        if not self._queue:
            self._queued = trio.Event()
        return frames

    # --- from the peer --------------------------------------------------------------------

    async def _accept(self) -> None:
        await self.connection.started.wait()
        try:
            while True:
                stream = await self.connection.accept_stream()
                self._outer.start_soon(self._take_stream, stream)
        except PeerError:
            self.end()

    async def _take_stream(self, stream: Substream) -> None:
        """Do what the peer wants on a stream that it opened. Never raises."""
        self._streams_open += 1
        try:
            may_be = self._streams_open <= self._config.streams_open_max
            if may_be and self._services.allowed(self.connection.public_key):
                timeout_s = self._config.negotiation_timeout_s
                served = self._services.protocols()
                await self._serve(stream, await self.connection.agree(stream, served, timeout_s))
        except PeerError as error:
            self._services.fault(self.peer, error)
        except Exception as error:  # noqa: BLE001  (boundary: a fault of ours)
            self._services.report(error)
        finally:
            self._streams_open -= 1
            await end_stream(stream)

    async def _serve(self, stream: Substream, protocol: str) -> None:
        services = self._services
        count = services.traffic.of(protocol)
        if protocol == GOSSIP:
            await self._hear_gossip(stream)
        elif protocol == identify.IDENTIFY:
            await identify.answer_identify(stream, services.identity, services.protocols())
        elif protocol == identify.PING:
            await identify.answer_pings(stream)
        elif protocol in services.requests:
            reply, size_max_bytes = services.requests[protocol]
            await answer_requests(
                FrameStream(self.peer, stream, size_max_bytes=size_max_bytes, count=count),
                reply,
                size_max_bytes,
                services.report,
                lambda error: services.fault(self.peer, error),
                lambda: self._take_request(protocol),
                lambda: self._give_back_request(protocol),
            )
        else:
            talk, size_max_bytes = services.streams[protocol]
            await talk(FrameStream(self.peer, stream, size_max_bytes=size_max_bytes, count=count))

    def _take_request(self, protocol: str) -> bool:
        """Tell whether one more request may be open."""
        if not self._services.allowed(self.connection.public_key):
            return False
        now_open = self._requests_open.get(protocol, 0)
        # A channel that the peer has given up may still be full when it uses the next one.
        if now_open >= 2 * self._config.requests_open_max:
            return False
        self._requests_open[protocol] = now_open + 1
        return True

    def _give_back_request(self, protocol: str) -> None:
        self._requests_open[protocol] -= 1

    async def _hear_gossip(self, stream: Substream) -> None:
        """Hand over the peer's gossip, from when the link is up."""
        if self._is_listening:
            return
        self._is_listening = True
        await self._decided.wait()
        size_max_bytes = RPC_SIZE_MAX_BYTES
        if self._services.frames is not None:
            size_max_bytes = self._services.frames[1]
        count = self._services.traffic.of(GOSSIP)
        frames = FrameStream(self.peer, stream, size_max_bytes=size_max_bytes, count=count)
        try:
            while True:
                for frame in await frames.receive_all():
                    self._hear(frame)
        finally:
            self.end()

    def _hear(self, frame: bytes) -> None:
        if self._services.frames is None:
            return
        if not (self.is_up and self._services.allowed(self.connection.public_key)):
            raise PeerClosed(f"{self.peer} is not a peer any more")
        try:
            self._services.frames[0](self.peer, frame)
        except PeerError as error:
            self._services.fault(self.peer, error)
        except Exception as error:  # noqa: BLE001  (boundary: a fault of the handler)
            self._services.report(error)
