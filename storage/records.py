"""Records: signed versions of what every node knows, each good on its own.

A record is one author's latest word on one *slot* (an object, or one key of a key-value space):

    record = [body: bytes, certificate or nil, seal, birth or nil]
    body   = [1, mesh, class, id, key, owner class, owner, mode, author, epoch, hlc, signed at,
              flags, orig, grant, prev, schema, job, payload]
    rid    = hash of the body: no signature in it, so it cannot be changed without the author
    slot   = hash of (class, id, key)

The bytes received are kept, and it is them that a signature covers; `decode_record` refuses any
that are not the one encoding of what they say.

**Who signs.**  A *user* signs through a node named in a certificate, or with the user's own key and
without one.  A *node* signs what a job of a project wrote (`job` says which, and lives at that
node), and all that happens in an object it serialises: the entries of a `cas` space and the
attributes of blobs with its number.  An author below 2**14 is a node's number, any other a user.

Functions, spaces and blobs carry their *birth* (`places`); users and projects are born by facts
(`facts`).

**Order.**  `rank` orders what one author says of one slot; `merge` says why.  `hlc` is `signed_at`
unless the record carries an older one over (`Flag.CARRY`, with the older one's rid in `orig`).

What it leaves out: what is in a payload (the classes' business), and whether the author may write
here, which only the facts can say.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from storage import certificates, codec, hlc, ids, places, signing
from storage.certificates import Certificate, Envelope
from storage.errors import RecordError, SignatureError
from storage.hlc import Timestamp
from storage.ids import NODE_NUMBERS, Id
from storage.places import FACT_BORN, SPACE_CLASSES, Class, Mode, Place, Scope
from storage.signing import Keypair, Seal

RECORD_KIND: Final = "record"
RECORD_OVERHEAD_MAX_BYTES: Final = certificates.CERTIFICATE_SIZE_MAX_BYTES + 1024
"""Most bytes around a payload. Source: formula, the certificate and the fixed fields."""


PAYLOAD_SIZE_MAX_BYTES: Final = {
    Class.USER: 4 * 1024,
    Class.PROJECT: 80 * 1024,
    Class.FUNCTION: 80 * 1024,
    Class.KV_SPACE: 4 * 1024,
    Class.KV_ENTRY: 65 * 1024,
    Class.BLOB: 4 * 1024,
}
"""Largest payload by class. Source: guess, but for functions (64 KiB of source rides along),
projects (48 KiB of sealed secrets, 17 of hosts) and entries (the HTTP contract's 64 KiB value),
each with room for attributes."""

RECORD_SIZE_MAX_BYTES: Final = max(PAYLOAD_SIZE_MAX_BYTES.values()) + RECORD_OVERHEAD_MAX_BYTES
"""Largest record of any class. Source: formula."""


class Flag(enum.IntFlag):
    """Marks of a record."""

    TOMBSTONE = 1
    """The slot is empty from here on."""
    TERMINAL = 2
    """And for ever: objects, but not entries, die so."""
    CARRY = 4
    """An older record signed anew, with its `hlc`, because its author or epoch has gone."""


NO_FLAGS: Final = Flag(0)
_NODE_CLASSES: Final = frozenset({Class.KV_ENTRY, Class.BLOB})
_CLASS_NAMES: Final = {Class.KV_SPACE: "kv", Class.KV_ENTRY: "kv"}

SHORT_RID_SIZE_BYTES: Final = 16
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
ShortRid = Annotated[
    bytes, msgspec.Meta(min_length=SHORT_RID_SIZE_BYTES, max_length=SHORT_RID_SIZE_BYTES)
]
Rank: TypeAlias = tuple[int, int, bool, int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What an author says. Raises `RecordError` if it contradicts itself."""

    mesh: bytes
    """The first 8 bytes of the mesh's id."""
    place: Place
    author: int
    epoch: int = 0
    """Of the author's key; 0 for a node."""
    hlc: int
    signed_at: int
    flags: Flag = NO_FLAGS
    orig: bytes | None = None
    grant_n: int = 0
    """Number of the author's membership in the project; 0 for its owner, and outside of one."""
    prev: bytes | None = None
    """The rid, cut short, of what the author saw in the slot; for people who investigate."""
    schema: int = 1
    """Version of the payload's layout within its class."""
    job: int | None = None
    payload: bytes = b""

    def __post_init__(self) -> None:
        place = self.place
        if len(self.payload) > PAYLOAD_SIZE_MAX_BYTES[place.class_]:
            raise RecordError(f"a payload is over the limit of {place.class_.name}")
        self._check_flags()
        if self.by_node:
            self._check_node()
        elif self.job is not None:
            raise RecordError("a user's record names no job")
        elif place.class_ is Class.KV_ENTRY and place.mode is Mode.CAS:
            raise RecordError("an entry of a cas space is written by its home node")
        elif place.owner_class is Class.USER and (self.author, self.grant_n) != (place.owner, 0):
            raise RecordError("only the owner writes what a user owns")

    @property
    def by_node(self) -> bool:
        """Tell whether the author is a node."""
        return self.author < NODE_NUMBERS

    def _check_flags(self) -> None:
        dead = Flag.TOMBSTONE in self.flags
        object_ = self.place.class_ is not Class.KV_ENTRY
        if (Flag.TERMINAL in self.flags) != (dead and object_):
            raise RecordError("deletion is terminal for objects, and for them only")
        if dead and self.payload:
            raise RecordError("a tombstone has no payload")
        if (Flag.CARRY in self.flags) != (self.orig is not None):
            raise RecordError("what is carried over names its original, and nothing else does")
        carried = Flag.CARRY in self.flags and self.hlc <= self.signed_at
        if self.hlc != self.signed_at and not carried:
            raise RecordError("the time is not the time of signing")

    def _check_node(self) -> None:
        place = self.place
        if place.class_ not in _NODE_CLASSES or (self.epoch, self.grant_n) != (0, 0):
            raise RecordError("a node writes entries and blobs, without epoch or grant")
        by_home = self.author == place.home
        by_job = self.job is not None and ids.node_number(self.job) == self.author
        if self.job is not None and not by_job:
            raise RecordError("a job writes through its home node")
        if place.mode is Mode.LWW:
            if not by_job or place.owner_class is not Class.PROJECT:
                raise RecordError("a node writes an entry for a job, in a project")
        elif not by_home:
            raise RecordError("a node writes cas entries and blobs only if it is their home")


class _BodyFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    mesh: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    class_: Class
    id: Id
    key: bytes
    owner_class: Class
    owner: Id
    mode: Mode
    author: Id
    epoch: Count
    hlc: Timestamp
    signed_at: Timestamp
    flags: Annotated[int, msgspec.Meta(ge=0, le=7)]
    orig: ShortRid | None
    grant_n: Count
    prev: ShortRid | None
    schema: Count
    job: Id | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A decoded record, and the bytes it came in."""

    body: Body
    certificate: Certificate | None
    seal: Seal
    """Of the delegate, the user's own key, or the node."""
    birth: Seal | None
    encoded: bytes
    body_encoded: bytes
    rid: bytes
    """32 bytes."""
    slot: bytes
    """16 bytes."""

    @property
    def key(self) -> tuple[bytes, int]:
        """`(slot, author)`: of these only the greatest by `rank` is kept."""
        return self.slot, self.body.author

    @property
    def store_key(self) -> bytes:
        """`key` as 24 bytes."""
        return self.slot + ids.key(self.body.author)

    @property
    def rank(self) -> Rank:
        """Order among one author's records of one slot: what is deleted for ever stays so."""
        terminal = Flag.TERMINAL in self.body.flags
        return self.body.grant_n, self.body.epoch, terminal, self.body.hlc, self.rid

    @property
    def is_tombstone(self) -> bool:
        """Tell whether it deletes."""
        return Flag.TOMBSTONE in self.body.flags

    @property
    def class_name(self) -> str:
        """The class's name in the HTTP API and in scopes."""
        class_ = self.body.place.class_
        return _CLASS_NAMES.get(class_, class_.name.lower())

    def verify(self, mesh: bytes) -> None:
        """Raise `SignatureError` unless every signature in it is good, in this mesh.

        Needs no facts: whether the keys are whose they should be is `authority`'s question.
        """
        self.verify_author(mesh)
        if self.certificate is not None:
            self.certificate.verify(mesh)
        if self.birth is not None:
            places.verify_birth(self.birth, mesh, self.body.place)

    def verify_author(self, mesh: bytes) -> None:
        """Raise `SignatureError` unless the signer signed the body, in this mesh."""
        if self.body.mesh != mesh[:8]:
            raise SignatureError("a record of another mesh")
        self.seal.verify(RECORD_KIND, mesh, self.body_encoded)


def sign_record(
    signer: Keypair,
    mesh: bytes,
    body: Body,
    *,
    certificate: Certificate | None = None,
    birth: Seal | None = None,
) -> Record:
    """Return `body` signed. Raises `InvalidData` if `decode_record` would not take the result."""
    body_encoded = codec.encode_struct(_body_fields(body))
    envelope = Envelope(
        body_encoded,
        certificate.encoded if certificate else None,
        signer.seal(RECORD_KIND, mesh, body_encoded),
        birth,
    )
    return decode_record(codec.encode_struct(envelope))


def carried(
    record: Record, epoch: int, at: int, *, author: int | None = None, grant_n: int | None = None
) -> Body:
    """Return what says the same as a user's record, signed at `at` under the key of `epoch`.

    It keeps its time, so that it stands where the record stood and hides nothing written since.
    `author` and `grant_n`: who says it now, and under which membership; the same if not given.
    """
    body = record.body
    return replace(
        body,
        author=body.author if author is None else author,
        epoch=epoch,
        grant_n=body.grant_n if grant_n is None else grant_n,
        signed_at=at,
        flags=body.flags | Flag.CARRY,
        orig=record.rid[:SHORT_RID_SIZE_BYTES],
    )


def decode_record(
    data: bytes, decode: Callable[[bytes], Certificate] = certificates.decode_certificate
) -> Record:
    """Return the record in `data`; its signatures are not checked yet (`Record.verify`).

    `decode` may remember certificates: one stands in thousands of records.  Raises `InvalidData`'s
    subclasses, and nothing else.
    """
    envelope = codec.decode_struct(data, RECORD_SIZE_MAX_BYTES, Envelope)
    fields = codec.decode_struct(envelope.body, RECORD_SIZE_MAX_BYTES, _BodyFields)
    certificate = None
    if envelope.certificate is not None:
        certificate = decode(envelope.certificate)
    body = _body(fields)
    record = Record(
        body,
        certificate,
        envelope.seal,
        envelope.home,
        data,
        envelope.body,
        signing.fingerprint(RECORD_KIND, envelope.body),
        body.place.slot,
    )
    _check_envelope(record)
    return record


def _check_envelope(record: Record) -> None:
    """Rules between a body and what surrounds it."""
    body = record.body
    if (record.birth is None) != (body.place.class_ in FACT_BORN):
        raise RecordError("an object carries its birth, unless it is born by a fact")
    if record.certificate is None:
        return
    terms = record.certificate.terms
    if body.by_node:
        raise RecordError("a node signs by itself")
    if (terms.user, terms.epoch) != (body.author, body.epoch):
        raise RecordError("a certificate of another user or epoch")
    if record.seal.public_key not in terms.audience:
        raise RecordError("signed by a node that is not in the certificate's audience")
    if not record.certificate.is_current(hlc.physical_ms(body.signed_at)):
        raise RecordError("signed outside of the certificate's time")
    if not record.certificate.may_write(record.class_name):
        raise RecordError("the certificate's scopes do not cover the record")


def _body(fields: _BodyFields) -> Body:
    place = Place(
        fields.class_,
        fields.id,
        fields.owner_class,
        fields.owner,
        fields.key,
        fields.mode,
        Scope.GLOBAL if fields.class_ in SPACE_CLASSES else None,
    )
    return Body(
        mesh=fields.mesh,
        place=place,
        author=fields.author,
        epoch=fields.epoch,
        hlc=fields.hlc,
        signed_at=fields.signed_at,
        flags=Flag(fields.flags),
        orig=fields.orig,
        grant_n=fields.grant_n,
        prev=fields.prev,
        schema=fields.schema,
        job=fields.job,
        payload=fields.payload,
    )


def _body_fields(body: Body) -> _BodyFields:
    place = body.place
    return _BodyFields(
        1,
        body.mesh,
        place.class_,
        place.id,
        place.key,
        place.owner_class,
        place.owner,
        place.mode,
        body.author,
        body.epoch,
        body.hlc,
        body.signed_at,
        int(body.flags),
        body.orig,
        body.grant_n,
        body.prev,
        body.schema,
        body.job,
        body.payload,
    )
