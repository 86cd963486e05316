"""Who may write what: the facts of a mesh, and pure questions about them.

An `Authority` is a set of facts that only grows, with indexes.  Facts may come in any order; one
that nothing supports yet is kept and does not count, until its support arrives.  Every answer is a
function of the set alone: no clock, no order of arrival.  (Whether a grant or certificate has run
out is a question of time, so its times are in the answer and the caller compares.)

**Levels.**  An answer at one level rests on lower levels only, so there are no cycles and no two
facts that revoke each other: `nodes`, then `users`, then `members` (owners, admins, others).

**Known and standing.**  Two questions that must not be confused.  A fact is *known* when its chain
of signatures is complete: this only ever becomes true, and it is what a record's signatures are
checked against (`verifiable`).  A grant *stands* when also nothing in its chain is revoked: this is
what decides who may do something now (`Node.is_member`, `role`, `admissible`).

**Admissible.**  A record counts while its author may write its place: in a project, a developer
(an admin for the project's own attributes) under the *last* grant, in an epoch that no strict one
disowns.  The rule looks at nothing else in a record, and both parts lead its rank; so if one record
of an author in a slot is inadmissible, every lower one is too.  Without that, nodes that exchange
only admissible records would not converge (`merge`).  It is also why no rule may look at flags, or
at a single certificate.

**Contradictions** that only a dishonest admitter, home node or key holder can sign (two keys for
one number or epoch, two owners) are settled by the lowest fact id, the same everywhere; what was
signed under the loser stops counting, and the author's slots are sure to converge again from the
next strict epoch or grant on.

What it leaves out: bounds.  Anyone with a key can sign facts that never count, so whoever takes
facts from outside asks `known` first, and keeps the others in a bounded place until they are.
"""

from collections.abc import Iterable, Iterator
from typing import Final, assert_never

from storage import places
from storage.errors import SignatureError, StorageError
from storage.facts import (
    Fact,
    Genesis,
    Member,
    MemberRevoke,
    NodeGrant,
    NodeRevoke,
    ProjectOwner,
    Role,
    UserKey,
)
from storage.members import Members
from storage.nodes import Node, Nodes
from storage.places import Class, Place
from storage.records import Body, Record
from storage.users import UserChain, Users

CHECKED_MAX: Final = 65_536
"""Most signatures of certificates and births remembered as good. Source: guess, about 20 MiB."""


class Unverifiable(StorageError):
    """Facts that the record rests on are not here yet: keep it for later, blame nobody."""


