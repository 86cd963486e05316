"""What makes a node one of a mesh: its part in gossip and reconciliation, put together.

A node without a network has none of this, imports none of it, and pays for none of it.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from gossip.errors import PENALTY_FORGED, PeerError
from gossip.network import Network
from gossip.sync import Sync
from gossip.sync_events import SyncConfig
from gossip.sync_messages import Stratum
from peernode.gossip_driver import GossipDriver
from peernode.offering import Offering
from peernode.records_in import EARLY_RETRY_S, Checker, Ingestion
from peernode.standing import Standing
from peernode.standing_rows import StandingRows
from peernode.sync_driver import SyncDriver
from storage.errors import StoreError
from storage.facts import Fact
from storage.records import Record

if TYPE_CHECKING:
    from peernode.node import Node

STANDING_SAVE_S: Final = 10.0
"""Pause between two looks at what is held against whom, to be written. Source: guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """How a peer that is up stands."""

    peer: str
    synced_s: float | None
    """Seconds since the last reconciliation with it; `None`: there was none yet."""
    penalty: float
    """What it gave that was wrong for good, summed up; it is cut off at 80."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshStatus:
    """What this node has to do with others, now."""

    peers: tuple[PeerStatus, ...]
    facts: int
    records: int
    """Known here and offered to others."""
    waiting: int
    """Taken in, and waiting for facts or for their time."""
    kept: int
    """Facts and records of others that were kept since the start."""
    published: int
    """Messages of this node since the start."""
    sessions: int
    """Reconciliations that ended well since the start."""
    is_loaded: bool
    """Whether all that is on the disk is offered yet."""


class Federation:
    """The parts of a node that know of other nodes. Its registry tells it what is kept."""

    def __init__(self, node: "Node", network: Network, chance: random.Random) -> None:
        identity = node.identity
        self._node = node
        self._network = network
        checker = Checker(identity.mesh)
        self._rows = StandingRows(node.store)
        now, wall_ms = trio.current_time(), node.clock.wall_ms()
        self.standing = Standing(self._blamed, self._rows.load_accounts(now, wall_ms))
        self.ingestion = Ingestion(
            checker=checker,
            store=node.store,
            transactions=node.transactions,
            registry=node.registry,
            content=node.content,
            timestamps=node.timestamps,
            number=identity.number,
        )
        sync = Sync(SyncConfig(), network.peer, identity.mesh)
        self.offering = Offering(sync, node.store, node.registry, node.content.offload)
        self.gossip = GossipDriver(
            mesh=identity.mesh,
            keypair=identity.keypair,
            network=network,
            checker=checker,
            ingestion=self.ingestion,
            standing=self.standing,
            is_member=lambda public_key: node.membership.is_member(public_key),
            chance=chance,
            # Grows over restarts, whatever the clock does, and is near its time.
            seqno=node.timestamps.tick(),
            warn=node.log.warning,
            scores=self._rows.load_scores(wall_ms),
        )
        self.sync = SyncDriver(
            sync=sync,
            network=network,
            offering=self.offering,
            ingestion=self.ingestion,
            standing=self.standing,
            clock=node.clock,
            entropy=node.entropy,
            chance=chance,
            interval_s=node.config.sync_interval_s,
            warn=node.log.warning,
            synced=self._synced,
        )
        network.watch_faults(self._fault)
        node.registry.hear(self)

    async def run(self) -> None:
        """Take part until cancelled; what peers still send then is not heard."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.offering.run)
                nursery.start_soon(self.gossip.run)
                nursery.start_soon(self.gossip.take_in)
                nursery.start_soon(self.sync.run)
                nursery.start_soon(self._retry_early)
                nursery.start_soon(self._save_standing)
        finally:
            self._write_standing()
            self.gossip.close()
            self.sync.close()

    def status(self) -> MeshStatus:
        """Return how this node stands in its mesh."""
        now = trio.current_time()
        machine = self.sync.sync
        peers = [
            PeerStatus(
                peer=peer,
                synced_s=None if (at := self.sync.last_at.get(peer)) is None else now - at,
                penalty=self.standing.penalty(peer, now),
            )
            for peer in self._network.peers()
        ]
        return MeshStatus(
            peers=tuple(peers),
            facts=machine.count(Stratum.FACTS),
            records=machine.count(Stratum.RECORDS),
            waiting=len(self.ingestion.waiting),
            kept=self.ingestion.kept,
            published=self.gossip.mesh.statistics().published,
            sessions=self.sync.sessions,
            is_loaded=self.offering.loaded.is_set(),
        )

    def fact_kept(self, fact: Fact) -> None:
        """Tell others of a fact that was made here."""
        if not self.ingestion.is_arriving(fact.id):
            self.gossip.publish(fact)

    def record_kept(self, record: Record, replaced: Record | None) -> None:
        """Tell others of a record that was made here."""
        if not self.ingestion.is_arriving(record.rid):
            self.gossip.publish(record)

    def _synced(self, peer: str) -> None:
        if self._node.peering is not None:
            self._node.peering.note_sync(peer)

    async def _retry_early(self) -> None:
        while True:
            await trio.sleep(EARLY_RETRY_S)
            if not self.ingestion.waiting.early:
                continue
            try:
                refused = await self.ingestion.retry_early()
            except StoreError as error:
                self._node.log.warning("could not keep what waited", error=str(error))
                continue
            now = trio.current_time()
            for refusal in refused:
                self.standing.blame(refusal.sender, PENALTY_FORGED, refusal.reason, now)

    async def _save_standing(self) -> None:
        while True:
            await trio.sleep(STANDING_SAVE_S)
            self.standing.forget(trio.current_time())
            self._write_standing()

    def _write_standing(self) -> None:
        now = trio.current_time()
        scores = self.gossip.mesh.saved_scores(now)
        self._rows.save(self.standing.take_changed(), scores, now, self._node.clock.wall_ms())

    def _fault(self, peer: str, error: PeerError) -> None:
        self.standing.blame(peer, error.penalty, str(error), trio.current_time())

    def _blamed(self, peer: str, reason: str, total: float) -> None:
        log = self._node.log
        log.warning("a peer gave something wrong", peer=peer, reason=reason, sum=total)
        self.gossip.appraise(peer)
        if self.standing.is_cut(peer, trio.current_time()) and self._node.peering is not None:
            log.warning("a peer is cut off", peer=peer, reason=reason)
            self._node.peering.look_again()
