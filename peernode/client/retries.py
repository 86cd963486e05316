"""When a request is sent again: after a lost connection, and when the node asks for patience.

`retrying` wraps a whole operation, so operations never speak of retries.  A request that did not
leave this machine is always sent again; one that may have arrived only if it is *repeatable*:
GET, DELETE, or a POST under an Idempotency-Key.  503 and 507 and 429 are answers of a node that
did nothing yet, but only repeatable requests trust that.  Delays grow exponentially with full
jitter (Brooker, "Exponential Backoff And Jitter", 2015), and never undercut `Retry-After`.
"""

from dataclasses import dataclass, replace
from typing import Any

from peernode.client.effects import (
    Draw,
    Effect,
    Open,
    Operation,
    Reply,
    Request,
    Send,
    T,
    Upload,
    Wait,
)
from peernode.client.errors import ConnectionFailed

RETRIED_STATUS = frozenset({429, 503, 507})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient a client is with one request."""

    attempts_max: int = 6
    """Source: guess; with the delays below about 8 s on average, a node's restart."""
    delay_min_s: float = 0.25
    """Upper bound of the first delay. Source: guess, a few round trips."""
    delay_max_s: float = 8.0
    """Upper bound of any delay by backoff. Source: guess."""
    retry_after_max_s: float = 30.0
    """Longest `Retry-After` that is waited for; a longer one is the caller's affair.
    Source: guess, what a person sits through."""

    def delay_s(self, attempt: int, chance: float, retry_after_s: float = 0.0) -> float:
        """Return how long to wait after the `attempt`-th try (from 1)."""
        ceiling = min(self.delay_max_s, self.delay_min_s * 2.0 ** (attempt - 1))
        return max(retry_after_s, chance * ceiling)


def retry_after_s(reply: Reply) -> float:
    """Return the seconds in `Retry-After`; 0 when there are none (dates are not used by nodes)."""
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def is_repeatable(request: Request) -> bool:
    """Whether this request may be sent again although it may have arrived."""
    rewindable = not isinstance(request.content, Upload) or request.content.start is not None
    return request.repeatable and rewindable


def exchange(effect: Send | Open, policy: Policy) -> Operation[Reply]:
    """Carry out one `Send` or `Open` with the retries that `policy` allows."""
    repeatable = is_repeatable(effect.request)
    attempt = 1
    while True:
        floor_s = 0.0
        try:
            reply: Reply = yield effect
        except ConnectionFailed as error:
            rewindable = repeatable or not isinstance(effect.request.content, Upload)
            again = repeatable or (not error.sent and rewindable)
            if attempt >= policy.attempts_max or not again:
                raise
        else:
            floor_s = retry_after_s(reply)
            if (
                reply.status not in RETRIED_STATUS
                or not repeatable
                or attempt >= policy.attempts_max
                or floor_s > policy.retry_after_max_s
            ):
                return replace(reply, attempt=attempt)
        chance: float = yield Draw()
        yield Wait(policy.delay_s(attempt, chance, floor_s))
        attempt += 1


def retrying(operation: Operation[T], policy: Policy) -> Operation[T]:
    """Return the operation with each of its exchanges retried under `policy`."""
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect: Effect = operation.send(answer) if failure is None else operation.throw(failure)
        except StopIteration as stop:
            value: T = stop.value
            return value
        answer, failure = None, None
        try:
            if isinstance(effect, Send | Open):
                answer = yield from exchange(effect, policy)
            else:
                answer = yield effect
        except ConnectionFailed as error:
            failure = error
        except GeneratorExit:
            operation.close()
            raise
