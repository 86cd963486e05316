"""Frames on a stream of bytes: each has its length in front, as a varint. Pubsub's framing too."""

from typing import Final

from gossip.errors import RemoteProtocolError

_LENGTH_SIZE_MAX_BYTES: Final = 5
"""Longest head of a frame: 35 bits."""


class FrameBuffer:
    """Takes in bytes as they come, gives out frames."""

    def __init__(self, size_max_bytes: int) -> None:
        self.size_max_bytes = size_max_bytes
        """Largest frame."""
        self._data = bytearray()
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        self._data += data

    def take(self) -> bytes | None:
        """Return the next frame, if it is all there; it may be empty.

        Raises `RemoteProtocolError` as soon as the head says that the frame is over the limit.
        """
        data, position = self._data, self._start
        size = shift = 0
        while True:
            if position == len(data):
                self._drop()
                return None
            byte = data[position]
            position += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift >= 7 * _LENGTH_SIZE_MAX_BYTES:
                raise RemoteProtocolError("the length of a frame does not end")
        if size > self.size_max_bytes:
            raise RemoteProtocolError(f"a frame of {size} bytes; {self.size_max_bytes} are allowed")
        if len(data) - position < size:
            self._drop()
            return None
        frame = bytes(memoryview(data)[position : position + size])
        self._start = position + size
        return frame

    def _drop(self) -> None:
        """Give back the room of what was taken out."""
        if self._start:
            del self._data[: self._start]
            self._start = 0


def take_number(frame: bytes) -> tuple[int, int]:
    """Return the varint that a frame begins with, and where it ends.

    Raises `RemoteProtocolError`.
    """
    number = 0
    for position, byte in enumerate(frame[:9]):
        number |= (byte & 127) << (7 * position)
        if byte < 128:
            return number, position + 1
    raise RemoteProtocolError("a frame without its number")
