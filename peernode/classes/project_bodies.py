"""What is sent and shown of a project's secrets: values go in, and never come out."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from peernode.calls import Body, View
from peernode.sealed_secrets import READERS_MAX, SealedSecret, SecretName

NodeName = Annotated[str, msgspec.Meta(max_length=64)]
NodeNames = Annotated[list[NodeName], msgspec.Meta(min_length=1, max_length=READERS_MAX)]


class SetSecret(Body, frozen=True, kw_only=True):
    """A secret, new or changed, and the nodes that can read it: by default the one asked."""

    name: SecretName
    value: str
    nodes: NodeNames | None = None

    def __repr__(self) -> str:
        """Say all but the value."""
        return f"SetSecret(name={self.name!r}, nodes={self.nodes!r})"


class RemoveSecret(Body, frozen=True, kw_only=True):
    """Which secret goes."""

    name: SecretName


class SecretView(View, frozen=True, kw_only=True):
    """What is shown of a secret: its name, and the nodes that can read it."""

    name: str
    nodes: list[str]


def secret_views(secrets: Sequence[SealedSecret]) -> list[SecretView]:
    """Return what members see of secrets."""
    return [
        SecretView(name=secret.name, nodes=[str(node) for node in secret.nodes])
        for secret in secrets
    ]
