"""Facts: who and what there is in a mesh, each signed, each true for ever.

    fact = [statement: bytes, certificate or nil, seal, home's seal or nil]
    id   = hash of all of it; a mesh's id is its genesis's

| statement | who signs |
|---|---|
| `Genesis` | the founder |
| `NodeGrant`, `NodeRevoke` | the node that admits or evicts |
| `UserKey` of epoch 0 | its own key (or, for a key kept elsewhere, the home), and the home node |
| `UserKey` of a later epoch | its own key, whose hash the epoch before announced |
| `ProjectOwner` | the project's home node |
| `Member`, `MemberRevoke` | the user who grants or revokes, as with records |

Every seal names its key, so `decode_fact` checks all signatures at once and without knowing any
other fact; that each key is whose it should be is `authority`'s question.  Facts only ever add up:
nothing is withdrawn but by another fact.

User keys rotate as in KERI (Smith, 2019): each epoch announces the hash of the next key, so the
theft of a key in use does not let the thief rotate it.
"""

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final, TypeAlias, assert_never

import msgspec

from storage import certificates, codec, hlc, ids, signing
from storage.certificates import Certificate, Envelope, Milliseconds
from storage.errors import RecordError
from storage.hlc import Timestamp
from storage.ids import NODE_NUMBERS
from storage.signing import NO_MESH, Hash, Keypair, PublicKey, Seal

FACT_KIND: Final = "fact"
HOME_KIND: Final = "fact-home"
FACT_SIZE_MAX_BYTES: Final = 8 * 1024
"""Source: formula, a certificate and the longest statement fit."""
NAME_LENGTH_MAX: Final = 64
REASON_LENGTH_MAX: Final = 256
NODE_ROLES_MAX: Final = 16
FACTS_KEPT_MAX: Final = 4096
"""Facts that need not be checked again. Source: guess; most meshes have no more, which are kept
anyway, and else some 4 MB."""
FOUNDER_NUMBER: Final = 1
"""The founder's node number. 0 is never given out."""


class Role(enum.IntEnum):
    """What a user is in a project. More is more."""

    VIEWER = 1
    INVOKER = 2
    DEVELOPER = 3
    ADMIN = 4
    OWNER = 5


