"""Whether it is the node that a token is for, before the token is shown to it.

A user's token names the keys of the nodes at which it is good.  Over plain HTTP whoever answers at
a URL first proves that it has one of them (`peernode.node_proof`), once a client and again after a
connection was lost: another program may have the port by then.  Over TLS the certificate has named
the host, and nothing is asked.  Before a password is sent, the node proves the key that was kept
when this URL was logged in at last; the first time there is none, and the node is believed.

What a token is, is not this module's business: a text that names no keys is sent as it is.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from peernode.client.effects import Reply, Request
from peernode.client.errors import WrongNode

TIMEOUT_S: Final = 10.0
"""How long a node has for its proof. Source: guess; it is one signature."""
_USER_PREFIX: Final = "pn1."


class _Health(msgspec.Struct):
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A proof that is asked for."""

    url: str
    keys: tuple[bytes, ...]
    """One of them will do."""
    challenge: bytes
    request: Request


def audience(token: str) -> tuple[bytes, ...]:
    """Return the keys of the nodes at which a user's token is good; none if it names none."""
    if not token.startswith(_USER_PREFIX):
        return ()
    from storage.certificates import decode_certificate
    from storage.errors import InvalidData

    encoded = token.removeprefix(_USER_PREFIX).partition(".")[0]
    try:
        data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        return decode_certificate(data).terms.audience
    except (binascii.Error, ValueError, InvalidData):
        return ()


def key_of(token: str) -> str:
    """Return the key in hex of the one node that a token is for; nothing, if it is for more."""
    keys = audience(token)
    return keys[0].hex() if len(keys) == 1 else ""


def want(url: str, keys: tuple[bytes, ...], challenge: bytes) -> Wanted | None:
    """Return what the node at `url` is asked to prove; nothing, where TLS does that."""
    if not keys or urlsplit(url).scheme == "https":
        return None
    query = (("challenge", challenge.hex()),)
    request = Request(
        method="GET", path="/health", query=query, repeatable=True, timeout_s=TIMEOUT_S
    )
    return Wanted(url, keys, challenge, request)


def check(wanted: Wanted, reply: Reply) -> None:
    """Return if the node has proved what was asked. Raises `WrongNode`."""
    from peernode.node_proof import is_signed_by

    host = urlsplit(wanted.url).netloc.rpartition("@")[2]
    try:
        signature = bytes.fromhex(msgspec.json.decode(reply.content, type=_Health).proof)
    except (msgspec.DecodeError, ValueError):
        signature = b""
    if not any(is_signed_by(key, wanted.challenge, host, signature) for key in wanted.keys):
        raise WrongNode(wanted.url)
