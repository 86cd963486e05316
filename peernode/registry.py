"""What this node knows of users, projects, functions and global namespaces, ready to be asked.

The truth is the (A, D) state of `storage.merge`: facts and records, on disk.  The registry holds it
in memory with the view that follows from it, and is the one place that signs and applies changes:
a change becomes a record by this node as its user's delegate, is written in the caller's
transaction, and is seen once it is durable.

What it leaves out: entries of namespaces, of which there may be millions (`peernode.spaces`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from peernode.attributes import (
    ATTRIBUTES,
    Attributes,
    UserAttributes,
    decode_attributes,
    encode_attributes,
)
from peernode.identity import Identity
from peernode.listening import Listener
from peernode.own_records import require_greater, sign_for
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage import facts, hlc, ids, merge, places, records
from storage.authority import Authority
from storage.facts import Fact, Role
from storage.places import Class, Mode, Place
from storage.records import Flag, Record
from storage.signing import Seal
from storage.store import Store, Table
from storage.users import UserChain

LOADED_AT_ONCE: Final = 4096
"""Rows read at a time at start-up. Source: a few megabytes."""
ROLES_KEPT_MAX: Final = 65536
"""Answers about roles kept. Source: guess; about 10 MB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as the view shows it."""

    id: int
    place: Place
    attributes: Any
    """One of the structs of `peernode.attributes`, by class."""
    written_at: int
    """Hybrid timestamp of its last version."""

    @property
    def revision(self) -> str:
        """Changes with every version of the object."""
        return str(self.written_at)

    @property
    def project(self) -> int:
        """The project it belongs to, or 0."""
        return self.place.owner if self.place.owner_class is Class.PROJECT else 0


class Registry:
    """Facts, records of objects, and what follows from them."""

    def __init__(self, store: Store, identity: Identity, clock: hlc.HybridClock) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self.authority = Authority(identity.mesh)
        self._slots: dict[bytes, dict[int, Record]] = {}
        self._view: dict[Class, dict[int, Entry]] = {class_: {} for class_ in ATTRIBUTES}
        self._of_owner: dict[int, dict[bytes, None]] = {}
        """Owner (user or project) -> slots of what it owns."""
        self._members_revision: dict[int, int] = {}
        self._roles: dict[tuple[int, int], Role | None] = {}
        """Answers of `role` since the last fact."""
        self._watchers: list[Callable[[Class, int], None]] = []
        self._listeners: list[Listener] = []
        self._load()

    def _load(self) -> None:
        for row in _rows(self._store, Table.FACTS):
            self._add(facts.decode_fact(row, self._identity.mesh))
        for row in _rows(self._store, Table.RECORDS):
            self._keep(records.decode_record(row))
        for slot in self._slots:
            self._look(slot)
        for user in self.authority.users():
            self._enter_user(user)

    def watch(self, watcher: Callable[[Class, int], None]) -> None:
        """Have `watcher(class, id)` called whenever an object's view may have changed."""
        self._watchers.append(watcher)

    @contextmanager
    def watching(self, watcher: Callable[[Class, int], None]) -> Iterator[None]:
        """Watch while the block runs."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    def hear(self, listener: Listener) -> None:
        """Tell `listener` of every fact and record that is kept from now on."""
        self._listeners.append(listener)

    # --- asking -----------------------------------------------------------------------------

    def get(self, class_: Class, id: int) -> Entry | None:
        """Return an object as everybody may know it, or `None`."""
        return self._view[class_].get(id)

    def all(self, class_: Class) -> list[int]:
        """Return the ids of all objects of a class, newest first."""
        return sorted(self._view[class_], reverse=True)

    def made_by(self, number: int) -> Iterator[Entry]:
        """Yield all objects whose home is the node of this number."""
        for view in self._view.values():
            yield from (e for e in view.values() if ids.node_number(e.id) == number)

    def owned(self, class_: Class, owner: int) -> list[int]:
        """Return the ids of what a project or user owns of a class, newest first."""
        view = self._view[class_]
        found = [
            next(iter(self._slots[slot].values())).body.place.id
            for slot in self._of_owner.get(owner, ())
        ]
        return sorted((known for known in found if known in view), reverse=True)

    def user(self, user: int) -> UserChain | None:
        """Return a user's keys, or `None` for an unknown or deleted user."""
        return self.authority.user(user) if user in self._view[Class.USER] else None

    def role(self, user: int, project: int) -> Role | None:
        """Return what `user` is in `project`."""
        place = user, project
        if place not in self._roles:
            if len(self._roles) >= ROLES_KEPT_MAX:
                self._roles.clear()
            known = project in self._view[Class.PROJECT]
            found = self.authority.role(project, user) if known else None
            self._roles[place] = None if found is None else found[0]
        return self._roles[place]

    def projects_of(self, user: int) -> list[int]:
        """Return the projects in which `user` has a role, newest first."""
        return [p for p in reversed(self.authority.projects(user)) if self.get(Class.PROJECT, p)]

    def members(self, project: int) -> list[tuple[int, Role]]:
        """Return the members of `project` with their roles, owner included, by user id."""
        return [(user, role) for user, role, _ in self.authority.members(project)]

    # --- changing ---------------------------------------------------------------------------

    def add_fact(self, transaction: Transaction, fact: Fact) -> None:
        """Write `fact`; it counts once it is durable."""
        transaction.put(Table.FACTS, fact.id, fact.encoded)
        transaction.after.append(lambda: self.learn(fact))

    def put(
        self,
        transaction: Transaction,
        actor: Actor,
        place: Place,
        attributes: Attributes,
        *,
        born: bool = False,
    ) -> Record:
        """Write an object's attributes, signed for `actor`; they are seen once durable.

        `born`: the object is made in this transaction, so no fact known yet speaks for it.
        """
        record = self.sign(actor, place, encode_attributes(attributes), records.NO_FLAGS)
        return self.write(transaction, record, born=born)

    def kill(self, transaction: Transaction, actor: Actor, place: Place) -> None:
        """Delete an object for ever."""
        flags = Flag.TOMBSTONE | Flag.TERMINAL
        self.write(transaction, self.sign(actor, place, b"", flags))
        transaction.put(Table.DEAD, ids.key(place.id), b"")

    def sign(
        self, actor: Actor, place: Place, payload: bytes, flags: Flag, *, timestamp: int = 0
    ) -> Record:
        """Return a record by `actor`, signed by this node as delegate (or, for a job, itself)."""
        at = timestamp or self._clock.tick()
        birth = None if place.class_ in places.FACT_BORN else self._birth_of(place)
        return sign_for(actor, self._identity, self.authority, place, payload, flags, at, birth)

    def _birth_of(self, place: Place) -> Seal:
        """Return the home node's word for an object: ours, or the one that came with it."""
        if place.home == self._identity.number:
            return places.sign_birth(self._identity.keypair, self._identity.mesh, place)
        if place.class_ is Class.KV_ENTRY:
            place = replace(place, class_=Class.KV_SPACE, key=b"")
        for held in self._slots.get(place.slot, {}).values():
            if held.birth is not None and held.body.place == place:
                return held.birth
        raise Problem("not_found", "the object is not known here yet")

    def write(self, transaction: Transaction, record: Record, *, born: bool = False) -> Record:
        """Write a signed record of an object; it is seen once it is durable."""
        if not born and not self.authority.admissible(record):
            raise Problem("forbidden", "this change would not be valid anywhere in the mesh")
        # A change is based on all that this view knows of the object, or it is made again: the
        # disk may be ahead of the view for a moment.
        transaction.expect(Table.RECORDS, record.store_key, None)
        for held in self._slots.get(record.slot, {}).values():
            transaction.expect(Table.RECORDS, held.store_key, held.encoded)
            require_greater(record, held)
        transaction.put(Table.RECORDS, record.store_key, record.encoded)
        transaction.after.append(lambda: self.apply(record))
        return record

    # --- keeping ----------------------------------------------------------------------------

    def records(self, owner: int | None = None) -> Iterator[Record]:
        """Yield the records of objects that are kept: all, or those of what `owner` owns."""
        for slot in self._slots if owner is None else self._of_owner.get(owner, ()):
            yield from self._slots[slot].values()

    def of_slot(self, slot: bytes) -> list[Record]:
        """Return the records of an object that count."""
        held = self._slots.get(slot, {}).values()
        return [record for record in held if self.authority.admissible(record)]

    def learn(self, fact: Fact) -> None:
        """Have a fact count, which is durable now and known to rest on others that are."""
        if fact.id in self.authority:
            return
        self._add(fact)
        for listener in self._listeners:
            listener.fact_kept(fact)
        statement = fact.statement
        match statement:
            case facts.Member() | facts.MemberRevoke() | facts.ProjectOwner():
                for slot in list(self._of_owner.get(statement.project, ())):
                    self._look(slot)
            case facts.UserKey():
                self._enter_user(statement.user)
                # A strict key disowns records anywhere, and grants that others' records rest on.
                owned = self._slots if statement.strict else self._of_owner.get(statement.user, ())
                for slot in list(owned):
                    self._look(slot)
                self._tell(Class.USER, statement.user)
            case facts.Genesis() | facts.NodeGrant() | facts.NodeRevoke():
                pass  # A node writes no records of objects.

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._roles) <= ROLES_KEPT_MAX

    def members_revision(self, project: int) -> int:
        """Return a number that grows with every change of a project's members."""
        return self._members_revision.get(project, 0)

    def _add(self, fact: Fact) -> None:
        self.authority.add(fact)
        if isinstance(fact.statement, facts.Member | facts.MemberRevoke):
            project = fact.statement.project
            self._members_revision[project] = self._members_revision.get(project, 0) + 1
        self._roles.clear()

    def _enter_user(self, user: int) -> None:
        """Have a user in the view: it is there from its first key on, without any record."""
        chain = self.authority.user(user)
        place = place_of(Class.USER, user, Class.USER, user)
        if chain is not None and place.slot not in self._slots:
            since = chain.epochs[0].signed_at
            self._view[Class.USER][user] = Entry(user, place, UserAttributes(), since)

    def apply(self, record: Record) -> None:
        """Show a record of an object, which is durable now."""
        replaced = self._slots.get(record.slot, {}).get(record.body.author)
        if self._keep(record):
            self._look(record.slot)
            self.note(record, replaced)

    def note(self, record: Record, replaced: Record | None) -> None:
        """Tell who listens of a record that is durable now."""
        for listener in self._listeners:
            listener.record_kept(record, replaced)

    def _keep(self, record: Record) -> bool:
        held = self._slots.setdefault(record.slot, {})
        author = record.body.author
        self._of_owner.setdefault(record.body.place.owner, {})[record.slot] = None
        if not merge.beats(record, held.get(author)):
            return False
        held[author] = record
        return True

    def _look(self, slot: bytes) -> None:
        """Make the view of one slot what its records and the facts say."""
        held = self._slots[slot]
        place = next(iter(held.values())).body.place
        winner = merge.resolve(held.values(), self.authority)
        view = self._view[place.class_]
        if place.class_ is Class.PROJECT:
            self._roles.clear()
        if winner is None:
            view.pop(place.id, None)
        else:
            attributes = decode_attributes(winner)
            view[place.id] = Entry(place.id, winner.body.place, attributes, winner.body.hlc)
        self._tell(place.class_, place.id)

    def _tell(self, class_: Class, id: int) -> None:
        for watcher in list(self._watchers):
            watcher(class_, id)


def place_of(
    class_: Class, id: int, owner_class: Class, owner: int, mode: Mode = Mode.NONE
) -> Place:
    """Return the place of an object's attributes."""
    scope = places.Scope.GLOBAL if class_ in places.SPACE_CLASSES else None
    return Place(class_, id, owner_class, owner, b"", mode, scope)


def _rows(store: Store, table: Table) -> Iterable[bytes]:
    start = b""
    while rows := store.scan(table, start, limit=LOADED_AT_ONCE):
        yield from (row for _, row in rows)
        start = rows[-1][0] + b"\0"
