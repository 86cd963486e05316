"""Users: a developer's or requester's identity, an Ed25519 key that lives at its home node.

A password never leaves the home node: it opens the vault that holds the user's key, and what a
login gives out is a certificate by that key, good at the nodes it names.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from peernode import access, idempotency, invites, listing, names
from peernode.api import require_match
from peernode.attributes import UserAttributes
from peernode.calls import Answer, Call, ObjectClass, Operation
from peernode.classes.job import KEY
from peernode.classes.project import WAIT_CHANGE
from peernode.classes.user_bodies import (
    Create,
    Delegate,
    Login,
    Revoke,
    Rotate,
    Set,
    TokenView,
    UserView,
    view,
)
from peernode.classes.user_tokens import (
    SEED_SIZE_BYTES,
    delegate,
    find,
    forget_tokens,
    login,
    open_vault,
    require_unchanged,
    revoke,
    rotate,
    sign_own,
)
from peernode.permissions import Actor, Target
from peernode.problems import Problem
from peernode.registry import place_of
from peernode.transactions import Transaction
from peernode.vault import Seeds
from storage import facts, ids, signing
from storage.places import Class, Place
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node


async def _create(node: "Node", call: Call) -> Answer:
    body: Create = call.body
    node.admit_login(call.client, "")
    name = names.check(body.name)
    operator = call.actor.kind == "operator"
    if node.config.signup == "invite" and not operator and body.invite is None:
        raise Problem(
            "forbidden",
            "this node takes new users by invite only",
            field="invite",
            hint="ask the operator for an invite, or have the node run with --signup open",
        )
    if (body.public_key is None) == (body.password is None):
        raise Problem(
            "invalid_field", "password: either a password or a public_key", field="password"
        )
    seeds = vault_row = None
    if body.password is not None:
        seeds = Seeds(
            node.entropy.token_bytes(SEED_SIZE_BYTES), node.entropy.token_bytes(SEED_SIZE_BYTES)
        )
        vault_row = await node.slowly(node.vault.seal, body.password, seeds)
    elif body.next_key_hash is not None:
        _hex(body.next_key_hash, "next_key_hash")
    new = node.ids.next()
    # What is kept must be of no use for guessing the password that stands in the body.
    keyed = hashlib.blake2b(call.raw, key=node.identity.pepper).digest()
    claim = idempotency.claim(call.header(b"idempotency-key"), 0, "user", keyed)

    def make(transaction: Transaction) -> int:
        made = idempotency.take(transaction, claim, new, node.clock.wall_ms())
        if made != new:
            return made
        _require_room(node)
        if node.config.signup == "invite" and not operator and body.invite is not None:
            invites.redeem(transaction, body.invite, node.identity, node.clock)
        names.claim(transaction, Class.USER, node.identity.number, name, new)
        node.registry.add_fact(transaction, _first_key(node, new, body, seeds))
        if seeds is not None and vault_row is not None:
            transaction.put(*node.vault.put(new, vault_row))
            if body.display_name:
                keypair = signing.Keypair.from_seed(seeds.key)
                attributes = UserAttributes(display_name=body.display_name)
                record = sign_own(node, keypair, _place(new), 0, attributes)
                node.registry.write(transaction, record, born=True)
        return new

    user = await node.transactions.run(make)
    entry = node.registry.get(Class.USER, user)
    assert entry is not None
    return Answer(status=201, value=view(node, entry), headers=((b"location", b"/user/%d" % user),))


def _require_room(node: "Node") -> None:
    """Raise a `Problem` if this node has made as many users as it may."""
    authority, number = node.registry.authority, node.identity.number
    own = authority.node(number)
    users_max = None if own is None else own.users_max
    if users_max is not None and authority.users_made_at(number) >= users_max:
        raise Problem(
            "quota_exceeded",
            f"users_max: node {number} may make {users_max} users, and has",
            hint="make it at another node of the mesh",
            limit=users_max,
        )


def _first_key(node: "Node", user: int, body: Create, seeds: Seeds | None) -> facts.Fact:
    """Return the fact that makes a user: by its own key, or vouched for by this node."""
    mesh, own = node.identity.mesh, None
    if seeds is not None:
        own = signing.Keypair.from_seed(seeds.key)
        public_key = own.public_key
        next_hash = facts.key_hash(signing.Keypair.from_seed(seeds.next_key).public_key)
    else:
        public_key = _hex(body.public_key or "", "public_key")
        next_hash = _hex(body.next_key_hash or "00" * 32, "next_key_hash")
    statement = facts.UserKey(
        user,
        0,
        body.name,
        public_key,
        next_hash,
        node.identity.number,
        False,
        node.timestamps.tick(),
    )
    seal = facts.sign(statement, own or node.identity.keypair, mesh)
    return facts.assemble(
        statement, seal, mesh, home=facts.sign_home(statement, node.identity.keypair, mesh)
    )


def _hex(text: str, field: str) -> bytes:
    """Return 32 bytes given in hex; raises a `Problem` that names the field."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != signing.PUBLIC_KEY_SIZE_BYTES:
        raise Problem("invalid_field", f"{field}: 64 hexadecimal digits", field=field)
    return data


