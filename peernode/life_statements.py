"""What a node signs of its lives, and what its peers keep of that.

A *life* is one run of a node: the number of its start and 16 random bytes.

    life = [body, seal of the node];  body = [1, boot, nonce, at_ms, past]

`at_ms` grows with every signing, and all ids and timestamps that the life gave out lie below it.
`past` are the lives before it that the node knows of, each up to which `at_ms`; latest last, and no
more than `PAST_MAX`.

A life *covers* another if its node knew of that one, and of what it last said, when it signed.  A
peer keeps the *heads* of each member: lives that none of the others covers.  A member that goes on
from its own disk has one head.  Two heads are a directory that was put back as it was, or that runs
twice.

What it leaves out: what a node does that is shown a life of its own which it does not know
(`lives`).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from storage import codec
from storage.certificates import Milliseconds
from storage.errors import SignatureError
from storage.signing import Keypair, Seal

KIND: Final = "life"
"""What a node signs it as."""
NONCE_SIZE_BYTES: Final = 16
PAST_MAX: Final = 8
"""Most lives before it that a life names. Source: guess; starts while a peer was away."""
HEADS_MAX: Final = 4
"""Most heads of one member that are kept. Source: guess; two is one too many."""
LIFE_SIZE_MAX_BYTES: Final = 512
"""Source: formula, 8 lives of 33 bytes, and a seal of 102."""

VERIFIED_KEPT_MAX: Final = 1024
"""Lives that need not be verified again. Source: guess; four of each of 256 peers, 1 MB."""

Boot: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
"""Number of a start. Source: a fence holds it in its upper 31 bits."""
Nonce: TypeAlias = Annotated[
    bytes, msgspec.Meta(min_length=NONCE_SIZE_BYTES, max_length=NONCE_SIZE_BYTES)
]
Before: TypeAlias = tuple[Boot, Nonce, Milliseconds]
"""A life that is known, up to a time."""
Encoded: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=LIFE_SIZE_MAX_BYTES)]
"""A signed life as a field of something decoded."""


class Life(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A run of a node, in its own words."""

    version: Literal[1]
    boot: Boot
    nonce: Nonce
    at_ms: Milliseconds
    past: Annotated[tuple[Before, ...], msgspec.Meta(max_length=PAST_MAX)]


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: bytes
    seal: Seal


def sign(keypair: Keypair, mesh: bytes, life: Life) -> bytes:
    """Return a life as its node shows it to others."""
    body = codec.encode_struct(life)
    return codec.encode_struct(_Signed(body, keypair.seal(KIND, mesh, body)))


@lru_cache(maxsize=VERIFIED_KEPT_MAX)
def verify(data: bytes, mesh: bytes, public_key: bytes) -> Life:
    """Return the life in `data`, signed by the node of this key. Raises `InvalidData`.

    Peers show the same ones again at each greeting, so the last that were good are kept.
    """
    signed = codec.decode_struct(data, LIFE_SIZE_MAX_BYTES, _Signed)
    if signed.seal.public_key != public_key:
        raise SignatureError("a life that another key has signed")
    signed.seal.verify(KIND, mesh, signed.body)
    return codec.decode_struct(signed.body, LIFE_SIZE_MAX_BYTES, Life)


def last_of(past: Iterable[Before]) -> tuple[Before, ...]:
    """Return what a life names of the lives before it."""
    return tuple(sorted(past)[-PAST_MAX:])


def covers(life: Life, other: Life) -> bool:
    """Tell whether the node of `life` knew of `other` when it signed.

    Lives from before the first that `life` has room to name are taken for known.
    """
    if life.nonce == other.nonce:
        return other.at_ms <= life.at_ms
    for _, nonce, at_ms in life.past:
        if nonce == other.nonce:
            return other.at_ms <= at_ms
    return len(life.past) == PAST_MAX and other.boot < life.past[0][0]


def merge(heads: Sequence[Life], life: Life) -> list[Life]:
    """Return the heads of a member after it has shown `life`."""
    if any(covers(head, life) for head in heads):
        return list(heads)
    kept = [head for head in heads if not covers(life, head)]
    return sorted([*kept, life], key=lambda head: head.at_ms)[-HEADS_MAX:]
