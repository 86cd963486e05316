"""Connections with who is not a peer: few, short, and for what is open to everybody.

So a node that holds an invite can ask to join.  The other protocols are not even named to it.
"""

import trio

from gossip.errors import PeerError
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_connection import Connection, end_stream
from peernode.libp2p_link import Services
from peernode.libp2p_patches import Substream
from peernode.libp2p_requests import RequestChannel, answer_requests
from peernode.libp2p_stream import FrameStream
from peernode.rate_limits import Buckets, address_key

STREAMS_MAX = 2
"""Most streams that a stranger has open. Source: a join takes one."""


class Strangers:
    """Those that are connected, and how often their hosts may ask."""

    def __init__(self, services: Services, config: Libp2pConfig) -> None:
        self._services = services
        self._config = config
        self._visits: dict[trio.CancelScope, None] = {}
        self._buckets = Buckets(
            config.stranger_requests_per_minute / 60,
            config.stranger_requests_burst,
            config.stranger_hosts_max,
        )

    async def host(self, connection: Connection) -> None:
        """Answer a stranger that has connected, for a while. Never raises."""
        if not self._services.strangers:
            connection.break_off()
            return
        if len(self._visits) >= self._config.strangers_max:
            next(iter(self._visits)).cancel()
        with trio.move_on_after(self._config.stranger_lifetime_s) as scope:
            self._visits[scope] = None
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._answer, connection)
                    await connection.run(self._config)
                    nursery.cancel_scope.cancel()
            finally:
                self._visits.pop(scope, None)
        connection.break_off()

    async def _answer(self, connection: Connection) -> None:
        await connection.started.wait()
        streams = 0

        async def answer(stream: Substream) -> None:
            nonlocal streams
            streams += 1
            try:
                if streams <= STREAMS_MAX:
                    await self._serve(connection, stream)
            except PeerError:
                pass
            except Exception as error:  # noqa: BLE001  (boundary: a fault of ours)
                self._services.report(error)
            finally:
                streams -= 1
                await end_stream(stream)

        async with trio.open_nursery() as nursery:
            try:
                while True:
                    nursery.start_soon(answer, await connection.accept_stream())
            except PeerError:
                nursery.cancel_scope.cancel()

    async def _serve(self, connection: Connection, stream: Substream) -> None:
        timeout_s = self._config.stranger_lifetime_s
        protocol = await connection.agree(stream, self._services.strangers, timeout_s)
        handler, size_max_bytes = self._services.requests[protocol]

        def take() -> bool:
            return self._buckets.take(address_key(connection.host), trio.current_time()) == 0.0

        count = self._services.traffic.of(protocol)
        frames = FrameStream(connection.peer, stream, size_max_bytes=size_max_bytes, count=count)
        report = self._services.report

        def nothing(*_: PeerError) -> None:
            """A stranger has no standing, and nothing to give back."""

        await answer_requests(frames, handler, size_max_bytes, report, nothing, take, nothing)

    async def ask(
        self, connection: Connection, protocol: str, frame: bytes, reply_size_max_bytes: int
    ) -> bytes:
        """Ask once over a connection of ours, and end it. Raises `PeerError`.

        Nothing is served on it: what the other side opens meanwhile gets no answer.
        """
        outcome: bytes | PeerError
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run, self._config)
                try:
                    await connection.started.wait()
                    timeout_s = self._config.negotiation_timeout_s
                    stream = await connection.open_stream(protocol, timeout_s)
                    count = self._services.traffic.of(protocol)
                    frames = FrameStream(connection.peer, stream, size_max_bytes=0, count=count)
                    channel = RequestChannel(frames, 1)
                    nursery.start_soon(channel.run)
                    outcome = await channel.request(frame, reply_size_max_bytes)
                except PeerError as error:
                    outcome = error
                nursery.cancel_scope.cancel()
        finally:
            connection.break_off()
        if isinstance(outcome, PeerError):
            raise outcome
        return outcome
