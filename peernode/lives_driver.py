"""Driver of `lives.Lives`: this node's own lives on its disk, those of others, and going on.

What the machine decides is done here: greetings carry a signed life each way (`peering`), a node
that holds back has its links to workers closed and writes no outcomes, and one that goes on again
takes back first what is its own:

* its records and facts have come by reconciliation, and its timestamps are above them by that;
* jobs whose end a neighbour can prove get that outcome instead of running again;
* names of its objects, ids and timestamps above all that was given out, fences above all before;
* invites that it made before are void: they may have been used.

Own lives are rows of `Table.META`, `b"life:"` + boot (4) + nonce (16) -> up to which time each is
known (8), written before anybody is shown it.

What is lost with a disk that was put back is what only this node knew: passwords and keys of users,
tokens that were revoked, local namespaces, blobs, and jobs handed in since.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, assert_never

import trio

from gossip.errors import PeerError
from peernode import life_statements, mesh_invites, names
from peernode.heard_lives import HeardLives
from peernode.identity import BOOT_KEY
from peernode.life_statements import NONCE_SIZE_BYTES, Before
from peernode.lives import (
    Adopt,
    Adopted,
    Config,
    Down,
    Fence,
    FoundClone,
    Greet,
    Input,
    Lives,
    Open,
    Reconcile,
    Resolve,
    Shown,
    State,
    Synced,
    Tick,
    Up,
)
from peernode.problems import Problem
from storage import hlc, ids, signing
from storage.errors import StoreError, StoreFull
from storage.reservation import RESERVATION_MS
from storage.store import Batch, Put, Store, Table

if TYPE_CHECKING:
    from peernode.node import Node

ASKING_S: Final = 1.0
"""How long a start waits for a peer's greeting. Source: guess; a dial over a bad line, answered."""
QUIET_INTERVALS: Final = 2
"""Greetings after which a life that says nothing is over. Source: guess; one may be lost."""
KEPT_MAX: Final = 256
"""Own lives kept. Source: guess; more starts than a peer sleeps through."""
SIGNED_FOR_S: Final = 1.0
"""How long what was signed is good for greetings. Source: guess; bounds what greetings write."""
TAKING_BACK_S: Final = 30.0
"""How long one neighbour is asked for jobs. Source: guess; some thousand of them."""
STORE_RETRY_S: Final = 1.0
RETRY_AFTER_S: Final = 5
PREFIX: Final = b"life:"
_STOP: Final = b"life;"
_ROWS_AT_ONCE: Final = 1000


