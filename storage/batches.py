"""What both stores check, compute and report of a batch, so that they cannot differ.

A key's length, a batch's size, the arithmetic of counters (rows of 8 bytes, signed and big-endian;
no row is 0), and the results of one commit.
"""

import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

from storage.store import KEY_SIZE_MAX_BYTES, Batch, Done, Result

Deliver: TypeAlias = Callable[[Callable[[], object]], object]
"""Runs a callback in the loop's thread, soon or at once; may be called from another thread."""

_COUNTER = struct.Struct(">q")


def check_key(key: bytes) -> None:
    """Raise `ValueError` unless `key` has 1 to `KEY_SIZE_MAX_BYTES` bytes."""
    if not 0 < len(key) <= KEY_SIZE_MAX_BYTES:
        raise ValueError(f"a key of {len(key)} bytes: a key has 1 to {KEY_SIZE_MAX_BYTES}")


def check_bounds(start: bytes, stop: bytes | None, limit: int) -> None:
    """Raise `ValueError` unless a scan may have these bounds: unlike keys, they may be empty."""
    if len(start) > KEY_SIZE_MAX_BYTES or (stop is not None and len(stop) > KEY_SIZE_MAX_BYTES):
        raise ValueError(f"a scan's bound has at most {KEY_SIZE_MAX_BYTES} bytes")
    if limit < 0:
        raise ValueError(f"a scan's limit is {limit}: it is at least 0")


def measure(batch: Batch) -> int:
    """Return the bytes that `batch` carries; raise `ValueError` for a key no store takes."""
    size = 0
    for _, key, value in batch.puts:
        length = len(key)
        if not 0 < length <= KEY_SIZE_MAX_BYTES:
            check_key(key)
        size += length + len(value)
    for _, key in batch.deletes:
        check_key(key)
        size += len(key)
    for _, key, _amount in batch.adds:
        check_key(key)
        size += len(key) + 8
    for _, key, _value in batch.expects:
        check_key(key)
        size += len(key)
    return size


def counter_value(row: bytes | None) -> int:
    """Return the number that a counter's row holds; no row is 0."""
    return 0 if row is None else int(_COUNTER.unpack(row)[0])


def counter_row(row: bytes | None, amount: int) -> bytes | None:
    """Return the counter's row after adding `amount`: `None`, "no row", when it is then 0.

    Raises `struct.error` for a row that is not a counter and for a sum over 63 bits: both are
    programming errors.
    """
    total = counter_value(row) + amount
    return _COUNTER.pack(total) if total else None


def report(results: Sequence[tuple[Done, Result]]) -> None:
    """Call each `done` with its result, in order."""
    for done, result in results:
        done(result)
