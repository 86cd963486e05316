"""Who a token speaks for: found offline, remembered, and forgotten when it stops being so.

    token    = "pn1." base64url(certificate) "." base64url(secret)
    operator = "pno1." ..., the line in the node's operator file

The certificate (`storage.certificates`) is the user's key's word that some nodes may act for the
user, narrowed by scopes, for a while; whoever shows the secret whose hash it holds is the user's
client.  A node needs nobody to check it: the key is among the facts it has.

Rules:

* One token, one audience: at another node it is refused, with a hint, so that what a node's
  operator could take is worth nothing elsewhere.
* A token dies with its time, its revocation here, its user, or a strict rotation of the user's key.
* A header seen before costs one look into a dictionary and one at the clock.  Tokens that are
  refused are not remembered, so that nobody can fill memory with them; each costs at most one
  signature, about 0.1 ms, and callers who send them are limited as callers without a token are.
* No message repeats any part of a token.

A revocation is a row of `Table.META`, `b"revoked:"` + user (8) + jti (8) -> expiry in ms (8), kept
until a day after the token would have ended by itself.  It stops the use of a token at this node's
API and says nothing about records (`storage.certificates`).  Rotating the key strictly ends every
token everywhere.

What it leaves out: passwords (`vault`), what the actor may do (`permissions`), and workers, which
show their own kind of token to `workers`.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from peernode.permissions import EVERYTHING, Actor, check_scopes
from peernode.problems import Problem
from storage import certificates, ids
from storage.certificates import AUDIENCE_MAX, Certificate, Terms, decode_certificate
from storage.clock import Clock, Entropy
from storage.errors import InvalidData
from storage.signing import Keypair
from storage.store import Delete, Put, Store, Table
from storage.users import UserChain

TOKEN_PREFIX: Final = "pn1."  # noqa: S105  (what a token begins with is no secret)
OPERATOR_PREFIX: Final = "pno1."
TOKEN_SIZE_MAX_BYTES: Final = 6144
"""Longest token. Source: formula, the largest certificate and a secret in base64."""

TTL_DEFAULT_S: Final = 24 * 3600
"""How long a token is good unless asked otherwise. Source: guess; a working day and a night."""
TTL_MIN_S: Final = 1
TTL_MAX_S: Final = 90 * 24 * 3600
"""Longest life of a token. Source: guess; a season, so that machines are seen to now and then."""
CLOCK_SKEW_MAX_MS: Final = 60_000
"""How much earlier a certificate begins than it is made, for nodes whose clocks are behind.
Source: the mesh defers what is more than 60 s in the future."""

REMEMBERED_MAX: Final = 16_384
"""Most tokens remembered as good. Source: about 2 KiB each, 32 MiB; the oldest goes first."""
REVOKED_PER_USER_MAX: Final = 1024
"""Most revoked tokens of one user, while they last. Source: guess; rotating the key ends all."""
REVOKED_KEPT_MS: Final = 24 * 3600 * 1000
"""How long a revocation outlives its token. Source: guess; longer than a clock is wrong unnoticed,
so that a clock that was ahead and steps back brings no revoked token to life."""

ANONYMOUS: Final = Actor(kind="anonymous")
OPERATOR: Final = Actor(kind="operator")

_SECRET_SIZE_BYTES: Final = 32
_JTI_SIZE_BYTES: Final = 8
_REVOKED: Final = b"revoked:"
_REVOKED_KEY_SIZE_BYTES: Final = len(_REVOKED) + 8 + _JTI_SIZE_BYTES
_LOADED_AT_ONCE: Final = 1000


class UserChains(Protocol):
    """Whose keys are whose."""

    def user(self, user: int) -> UserChain | None:
        """Return a user's keys, or `None` if the user is not known or deleted."""
        ...


@dataclass(frozen=True, slots=True)
class Session:
    """A token that was found good, and who shows it."""

    actor: Actor
    token: str = field(repr=False)
    expires_ms: int


