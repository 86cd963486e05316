"""The composition root: one node, made of its parts, and nothing else knows everything.

`open_node` owns all that runs; when its block ends, what was accepted is on the disk.  A simulation
opens the same node with other `Seams`.
"""

import importlib.metadata
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from peernode import names, sweeper
from peernode.api import Api, App
from peernode.attachments import Attachments
from peernode.calls import Call, number
from peernode.carrying import Carrying
from peernode.classes import CLASSES
from peernode.committer import Committer
from peernode.config import Config, certificate_pin
from peernode.content import Content, Offload
from peernode.dispatch import Dispatch
from peernode.edge_calls import EdgeCalls
from peernode.identity import Identity, Secrets, load_secrets, open_identity
from peernode.jobs import Jobs
from peernode.live_jobs import LiveJobs
from peernode.lives_driver import LivesDriver
from peernode.logs import Log
from peernode.membership import Membership
from peernode.mesh_operations import OPERATIONS
from peernode.peering import Peering, PeerNetwork
from peernode.programs import Programs
from peernode.rate_limits import Anonymous, Config as RateConfig, Logins
from peernode.registry import Registry
from peernode.sessions import Sessions
from peernode.spaces import Spaces
from peernode.traffic import Traffic
from peernode.transactions import Transactions
from peernode.vault import Config as VaultConfig, Vault
from peernode.workers import Workers, key_pin
from storage import blobs, blocks, facts, hlc, ids, lmdb_store
from storage.certificates import Certificate
from storage.clock import Clock, Entropy, SystemClock, SystemEntropy
from storage.errors import InvalidData
from storage.facts import Fact
from storage.places import Class
from storage.store import Batch, Store, Table
from worker.config import Config as SchedulerConfig
from worker.events import Drain
from worker.scheduler import Scheduler

LOGIN_CONCURRENCY_MAX: Final = 2
"""Passwords tried at once. Source: each takes a core and 64 MiB."""
IDS_MARK: Final = b"ids"
TIMESTAMPS_MARK: Final = b"timestamps"
"""Rows of `Table.META`: high-water marks of ids and of timestamps."""
STORE_DIRECTORY: Final = "store"
BLOCKS_DIRECTORY: Final = "blocks"

if TYPE_CHECKING:
    from peernode.federation import Federation, MeshStatus
    from peernode.foreign import Foreign

T = TypeVar("T")


async def _in_thread(function: Callable[..., T], /, *args: Any) -> T:
    return await trio.to_thread.run_sync(function, *args)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """What a node takes from the world. The defaults are the real one."""

    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)
    offload: Offload = _in_thread
    store: Store | None = None
    """`None`: LMDB in the data directory, and content beside it."""
    secrets: Secrets | None = None
    """`None`: files in the data directory."""
    network: PeerNetwork | None = None
    """`None`: a node by itself."""
    traffic: Traffic = field(default_factory=Traffic)
    """What the network counts."""
    chance: random.Random = field(default_factory=random.Random)
    """For choices among peers."""


