"""Keeps peers connected: dials those that are not, address by address, and again later.

Delays double from one try to the next, and are drawn, so that nodes that lost each other at once do
not dial each other at once.  A link that comes from the other side, or new addresses, end a delay.
A link that was up, but not for long, was ended by a peer that is there, such as one that has two
processes with one key calling it: for a while it is dialled again soon, so that all are told.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol

import trio

from peernode.libp2p_address import Address, parse_address
from peernode.libp2p_config import Libp2pConfig
from storage import signing
from storage.errors import InvalidData

ADDRESSES_MAX: Final = 8
"""Most addresses of a peer that are tried. Source: guess; two networks with two families each."""
_DOUBLINGS_MAX: Final = 16
"""Where doubling ends, whatever the limit says; keeps numbers small."""
_TURN_DOUBLINGS_MAX: Final = 3
"""Where it ends for a peer that takes turns. Source: a greeting has a second; see `lives`."""


class Link(Protocol):
    """A connection to a peer, as far as it matters here."""

    @property
    def ended(self) -> trio.Event:
        """Set when it is over."""
        ...

    @property
    def was_up_s(self) -> float:
        """How long it was up."""
        ...


class _Known:
    """A peer that is to be connected."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = addresses
        self.changed = trio.Event()
        self.scope = trio.CancelScope()


class Supervisor:
    """The peers that are to be connected, each with a task in `nursery`."""

    def __init__(
        self,
        peer: str,
        config: Libp2pConfig,
        chance: random.Random,
        nursery: trio.Nursery,
        find: Callable[[str], Link | None],
        connect: Callable[[str, Sequence[Address]], Awaitable[Link | None]],
    ) -> None:
        """`find` returns the link to a peer, if there is one; `connect` tries to make it."""
        self._peer = peer
        self._config = config
        self._chance = chance
        self._nursery = nursery
        self._find = find
        self._connect = connect
        self._known: dict[str, _Known] = {}

    def add(self, peer: str, addresses: Sequence[str]) -> None:
        """Keep a peer connected; of one that is known, these addresses are new.

        Addresses beyond `ADDRESSES_MAX` and those of other peers are left out.  Raises
        `InvalidData` for one that is none, and for a peer that is this node or no Ed25519 key.
        """
        signing.parse_peer_id(peer)
        if peer == self._peer:
            raise InvalidData("that is this node itself")
        parsed = [parse_address(each) for each in addresses]
        usable = [each for each in parsed if each.peer in (None, peer)][:ADDRESSES_MAX]
        known = self._known.get(peer)
        if known is None:
            self._known[peer] = known = _Known(usable)
            self._nursery.start_soon(self._keep, peer, known)
        elif known.addresses != usable:
            known.addresses = usable
            known.changed.set()

    def suggest(self, peer: str, addresses: Sequence[str]) -> None:
        """Try these too, behind those that were told on better grounds. Raises `InvalidData`."""
        known = self._known.get(peer)
        before = [] if known is None else [str(each) for each in known.addresses]
        self.add(peer, list(dict.fromkeys([*before, *addresses])))

    def forget(self, peer: str) -> None:
        """Do not dial a peer any more; nothing if it is not known."""
        known = self._known.pop(peer, None)
        if known is not None:
            known.scope.cancel()

    def hosts(self) -> Iterator[str]:
        """Return where the peers are that are to be connected, as far as that is known."""
        return (address.host for known in self._known.values() for address in known.addresses)

    def wake(self, peer: str) -> None:
        """Note that a link to a peer has come about."""
        if peer in self._known:
            self._known[peer].changed.set()

    async def _keep(self, peer: str, known: _Known) -> None:
        failures = turns = 0
        with known.scope:
            while True:
                dialled = known.addresses
                link = self._find(peer) or await self._connect(peer, dialled)
                if link is not None:
                    await link.ended.wait()
                    if link.was_up_s >= self._config.stable_after_s:
                        failures = turns = 0
                    elif link.was_up_s and turns < self._config.turns_max:
                        failures = min(failures, _TURN_DOUBLINGS_MAX)
                        turns += 1
                # Our own dialling has set it too.
                known.changed = trio.Event()
                if self._find(peer) is None and known.addresses is dialled:
                    with trio.move_on_after(self._delay_s(failures)):
                        await known.changed.wait()
                    failures += 1

    def _delay_s(self, failures: int) -> float:
        delay_s = self._config.retry_delay_min_s * 2.0 ** min(failures, _DOUBLINGS_MAX)
        return min(delay_s, self._config.retry_delay_max_s) * self._chance.uniform(0.5, 1.0)
