"""What is revoked counts no more: nothing that a node shows rests on it alone [I13].

From a node's facts, and by rules of its own that are simpler than `storage.authority`'s, follows
which records are revoked for certain:

* those of a user's key from before a strict one;
* those of a member under a grant that the project's owner, or the member, has ended, or that
  another of the owner's has followed;
* those of a node that the founder has evicted and distrusts.

Each object and entry that the node shows must have a record of that time that is none of these:
in the step in which a fact that revokes is kept, and whenever something is shown anew.  A member's
records that whoever removed it has signed again (`peernode.adoption`) are records of their own.

What it leaves out: revocations by admins and by evicted nodes, whose own standing decides; entries
of `cas` namespaces at other nodes, which do not show them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from peernode.entries import entry_place
from peernode.problems import Problem
from simulations import kept
from simulations.committed import Broken
from storage import facts, ids
from storage.facts import Fact
from storage.places import Class
from storage.records import Record, decode_record
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

CLASSES: Final = (Class.USER, Class.PROJECT, Class.FUNCTION, Class.KV_SPACE)
"""Of what the registry shows."""
_KEY_SIZE_BYTES: Final = len(ids.key(1))


class Revocations:
    """What one life of a node knows to be revoked. Made when the node is open."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._floors: dict[int, int] = {}
        """User -> epoch of the last strict key."""
        self._owners: dict[int, int] = {}
        self._ended: dict[tuple[int, int, int], dict[int, None]] = {}
        """Project, member, number of a grant -> who has ended it."""
        self._granted: dict[tuple[int, int, int], dict[int, None]] = {}
        """Project, member, number of a grant -> who has given it."""
        self._distrusted: dict[bytes, None] = {}
        self._is_stale = False
        self._objects: dict[tuple[Class, int], None] = {}
        self._entries: dict[tuple[int, bytes], None] = {}
        for fact in node.registry.authority:
            self.learn(fact)

    def learn(self, fact: Fact) -> None:
        """Take in a fact that the node has kept."""
        match fact.statement:
            case facts.UserKey(user=user, epoch=epoch, strict=True):
                self._floors[user] = max(epoch, self._floors.get(user, 0))
                self._is_stale = True
            case facts.ProjectOwner(project=project, owner=owner):
                self._owners[project] = owner
            case facts.Member(project=project, user=user, grant_n=grant_n, by=by):
                self._granted.setdefault((project, user, grant_n), {})[by] = None
                self._is_stale |= grant_n > 1
            case facts.MemberRevoke(project=project, user=user, grant_n=grant_n, by=by):
                self._ended.setdefault((project, user, grant_n), {})[by] = None
                self._is_stale = True
            case facts.NodeRevoke(public_key=key, distrust=True, by=facts.FOUNDER_NUMBER):
                self._distrusted[key] = None
                self._is_stale = True
            case _:
                pass

    def shown(self, class_: Class, one: int) -> None:
        """Have an object looked at after this step, which is shown anew or not any more."""
        if self._knows_any():
            self._objects[class_, one] = None

    def entry_kept(self, record: Record) -> None:
        """Have an entry looked at after this step."""
        if self._knows_any():
            self._entries[record.body.place.id, record.body.place.key] = None

    def check(self) -> None:
        """Assert it of what has changed since the last time. Raises `Broken`."""
        if self._is_stale:
            self.check_all()
            return
        objects, self._objects = self._objects, {}
        entries, self._entries = self._entries, {}
        for class_, one in objects:
            self._check_object(class_, one)
        for space, key in entries:
            self._check_entry(space, key)

    def check_all(self) -> None:
        """Assert it of all that the node shows. Raises `Broken`."""
        self._is_stale = False
        self._objects.clear()
        self._entries.clear()
        if not self._knows_any():
            return
        for class_ in CLASSES:
            for one in self._node.registry.all(class_):
                self._check_object(class_, one)
        for key, _ in kept.rows(self._node.store, Table.KV_KEYS):
            space = int.from_bytes(key[:_KEY_SIZE_BYTES], "big")
            self._check_entry(space, key[_KEY_SIZE_BYTES:])

    def is_revoked(self, record: Record) -> bool:
        """Tell whether a record is revoked for certain."""
        body = record.body
        if body.by_node:
            return record.seal.public_key in self._distrusted
        if body.epoch < self._floors.get(body.author, 0):
            return True
        project, author, grant_n = body.place.owner, body.author, body.grant_n
        owner = self._owners.get(project)
        if owner is None or author == owner:
            return False
        enders = self._ended.get((project, author, grant_n), {})
        followers = self._granted.get((project, author, grant_n + 1), {})
        return owner in enders or author in enders or owner in followers

    def is_gone(self, one: int) -> bool:
        """Tell whether there are records of an object, and all are revoked for certain."""
        records = [r for r in self._node.registry.records() if r.body.place.id == one]
        return bool(records) and all(self.is_revoked(record) for record in records)

    def _knows_any(self) -> bool:
        return bool(self._floors or self._ended or self._distrusted or self._granted)

    def _check_object(self, class_: Class, one: int) -> None:
        entry = self._node.registry.get(class_, one)
        if entry is None:
            return
        records = [
            record
            for record in self._node.registry.records(entry.place.owner)
            if record.slot == entry.place.slot and record.body.hlc == entry.written_at
        ]
        if not records and class_ is Class.USER:
            return  # It is there from its first key on.
        self._require_good(records, f"{class_.name} {one}")

    def _check_entry(self, space_id: int, key: bytes) -> None:
        node = self._node
        space = node.spaces.get(space_id)
        if space is None or space.place is None or node.spaces.is_elsewhere(space):
            return
        try:
            value = node.spaces.read(space, key)
        except Problem:
            return  # The node cannot say now what its own keys are.
        if value is None:
            return
        slot = entry_place(space.place, key).slot
        rows = node.store.scan(Table.ENTRIES, slot, slot + b"\xff" * (_KEY_SIZE_BYTES + 1))
        records = [decode_record(row) for _, row in rows]
        self._require_good(
            [record for record in records if record.body.hlc == value.version],
            f"key {key!r} of namespace {space_id}",
        )

    def _require_good(self, records: Iterable[Record], what: str) -> None:
        if all(self.is_revoked(record) for record in records):
            raise Broken(f"{what} is shown, and its author's right to it is revoked")