class Sessions:
    """The tokens this node accepts. In memory, but for what is revoked."""

    def __init__(
        self,
        users: UserChains,
        store: Store,
        clock: Clock,
        *,
        mesh: bytes,
        node_key: bytes,
        operator_token: str,
        reached_ms: Callable[[], int] = lambda: 0,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        """`mesh` is the mesh's id, `node_key` this node's public key. Reads `store` once.

        `reached_ms`: the latest time that has certainly come, if the clock was put back.
        """
        self._reached_ms = reached_ms
        if not operator_token.startswith(OPERATOR_PREFIX) or remembered_max < 1:
            raise ValueError("an operator's token has its prefix, and something is remembered")
        self._users = users
        self._clock = clock
        self._mesh = mesh
        self._node_key = node_key
        self._operator_token = operator_token.encode("ascii")
        self._remembered_max = remembered_max
        self._remembered: dict[bytes, tuple[Actor, int]] = {}
        """Authorization header -> who, until when in ms; in the order of first use."""
        self._of_user: dict[int, dict[bytes, None]] = {}
        """User -> its headers in `_remembered`."""
        self._revoked: dict[int, dict[bytes, int]] = {}
        """User -> jti -> when the token would have ended, in ms."""
        self._load(store)

    def authenticate(self, header: bytes | None) -> Actor:
        """Return who sends this Authorization header; `None` is no header, and anonymous.

        Raises the `Problem` `unauthenticated`, `token_expired` or `token_wrong_node`.
        """
        if header is None:
            return ANONYMOUS
        # A dictionary tells a guesser nothing: it compares bytes only if their keyed hashes agree.
        remembered = self._remembered.get(header)
        if remembered is not None and self._clock.wall_ms() <= remembered[1]:
            return remembered[0]
        return self._meet(header)

    def accept(self, certificate: str, secret: str) -> Session:
        """Return the session of a certificate signed at home; both are base64url.

        Raises as `authenticate` does.
        """
        token = f"{TOKEN_PREFIX}{certificate}.{secret}"
        found = self.read(token.encode("utf-8", "replace"))
        return Session(_actor(found), token, found.terms.expires_ms)

    def read(self, token: bytes) -> Certificate:
        """Return the certificate of a user's token, if the token is good here and now.

        Raises as `authenticate` does.
        """
        certificate, secret = parse(token)
        terms = certificate.terms
        if self._node_key not in terms.audience:
            raise _refusal(
                "token_wrong_node",
                "this token is for other nodes",
                "log in at this node, or ask for a token with this node in its audience",
            )
        chain = self._users.user(terms.user)
        if (
            chain is None
            or chain.public_key(terms.epoch) != certificate.seal.public_key
            or not hmac.compare_digest(hashlib.sha256(secret).digest(), terms.secret_hash)
        ):
            raise _invalid()
        try:
            certificate.verify(self._mesh)
        except InvalidData:
            raise _invalid() from None
        # From here on whoever asks holds a real token, and may be told what is wrong with it.
        self.check_current(terms, chain)
        return certificate

    def invalidate(self, user: int) -> None:
        """Forget what is remembered of `user`: its keys changed, or it was deleted."""
        for header in self._of_user.pop(user, ()):
            del self._remembered[header]

    def revocation(self, terms: Terms) -> Put:
        """Return what a batch writes to revoke a token; `revoke` it once that is durable.

        Raises the `Problem` `conflict` if the user has revoked too many.
        """
        revoked = self._revoked.get(terms.user, {})
        if terms.jti not in revoked and len(revoked) >= REVOKED_PER_USER_MAX:
            raise Problem(
                "conflict",
                f"{REVOKED_PER_USER_MAX} tokens that have not ended yet are revoked",
                hint="rotate the key: that ends every token",
                limit=REVOKED_PER_USER_MAX,
            )
        return Table.META, _revoked_key(terms.user, terms.jti), terms.expires_ms.to_bytes(8, "big")

    def revoke(self, terms: Terms) -> None:
        """Refuse a token from now on."""
        self._revoked.setdefault(terms.user, {})[terms.jti] = terms.expires_ms
        self.invalidate(terms.user)

    def sweep(self) -> list[Delete]:
        """Forget revocations of tokens that ended long ago; return what a batch deletes for it."""
        ended_ms = self._clock.wall_ms() - REVOKED_KEPT_MS
        deletes: list[Delete] = []
        for user, revoked in list(self._revoked.items()):
            for jti in [jti for jti, expires_ms in revoked.items() if expires_ms < ended_ms]:
                del revoked[jti]
                deletes.append((Table.META, _revoked_key(user, jti)))
            if not revoked:
                del self._revoked[user]
        return deletes

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._remembered) <= self._remembered_max
        assert sum(map(len, self._of_user.values())) == len(self._remembered)
        for user, headers in self._of_user.items():
            assert headers
            assert all(self._remembered[header][0].user == user for header in headers)

    def _load(self, store: Store) -> None:
        start, stop = _REVOKED, _REVOKED + b"\xff" * 17
        while rows := store.scan(Table.META, start, stop, limit=_LOADED_AT_ONCE):
            for key, value in rows:
                if len(key) == _REVOKED_KEY_SIZE_BYTES and len(value) == 8:
                    user = int.from_bytes(key[len(_REVOKED) : -_JTI_SIZE_BYTES], "big")
                    revoked = self._revoked.setdefault(user, {})
                    revoked[key[-_JTI_SIZE_BYTES:]] = int.from_bytes(value, "big")
            start = rows[-1][0] + b"\0"

    def _meet(self, header: bytes) -> Actor:
        """Return who sends a header that is not remembered, or no longer good."""
        self._forget(header)
        scheme, _, token = header.partition(b" ")
        token = token.strip(b" ")
        if scheme.lower() != b"bearer":
            raise _invalid()
        if token.startswith(OPERATOR_PREFIX.encode()):
            if not hmac.compare_digest(token, self._operator_token):
                raise _invalid()
            return OPERATOR
        certificate = self.read(token)
        actor = _actor(certificate)
        self._remember(header, actor, certificate.terms.expires_ms)
        return actor

    def _remember(self, header: bytes, actor: Actor, expires_ms: int) -> None:
        if len(self._remembered) >= self._remembered_max:
            self._forget(next(iter(self._remembered)))
        self._remembered[header] = actor, expires_ms
        self._of_user.setdefault(actor.user, {})[header] = None

    def _forget(self, header: bytes) -> None:
        remembered = self._remembered.pop(header, None)
        if remembered is None:
            return
        user = remembered[0].user
        del self._of_user[user][header]
        if not self._of_user[user]:
            del self._of_user[user]

    def check_current(self, terms: Terms, chain: UserChain) -> None:
        """Raise the `Problem` of a certificate that is not good any more, or yet, at this node."""
        if not chain.floor <= terms.epoch:
            raise _refusal("unauthenticated", "the user's key was rotated", "log in again")
        if terms.jti in self._revoked.get(terms.user, ()):
            raise _refusal("unauthenticated", "this token was revoked", "log in again")
        now_ms = self._clock.wall_ms()
        if now_ms > terms.expires_ms:
            raise _refusal("token_expired", "this token has expired", "log in again")
        if max(now_ms, self._reached_ms()) < terms.not_before_ms:
            raise _refusal(
                "unauthenticated",
                "this token is not good yet",
                "compare the clocks of this node and of the one that made it",
            )
        if terms.expires_ms - terms.not_before_ms > TTL_MAX_S * 1000 + CLOCK_SKEW_MAX_MS:
            days = TTL_MAX_S // 86_400
            raise _refusal(
                "unauthenticated",
                f"this token lives longer than {days} days",
                "sign a certificate with a shorter life",
            )


