"""What a node that wants in says to the node that invited it, and members to each other.

Strict CBOR, each message an array that begins with its kind.  `Ask` comes from strangers: its size
is limited before it is read, every part of it is, and it holds no secret.

What it leaves out: who says it.  The connection has proved the peer's key before a byte of this.
"""

from typing import Annotated, Final, TypeAlias

import msgspec

from peernode.life_statements import HEADS_MAX, Encoded
from peernode.mesh_invites import Addresses, InviteName, Proof
from storage import codec
from storage.certificates import Milliseconds
from storage.facts import FACT_SIZE_MAX_BYTES
from storage.signing import PublicKey

JOIN_PROTOCOL: Final = "/peernode/join/1"
"""A request that strangers may make: `Ask`, answered by `Admitted` or `Refused`."""
PEERS_PROTOCOL: Final = "/peernode/peers/2"
"""A request between members: `Greeting`, answered by `Greeted`."""
ASK_SIZE_MAX_BYTES: Final = 256
"""Source: formula, 63 bytes and room for another version's."""
GREETING_SIZE_MAX_BYTES: Final = 4096
"""Source: formula, the most and longest addresses fit, and the most lives."""
KNOWN_MAX: Final = 128
"""Most other nodes whose addresses one answer names. Source: guess; more than anybody dials."""
ANSWER_SIZE_MAX_BYTES: Final = 1 << 20
"""Longest answer. Source: guess; some 3000 admissions. What does not fit, reconciliation brings."""
DETAIL_LENGTH_MAX: Final = 256
_FACTS_MAX: Final = ANSWER_SIZE_MAX_BYTES // 128
"""Source: formula; a fact holds a key and a signature, and is longer than 128 bytes."""
_FACT = Annotated[bytes, msgspec.Meta(max_length=FACT_SIZE_MAX_BYTES)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Whereabouts(Message, frozen=True):
    """Where a node was reached, or says that it is."""

    public_key: PublicKey
    addresses: Addresses


_Known = Annotated[tuple[Whereabouts, ...], msgspec.Meta(max_length=KNOWN_MAX)]
_Shown = Annotated[tuple[Encoded, ...], msgspec.Meta(max_length=HEADS_MAX)]


class Ask(Message, frozen=True, tag=1):
    """Let me in. The key is the connection's."""

    invite_name: InviteName
    expires_ms: Milliseconds
    proof: Proof


class Admitted(Message, frozen=True, tag=2):
    """You are in."""

    genesis: _FACT
    facts: Annotated[tuple[_FACT, ...], msgspec.Meta(max_length=_FACTS_MAX)]
    """Of nodes: at least those that lead from the genesis to the new one's grant."""
    known: _Known


class Refused(Message, frozen=True, tag=3):
    """You are not."""

    detail: Annotated[str, msgspec.Meta(max_length=DETAIL_LENGTH_MAX)]
    again: bool
    """It may go well a little later."""


class Greeting(Message, frozen=True, tag=4):
    """Here I can be reached, this is my life, and these I have seen of you."""

    addresses: Addresses
    life: Encoded
    shown: _Shown


class Greeted(Message, frozen=True, tag=5):
    """And I here, and others there, as far as I know; and the same of lives."""

    addresses: Addresses
    known: _Known
    life: Encoded
    shown: _Shown


Answer: TypeAlias = Admitted | Refused

encode = codec.encode_struct


def decode_ask(data: bytes) -> Ask:
    """Return the request in `data`. Raises `InvalidData`'s subclasses only, as all of these do."""
    return codec.decode_struct(data, ASK_SIZE_MAX_BYTES, Ask)


def decode_answer(data: bytes) -> Answer:
    """Return the inviter's answer in `data`."""
    return codec.decode_struct(
        data,
        ANSWER_SIZE_MAX_BYTES,
        Answer,  # type: ignore[arg-type]
    )


def decode_greeting(data: bytes) -> Greeting:
    """Return the greeting in `data`."""
    return codec.decode_struct(data, GREETING_SIZE_MAX_BYTES, Greeting)


def decode_greeted(data: bytes) -> Greeted:
    """Return the answer to a greeting in `data`."""
    return codec.decode_struct(data, ANSWER_SIZE_MAX_BYTES, Greeted)
