"""Invites: how a node that is not open to everyone takes a new user.

An invite is a random name and a date, authenticated with a key that only this node's data
directory holds, so making one writes nothing and needs no running node.  Redeeming it burns its
name in the batch that makes the user, so it works once.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

from peernode.identity import Identity
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage.clock import Clock, Entropy
from storage.store import Table

PREFIX: Final = "pni1."
TTL_DEFAULT_MS: Final = 7 * 24 * 3600 * 1000
"""How long an invite is good. Source: guess, a week to read one's mail."""
_NAME_BYTES: Final = 16
_TAG_BYTES: Final = 16
_BURNT: Final = b"invite:"


def make(operator_token: str, entropy: Entropy, clock: Clock, ttl_ms: int = TTL_DEFAULT_MS) -> str:
    """Return a new invite's text."""
    body = entropy.token_bytes(_NAME_BYTES) + (clock.wall_ms() + ttl_ms).to_bytes(8, "big")
    data = body + _tag(operator_token, body)
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def _tag(operator_token: str, body: bytes) -> bytes:
    key = hashlib.sha256(b"peernode invite\0" + operator_token.encode()).digest()
    return hmac.digest(key, body, "sha256")[:_TAG_BYTES]


def redeem(transaction: Transaction, text: str, identity: Identity, clock: Clock) -> None:
    """Burn an invite; raises a `Problem` unless it is good and unused."""
    try:
        encoded = text.removeprefix(PREFIX)
        data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        data = b""
    body, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
    good = len(body) == _NAME_BYTES + 8 and hmac.compare_digest(
        _tag(identity.operator_token, body), tag
    )
    if not good:
        raise Problem("forbidden", "invite: this is not an invite of this node", field="invite")
    if int.from_bytes(body[_NAME_BYTES:], "big") < clock.wall_ms():
        raise Problem("forbidden", "invite: the invite has expired", field="invite")
    burnt = _BURNT + body[:_NAME_BYTES]
    if transaction.get(Table.META, burnt) is not None:
        raise Problem("forbidden", "invite: the invite was used before", field="invite")
    transaction.put(Table.META, burnt, body[_NAME_BYTES:])
