"""What a caller may be told went wrong: RFC 9457 problems with a closed list of codes.

Anything that is refused raises `Problem`; one table turns a code into a status and a title, so that
a code always means the same.  What a caller may not read answers as if it were not there.
"""

from typing import Any, Final

import msgspec

CODES: Final[dict[str, tuple[int, str]]] = {
    "bad_request": (400, "Malformed request"),
    "invalid_json": (400, "The body is not JSON"),
    "invalid_field": (422, "A field has a wrong value"),
    "unknown_field": (422, "A field is not known"),
    "unauthenticated": (401, "A valid token is needed"),
    "wrong_credentials": (401, "Name and password do not match"),
    "token_expired": (401, "The token has expired"),
    "token_wrong_node": (401, "The token is for other nodes"),
    "forbidden": (403, "Not allowed"),
    "not_found": (404, "No such object"),
    "unknown_class": (404, "No such class"),
    "unknown_method": (404, "No such method"),
    "method_not_allowed": (405, "This call is not defined here"),
    "key_lost": (409, "The user's key is lost"),
    "conflict": (409, "The object's state does not allow this"),
    "name_taken": (409, "The name is taken"),
    "version_mismatch": (409, "The key has another version"),
    "precondition_failed": (412, "The object has changed"),
    "too_large": (413, "Over a size limit"),
    "unsupported_media_type": (415, "Another Content-Type is needed"),
    "range_not_satisfiable": (416, "The range is outside the content"),
    "misdirected": (421, "Another node answers for this"),
    "idempotency_mismatch": (422, "The idempotency key was used with another body"),
    "invalid_source": (422, "The program cannot be used"),
    "input_mismatch": (422, "The input does not match the function's schema"),
    "would_lose_updates": (422, "This namespace cannot do that safely"),
    "rate_limited": (429, "Too many requests"),
    "quota_exceeded": (429, "A quota is used up"),
    "headers_too_large": (431, "The header is too large"),
    "request_timeout": (408, "The request came too slowly"),
    "target_too_long": (414, "The request target is too long"),
    "pipeline_too_long": (400, "Too many requests at once on one connection"),
    "upgrade_required": (426, "Another WebSocket version is needed"),
    "not_implemented": (501, "The server cannot do this"),
    "http_version": (505, "Another HTTP version is needed"),
    "internal": (500, "The node has a fault"),
    "overloaded": (503, "The node is busy"),
    "draining": (503, "The node is stopping"),
    "recovering": (503, "The node finds out what it has done"),
    "cloned": (503, "The node runs twice"),
    "home_unreachable": (503, "The node that keeps this cannot be reached"),
    "unreachable": (504, "The nodes that could answer cannot be reached"),
    "storage_full": (507, "The node's disk is full"),
}
"""code -> (status, title). Documented in docs/problems.md; a test holds both together."""

RETRYABLE: Final = frozenset(
    {
        "rate_limited",
        "quota_exceeded",
        "overloaded",
        "draining",
        "recovering",
        "home_unreachable",
        "unreachable",
        "storage_full",
    }
)

FENCED: Final = frozenset({"recovering", "cloned"})
"""What a node answers that does not know what it has done, and so does nothing."""


class Problem(Exception):
    """A refusal, as the caller will read it."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        hint: str = "",
        field: str = "",
        limit: int | float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = CODES[code]
        self.detail = detail
        self.hint = hint
        self.field = field
        self.limit = limit
        self.headers = headers
        self.extra = extra

    def body(self) -> bytes:
        """Return the problem as JSON bytes."""
        body: dict[str, Any] = {
            "type": f"urn:peernode:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.code in RETRYABLE,
        }
        if self.hint:
            body["hint"] = self.hint
        if self.field:
            body["field"] = self.field
        if self.limit is not None:
            body["limit"] = self.limit
        return msgspec.json.encode(body | self.extra)


def not_found(class_name: str, text: str) -> Problem:
    """Return the one answer for what is not there and for what may not be seen."""
    return Problem("not_found", f"there is no {class_name} {text!r} that you may see")
