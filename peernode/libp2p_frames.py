"""Frames on a stream of bytes: each has its length in front, as a varint. Pubsub's framing too."""

from collections import deque
from typing import Final

from gossip.errors import RemoteProtocolError

_LENGTH_SIZE_MAX_BYTES: Final = 5
"""Longest head of a frame: 35 bits."""
_PIECE_SIZE_MIN_BYTES: Final = 4096
"""From here on a piece is kept as it is. Source: an object's head is 1 % of it."""
_JOINED_SIZE_MAX_BYTES: Final = 64 * 1024
"""Small pieces are put together up to so much. Source: guess; copied once at most on average."""


class Pieces:
    """A queue of bytes, in the pieces in which they came: nothing is moved when some are taken.

    A `bytearray` that grows at one end and shrinks at the other is copied as a whole each time it
    grows, which was a quarter of what a fetch cost.  Small pieces are put together, so that they
    take no more memory than their bytes.
    """

    __slots__ = ("_pieces", "_size_bytes", "_start")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._start = 0
        """Where what is left of the first piece begins."""
        self._size_bytes = 0

    def __len__(self) -> int:
        return self._size_bytes

    def __bytes__(self) -> bytes:
        return self.peek(self._size_bytes)

    def extend(self, data: bytes) -> None:
        """Append bytes."""
        if not data:
            return
        self._size_bytes += len(data)
        if len(data) >= _PIECE_SIZE_MIN_BYTES:
            self._pieces.append(data)
            return
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytearray) and len(last) < _JOINED_SIZE_MAX_BYTES:
            last += data
        else:
            self._pieces.append(bytearray(data))

    def clear(self) -> None:
        """Drop all."""
        self._pieces.clear()
        self._start = self._size_bytes = 0

    def peek(self, size_bytes: int) -> bytes:
        """Return that many bytes from the front, or all there are."""
        parts: list[bytes | memoryview] = []
        start = self._start
        for piece in self._pieces:
            part = memoryview(piece)[start : start + size_bytes]
            start = 0
            parts.append(part)
            size_bytes -= len(part)
            if not size_bytes:
                break
        return b"".join(parts)

    def drop(self, size_bytes: int) -> None:
        """Remove that many bytes, which are there, from the front."""
        self._size_bytes -= size_bytes
        size_bytes += self._start
        while self._pieces and size_bytes >= len(self._pieces[0]):
            size_bytes -= len(self._pieces.popleft())
        self._start = size_bytes

    # As Yamux asks: some bytes from the front, and the same ones away.

    def __getitem__(self, front: slice) -> bytes:
        first = self._pieces[0]
        if type(first) is bytes and not self._start and front.stop >= len(first):
            return first
        return bytes(memoryview(first)[self._start : self._start + front.stop])

    def __delitem__(self, front: slice) -> None:
        self.drop(min(front.stop, len(self._pieces[0]) - self._start))


class FrameBuffer:
    """Takes in bytes as they come, gives out frames."""

    def __init__(self, size_max_bytes: int) -> None:
        self.size_max_bytes = size_max_bytes
        """Largest frame."""
        self._data = Pieces()

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        self._data.extend(data)

    def take(self) -> bytes | None:
        """Return the next frame, if it is all there; it may be empty.

        Raises `RemoteProtocolError` as soon as the head says that the frame is over the limit.
        """
        size = shift = head_size = 0
        for byte in self._data.peek(_LENGTH_SIZE_MAX_BYTES):
            size |= (byte & 127) << shift
            shift += 7
            head_size += 1
            if byte < 128:
                break
        else:
            if head_size == _LENGTH_SIZE_MAX_BYTES:
                raise RemoteProtocolError("the length of a frame does not end")
            return None
        if size > self.size_max_bytes:
            raise RemoteProtocolError(f"a frame of {size} bytes; {self.size_max_bytes} are allowed")
        if len(self._data) < head_size + size:
            return None
        self._data.drop(head_size)
        frame = self._data.peek(size)
        self._data.drop(size)
        return frame


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
