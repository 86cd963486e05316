"""What a bad end means: its cause, the state it leads to, and how long to wait before a retry."""

from typing import Final

from worker.events import Cause, Retry, State
from worker.protocol import ErrorCode

CAUSES: Final[dict[ErrorCode, Cause]] = {
    "function_error": "error",
    "result_invalid": "error",
    "exited": "error",
    "memory_limit": "limit",
    "output_limit": "limit",
    "process_limit": "limit",
    "run_timeout": "timeout",
    "heartbeat_timeout": "timeout",
    "setup_failed": "error",
    "backend_unavailable": "error",
    "write_refused": "error",
}
"""The word of `retry.on` for each error a worker reports."""


def state_after(cause: Cause) -> State:
    """Return the state of a job that is not tried again."""
    return "expired" if cause == "timeout" else "failed"


def may_retry(retry: Retry, cause: Cause, attempt: int) -> bool:
    """Whether a job is tried again after attempt number `attempt` ended by this cause."""
    return cause in retry.on and attempt < retry.max_attempts


def backoff_s(retry: Retry, attempt: int, backoff_max_s: float) -> float:
    """Return how long to wait after attempt number `attempt`: doubled each time, up to a limit."""
    # Doubling is stopped early: 2.0 ** 1024 is an overflow.
    return min(backoff_max_s, max(0.0, retry.backoff_s) * 2.0 ** min(attempt - 1, 64))
