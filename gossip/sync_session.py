"""One session: two nodes compare their facts, then their records, and exchange what differs.

    opener    Hello                       answerer  Welcome, and the first turn
    ... turns of `Ranges` (see `sync_comparison`) until one is closing ...
    ... `Items` in turn, until both lists are through ...

The side that received the last frame goes on: with its first `Items`, with another comparison, or,
when there is none, with nothing: both sides know that the session is over.

Facts are compared until a comparison finds nothing (at most `PASSES_MAX` times), and only then the
records, once: which records are offered depends on the facts, and with equal facts what one side
offers the other will offer too.  Facts that one side keeps refusing do not keep the records from
being compared.

Everything that a peer gives was asked for: by the ids that one side showed, or by the wants in its
answer.  Payloads come in exactly that order, and one that is no longer there is said to be gone.
"""

import enum
from collections.abc import Callable
from itertools import islice

from gossip.errors import (
    PENALTY_FORGED,
    PeerBusy,
    PeerError,
    PeerRefused,
    PeerTimeout,
    RemoteProtocolError,
)
from gossip.sync_comparison import Comparison
from gossip.sync_events import Apply, Done, Effect, Failed, Give, Pause, Send, SyncConfig
from gossip.sync_index import Index, session_key
from gossip.sync_messages import (
    ITEMS_SIZE_MAX_BYTES,
    PASSES_MAX,
    PAYLOAD_OVERHEAD_BYTES,
    PAYLOADS_MAX,
    VERSION,
    AnyMessage,
    Hello,
    Items,
    Ranges,
    Refusal,
    Stratum,
    Welcome,
    decode,
    encode,
)


class Phase(enum.Enum):
    """Whom a session waits for. In the first four it is the peer."""

    HELLO = "for its Hello"
    WELCOME = "for its Welcome"
    TURN = "for its Ranges"
    TAKING = "for its Items"
    THINKING = "for Resume"
    READING = "for Given"
    APPLYING = "for Applied"
    OVER = "for nothing"


PEER_PHASES = (Phase.HELLO, Phase.WELCOME, Phase.TURN, Phase.TAKING)