class LivesDriver:
    """This node's lives, and whether it may go on."""

    def __init__(self, node: "Node") -> None:
        self.started = trio.Event()
        """Set once it is decided whether this node goes on or holds back."""
        self.opened = trio.Event()
        """Set while it goes on."""
        self._node = node
        self._heard = HeardLives(node.store, node.identity.mesh)
        self._machine: Lives | None = None
        self._signing = trio.Lock()
        self._signed = b""
        self._signed_at = -math.inf
        self._adopting: Adopt | None = None
        self._is_restored = False
        self._wake = trio.Event()

    def begin(self) -> None:
        """Begin a life, durably; go on at once if there is nobody who could know better."""
        node, boot = self._node, self._node.identity.boot
        past = list(_own_lives(node.store))
        nonce = node.entropy.token_bytes(NONCE_SIZE_BYTES)
        gone = past[: max(0, len(past) + 1 - KEPT_MAX)]
        kept = past[len(gone) :]
        self._machine = Lives(
            Config(asking_s=ASKING_S, quiet_s=self._quiet_s),
            boot,
            nonce,
            kept,
            trio.current_time(),
            may_be_old=node.peering is not None and node.membership.knows_others(),
            floor_boot=kept[0][0] if gone else 0,
        )
        life = self._machine.say(self._above_ms)
        batch = Batch(
            puts=[_row((boot, nonce, life.at_ms))],
            deletes=[_row(before)[:2] for before in gone],
        )
        try:
            node.store.apply(batch)
        except StoreFull as error:
            # Whoever makes room needs a node for it. The next life asks about this one.
            node.log.warning("this start is not written down", error=str(error))
        self._signed = life_statements.sign(node.identity.keypair, node.identity.mesh, life)
        self._signed_at = trio.current_time()
        if self._machine.state is State.FREE:
            self._open()

    async def run(self) -> None:
        """Do what the machine says in its time, until cancelled."""
        while True:
            self._wake = trio.Event()
            if self._adopting is not None:
                await self._adopt(self._adopting)
            deadline = self._lives.deadline
            with trio.move_on_at(float("inf") if deadline is None else deadline) as scope:
                await self._wake.wait()
            if scope.cancelled_caught:
                self._tell(Tick())

    # --- what others ask ------------------------------------------------------------------

    @property
    def state(self) -> State:
        """How this node stands to its own lives."""
        return State.ASKING if self._machine is None else self._machine.state

    def require(self) -> None:
        """Raise the `Problem` of a node that holds back, if this one does."""
        if self._machine is not None and self._machine.is_fenced:
            raise self.problem()

    def problem(self) -> Problem:
        """Return what to tell while this node holds back."""
        headers = (("Retry-After", str(RETRY_AFTER_S)),)
        if self.state is State.CLONED:
            return Problem(
                "cloned",
                "this node runs twice: two copies of its data directory are in use, and neither "
                "of them goes on",
                hint="its operator stops one of them for good, and runs "
                "`peernode resolve --data DIR` for the other",
                headers=headers,
            )
        return Problem(
            "recovering",
            "other nodes have seen this one do what its data directory knows nothing of, so that "
            "must be an old copy: it finds out from them first",
            hint="ask again a little later",
            headers=headers,
        )

    def resolve(self) -> None:
        """Take the operator's word that no other instance of this node runs any more."""
        self._tell(Resolve())

    # --- what peering tells ---------------------------------------------------------------

    async def statement(self) -> bytes:
        """Return this life as it is now, signed.

        Nobody is shown a word of it that is not on the disk: after a crash it is known again.
        """
        node = self._node
        patience_s = min(SIGNED_FOR_S, node.config.greeting_interval_s / 2)
        async with self._signing:
            if trio.current_time() - self._signed_at < patience_s:
                return self._signed
            life = self._lives.say(self._above_ms)
            row = _row((life.boot, life.nonce, life.at_ms))
            try:
                await node.committer.write(Batch(puts=[row]))
            except StoreError:
                return self._signed  # It is full: what was said before is still true.
            self._signed = life_statements.sign(node.identity.keypair, node.identity.mesh, life)
            self._signed_at = trio.current_time()
            return self._signed

    def shown_to(self, peer: str) -> tuple[bytes, ...]:
        """Return the heads of a peer, to remind it of."""
        return self._heard.find(signing.parse_peer_id(peer))

    def hear(self, peer: str, life: bytes, shown: tuple[bytes, ...]) -> None:
        """Take in what a member says of itself, and of this node. Raises `InvalidData`."""
        identity = self._node.identity
        own = [
            life_statements.verify(each, identity.mesh, identity.keypair.public_key)
            for each in shown
        ]
        self._heard.hear(signing.parse_peer_id(peer), life)
        self._tell(Shown(peer, tuple(own)))

    def peer_changed(self, peer: str, *, is_up: bool) -> None:
        """Take note of a peer that comes or goes."""
        self._tell(Up(peer) if is_up else Down(peer))

    def synced(self, peer: str) -> None:
        """Take note that all is here that a peer knows."""
        self._tell(Synced(peer))

    # --- effects --------------------------------------------------------------------------

    @property
    def _above_ms(self) -> int:
        """A time above all that this life has given out."""
        node = self._node
        return max(node.clock.wall_ms(), node.ids.high_water_ms, node.timestamps.high_water_ms)

    @property
    def _quiet_s(self) -> float:
        return QUIET_INTERVALS * self._node.config.greeting_interval_s

    @property
    def _lives(self) -> Lives:
        assert self._machine is not None
        return self._machine

    def _tell(self, input: Input) -> None:
        node = self._node
        for effect in self._lives.handle(input, trio.current_time()):
            match effect:
                case Open():
                    self._open()
                case Fence():
                    self._fence()
                case FoundClone():
                    problem = self.problem()
                    node.log.warning("cloned", detail=problem.detail, hint=problem.hint)
                case Reconcile(peer):
                    if node.federation is not None:
                        node.federation.sync.hurry(peer)
                case Greet(peer):
                    if node.peering is not None:
                        node.peering.hurry(peer)
                case Adopt():
                    self._adopting = effect
                case _:
                    assert_never(effect)
        self._wake.set()

    def _open(self) -> None:
        if not self._is_restored:
            self._is_restored = True
            self._node.jobs.restore(self._node.workers.local)
        self._node.dispatch.hold(held=False)
        self.started.set()
        self.opened.set()

    def _fence(self) -> None:
        node, problem = self._node, self.problem()
        unknown = [{"boot": boot, "nonce": nonce.hex()} for boot, nonce, _ in self._lives.unknown]
        node.log.warning("recovering", detail=problem.detail, lives=unknown)
        node.dispatch.hold(held=True)
        for worker in list(node.dispatch.links):
            node.attachments.close(worker, "this node holds back; attach again later")
        self.started.set()
        if self.opened.is_set():
            self.opened = trio.Event()

    # --- going on -------------------------------------------------------------------------

    async def _adopt(self, adopt: Adopt) -> None:
        """Make unknown lives this node's past, with all that follows from it."""
        node, self._adopting = self._node, None
        await self._take_back_jobs()
        nonce = node.entropy.token_bytes(NONCE_SIZE_BYTES)
        # Since a life was signed last it may have given out more; others take it a minute ahead.
        since_ms = min(int(1000 * node.config.greeting_interval_s), hlc.AHEAD_MAX_MS // 2)
        floor_ms = adopt.floor_ms + since_ms + RESERVATION_MS
        floor_ms = max(floor_ms, *map(ids.created_ms, self._own_ids()))
        generation = mesh_invites.generation(node.store) + 1
        puts: list[Put] = [
            *map(_row, (*adopt.past, (adopt.boot, nonce, 0))),
            (Table.META, BOOT_KEY, adopt.boot.to_bytes(8, "big")),
            mesh_invites.generation_row(generation),
        ]
        while True:
            try:
                node.ids.skip(floor_ms)
                node.timestamps.skip(floor_ms)
                lost = list(self._lost_names())
                for at in range(0, len(lost), _ROWS_AT_ONCE):
                    await node.committer.write(Batch(puts=lost[at : at + _ROWS_AT_ONCE]))
                await node.committer.write(Batch(puts=puts))
                break
            except StoreError as error:
                node.log.warning("cannot go on yet", error=str(error))
                await trio.sleep(STORE_RETRY_S)
        node.jobs.begin(adopt.boot)
        self._signed_at = -math.inf
        node.log.warning("recovered", boot=adopt.boot, lives=len(adopt.past))
        self._tell(Adopted(nonce))

    async def _take_back_jobs(self) -> None:
        """Give jobs that are not over here the outcomes that neighbours can prove."""
        node = self._node
        if node.foreign is None or node.peering is None:
            return
        wanted = dict.fromkeys(
            int.from_bytes(key, "big") for key, _ in _scan(node.store, Table.LIVE, b"", b"\xff" * 9)
        )
        for peer in node.peering.network.peers():
            if not wanted:
                return
            found: dict[int, bytes] = {}
            try:
                with trio.move_on_after(TAKING_BACK_S):
                    await node.foreign.ended.collect(peer, wanted, found)
                for job, outcome in found.items():
                    if await node.jobs.take_back(job, outcome):
                        node.log.info("job was over", job=str(job))
                    del wanted[job]
            except (PeerError, StoreError) as error:
                node.log.warning("could not ask for jobs", peer=peer, error=str(error))

    def _own_ids(self) -> Iterator[int]:
        yield ids.pack(ids.EPOCH_MS, self._node.identity.number, 0)
        for entry in self._node.registry.made_by(self._node.identity.number):
            yield entry.id

    def _lost_names(self) -> Iterator[Put]:
        """Yield the names of this node's objects that are not taken here."""
        node = self._node
        for entry in node.registry.made_by(node.identity.number):
            held = names.of_entry(node.registry.authority, entry, node.identity.number)
            put = names.row(*held, entry.id)
            if node.store.get(*put[:2]) is None:
                yield put


def _row(life: Before) -> Put:
    boot, nonce, at_ms = life
    return Table.META, PREFIX + boot.to_bytes(4, "big") + nonce, at_ms.to_bytes(8, "big")


def _own_lives(store: Store) -> Iterator[Before]:
    for key, row in _scan(store, Table.META, PREFIX, _STOP):
        life = key.removeprefix(PREFIX)
        yield int.from_bytes(life[:4], "big"), life[4:], int.from_bytes(row, "big")


def _scan(store: Store, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    while rows := store.scan(table, start, stop, limit=_ROWS_AT_ONCE):
        yield from rows
        start = rows[-1][0] + b"\0"
