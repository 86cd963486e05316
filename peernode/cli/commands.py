"""Commands of other packages, found by their entry points and loaded when they are asked for.

    [project.entry-points."peernode.commands"]
    sim = "simulations.cli:app"

An entry is a Typer application.  So `peernode sim` is there without peernode knowing simulations.
"""

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context

GROUP: Final = "peernode.commands"


class Commands(TyperGroup):
    """The commands of `peernode`, and those that entry points name."""

    def list_commands(self, ctx: "Context") -> list[str]:
        """Return the names of all commands, those of entry points last."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in sorted(self._entries) if name not in own)]

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":
        """Return a command; one of our own goes before an entry point."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or (entry := self._entries.get(cmd_name)) is None:
            return own
        return typer.main.get_command(entry.load())

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=GROUP)}