def _place(user: int) -> Place:
    return place_of(Class.USER, user, Class.USER, user)


async def _get(node: "Node", call: Call) -> Answer:
    find(node, call, "get")
    await node.wait_changed(call)
    return Answer(value=view(node, find(node, call, "get")))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    require_match(call, view(node, find(node, call, "set")).revision)
    opened, vault_row = node.vault.row(call.object_id), None
    if body.password is not None:
        if body.old_password is None:
            raise Problem(
                "invalid_field",
                "old_password: a new password needs the old one",
                field="old_password",
            )
        seeds = await open_vault(node, call, call.object_id, body.old_password)
        vault_row = await node.slowly(node.vault.seal, body.password, seeds)

    def change(transaction: Transaction) -> None:
        entry = find(node, call, "set")
        require_match(call, view(node, entry).revision)
        if vault_row is not None:
            require_unchanged(transaction, entry.id, opened)
            transaction.put(*node.vault.put(entry.id, vault_row))
        if body.display_name is not None:
            attributes = UserAttributes(display_name=body.display_name)
            node.registry.put(transaction, call.actor, entry.place, attributes)

    await node.transactions.run(change)
    return Answer(value=view(node, find(node, call, "get")))


async def _delete(node: "Node", call: Call) -> Answer:
    entry = find(node, call, "delete")
    require_match(call, view(node, entry).revision)
    owned = [
        project
        for project in node.registry.projects_of(entry.id)
        if node.registry.authority.owner(project) == entry.id
    ]
    if owned:
        raise Problem("conflict", "the user owns projects", hint="delete its projects first")

    def body(transaction: Transaction) -> None:
        current = find(node, call, "delete")
        name = node.user_name(current.id)
        names.release(transaction, Class.USER, node.identity.number, name, current.id)
        node.registry.kill(transaction, call.actor, current.place)
        transaction.delete(Table.VAULT, ids.key(current.id))
        forget_tokens(transaction, current.id)

    await node.transactions.run(body)
    return Answer(status=204)


def _candidates(node: "Node", actor: Actor, before: int) -> Iterator[UserView]:
    for user in [actor.user] if actor.kind == "user" else node.registry.all(Class.USER):
        entry = node.registry.get(Class.USER, user)
        if entry is not None and user < before:
            yield view(node, entry)


async def _list(node: "Node", call: Call) -> Answer:
    if call.actor.kind not in ("user", "operator"):
        access.require(call.actor, "list", Target(class_name="user"))
    return await listing.page(call, UserView, lambda before: _candidates(node, call.actor, before))


USER = ObjectClass(
    name="user",
    summary="A developer's or requester's identity, with a key that lives at its home node.",
    view=UserView,
    list=Operation(handler=_list, summary="List yourself (the operator: all users)"),
    create=Operation(
        handler=_create,
        summary="Make a user",
        body=Create,
        answer=UserView,
        status=201,
        problems=("name_taken", "invalid_field", "forbidden", "rate_limited"),
        parameters=(KEY,),
    ),
    get=Operation(
        handler=_get,
        summary="Read a user, by id or by its name at its home node",
        answer=UserView,
        parameters=(WAIT_CHANGE,),
        problems=("not_found",),
    ),
    set=Operation(
        handler=_set,
        summary="Change your display name or password",
        body=Set,
        answer=UserView,
        problems=("not_found", "wrong_credentials", "precondition_failed", "conflict"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Delete yourself for ever",
        status=204,
        problems=("not_found", "conflict", "precondition_failed"),
    ),
    methods={
        "login": Operation(
            handler=login,
            summary="Get a token for a password",
            body=Login,
            answer=TokenView,
            problems=("wrong_credentials", "rate_limited", "misdirected"),
            hides_unknown=True,
        ),
        "delegate": Operation(
            handler=delegate,
            summary="Get another token, for other nodes or less scope",
            body=Delegate,
            answer=TokenView,
            problems=("wrong_credentials", "rate_limited"),
        ),
        "rotate": Operation(
            handler=rotate,
            summary="Replace your key; tokens so far end",
            body=Rotate,
            answer=TokenView,
            problems=("wrong_credentials", "rate_limited", "conflict"),
        ),
        "revoke": Operation(
            handler=revoke,
            summary="Revoke a token",
            body=Revoke,
            status=204,
            problems=("forbidden",),
        ),
    },
    named=lambda node, text: node.find_user(text),
)