class Session:
    """One side of a session. Every method appends effects to `out`; none raises."""

    def __init__(
        self,
        number: int,
        peer: str,
        mesh: bytes,
        nonce: bytes,
        indexes: dict[Stratum, Index],
        config: SyncConfig,
        now: float,
    ) -> None:
        self.number = number
        self.peer = peer
        self.phase = Phase.HELLO
        self._now = now
        self._patience = now + config.idle_s
        """Until when the peer may be silent, where it is to speak."""
        self._expires = now + config.session_s
        self._mesh = mesh[:8]
        self._nonce = nonce
        self._indexes = indexes
        self._config = config
        self._key = b""
        self._stratum = Stratum.FACTS
        self._passes = 0
        self._comparison = Comparison(indexes[Stratum.FACTS], bytes(32))
        self._given = 0
        """Items of the comparison's `giving` that are given."""
        self._taken = 0
        self._gone = 0
        self._exchange_at: float | None = None
        """Since when items of the comparison are exchanged."""
        self._is_complete = True
        self._are_facts_equal = False
        self._sent = 0
        self._received = 0
        self._sent_bytes = 0
        self._received_bytes = 0

    # --- inputs ---------------------------------------------------------------------------

    def open(self, out: list[Effect]) -> None:
        """Begin as the opener."""
        self._send(Hello(VERSION, self._mesh, self._nonce), out)
        self._await(Phase.WELCOME)

    def receive(self, frame: bytes, now: float, out: list[Effect]) -> None:
        """Take a frame in."""
        self._now = now
        self._received_bytes += len(frame)
        self._guarded(lambda: self._take(decode(frame), out), out)

    def resume(self, now: float, out: list[Effect]) -> None:
        """Go on with the rows of the other's turn."""
        self._now = now
        if self.phase is Phase.THINKING:
            self._guarded(lambda: self._think(out), out)

    def given(self, payloads: tuple[bytes | None, ...], now: float, out: list[Effect]) -> None:
        """Pass on what was read. Raises `ValueError` for what `Give` did not ask for."""
        if self.phase is not Phase.READING:
            return
        left = len(self._comparison.giving) - self._given
        size_bytes = sum(len(payload or b"") + PAYLOAD_OVERHEAD_BYTES for payload in payloads)
        if not 0 < len(payloads) <= min(left, self._reads_max):
            raise ValueError(f"{len(payloads)} payloads for {left} items")
        if size_bytes > ITEMS_SIZE_MAX_BYTES:
            raise ValueError(f"payloads of {size_bytes} bytes, over {ITEMS_SIZE_MAX_BYTES}")
        self._now = now
        self._given += len(payloads)
        self._sent += sum(payload is not None for payload in payloads)
        self._hand_over(list(payloads), out)

    def applied(self, now: float, out: list[Effect]) -> None:
        """Go on after the peer's items are kept."""
        self._now = now
        if self.phase is Phase.APPLYING:
            self._guarded(lambda: self._go_on(out), out)

    def fail(self, error: PeerError, out: list[Effect]) -> None:
        """End before the end."""
        if self.phase is not Phase.OVER:
            self.phase = Phase.OVER
            out.append(Failed(self.number, self.peer, error))

    def forged(self, reason: str, out: list[Effect]) -> None:
        """End because of what the peer gave."""
        self.fail(RemoteProtocolError(reason, PENALTY_FORGED), out)

    def refuse(self, out: list[Effect]) -> None:
        """Tell the peer that there is no room for its session."""
        self._send(Refusal("busy"), out)
        self.fail(PeerBusy("there are sessions enough"), out)

    def tick(self, now: float, out: list[Effect]) -> None:
        """End if the time is over."""
        if now >= self._expires:
            self.fail(PeerTimeout(f"not over after {self._config.session_s} s"), out)
        elif now >= self.due:
            self.fail(PeerTimeout(f"waited {self._config.idle_s} s {self.phase.value}"), out)

    @property
    def due(self) -> float:
        """When `tick` would end the session."""
        return min(self._patience, self._expires) if self.phase in PEER_PHASES else self._expires

    @property
    def is_laden(self) -> bool:
        """Tell whether it is about to bring a great many items, and has brought none yet."""
        return self._taken == 0 and self._left >= self._config.bulk_items_min

    def is_carrying(self, now: float) -> bool:
        """Tell whether it brings so many, and so fast, that no other session need bring the same.

        Who holds others off by that has to bring what is new and genuine, all the while.
        """
        if self._exchange_at is None or self._left < self._config.bulk_items_min:
            return False
        counted_s = now - self._exchange_at - self._config.bulk_grace_s
        return self._taken >= self._config.bulk_rate_min_per_s * counted_s

    @property
    def _left(self) -> int:
        """How many items are to come, once that is known."""
        return len(self._comparison.taking) - self._taken if self._comparison.is_over else 0

    def check(self) -> None:
        """Assert the invariants."""
        assert self._given <= len(self._comparison.giving)
        assert self._taken <= len(self._comparison.taking)
        assert self._passes <= PASSES_MAX + 1
        assert self._gone <= self._config.gone_max
        assert (self._key == b"") == (self.phase in (Phase.HELLO, Phase.WELCOME)) or (
            self.phase is Phase.OVER
        )

    # --- frames ---------------------------------------------------------------------------

    @property
    def _reads_max(self) -> int:
        return min(PAYLOADS_MAX, self._config.items_per_read_max)

    def _guarded(self, act: Callable[[], None], out: list[Effect]) -> None:
        """Turn what the peer did wrong into the end of the session."""
        try:
            act()
        except PeerError as error:
            self.fail(error, out)

    def _take(self, message: AnyMessage, out: list[Effect]) -> None:
        match message, self.phase:
            case Hello(), Phase.HELLO:
                self._greet(message, out)
            case Welcome(), Phase.WELCOME:
                if message.version != VERSION:
                    raise PeerRefused(f"speaks version {message.version}")
                self._key = session_key(self._nonce, message.nonce)
                self._begin()
                self._await(Phase.TURN)
            case Refusal("busy"), Phase.WELCOME:
                raise PeerBusy("has sessions enough")
            case Refusal(reason), Phase.WELCOME:
                raise PeerRefused(f"refuses us: {reason}")
            case Ranges(), Phase.TURN | Phase.THINKING if self._continues(message):
                self._comparison.receive(message.rows, message.end)
                if self.phase is Phase.TURN:
                    self._think(out)
            case Items(stratum, payloads), Phase.TAKING if stratum is self._stratum:
                self._take_items(payloads, out)
            case _:
                name = type(message).__name__
                raise RemoteProtocolError(f"{name} out of turn: we wait {self.phase.value}")

    def _continues(self, ranges: Ranges) -> bool:
        """Tell whether the peer's turn has not ended yet, and this is of it."""
        return ranges.stratum is self._stratum and not self._comparison.has_ended

    def _greet(self, hello: Hello, out: list[Effect]) -> None:
        if hello.version != VERSION:
            self._send(Refusal("version"), out)
            raise PeerRefused(f"speaks version {hello.version}")
        if hello.mesh != self._mesh:
            self._send(Refusal("mesh"), out)
            raise PeerRefused("is of another mesh")
        self._send(Welcome(VERSION, self._nonce), out)
        self._key = session_key(hello.nonce, self._nonce)
        self._begin()
        self._comparison.begin()
        self._send_turn(out)

    # --- comparing ------------------------------------------------------------------------

    def _begin(self) -> None:
        self._comparison = Comparison(self._indexes[self._stratum], self._key)
        self._passes += 1
        self._given = self._taken = 0
        self._exchange_at = None

    def _think(self, out: list[Effect]) -> None:
        """Handle rows; when their turn has ended and nothing is left, it is ours."""
        self.phase = Phase.THINKING
        if not self._comparison.step(self._config.work_per_step_max):
            out.append(Pause(self.number))
        elif not self._comparison.has_ended:
            self._await(Phase.TURN)
        elif self._comparison.is_over:
            self._go_on(out)
        else:
            self._send_turn(out)

    def _send_turn(self, out: list[Effect]) -> None:
        for rows, end in self._comparison.finish():
            self._send(Ranges(self._stratum, end, rows), out)
        self._await(Phase.TURN)
        if self._comparison.is_over:
            self._hand_on(out)

    # --- exchanging -----------------------------------------------------------------------

    def _go_on(self, out: list[Effect]) -> None:
        """It is for this side to act: give, or at least say so, or go on to what comes next."""
        self._exchange_at = self._exchange_at or self._now
        giving = self._comparison.giving
        if self._given < len(giving):
            items = tuple(islice(giving, self._given, self._given + self._reads_max))
            effect = Give(self.number, self.peer, self._stratum, items, ITEMS_SIZE_MAX_BYTES)
            out.append(effect)
            self.phase = Phase.READING
        elif self._taken < len(self._comparison.taking):
            self._hand_over([], out)
        elif self._next_stratum():
            self._begin()
            self._comparison.begin()
            self._send_turn(out)
        else:
            self._end(out)

    def _hand_over(self, payloads: list[bytes | None], out: list[Effect]) -> None:
        self._send(Items(self._stratum, payloads), out)
        self._hand_on(out)

    def _hand_on(self, out: list[Effect]) -> None:
        """It is for the other side to act."""
        self._exchange_at = self._exchange_at or self._now
        comparison = self._comparison
        if self._given < len(comparison.giving) or self._taken < len(comparison.taking):
            self._await(Phase.TAKING)
        elif self._next_stratum():
            self._begin()
            self._await(Phase.TURN)
        else:
            self._end(out)

    def _take_items(self, payloads: list[bytes | None], out: list[Effect]) -> None:
        taking = self._comparison.taking
        expected = taking[self._taken : self._taken + len(payloads)]
        if len(expected) < len(payloads):
            raise RemoteProtocolError("items that nobody asked for")
        if not payloads and self._taken < len(taking):
            raise RemoteProtocolError("nothing, although there is something to give")
        self._taken += len(payloads)
        received = tuple(
            (short, payload)
            for short, payload in zip(expected, payloads, strict=True)
            if payload is not None
        )
        self._gone += len(payloads) - len(received)
        if self._gone > self._config.gone_max:
            self._gone = self._config.gone_max
            raise RemoteProtocolError("offers what it does not have")
        self._received += len(received)
        if received:
            self.phase = Phase.APPLYING
            out.append(Apply(self.number, self.peer, self._stratum, received))
        else:
            self._go_on(out)

    def _next_stratum(self) -> bool:
        """Go on to what is compared next; tell whether there is anything."""
        comparison = self._comparison
        moved = bool(comparison.giving or comparison.taking)
        if self._stratum is Stratum.FACTS and moved and self._passes < PASSES_MAX:
            return True
        self._is_complete &= not comparison.cut
        if self._stratum is Stratum.RECORDS:
            return False
        self._are_facts_equal = not moved
        self._stratum = Stratum.RECORDS
        return True

    def _end(self, out: list[Effect]) -> None:
        self.phase = Phase.OVER
        out.append(
            Done(
                self.number,
                self.peer,
                self._sent,
                self._received,
                self._sent_bytes,
                self._received_bytes,
                self._is_complete,
                self._are_facts_equal,
            )
        )

    def _await(self, phase: Phase) -> None:
        """Wait for the peer, which has time from now on."""
        self.phase = phase
        self._patience = self._now + self._config.idle_s

    def _send(self, message: AnyMessage, out: list[Effect]) -> None:
        frame = encode(message)
        self._sent_bytes += len(frame)
        out.append(Send(self.number, self.peer, frame))
