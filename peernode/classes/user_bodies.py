"""What goes in and comes out of the API for users."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from peernode.calls import Body, ObjectView, View
from peernode.classes.project import DisplayName
from peernode.registry import Entry
from peernode.timestamps import rfc3339
from storage import ids

if TYPE_CHECKING:
    from peernode.node import Node


Password = Annotated[str, msgspec.Meta(max_length=1024)]


Seconds = Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)]


class Create(Body, frozen=True, kw_only=True):
    """A user to be: with a password, which makes this node the keeper of its key, or with a key.

    `public_key` is an Ed25519 key in hex.  `next_key_hash`, of the key that may replace it, is
    needed to rotate it one day.
    """

    name: str
    password: Password | None = None
    public_key: str | None = None
    next_key_hash: str | None = None
    invite: str | None = None
    display_name: DisplayName = ""


class Set(Body, frozen=True, kw_only=True):
    """What may change of a user; a new password needs the old one."""

    display_name: DisplayName | None = None
    password: Password | None = None
    old_password: Password | None = None


class Login(Body, frozen=True, kw_only=True):
    """A password, or a certificate and secret made where the key is."""

    password: Password | None = None
    ttl_s: Seconds | None = None
    scopes: list[str] | None = None
    audience: list[str] | None = None
    certificate: str | None = None
    secret: str | None = None


class Delegate(Body, frozen=True, kw_only=True):
    """Another token, for other nodes or with less scope than the one this call is made with."""

    audience: list[str] | None = None
    ttl_s: Seconds | None = None
    scopes: list[str] | None = None


class Rotate(Body, frozen=True, kw_only=True):
    """A new key in place of the present one.

    `strict` is for a key or token that was stolen: nothing that was signed with the old key counts
    any more, at any node, whatever date it bears.  The home signs anew what is the user's: all of
    it that is known there now, or, with `since` (a time), only what the home itself signed for the
    user until then.  What the thief wrote after `since` is not carried, nor what it replaced: make
    such functions, namespaces and keys again, and add such members again.  What the user wrote at
    nodes that the home cannot reach now is lost.
    """

    password: Password
    strict: bool = False
    since: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class Revoke(Body, frozen=True, kw_only=True):
    """A token to revoke; without one, the token this call is made with."""

    token: str | None = None


class UserView(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A user."""

    name: str
    display_name: str
    public_key: str
    epoch: int


class TokenView(View, frozen=True, kw_only=True):
    """A token, and when it ends."""

    token: str
    expires_at: str


def view(node: "Node", entry: Entry) -> UserView:
    """Return the user as others see it."""
    chain = node.registry.authority.user(entry.id)
    assert chain is not None
    return UserView(
        id=str(entry.id),
        class_name="user",
        revision=f"{entry.revision}-{chain.epoch}",
        created_at=rfc3339(ids.created_ms(entry.id)),
        home_node=ids.node_number(entry.id),
        name=chain.current.name,
        display_name=entry.attributes.display_name,
        public_key=chain.current.public_key.hex(),
        epoch=chain.epoch,
    )
