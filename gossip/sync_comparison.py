"""One side of one comparison: which items of a stratum only one of two nodes has.

The sides take turns.  A turn is a list of rows, each about one range of items; a side answers each
row of the other's turn in its own next one:

    Fingerprint   equal to mine: nothing
                  I have at most 32 there: Ids, all of them
                  else: a Fingerprint each for 16 parts, with as many of my items in each
    Ids           Answer: which of mine are not among them, and which of them I lack
    Answer        nothing

A turn without fingerprints and ids is *closing*: the one that receives it has nothing to answer.
Both sides now have the same two lists in the same order: what each gives to the other.

Items may come and go between turns, as records are written: ranges are named by bounds, not by
ranks, so no harm is done but that something new may be found later instead of now.

Rows are handled a few at a time (`step`), so that a turn of thousands does not hold up everything
else.  Bytes are bounded: what has no room in a turn is left out, highest first, and the next
session finds the lower ranges equal.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Final, assert_never

import msgspec

from gossip.errors import RemoteProtocolError
from gossip.sync_index import SHORT_ID_SIZE_BYTES, Index, Item, short_id, unpack
from gossip.sync_messages import (
    IDS_MAX,
    MOVED_MAX,
    TURN_SIZE_MAX_BYTES,
    TURNS_MAX,
    Answer,
    End,
    Fingerprint,
    Ids,
    Packer,
    Row,
    unpack_rows,
)

PARTS: Final = 16
"""Into how many parts a range is divided. Source: fewest bytes, with leaves of 32 (measured)."""
ROW_WORK: Final = 512
"""What a row costs, in items that are hashed. Source: measurement, 5 us and 10 ns."""
ID_WORK: Final = 128
"""What an id costs, in items that are hashed. Source: measurement, 1.2 us and 10 ns."""
ANSWER_IDS_MAX: Final = 8192
"""Most ids in one row of an answer. Source: formula, half of a frame."""

_ROOM_BYTES: Final = TURN_SIZE_MAX_BYTES - 2 * ANSWER_IDS_MAX * SHORT_ID_SIZE_BYTES


class _Asked(msgspec.Struct, frozen=True):
    """A range whose ids went out, and the items that they stand for, back to back."""

    lower: bytes
    upper: bytes
    packed: bytes


@dataclass(slots=True)
class _Counts:
    """What one side's answers come to."""

    offered: int = 0
    wanted: int = 0