def issue(
    user: int,
    epoch: int,
    keypair: Keypair,
    audience: Sequence[bytes],
    *,
    mesh: bytes,
    clock: Clock,
    entropy: Entropy,
    scopes: Sequence[str] = EVERYTHING,
    ttl_s: float = TTL_DEFAULT_S,
) -> tuple[str, int]:
    """Return a token, and when it ends in ms: `keypair`, the user's, lets `audience` act for it.

    `audience` are public keys of nodes.  Raises the `Problem` `invalid_field` for what is out of
    bounds, and names it.
    """
    if not TTL_MIN_S <= ttl_s <= TTL_MAX_S:
        raise Problem(
            "invalid_field",
            f"ttl_s: {ttl_s:g} is not {TTL_MIN_S} to {TTL_MAX_S} seconds",
            field="ttl_s",
            limit=TTL_MAX_S,
        )
    nodes = tuple(dict.fromkeys(audience))
    if not 0 < len(nodes) <= AUDIENCE_MAX:
        raise Problem(
            "invalid_field",
            f"audience: {len(nodes)} nodes; 1 to {AUDIENCE_MAX} are allowed",
            field="audience",
            limit=AUDIENCE_MAX,
        )
    check_scopes(scopes)
    secret = entropy.token_bytes(_SECRET_SIZE_BYTES)
    now_ms = clock.wall_ms()
    terms = Terms(
        user=user,
        epoch=epoch,
        audience=nodes,
        scopes=tuple(dict.fromkeys(scopes)),
        not_before_ms=now_ms - CLOCK_SKEW_MAX_MS,
        expires_ms=now_ms + int(ttl_s * 1000),
        secret_hash=hashlib.sha256(secret).digest(),
        jti=entropy.token_bytes(_JTI_SIZE_BYTES),
    )
    certificate = certificates.issue(keypair, mesh, terms)
    return f"{TOKEN_PREFIX}{encode(certificate.encoded)}.{encode(secret)}", terms.expires_ms


def encode(data: bytes) -> str:
    """Return `data` in base64url without padding, as it stands in tokens."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: bytes) -> bytes:
    """Return what `encode` wrote; refuses every other way to write it (`ValueError`)."""
    padded = text.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(text) % 4)
    data = binascii.a2b_base64(padded, strict_mode=True)
    if encode(data).encode("ascii") != text:
        raise ValueError("not canonical")
    return data


def parse(token: bytes) -> tuple[Certificate, bytes]:
    """Return a token's parts, none of them checked."""
    prefix, _, rest = token.partition(b".")
    encoded, _, secret = rest.partition(b".")
    if prefix + b"." != TOKEN_PREFIX.encode() or len(token) > TOKEN_SIZE_MAX_BYTES:
        raise _invalid()
    try:
        return decode_certificate(_decode(encoded)), _decode(secret)
    except (ValueError, InvalidData):
        raise _invalid() from None


def _actor(certificate: Certificate) -> Actor:
    terms = certificate.terms
    return Actor(
        kind="user",
        user=terms.user,
        scopes=terms.scopes,
        certificate=certificate.encoded,
    )


def _revoked_key(user: int, jti: bytes) -> bytes:
    return _REVOKED + ids.key(user) + jti


def _invalid() -> Problem:
    """Return the one answer for whatever is not a token of a user known here."""
    return _refusal(
        "unauthenticated",
        "this is not a token that is good at this node",
        "send Authorization: Bearer TOKEN; POST /user/NAME/login answers with a token",
    )


def _refusal(code: str, detail: str, hint: str) -> Problem:
    challenge = (("WWW-Authenticate", 'Bearer error="invalid_token"'),)
    return Problem(code, detail, hint=hint, headers=challenge)
