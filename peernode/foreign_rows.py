"""A bounded table of what other nodes said, oldest use out first.

Rows are written without waiting: one that is lost in a crash is asked for again.
"""

from collections import OrderedDict
from typing import Final

from storage import ids
from storage.store import Batch, Delete, Store, Table

LOADED_AT_ONCE: Final = 1000
"""Rows read at a time at the start. Source: a few megabytes."""


class Rows:
    """Rows of one table, by the id of an object of another node."""

    def __init__(self, store: Store, table: Table, rows_max: int, size_max_bytes: int) -> None:
        self._store = store
        self._table = table
        self._rows_max = rows_max
        self._size_max_bytes = size_max_bytes
        self._sizes: OrderedDict[int, int] = OrderedDict()
        """Id -> bytes of its row, in the order of last use (of age, at the start)."""
        self.size_bytes = 0
        start = b""
        while rows := store.scan(table, start, limit=LOADED_AT_ONCE):
            for key, row in rows:
                self._sizes[int.from_bytes(key, "big")] = len(row)
                self.size_bytes += len(row)
            start = rows[-1][0] + b"\0"
        self._unsaved: dict[int, bytes] = {}
        """Rows on their way to the disk."""

    def __len__(self) -> int:
        return len(self._sizes)

    def ids(self) -> list[int]:
        """Return the objects that have a row, in order."""
        return sorted(self._sizes)

    def get(self, id: int) -> bytes | None:
        """Return the row of an object, and count that as a use."""
        if id not in self._sizes:
            return None
        self._sizes.move_to_end(id)
        unsaved = self._unsaved.get(id)
        return unsaved if unsaved is not None else self._store.get(self._table, ids.key(id))

    def put(self, id: int, row: bytes) -> list[int]:
        """Keep a row; return the ids of those that had to go for it."""
        if len(row) > self._size_max_bytes:
            return []
        self.size_bytes += len(row) - self._sizes.get(id, 0)
        self._sizes[id] = len(row)
        self._sizes.move_to_end(id)
        gone: list[int] = []
        while len(self._sizes) > self._rows_max or self.size_bytes > self._size_max_bytes:
            oldest, size_bytes = self._sizes.popitem(last=False)
            self.size_bytes -= size_bytes
            self._unsaved.pop(oldest, None)
            gone.append(oldest)
        self._unsaved[id] = row
        deletes: list[Delete] = [(self._table, ids.key(old)) for old in gone]
        batch = Batch(puts=[(self._table, ids.key(id), row)], deletes=deletes)
        self._store.submit(batch, lambda _: self._saved(id, row))
        return gone

    def drop(self, id: int) -> None:
        """Forget an object."""
        if id in self._sizes:
            self.size_bytes -= self._sizes.pop(id)
            self._unsaved.pop(id, None)
            self._store.submit(Batch(deletes=[(self._table, ids.key(id))]))

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._sizes) <= self._rows_max
        assert self.size_bytes == sum(self._sizes.values()) <= self._size_max_bytes

    def _saved(self, id: int, row: bytes) -> None:
        # If it did not fit the disk, it is not found there later and asked for again.
        if self._unsaved.get(id) is row:
            del self._unsaved[id]
