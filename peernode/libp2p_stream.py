"""Frames over a stream of libp2p: the seam's `Stream`, which is also pubsub's way of writing."""

from collections.abc import Callable, Sequence
from typing import Final

from gossip.errors import PeerClosed, RemoteProtocolError
from gossip.memory_stream import require_frame
from gossip.wire_encode import varint
from peernode.libp2p_connection import end_stream, translated
from peernode.libp2p_frames import FrameBuffer
from peernode.libp2p_patches import Substream
from peernode.traffic import Count

WRITE_SIZE_BYTES: Final = 64 * 1024
"""Small frames that wait are written together, up to about so much. Source: a Noise message."""
READ_SIZE_BYTES: Final = 256 * 1024
"""Most that is taken from a stream at once. Source: Yamux's first window."""


class FrameStream:
    """A stream of frames with one peer. One sender and one receiver at a time."""

    def __init__(
        self,
        peer: str,
        stream: Substream,
        *,
        size_max_bytes: int,
        count: Count,
        forget: Callable[["FrameStream"], None] = lambda _: None,
    ) -> None:
        """`size_max_bytes` bounds what is received; `forget` is told of the end."""
        self._peer = peer
        self._stream = stream
        self.frames = FrameBuffer(size_max_bytes)
        self._count = count
        self._forget = forget
        self._is_over = False

    @property
    def peer(self) -> str:
        """The other end."""
        return self._peer

    async def send(self, frame: bytes) -> None:
        """Send a frame; returns when there is room for another."""
        require_frame(frame)
        await self.send_all([(frame,)])

    async def send_all(self, frames: Sequence[Sequence[bytes]]) -> None:
        """Send several frames in one go, each in as many parts as it has. Raises `PeerClosed`."""
        if self._is_over:
            raise PeerClosed(f"the stream with {self._peer} is over")
        parts: list[bytes] = []
        for frame in frames:
            parts += varint(sum(map(len, frame))), *frame
        is_whole = False
        try:
            with translated(self._peer):
                data = b"".join(parts)
                self._count.sent_bytes += len(data)
                await self._stream.write(data)
            is_whole = True
        finally:
            # Half a frame may be on its way: nothing after it would be understood.
            self._is_over |= not is_whole

    async def receive(self) -> bytes:
        """Return the next frame."""
        try:
            while (frame := self.frames.take()) is None:
                await self._fill()
            if not frame:
                raise RemoteProtocolError("an empty frame")
        except RemoteProtocolError:
            await self.aclose()
            raise
        return frame

    async def receive_all(self) -> list[bytes]:
        """Return the frames that are there, at least one; without the empty ones.

        Raises as `receive`; the frames before a wrong one are lost.
        """
        frames: list[bytes] = []
        try:
            while True:
                while (frame := self.frames.take()) is not None:
                    if frame:
                        frames.append(frame)
                if frames:
                    return frames
                await self._fill()
        except RemoteProtocolError:
            await self.aclose()
            raise

    async def _fill(self) -> None:
        if self._is_over:
            raise PeerClosed(f"the stream with {self._peer} is over")
        with translated(self._peer):
            data = await self._stream.read(READ_SIZE_BYTES)
        self._count.received_bytes += len(data)
        self.frames.feed(data)

    async def aclose(self) -> None:
        """End the stream at both ends."""
        self._is_over = True
        self._forget(self)
        await end_stream(self._stream)
