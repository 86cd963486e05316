"""Addresses of nodes, as text: `/ip4/192.0.2.1/tcp/4001`, also `ip6`, `dns`, `dns4` and `dns6`.

At the end there may be `/p2p/` and the peer's id.  Other transports are not for us and refused.
"""

import ipaddress
import socket
from typing import Final, NamedTuple

from storage import signing
from storage.errors import InvalidData

_NAMES: Final = ("dns", "dns4", "dns6")
_HOST_LENGTH_MAX: Final = 253
"""Source: RFC 1035."""
_FAMILIES: Final = {
    "ip4": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),
    "ip6": (socket.AF_INET6, "2001:db8::1", "::1"),
}
"""For each kind: the family, nobody's address (RFC 5737, RFC 3849) and the loopback.

Nothing is sent to nobody: the kernel is asked which address of ours the way out begins at.
"""


class Address(NamedTuple):
    """Where a node listens."""

    kind: str
    host: str
    port: int
    peer: str | None

    def __str__(self) -> str:
        """Return the text."""
        end = "" if self.peer is None else f"/p2p/{self.peer}"
        return f"/{self.kind}/{self.host}/tcp/{self.port}{end}"


def parse_address(written: str) -> Address:
    """Return what an address says. Raises `InvalidData`."""
    parts = written.split("/")
    if len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp" or parts[5:6] not in ([], ["p2p"]):
        raise InvalidData(f"not an address of TCP: {written[:100]!r}")
    kind, host, port = parts[1], parts[2], parts[4]
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidData(f"not a port: {port[:100]!r}")
    if not _is_host(kind, host):
        raise InvalidData(f"not a host: {host[:100]!r}")
    peer = parts[6] if len(parts) == 7 else None
    if peer is not None:
        signing.parse_peer_id(peer)
    return Address(kind, host, int(port), peer)


def _is_host(kind: str, host: str) -> bool:
    if kind in _NAMES:
        return host.isascii() and 0 < len(host) <= _HOST_LENGTH_MAX
    try:
        return ipaddress.ip_address(host).version == {"ip4": 4, "ip6": 6}.get(kind)
    except ValueError:
        return False


def reachable(address: Address) -> Address:
    """Return an address that others can use, where `address` says any of this machine's."""
    if not (address.kind in ("ip4", "ip6") and ipaddress.ip_address(address.host).is_unspecified):
        return address
    family, nowhere, loopback = _FAMILIES[address.kind]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((nowhere, 9))
            host = probe.getsockname()[0]
        except OSError:
            host = loopback
    return address._replace(host=host)
