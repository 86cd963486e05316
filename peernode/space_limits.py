"""What a key, a value and its life may be; each check names the field and the limit."""

from typing import Final

import msgspec

from peernode.json_bodies import check_depth
from peernode.problems import Problem

KEY_SIZE_MAX_BYTES: Final = 256
VALUE_SIZE_MAX_BYTES: Final = 64 * 1024
"""Source of both: API contract."""
TTL_MAX_S: Final = 366 * 86400.0
"""Longest life of a key that ends. Source: guess."""
KEYS_AT_ONCE: Final = 100
"""Keys looked at before others have their turn. Source: 50 us each, measured; 5 ms."""
KEYS_LOOKED_AT_MAX: Final = 10_000
"""Keys looked at for one page. Source: half a second of the node's time."""
INTEGER_MAX: Final = (1 << 53) - 1
"""Largest counter. Source: what JSON numbers carry exactly."""


def check_key(key: str) -> bytes:
    """Return a key as bytes; raises a `Problem` that names the limit."""
    data = key.encode("utf-8", "surrogatepass")
    if not 1 <= len(data) <= KEY_SIZE_MAX_BYTES:
        raise Problem(
            "too_large" if data else "invalid_field",
            f"key: 1 to {KEY_SIZE_MAX_BYTES} bytes of UTF-8, not {len(data)}",
            field="key",
            limit=KEY_SIZE_MAX_BYTES,
        )
    return data


def check_value(value: bytes) -> bytes:
    """Return JSON text that may be a value; raises a `Problem` that names the limit."""
    if len(value) > VALUE_SIZE_MAX_BYTES:
        raise Problem(
            "too_large",
            f"value: at most {VALUE_SIZE_MAX_BYTES} bytes of JSON",
            hint="store it as a blob and keep its id here",
            field="value",
            limit=VALUE_SIZE_MAX_BYTES,
        )
    return value


def check_ttl(ttl_s: float | None) -> float | None:
    """Return how long a key is to live (`None`: for ever); raises a `Problem`."""
    if ttl_s is not None and not 0 < ttl_s <= TTL_MAX_S:
        raise Problem(
            "invalid_field",
            f"ttl_s: above 0 and at most {TTL_MAX_S:g} seconds",
            field="ttl_s",
            limit=TTL_MAX_S,
        )
    return ttl_s


def check_json(text: bytes) -> None:
    """Refuse what is not JSON text of a depth that every reader bears."""
    check_depth(text)
    try:
        text.decode()
        msgspec.json.decode(text, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise Problem("invalid_json", f"the value is not JSON: {error}") from None


def whole_number(value: bytes) -> int | None:
    """Return JSON text as a whole number, or `None` if it is none, or one too large to add to."""
    try:
        number = msgspec.json.decode(value)
    except msgspec.DecodeError:  # A number that no program holds, such as 1e999.
        return None
    return number if type(number) is int else None
