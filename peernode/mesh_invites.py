"""Mesh invites: the words with which one node lets another in.

    text = "pnm1." base64url(checksum (4) + strict CBOR of `Invite`)

An invite names its mesh, the node that made it by its key, where that node is, and a secret, which
is a MAC of the invite's name and date under a key that only the inviter's data directory holds.
So making one writes nothing, and the inviter needs no list to know its own again.  A node that may
have forgotten which were used makes all of them void (`generation`).

Whoever has the text may join once, until it ends, at that node only.  What goes over the network is
never the secret but `proof`, a MAC with it over the mesh and *both* nodes' keys, and the connection
has proved both keys already: a relay, or whoever records a join, learns nothing that a node with
another key could show.  The checksum finds text that was not copied whole; it keeps nobody out.

What it leaves out: burning (`membership`), and who may make one (`mesh_operations`).
"""

import base64
import binascii
import hashlib
import hmac
from typing import Annotated, Final

import msgspec

from storage import codec
from storage.certificates import Milliseconds
from storage.clock import Clock, Entropy
from storage.errors import InvalidData
from storage.signing import Hash, PublicKey
from storage.store import Put, Store, Table

PREFIX: Final = "pnm1."
TTL_DEFAULT_S: Final = 24 * 3600
"""How long an invite is good. Source: the contract; a day to walk over to the other machine."""
TTL_MAX_S: Final = 30 * 24 * 3600
"""Longest life of an invite. Source: guess; what lies around for longer has been forgotten."""
ADDRESSES_MAX: Final = 8
"""Most addresses of one node. Source: guess; two families on a few interfaces."""
ADDRESS_LENGTH_MAX: Final = 128
"""Longest address. Source: guess; a DNS name, a port and a transport."""
TEXT_LENGTH_MAX: Final = 2048
"""Longest text. Source: formula, the most and longest addresses in base64, and the rest."""
NAME_SIZE_BYTES: Final = 16
SECRET_SIZE_BYTES: Final = 16
"""Source: 128 bits, which nobody guesses over a network."""
PROOF_SIZE_BYTES: Final = 32
GENERATION_KEY: Final = b"invite_generation"
"""Row of `Table.META`: how often invites were made void (4 bytes); none is never."""
_CHECKSUM_SIZE_BYTES: Final = 4

Address = Annotated[
    str,
    msgspec.Meta(
        max_length=ADDRESS_LENGTH_MAX,
        pattern=r"^/(ip4|ip6|dns|dns4|dns6)/[0-9A-Za-z.:_-]+/tcp/[0-9]{1,5}\Z",
    ),
]
"""A libp2p multiaddress in text, without the peer id: TCP is what nodes speak."""
Addresses = Annotated[tuple[Address, ...], msgspec.Meta(max_length=ADDRESSES_MAX)]
InviteName = Annotated[bytes, msgspec.Meta(min_length=NAME_SIZE_BYTES, max_length=NAME_SIZE_BYTES)]
Secret = Annotated[bytes, msgspec.Meta(min_length=SECRET_SIZE_BYTES, max_length=SECRET_SIZE_BYTES)]
Proof = Annotated[bytes, msgspec.Meta(min_length=PROOF_SIZE_BYTES, max_length=PROOF_SIZE_BYTES)]


class Invite(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that a node needs to ask another to let it in. Whoever has it can."""

    mesh: Hash
    inviter_key: PublicKey
    addresses: Addresses
    name: InviteName
    expires_ms: Milliseconds
    secret: Secret

    def __repr__(self) -> str:
        """Say which invite it is, and not its secret."""
        return f"Invite(name={self.name.hex()})"


def make(
    operator_token: str,
    mesh: bytes,
    inviter_key: bytes,
    addresses: tuple[str, ...],
    entropy: Entropy,
    clock: Clock,
    ttl_s: float = TTL_DEFAULT_S,
    generation: int = 0,
) -> Invite:
    """Return a new invite of the node with this key."""
    name = entropy.token_bytes(NAME_SIZE_BYTES)
    expires_ms = clock.wall_ms() + int(ttl_s * 1000)
    secret = secret_of(operator_token, name, expires_ms, generation)
    return Invite(mesh, inviter_key, addresses, name, expires_ms, secret)


def secret_of(operator_token: str, name: bytes, expires_ms: int, generation: int = 0) -> bytes:
    """Return the secret of an invite that this node made, or would have made.

    `generation` counts how often all invites before were made void.
    """
    seed = b"peernode mesh invite\0" + operator_token.encode()
    if generation:
        seed += b"\0%d" % generation
    key = hashlib.sha256(seed).digest()
    body = name + expires_ms.to_bytes(8, "big")
    return hmac.digest(key, body, "sha256")[:SECRET_SIZE_BYTES]


def generation(store: Store) -> int:
    """Return how often a node's invites were made void."""
    return int.from_bytes(store.get(Table.META, GENERATION_KEY) or b"", "big")


def generation_row(generation: int) -> Put:
    """Return what makes void all invites of generations before."""
    return Table.META, GENERATION_KEY, generation.to_bytes(4, "big")


def proof(secret: bytes, mesh: bytes, inviter_key: bytes, joiner_key: bytes) -> bytes:
    """Return what shows the inviter that the joiner has the secret; 32 bytes."""
    # All three have 32 bytes, so they cannot run into each other.
    return hmac.digest(secret, b"peernode join 1\0" + mesh + inviter_key + joiner_key, "sha256")


def write(invite: Invite) -> str:
    """Return an invite as one line of text."""
    encoded = codec.encode_struct(invite)
    return PREFIX + base64.urlsafe_b64encode(_checksum(encoded) + encoded).decode().rstrip("=")


def read(text: str) -> Invite:
    """Return the invite in `text`. Raises `InvalidData`, whose message says what to do."""
    text = text.strip()
    if text.startswith("pni1."):
        raise InvalidData("this invite is for a user, not for a node; `peernode invite` makes one")
    if not text.startswith(PREFIX) or len(text) > TEXT_LENGTH_MAX:
        raise InvalidData(f"this is not an invite: one begins with {PREFIX}")
    encoded = text.removeprefix(PREFIX)
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    checksum, body = data[:_CHECKSUM_SIZE_BYTES], data[_CHECKSUM_SIZE_BYTES:]
    if not data or checksum != _checksum(body):
        raise InvalidData("the invite was not copied whole")
    return codec.decode_struct(body, TEXT_LENGTH_MAX, Invite)


def _checksum(encoded: bytes) -> bytes:
    return hashlib.sha256(encoded).digest()[:_CHECKSUM_SIZE_BYTES]
