"""What all tables of a scenario have in common: they are closed, and some name their kind."""

from typing import Literal

import msgspec


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table with fixed fields."""


class Kind(Table, frozen=True, kw_only=True, tag_field="kind"):
    """One of several tables, told apart by the field `kind`."""


Nodes = Literal["all"] | int | list[int]
"""Which nodes: all, the first so many, or these by number, from 0."""