class Node:
    """One node. Its parts are its attributes; see their modules."""

    def __init__(self, config: Config, seams: Seams, store: Store, nursery: trio.Nursery) -> None:
        self.config = config
        self.log = Log(config.log_level)
        self.clock = seams.clock
        self.entropy = seams.entropy
        self.traffic = seams.traffic
        self.store = store
        self.version = importlib.metadata.version("peernode")
        self._nursery = nursery
        self._closing = False
        self._passwords = trio.CapacityLimiter(LOGIN_CONCURRENCY_MAX)
        self._changes: dict[int, trio.Event] = {}
        """Object -> what wakes those who wait for it to change."""
        self._offload = seams.offload
        secrets = seams.secrets or load_secrets(config.data, seams.entropy)
        self.identity: Identity = open_identity(store, secrets, config.mesh_name, seams.clock)
        self.committer = Committer(store)
        self.transactions = Transactions(self.committer)
        self.lives = LivesDriver(self)
        self.ids = ids.IdFactory(
            seams.clock,
            self.identity.number,
            *self._mark(IDS_MARK, lambda: self.ids.confirm),
            self.lives.require,
        )
        self.timestamps = hlc.HybridClock(
            seams.clock,
            *self._mark(TIMESTAMPS_MARK, lambda: self.timestamps.confirm),
            self.lives.require,
        )
        self.registry = Registry(store, self.identity, self.timestamps)
        self.spaces = Spaces(
            store,
            self.registry,
            seams.clock,
            self.timestamps,
            self.identity.number,
            self.lives.require,
        )
        directory = None if seams.store is not None else config.data / BLOCKS_DIRECTORY
        self.blob_store = blobs.BlobStore(
            store, directory, blocks.Config(size_max_bytes=config.blob_size_max_bytes)
        )
        self.content = Content(store, self.blob_store, seams.clock, seams.offload)
        self.programs = Programs(self.registry, self.content)
        self.vault = Vault(
            store,
            self.identity.pepper,
            seams.entropy,
            VaultConfig(memory_bytes=config.password_memory_bytes, passes=config.password_passes),
        )
        self.sessions = Sessions(
            self.registry,
            store,
            seams.clock,
            mesh=self.identity.mesh,
            node_key=self.identity.keypair.public_key,
            operator_token=self.identity.operator_token,
            reached_ms=lambda: self.timestamps.reached_ms,
        )
        self.logins = Logins(RateConfig(login_address_rate_per_minute=config.login_rate_per_minute))
        self.registry.watch(self._object_changed)
        self.anonymous = Anonymous(RateConfig())
        self.carrying = Carrying(self)
        self.federation = self._join_mesh(seams)
        self._make_jobs(config, seams)
        self.foreign = self._answer_for_others(seams)
        self.membership = Membership(self)
        self.peering = None if seams.network is None else Peering(self, seams.network)
        self.api = Api(self, CLASSES, OPERATIONS, self._pages)

    def _make_jobs(self, config: Config, seams: Seams) -> None:
        """Make what takes jobs in and sees them to their end, and who works on them."""
        pin = certificate_pin(config) or key_pin(self.identity.keypair.public_key)
        self.workers = Workers(self.store, self.transactions, seams.clock, seams.entropy, pin)
        self.live = LiveJobs(self.store)
        effects = EdgeCalls(self)
        scheduler_config = SchedulerConfig(
            lease_s=config.lease_s, reconnect_s=config.reconnect_s, policy=config.placement
        )
        self.dispatch = Dispatch(
            scheduler=Scheduler(scheduler_config, self.identity.boot),
            store=self.store,
            jobs=self.live,
            clock=seams.clock,
            functions=self.programs.get,
            effects=effects,
            policy=config.policy,
        )
        self.attachments = Attachments(
            self.dispatch, self.live, self.store, seams.clock, effects, config.lease_s / 3
        )
        self.jobs = Jobs(
            dispatch=self.dispatch,
            live=self.live,
            committer=self.committer,
            id_factory=self.ids,
            clock=seams.clock,
            functions=self.programs.get,
            policy=config.policy,
            live_max=config.jobs_live_max,
            boot=self.identity.boot,
        )

    def _join_mesh(self, seams: Seams) -> "Federation | None":
        if seams.network is None:
            return None
        from peernode.federation import Federation

        return Federation(self, seams.network, seams.chance)

    def _answer_for_others(self, seams: Seams) -> "Foreign | None":
        if seams.network is None:
            return None
        from peernode.foreign import Foreign

        return Foreign(self, seams.network)

    def mesh_status(self) -> "MeshStatus | None":
        """Return how this node stands among others; `None`: it knows of none."""
        return None if self.federation is None else self.federation.status()

    def _pages(self) -> App:
        from peernode import pages

        return pages.build(self)

    def _mark(
        self, name: bytes, confirm: Callable[[], Callable[[int], None]]
    ) -> tuple[int, Callable[[int], None], Callable[[int], None]]:
        """Return a durable mark, how to move it in the background, and how to move it now."""

        def batch(mark_ms: int) -> Batch:
            return Batch(puts=[(Table.META, name, mark_ms.to_bytes(8, "big"))])

        def reserve(mark_ms: int) -> None:
            self.store.submit(
                batch(mark_ms),
                lambda result: confirm()(mark_ms) if result is None else None,
            )

        def reserve_now(mark_ms: int) -> None:
            self.store.apply(batch(mark_ms))

        high_water_ms = int.from_bytes(self.store.get(Table.META, name) or b"", "big")
        return high_water_ms, reserve, reserve_now

    # --- what several classes ask -------------------------------------------------------------

    @property
    def child_environment(self) -> Mapping[str, str]:
        """The environment of child processes: ours, without our secrets."""
        return {
            name: value for name, value in os.environ.items() if not name.startswith("PEERNODE_")
        }

    def spawn(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `function` in the node's own time; not any more once the node closes."""
        if not self._closing:
            self._nursery.start_soon(function, *args)

    def close(self) -> None:
        """End all that runs. What is on its way to the disk still gets there."""
        self._closing = True
        self._nursery.cancel_scope.cancel()

    async def slowly(self, function: Callable[..., T], *args: Any) -> T:
        """Return what `function`, which works on a password, returns; a few run at once."""
        async with self._passwords:
            return await self._offload(function, *args)

    def is_local(self, client: str) -> bool:
        """Tell whether a call comes from this machine, and not through a proxy on it."""
        return client in ("127.0.0.1", "::1", "") and not self.config.behind_proxy

    def admit_anonymous(self, client: str) -> None:
        """Count a call without a good token; raises the `Problem` `rate_limited`."""
        if not self.is_local(client):
            self.anonymous.admit(client, trio.current_time())

    def _object_changed(self, class_: Class, id: int) -> None:
        if class_ is Class.USER:
            self.sessions.invalidate(id)
        self.changed(id)

    def admit_login(self, client: str, user: str) -> None:
        """Count a login or sign-up; raises the `Problem` `rate_limited`.

        Calls from this machine are its operator's, unless a proxy stands in front.
        """
        if not self.is_local(client):
            self.logins.admit(client, user, trio.current_time())
        elif user:
            self.logins.admit(f"local-{user}", user, trio.current_time())

    def find_user(self, text: str) -> int | None:
        """Return the user whose id, or name at this node, is `text`."""
        if text.isdigit():
            try:
                user = ids.parse_id(text)
            except InvalidData:
                return None
            return user if self.registry.get(Class.USER, user) else None
        return names.find(self.store, Class.USER, self.identity.number, text)

    def user_name(self, user: int) -> str:
        """Return a user's name at its home node."""
        chain = self.registry.authority.user(user)
        return "" if chain is None else chain.current.name

    def seal(self, statement: facts.AnyStatement, certificate: Certificate | None = None) -> Fact:
        """Return `statement` as a fact signed by this node, for itself or as a delegate."""
        mesh = self.identity.mesh
        seal = facts.sign(statement, self.identity.keypair, mesh)
        return facts.assemble(statement, seal, mesh, certificate=certificate)

    async def wait_changed(self, call: Call) -> None:
        """Return when the call's object changes, if the call waits for that.

        Ask for the caller's right first: when something changes is not everybody's business.
        """
        if "wait" not in call.query:
            return
        timeout_s = number(call.query, "wait", 0, 0, self.config.wait_max_s)
        wanted = call.object_id
        changed = self._changes.setdefault(wanted, trio.Event())
        try:
            with trio.move_on_after(timeout_s):
                await changed.wait()
        finally:
            if not changed.is_set() and not changed.statistics().tasks_waiting:
                del self._changes[wanted]

    def changed(self, id: int) -> None:
        """Wake who waits for an object to change; the registry's need not be told."""
        if (changed := self._changes.pop(id, None)) is not None:
            changed.set()

    async def local_worker(self) -> int:
        """Return the id of the worker that is this node's child, made on the first start."""
        for worker in self.workers.local:
            return worker
        worker = self.ids.next()
        await self.workers.create(worker, "local", {}, local=True)
        return worker

    async def drain(self) -> None:
        """Take no new jobs, and give those that run a moment to end."""
        self.jobs.draining = True
        for worker in list(self.dispatch.links):
            self.attachments.hold(Drain(worker))
        with trio.move_on_after(self.config.drain_s):
            await self.dispatch.wait_idle()


@asynccontextmanager
async def open_node(config: Config, seams: Seams | None = None) -> AsyncIterator[Node]:
    """Own a node. Raises `StorageError`, `SecretFileError`, or `ConfigError` if it cannot start."""
    seams = seams or Seams()
    store = seams.store if seams.store is not None else _open_store(config)
    try:
        async with trio.open_nursery() as nursery:
            node = Node(config, seams, store, nursery)
            async with node.dispatch.running():
                node.lives.begin()
                nursery.start_soon(sweeper.run, node)
                nursery.start_soon(node.carrying.run)
                if node.foreign is not None:
                    nursery.start_soon(node.foreign.run)
                if node.federation is not None:
                    nursery.start_soon(node.federation.run)
                if node.peering is not None:
                    await node.peering.listen()
                    nursery.start_soon(node.peering.run)
                    nursery.start_soon(node.lives.run)
                if seams.store is None:
                    nursery.start_soon(seams.offload, node.blob_store.collect)
                try:
                    yield node
                finally:
                    node.close()
    finally:
        store.close()


def _open_store(config: Config) -> Store:
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = trio.lowlevel.current_trio_token()
    return lmdb_store.LmdbStore(
        Path(config.data) / STORE_DIRECTORY,
        config=lmdb_store.Config(map_size_max_bytes=config.store_size_max_bytes),
        deliver=token.run_sync_soon,
    )
