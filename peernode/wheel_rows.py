"""Wheels in a function's record: each once, however many of its versions bring it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from storage.cid import Cid

if TYPE_CHECKING:
    from peernode.attributes import FunctionAttributes, Version


class Wheel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A package that versions of a function bring."""

    cid: bytes
    size_bytes: int
    name: str
    """Its file name, as PEP 427 has it."""


def wheels_of(function: "FunctionAttributes", version: "Version") -> list[Wheel]:
    """Return what a version brings, in its order."""
    return [function.wheels[index] for index in version.wheels]


def contents_of(function: "FunctionAttributes", version: "Version") -> list[tuple[Cid, int]]:
    """Return CID and size of all that a version needs: its source, then its wheels."""
    found = [(wheel.cid, wheel.size_bytes) for wheel in wheels_of(function, version)]
    return [(Cid(cid), size) for cid, size in ((version.cid, version.size_bytes), *found)]


def merged(known: Sequence[Wheel], brought: Sequence[Wheel]) -> tuple[list[Wheel], list[int]]:
    """Return the wheels of a function with those of one more version, and its indices."""
    wheels = list(dict.fromkeys([*known, *brought]))
    return wheels, [wheels.index(wheel) for wheel in brought]
