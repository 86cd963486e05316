"""The seam between an agent and what runs its attempts: children of the machine, or virtual time.

`worker.supervisor` runs each attempt in a process.  A simulation brings a supervision of its own,
in which an attempt takes time and nothing else; the agent, its link and its messages are the same.
What a supervision says of its attempts goes to `worker.reports`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

from storage.clock import Clock
from worker.child import Attempt
from worker.reports import Reports

if TYPE_CHECKING:
    from worker.supervisor import Config


class Supervision(Protocol):
    """Runs attempts, as many at once as it has slots. Called synchronously."""

    def submit(self, attempt: Attempt) -> None:
        """Take an attempt; `pump` places it."""
        ...

    def pump(self) -> None:
        """Begin what waits, as far as there is room."""
        ...

    def take_back(self, attempt: Attempt) -> bool:
        """Take `attempt` out if it has not begun; return whether it had not."""
        ...

    def kill(self, attempt: Attempt) -> None:
        """End `attempt` and all it started, and report nothing."""
        ...

    def drain(self) -> list[Attempt]:
        """Take out and return everything that has not begun."""
        ...

    def packages(self) -> list[str]:
        """Return the directories of packages that are in use."""
        ...

    def knowing(self, pid: int) -> AbstractContextManager[None]:
        """Leave a child of this process alone for as long as the block runs."""
        ...


Open: TypeAlias = "Callable[[Config, Reports, Clock], AbstractAsyncContextManager[Supervision]]"
"""Opens a supervision; at the end of the block nothing of it runs."""
