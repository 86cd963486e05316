"""Frames of other nodes, read: here one that is none becomes the fault of who sent it."""

from typing import TypeVar

from gossip.errors import RemoteProtocolError
from storage import codec
from storage.errors import InvalidData

T = TypeVar("T")


def read_frame(frame: bytes, size_max_bytes: int, kind: type[T], what: str) -> T:
    """Return what is in a frame: a struct, or one of a union's; strict CBOR.

    Raises `RemoteProtocolError`, which says that it is not `what`.
    """
    try:
        return codec.decode_struct(frame, size_max_bytes, kind)
    except InvalidData as error:
        raise RemoteProtocolError(f"not {what}: {error}") from error
