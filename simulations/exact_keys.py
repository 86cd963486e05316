"""Keys of exact namespaces, whose history is one line: what clients hear has its place there [I21].

Namespaces with mode `cas`, and local ones, are written by one node, their home.  What that commits
for a key, in order, is the key's history.  To each answer about such a key:

* the version that a client heard of is in the history, and versions there only grow;
* a write with `if_version` follows right after the write of that version, so of two with the same
  one never succeeds both;
* an increment gives what the write before it left, and `by` more;
* no answer is older than one that was heard before its call began (Herlihy and Wing, 1990).

What it leaves out: deletions of local keys, whose rows go without a version; answers that nobody
heard; and how long an entry lives, for which a key with an end may be there or not.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from peernode.space_limits import whole_number
from peernode.spaces import decode_entry
from simulations.asgi_calls import Answer, Asked
from simulations.committed import Broken
from storage import codec, ids
from storage.places import Mode
from storage.records import decode_record
from storage.store import Batch, Table

NUMBER_SIZE_MAX_BYTES: Final = 20
_SLOT_SIZE_BYTES: Final = 16
_KEY_SIZE_BYTES: Final = len(ids.key(1))


@dataclass(frozen=True, slots=True)
class _Write:
    """One write of a key."""

    version: int
    """0: a local key was deleted."""
    number: int | None
    """The value, if it is a small whole number."""
    is_there: bool
    may_end: bool


@dataclass(slots=True)
class _History:
    """All writes of one key, in order."""

    writes: list[_Write] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)
    """Version -> its place among the writes."""
    heard: list[tuple[float, int]] = field(default_factory=list)
    """When clients heard an answer -> the latest place that any had heard of by then."""

    def before(self, place: int) -> _Write | None:
        """Return what stood there before a write."""
        found = self.writes[place - 1] if place else None
        return found if found is not None and found.is_there else None


class ExactKeys:
    """The histories of all such keys of a World. Raises `Broken`."""

    def __init__(self) -> None:
        self._histories: dict[tuple[int, bytes], _History] = {}

    # --- what is written ------------------------------------------------------------------

    def take(self, number: int, batch: Batch) -> None:
        """Take in a batch that the node of this number (in ids) has committed."""
        own = ids.key(number)
        for table, key, value in batch.puts:
            if table is Table.ENTRIES and key[_SLOT_SIZE_BYTES:] == own:
                self._take_entry(number, value)
            elif table is Table.KV_LOCAL:
                held, version, expires_ms = codec.load_row(value)
                write = _Write(version, _number(held), is_there=True, may_end=expires_ms > 0)
                self._append(_split(key), write)
        for table, key in batch.deletes:
            if table is Table.KV_LOCAL:
                self._append(_split(key), _Write(0, None, is_there=False, may_end=False))

    def _take_entry(self, number: int, row: bytes) -> None:
        record = decode_record(row)
        place = record.body.place
        if place.mode is not Mode.CAS or ids.node_number(place.id) != number:
            return
        if record.is_tombstone:
            write = _Write(record.body.hlc, None, is_there=False, may_end=False)
        else:
            value = decode_entry(record)
            write = _Write(
                value.version, _number(value.value), is_there=True, may_end=value.expires_ms > 0
            )
        self._append((place.id, place.key), write)

    def _append(self, place: tuple[int, bytes], write: _Write) -> None:
        history = self._histories.setdefault(place, _History())
        if write.version:
            last = next(reversed(history.places), 0)
            if write.version <= last:
                raise Broken(f"{_named(place)} is at version {last} and then at {write.version}")
            history.places[write.version] = len(history.writes)
        history.writes.append(write)

    # --- what clients hear ----------------------------------------------------------------

    def answered(self, asked: Asked, answer: Answer, now_s: float) -> None:
        """Take in what a client heard at a time of the clock."""
        parts = asked.path.partition("?")[0].split("/")
        if len(parts) != 4 or parts[1] != "kv" or answer.status != 200 or not parts[2].isdigit():
            return
        verb, said, told = parts[3], msgspec.json.decode(asked.body), answer.json()
        if verb not in ("put", "get", "delete", "increment"):
            return
        place = int(parts[2]), str(said["key"]).encode()
        history = self._histories.get(place)
        is_exact = verb == "increment" or said.get("if_version") is not None
        if history is None:
            if is_exact:
                raise Broken(f"{verb} of {_named(place)} is acknowledged, and nothing is written")
            return  # The last writer wins there, or it is another node's word that it was so.
        at = history.places.get(int(told["version"]))
        if at is None:
            if verb != "delete":
                raise Broken(f"{verb} of {_named(place)} gives version {told['version']} of none")
            return
        if verb != "get":
            self._follow(place, history, at, said, told)
        _listen(place, history, at, asked.begun_s, now_s, is_read=verb == "get")

    def _follow(
        self, place: tuple[int, bytes], history: _History, at: int, said: Any, told: Any
    ) -> None:
        """Assert that a write stands where it says it does."""
        before = history.before(at)
        wanted = said.get("if_version")
        allowed = [str(before.version) if before is not None else "0"]
        if before is not None and before.may_end:
            allowed.append("0")
        if wanted is not None and wanted not in allowed:
            raise Broken(f"{_named(place)} is written at version {wanted}, and was at {allowed[0]}")
        if "value" in told:  # It is an increment.
            by = said.get("by", 1)
            sums = [(before.number or 0 if before is not None else 0) + by]
            if before is not None and before.may_end:
                sums.append(by)
            if told["value"] not in sums or told["value"] != history.writes[at].number:
                raise Broken(
                    f"{_named(place)} is incremented by {by} to {told['value']}, not to {sums[0]}"
                )


def _listen(
    place: tuple[int, bytes],
    history: _History,
    at: int,
    begun_s: float,
    now_s: float,
    *,
    is_read: bool,
) -> None:
    """Assert that nothing newer had been heard when the call began, and take note of it."""
    earlier = bisect_left(history.heard, (begun_s, -1))
    newest = history.heard[earlier - 1][1] if earlier else -1
    if at < newest or (at == newest and not is_read):
        raise Broken(f"{_named(place)}: a client hears what was over when it began to ask")
    last = history.heard[-1][1] if history.heard else -1
    if at > last:
        history.heard.append((now_s, at))


def _split(key: bytes) -> tuple[int, bytes]:
    return int.from_bytes(key[:_KEY_SIZE_BYTES], "big"), key[_KEY_SIZE_BYTES:]


def _number(value: bytes) -> int | None:
    return whole_number(value) if len(value) <= NUMBER_SIZE_MAX_BYTES else None


def _named(place: tuple[int, bytes]) -> str:
    return f"key {place[1]!r} of namespace {place[0]}"
