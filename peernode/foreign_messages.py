"""What a node asks another on behalf of a caller: `ASK`, one request and one reply.

    Ask      [1, version, operation, id, wait, accept, after, auth]
    Refusal  [2, code, detail, hint]              the caller may not, or it cannot be
    View     [3, revision, is final, media type, body]   the answer as the home would give it
    Ended    [4, request, snapshot]               a job that is over, for whoever may read all of it
    Row      [5, attributes, pass]                a blob's attributes, signed; a pass if asked for

What may be long or never end, logs and events, is asked for over a stream (`FOLLOW`): an `Ask`,
a `View` without a body (or a `Refusal`), and then pieces, each behind a byte that says whether
another follows.

The right of the caller is its delegation certificate, never the token's secret: it is worth nothing
but to the nodes that it names, and the node that asks has to be one of them.  The right of a job is
the pass that the blob's home gave out when it was handed in (`blob_snapshots`).

A frame is one strict CBOR array (`storage.codec`); text of people travels as bytes, since it need
not be of the subset.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from gossip.fetch_messages import AUTH_SIZE_MAX_BYTES
from peernode.peer_frames import read_frame
from storage import codec
from storage.ids import Id

ASK: Final = "/peernode/ask/1"
FOLLOW: Final = "/peernode/follow/1"
VERSION: Final = 2
ASK_SIZE_MAX_BYTES: Final = 16 * 1024
"""Largest question. Source: `AUTH_SIZE_MAX_BYTES` and what surrounds it."""
REPLY_SIZE_MAX_BYTES: Final = 4 << 20
"""Largest reply. Source: a job with 1 MiB of input, as much result, and what surrounds them."""
PIECE_SIZE_MAX_BYTES: Final = 256 * 1024
"""Most bytes of one piece of a stream. Source: guess; four of them cover a fast line."""
ACCEPT_LENGTH_MAX: Final = 256
LAST: Final = b"\x00"
"""The frame after the last piece; without it a stream was broken off."""
MORE: Final = b"\x01"
"""What stands before each piece."""

Operation: TypeAlias = Literal[
    "job.get", "job.cancel", "job.logs", "job.events", "blob.get", "blob.content", "blob.pass"
]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array whose first element is the kind."""


class Ask(Message, frozen=True, tag=1):
    """Do this for the user of this certificate."""

    version: int
    operation: Operation
    id: Id
    wait_ms: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    """How long the answer may wait for a change."""
    accept: Annotated[bytes, msgspec.Meta(max_length=ACCEPT_LENGTH_MAX)]
    after: Annotated[int, msgspec.Meta(ge=0)]
    """Events up to this number are known."""
    auth: Annotated[bytes, msgspec.Meta(max_length=AUTH_SIZE_MAX_BYTES)]


class Refusal(Message, frozen=True, tag=2):
    """No, and why: fields of a `Problem`."""

    code: str
    detail: bytes
    hint: bytes


class View(Message, frozen=True, tag=3):
    """The answer as its reader sees it."""

    revision: Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[0-9-]*\Z")]
    """Empty: it has none."""
    is_final: bool
    """It is not worth waiting for another."""
    media_type: Annotated[bytes, msgspec.Meta(max_length=128)]
    body: bytes


class Ended(Message, frozen=True, tag=4):
    """A job that is over."""

    request: bytes
    snapshot: bytes


class Row(Message, frozen=True, tag=5):
    """A blob's attributes in its home's words."""

    attributes: bytes
    passed: bytes | None
    """For a job at the node that asks."""


Reply: TypeAlias = Refusal | View | Ended | Row


def encode(message: Ask | Reply) -> bytes:
    """Return the frame of a message."""
    return codec.encode_struct(message)


def decode_ask(frame: bytes) -> Ask:
    """Return the question in a frame. Raises `RemoteProtocolError`."""
    return read_frame(frame, ASK_SIZE_MAX_BYTES, Ask, "a question")


def decode_reply(frame: bytes) -> Reply:
    """Return the reply in a frame. Raises `RemoteProtocolError`."""
    return read_frame(frame, REPLY_SIZE_MAX_BYTES, Reply, "a reply")  # type: ignore[arg-type]
