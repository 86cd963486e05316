"""What goes in and comes out of the API for key-value namespaces."""

from typing import Annotated, Literal

import msgspec

from peernode.calls import (
    Body,
    ObjectView,
    View,
)
from peernode.classes.project import DisplayName
from peernode.space_limits import TTL_MAX_S
from peernode.spaces import (
    PAGE_LENGTH_MAX,
    Space,
)
from peernode.timestamps import rfc3339
from storage import ids
from storage.places import Class

Seconds = Annotated[float, msgspec.Meta(gt=0, le=TTL_MAX_S)]


Whole = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]


class Owner(Body, frozen=True, kw_only=True):
    """Whose the namespace is: exactly one of these."""

    user: str | None = None
    project: str | None = None
    function: str | None = None


class Create(Body, frozen=True, kw_only=True):
    """A namespace to be. Scope and mode never change."""

    owner: Owner
    name: str
    scope: Literal["global", "local"]
    mode: Literal["lww", "cas"] = "lww"
    display_name: DisplayName = ""


class Set(Body, frozen=True, kw_only=True):
    """What may change of a namespace."""

    display_name: DisplayName


class Put(Body, frozen=True, kw_only=True):
    """A key and its value. `if_version` `"0"`: only if there is no such key."""

    key: str
    value: msgspec.Raw
    if_version: str | None = None
    ttl_s: Seconds | None = None


class Get(Body, frozen=True, kw_only=True):
    """A key."""

    key: str


class Delete(Body, frozen=True, kw_only=True):
    """A key to delete."""

    key: str
    if_version: str | None = None


class ListKeys(Body, frozen=True, kw_only=True):
    """A page of keys, in the order of their bytes."""

    prefix: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_LENGTH_MAX)] = 100
    cursor: str | None = None


class Increment(Body, frozen=True, kw_only=True):
    """How much to add to the number under a key."""

    key: str
    by: Whole = 1


class OwnerView(View, omit_defaults=True, frozen=True, kw_only=True):
    """Whose the namespace is."""

    user: str | None = None
    project: str | None = None
    function: str | None = None


class KvView(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A namespace."""

    owner: OwnerView
    name: str
    scope: str
    mode: str
    display_name: str


class VersionView(View, frozen=True, kw_only=True):
    """A key, and the version just written."""

    key: str
    version: str


class ValueView(View, frozen=True, kw_only=True):
    """A key and what stands under it."""

    key: str
    value: msgspec.Raw
    version: str
    expires_at: str | None


class NumberView(View, frozen=True, kw_only=True):
    """A key and the number that now stands under it."""

    key: str
    value: int
    version: str


class KeysView(View, frozen=True, kw_only=True):
    """A page of keys."""

    items: list[str]
    next: str | None


def view(space: Space) -> KvView:
    """Return the namespace as its readers see it."""
    if space.function:
        owner = OwnerView(function=str(space.function))
    elif space.owner_class is Class.PROJECT:
        owner = OwnerView(project=str(space.owner))
    else:
        owner = OwnerView(user=str(space.owner))
    return KvView(
        id=str(space.id),
        class_name="kv",
        revision=space.revision,
        created_at=rfc3339(ids.created_ms(space.id)),
        home_node=ids.node_number(space.id),
        owner=owner,
        name=space.name,
        scope=space.scope,
        mode=space.mode,
        display_name=space.display_name,
    )
