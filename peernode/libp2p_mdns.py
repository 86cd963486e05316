"""Peers on the same network, found by multicast DNS: the services `_p2p._udp.local`.

A node says where it listens in the strings `dnsaddr=ADDRESS` of its TXT record, and hears what the
others say.  Nothing there is proved: whoever is found still has to show its key when it is dialled.

https://github.com/libp2p/specs/blob/master/discovery/mdns.md.  The service's name is the peer id
here, not a random word: the address says it anyway.  The answering and asking is zeroconf's, in
threads of its own.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import trio
from zeroconf import Error, InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from peernode.libp2p_address import parse_address
from storage.errors import InvalidData

SERVICE: Final = "_p2p._udp.local."
ANSWER_TIMEOUT_MS: Final = 3000
"""How long a found service is asked where it listens. Source: zeroconf's own default."""
STRINGS_MAX: Final = 32
"""Most strings of a TXT record that are looked at. Source: guess; four times what is used."""

_KEY: Final = b"dnsaddr="


def write_strings(addresses: Sequence[str]) -> bytes:
    """Return a TXT record of addresses."""
    strings = [_KEY + each.encode() for each in addresses]
    return b"".join(bytes([len(each)]) + each for each in strings if len(each) < 256)


def read_strings(text: bytes) -> dict[str, list[str]]:
    """Return the addresses of each peer in a TXT record; what is wrong is left out."""
    found: dict[str, list[str]] = {}
    start = 0
    for _ in range(STRINGS_MAX):
        if start >= len(text):
            break
        end = start + 1 + text[start]
        string = text[start + 1 : end]
        start = end
        if not string.startswith(_KEY):
            continue
        try:
            address = parse_address(string[len(_KEY) :].decode("ascii"))
        except (InvalidData, UnicodeDecodeError):
            continue
        if address.peer is not None:
            found.setdefault(address.peer, []).append(str(address))
    return found


class _Listener(ServiceListener):
    """Hears of services, in a thread of zeroconf's."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Ask a service where it listens."""
        info = zc.get_service_info(type_, name, timeout=ANSWER_TIMEOUT_MS)
        if info is not None and info.text is not None:
            self._heard(info.text)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Ask it again."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Nothing: whether a peer is up is its link's to say."""


async def run_mdns(
    peer: str,
    addresses: Sequence[str],
    interfaces: Sequence[str],
    found: Callable[[str, list[str]], None],
    report: Callable[[Exception], None],
) -> None:
    """Say where `peer` listens and tell `found` of others, until cancelled.

    `interfaces` are addresses of this machine; all of them if there are none.  `report` hears why
    it is not possible here: a node goes on without.
    """
    token = trio.lowlevel.current_trio_token()

    def hear(text: bytes) -> None:
        for other, listened in read_strings(text).items():
            if other != peer:
                found(other, listened)

    def heard(text: bytes) -> None:
        with suppress(trio.RunFinishedError):  # The node has ended meanwhile.
            token.run_sync_soon(hear, text)

    chosen: Any = list(interfaces) or InterfaceChoice.All
    try:
        _require_ours(interfaces)
        zeroconf = await trio.to_thread.run_sync(lambda: Zeroconf(interfaces=chosen))
    except OSError as error:
        report(error)
        return
    try:
        ServiceBrowser(zeroconf, SERVICE, _Listener(heard))
        info = ServiceInfo(
            SERVICE,
            f"{peer}.{SERVICE}",
            port=parse_address(addresses[0]).port,
            properties=write_strings(addresses),
            server=f"{peer}.local.",
            addresses=_packed(addresses),
        )
        await trio.to_thread.run_sync(lambda: zeroconf.register_service(info))
        await trio.sleep_forever()
    except (OSError, Error) as error:
        report(error)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(zeroconf.close)


def _require_ours(interfaces: Sequence[str]) -> None:
    """Raise `OSError` for what is no address of this machine; zeroconf would leave sockets open."""
    for host in interfaces:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))


def _packed(addresses: Sequence[str]) -> list[bytes]:
    parsed = map(parse_address, addresses)
    return [ipaddress.ip_address(each.host).packed for each in parsed if each.kind[:2] == "ip"]
