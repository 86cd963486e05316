"""How what nodes know comes together: a join, and a view of it.

    State = (A, D)      A: a set of facts that only grows (`authority`)
                        D: (slot, author) -> the author's greatest record there, by rank
    merge = A united, D pointwise greatest
    view  = a pure function of (A, D)

Both halves are join-semilattices, so merging commutes, associates and repeats without effect, and
nodes that have seen the same things, in whatever order and however often, are in the same state
(Shapiro et al., "Conflict-free replicated data types", 2011).  For that, **no permission, clock or
winner between authors may enter a merge**: a node that dropped what is not permitted *now* would
end up elsewhere than one that heard of the permission first.  Who may write is asked when reading.

The rank is (grant, epoch, deleted for ever, time, rid), and `authority.admissible` looks at grant
and epoch only; so nodes may exchange admissible records alone and still converge: no inadmissible
record can hide an admissible one of the same author in one node and not in another.

A record that rests on facts that are not here yet is deferred, and taken when they come.  The
deferred are bounded: what is dropped is offered again by reconciliation.

**View of a slot**, over its admissible records.  Objects: any tombstone deletes, for ever; else the
latest.  Entries: the latest, and nothing if that is a tombstone.  Latest is by (time, author, rid).

What it leaves out: signatures.  They are checked at the door (`Record.verify`), once.  A node keeps
D in its store and asks `beats` and `resolve` about one slot; `State` keeps everything in memory,
for simulations and as the rule by which the store is tested.
"""

import contextlib
from collections.abc import Iterable
from typing import Final

from storage.authority import Authority
from storage.errors import SignatureError
from storage.facts import Fact
from storage.places import Class
from storage.records import Record

DEFERRED_MAX: Final = 10_000
"""Most deferred records. Source: guess; at 1 KiB each, 10 MiB."""


def beats(record: Record, kept: Record | None) -> bool:
    """Tell whether `record` takes the place of what is kept of its slot and author."""
    return kept is None or record.rank > kept.rank


def last_word(entries: Iterable[Record], authority: Authority) -> Record | None:
    """Return the record that says how the slot that all `entries` are of stands.

    It is what deletes an object for ever, or else the latest; `None` if nothing there counts.
    """
    admissible = [record for record in entries if authority.admissible(record)]
    return _deleting(admissible) or max(admissible, key=_recency, default=None)


def resolve(entries: Iterable[Record], authority: Authority) -> Record | None:
    """Return what the slot that all `entries` are of shows, or `None` if it is empty or deleted."""
    last = last_word(entries, authority)
    return None if last is None or last.is_tombstone else last


def deleted_by(entries: Iterable[Record], authority: Authority) -> Record | None:
    """Return the record that deletes the slot's object for ever, or `None`."""
    return _deleting([record for record in entries if authority.admissible(record)])


class State:
    """All that a node knows, in memory."""

    def __init__(self, authority: Authority) -> None:
        """Takes `authority` over: facts are added to it from here on."""
        self.authority = authority
        self._slots: dict[bytes, dict[int, Record]] = {}
        self._deferred: dict[bytes, Record] = {}

    @property
    def deferred(self) -> list[Record]:
        """Records that wait for facts, oldest first."""
        return list(self._deferred.values())

    def apply(self, item: Fact | Record) -> None:
        """Take in a fact or a record whose signatures are good.

        Raises `SignatureError` for a record with somebody else's keys.
        """
        if isinstance(item, Record):
            self._put(item)
        elif self.authority.add(item):
            waiting = self.deferred
            self._deferred.clear()
            for record in waiting:
                # Its facts have come and show somebody else's keys: bad for good, and its sender
                # is not at hand to be told.
                with contextlib.suppress(SignatureError):
                    self._put(record)

    def merge(self, other: "State") -> None:
        """Take in all that `other` knows, what waits there included."""
        for fact in other.authority:
            self.apply(fact)
        for record in (*other.records(), *other.deferred):
            self.apply(record)

    def records(self) -> list[Record]:
        """Return D's values, by slot and author."""
        return [
            entries[author]
            for _, entries in sorted(self._slots.items())
            for author in sorted(entries)
        ]

    def admissible_records(self) -> list[Record]:
        """Return what is exchanged with other nodes, by slot and author."""
        return [record for record in self.records() if self.authority.admissible(record)]

    def resolve(self, slot: bytes) -> Record | None:
        """Return what the slot shows, or `None`."""
        return resolve(self._slots.get(slot, {}).values(), self.authority)

    def view(self) -> dict[bytes, Record]:
        """Return what every slot shows that shows anything, by slot."""
        shown = {slot: self.resolve(slot) for slot in sorted(self._slots)}
        return {slot: record for slot, record in shown.items() if record is not None}

    def beats(self, record: Record, kept: Record | None) -> bool:
        """See the function of this name."""
        return beats(record, kept)

    def _put(self, record: Record) -> None:
        if not self.authority.verifiable(record):
            if len(self._deferred) >= DEFERRED_MAX:
                del self._deferred[next(iter(self._deferred))]
            self._deferred[record.rid] = record
            return
        self.authority.verify_keys(record)
        entries = self._slots.setdefault(record.slot, {})
        if self.beats(record, entries.get(record.body.author)):
            entries[record.body.author] = record


def _deleting(admissible: list[Record]) -> Record | None:
    """Return the latest terminal tombstone; entries have none."""
    terminal = [
        record
        for record in admissible
        if record.is_tombstone and record.body.place.class_ is not Class.KV_ENTRY
    ]
    return max(terminal, key=_recency, default=None)


def _recency(record: Record) -> tuple[int, int, bytes]:
    return record.body.hlc, record.body.author, record.rid
