"""What is held against peers, on the disk: a node that is started again knows whom it cut off.

Rows of `Table.META`: `b"standing:"` + public key -> CBOR of `_Row`, and `b"gossip-score:"` + public
key -> CBOR of `_ScoreRow`, what `gossip.Mesh` remembers of those that did wrong.  They are written
rarely and many at once (`peernode.federation`): what was held against a peer in the last seconds
before a crash is forgotten.

Running nodes count monotonic seconds, which end with the process, so rows have the wall clock's
time.  It may have been set since: then the time between is taken for none if it is negative, and
for at most `AWAY_MAX_S`.  So no step of the clock cuts a peer off for longer than it was to be, and
none makes forgotten how often a peer has been cut off.
"""

from collections.abc import Iterable
from typing import Annotated, Final, TypeVar

import msgspec

from gossip.mesh_events import SavedScore
from gossip.wire import PEER_ID_PREFIX
from peernode.standing import CUT_MAX_S, PEERS_MAX, Account
from storage import codec, signing
from storage.store import Batch, Delete, Put, Store, Table

ACCOUNT_PREFIX: Final = b"standing:"
SCORE_PREFIX: Final = b"gossip-score:"
AWAY_MAX_S: Final = CUT_MAX_S
"""Most time that counts as passed while the node was down. Source: the longest that one is cut."""
SCORES_MAX: Final = 1024
"""Most scores of gossip that are kept. Source: twice `gossip.config.Config.peers_max`."""

Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Counters = tuple[tuple[str, Amount], ...]
R = TypeVar("R", bound=msgspec.Struct)


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An account. Times are since 1970."""

    penalty: Amount
    at_ms: Milliseconds
    cut_s: Amount
    """How long after `at_ms` the peer is cut off."""
    cuts: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _ScoreRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A score of gossip."""

    saved_ms: Milliseconds
    remaining_s: Amount
    misdeeds: Amount
    invalid: Counters
    failures: Counters


class StandingRows:
    """Reads and writes both kinds of rows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scores: dict[bytes, bytes] = {}
        """The rows of scores on the disk, but for when they were written."""

    def load_accounts(self, now: float, wall_ms: int) -> dict[str, Account]:
        """Return what an earlier run kept, in this one's time; those blamed last at the end."""
        found: dict[str, Account] = {}
        for key, row in self._rows(ACCOUNT_PREFIX, _Row):
            at = now - _away_s(row.at_ms, wall_ms)
            found[signing.peer_id(key)] = Account(row.penalty, at, at + row.cut_s, row.cuts)
        return dict(sorted(found.items(), key=lambda item: item[1].at)[-PEERS_MAX:])

    def load_scores(self, wall_ms: int) -> tuple[SavedScore, ...]:
        """Return what gossip is to remember; the application's part is in the accounts."""
        found = []
        for key, row in self._rows(SCORE_PREFIX, _ScoreRow):
            self._scores[key] = b""
            remaining_s = row.remaining_s - _away_s(row.saved_ms, wall_ms)
            if remaining_s > 0:
                score = SavedScore(
                    peer=PEER_ID_PREFIX + key,
                    remaining_s=remaining_s,
                    misdeeds=row.misdeeds,
                    invalid=row.invalid,
                    failures=row.failures,
                    application=0.0,
                )
                found.append(score)
        return tuple(found[:SCORES_MAX])

    def save(
        self,
        accounts: dict[str, Account | None],
        scores: Iterable[SavedScore],
        now: float,
        wall_ms: int,
    ) -> None:
        """Write the accounts that have changed, and all scores as they are. Returns at once."""
        puts: list[Put] = []
        deletes: list[Delete] = []
        for peer, account in accounts.items():
            key = ACCOUNT_PREFIX + signing.parse_peer_id(peer)
            if account is None:
                deletes.append((Table.META, key))
            else:
                puts.append((Table.META, key, _encode(_row(account, now, wall_ms))))
        self._save_scores(puts, deletes, scores, wall_ms)
        if puts or deletes:
            self._store.submit(Batch(puts=puts, deletes=deletes))

    def _save_scores(
        self, puts: list[Put], deletes: list[Delete], scores: Iterable[SavedScore], wall_ms: int
    ) -> None:
        kept: dict[bytes, bytes] = {}
        for score in sorted(scores, key=lambda score: -_weight(score))[:SCORES_MAX]:
            key = score.peer.removeprefix(PEER_ID_PREFIX)
            row = _ScoreRow(0, 0.0, score.misdeeds, score.invalid, score.failures)
            kept[key] = _encode(row)
            if kept[key] != self._scores.get(key):
                row = msgspec.structs.replace(row, saved_ms=wall_ms, remaining_s=score.remaining_s)
                puts.append((Table.META, SCORE_PREFIX + key, _encode(row)))
        deletes += ((Table.META, SCORE_PREFIX + key) for key in self._scores if key not in kept)
        self._scores = kept

    def _rows(self, prefix: bytes, kind: type[R]) -> list[tuple[bytes, R]]:
        """Return public keys and rows; one that cannot be read is nobody's."""
        found, stop = [], prefix[:-1] + bytes([prefix[-1] + 1])
        for key, row in self._store.scan(Table.META, prefix, stop, limit=2 * PEERS_MAX):
            public_key = key.removeprefix(prefix)
            try:
                decoded = msgspec.convert(codec.load_row(row), kind)
            except msgspec.ValidationError:
                continue
            if len(public_key) == signing.PUBLIC_KEY_SIZE_BYTES:
                found.append((public_key, decoded))
        return found


def _row(account: Account, now: float, wall_ms: int) -> _Row:
    at_ms = max(0, wall_ms - int((now - account.at) * 1000))
    cut_s = max(0.0, account.cut_until - account.at)
    return _Row(account.penalty, at_ms, cut_s, account.cuts)


def _encode(row: _Row | _ScoreRow) -> bytes:
    return codec.dump_row(msgspec.to_builtins(row))


def _away_s(since_ms: int, wall_ms: int) -> float:
    return min(max(0.0, (wall_ms - since_ms) / 1000), AWAY_MAX_S)


def _weight(score: SavedScore) -> float:
    return score.misdeeds + sum(count for _, count in (*score.invalid, *score.failures))
