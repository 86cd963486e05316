"""Times as people and programs read them: RFC 3339, UTC, milliseconds."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

TIME_MAX_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999. Source: RFC 3339 has years of four digits."""
SECONDS_KEPT_MAX: Final = 4096
"""Rendered seconds kept. Source: objects read together were mostly made together."""


@lru_cache(maxsize=SECONDS_KEPT_MAX)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


def rfc3339(at_ms: int) -> str:
    """Return `at_ms` (ms since 1970) as text such as `2026-11-29T12:00:00.000Z`."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


def parse_rfc3339(text: str) -> int:
    """Return the ms since 1970 of text as `rfc3339` writes it. Raises `ValueError`."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("no offset from UTC")
    at_ms = int(at.astimezone(UTC).timestamp() * 1000)
    if not 0 <= at_ms <= TIME_MAX_MS:
        raise ValueError("before 1970")
    return at_ms
