"""One number for all that a node shows of a mesh, kept up to date as it changes.

Two nodes that show the same have the same digest: every fact that they know, every object (user,
project, function, global namespace) and every entry of a global namespace.  The digest is a sum, so
a change costs what changed and not what there is; probes ask all nodes every few seconds.

What it leaves out: expiry of entries, which is each node's clock; and what never leaves a node.
"""

import hashlib
from typing import TYPE_CHECKING, Final

from storage import facts, merge
from storage.facts import Fact
from storage.places import Class
from storage.records import Record, decode_record
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

SIZE_BYTES: Final = 16
_MODULUS: Final = 1 << (8 * SIZE_BYTES)
_SLOT_SIZE_BYTES: Final = 16
_PAGE_LENGTH: Final = 1000


class ViewDigest:
    """Of one node, for one life of it. Made when the node is open."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._parts: dict[bytes, int] = {}
        """What is shown -> its part of the sum."""
        self._sum = 0
        self._objects: dict[tuple[Class, int], None] = {}
        """Objects that may have changed."""
        self._slots: dict[bytes, None] = {}
        """Entries that may have changed."""
        registry = node.registry
        for fact in registry.authority:
            self._add_fact(fact)
        for class_ in (Class.USER, Class.PROJECT, Class.FUNCTION, Class.KV_SPACE):
            self._objects.update(dict.fromkeys((class_, one) for one in registry.all(class_)))
        self._look_at_all_entries()
        registry.watch(self._object_changed)
        registry.hear(self)

    def digest(self) -> bytes:
        """Return the digest of what is shown now, `SIZE_BYTES` long."""
        objects, self._objects = self._objects, {}
        for class_, one in objects:
            entry = self._node.registry.get(class_, one)
            said = b"" if entry is None else repr((entry.attributes, entry.written_at)).encode()
            self._set(b"object/%d/%d" % (class_, one), said)
        slots, self._slots = self._slots, {}
        for slot in slots:
            winner = merge.resolve(self._held(slot), self._node.registry.authority)
            self._set(b"entry/" + slot, b"" if winner is None else winner.rid)
        return self._sum.to_bytes(SIZE_BYTES, "big")

    # --- listening ------------------------------------------------------------------------

    def fact_kept(self, fact: Fact) -> None:
        """Take note of a fact: some say who may have written what there is."""
        self._add_fact(fact)
        statement = fact.statement
        if isinstance(statement, facts.Genesis | facts.NodeGrant):
            return
        if not isinstance(statement, facts.UserKey) or statement.strict:
            self._look_at_all_entries()

    def record_kept(self, record: Record, replaced: Record | None) -> None:
        """Take note of a record."""
        place = record.body.place
        if place.class_ is Class.KV_ENTRY:
            self._slots[record.slot] = None
        elif place.class_ is Class.KV_SPACE and replaced is None:
            self._look_at_all_entries()

    def _object_changed(self, class_: Class, id: int) -> None:
        self._objects[class_, id] = None

    # --- the sum --------------------------------------------------------------------------

    def _add_fact(self, fact: Fact) -> None:
        if self._node.registry.authority.known(fact):
            self._set(b"fact/" + fact.id, fact.id)

    def _set(self, name: bytes, said: bytes) -> None:
        """Make what stands under a name part of the sum; nothing for nothing."""
        part = int.from_bytes(hashlib.sha256(name + b"=" + said).digest()[:SIZE_BYTES], "big")
        part = part if said else 0
        self._sum = (self._sum - self._parts.get(name, 0) + part) % _MODULUS
        if part:
            self._parts[name] = part
        else:
            self._parts.pop(name, None)

    def _held(self, slot: bytes) -> list[Record]:
        rows = self._node.store.scan(Table.ENTRIES, slot, slot + b"\xff" * 9)
        return [decode_record(row) for _, row in rows]

    def _look_at_all_entries(self) -> None:
        start = b""
        while rows := self._node.store.scan(Table.ENTRIES, start, limit=_PAGE_LENGTH):
            self._slots.update(dict.fromkeys(key[:_SLOT_SIZE_BYTES] for key, _ in rows))
            start = rows[-1][0] + b"\0"
