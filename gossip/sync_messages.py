"""What two nodes say to each other in a reconciliation: `PROTOCOL`, frame by frame.

    Hello    [1, version, mesh, nonce]      the opener begins
    Welcome  [2, version, nonce]            the answerer takes part
    Refusal  [3, reason]                    or does not
    Ranges   [4, stratum, end, rows]        part of a turn in the comparison of one stratum
    Items    [5, stratum, payloads]         what the other lacks, in the order both sides know

Who may speak is never in doubt (`sync_session` says how the turn passes), so neither side needs to
read while it writes.

A frame is one strict CBOR array (`storage.codec`) of at most `FRAME_SIZE_MAX_BYTES`.  A turn may
have 65,536 ranges, so rows are packed and not CBOR values of their own: less time, fewer bytes.
A row is

    head     1 byte: kind << 6 | how many bytes its upper bound shares with the one before
    length   1 byte, and as many bytes: the rest of the upper bound
    body     Skip: nothing
             Fingerprint: 16 bytes
             Ids: count (1 byte), short ids of 16 bytes
             Answer: count (3 bytes), short ids, count (1 byte), a bitmap of that many bits

A row's lower bound is the upper bound of the row before it; the first one's is `b""`.  Bounds grow
from row to row; only the last may be the end of everything, `b""`.  Every list of rows has exactly
one packed form, and `unpack_rows` refuses any other.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Annotated, Final, Literal, TypeAlias, assert_never

import msgspec

from gossip.errors import RemoteProtocolError
from gossip.sync_index import (
    FINGERPRINT_SIZE_BYTES,
    ITEM_SIZE_BYTES,
    NONCE_SIZE_BYTES,
    SHORT_ID_SIZE_BYTES,
)
from storage import codec
from storage.errors import InvalidData

PROTOCOL: Final = "/peernode/sync/1"
VERSION: Final = 1
FRAME_SIZE_MAX_BYTES: Final = 256 * 1024
"""Largest frame. Source: three of the largest records fit, and a slow link takes it in a second."""
ROWS_SIZE_MAX_BYTES: Final = FRAME_SIZE_MAX_BYTES - 64
"""Most bytes of rows in a frame. Source: formula, without the array around them."""
ITEMS_SIZE_MAX_BYTES: Final = FRAME_SIZE_MAX_BYTES - 64
"""Most bytes of payloads in a frame, `PAYLOAD_OVERHEAD_BYTES` for each included."""
PAYLOAD_OVERHEAD_BYTES: Final = 5
"""Of one payload in CBOR. Source: formula, the longest head of a string under 4 GiB."""
IDS_MAX: Final = 32
"""Most ids in a row of `Ids`. Source: reconciliation's cost is least around here (measured)."""
PAYLOADS_MAX: Final = 1024
"""Most payloads in a frame. Source: 256 KiB of the smallest records."""
TURN_SIZE_MAX_BYTES: Final = 8 * 1024 * 1024
"""Most bytes of rows in a turn; what is above is left to another session. Source: twice what
10,000 scattered differences in a million take."""
TURNS_MAX: Final = 16
"""Most turns of one comparison. Source: formula, each divides the smaller side's range by 16."""
MOVED_MAX: Final = 65_536
"""Most items that one side offers, and most that it wants, in one comparison; the rest is left to
another. Source: guess; they take some ten seconds to verify, and 8 MiB to remember."""
PASSES_MAX: Final = 4
"""Most comparisons of facts in one session. Source: guess; one to exchange them, one to find
them equal, and two for those that came from elsewhere meanwhile."""

Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_SIZE_BYTES, max_length=NONCE_SIZE_BYTES)]
Mesh = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]


class Stratum(IntEnum):
    """The sets that are compared, one after the other."""

    FACTS = 1
    """A: facts that are known."""
    RECORDS = 2
    """D: records that are admissible by A."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array whose first element is the kind."""


