"""Sources and wheels of functions that did not come in here and do not ride in their records.

A node that is cut off runs what it knows, so a source is fetched as soon as its function is known,
kept for as long as some version of a function needs it, and fetched again when a home comes back
that could not be asked.  Who calls a function whose source is not here yet waits for it.

A home that has lost sources of its own, with a disk that was put back, fetches them likewise.

A source is what every node of the mesh may have, as it has those that ride along: it is asked for
in the node's own name and without anybody's certificate.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from gossip.fetch_events import Found, Missing, TimedOut, Unreachable as NotReached
from gossip.fetch_messages import Kind, Thing
from gossip.network import PeerEvent, PeerUp
from peernode.attributes import FunctionAttributes, Version
from peernode.fetch_driver import FetchDriver
from peernode.foreign_asking import Asking
from peernode.foreign_cache import Cache
from peernode.foreign_config import Config
from peernode.foreign_members import Members
from peernode.problems import Problem
from peernode.wheel_rows import contents_of
from storage import ids
from storage.cid import Cid
from storage.errors import StorageError
from storage.places import Class
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

PENDING_MAX: Final = 65_536
"""Most functions that wait for a source; others get theirs when they are called. Source: guess."""


class ForeignSources:
    """Fetches sources, ahead and when they are needed."""

    def __init__(
        self,
        node: "Node",
        cache: Cache,
        members: Members,
        asking: Asking,
        driver: FetchDriver,
        config: Config,
    ) -> None:
        self._node = node
        self._cache = cache
        self._members = members
        self._asking = asking
        self._driver = driver
        self._config = config
        self._pending: OrderedDict[int, None] = OrderedDict()
        """Functions some of whose sources may not be here."""
        self._cids: dict[int, tuple[Cid, ...]] = {}
        """Sources that are kept for a function."""
        self._changed = trio.Event()
        node.registry.watch(self._object_changed)

    def prefetch(self, function: int) -> None:
        """Have a function's sources fetched, unless they are here."""
        if len(self._pending) < PENDING_MAX:
            self._pending[function] = None
            self._changed.set()

    async def ready(self, function: int, number: int | None) -> None:
        """Return when the source of a version is here (`None`: of the current one).

        Raises the `Problem` `unreachable` if nobody who may have it can be asked.
        """
        entry = self._node.registry.get(Class.FUNCTION, function)
        if entry is None:
            return
        attributes: FunctionAttributes = entry.attributes
        wanted = attributes.current if number is None else number
        for version in attributes.versions:
            if version.version == wanted:
                for cid, size_bytes in self._lacking(function, attributes, version):
                    await self._fetch(function, cid, size_bytes)

    async def run(self) -> None:
        """Fetch ahead until cancelled."""
        for function in self._node.registry.all(Class.FUNCTION):
            self._object_changed(Class.FUNCTION, function)
        limiter = trio.CapacityLimiter(self._config.prefetches_max)
        while True:
            self._changed = trio.Event()
            todo = list(self._pending)
            async with trio.open_nursery() as nursery:
                for function in todo:
                    nursery.start_soon(self._try, function, limiter)
            with trio.move_on_after(self._config.retry_s if self._pending else float("inf")):
                await self._changed.wait()

    def peer_changed(self, event: PeerEvent) -> None:
        """Try again with a node that came back."""
        if isinstance(event, PeerUp) and self._pending:
            self._changed.set()

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._pending) <= PENDING_MAX

    async def _try(self, function: int, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            entry = self._node.registry.get(Class.FUNCTION, function)
            try:
                if entry is not None:
                    for version in entry.attributes.versions:
                        await self.ready(function, version.version)
            except (Problem, StorageError) as error:
                self._node.log.debug(
                    "a source is not to be had", function=str(function), error=str(error)
                )
            else:
                self._pending.pop(function, None)

    def _lacking(
        self, function: int, attributes: FunctionAttributes, version: Version
    ) -> list[tuple[Cid, int]]:
        """Return CID and size of what a version needs and is not here."""
        source, *wheels = contents_of(attributes, version)
        rides_along = attributes.source is not None and version is attributes.versions[-1]
        return [
            (cid, size_bytes)
            for cid, size_bytes in (wheels if rides_along else (source, *wheels))
            if not self._is_ours(function, cid) and not self._cache.is_complete(cid)
        ]

    def _is_ours(self, function: int, cid: Cid) -> bool:
        """Tell whether this node keeps a source or wheel because it came in here."""
        return self._node.store.get(Table.SOURCES, ids.key(function) + cid) is not None

    async def _fetch(self, function: int, root: Cid, size_bytes: int) -> None:
        async with self._cache.hold(root, size_bytes, lasting=True) as entry:
            if entry.is_complete:
                return
            outcome = await self._driver.fetch(
                Thing(Kind.BLOB, function, bytes(root)),
                b"",
                self._members.providers(function),
                self._config.ask_timeout_s,
            )
            if isinstance(outcome, Found):
                self._cache.complete(entry)
                return
        match outcome:
            case NotReached(peers, _) | TimedOut(peers, _) | Missing(peers):
                numbers = self._members.numbers(peers)
            case _:
                numbers = []
        raise self._asking.unreachable("function", function, numbers)

    def _object_changed(self, class_: Class, id: int) -> None:
        if class_ is not Class.FUNCTION:
            return
        entry = self._node.registry.get(Class.FUNCTION, id)
        now: tuple[Cid, ...] = ()
        if entry is not None:
            attributes: FunctionAttributes = entry.attributes
            needed_here = [c for v in attributes.versions for c, _ in contents_of(attributes, v)]
            now = tuple(c for c in dict.fromkeys(needed_here) if not self._is_ours(id, c))
            if any(self._lacking(id, attributes, version) for version in attributes.versions):
                self.prefetch(id)
        before = self._cids.pop(id, ())
        if now:
            self._cids[id] = now
        gone = [cid for cid in before if cid not in now]
        if gone:
            needed = {cid for cids in self._cids.values() for cid in cids}
            for cid in gone:
                if cid not in needed:
                    self._cache.release(cid)
