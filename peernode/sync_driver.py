"""Driver of `gossip.Sync`: whom to reconcile with and when, over streams.

A session begins when a peer comes up (the one of the smaller id opens it), now and then with a peer
chosen by lot, and with all other peers soon after a session that brought what gossip did not bring
here: so what comes over one line after a partition goes on over the others.  The machine says what
to do in a session; here streams are read and written, items are read from the store, and what comes
is taken in.

Whatever goes wrong ends the session: gossip and the next session make up for it.  What the peer is
to blame for goes to its standing.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, assert_never

import trio

from gossip.errors import PENALTY_FORGED, PeerBusy, PeerClosed, PeerError
from gossip.network import Network, PeerDown, PeerEvent, PeerUp, Stream
from gossip.sync import Sync
from gossip.sync_events import (
    Accept,
    Applied,
    Apply,
    Closed,
    Done,
    Effect,
    Failed,
    Forged,
    Give,
    Given,
    Input,
    Open,
    Pause,
    Receive,
    Resume,
    Send,
    Tick,
)
from gossip.sync_index import NONCE_SIZE_BYTES, SHORT_ID_SIZE_BYTES
from gossip.sync_messages import FRAME_SIZE_MAX_BYTES, PAYLOAD_OVERHEAD_BYTES, PROTOCOL
from peernode.offering import Offering
from peernode.records_in import Ingestion
from peernode.standing import Standing
from peernode.waiting import name, signed_at
from storage import hlc
from storage.clock import Clock, Entropy
from storage.errors import InvalidData, StoreError

OPEN_TIMEOUT_S: Final = 10.0
"""How long a stream may take to open. Source: guess; ten times a bad line's round trip."""
AGAIN_S: Final = 1.0
"""Pause before others are told of what a session brought, and before one that found the peer busy
or left something out is tried again. Source: guess; several sessions' news go on together."""
FRESH_S: Final = 10.0
"""Age up to which gossip may still bring something. Source: twice the time that a message can be
asked for (`gossip.config.Config.history_windows`)."""
BUSY_TRIES_MAX: Final = 5
"""How often a busy peer is tried again before its next turn comes. Source: guess."""


class _Talk:
    """One session's stream, and what ends its waiting."""

    __slots__ = ("ended", "has_news", "peer", "scope")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.ended: Done | Failed | None = None
        self.has_news = False
        """It brought what is too old for gossip to bring it."""


