"""Times as people and programs read them: RFC 3339, UTC, milliseconds."""

import time


def rfc3339(at_ms: int) -> str:
    """Return `at_ms` (ms since 1970) as text such as `2026-11-29T12:00:00.000Z`."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z"
