"""Delegation certificates: a user's key lets some nodes act for the user, for a while.

A user's key signs a certificate; a token is the certificate and a secret whose hash stands in it,
good at the nodes named in the audience only.  Those nodes sign the user's records with their own
keys and attach the certificate, never the secret, so a forgery names its forger and a stolen
certificate is worth nothing without either.

    certificate = [terms: bytes, seal of the user's key]
    terms       = [1, user, epoch, audience, scopes, not before, expires, secret hash, jti]

The certificate carries the user's public key, so its signature can be checked by anyone, at once;
whether that key is the user's at that epoch is `authority`'s question.

A **scope** is `CLASS` or `CLASS:VERB`, with `*` for all classes.  A record needs a scope of its
class with a verb that writes; what else a scope permits is decided where requests are answered.

What it leaves out: the clock (`is_current` takes the time) and revoked tokens.  A revocation stops
the use of a token at a node's API; it says nothing about records, since a rule that could discard
one record and keep an older one of the same author would make nodes diverge (`merge`).
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from storage import codec
from storage.errors import RecordError
from storage.ids import NODE_NUMBERS, Id
from storage.signing import Hash, Keypair, PublicKey, Seal

KIND: Final = "certificate"
"""What the user's key signs it as."""
CERTIFICATE_SIZE_MAX_BYTES: Final = 4096
"""Source: formula, the largest audience and scopes and what surrounds them."""
AUDIENCE_MAX: Final = 32
"""Most nodes in an audience. Source: guess; a tool fetches one token for each node it talks to."""
SCOPES_MAX: Final = 32
"""Most scopes. Source: guess; there are seven classes."""
SCOPE_LENGTH_MAX: Final = 64
WRITING_VERBS: Final = frozenset(
    {
        "",
        "create",
        "set",
        "delete",
        "add_member",
        "remove_member",
        "rollback",
        "key_put",
        "key_delete",
        "key_increment",
    }
)
"""Verbs whose scope lets a delegate sign records and facts; no verb at all is every verb."""

Jti = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Scope = Annotated[
    str, msgspec.Meta(max_length=SCOPE_LENGTH_MAX, pattern=r"^(\*|[a-z]+)(:[a-z_]+)?\Z")
]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 47)]


class Terms(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What a certificate says. Times are ms since 1970, both ends included."""

    version: Literal[1] = 1
    user: Id
    epoch: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    audience: Annotated[tuple[PublicKey, ...], msgspec.Meta(min_length=1, max_length=AUDIENCE_MAX)]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(max_length=SCOPES_MAX)]
    not_before_ms: Milliseconds
    expires_ms: Milliseconds
    secret_hash: Hash
    """SHA-256 of the token's secret."""
    jti: Jti
    """Names the token where it is revoked."""


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    terms: bytes
    seal: Seal


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What surrounds the body of a record or fact."""

    body: bytes
    certificate: bytes | None
    """Present if a node signs for a user."""
    seal: Seal
    """Of whoever signs the body."""
    home: Seal | None
    """Of the home node of what the body is about, where its consent is needed."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Signed terms, and the bytes they came in."""

    terms: Terms
    seal: Seal
    """Of the user's key."""
    body: bytes
    """The terms as they were received: what the signature covers."""
    encoded: bytes

    def encode(self) -> bytes:
        """Return the bytes it came in."""
        return self.encoded

    def verify(self, mesh: bytes) -> None:
        """Raise `SignatureError` unless the key in `seal` signed the terms."""
        self.seal.verify(KIND, mesh, self.body)

    def is_current(self, time_ms: int) -> bool:
        """Tell whether it is good at this time."""
        return self.terms.not_before_ms <= time_ms <= self.terms.expires_ms

    def may_write(self, class_name: str) -> bool:
        """Tell whether a scope covers records of this class."""
        for scope in self.terms.scopes:
            name, _, verb = scope.partition(":")
            if name in ("*", class_name) and verb in WRITING_VERBS:
                return True
        return False


def issue(keypair: Keypair, mesh: bytes, terms: Terms) -> Certificate:
    """Return `terms` signed with the user's key. Raises `InvalidData` if they break a rule."""
    body = codec.encode_struct(terms)
    return decode_certificate(codec.encode_struct(_Signed(body, keypair.seal(KIND, mesh, body))))


def decode_certificate(data: bytes) -> Certificate:
    """Return the certificate in `data`; its signature is not checked yet (`verify`).

    Raises `InvalidData`'s subclasses, and nothing else.
    """
    signed = codec.decode_struct(data, CERTIFICATE_SIZE_MAX_BYTES, _Signed)
    terms = codec.decode_struct(signed.terms, CERTIFICATE_SIZE_MAX_BYTES, Terms)
    if terms.user < NODE_NUMBERS:
        raise RecordError("a certificate's user has a node's number")
    if terms.not_before_ms > terms.expires_ms:
        raise RecordError("a certificate ends before it begins")
    return Certificate(terms, signed.seal, signed.terms, data)
