"""When each node comes to show what changed somewhere: the measure of a mesh.

A record is *made* by the first node that keeps it, and *seen* by each that keeps it, or one that
replaces it, later.  Nodes are listened to where the daemon itself tells its mesh what it has kept
(`peernode.listening`), so nothing is asked and nothing is polled.  Metrics, with the kind of object
as label:

* `record.seen_s`, one for each record and node: made until seen, by a node that was up then or not;
* `record.visible_s`, one for each record: made until the last node has it that was up when it was
  made and has not gone since; `node` is the maker;
* `record.covered`, one for each record: the share of those nodes that have it in the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from simulations.metrics import Metrics
from simulations.trace import Trace
from storage.facts import Fact
from storage.places import Class
from storage.records import Record

if TYPE_CHECKING:
    from peernode.node import Node
    from simulations.world import World

LABELS: Final = {
    Class.KV_ENTRY: "kv",
    Class.FUNCTION: "function",
    Class.PROJECT: "project",
    Class.USER: "user",
}
"""What is followed, and its label."""
SLOT_DIGITS: Final = 16
"""How much of a slot's name stands in a trace. Source: enough to tell them apart."""


@dataclass(slots=True)
class _Spreading:
    """A record that not all nodes have."""

    hlc: int
    maker: int
    made_s: float
    label: str
    missing: dict[int, None]
    """Nodes without it that were up when it was made, and still are."""
    expected: int
    """How many nodes are to have it, its maker not counted."""
    late: dict[int, None] = field(default_factory=dict)
    """Nodes without it that were down, or are."""
    last_s: float = 0.0
    """When the last node came to have it."""


class _Ear:
    """Listens to one life of one node."""

    def __init__(self, node: int, sightings: "Sightings") -> None:
        self._node = node
        self._sightings = sightings

    def fact_kept(self, fact: Fact) -> None:
        """Facts are not followed."""

    def record_kept(self, record: Record, replaced: Record | None) -> None:
        """A record is durable here."""
        self._sightings.kept(self._node, record)


class Sightings:
    """Follows records of a world's nodes that are made after `begin`; from `listen` on it hears."""

    def __init__(
        self, world: "World", metrics: Metrics, trace: Trace, honest: Sequence[int]
    ) -> None:
        """`honest`: the nodes whose records count, and that are to have them."""
        self._honest = dict.fromkeys(honest)
        self._world = world
        self._metrics = metrics
        self._trace = trace
        self._spreading: dict[bytes, list[_Spreading]] = {}
        """By slot and author; the newest last. Not those that every node has."""
        self._newest: dict[bytes, int] = {}
        """By slot and author: the hybrid timestamp of the newest there is."""
        self._has_begun = False

    def begin(self) -> None:
        """Follow what is made from now on."""
        self._has_begun = True

    def listen(self) -> None:
        """Listen to all nodes from now on."""
        for number, node in enumerate(self._world.nodes):
            if node is not None:
                self._started(number, node)
        self._world.started.append(self._started)
        self._world.ended.append(self._ended)

    def kept(self, node: int, record: Record) -> None:
        """A node has a record."""
        label = LABELS.get(record.body.place.class_)
        if label is None:
            return
        key, hlc, now_s = record.store_key, record.body.hlc, trio.current_time()
        slot = record.slot.hex()[:SLOT_DIGITS]
        is_new = hlc > self._newest.get(key, 0)
        if is_new:
            self._newest[key] = hlc
        if not self._has_begun:
            return
        if is_new and node in self._honest:
            self._made(node, key, hlc, label)
        self._tell(node, slot, "made" if is_new else "seen")
        for spreading in list(self._spreading.get(key, ())):
            if spreading.hlc <= hlc and spreading.maker != node:
                self._saw(key, spreading, node, now_s)

    def close(self) -> None:
        """The run is over: say how far each record came that is not everywhere."""
        for all_of in self._spreading.values():
            for spreading in all_of:
                self._covered(spreading)
        self._spreading.clear()

    def _started(self, number: int, node: "Node") -> None:
        node.registry.hear(_Ear(number, self))

    def _ended(self, number: int) -> None:
        """A node is gone: nobody waits for it any more."""
        for key, all_of in list(self._spreading.items()):
            for spreading in list(all_of):
                if number in spreading.missing:
                    del spreading.missing[number]
                    spreading.late[number] = None
                    spreading.expected -= 1
                    self._look(key, spreading)

    def _made(self, maker: int, key: bytes, hlc: int, label: str) -> None:
        others = (number for number in self._honest if number != maker)
        up = {number: self._world.node(number) is not None for number in others}
        missing = dict.fromkeys(number for number, is_up in up.items() if is_up)
        late = dict.fromkeys(number for number, is_up in up.items() if not is_up)
        now_s = trio.current_time()
        expected = len(missing)
        spreading = _Spreading(hlc, maker, now_s, label, missing, expected, late, now_s)
        self._spreading.setdefault(key, []).append(spreading)
        self._look(key, spreading)

    def _saw(self, key: bytes, spreading: _Spreading, node: int, now_s: float) -> None:
        is_late = node in spreading.late
        if not is_late and node not in spreading.missing:
            return
        took_s = now_s - spreading.made_s
        self._observe("record.seen_s", took_s, node, spreading.label)
        if is_late:
            del spreading.late[node]
        else:
            del spreading.missing[node]
            spreading.last_s = now_s
        self._look(key, spreading, was_late=is_late)

    def _look(self, key: bytes, spreading: _Spreading, *, was_late: bool = False) -> None:
        """Take note if all nodes have a record that are to have it; forget it if all have it."""
        if spreading.missing:
            return
        if not was_late:
            took_s = spreading.last_s - spreading.made_s
            if spreading.expected:
                self._observe("record.visible_s", took_s, spreading.maker, spreading.label)
            self._covered(spreading)
        if not spreading.late:
            all_of = self._spreading[key]
            all_of.remove(spreading)
            if not all_of:
                del self._spreading[key]

    def _covered(self, spreading: _Spreading) -> None:
        if spreading.expected:
            share = 1.0 - len(spreading.missing) / spreading.expected
            spreading.expected = 0  # once
            self._observe("record.covered", share, spreading.maker, spreading.label)

    def _observe(self, metric: str, value: float, node: int, label: str) -> None:
        self._metrics.observe(metric, self._world.now, value, node=str(node), label=label)

    def _tell(self, node: int, slot: str, what: str) -> None:
        self._trace.record(self._world.now, "record", node=node, slot=slot, what=what)
