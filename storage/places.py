"""Places: which slot a record is about, and the signature that gave its object an owner.

A *slot* is an object, or one key of a key-value space; its name is a hash of (class, id, key).  A
`Place` is a slot with what is fixed at the object's birth: its owner and, of a space, its mode.

A local key-value space has no slots: a `Place` cannot be made of one, so neither can a record.

**Birth.**  Functions, spaces and blobs carry the signature of their home node over (class, id,
owner, mode), given once when the object was made and copied into each version.  So nobody else can
make an id with that node's number, nor move an object to another owner: without it, a record that
names one's own project as the owner of somebody's function would be as good as any.  Users and
projects are born by facts instead (`facts`).
"""

import enum
import hashlib
from dataclasses import dataclass
from typing import Final

from storage import codec, ids
from storage.errors import RecordError
from storage.ids import NODE_NUMBERS
from storage.signing import Keypair, Seal

BIRTH_KIND: Final = "birth"
KEY_SIZE_MAX_BYTES: Final = 256
"""Longest key of an entry. Source: the HTTP contract."""
SLOT_SIZE_BYTES: Final = 16


class Class(enum.IntEnum):
    """What a record is about. Workers, jobs and local spaces are not here: they have none."""

    USER = 1
    PROJECT = 2
    FUNCTION = 3
    KV_SPACE = 4
    """Attributes of a global space."""
    KV_ENTRY = 5
    """One key of a global space; its id is the space's."""
    BLOB = 6
    """Attributes of a blob. Fetched on demand, never pushed."""


class Scope(enum.Enum):
    """How far a key-value space reaches."""

    GLOBAL = "global"
    LOCAL = "local"


class Mode(enum.IntEnum):
    """Who orders the writes to a space. Fixed at its birth."""

    NONE = 0
    """Not a space."""
    LWW = 1
    """Nobody: the last writer wins."""
    CAS = 2
    """Its home node, which alone may author its entries."""


SPACE_CLASSES: Final = frozenset({Class.KV_SPACE, Class.KV_ENTRY})
FACT_BORN: Final = frozenset({Class.USER, Class.PROJECT})
"""Classes whose objects are made by a fact; the others carry a seal of their home."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which slot, and whose. Raises `RecordError` if there is no such slot."""

    class_: Class
    id: int
    owner_class: Class
    """`USER` or `PROJECT`."""
    owner: int
    key: bytes = b""
    """Of an entry, 1 to `KEY_SIZE_MAX_BYTES` bytes; empty for all else."""
    mode: Mode = Mode.NONE
    scope: Scope | None = None
    """`Scope.GLOBAL` for a space and its entries; nothing else has one."""

    def __post_init__(self) -> None:
        if (self.scope is Scope.GLOBAL) != (self.class_ in SPACE_CLASSES):
            raise RecordError("only a global space has records, and only a space has a scope")
        if self.scope is Scope.LOCAL:
            raise RecordError("a local space has no records")
        if (self.mode is Mode.NONE) != (self.class_ not in SPACE_CLASSES):
            raise RecordError("a space has a mode, and nothing else has")
        shortest, longest = (1, KEY_SIZE_MAX_BYTES) if self.class_ is Class.KV_ENTRY else (0, 0)
        if not shortest <= len(self.key) <= longest:
            raise RecordError(
                f"an entry has a key of 1 to {KEY_SIZE_MAX_BYTES} bytes, and nothing else has"
            )
        if self.owner_class not in FACT_BORN or min(self.id, self.owner) < NODE_NUMBERS:
            raise RecordError("an owner is a user or a project, and ids are not node numbers")
        if self.class_ in FACT_BORN and (self.owner_class, self.owner) != (self.class_, self.id):
            raise RecordError("a user or project is its own owner")

    @property
    def slot(self) -> bytes:
        """The 16 bytes under which records of this place are kept."""
        named = bytes([self.class_]) + ids.key(self.id) + self.key
        return hashlib.sha256(named).digest()[:SLOT_SIZE_BYTES]

    @property
    def home(self) -> int:
        """Number of the object's home node."""
        return ids.node_number(self.id)

    @property
    def birth_statement(self) -> bytes:
        """What the home node signs when the object is made. A space's entries share its birth."""
        class_ = Class.KV_SPACE if self.class_ is Class.KV_ENTRY else self.class_
        return codec.encode(
            [1, int(class_), self.id, int(self.owner_class), self.owner, int(self.mode)]
        )


def sign_birth(home: Keypair, mesh: bytes, place: Place) -> Seal:
    """Return the home node's word that it made this object, for this owner."""
    return home.seal(BIRTH_KIND, mesh, place.birth_statement)


def verify_birth(birth: Seal, mesh: bytes, place: Place) -> None:
    """Raise `SignatureError` unless the key in `birth` signed for this place."""
    birth.verify(BIRTH_KIND, mesh, place.birth_statement)
