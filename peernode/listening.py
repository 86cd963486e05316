"""Who is told of what this node keeps: the seam between the registry and the mesh."""

from typing import Protocol

from storage.facts import Fact
from storage.records import Record


class Listener(Protocol):
    """Is told of everything new that other nodes may know, in the order in which it is durable."""

    def fact_kept(self, fact: Fact) -> None:
        """Take note of a fact. Runs in the loop, between tasks: it may not raise."""
        ...

    def record_kept(self, record: Record, replaced: Record | None) -> None:
        """Take note of a record, and of its author's last one in its slot. May not raise."""
        ...
