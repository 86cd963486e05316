"""Which addresses function code may reach: public ones, and networks that the operator named.

A project lists host *names*, and whoever owns a name decides where it points: at a metadata
service, a database beside the worker, the worker itself.  So each connection resolves its name
once, drops every address that is not public, and goes to one of those that are left; what the name
says a moment later changes nothing.

An address that wraps another (mapped, NAT64, 6to4, Teredo) is judged by what is inside.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NETWORKS_MAX: Final = 64
"""Most networks an operator names. Source: guess."""
_NAT64: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
)
"""Prefixes whose last 32 bits are an IPv4 address. Source: RFC 6052, RFC 8215."""
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
"""IPv4 addresses as IPv6 was once to carry them. Source: RFC 4291, section 2.5.5.1."""


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks in a list like `127.0.0.0/8,fd00::/8`; raises `ValueError`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) > NETWORKS_MAX:
        raise ValueError(f"more than {NETWORKS_MAX} networks")
    found = []
    for name in names:
        try:
            found.append(ipaddress.ip_network(name))
        except ValueError as error:
            raise ValueError(f"{name!r} is not a network like 10.0.0.0/8: {error}") from None
    return tuple(found)


def is_reachable(text: str, networks: Sequence[Network]) -> bool:
    """Tell whether function code may reach an address: public, or in one of the networks."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(
        _is_public(one) or any(one in network for network in networks) for one in _all(address)
    )


def _is_public(address: Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _all(address: Address) -> Iterator[Address]:
    """Yield the IPv4 addresses that an address leads to, or else the address."""
    inside: list[ipaddress.IPv4Address] = []
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo
        found = (address.ipv4_mapped, address.sixtofour, *(teredo or ()))
        inside += [one for one in found if one is not None]
        if any(address in prefix for prefix in _NAT64) or (
            address in _COMPATIBLE and int(address) > 0xFFFF
        ):
            inside.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if inside:
        yield from inside
    else:
        yield address