class Authority:
    """The facts of one mesh. `add` is cheap; questions remember their answers until then."""

    def __init__(self, mesh: bytes, facts: Iterable[Fact] = ()) -> None:
        """`mesh` is the id of the genesis, which is a fact like the others."""
        self.mesh = mesh
        self._facts: dict[bytes, Fact] = {}
        self._nodes = Nodes()
        self._users = Users(self._nodes)
        self._members = Members(self._nodes, self._users)
        self._checked: dict[tuple[bytes, bytes], None] = {}
        for fact in facts:
            self.add(fact)

    def __len__(self) -> int:
        return len(self._facts)

    def __contains__(self, fact_id: bytes) -> bool:
        return fact_id in self._facts

    def __iter__(self) -> Iterator[Fact]:
        """Yield all facts, those that do not count included, in order of arrival."""
        return iter(self._facts.values())

    def add(self, fact: Fact) -> bool:
        """Add a fact that was decoded for this mesh; tell whether it is new."""
        if fact.id in self._facts:
            return False
        self._facts[fact.id] = fact
        match fact.statement:
            case Genesis() as genesis:
                self._nodes.add_genesis(genesis)
                self._forget()
            case NodeGrant() as grant:
                self._nodes.add_grant(grant, fact)
                self._forget()
            case NodeRevoke() as revoke:
                self._nodes.add_revoke(revoke, fact)
                self._forget()
            case UserKey() as key:
                self._users.add(key, fact)
                self._members.forget_user(key.user)
            case ProjectOwner() as owner:
                self._members.add_owner(owner, fact)
            case Member() as member:
                self._members.add_grant(member, fact)
            case MemberRevoke() as member_revoke:
                self._members.add_revoke(member_revoke, fact)
            case _:
                assert_never(fact.statement)
        return True

    def known(self, fact: Fact) -> bool:
        """Tell whether a fact's chain of signatures is complete, be it added already or not."""
        match fact.statement:
            case Genesis():
                return fact.id == self.mesh
            case NodeGrant() as grant:
                return self._nodes.is_known_grant(grant, fact)
            case NodeRevoke() as revoke:
                return self._nodes.is_known_revoke(revoke, fact)
            case UserKey() as key:
                return self._users.is_known(key, fact)
            case ProjectOwner() as owner:
                return self._members.is_known_owner(owner, fact)
            case Member() | MemberRevoke() as member:
                return self._members.is_known(member, fact)
            case _:
                assert_never(fact.statement)

    # --- questions ------------------------------------------------------------------------

    def node(self, number: int) -> Node | None:
        """Return the node of this number, or `None` if its admission is not known."""
        return self._nodes.find(number)

    def node_by_key(self, public_key: bytes) -> Node | None:
        """Return the node of this key, or `None`."""
        return self._nodes.find_by_key(public_key)

    def nodes(self) -> list[Node]:
        """Return all known nodes, also those that are members no more, by number."""
        return self._nodes.all()

    def user(self, user: int) -> UserChain | None:
        """Return the user's keys, or `None` if the user is not known."""
        return self._users.find(user)

    def users(self) -> list[int]:
        """Return the ids of all known users, in order. Costs as much as there are users."""
        return self._users.all()

    def users_made_at(self, number: int) -> int:
        """Return how many users a node has made, those that were deleted too."""
        return self._users.made_at(number)

    def owner(self, project: int) -> int | None:
        """Return the id of the project's owner, or `None` if the project is not known."""
        return self._members.owner(project)

    def role(self, project: int, user: int) -> tuple[Role, int] | None:
        """Return the user's role in the project and the number of the grant, or `None`.

        The owner's number is 0.
        """
        return self._members.role(project, user)

    def last_grant_n(self, project: int, user: int) -> int:
        """Return the number of the user's last known grant, standing or not; 0: none.

        The next grant takes one more; a revocation names this one.
        """
        return self._members.last_grant_n(project, user)

    def members(self, project: int) -> list[tuple[int, Role, int]]:
        """Return `(user, role, grant)` of everyone in the project, the owner included, by id."""
        return self._members.of_project(project)

    def projects(self, user: int) -> list[int]:
        """Return the ids of the projects where the user has a role, in order."""
        return self._members.of_user(user)

    def about(self, subject: int) -> list[Fact]:
        """Return all facts, known or not, about a user or a project."""
        return [*self._users.about(subject), *self._members.about(subject)]

    def last_grants_by(self, user: int) -> list[tuple[Member, Fact]]:
        """Return the last grants that `user` signed and nothing revokes, disowned or not."""
        return self._members.last_by(user)

    # --- records --------------------------------------------------------------------------

    def verifiable(self, record: Record) -> bool:
        """Tell whether all facts are known that the record's signatures rest on.

        Once true, it stays true (but for contradictions, see the module).
        """
        body = record.body
        if record.birth is not None and self.node(body.place.home) is None:
            return False
        if body.by_node:
            return self.node(body.author) is not None
        chain = self.user(body.author)
        if chain is None or chain.public_key(body.epoch) is None:
            return False
        return body.place.owner_class is not Class.PROJECT or self._is_granted(body)

    def verify_record(self, record: Record) -> None:
        """Check all keys and signatures of a record.

        Raises `Unverifiable` if facts are missing, `SignatureError` if the record is bad for good.
        """
        self.verify_keys(record)
        record.verify_author(self.mesh)
        certificate, birth = record.certificate, record.birth
        if certificate is not None and self._is_unchecked(certificate.encoded, b""):
            certificate.verify(self.mesh)
            self._remember(certificate.encoded, b"")
        if birth is not None:
            statement = record.body.place.birth_statement
            if self._is_unchecked(birth.signature, statement):
                places.verify_birth(birth, self.mesh, record.body.place)
                self._remember(birth.signature, statement)

    def verify_keys(self, record: Record) -> None:
        """Check that each key in a record is whose it should be, signatures apart.

        For a record whose signatures were checked already (`Record.verify`).  Raises as
        `verify_record` does.
        """
        if not self.verifiable(record):
            raise Unverifiable("facts that the record rests on are not known")
        body = record.body
        if record.birth is not None:
            home = self.node(body.place.home)
            if home is None or home.public_key != record.birth.public_key:
                raise SignatureError("the object was not made by its home node")
        if body.by_node:
            node = self.node(body.author)
            if node is None or node.public_key != record.seal.public_key:
                raise SignatureError("not signed by the node that is its author")
            return
        chain = self.user(body.author)
        if chain is None or not chain.signed(body.epoch, record.certificate, record.seal):
            raise SignatureError("not signed with the author's key of that epoch")

    def admissible(self, record: Record) -> bool:
        """Tell whether a verified record counts, by the facts known now."""
        body = record.body
        if body.by_node:
            node = self.node(body.author)
            return node is not None and not node.is_distrusted
        chain = self.user(body.author)
        if chain is None or not chain.floor <= body.epoch <= chain.epoch:
            return False
        return self.may_write(body.place, body.author, body.grant_n)

    def is_disowned(self, record: Record) -> bool:
        """Tell whether a strict key of its author disowns a record. Once true, it stays true."""
        chain = None if record.body.by_node else self.user(record.body.author)
        return chain is not None and record.body.epoch < chain.floor

    def may_write(self, place: Place, user: int, grant_n: int) -> bool:
        """Tell whether a user may write a place under a grant; his keys are another question."""
        if place.owner_class is not Class.PROJECT:
            return True
        found = self.role(place.owner, user)
        needed = Role.ADMIN if place.class_ is Class.PROJECT else Role.DEVELOPER
        return found is not None and found[0] >= needed and found[1] == grant_n

    def _is_granted(self, body: Body) -> bool:
        owner = self.owner(body.place.owner)
        if owner is None:
            return False
        if owner == body.author:
            return body.grant_n == 0
        return 0 < body.grant_n <= self.last_grant_n(body.place.owner, body.author)

    def _forget(self) -> None:
        self._users.forget()
        self._members.forget()

    def _is_unchecked(self, signed: bytes, statement: bytes) -> bool:
        return (signed, statement) not in self._checked

    def _remember(self, signed: bytes, statement: bytes) -> None:
        if len(self._checked) >= CHECKED_MAX:
            self._checked.clear()
        self._checked[signed, statement] = None