class Hello(Message, frozen=True, tag=1):
    """Compare with me."""

    version: int
    mesh: Mesh
    """The first 8 bytes of the mesh's id."""
    nonce: Nonce


class Welcome(Message, frozen=True, tag=2):
    """Let us; and the answerer's first turn follows at once."""

    version: int
    nonce: Nonce


class Refusal(Message, frozen=True, tag=3):
    """Not now (`busy`), or not ever."""

    reason: Literal["busy", "mesh", "version"]


class End(IntEnum):
    """What comes after a frame of `Ranges`."""

    MORE = 0
    """More of the same turn."""
    WHOLE = 1
    """The other's turn."""
    CUT = 2
    """The other's turn, and something was left out for want of room: compare again later."""


class Ranges(Message, frozen=True, tag=4):
    """Rows of a turn."""

    stratum: Stratum
    end: End
    rows: bytes


class Items(Message, frozen=True, tag=5):
    """The next facts or records of those that the other side lacks; nil: no longer here."""

    stratum: Stratum
    payloads: Annotated[list[bytes | None], msgspec.Meta(max_length=PAYLOADS_MAX)]


AnyMessage: TypeAlias = Hello | Welcome | Refusal | Ranges | Items


class _Kind(IntEnum):
    SKIP = 0
    FINGERPRINT = 1
    IDS = 2
    ANSWER = 3


class Fingerprint(msgspec.Struct, frozen=True):
    """All that I have from `lower` to `upper`, hashed."""

    lower: bytes
    upper: bytes
    digest: bytes


class Ids(msgspec.Struct, frozen=True):
    """All that I have from `lower` to `upper`, by short ids back to back."""

    lower: bytes
    upper: bytes
    ids: bytes


class Answer(msgspec.Struct, frozen=True):
    """To `Ids`: what of mine you lack, and which of yours I lack.

    One that would be too long for a frame goes on in rows with higher bounds and no wants.
    """

    lower: bytes
    upper: bytes
    have: bytes
    """Short ids back to back."""
    wanted: tuple[bool, ...]
    """For each of the ids, in their order."""


Row: TypeAlias = Fingerprint | Ids | Answer


def encode(message: AnyMessage) -> bytes:
    """Return the frame of a message."""
    return codec.encode_struct(message)


def decode(frame: bytes) -> AnyMessage:
    """Return the message in a frame. Raises `RemoteProtocolError` for all that is not exact."""
    try:
        message: AnyMessage = codec.decode_struct(
            frame,
            FRAME_SIZE_MAX_BYTES,
            AnyMessage,  # type: ignore[arg-type]
        )
    except InvalidData as error:
        raise RemoteProtocolError(f"not a message of a reconciliation: {error}") from error
    return message


