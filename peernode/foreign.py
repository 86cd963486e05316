"""Any node answers for any job and any blob of its mesh.

    foreign = Foreign(node, network)          before anything is connected: it serves protocols
    node.foreign = foreign
    nursery.start_soon(foreign.run)

The home of an object is in its id (`storage.ids`).  Calls for objects of other nodes come here from
the API (`Operation.elsewhere`); the home is asked (`foreign_asking`), what it says is kept
(`foreign_rows`, `foreign_cache`) and answered without it when it cannot be asked.  What other nodes
ask is answered by `foreign_serving`.

| | asked of | kept | without the home |
|---|---|---|---|
| a job that is not over, its events and logs, `cancel` | its home | no | `unreachable` |
| a job that is over | its home | request and signed snapshot | from here, or a neighbour, `Stale` |
| a blob's attributes | its home | signed, a day | from here, or a neighbour, `Stale` |
| a blob's bytes | its home, then neighbours | block by block | from here, or neighbours |
| keys of a `cas` namespace | its home | no | `home_unreachable` |
| a user, project, function or namespace not known here yet | its home | as ever | `unreachable` |
| a function's source | its home, then neighbours | for as long as the function | from neighbours |

What it leaves out: lists (a node lists its own), changes but for `cancel` and such keys, and who
the members are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from gossip.errors import PeerError
from gossip.fetch_events import Block
from gossip.fetch_messages import Kind, Thing
from gossip.network import Network
from peernode.fetch_driver import FetchDriver
from peernode.foreign_asking import Asking
from peernode.foreign_blobs import ForeignBlobs
from peernode.foreign_cache import Cache
from peernode.foreign_config import Config
from peernode.foreign_ended import ForeignEnded
from peernode.foreign_jobs import ForeignJobs
from peernode.foreign_kv import ForeignKv
from peernode.foreign_members import Members
from peernode.foreign_objects import ForeignObjects
from peernode.foreign_passes import Passes
from peernode.foreign_serving import Serving
from peernode.foreign_sources import ForeignSources
from storage.cid import Cid

if TYPE_CHECKING:
    from peernode.node import Node

__all__ = ["Config", "Foreign"]


class Foreign:
    """A node's dealings with the jobs and blobs of others."""

    def __init__(self, node: "Node", network: Network, config: Config | None = None) -> None:
        config = config or Config()
        self._node = node
        self.members = Members(node, network)
        self.cache = Cache(
            node.store,
            node.blob_store,
            node.committer,
            node.content.offload,
            node.clock,
            size_max_bytes=config.cache_size_max_bytes,
            entries_max=config.cache_entries_max,
        )
        self.driver = FetchDriver(network, self, config.fetch, self._penalise)
        asking = Asking(node, network, self.members, config)
        self.jobs = ForeignJobs(node, node.store, asking, self.members, self.driver, config)
        self.blobs = ForeignBlobs(
            node, node.store, self.cache, asking, self.members, self.driver, config
        )
        self.sources = ForeignSources(node, self.cache, self.members, asking, self.driver, config)
        passes = Passes(node, self.members)
        self.serving = Serving(node, network, self.members, self.jobs, self.blobs, passes, config)
        self.ended = ForeignEnded(node, network, self.members, self.jobs, self.driver, config)
        self.kv = ForeignKv(node, network, self.members, passes, self.serving, config)
        self.objects = ForeignObjects(node, network, self.members, asking, self.serving, config)
        network.watch(self.sources.peer_changed)

    def is_elsewhere(self, id: int) -> bool:
        """Tell whether an object was made by another node."""
        return self.members.is_elsewhere(id)

    async def run(self) -> None:
        """Do what calls wait for, and fetch sources ahead, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.driver.run)
            nursery.start_soon(self.sources.run)

    def check(self) -> None:
        """Assert the invariants, but for those of `cache`, which take as long as it is large."""
        self.driver.check()
        self.jobs.check()
        self.blobs.check()
        self.sources.check()
        self.objects.check()

    # --- for the driver of fetching ---------------------------------------------------------

    async def look_up(
        self, thing: Thing, blocks: Sequence[Block]
    ) -> tuple[list[Cid], list[tuple[Cid, bytes]]]:
        """Return which blocks are here."""
        return await self.cache.look_up(thing, blocks)

    async def keep(self, thing: Thing, block: Block | None, data: bytes) -> str:
        """Keep what came, or return what is wrong with it."""
        if thing.kind is Kind.BLOB:
            return await self.cache.keep(thing, block, data)
        if thing.kind is Kind.ATTRIBUTES:
            return self.blobs.fault_of(thing.id, data)
        return self.jobs.verify(thing, block, data)

    def _penalise(self, peer: str, error: PeerError) -> None:
        self.members.blame(peer, error)
