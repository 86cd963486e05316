"""What can go wrong for someone who holds a client: told by whose fault it is.

`ProblemError` is the node's refusal, in the node's words.  `ConnectionFailed` is the road to it.
`JobFailed` is the function's own outcome.  `JobTimeout` is only the caller's patience: the job
lives on.  All of them are `ClientError`, and each says in `hint` what to do, where it can.
"""

from typing import Any

import msgspec

BODY_SHOWN_MAX_CHARACTERS = 200
"""Most characters of an unexpected body that an error repeats. Source: two lines of a terminal."""


class ClientError(Exception):
    """Base of everything this package raises on purpose."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(ClientError):
    """What the caller configured cannot be used: no URL, an unreadable file, a vague name."""


class ConnectionFailed(ClientError):
    """The node could not be reached, or the connection was cut.

    `sent` is false when nothing can have arrived: then any request may be sent again.
    """

    def __init__(self, message: str, *, sent: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class ProblemError(ClientError):
    """The node refused: an RFC 9457 problem. `code` is one of the documented closed list."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        hint: str = "",
        field: str = "",
        limit: float | None = None,
        retryable: bool = False,
        body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, hint=hint)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.limit = limit
        self.retryable = retryable
        self.body = {} if body is None else body


class NotFound(ProblemError):
    """There is no such object, or none that this caller may see."""


class Unauthenticated(ProblemError):
    """No token, a token of another node, an expired one, or a wrong password."""


class WrongNode(ClientError):
    """Whoever answers at `url` has not proved to be the node that a token or password is for.

    Neither was sent.
    """

    def __init__(self, url: str) -> None:
        super().__init__(
            f"{url} did not prove that it is the node you mean: no token and no password was sent",
            hint="another node or program may have that address; if it is a new node of yours, "
            "`peernode login NAME --new-node` makes its acquaintance",
        )
        self.url = url


class JobFailed(ClientError):
    """A job ended without a result: `state` is failed, cancelled, expired or poisoned."""

    def __init__(
        self, job_id: str, state: str, code: str, message: str, traceback: str | None
    ) -> None:
        super().__init__(f"job {job_id} {state}: {message or code or 'no reason was recorded'}")
        self.job_id = job_id
        self.state = state
        self.code = code
        self.message = message
        self.traceback = traceback


class JobTimeout(ClientError, TimeoutError):
    """The caller waited long enough. The job `job_id` lives on and can be asked for later."""

    def __init__(self, job_id: str, state: str, waited_s: float) -> None:
        super().__init__(
            f"job {job_id} is still {state} after {waited_s:g} s",
            hint=f"it goes on without you: client.job({job_id!r}).result() asks again",
        )
        self.job_id = job_id
        self.state = state


def problem_from(status: int, body: bytes) -> ProblemError:
    """Return the error for an HTTP answer of status 400 or more, whoever wrote its body."""
    try:
        problem = msgspec.json.decode(body)
    except msgspec.DecodeError:
        problem = None
    if not isinstance(problem, dict):
        text = body.decode("utf-8", "replace").strip()[:BODY_SHOWN_MAX_CHARACTERS]
        problem = {"detail": text or f"the node answered with status {status}"}
    limit = problem.get("limit")
    kind = {401: Unauthenticated, 404: NotFound}.get(status, ProblemError)
    return kind(
        status,
        str(problem.get("code", f"status_{status}")),
        str(problem.get("detail") or problem.get("title") or f"status {status}"),
        hint=str(problem.get("hint", "")),
        field=str(problem.get("field", "")),
        limit=limit if isinstance(limit, int | float) else None,
        retryable=problem.get("retryable") is True,
        body=problem,
    )