class Packer:
    """Packs the rows of one turn into as many frames as they need."""

    def __init__(self) -> None:
        self._full: list[bytes] = []
        self._open = bytearray()
        self._bound = b""
        self.size_bytes = 0
        """Of all rows so far."""

    def add(self, row: Row) -> None:
        """Append a row; it lies above those before it."""
        packed = self._pack(row)
        if len(self._open) + len(packed) > ROWS_SIZE_MAX_BYTES:
            self._full.append(bytes(self._open))
            self._open.clear()
            self._bound = b""
            packed = self._pack(row)
        self._open += packed
        self._bound = row.upper
        self.size_bytes += len(packed)

    def finish(self) -> list[bytes]:
        """Return the rows, a frame's worth each; at least one, maybe empty."""
        return [*self._full, bytes(self._open)]

    def _pack(self, row: Row) -> bytes:
        match row:
            case Fingerprint(_, _, digest):
                kind, body = _Kind.FINGERPRINT, digest
            case Ids(_, _, ids):
                kind, body = _Kind.IDS, bytes([len(ids) // SHORT_ID_SIZE_BYTES]) + ids
            case Answer(_, _, have, wanted):
                bits = sum(1 << at for at, is_wanted in enumerate(wanted) if is_wanted)
                count = (len(have) // SHORT_ID_SIZE_BYTES).to_bytes(3, "big")
                bitmap = bits.to_bytes((len(wanted) + 7) // 8, "little")
                kind, body = _Kind.ANSWER, count + have + bytes([len(wanted)]) + bitmap
            case _:
                assert_never(row)
        gap = b""
        below = self._bound
        if row.lower != below:
            gap = _head(_Kind.SKIP, below, row.lower)
            below = row.lower
        return gap + _head(kind, below, row.upper) + body


def _head(kind: _Kind, below: bytes, bound: bytes) -> bytes:
    shared = _shared(below, bound)
    return bytes([kind << 6 | shared, len(bound) - shared]) + bound[shared:]


def _shared(below: bytes, bound: bytes) -> int:
    shared = 0
    longest = min(len(below), len(bound))
    while shared < longest and below[shared] == bound[shared]:
        shared += 1
    return shared


def unpack_rows(packed: bytes) -> Iterator[Row]:
    """Yield the rows, lowest first. Raises `RemoteProtocolError` at the first that is not exact."""
    reader = _Reader(packed)
    lower = b""
    kind = _Kind.FINGERPRINT
    while reader.left:
        if lower == b"" and reader.at:
            raise RemoteProtocolError("a row above the end of everything")
        previous = kind
        kind, upper = reader.head(lower)
        match kind:
            case _Kind.SKIP:
                if previous is _Kind.SKIP or not reader.left:
                    raise RemoteProtocolError("a gap that ends in nothing")
            case _Kind.FINGERPRINT:
                yield Fingerprint(lower, upper, reader.take(FINGERPRINT_SIZE_BYTES))
            case _Kind.IDS:
                count = reader.integer(1)
                if count > IDS_MAX:
                    raise RemoteProtocolError(f"{count} ids in a range, over {IDS_MAX}")
                yield Ids(lower, upper, reader.take(count * SHORT_ID_SIZE_BYTES))
            case _Kind.ANSWER:
                have = reader.take(reader.integer(3) * SHORT_ID_SIZE_BYTES)
                yield Answer(lower, upper, have, reader.bitmap())
            case _:
                assert_never(kind)
        lower = upper


class _Reader:
    """Reads packed rows from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self.at

    def take(self, size_bytes: int) -> bytes:
        if size_bytes > self.left:
            raise RemoteProtocolError("rows end early")
        self.at += size_bytes
        return self._data[self.at - size_bytes : self.at]

    def integer(self, size_bytes: int) -> int:
        return int.from_bytes(self.take(size_bytes), "big")

    def head(self, below: bytes) -> tuple[_Kind, bytes]:
        first, added = self.take(2)
        shared = first & 0x3F
        rest = self.take(added)
        upper = below[:shared] + rest
        if shared > len(below) or shared + added > ITEM_SIZE_BYTES:
            raise RemoteProtocolError("a bound of an impossible length")
        if shared < len(below) and rest[:1] == below[shared : shared + 1] and rest:
            raise RemoteProtocolError("a bound is not packed as it should be")
        if upper and upper <= below:
            raise RemoteProtocolError("ranges overlap or are out of order")
        return _Kind(first >> 6), upper

    def bitmap(self) -> tuple[bool, ...]:
        count = self.integer(1)
        bits = int.from_bytes(self.take((count + 7) // 8), "little")
        if bits >> count:
            raise RemoteProtocolError("more wants than ids")
        return tuple(bool(bits >> at & 1) for at in range(count))


def pack_rows(rows: Iterable[Row]) -> bytes:
    """Return rows packed for one frame. Raises `ValueError` if they need more."""
    packer = Packer()
    for row in rows:
        packer.add(row)
    (packed,) = packer.finish()
    return packed
