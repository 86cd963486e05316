"""Key-value namespaces: three kinds of keys behind one set of verbs.

| scope, mode | where an entry lives | a write |
|---|---|---|
| local | a row on this node, and nowhere else | exact |
| global, cas | a record by the namespace's home node | exact, there and nowhere else |
| global, lww | a record by its writer | the last one wins, so nothing that reads first is allowed |

A version is the hybrid timestamp of the write, as decimal text: it grows with every write of a key,
through deletions too, so a stale `if_version` cannot match by accident.  `"0"` is "no such key".

Keys of a `cas` namespace are read and written by its home only.  Any other node refuses to here;
what passes its callers on to the home is `foreign_kv`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import trio

from peernode.attributes import SpaceAttributes
from peernode.entries import entry_place, keep_entry
from peernode.own_records import require_greater
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.registry import Entry, Registry
from peernode.space_limits import (
    INTEGER_MAX,
    KEY_SIZE_MAX_BYTES,
    KEYS_AT_ONCE,
    KEYS_LOOKED_AT_MAX,
    VALUE_SIZE_MAX_BYTES,
    whole_number,
)
from peernode.transactions import Transaction
from storage import codec, hlc, ids, merge
from storage.clock import Clock
from storage.places import Class, Mode, Place
from storage.records import NO_FLAGS, Flag, Record, decode_record
from storage.store import Store, Table

PAGE_LENGTH_MAX: Final = 1000
EXPIRY_KIND: Final = b"k"
"""Kind of a local entry's row in `Table.EXPIRIES`."""
AUTHORS_MAX: Final = 1024
"""Most authors of one key that are looked at. Source: guess."""


class LocalSpaceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A local namespace as it is kept."""

    name: str
    owner_class: int
    owner: int
    function: int
    display_name: str
    created_ms: int
    revision: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A namespace."""

    id: int
    name: str
    display_name: str
    scope: Literal["global", "local"]
    mode: Literal["lww", "cas"]
    owner_class: Class
    owner: int
    function: int
    revision: str
    place: Place | None
    """Of a global one."""

    @property
    def project(self) -> int:
        """The project it belongs to, or 0."""
        return self.owner if self.owner_class is Class.PROJECT else 0

    @property
    def is_exact(self) -> bool:
        """Tell whether a write can depend on what is there."""
        return self.scope == "local" or self.mode == "cas"


@dataclass(frozen=True, slots=True)
class Value:
    """What stands under a key."""

    value: bytes
    """JSON text."""
    version: int
    expires_ms: int
    """0: never."""


_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(LocalSpaceRow).decode


