"""Who may do what: one pure function over one table, and what is not in the table is denied.

An `Actor` is who asks, as `sessions` found it; a `Target` is what it asks about, as the class's
own module resolved it.  `may` reads one row of `RIGHTS` and touches nothing else, so every cell
of class x verb x actor x role can be enumerated in a test, and is.

Rules:

* Role names are least roles: who may as a developer may as an admin and as the owner.
* `list` is asked of each object, "may it stand in this actor's list", so a list shows what its
  reader may see without a rule of its own.
* A token's scopes narrow what its user may do, and never widen it.
* A job acts with the right of its function's project and of no other, plus the blobs named in its
  input; never with the rights of whoever handed it in.
* An operator runs a node, and is nobody on it: it sees every object's attributes, rules the
  workers and the quotas, and neither reads what users store (values, contents, sources, inputs
  and results, logs) nor acts in a user's name.  This binds the API; who holds the disk can read it.
* Running again is running: a job's own requester needs the invoker's role to `retry`, so that a
  removed member cannot use the project through the jobs of old.
* Every member may leave.
* What you may not `get` answers as if it were not there.

Verbs are the six calls of the grammar (list, create, get, set, delete; methods by their names) and
parts of them that ask for more: function `read_source`, job `read_content` (input, result, error,
progress), user `read_private` (all but id, name and public key), project `set_quota` and
`use_secret` (its value, which no call of the API answers).  The methods of kv are verbs about keys
(`key_get`), since `get`, `list` and `delete` are the namespace's own.

A scope is what `storage.certificates` says: `*`, `CLASS` or `CLASS:VERB`, with these verbs.

What it leaves out: states (a running job is not deletable: that is a conflict, not a right),
quotas, scopes for single objects, and how a role is known, which is `storage.authority`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, assert_never

from peernode.problems import Problem, not_found
from storage.certificates import SCOPES_MAX
from storage.facts import Role

EVERYTHING: Final = ("*",)
"""The scopes of a token that is narrowed to nothing less than all its user may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks."""

    kind: Literal["anonymous", "user", "operator", "job"]
    user: int = 0
    """The user; for a job the one that handed it in, for the record and not for its rights."""
    scopes: tuple[str, ...] = EVERYTHING
    """What the token is narrowed to; empty is nothing at all."""
    certificate: bytes = field(default=b"", repr=False)
    """The delegation certificate, as it was received, that this node signs with as delegate; of a
    job, the pass of the blob of another node that it reads."""
    job: int = 0
    project: int = 0
    """Of a job: its function's project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked about. Of a `create` it is what would be there."""

    class_name: str
    id: int = 0
    """The object's id; 0 while it has none. Only for what its caller is told."""
    project: int = 0
    """The project it belongs to; 0 is none. A project belongs to itself."""
    role: Role | None = None
    """The actor's role in that project."""
    own: bool = False
    """It is the actor's: the user itself, a job it handed in, a blob it stored, a namespace or a
    personal blob of which it is the owner. Of a `create`: the owner named is the actor itself; of
    `remove_member`: the member is."""
    granted: bool = False
    """It is a blob named in the input of the job that asks, which its requester could read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Who may, in one cell of the table. Each field that holds is enough."""

    anyone: bool = False
    """Callers without a token too; jobs not."""
    user: bool = False
    """Every user."""
    role: Role | None = None
    """Users with at least this role in the project."""
    own: bool = False
    """The user whose object it is."""
    own_role: Role | None = None
    """The user whose object it is, while it has at least this role in the project."""
    operator: bool = False
    job: bool = False
    """A job, inside its own project."""
    granted: bool = False
    """A job, for a blob named in its input."""


_VIEWER, _INVOKER, _DEVELOPER = Role.VIEWER, Role.INVOKER, Role.DEVELOPER
_ADMIN, _OWNER = Role.ADMIN, Role.OWNER