class SyncDriver:
    """All reconciliation of one node."""

    def __init__(
        self,
        *,
        sync: Sync,
        network: Network,
        offering: Offering,
        ingestion: Ingestion,
        standing: Standing,
        clock: Clock,
        entropy: Entropy,
        chance: random.Random,
        interval_s: float,
        warn: Callable[..., None],
        synced: Callable[[str], None],
    ) -> None:
        """Serve sessions from now on.

        `warn(event, **fields)` says what an operator should know, `synced` that a peer and this
        node know the same as of now.
        """
        self.sync = sync
        self.last_at: dict[str, float] = {}
        """Peers that are up -> when a session with them last ended well."""
        self.sessions = 0
        """Sessions that ended well since the start."""
        self._network = network
        self._offering = offering
        self._ingestion = ingestion
        self._standing = standing
        self._clock = clock
        self._entropy = entropy
        self._chance = chance
        self._interval_s = interval_s
        self._warn = warn
        self._synced = synced
        self._numbers = count(1)
        self._talks: dict[int, _Talk] = {}
        self._due: dict[str, tuple[float, int]] = {}
        """Peers to reconcile with -> when, and how often it was tried."""
        self._applying = trio.Lock()
        """One session's items at a time: what two bring is checked once."""
        self._is_closed = False
        self._changed = trio.Event()
        network.watch(self._see)
        network.serve_streams(PROTOCOL, self._answer, size_max_bytes=FRAME_SIZE_MAX_BYTES)
        for peer in network.peers():
            self._see(PeerUp(peer))

    def close(self) -> None:
        """End all sessions, and begin none any more."""
        self._is_closed = True
        for talk in self._talks.values():
            talk.scope.cancel()

    # --- when and with whom -----------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled."""
        await self._offering.loaded.wait()
        async with trio.open_nursery() as nursery:
            lot_at = trio.current_time() + self._pause_s()
            while True:
                self._changed = trio.Event()
                now = trio.current_time()
                for peer in [peer for peer, (at, _) in self._due.items() if at <= now]:
                    _, tries = self._due.pop(peer)
                    nursery.start_soon(self._reconcile, peer, tries)
                if lot_at <= now:
                    lot_at = now + self._pause_s()
                    if peers := self._network.peers():
                        self._plan(self._chance.choice(peers), 0)
                        continue
                soonest = min((at for at, _ in self._due.values()), default=lot_at)
                with trio.move_on_at(min(soonest, lot_at)):
                    await self._changed.wait()

    def hurry(self, peer: str) -> None:
        """Reconcile with a peer now, and not when its turn comes."""
        self._plan(peer, 0)

    def _pause_s(self) -> float:
        return self._interval_s * self._chance.uniform(0.5, 1.5)

    def _see(self, event: PeerEvent) -> None:
        match event:
            case PeerUp(peer):
                # One of the two opens at once; the other only if nothing has come of that.
                own = self._network.peer < peer
                self._plan(peer, 0 if own else self._pause_s())
            case PeerDown(peer):
                self._due.pop(peer, None)
                self.last_at.pop(peer, None)

    def _plan(self, peer: str, delay_s: float, tries: int = 0) -> None:
        at = trio.current_time() + delay_s
        held = self._due.get(peer)
        if held is None or at < held[0]:
            self._due[peer] = at, tries
            self._changed.set()

    async def _reconcile(self, peer: str, tries: int) -> None:
        """Hold a session, and plan what follows from it."""
        if self._standing.is_cut(peer, trio.current_time()):
            return
        ended = await self._open(peer)
        is_busy = isinstance(ended, Failed) and isinstance(ended.error, PeerBusy)
        if is_busy and tries < BUSY_TRIES_MAX and peer in self._network.peers():
            self._plan(peer, AGAIN_S * self._chance.uniform(0.5, 1.5), tries + 1)

    async def _open(self, peer: str) -> Done | Failed | None:
        if peer in self.sync.peers or self.sync.is_carrying(trio.current_time()):
            return Failed(0, peer, PeerBusy("there is a session"))
        try:
            stream = await self._network.open_stream(
                peer, PROTOCOL, size_max_bytes=FRAME_SIZE_MAX_BYTES, timeout_s=OPEN_TIMEOUT_S
            )
        except PeerError:
            return None  # It is tried again when the peer comes up, or by lot.
        session = next(self._numbers)
        return await self._talk(stream, session, Open(session, peer, self._nonce()))

    async def _answer(self, stream: Stream) -> None:
        """Hold a session that a peer opened."""
        if self._standing.is_cut(stream.peer, trio.current_time()):
            return
        await self._offering.loaded.wait()
        if self._is_closed:
            return
        session = next(self._numbers)
        await self._talk(stream, session, Accept(session, stream.peer, self._nonce()))

    def _nonce(self) -> bytes:
        return self._entropy.token_bytes(NONCE_SIZE_BYTES)

    # --- one session ------------------------------------------------------------------------

    async def _talk(self, stream: Stream, session: int, first: Input) -> Done | Failed | None:
        """Do what the machine says until the session is over; close the stream.

        Returns how it ended; `None`: by us.
        """
        talk = self._talks[session] = _Talk(stream.peer)
        try:
            with talk.scope:
                await self._converse(stream, session, talk, first)
        finally:
            del self._talks[session]
            if talk.ended is None:
                self._handle(Closed(session, PeerClosed("we are closing")))
            with trio.CancelScope(shield=True):
                await stream.aclose()
        self._end(talk)
        return talk.ended

    async def _converse(self, stream: Stream, session: int, talk: _Talk, first: Input) -> None:
        effects = deque(self._handle(first))
        while True:
            while effects:
                answer = await self._do(stream, effects.popleft())
                if answer is not None:
                    effects.extend(self._handle(answer))
            if talk.ended is not None:
                return
            effects.extend(await self._hear(stream, session))

    async def _hear(self, stream: Stream, session: int) -> list[Effect]:
        """Return what follows from the next frame, or from its not coming."""
        happened: Input = Tick()
        with trio.move_on_at(self._deadline):
            try:
                happened = Receive(session, await stream.receive())
            except PeerError as error:
                happened = Closed(session, error)
        return self._handle(happened)

    async def _do(self, stream: Stream, effect: Effect) -> Input | None:
        """Carry out an effect; return what the machine is to be told of it."""
        match effect:
            case Send(session, _, frame):
                with trio.move_on_at(self._deadline) as waiting:
                    try:
                        await stream.send(frame)
                    except PeerError as error:
                        return Closed(session, error)
                return Tick() if waiting.cancelled_caught else None
            case Pause(session):
                await trio.lowlevel.checkpoint()
                return Resume(session)
            case Give(session):
                return Given(session, self._read(effect))
            case Apply():
                return await self._apply(effect)
            case Done() | Failed():
                return None
            case _:
                assert_never(effect)

    @property
    def _deadline(self) -> float:
        deadline = self.sync.deadline
        return float("inf") if deadline is None else deadline

    def _handle(self, input: Input) -> list[Effect]:
        """Return effects of the session that is spoken of; end others that they end."""
        effects = self.sync.handle(input, trio.current_time())
        for effect in effects:
            if isinstance(effect, Done | Failed) and (talk := self._talks.get(effect.session)):
                talk.ended = effect
                if isinstance(input, Tick) or effect.session != getattr(input, "session", 0):
                    # Another session than the one whose task this is: it may be waiting.
                    talk.scope.cancel()
        return effects

    def _read(self, give: Give) -> tuple[bytes | None, ...]:
        payloads: list[bytes | None] = []
        room = give.size_max_bytes
        for one in give.items:
            payload = self._offering.read(give.stratum, one)
            room -= len(payload or b"") + PAYLOAD_OVERHEAD_BYTES
            if room < 0:
                break
            payloads.append(payload)
        return tuple(payloads)

    async def _apply(self, apply: Apply) -> Input:
        async with self._applying:
            held = self._offering.holds
            received = [(short, p) for short, p in apply.received if not held(apply.stratum, short)]
            return await self._take(apply, received) if received else Applied(apply.session)

    async def _take(self, apply: Apply, received: Sequence[tuple[bytes, bytes]]) -> Input:
        """Check items that are not here, and keep them."""
        try:
            items = await self._ingestion.check([(apply.stratum, each) for _, each in received])
        except InvalidData as error:
            return Forged(apply.session, str(error))
        for (short, _), item in zip(received, items, strict=True):
            if name(item)[:SHORT_ID_SIZE_BYTES] != short:
                return Forged(apply.session, "gives something else than it offers")
        fresh_from = hlc.first_of(self._clock.wall_ms() - int(FRESH_S * 1000))
        # What loses against what is kept here comes in each session anew: with a clock that is far
        # ahead, that is all that others write until theirs have caught up.
        if any(signed_at(item) < fresh_from and self._ingestion.is_news(item) for item in items):
            self._talks[apply.session].has_news = True
        try:
            refused = await self._ingestion.take(items, apply.peer)
        except StoreError as error:
            self._warn("could not keep what another node knows", error=str(error))
            return Closed(apply.session, PeerClosed("there is no room on the disk"))
        others = [refusal for refusal in refused if refusal.sender != apply.peer]
        now = trio.current_time()
        for refusal in others:
            self._standing.blame(refusal.sender, PENALTY_FORGED, refusal.reason, now)
        for refusal in refused:
            if refusal.sender == apply.peer:
                return Forged(apply.session, refusal.reason)
        return Applied(apply.session)

    def _end(self, talk: _Talk) -> None:
        """Take note of how a session ended."""
        now = trio.current_time()
        match talk.ended:
            case Done() as done:
                self.sessions += 1
                if talk.peer in self._network.peers():
                    self.last_at[talk.peer] = now
                    if done.is_complete:
                        self._synced(talk.peer)
                if not done.is_complete:
                    self._plan(talk.peer, AGAIN_S)
                if talk.has_news:
                    for peer in self._network.peers():
                        if peer != talk.peer:
                            self._plan(peer, AGAIN_S)
            case Failed(_, peer, error):
                if error.penalty:
                    self._standing.blame(peer, error.penalty, str(error), now)
            case None:
                pass