class Spaces:
    """All namespaces of this node, and their entries."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        timestamps: hlc.HybridClock,
        number: int,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """`guard` raises the `Problem` of a node that cannot say now what its own keys are."""
        self._guard = guard
        self._store = store
        self._registry = registry
        self._clock = clock
        self._timestamps = timestamps
        self._number = number
        """Of this node."""
        self._local: dict[int, Space] = {}
        start = b""
        while rows := store.scan(Table.KV_SPACES, start):
            for key, row in rows:
                self._keep(int.from_bytes(key, "big"), _decode_row(row))
            start = rows[-1][0] + b"\0"

    # --- namespaces -------------------------------------------------------------------------

    def get(self, id: int) -> Space | None:
        """Return a namespace, or `None`."""
        if (local := self._local.get(id)) is not None:
            return local
        entry = self._registry.get(Class.KV_SPACE, id)
        return None if entry is None else _global(entry)

    def owned(self, owner: int) -> list[Space]:
        """Return the namespaces of a project or user, newest first."""
        found = [space for space in self._local.values() if space.owner == owner]
        for space_id in self._registry.owned(Class.KV_SPACE, owner):
            entry = self._registry.get(Class.KV_SPACE, space_id)
            if entry is not None:
                found.append(_global(entry))
        return sorted(found, key=lambda space: -space.id)

    def named(self, name: str, project: int, function: int) -> Space | None:
        """Return what function code means by `name`: its function's own, else its project's."""
        own = [space for space in self.owned(project) if space.name == name]
        for wanted in (function, 0):
            for space in own:
                if space.function == wanted:
                    return space
        return None

    def put_local(self, transaction: Transaction, id: int, row: LocalSpaceRow) -> None:
        """Write a local namespace's attributes."""
        transaction.put(Table.KV_SPACES, ids.key(id), _encode(row))
        transaction.after.append(lambda: self._keep(id, row))

    def local_row(self, transaction: Transaction, id: int) -> LocalSpaceRow:
        """Return a local namespace's attributes as kept; raises `Problem` if it is gone."""
        row = transaction.get(Table.KV_SPACES, ids.key(id))
        if row is None:
            raise Problem("not_found", f"the namespace {id} was deleted meanwhile")
        return _decode_row(row)

    def kill_local(self, transaction: Transaction, id: int) -> None:
        """Delete a local namespace; its entries go with `clear`."""
        transaction.delete(Table.KV_SPACES, ids.key(id))
        transaction.put(Table.DEAD, ids.key(id), b"")
        transaction.after.append(lambda: self._local.pop(id, None))

    def clear(self, transaction: Transaction, id: int, limit: int = PAGE_LENGTH_MAX) -> int:
        """Delete up to `limit` local entries of a namespace; return how many there were."""
        prefix = ids.key(id)
        rows = transaction.scan(Table.KV_LOCAL, prefix, ids.key(id + 1), limit)
        for key, _ in rows:
            transaction.delete(Table.KV_LOCAL, key)
        return len(rows)

    def _keep(self, id: int, row: LocalSpaceRow) -> None:
        self._local[id] = Space(
            id=id,
            name=row.name,
            display_name=row.display_name,
            scope="local",
            mode="lww",
            owner_class=Class(row.owner_class),
            owner=row.owner,
            function=row.function,
            revision=str(row.revision),
            place=None,
        )

    # --- entries ----------------------------------------------------------------------------

    def read(
        self, space: Space, key: bytes, transaction: Transaction | None = None
    ) -> Value | None:
        """Return what stands under `key`, or `None`; within `transaction`, held to it."""
        self._require_home(space)
        get = self._store.get if transaction is None else transaction.get
        if space.scope == "local":
            row = get(Table.KV_LOCAL, ids.key(space.id) + key)
            value = None if row is None else Value(*codec.load_row(row))
        else:
            winner = self._winner(space, key, get)
            value = None if winner is None else decode_entry(winner)
        if value is not None and 0 < value.expires_ms <= self._clock.wall_ms():
            return None
        return value

    def _winner(
        self, space: Space, key: bytes, get: Callable[[Table, bytes], bytes | None]
    ) -> Record | None:
        slot = _place(space, key).slot
        if space.mode == "cas":
            row = get(Table.ENTRIES, slot + ids.key(ids.node_number(space.id)))
            held = [] if row is None else [decode_record(row)]
        else:
            rows = self._store.scan(Table.ENTRIES, slot, slot + b"\xff" * 9, limit=AUTHORS_MAX)
            held = [decode_record(row) for _, row in rows]
        return merge.resolve(held, self._registry.authority)

    def write(
        self,
        transaction: Transaction,
        actor: Actor,
        space: Space,
        key: bytes,
        value: bytes | None,
        ttl_s: float | None = None,
    ) -> int:
        """Set `key` (`None`: delete it) and return the version written."""
        self._require_home(space)
        at = self._timestamps.tick()
        expires_ms = 0 if ttl_s is None else self._clock.wall_ms() + max(1, int(ttl_s * 1000))
        if space.scope == "local":
            # Held to it, so that nothing is written into a namespace that is being deleted.
            if transaction.get(Table.KV_SPACES, ids.key(space.id)) is None:
                raise Problem("not_found", f"the namespace {space.id} was deleted meanwhile")
            place = ids.key(space.id) + key
            if value is None:
                transaction.delete(Table.KV_LOCAL, place)
            else:
                row = codec.dump_row([value, at, expires_ms])
                transaction.put(Table.KV_LOCAL, place, row)
                if expires_ms:
                    due = expires_ms.to_bytes(8, "big") + EXPIRY_KIND + place
                    transaction.put(Table.EXPIRIES, due, b"")
            return at
        payload = b"" if value is None else codec.encode([value, expires_ms])
        flags = NO_FLAGS if value is not None else Flag.TOMBSTONE
        record = self._registry.sign(actor, _place(space, key), payload, flags, timestamp=at)
        if not self._registry.authority.admissible(record):
            raise Problem("forbidden", "you may not write to this namespace")
        held = transaction.get(Table.ENTRIES, record.store_key)
        replaced = None if held is None else decode_record(held)
        if replaced is not None:
            require_greater(record, replaced)
        keep_entry(transaction, record)
        transaction.after.append(lambda: self._registry.note(record, replaced))
        return at

    def put(
        self,
        transaction: Transaction,
        actor: Actor,
        space: Space,
        key: bytes,
        value: bytes,
        *,
        if_version: str | None = None,
        ttl_s: float | None = None,
    ) -> int:
        """Set `key` if it is at `if_version`, and return its new version; raises `Problem`."""
        if if_version is not None:
            self.check_version(space, self.read(space, key, transaction), if_version)
        return self.write(transaction, actor, space, key, value, ttl_s)

    def check_version(self, space: Space, held: Value | None, if_version: str) -> None:
        """Raise a `Problem` unless what stands under a key is at `if_version`."""
        self._require_exact(space, "if_version")
        version = str(held.version) if held else "0"
        if version != if_version:
            raise Problem("version_mismatch", f"the key is at version {version}", version=version)

    def increment(
        self, transaction: Transaction, actor: Actor, space: Space, key: bytes, by: int
    ) -> tuple[int, int]:
        """Add to the number under `key` (0 if there is none); return it and its version."""
        self._require_exact(space, "increment")
        held = self.read(space, key, transaction)
        number = 0 if held is None else whole_number(held.value)
        if number is None:
            raise Problem("conflict", "the value is not a whole number", field="key")
        number += by
        if abs(number) > INTEGER_MAX:
            raise Problem(
                "invalid_field",
                f"by: the sum is over {INTEGER_MAX}",
                field="by",
                limit=INTEGER_MAX,
            )
        value = b"%d" % number
        return number, self.write(transaction, actor, space, key, value)

    async def keys(
        self, space: Space, prefix: bytes, after: bytes, limit: int
    ) -> tuple[list[bytes], bytes | None]:
        """Return up to `limit` keys with `prefix` that come after `after`, and where to go on.

        Where the second is `None`, there are no more.  Where most keys are deleted or expired a
        page may be short, or empty, and more may follow all the same.
        """
        self._require_home(space)
        base = ids.key(space.id)
        table = Table.KV_LOCAL if space.scope == "local" else Table.KV_KEYS
        start = base + (after + b"\0" if after >= prefix and after else prefix)
        stop = base + prefix + b"\xff" * (KEY_SIZE_MAX_BYTES + 1 - len(prefix))
        found: list[bytes] = []
        for _ in range(KEYS_LOOKED_AT_MAX // KEYS_AT_ONCE):
            rows = self._store.scan(table, start, stop, limit=KEYS_AT_ONCE)
            for row_key, _ in rows:
                key = row_key[8:]
                if self.read(space, key) is not None:
                    if len(found) == limit:
                        return found, found[-1]
                    found.append(key)
            if len(rows) < KEYS_AT_ONCE:
                return found, None
            start = rows[-1][0] + b"\0"
            await trio.lowlevel.checkpoint()
        return found, start[len(base) : -1]

    def is_elsewhere(self, space: Space) -> bool:
        """Tell whether another node, and it alone, reads and writes a namespace's keys."""
        at_home_only = space.scope == "global" and space.mode == "cas"
        return at_home_only and ids.node_number(space.id) != self._number

    def _require_home(self, space: Space) -> None:
        if space.mode == "cas":
            if self.is_elsewhere(space):
                raise home_unreachable(space.id)
            self._guard()

    @staticmethod
    def _require_exact(space: Space, what: str) -> None:
        if not space.is_exact:
            raise Problem(
                "would_lose_updates",
                f"{what}: a global namespace in which the last writer wins would lose updates",
                hint="make a namespace with scope local, or with mode cas",
                field=what,
            )


def home_unreachable(space: int, *, was_sent: bool = False) -> Problem:
    """Return what to tell when the home of a `cas` namespace cannot be asked, or did not answer."""
    home = ids.node_number(space)
    if was_sent:
        detail = f"node {home} was asked and did not answer: it has done it, or it has not"
        hint = "read the key before you try again"
    else:
        detail = f"namespace {space} is kept by node {home}, which cannot be asked: nothing is done"
        hint = "ask again later"
    return Problem("home_unreachable", detail, hint=hint, nodes=[home])


def decode_entry(record: Record) -> Value:
    """Return what an entry's record says; raises `InvalidData`, `ValueError` or `TypeError`."""
    value, expires_ms = codec.decode(record.body.payload, VALUE_SIZE_MAX_BYTES + 64)
    return Value(value, record.body.hlc, expires_ms)


def _place(space: Space, key: bytes) -> Place:
    assert space.place is not None
    return entry_place(space.place, key)


def _global(entry: Entry) -> Space:
    attributes: SpaceAttributes = entry.attributes
    place = entry.place
    return Space(
        id=entry.id,
        name=attributes.name,
        display_name=attributes.display_name,
        scope="global",
        mode="cas" if place.mode is Mode.CAS else "lww",
        owner_class=place.owner_class,
        owner=place.owner,
        function=attributes.function,
        revision=entry.revision,
        place=place,
    )