class Comparison:
    """The state of one side. Methods raise `RemoteProtocolError` for what breaks the rules."""

    def __init__(self, index: Index, key: bytes) -> None:
        """`key` is the session's, for fingerprints."""
        self._index = index
        self._key = key
        self.giving: list[Item] = []
        """What the other side lacks, in the order in which both know it."""
        self.taking: list[bytes] = []
        """Short ids of what this side lacks, in the order in which both know it."""
        self._ours = _Counts()
        self._theirs = _Counts()
        self.cut = False
        """Whether either side left something out."""
        self.turns = 0
        self._work = 0
        self._packer = Packer()
        self._cut_now = False
        self._giving_now: list[Item] = []
        """What goes on `giving` with the turn that is being made: there is one order for both."""
        self._taking_now: list[bytes] = []
        self._asked_now: list[_Asked] = []
        self._asked: deque[_Asked] = deque()
        """What went out in the last turn, lowest first, less what has been answered."""
        self._rows: deque[Iterator[Row]] = deque()
        self._received_bytes = 0
        self._upper: bytes | None = b""
        """The highest bound of the other's turn so far; `None` is the end."""
        self.has_ended = False
        """Whether the last frame of the other's turn is here."""
        self._theirs_open = False
        self._ours_open = False
        """Whether the turn that is being made has anything to answer."""
        self._was_open = False
        """Whether the one before it had."""

    # --- a turn of the other side ---------------------------------------------------------

    def receive(self, rows: bytes, end: End) -> None:
        """Take a frame's rows in, to be handled by `step`."""
        self._received_bytes += len(rows)
        if self._received_bytes > TURN_SIZE_MAX_BYTES:
            raise RemoteProtocolError("a turn is over the limit of its size")
        if not rows and end is End.MORE:
            raise RemoteProtocolError("a frame without rows that is not the last")
        self._rows.append(unpack_rows(rows))
        if end is not End.MORE:
            self.has_ended = True
            self.cut |= end is End.CUT
            self._count_turn()

    def step(self, work_max: int) -> bool:
        """Handle rows, worth so many hashed items; tell whether all that came are handled."""
        self._work = 0
        while self._rows and self._work < work_max:
            row = next(self._rows[0], None)
            if row is None:
                self._rows.popleft()
            else:
                self._work += ROW_WORK
                self._handle(row)
        return not self._rows

    @property
    def is_over(self) -> bool:
        """Tell whether the last turn, whosever it was, was closing.

        Ask when all rows of the other's turn are handled, or after `finish`.
        """
        return not (self._theirs_open if self.has_ended else self._was_open)

    # --- a turn of this side --------------------------------------------------------------

    def begin(self) -> None:
        """Make the first turn: everything, in one row."""
        size = len(self._index)
        if size:
            self._add(Fingerprint(b"", b"", self._index.fingerprint(0, size, self._key)))
            self._ours_open = True
        else:
            self._ask(b"", b"", b"")

    def finish(self) -> list[tuple[bytes, End]]:
        """Return this side's turn, a frame's rows each. The other's begins."""
        frames = self._packer.finish()
        ends = [End.MORE] * (len(frames) - 1) + [End.CUT if self._cut_now else End.WHOLE]
        self.giving += self._giving_now
        self.taking += self._taking_now
        self._giving_now, self._taking_now = [], []
        self._asked = deque(self._asked_now)
        self._asked_now = []
        self._packer = Packer()
        self._cut_now = False
        self._received_bytes = 0
        self._upper = b""
        self.has_ended = False
        self._theirs_open = False
        self._was_open, self._ours_open = self._ours_open, False
        self._count_turn()
        return list(zip(frames, ends, strict=True))

    def _count_turn(self) -> None:
        self.turns += 1
        if self.turns > TURNS_MAX:
            raise RemoteProtocolError(f"a comparison is not over after {TURNS_MAX} turns")

    # --- rows -----------------------------------------------------------------------------

    def _handle(self, row: Row) -> None:
        if self._upper is None or row.lower < self._upper:
            raise RemoteProtocolError("ranges of one turn overlap")
        self._upper = row.upper or None
        match row:
            case Fingerprint(lower, upper, digest):
                self._theirs_open = True
                self._compare(lower, upper, digest)
            case Ids():
                self._theirs_open = True
                self._answer(row)
            case Answer():
                self._learn(row)
            case _:
                assert_never(row)

    def _compare(self, lower: bytes, upper: bytes, digest: bytes) -> None:
        index = self._index
        start, stop = index.rank(lower), index.upper_rank(upper)
        self._work += stop - start
        if index.fingerprint(start, stop, self._key) == digest:
            return
        count = stop - start
        if count <= IDS_MAX:
            self._ask(lower, upper, index.packed(start, stop))
            return
        self._work += count + PARTS * ROW_WORK
        *bounds, last = index.split(start, stop, PARTS, self._key)
        for bound, part in (*bounds, (upper, last[1])):
            self._add(Fingerprint(lower, bound, part))
            lower = bound
        self._ours_open = True

    def _ask(self, lower: bytes, upper: bytes, packed: bytes) -> None:
        ids = b"".join(map(short_id, unpack(packed)))
        if self._add(Ids(lower, upper, ids)):
            self._asked_now.append(_Asked(lower, upper, packed))
            self._ours_open = True

    def _answer(self, row: Ids) -> None:
        index = self._index
        start, stop = index.rank(row.lower), index.upper_rank(row.upper)
        room = MOVED_MAX - self._ours.offered
        seen = min(stop, start + room + IDS_MAX)
        mine = {short_id(item): item for item in index.items(start, seen)}
        theirs = _split(row.ids)
        self._work += (seen - start + len(theirs)) * ID_WORK
        others = frozenset(theirs)
        have = [item for short, item in mine.items() if short not in others]
        wanted = [short not in mine for short in theirs]
        if seen < stop or len(have) > room or self._ours.wanted + sum(wanted) > MOVED_MAX:
            self._cut_now = self.cut = True
            # Of a range that is too long to be looked through, nothing is known to be lacking.
            have = have[:room]
            wanted = [False] * len(wanted)
        if not have and not any(wanted):
            return
        for at in range(0, max(len(have), 1), ANSWER_IDS_MAX):
            part = have[at : at + ANSWER_IDS_MAX]
            is_last = at + ANSWER_IDS_MAX >= len(have)
            upper = row.upper if is_last else Item(have[at + ANSWER_IDS_MAX])
            lower = row.lower if at == 0 else Item(have[at])
            bits = tuple(wanted) if at == 0 else ()
            if not self._add(Answer(lower, upper, b"".join(map(short_id, part)), bits)):
                return
            self._giving_now += part
            self._taking_now += compress(theirs, bits)
            self._ours.offered += len(part)
            self._ours.wanted += sum(bits)

    def _learn(self, row: Answer) -> None:
        while self._asked and _is_above(row, self._asked[0]):
            self._asked.popleft()
        asked = self._asked[0] if self._asked else None
        if asked is None or row.lower < asked.lower or _ends_above(row, asked):
            raise RemoteProtocolError("an answer to what was not asked")
        items = unpack(asked.packed)
        self._work += (len(items) + len(row.have) // SHORT_ID_SIZE_BYTES) * ID_WORK
        is_first = row.lower == asked.lower
        if len(row.wanted) != (len(items) if is_first else 0):
            raise RemoteProtocolError("an answer about another number of ids")
        shorts = frozenset(map(short_id, items))
        have = _split(row.have)
        if any(short in shorts for short in have):
            raise RemoteProtocolError("an answer that offers what it was told is here")
        self.taking += have
        self.giving += compress(items, row.wanted)
        self._theirs.offered += len(have)
        self._theirs.wanted += sum(row.wanted)
        if max(self._theirs.offered, self._theirs.wanted) > MOVED_MAX:
            raise RemoteProtocolError(f"over {MOVED_MAX} items in one comparison")

    def _add(self, row: Row) -> bool:
        """Append a row to this side's turn, if there is room; tell whether there was."""
        if self._packer.size_bytes < _ROOM_BYTES:
            self._packer.add(row)
            return True
        self._cut_now = self.cut = True
        return False


def _split(ids: bytes) -> list[bytes]:
    return [ids[at : at + SHORT_ID_SIZE_BYTES] for at in range(0, len(ids), SHORT_ID_SIZE_BYTES)]


def _is_above(row: Answer, asked: _Asked) -> bool:
    """Tell whether all of `row` lies above `asked`."""
    return asked.upper != b"" and row.lower >= asked.upper


def _ends_above(row: Answer, asked: _Asked) -> bool:
    return asked.upper != b"" and (row.upper == b"" or row.upper > asked.upper)
