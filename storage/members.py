"""Levels 3 to 5 of authority: projects' owners, their admins, the other members.

The owner is whom the project's home node says.  The owner grants any role but his own; an admin,
whom only the owner can make, grants the three below.  Each grant to a user has the next number;
only the last one counts, and only until it is revoked.

A grant is *known* if whoever signed it was the owner, or an admin under a grant that is itself
known; it *stands* if he is so still, and no strict epoch disowns his signature.  So a removed
admin's grants fall with him, also those signed afterwards with a kept key; whoever removes him
grants again what should stay.  A grant that a strict epoch disowned may be signed anew with the
number it had: what its member wrote under that number then counts as before.  A *revocation* only
has to be known: a removal outlives its author.  Numbers without a gap count, so nobody can use them
up from the top.

What an ex-admin, or the thief of a disowned key, can still do is to revoke, or to grant anew and
thereby spoil a grant, until the owner grants again; never to gain a right or to give one.
"""

from dataclasses import dataclass
from typing import Final

from storage import ids
from storage.facts import Fact, Member, MemberRevoke, ProjectOwner, Role
from storage.nodes import Nodes
from storage.users import Users


@dataclass(frozen=True, slots=True)
class _Membership:
    last_n: int
    """Of the known grants; 0: none."""
    role: Role | None


_NONE: Final = _Membership(0, None)


