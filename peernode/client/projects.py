"""Calls about a project's members and secrets, for both clients."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peernode.client import objects
from peernode.client.effects import Object, Operation, send

if TYPE_CHECKING:
    from peernode.client.async_wire import AsyncWire
    from peernode.client.wire import Wire


def set_secret(project: str, name: str, value: str, nodes: Sequence[str]) -> Operation[Object]:
    """Set a secret of a project, sealed to nodes; none: to the node asked."""
    project_id = yield from objects.resolve_project(project)
    body: dict[str, Any] = {"name": name, "value": value}
    if nodes:
        body["nodes"] = list(nodes)
    path = objects.path_of("project", project_id, "set_secret")
    return (yield from send(objects.post(path, body, repeatable=True))).object()


def remove_secret(project: str, name: str) -> Operation[Object]:
    """Remove a secret of a project."""
    project_id = yield from objects.resolve_project(project)
    path = objects.path_of("project", project_id, "remove_secret")
    return (yield from send(objects.post(path, {"name": name}))).object()


class ProjectCalls:
    """What the blocking client does to projects."""

    _wire: "Wire"

    def add_member(self, project: str, user: str, role: str) -> Object:
        """Give a user a role: admin, developer, invoker or viewer."""
        return self._wire.run(objects.add_member(project, user, role))

    def remove_member(self, project: str, user: str, *, adopt: bool = True) -> Object:
        """Take a user out of a project; `adopt`: keep what he made there, as yours."""
        return self._wire.run(objects.remove_member(project, user, adopt))

    def set_secret(self, project: str, name: str, value: str, nodes: Sequence[str] = ()) -> Object:
        """Set a secret for functions at these nodes (ids or peer ids; none: at this one).

        Returns the project, whose `secrets` say names and nodes; no call returns a value.
        """
        return self._wire.run(set_secret(project, name, value, nodes))

    def remove_secret(self, project: str, name: str) -> Object:
        """Remove a secret, and return the project."""
        return self._wire.run(remove_secret(project, name))


class AsyncProjectCalls:
    """What the client on trio does to projects."""

    _wire: "AsyncWire"

    async def add_member(self, project: str, user: str, role: str) -> Object:
        """Give a user a role: admin, developer, invoker or viewer."""
        return await self._wire.run(objects.add_member(project, user, role))

    async def remove_member(self, project: str, user: str, *, adopt: bool = True) -> Object:
        """Take a user out of a project; `adopt`: keep what he made there, as yours."""
        return await self._wire.run(objects.remove_member(project, user, adopt))

    async def set_secret(
        self, project: str, name: str, value: str, nodes: Sequence[str] = ()
    ) -> Object:
        """Set a secret for functions at these nodes (none: at this one); return the project."""
        return await self._wire.run(set_secret(project, name, value, nodes))

    async def remove_secret(self, project: str, name: str) -> Object:
        """Remove a secret, and return the project."""
        return await self._wire.run(remove_secret(project, name))
