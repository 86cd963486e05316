"""One end of a stream in memory."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from gossip.errors import PeerClosed, RemoteProtocolError

if TYPE_CHECKING:
    from gossip.memory_network import Link, Wire

STREAM_FRAMES_MAX: Final = 16
"""Most frames of a stream that nobody has received. Source: guess; as a window of 4 MB."""


class MemoryStream:
    """One end of a stream."""

    other: "MemoryStream"

    def __init__(
        self,
        wire: "Wire",
        link: "Link",
        owner: str,
        peer: str,
        protocol: str,
        received_max_bytes: int,
    ) -> None:
        """One of a link's streams, `owner`'s end of it. Set `other` before use."""
        self.owner = owner
        self._wire = wire
        self._link = link
        self._peer = peer
        self._protocol = protocol
        self._received_max_bytes = received_max_bytes
        link.streams[self] = None
        self._into, self._from = trio.open_memory_channel[bytes](float("inf"))
        self._unreceived = 0
        """Frames that this end has sent and the other has not received."""
        self._room = trio.Event()
        self._is_over = False

    @property
    def peer(self) -> str:
        """The other end."""
        return self._peer

    async def send(self, frame: bytes) -> None:
        """Send a frame; returns when there is room for another."""
        require_frame(frame)
        await trio.lowlevel.checkpoint()
        if self._is_over:
            raise PeerClosed(f"the stream with {self._peer} is over")
        self._unreceived += 1
        self._carry(len(frame), self.other.take, frame)
        while self._unreceived >= STREAM_FRAMES_MAX and not self._is_over:
            self._room = trio.Event()
            await self._room.wait()

    async def receive(self) -> bytes:
        """Return the next frame."""
        try:
            frame = await self._from.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise PeerClosed(f"the stream with {self._peer} is over") from error
        self.other.make_room()
        if len(frame) > self._received_max_bytes:
            await self.aclose()
            raise RemoteProtocolError(f"a frame of {len(frame)} bytes")
        return frame

    async def aclose(self) -> None:
        """End the stream at both ends, after what was sent has arrived."""
        if not self._is_over:
            self._end()
            self._from.close()
            self._carry(0, self.other.end)

    # --- for the other end ----------------------------------------------------------------

    def take(self, frame: bytes) -> None:
        """Take in a frame that has arrived."""
        if not self._is_over:
            self._into.send_nowait(frame)

    def make_room(self) -> None:
        """Note that the other end has received a frame."""
        self._unreceived -= 1
        self._room.set()

    def end(self) -> None:
        """Let what has arrived be received, and then nothing more."""
        self._end()

    def break_off(self) -> None:
        """Let nothing more be received."""
        self._end()
        self._from.close()

    def _end(self) -> None:
        self._is_over = True
        self._room.set()
        self._into.close()
        self._link.streams.pop(self, None)

    def _carry(self, size_bytes: int, deliver: Callable[..., object], *args: object) -> None:
        self._wire.carry(self._link, self.owner, size_bytes, self._protocol, deliver, *args)


def require_frame(frame: bytes) -> None:
    """Raise `ValueError` for an empty frame."""
    if not frame:
        raise ValueError("a frame has at least one byte")
