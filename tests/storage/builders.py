"""Valid facts and records of every kind, with every field open to override.

The cast: the founder is node 1; node 2 is the home of everyone and everything unless a test says
otherwise; OWNER owns PROJECT; ADMIN, DEVELOPER and VIEWER are what they are called, under grant 1.
`SETTING` is the facts that make it so.  All keys come from names, so bytes are the same every time.
"""

import hashlib
from typing import Any

from storage import certificates, facts, ids, places, records
from storage.certificates import Certificate, Terms
from storage.facts import (
    Fact,
    Member,
    MemberRevoke,
    NodeGrant,
    NodeRevoke,
    ProjectOwner,
    Role,
    UserKey,
    key_hash,
)
from storage.ids import EPOCH_MS
from storage.places import FACT_BORN, SPACE_CLASSES, Class, Mode, Place, Scope
from storage.records import Body, Flag, Record
from storage.signing import Keypair, Seal

NOW_MS = EPOCH_MS + 50_000_000_000
HOME = 2
OTHER = 3


def keys(name: str) -> Keypair:
    """Return the key pair of a name."""
    return Keypair.from_seed(hashlib.sha256(name.encode()).digest())


def user_keys(user: int, epoch: int = 0) -> Keypair:
    """Return the key pair of a user's epoch."""
    return keys(f"user {user} epoch {epoch}")


def node_keys(number: int) -> Keypair:
    """Return the key pair of a node; the founder's is node 1's."""
    return keys(f"node {number}")


def make_id(n: int, home: int = HOME) -> int:
    """Return the n-th id that a node makes."""
    return ids.pack(EPOCH_MS + 1_000_000 + n, home, 0)


def stamp(ms: int, counter: int = 0) -> int:
    """Return a hybrid timestamp `ms` milliseconds after NOW_MS."""
    return (NOW_MS + ms) << 16 | counter


OWNER, ADMIN, DEVELOPER, VIEWER, OUTSIDER = (make_id(n) for n in range(1, 6))
PROJECT = make_id(10)
FUNCTION, SPACE, CAS_SPACE, USER_SPACE, BLOB = (make_id(n) for n in range(20, 25))
JOB = make_id(30)

GENESIS = facts.found_mesh(node_keys(1), "testing", NOW_MS - 10_000)
MESH = GENESIS.id


# --- facts --------------------------------------------------------------------------------------


def node_grant(number: int = HOME, signer: Keypair | None = None, **fields: Any) -> Fact:
    """Return the admission of a node, by the founder unless `by` says otherwise."""
    values: dict[str, Any] = {
        "number": number,
        "public_key": node_keys(number).public_key,
        "block": None,
        "roles": ("store", "exec"),
        "users_max": None,
        "not_before_ms": NOW_MS,
        "expires_ms": NOW_MS + 10_000_000,
        "by": 1,
        "signed_at": stamp(0),
    } | fields
    return fact(NodeGrant(**values), signer or node_keys(values["by"]))


def node_revoke(number: int = HOME, signer: Keypair | None = None, **fields: Any) -> Fact:
    """Return the eviction of a node, by the founder unless `by` says otherwise."""
    values: dict[str, Any] = {
        "number": number,
        "public_key": node_keys(number).public_key,
        "distrust": False,
        "reason": "gone",
        "by": 1,
        "signed_at": stamp(1),
    } | fields
    return fact(NodeRevoke(**values), signer or node_keys(values["by"]))


def user_key(
    user: int = OWNER,
    epoch: int = 0,
    signer: Keypair | None = None,
    home_signer: Keypair | None = None,
    **fields: Any,
) -> Fact:
    """Return a key of a user's chain, as `user_keys` makes them."""
    values: dict[str, Any] = {
        "user": user,
        "epoch": epoch,
        "name": "ada",
        "public_key": user_keys(user, epoch).public_key,
        "next_key_hash": key_hash(user_keys(user, epoch + 1).public_key),
        "home": ids.node_number(user),
        "strict": False,
        "signed_at": stamp(2),
    } | fields
    statement = UserKey(**values)
    home = None
    if epoch == 0:
        home_keys = home_signer or node_keys(ids.node_number(user))
        home = facts.sign_home(statement, home_keys, MESH)
    return fact(statement, signer or user_keys(user, epoch), home=home)


def project_owner(project: int = PROJECT, signer: Keypair | None = None, **fields: Any) -> Fact:
    """Return a project with OWNER as its owner."""
    values: dict[str, Any] = {
        "project": project,
        "owner": OWNER,
        "signed_at": stamp(3),
    } | fields
    return fact(ProjectOwner(**values), signer or node_keys(ids.node_number(project)))


def member(
    user: int = DEVELOPER,
    role: Role = Role.DEVELOPER,
    grant_n: int = 1,
    signer: Keypair | None = None,
    certificate: Certificate | None = None,
    **fields: Any,
) -> Fact:
    """Return a grant, by OWNER unless `by` and `by_grant_n` say otherwise."""
    values: dict[str, Any] = {
        "project": PROJECT,
        "user": user,
        "role": role,
        "grant_n": grant_n,
        "by": OWNER,
        "by_epoch": 0,
        "by_grant_n": 0,
        "signed_at": stamp(4),
    } | fields
    by = signer or user_keys(values["by"], values["by_epoch"])
    return fact(Member(**values), by, certificate=certificate)


