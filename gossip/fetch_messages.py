"""What two nodes say to each other to fetch something: `PROTOCOL`, one request, one reply.

    Get      [1, version, kind, id, name, depth, index, auth]
    Data     [2, data]                  the block, or the whole of a small thing
    Missing  [3, is_final, holders]     not here; final if the node is its home and there is none
    Refused  [4, reason]                not for you (`right`), or not now (`busy`)

Content is asked for block by block, leaves of at most 1 MiB, each of which has its own CID.  It is
named by its place in the tree and not by that CID, so that the provider can see that it belongs to
the blob whose reader is asking: knowing a CID is not a right.  The root is block 0 at depth 0;
child `j` of block `k` is block `k * LINKS_MAX + j` one deeper (`path`).

A frame is one strict CBOR array (`storage.codec`) of at most `FRAME_SIZE_MAX_BYTES`.  Most bytes
that nodes exchange are `Data`, which has one form only, a head of 7 bytes at most and the bytes as
they are: it is put together and taken apart right here, so that a mebibyte is copied once and not
six times (2.2 ms, measured).
"""

from enum import IntEnum
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from gossip.errors import RemoteProtocolError
from storage import codec
from storage.cid import CHUNK_SIZE_BYTES, LEVELS_MAX, LINKS_MAX
from storage.errors import InvalidData
from storage.ids import Id

PROTOCOL: Final = "/peernode/fetch/1"
VERSION: Final = 1
DATA_SIZE_MAX_BYTES: Final = CHUNK_SIZE_BYTES + 128 * 1024
"""Most bytes of one reply. Source: a leaf; or a job with 1 MiB of input and what surrounds it."""
FRAME_SIZE_MAX_BYTES: Final = DATA_SIZE_MAX_BYTES + 1024
"""Largest reply. Source: formula."""
REQUEST_SIZE_MAX_BYTES: Final = 16 * 1024
"""Largest request. Source: `AUTH_SIZE_MAX_BYTES` and a name."""
AUTH_SIZE_MAX_BYTES: Final = 12 * 1024
"""Most bytes that show a right. Source: guess; a certificate takes 8 KiB at most."""
NAME_SIZE_MAX_BYTES: Final = 64
"""Longest name. Source: guess; a CID has 36 bytes, a record's id 32."""
HOLDERS_MAX: Final = 16
"""Most other holders named. Source: guess."""


Peer = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
"""A peer's id."""


class Kind(IntEnum):
    """What can be fetched."""

    BLOB = 1
    """Content; its name is the CID of its root."""
    REQUEST = 2
    """A job as it was handed in; its name is its `request_cid`, or empty if that is not known."""
    SNAPSHOT = 3
    """The state of a job, signed by its home; without a name."""
    RECORD = 4
    """A record; its name is its rid, and its id that of its object."""
    ATTRIBUTES = 5
    """The attributes of a blob, signed by its home; without a name."""


class Thing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something that can be fetched."""

    kind: Kind
    id: int
    name: bytes


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array whose first element is the kind."""


class Get(Message, frozen=True, tag=1):
    """Give me this; here is the right of whoever reads it."""

    version: int
    kind: Kind
    id: Id
    name: Annotated[bytes, msgspec.Meta(max_length=NAME_SIZE_MAX_BYTES)]
    depth: Annotated[int, msgspec.Meta(ge=0, le=LEVELS_MAX)]
    index: Annotated[int, msgspec.Meta(ge=0, lt=LINKS_MAX**LEVELS_MAX)]
    auth: Annotated[bytes, msgspec.Meta(max_length=AUTH_SIZE_MAX_BYTES)]


class Data(Message, frozen=True, tag=2):
    """Here it is."""

    data: Annotated[bytes, msgspec.Meta(max_length=DATA_SIZE_MAX_BYTES)]


class Missing(Message, frozen=True, tag=3):
    """It is not here."""

    is_final: bool
    """Only the thing's home may say so: there is no such thing, or not for you."""
    holders: Annotated[list[Peer], msgspec.Meta(max_length=HOLDERS_MAX)]
    """Peers that may have it."""


class Refused(Message, frozen=True, tag=4):
    """It may be here, but not for you, or not now, or not in this language."""

    reason: Literal["right", "busy", "version"]


Reply: TypeAlias = Data | Missing | Refused
AnyMessage: TypeAlias = Get | Data | Missing | Refused


def encode(message: AnyMessage) -> bytes:
    """Return the frame of a message."""
    if isinstance(message, Data):
        return _data_head(len(message.data)) + message.data
    return codec.encode_struct(message)


def decode_request(frame: bytes) -> Get:
    """Return the request in a frame. Raises `RemoteProtocolError` for all that is not exact."""
    try:
        get = codec.decode_struct(frame, REQUEST_SIZE_MAX_BYTES, Get)
    except InvalidData as error:
        raise RemoteProtocolError(f"not a request: {error}") from error
    if get.index >= LINKS_MAX**get.depth:
        raise RemoteProtocolError("a block where no tree has one")
    if get.kind is not Kind.BLOB and get.depth:
        raise RemoteProtocolError("a block of what has none")
    return get


def decode_reply(frame: bytes) -> Reply:
    """Return the reply in a frame. Raises `RemoteProtocolError` for all that is not exact."""
    if frame[:2] == _DATA_HEAD and len(frame) <= FRAME_SIZE_MAX_BYTES:
        data = _data_in(frame)
        if data is not None:
            return Data(data)
    try:
        return codec.decode_struct(frame, FRAME_SIZE_MAX_BYTES, Reply)  # type: ignore[arg-type]
    except InvalidData as error:
        raise RemoteProtocolError(f"not a reply: {error}") from error


_DATA_HEAD: Final = b"\x82\x02"
"""Of `Data` in CBOR: an array of two, and its kind."""


def _data_head(size_bytes: int) -> bytes:
    """Return what stands before that many bytes in a `Data`: RFC 8949, 3.1 and 4.2.1."""
    if size_bytes < 24:
        return _DATA_HEAD + bytes([0x40 + size_bytes])
    if size_bytes < 1 << 8:
        return _DATA_HEAD + bytes([0x58, size_bytes])
    if size_bytes < 1 << 16:
        return _DATA_HEAD + b"\x59" + size_bytes.to_bytes(2, "big")
    return _DATA_HEAD + b"\x5a" + size_bytes.to_bytes(4, "big")


def _data_in(frame: bytes) -> bytes | None:
    """Return the bytes of a `Data` whose frame is exactly as it should be, or `None`."""
    for head_size_bytes in (7, 5, 4, 3):
        size_bytes = len(frame) - head_size_bytes
        if 0 <= size_bytes <= DATA_SIZE_MAX_BYTES:
            head = _data_head(size_bytes)
            if len(head) == head_size_bytes and frame.startswith(head):
                return frame[head_size_bytes:]
    return None


def path(depth: int, index: int) -> tuple[int, ...]:
    """Return which child to take, from the root down, to get to a block."""
    return tuple(index // LINKS_MAX ** (depth - level) % LINKS_MAX for level in range(1, depth + 1))
