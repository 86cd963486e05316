"""What was last written or read of jobs, kept ready: most jobs are asked for soon after they end.

Requests and outcomes never change, so what is kept here is right for as long as it is kept; only a
deletion has to be told.
"""

from collections import OrderedDict
from typing import Final

from peernode.job_rows import Outcome, Request
from storage import cid

JOBS_MAX: Final = 4096
"""Jobs kept. Source: with `CONTENT_MAX_BYTES`, at most 16 MiB, and seldom over 4."""
CONTENT_MAX_BYTES: Final = 4096
"""Largest input, and largest result, of a job that is kept. Source: guess, a few usual ones."""


class RecentJobs:
    """A bounded memory of requests and outcomes, oldest out first."""

    def __init__(self) -> None:
        self._requests: OrderedDict[int, tuple[Request, str]] = OrderedDict()
        self._outcomes: OrderedDict[int, Outcome] = OrderedDict()

    def request(self, job: int) -> tuple[Request, str] | None:
        """Return a job's request and its CID, if they are kept."""
        return self._requests.get(job)

    def keep_request(self, job: int, request: Request, row: bytes) -> tuple[Request, str]:
        """Keep a request whose row is `row`; return it with its CID."""
        kept = request, cid.text(cid.raw_leaf(row))
        if len(request.input) <= CONTENT_MAX_BYTES:
            self._requests[job] = kept
            if len(self._requests) > JOBS_MAX:
                self._requests.popitem(last=False)
        return kept

    def outcome(self, job: int) -> Outcome | None:
        """Return a job's outcome, if it is kept."""
        return self._outcomes.get(job)

    def keep_outcome(self, job: int, outcome: Outcome) -> None:
        """Keep an outcome that is durable."""
        if len(outcome.payload) + len(outcome.traceback) <= CONTENT_MAX_BYTES:
            self._outcomes[job] = outcome
            if len(self._outcomes) > JOBS_MAX:
                self._outcomes.popitem(last=False)

    def forget(self, job: int) -> None:
        """Drop what is kept of a deleted job."""
        self._requests.pop(job, None)
        self._outcomes.pop(job, None)

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._requests) <= JOBS_MAX
        assert len(self._outcomes) <= JOBS_MAX