class Members:
    """The facts about projects, and what follows from them."""

    def __init__(self, nodes: Nodes, users: Users) -> None:
        self._nodes = nodes
        self._users = users
        self._owners: dict[int, list[tuple[ProjectOwner, Fact]]] = {}
        self._grants: dict[int, dict[int, list[tuple[Member, Fact]]]] = {}
        self._revokes: dict[tuple[int, int], list[tuple[MemberRevoke, Fact]]] = {}
        # Dicts in the place of sets, because their order is the same everywhere.
        self._signed_in: dict[int, dict[int, None]] = {}
        self._named_in: dict[int, dict[int, None]] = {}
        self._answers: dict[int, dict[int, _Membership]] = {}

    def add_owner(self, owner: ProjectOwner, fact: Fact) -> None:
        """Add a project."""
        self._owners.setdefault(owner.project, []).append((owner, fact))
        self._named_in.setdefault(owner.owner, {})[owner.project] = None
        self._answers.pop(owner.project, None)

    def add_grant(self, grant: Member, fact: Fact) -> None:
        """Add a grant."""
        of_user = self._grants.setdefault(grant.project, {})
        of_user.setdefault(grant.user, []).append((grant, fact))
        self._named_in.setdefault(grant.user, {})[grant.project] = None
        self._forget_member(grant)

    def add_revoke(self, revoke: MemberRevoke, fact: Fact) -> None:
        """Add a revocation."""
        self._revokes.setdefault((revoke.project, revoke.user), []).append((revoke, fact))
        self._forget_member(revoke)

    def forget(self) -> None:
        """Forget all answers: the nodes have changed."""
        self._answers.clear()

    def forget_user(self, user: int) -> None:
        """Forget what may rest on this user's keys."""
        for project in self._signed_in.get(user, ()):
            self._answers.pop(project, None)

    def owner(self, project: int) -> int | None:
        """Return the id of the project's owner, or `None` if the project is not known."""
        known = [
            (fact.id, statement.owner)
            for statement, fact in self._owners.get(project, ())
            if self.is_known_owner(statement, fact)
        ]
        return min(known)[1] if known else None

    def role(self, project: int, user: int) -> tuple[Role, int] | None:
        """Return the user's role and the number of the grant (the owner's is 0), or `None`."""
        if self.owner(project) == user:
            return Role.OWNER, 0
        membership = self._membership(project, user)
        return (membership.role, membership.last_n) if membership.role else None

    def last_grant_n(self, project: int, user: int) -> int:
        """Return the number of the user's last known grant, standing or not; 0: none."""
        return self._membership(project, user).last_n

    def of_project(self, project: int) -> list[tuple[int, Role, int]]:
        """Return `(user, role, grant)` of everyone in the project, the owner included, by id."""
        users = dict.fromkeys(self._grants.get(project, ()))
        owner = self.owner(project)
        if owner is not None:
            users[owner] = None
        found = [(user, self.role(project, user)) for user in sorted(users)]
        return [(user, *role) for user, role in found if role is not None]

    def of_user(self, user: int) -> list[int]:
        """Return the ids of the projects where the user has a role, in order."""
        projects = sorted(self._named_in.get(user, ()))
        return [project for project in projects if self.role(project, user) is not None]

    def about(self, project: int) -> list[Fact]:
        """Return all facts about a project: its owners, grants and revocations."""
        grants = self._grants.get(project, {})
        return [
            *(fact for _, fact in self._owners.get(project, ())),
            *(fact for user in grants for _, fact in grants[user]),
            *(fact for user in grants for _, fact in self._revokes.get((project, user), ())),
        ]

    def last_by(self, user: int) -> list[tuple[Member, Fact]]:
        """Return the last grants that `user` signed and nothing revokes, of all projects.

        Those that a strict epoch disowns are among them.  A member whose last number others have
        signed too is here with what `user` signed.
        """
        found: list[tuple[Member, Fact]] = []
        for project in self._signed_in.get(user, ()):
            owner = self.owner(project)
            if owner is None:
                continue
            for member, grants in self._grants.get(project, {}).items():
                last_n, last = self._last_grants(project, member, owner)
                if member != owner and not self._is_revoked(project, member, owner, last):
                    found += [
                        (grant, fact)
                        for grant, fact in grants
                        if (grant.by, grant.grant_n) == (user, last_n)
                        and self._is_known_grant(grant, fact, owner)
                    ]
        return found

    def is_known_owner(self, statement: ProjectOwner, fact: Fact) -> bool:
        """Tell whether the project's home node signed it."""
        home = self._nodes.find(ids.node_number(statement.project))
        return home is not None and home.public_key == fact.seal.public_key

    def is_known(self, statement: Member | MemberRevoke, fact: Fact) -> bool:
        """Tell whether whoever signed it could, once at least, grant or revoke such a thing."""
        owner = self.owner(statement.project)
        if owner is None or statement.user == owner:
            return False
        if isinstance(statement, Member):
            return self._is_known_grant(statement, fact, owner)
        admin = any(
            grant.grant_n == statement.grant_n and grant.role is Role.ADMIN
            for grant in self._known_grants(statement.project, statement.user, owner)
        )
        return self._is_known_revoke(statement, fact, owner, admin=admin)

    # --- known ----------------------------------------------------------------------------

    def _known_grants(self, project: int, user: int, owner: int) -> list[Member]:
        entries = self._grants.get(project, {}).get(user, ())
        return [grant for grant, fact in entries if self._is_known_grant(grant, fact, owner)]

    def _is_known_grant(self, grant: Member, fact: Fact, owner: int) -> bool:
        if not self._is_signed(grant, fact):
            return False
        if grant.by == owner:
            return grant.by_grant_n == 0
        return grant.role < Role.ADMIN and self._was_admin(grant, owner)

    def _is_known_revoke(
        self, revoke: MemberRevoke, fact: Fact, owner: int, *, admin: bool
    ) -> bool:
        if not self._is_signed(revoke, fact):
            return False
        if revoke.by == owner:
            return revoke.by_grant_n == 0
        return revoke.by == revoke.user or (not admin and self._was_admin(revoke, owner))

    def _was_admin(self, statement: Member | MemberRevoke, owner: int) -> bool:
        """Tell whether the signer was an admin once, by the grant he names: so by the owner."""
        return any(
            grant.role is Role.ADMIN
            and grant.grant_n == statement.by_grant_n
            and self._is_known_grant(grant, fact, owner)
            for grant, fact in self._grants.get(statement.project, {}).get(statement.by, ())
        )

    def _is_signed(self, statement: Member | MemberRevoke, fact: Fact) -> bool:
        chain = self._users.find(statement.by)
        return chain is not None and chain.signed(statement.by_epoch, fact.certificate, fact.seal)

    # --- standing -------------------------------------------------------------------------

    def _membership(self, project: int, user: int) -> _Membership:
        answers = self._answers.setdefault(project, {})
        if user not in answers:
            answers[user] = self._find(project, user)
        return answers[user]

    def _find(self, project: int, user: int) -> _Membership:
        owner = self.owner(project)
        if owner is None or owner == user:
            return _NONE
        last_n, last = self._last_grants(project, user, owner)
        if self._is_revoked(project, user, owner, last):
            return _Membership(last_n, None)
        # The owner's word goes before an admin's; of two, the one that gives less.
        role = self._role_by_owner(last, owner)
        if role is None:
            by_admins = [
                grant.role
                for grant in last
                if grant.by != owner
                and self._is_undisowned(grant)
                and self._is_admin(project, grant.by, owner)
            ]
            role = min(by_admins, default=None)
        return _Membership(last_n, role)

    def _is_admin(self, project: int, user: int, owner: int) -> bool:
        """Tell whether the owner's grant makes the user an admin. Rests on the owner only."""
        _, last = self._last_grants(project, user, owner)
        if self._is_revoked(project, user, owner, last):
            return False
        return self._role_by_owner(last, owner) is Role.ADMIN

    def _last_grants(self, project: int, user: int, owner: int) -> tuple[int, list[Member]]:
        """Return the last number without a gap, and the known grants that have it."""
        by_number: dict[int, list[Member]] = {}
        for grant in self._known_grants(project, user, owner):
            by_number.setdefault(grant.grant_n, []).append(grant)
        last_n = 0
        while last_n + 1 in by_number:
            last_n += 1
        return last_n, by_number.get(last_n, [])

    def _role_by_owner(self, last: list[Member], owner: int) -> Role | None:
        roles = [grant.role for grant in last if grant.by == owner and self._is_undisowned(grant)]
        return min(roles, default=None)

    def _is_undisowned(self, grant: Member) -> bool:
        chain = self._users.find(grant.by)
        return chain is not None and grant.by_epoch >= chain.floor

    def _is_revoked(self, project: int, user: int, owner: int, last: list[Member]) -> bool:
        admin = any(grant.role is Role.ADMIN for grant in last)
        return any(
            revoke.grant_n == grant.grant_n
            and self._is_known_revoke(revoke, fact, owner, admin=admin)
            for grant in last[:1]
            for revoke, fact in self._revokes.get((project, user), ())
        )

    # --- forgetting -----------------------------------------------------------------------

    def _forget_member(self, statement: Member | MemberRevoke) -> None:
        """Forget the user's answer, or the project's if others may rest on the user's grants."""
        project, user = statement.project, statement.user
        self._signed_in.setdefault(statement.by, {})[project] = None
        grants = self._grants.get(project, {}).get(user, ())
        if any(grant.role is Role.ADMIN for grant, _ in grants):
            self._answers.pop(project, None)
        elif (answers := self._answers.get(project)) is not None:
            answers.pop(user, None)
