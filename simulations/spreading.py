"""How a record spreads among the nodes of a swarm: when each has it, over how many links, and all.

The metrics are those of a World (`simulations.sightings`), with how many links it came over:

* `record.seen_s`, `record.hops`: one for each record and node; of large swarms, of every k-th node;
* `record.visible_s`, `record.hops_max`: one for each record, when the last node has it that was up
  when it was made and has not gone since; `node` is the maker;
* `record.covered`: the share of those that have it in the end.
"""

from typing import Final

from gossip.sync_index import Item
from simulations.metrics import Metrics

ROWS_MAX: Final = 200_000
"""Observations of single nodes. Source: 100 bytes each, and what a plot can show."""
HOPS_MAX: Final = 255


class Spreading:
    """One record on its way."""

    __slots__ = (
        "_due",
        "expected",
        "hops",
        "hops_max",
        "label",
        "made_s",
        "maker",
        "missing",
        "visible_s",
    )

    def __init__(self, label: str, maker: int, made_s: float, due: bytearray) -> None:
        """`due` has a 1 for each node that is to have it; it is taken over."""
        self.label = label
        self.maker = maker
        self.made_s = made_s
        due[maker] = 0
        self._due = due
        self.expected = self.missing = sum(due)
        self.hops = bytearray(len(due))
        self.hops_max = 0
        self.visible_s: float | None = None
        """From when it was made until the last that is to have it has it."""

    @property
    def covered(self) -> float:
        """The share of those that are to have it that do; 1 if nobody is to."""
        return 1 - self.missing / self.expected if self.expected else 1.0

    def arrive(self, node: int, source: int) -> bool:
        """A node has it from another; return whether it was to have it."""
        hops = min(self.hops[source] + 1, HOPS_MAX)
        self.hops[node] = hops
        if hops > self.hops_max:
            self.hops_max = hops
        return self._settle(node)

    def give_up(self, node: int) -> bool:
        """A node is gone; return whether it was still to have it."""
        was_due = self._settle(node)
        self.expected -= was_due
        return was_due

    def _settle(self, node: int) -> bool:
        if not self._due[node]:
            return False
        self._due[node] = 0
        self.missing -= 1
        return True


class Spread:
    """All records of a run."""

    def __init__(self, metrics: Metrics, nodes: int, records: float) -> None:
        """`records`: about how many there will be."""
        self._metrics = metrics
        self._nodes = nodes
        self._each = max(1, round(nodes * records / ROWS_MAX))
        """Of so many nodes one is observed."""
        self._records: dict[Item, Spreading] = {}
        self._all: list[Spreading] = []
        self._open: dict[Item, Spreading] = {}

    def made(self, one: Item, label: str, maker: int, now: float, due: bytearray) -> None:
        """A node made a record."""
        spreading = Spreading(label, maker, now, due)
        self._records[one] = spreading
        self._all.append(spreading)
        if spreading.missing:
            self._open[one] = spreading

    def arrived(self, one: Item, node: int, source: int, now: float) -> None:
        """A node has a record from another."""
        spreading = self._records.get(one)
        if spreading is None:
            return  # Nobody follows it.
        was_due = spreading.arrive(node, source)
        if node % self._each == 0:
            label, name = spreading.label, str(node)
            observe = self._metrics.observe
            observe("record.seen_s", now, now - spreading.made_s, node=name, label=label)
            observe("record.hops", now, spreading.hops[node], node=name, label=label)
        if was_due and not spreading.missing:
            self._complete(one, spreading, now)

    def gone(self, node: int, now: float) -> None:
        """A node is gone: records that it does not have need not wait for it."""
        for one, spreading in list(self._open.items()):
            if spreading.give_up(node) and not spreading.missing:
                self._complete(one, spreading, now)

    def of(self, number: int) -> Spreading:
        """Return the record that was made as the so-many-th, from 0."""
        return self._all[number]

    def close(self, now: float) -> None:
        """The run is over."""
        for spreading in self._records.values():
            if spreading.expected:
                self._observe("record.covered", now, spreading.covered, spreading)

    def _complete(self, one: Item, spreading: Spreading, now: float) -> None:
        del self._open[one]
        if spreading.expected:
            spreading.visible_s = now - spreading.made_s
            self._observe("record.visible_s", now, spreading.visible_s, spreading)
            self._observe("record.hops_max", now, spreading.hops_max, spreading)

    def _observe(self, metric: str, now: float, value: float, spreading: Spreading) -> None:
        maker, label = str(spreading.maker), spreading.label
        self._metrics.observe(metric, now, value, node=maker, label=label)