def member_revoke(
    user: int = DEVELOPER,
    grant_n: int = 1,
    signer: Keypair | None = None,
    certificate: Certificate | None = None,
    **fields: Any,
) -> Fact:
    """Return a revocation, by OWNER unless `by` and `by_grant_n` say otherwise."""
    values: dict[str, Any] = {
        "project": PROJECT,
        "user": user,
        "grant_n": grant_n,
        "by": OWNER,
        "by_epoch": 0,
        "by_grant_n": 0,
        "signed_at": stamp(5),
    } | fields
    by = signer or user_keys(values["by"], values["by_epoch"])
    return fact(MemberRevoke(**values), by, certificate=certificate)


def fact(
    statement: facts.AnyStatement,
    signer: Keypair,
    *,
    certificate: Certificate | None = None,
    home: Seal | None = None,
) -> Fact:
    """Return any statement signed by anyone."""
    seal = facts.sign(statement, signer, MESH)
    return facts.assemble(statement, seal, MESH, certificate=certificate, home=home)


# --- certificates and records -------------------------------------------------------------------


def terms(user: int = DEVELOPER, epoch: int = 0, **fields: Any) -> Terms:
    """Return what a certificate for the home node says."""
    values: dict[str, Any] = {
        "user": user,
        "epoch": epoch,
        "audience": (node_keys(HOME).public_key,),
        "scopes": ("*",),
        "not_before_ms": NOW_MS,
        "expires_ms": NOW_MS + 3_600_000,
        "secret_hash": hashlib.sha256(b"secret").digest(),
        "jti": b"12345678",
    } | fields
    return Terms(**values)


def certificate(
    user: int = DEVELOPER, epoch: int = 0, signer: Keypair | None = None, **fields: Any
) -> Certificate:
    """Return a certificate of the user for the home node."""
    by = signer or user_keys(user, epoch)
    return certificates.issue(by, MESH, terms(user, epoch, **fields))


PLACES: dict[Class, dict[str, Any]] = {
    Class.USER: {"id": OWNER, "owner_class": Class.USER, "owner": OWNER},
    Class.PROJECT: {"id": PROJECT},
    Class.FUNCTION: {"id": FUNCTION},
    Class.KV_SPACE: {"id": SPACE},
    Class.KV_ENTRY: {"id": SPACE, "key": b"key"},
    Class.BLOB: {"id": BLOB},
}


def place(class_: Class = Class.FUNCTION, **fields: Any) -> Place:
    """Return a place of the class, in PROJECT but for users."""
    values: dict[str, Any] = {"class_": class_, "owner_class": Class.PROJECT, "owner": PROJECT}
    if class_ in SPACE_CLASSES:
        values |= {"mode": Mode.LWW, "scope": Scope.GLOBAL}
    return Place(**(values | PLACES[class_] | fields))


def body(where: Place | None = None, **fields: Any) -> Body:
    """Return what DEVELOPER says in a place, or the user who may; at time 0 unless `hlc` says."""
    where = where or place()
    author = fields.get("author", DEVELOPER)
    grant_n = 1
    if where.class_ is Class.PROJECT or where.owner_class is Class.USER:
        author, grant_n = fields.get("author", OWNER), 0
    time = fields.get("hlc", stamp(10))
    dead = Flag.TOMBSTONE in fields.get("flags", Flag(0))
    values: dict[str, Any] = {
        "mesh": MESH[:8],
        "place": where,
        "author": author,
        "grant_n": 0 if author < ids.NODE_NUMBERS else grant_n,
        "hlc": time,
        "signed_at": time,
        "payload": b"" if dead else b'{"a":1}',
    } | fields
    return Body(**values)


def record(
    where: Place | None = None,
    *,
    signer: Keypair | None = None,
    with_certificate: Certificate | bool = False,
    birth: Seal | bool = True,
    **fields: Any,
) -> Record:
    """Return a signed `body`: with the author's own key, or through a certificate."""
    said = body(where, **fields)
    cert: Certificate | None = None
    if said.by_node:
        by = node_keys(said.author)
    elif with_certificate:
        by = node_keys(HOME)
        cert = (
            certificate(said.author, said.epoch) if with_certificate is True else with_certificate
        )
    else:
        by = user_keys(said.author, said.epoch)
    if birth is True:
        home = node_keys(said.place.home)
        born_by_fact = said.place.class_ in FACT_BORN
        birth_seal = None if born_by_fact else places.sign_birth(home, MESH, said.place)
    else:
        birth_seal = birth or None
    return records.sign_record(signer or by, MESH, said, certificate=cert, birth=birth_seal)


def setting() -> list[Fact]:
    """Return the facts of the cast."""
    return [
        GENESIS,
        node_grant(HOME),
        *(user_key(user) for user in (OWNER, ADMIN, DEVELOPER, VIEWER, OUTSIDER)),
        project_owner(),
        member(ADMIN, Role.ADMIN),
        member(DEVELOPER, Role.DEVELOPER),
        member(VIEWER, Role.VIEWER),
    ]


SETTING = tuple(setting())
