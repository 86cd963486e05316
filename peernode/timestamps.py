"""Times as people and programs read them: RFC 3339, UTC, milliseconds."""

import time
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