NodeNumber = Annotated[int, msgspec.Meta(ge=FOUNDER_NUMBER, lt=NODE_NUMBERS)]
UserId = Annotated[int, msgspec.Meta(ge=NODE_NUMBERS, le=ids.ID_END - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
GrantNumber = Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
NodeRole = Annotated[str, msgspec.Meta(max_length=16, pattern=r"^[a-z_]+\Z")]


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all statements: an array that begins with the kind."""


class Genesis(Statement, frozen=True, tag=1):
    """A mesh begins. Its founder is node 1 and may admit every other number."""

    name: Name
    founder_key: PublicKey
    created_ms: Milliseconds


class NodeGrant(Statement, frozen=True, tag=2):
    """A node is in the mesh, with a number nobody had before."""

    number: NodeNumber
    public_key: PublicKey
    block: tuple[NodeNumber, Count] | None
    """`[low, high)` of the numbers it may admit, all above its own; `None`: it admits nobody."""
    roles: Annotated[tuple[NodeRole, ...], msgspec.Meta(max_length=NODE_ROLES_MAX)]
    users_max: Count | None
    """Most users it may make; `None`: no limit."""
    not_before_ms: Milliseconds
    expires_ms: Milliseconds
    by: NodeNumber
    signed_at: Timestamp


class NodeRevoke(Statement, frozen=True, tag=3):
    """A node is out of the mesh, and this key never comes back."""

    number: NodeNumber
    public_key: PublicKey
    distrust: bool
    """Also disregard what it authored itself: for a key that was stolen, not a node that left."""
    reason: Annotated[str, msgspec.Meta(max_length=REASON_LENGTH_MAX)]
    by: NodeNumber
    signed_at: Timestamp


class UserKey(Statement, frozen=True, tag=4):
    """A user's key from this epoch on; epoch 0 makes the user."""

    user: UserId
    epoch: Count
    name: Name
    public_key: PublicKey
    next_key_hash: Hash
    """`key_hash` of the public key of the next epoch."""
    home: NodeNumber
    """Number of the node that keeps the user's vault; at epoch 0 the one in the id."""
    strict: bool
    """Disregard what was signed under earlier epochs: for a key that may be stolen."""
    signed_at: Timestamp


class ProjectOwner(Statement, frozen=True, tag=5):
    """A project exists, and whose it is."""

    project: UserId
    owner: UserId
    signed_at: Timestamp


class Member(Statement, frozen=True, tag=6):
    """A user has a role in a project. The last grant counts, and each has the next number."""

    project: UserId
    user: UserId
    role: Role
    grant_n: GrantNumber
    by: UserId
    by_epoch: Count
    by_grant_n: Count
    signed_at: Timestamp


class MemberRevoke(Statement, frozen=True, tag=7):
    """This grant and all before it are over; also how a member leaves."""

    project: UserId
    user: UserId
    grant_n: GrantNumber
    by: UserId
    by_epoch: Count
    by_grant_n: Count
    signed_at: Timestamp


AnyStatement: TypeAlias = (
    Genesis | NodeGrant | NodeRevoke | UserKey | ProjectOwner | Member | MemberRevoke
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement whose signatures are good, and the bytes it came in."""

    statement: AnyStatement
    certificate: Certificate | None
    seal: Seal
    home: Seal | None
    encoded: bytes
    id: bytes
    """32 bytes."""

    @property
    def signed_at(self) -> int:
        """The hybrid timestamp of signing."""
        if isinstance(self.statement, Genesis):
            return hlc.first_of(self.statement.created_ms)
        return self.statement.signed_at


def key_hash(public_key: bytes) -> bytes:
    """Return the hash by which an epoch announces the next one's key."""
    return signing.fingerprint("user-key", public_key)


def found_mesh(founder: Keypair, name: str, created_ms: int) -> Fact:
    """Return the genesis of a new mesh; its `id` is the mesh's."""
    statement = Genesis(name, founder.public_key, created_ms)
    return _decode(_encode(statement, sign(statement, founder, NO_MESH)), NO_MESH)


def sign(statement: AnyStatement, keypair: Keypair, mesh: bytes) -> Seal:
    """Return the seal that makes `statement` the key holder's."""
    return keypair.seal(FACT_KIND, mesh, codec.encode_struct(statement))


def sign_home(statement: UserKey, home: Keypair, mesh: bytes) -> Seal:
    """Return a home node's consent to a new user."""
    return home.seal(HOME_KIND, mesh, codec.encode_struct(statement))


def assemble(
    statement: AnyStatement,
    seal: Seal,
    mesh: bytes,
    *,
    certificate: Certificate | None = None,
    home: Seal | None = None,
) -> Fact:
    """Return the fact of these parts. Raises `InvalidData` if `decode_fact` would not take it."""
    return decode_fact(_encode(statement, seal, certificate, home), mesh)


def decode_genesis(data: bytes) -> Fact:
    """Return the genesis in `data`, of whatever mesh. Raises `InvalidData`'s subclasses only."""
    fact = _decode(data, NO_MESH)
    if not isinstance(fact.statement, Genesis):
        raise RecordError("not a genesis")
    return fact


@lru_cache(maxsize=FACTS_KEPT_MAX)
def decode_fact(data: bytes, mesh: bytes) -> Fact:
    """Return the fact in `data`, with all its signatures checked.

    The same bytes are the same fact for ever, and come from several peers, so the last ones that
    were good are kept.  Raises `InvalidData`'s subclasses, and nothing else.
    """
    fact = _decode(data, mesh)
    if isinstance(fact.statement, Genesis) and fact.id != mesh:
        raise RecordError("the genesis of another mesh")
    return fact


def _encode(
    statement: AnyStatement,
    seal: Seal,
    certificate: Certificate | None = None,
    home: Seal | None = None,
) -> bytes:
    encoded = certificate.encoded if certificate else None
    return codec.encode_struct(Envelope(codec.encode_struct(statement), encoded, seal, home))


def _decode(data: bytes, mesh: bytes) -> Fact:
    envelope = codec.decode_struct(data, FACT_SIZE_MAX_BYTES, Envelope)
    statement: AnyStatement = codec.decode_struct(
        envelope.body,
        FACT_SIZE_MAX_BYTES,
        AnyStatement,  # type: ignore[arg-type]
    )
    certificate = None
    if envelope.certificate is not None:
        certificate = certificates.decode_certificate(envelope.certificate)
    fact_id = signing.fingerprint(FACT_KIND, data)
    fact = Fact(statement, certificate, envelope.seal, envelope.home, data, fact_id)
    _check(fact)
    mesh = NO_MESH if isinstance(statement, Genesis) else mesh
    fact.seal.verify(FACT_KIND, mesh, envelope.body)
    if fact.home is not None:
        fact.home.verify(HOME_KIND, mesh, envelope.body)
    if certificate is not None:
        certificate.verify(mesh)
    return fact


def _check(fact: Fact) -> None:
    """Rules that need no other fact."""
    statement = fact.statement
    if (fact.home is not None) != (isinstance(statement, UserKey) and statement.epoch == 0):
        raise RecordError("a new user has the home node's seal, and nothing else has")
    if fact.certificate is not None and not isinstance(statement, Member | MemberRevoke):
        raise RecordError("only members are granted and revoked with a certificate")
    match statement:
        case Genesis():
            if fact.seal.public_key != statement.founder_key:
                raise RecordError("a genesis is signed by the founder")
        case NodeGrant():
            _check_block(statement)
        case NodeRevoke():
            if statement.by >= statement.number:
                raise RecordError("a node is evicted by one with a lower number")
        case UserKey():
            vouched = fact.home is not None and fact.seal.public_key == fact.home.public_key
            if fact.seal.public_key != statement.public_key and not vouched:
                raise RecordError("a user's key signs for itself, or its home node for it")
            if statement.epoch == 0 and ids.node_number(statement.user) != statement.home:
                raise RecordError("a user is made by the node in the id")
        case ProjectOwner():
            pass
        case Member() | MemberRevoke():
            _check_member(statement, fact)
        case _:
            assert_never(statement)


def _check_block(grant: NodeGrant) -> None:
    if grant.by >= grant.number:
        raise RecordError("a node is admitted by one with a lower number")
    if grant.not_before_ms > grant.expires_ms:
        raise RecordError("a grant ends before it begins")
    if grant.block is not None:
        low, high = grant.block
        if not grant.number < low < high <= NODE_NUMBERS:
            raise RecordError("a block of numbers lies above the node's own")


def _check_member(statement: Member | MemberRevoke, fact: Fact) -> None:
    if isinstance(statement, Member) and statement.role is Role.OWNER:
        raise RecordError("nobody is made an owner")
    if fact.certificate is None:
        return
    terms = fact.certificate.terms
    if (terms.user, terms.epoch) != (statement.by, statement.by_epoch):
        raise RecordError("a certificate of another user or epoch")
    if fact.seal.public_key not in terms.audience:
        raise RecordError("signed by a node that is not in the certificate's audience")
    if not fact.certificate.is_current(hlc.physical_ms(statement.signed_at)):
        raise RecordError("signed outside of the certificate's time")
    if not fact.certificate.may_write("project"):
        raise RecordError("the certificate's scopes do not cover projects")
