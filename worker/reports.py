"""What a supervisor reports of its attempts, and to whom: the seam between it and the agent."""

from dataclasses import dataclass, replace
from typing import Protocol

from worker import frames
from worker.child import Attempt
from worker.output import Line
from worker.protocol import ErrorCode, Finished, Lease, Usage, Write
from worker.redaction import Redaction


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `payload`: JSON text of the result, or the error's message."""

    error_code: ErrorCode | None
    payload: bytes
    usage: Usage
    traceback: str = ""
    backend: str = ""
    writes: tuple[Write, ...] = ()

    def message(self, lease: Lease) -> Finished:
        """Return what the node is told of the end of this lease."""
        return Finished(
            lease.job,
            lease.fence,
            self.error_code,
            self.payload,
            self.traceback,
            self.usage,
            self.backend,
            list(self.writes),
        )

    def redacted(self, redaction: Redaction) -> "Outcome":
        """Return the same without secrets in what is said of an error. A result stays as it is."""
        if self.error_code is None or not redaction.longest_bytes:
            return self
        message = redaction.text(self.payload.decode("utf-8", "replace"))
        return replace(self, payload=message.encode(), traceback=redaction.text(self.traceback))


class Reports(Protocol):
    """Who hears of attempts: the agent. Called synchronously."""

    @property
    def online(self) -> bool:
        """Whether progress and output can be sent now; they are kept back until they can."""
        ...

    def started(self, attempt: Attempt, elapsed_s: float) -> None:
        """It runs for longer than `STARTED_DELAY_S`."""
        ...

    def progressed(self, attempt: Attempt, fraction: float | None, message: str) -> None:
        """It reported progress."""
        ...

    def printed(self, attempt: Attempt, lines: list[Line]) -> None:
        """It printed lines."""
        ...

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        """It is over."""
        ...

    async def answer(self, attempt: Attempt, request: frames.Request) -> frames.Reply:
        """Answer a request of its child."""
        ...