RIGHTS: Final[Mapping[str, Mapping[str, Right]]] = {
    "user": {
        "list": Right(own=True, operator=True),
        "create": Right(anyone=True),
        "get": Right(user=True, operator=True),
        "read_private": Right(own=True, operator=True),
        "set": Right(own=True),
        "delete": Right(own=True),
        "login": Right(anyone=True),
        "delegate": Right(own=True),
        "rotate": Right(own=True),
        "revoke": Right(own=True),
    },
    "project": {
        "list": Right(role=_VIEWER, operator=True),
        "create": Right(user=True),
        "get": Right(role=_VIEWER, operator=True),
        "set": Right(role=_ADMIN),
        "set_quota": Right(operator=True),
        "delete": Right(role=_OWNER),
        "add_member": Right(role=_ADMIN),
        "remove_member": Right(own_role=_VIEWER, role=_ADMIN),
        "set_secret": Right(role=_ADMIN),
        "remove_secret": Right(role=_ADMIN),
        "use_secret": Right(job=True),
        "usage": Right(role=_VIEWER, operator=True),
    },
    "function": {
        "list": Right(role=_VIEWER, operator=True),
        "create": Right(role=_DEVELOPER),
        "get": Right(role=_VIEWER, operator=True),
        "read_source": Right(role=_DEVELOPER),
        "set": Right(role=_DEVELOPER),
        "delete": Right(role=_ADMIN),
        "rollback": Right(role=_DEVELOPER),
        "call": Right(role=_INVOKER, job=True),
    },
    "job": {
        "list": Right(own=True, role=_ADMIN, operator=True),
        "create": Right(role=_INVOKER, job=True),
        "get": Right(own=True, role=_ADMIN, operator=True),
        "read_content": Right(own=True, role=_ADMIN),
        "set": Right(own=True, role=_ADMIN),
        "delete": Right(own=True, role=_ADMIN),
        "cancel": Right(own=True, role=_ADMIN),
        "retry": Right(own_role=_INVOKER, role=_ADMIN),
        "logs": Right(own=True, role=_ADMIN),
        "events": Right(own=True, role=_ADMIN),
    },
    "blob": {
        "list": Right(own=True, role=_VIEWER, operator=True),
        "create": Right(own=True, role=_INVOKER, job=True),
        "get": Right(own=True, role=_VIEWER, operator=True, job=True, granted=True),
        "content": Right(own=True, role=_VIEWER, job=True, granted=True),
        "set": Right(own=True, role=_DEVELOPER),
        "delete": Right(own=True, role=_DEVELOPER, job=True),
    },
    "kv": {
        "list": Right(own=True, role=_VIEWER, operator=True),
        "create": Right(own=True, role=_DEVELOPER),
        "get": Right(own=True, role=_VIEWER, operator=True),
        "set": Right(own=True, role=_DEVELOPER),
        "delete": Right(own=True, role=_DEVELOPER),
        "key_get": Right(own=True, role=_VIEWER, job=True),
        "key_list": Right(own=True, role=_VIEWER, job=True),
        "key_put": Right(own=True, role=_DEVELOPER, job=True),
        "key_delete": Right(own=True, role=_DEVELOPER, job=True),
        "key_increment": Right(own=True, role=_DEVELOPER, job=True),
    },
    "worker": {
        "list": Right(operator=True),
        "create": Right(operator=True),
        "get": Right(operator=True),
        "set": Right(operator=True),
        "delete": Right(operator=True),
        "cordon": Right(operator=True),
        "drain": Right(operator=True),
        "resume": Right(operator=True),
        "attach": Right(operator=True),
    },
}
"""Class -> verb -> who may."""

SCOPES: Final = frozenset(
    [*EVERYTHING, *RIGHTS, *(f"{name}:{verb}" for name, verbs in RIGHTS.items() for verb in verbs)]
)
"""Every scope there is."""


def may(actor: Actor, verb: str, target: Target) -> bool:
    """Return whether `actor` may do `verb` to `target`. Unknown classes and verbs: no."""
    right = RIGHTS.get(target.class_name, {}).get(verb)
    if right is None or not _covers(actor.scopes, target.class_name, verb):
        return False
    match actor.kind:
        case "anonymous":
            return right.anyone
        case "user":
            return (
                right.anyone
                or right.user
                or _reaches(target.role, right.role)
                or (target.own and (right.own or _reaches(target.role, right.own_role)))
            )
        case "operator":
            return right.anyone or right.operator
        case "job":
            at_home = actor.project != 0 and actor.project == target.project
            return (right.job and at_home) or (right.granted and target.granted)
    assert_never(actor.kind)


def may_grant(own: Role, granted: Role) -> bool:
    """Return whether a member with role `own` may give, change or take the role `granted`.

    Only an owner or admin, and only what is strictly below: nobody makes an equal.
    """
    return own >= _ADMIN and granted < own


def require(actor: Actor, verb: str, target: Target, text: str = "") -> None:
    """Return if `actor` may do `verb` to `target`, which it called `text` (its id); else raise.

    Raises the `Problem` that tells no more than the actor may know: `unauthenticated` to callers
    without a token, `not_found` for what the actor may not get, else `forbidden`.
    """
    if may(actor, verb, target):
        return
    if actor.kind == "anonymous":
        raise Problem(
            "unauthenticated",
            "this call needs a token",
            hint="send Authorization: Bearer TOKEN; POST /user/NAME/login answers with a token",
            headers=(("WWW-Authenticate", "Bearer"),),
        )
    if verb not in ("create", "list") and not may(actor, "get", target):
        raise not_found(target.class_name, text or str(target.id))
    if not _covers(actor.scopes, target.class_name, verb):
        raise Problem("forbidden", f"this token's scopes leave out {target.class_name} {verb}")
    raise Problem("forbidden", f"you may not {verb} this {target.class_name}")


def method_verb(class_name: str, method: str) -> str:
    """Return the verb that calling `method` of a class stands for."""
    return f"key_{method}" if class_name == "kv" else method


def check_scopes(scopes: Sequence[str], within: Sequence[str] = EVERYTHING) -> None:
    """Raise a `Problem` unless `scopes` are known and reach no further than `within`.

    `within` are the scopes of the actor that asks for a token with `scopes`.
    """
    if not 0 < len(scopes) <= SCOPES_MAX:
        raise Problem(
            "invalid_field",
            f"scopes: {len(scopes)} of them; 1 to {SCOPES_MAX} are allowed",
            field="scopes",
            limit=SCOPES_MAX,
        )
    for scope in scopes:
        if scope not in SCOPES:
            raise Problem(
                "invalid_field",
                f"scopes: {scope[:64]!r} is not known",
                field="scopes",
                hint="a scope is *, CLASS or CLASS:VERB, such as function:call",
            )
    if not is_within(scopes, within):
        raise Problem("forbidden", "a token cannot hand out more than its own scopes")


def is_within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Return whether each of the scopes `inner` is covered by one of `outer`."""
    return all(
        scope in outer or "*" in outer or scope.partition(":")[0] in outer for scope in inner
    )


def _covers(scopes: Sequence[str], class_name: str, verb: str) -> bool:
    """Return whether a token with `scopes` speaks for `verb` on objects of a class."""
    return "*" in scopes or class_name in scopes or f"{class_name}:{verb}" in scopes


def _reaches(role: Role | None, least: Role | None) -> bool:
    return role is not None and least is not None and role >= least
