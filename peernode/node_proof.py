"""How a node shows that it is the one: it signs a challenge, and where it was asked.

    statement = [1, challenge (32), host]       host as in the URL, such as "127.0.0.1:8440"

A client with a token asks `GET /health?challenge=...` before it shows the token to whoever answers
at a URL, and goes on only if a key signed that the token is for.  The host stands in the statement
so that a program at one address cannot pass on the answer of a node at another: a node signs only
for a host that it can be.  It cannot know all its names, so it looks at the port and, where the
host is a number, at the address that the connection came in at; behind a proxy it signs for any.

What it leaves out: the connection after that.  Over plain HTTP whoever sits between can still read
all of it; that is what TLS is for, and over TLS nothing is asked, since it names the host.
"""

import ipaddress
import re
from typing import Final

from storage import codec
from storage.errors import SignatureError
from storage.signing import NO_MESH, Keypair, verify as _verify

KIND: Final = "node-proof"
"""What a node signs it as."""
CHALLENGE_SIZE_BYTES: Final = 32
HOST_LENGTH_MAX: Final = 300
"""Longest host. Source: a DNS name of 253 characters and a port."""
PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)


def sign(keypair: Keypair, challenge: bytes, host: str) -> bytes:
    """Return a node's signature of a challenge that it was given at `host`."""
    return keypair.sign(KIND, NO_MESH, _statement(challenge, host))


def is_signed_by(key: bytes, challenge: bytes, host: str, signature: bytes) -> bool:
    """Tell whether the node of this key signed this challenge, given at `host`."""
    try:
        _verify(key, KIND, NO_MESH, _statement(challenge, host), signature)
    except SignatureError:
        return False
    return True


def can_be(host: str, address: tuple[str, int], scheme: str) -> bool:
    """Tell whether a connection that came in at `address` can have been made to `host`."""
    found = _HOST.fullmatch(host)
    if found is None or len(host) > HOST_LENGTH_MAX:
        return False
    name = found[1].strip("[]").lower()
    if int(found[2] or PORTS.get(scheme, 0)) != address[1]:
        return False
    here = _number(address[0])
    if name == "localhost":
        return here is not None and here.is_loopback
    there = _number(name)
    return there is None or there == here


def _number(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return found if mapped is None else mapped


def _statement(challenge: bytes, host: str) -> bytes:
    return codec.encode([1, challenge, host.lower()])
