"""Users: a developer's or requester's identity, an Ed25519 key that lives at its home node.

A password never leaves the home node: it opens the vault that holds the user's key, and what a
login gives out is a certificate by that key, good at the nodes it names.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import trio

from peernode import access, idempotency, invites, listing, names, sessions
from peernode.api import require_match
from peernode.calls import Answer, Body, Call, ObjectClass, ObjectView, Operation, View
from peernode.classes.project import WAIT_CHANGE, DisplayName
from peernode.permissions import EVERYTHING, Actor, Target, check_scopes
from peernode.problems import Problem, not_found
from peernode.registry import Entry, UserAttributes, encode_attributes, place_of
from peernode.sweeper import VAULT_EXPIRY_KIND
from peernode.timestamps import rfc3339
from peernode.transactions import Transaction
from peernode.vault import Seeds
from storage import facts, ids, records, signing
from storage.places import Class, Place
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

SEED_SIZE_BYTES: Final = signing.SEED_SIZE_BYTES
TOKENS_MAX: Final = 100_000
"""Tokens of one user whose rows are removed at once. Source: more than a user can make."""
Password = Annotated[str, msgspec.Meta(max_length=1024)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)]


class Create(Body, frozen=True, kw_only=True):
    """A user to be: with a password, which makes this node the keeper of its key."""

    name: str
    password: Password | None = None
    public_key: str | None = None
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
    """A new key in place of the present one, which may be stolen if `strict`."""

    password: Password
    strict: bool = False


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


def _target(call: Call, user: int) -> Target:
    return Target(
        class_name="user", id=user, own=call.actor.kind == "user" and call.actor.user == user
    )


def _find(node: "Node", call: Call, verb: str) -> Entry:
    access.require(call.actor, verb, _target(call, call.object_id))
    entry = node.registry.get(Class.USER, call.object_id)
    if entry is None:
        raise not_found("user", str(call.object_id))
    return entry


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
    if body.public_key is not None or body.password is None:
        raise Problem(
            "invalid_field",
            "password: a user is made with a password",
            field="password" if body.public_key is None else "public_key",
            hint="a key kept elsewhere needs its own signature under a fact that names the new "
            "id, which this version of the API has no call for",
        )
    seeds = Seeds(
        node.entropy.token_bytes(SEED_SIZE_BYTES), node.entropy.token_bytes(SEED_SIZE_BYTES)
    )
    vault_row = await node.slowly(node.vault.seal, body.password, seeds)
    new = node.ids.next()
    claim = idempotency.claim(call.header(b"idempotency-key"), 0, "user", call.raw)

    def make(transaction: Transaction) -> int:
        made = idempotency.take(transaction, claim, new, node.clock.wall_ms())
        if made != new:
            return made
        if node.config.signup == "invite" and not operator and body.invite is not None:
            invites.redeem(transaction, body.invite, node.identity, node.clock)
        names.claim(transaction, Class.USER, node.identity.number, name, new)
        _write_user(node, transaction, new, name, seeds, body.display_name)
        transaction.put(*node.vault.put(new, vault_row))
        return new

    user = await node.transactions.run(make)
    entry = node.registry.get(Class.USER, user)
    assert entry is not None
    return Answer(status=201, value=view(node, entry), headers=((b"location", b"/user/%d" % user),))


def _write_user(
    node: "Node", transaction: Transaction, user: int, name: str, seeds: Seeds, display_name: str
) -> None:
    """Write the facts and the record that make a user."""
    keypair = signing.Keypair.from_seed(seeds.key)
    next_key = signing.Keypair.from_seed(seeds.next_key)
    mesh, at = node.identity.mesh, node.timestamps.tick()
    statement = facts.UserKey(
        user,
        0,
        name,
        keypair.public_key,
        facts.key_hash(next_key.public_key),
        node.identity.number,
        False,
        at,
    )
    fact = facts.assemble(
        statement,
        facts.sign(statement, keypair, mesh),
        mesh,
        home=facts.sign_home(statement, node.identity.keypair, mesh),
    )
    node.registry.add_fact(transaction, fact)
    record = _sign_own(node, keypair, _place(user), 0, UserAttributes(display_name=display_name))
    node.registry.write(transaction, record, born=True)


def _place(user: int) -> Place:
    return place_of(Class.USER, user, Class.USER, user)


def _sign_own(
    node: "Node", keypair: signing.Keypair, place: Place, epoch: int, attributes: UserAttributes
) -> records.Record:
    at = node.timestamps.tick()
    body = records.Body(
        mesh=node.identity.mesh[:8],
        place=place,
        author=place.id,
        epoch=epoch,
        hlc=at,
        signed_at=at,
        payload=encode_attributes(attributes),
    )
    return records.sign_record(keypair, node.identity.mesh, body)


async def _get(node: "Node", call: Call) -> Answer:
    _find(node, call, "get")
    await node.wait_changed(call)
    return Answer(value=view(node, _find(node, call, "get")))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    require_match(call, view(node, _find(node, call, "set")).revision)
    vault_row = None
    if body.password is not None:
        if body.old_password is None:
            raise Problem(
                "invalid_field",
                "old_password: a new password needs the old one",
                field="old_password",
            )
        seeds = await _open_vault(node, call, call.object_id, body.old_password)
        vault_row = await node.slowly(node.vault.seal, body.password, seeds)

    def change(transaction: Transaction) -> None:
        entry = _find(node, call, "set")
        if vault_row is not None:
            transaction.put(*node.vault.put(entry.id, vault_row))
        if body.display_name is not None:
            attributes = UserAttributes(display_name=body.display_name)
            node.registry.put(transaction, call.actor, entry.place, attributes)

    await node.transactions.run(change)
    return Answer(value=view(node, _find(node, call, "get")))


async def _delete(node: "Node", call: Call) -> Answer:
    entry = _find(node, call, "delete")
    require_match(call, view(node, entry).revision)
    owned = [
        project
        for project in node.registry.projects_of(entry.id)
        if node.registry.authority.owner(project) == entry.id
    ]
    if owned:
        raise Problem("conflict", "the user owns projects", hint="delete its projects first")

    def body(transaction: Transaction) -> None:
        current = _find(node, call, "delete")
        names.release(transaction, Class.USER, node.identity.number, node.user_name(current.id))
        node.registry.kill(transaction, call.actor, current.place)
        transaction.delete(Table.VAULT, ids.key(current.id))
        _forget_tokens(transaction, current.id)

    await node.transactions.run(body)
    return Answer(status=204)


async def _open_vault(node: "Node", call: Call, user: int, password: str) -> Seeds:
    """Return a user's seeds for its password; raises `Problem`, and counts tries."""
    known = node.registry.get(Class.USER, user) is not None
    row = node.vault.row(user) if known else None
    # A name that nobody has is counted like a user: it must not be told apart from one.
    who = str(user) if known else call.id_text
    node.admit_login(call.client, who)
    try:
        seeds = await node.slowly(node.vault.open, row, password)
    except Problem as problem:
        if problem.code == "wrong_credentials":
            node.logins.failed(who, trio.current_time())
        raise
    node.logins.succeeded(who)
    return seeds


async def _login(node: "Node", call: Call) -> Answer:
    body: Login = call.body
    if body.certificate is not None and body.secret is not None:
        node.admit_login(call.client, "")
        session = node.sessions.accept(body.certificate, body.secret)
        if session.actor.user != call.object_id:
            raise Problem("wrong_credentials", "the certificate is another user's")
        return Answer(value=TokenView(token=session.token, expires_at=rfc3339(session.expires_ms)))
    if body.password is None:
        raise Problem(
            "invalid_field",
            "password: a password is needed, or a certificate and its secret",
            field="password",
        )
    seeds = await _open_vault(node, call, call.object_id, body.password)
    return await _issue(node, call.object_id, seeds, body.audience, body.ttl_s, body.scopes)


async def _issue(
    node: "Node",
    user: int,
    seeds: Seeds,
    audience: list[str] | None,
    ttl_s: float | None,
    scopes: list[str] | None,
) -> Answer:
    chain = node.registry.user(user)
    if chain is None:
        raise not_found("user", str(user))
    keypair = signing.Keypair.from_seed(seeds.key)
    token, expires_ms = sessions.issue(
        user,
        chain.epoch,
        keypair,
        _audience(node, audience),
        mesh=node.identity.mesh,
        clock=node.clock,
        entropy=node.entropy,
        scopes=EVERYTHING if scopes is None else scopes,
        ttl_s=sessions.TTL_DEFAULT_S if ttl_s is None else ttl_s,
    )
    certificate, secret = sessions.parse(token.encode())
    place = ids.key(user) + certificate.terms.jti
    row = node.vault.seal_for_token(secret, seeds)

    def keep(transaction: Transaction) -> None:
        transaction.put(Table.VAULT, place, row)
        due = expires_ms.to_bytes(8, "big") + VAULT_EXPIRY_KIND + place
        transaction.put(Table.EXPIRIES, due, b"")

    # The token's secret can open the key from now on, so that the token can be delegated.
    await node.transactions.run(keep)
    return Answer(value=TokenView(token=token, expires_at=rfc3339(expires_ms)))


def _forget_tokens(transaction: Transaction, user: int) -> None:
    """Have no token of `user` open its key any more."""
    prefix = ids.key(user)
    for row, _ in transaction.scan(Table.VAULT, prefix + b"\0", prefix + b"\xff" * 9, TOKENS_MAX):
        transaction.delete(Table.VAULT, row)


def _audience(node: "Node", audience: list[str] | None) -> list[bytes]:
    keys = []
    for text in [str(node.identity.number)] if audience is None else audience:
        known = node.registry.authority.node(int(text)) if text.isdigit() else None
        if known is None:
            raise Problem("invalid_field", f"audience: there is no node {text!r}", field="audience")
        keys.append(known.public_key)
    return keys


async def _delegate(node: "Node", call: Call) -> Answer:
    body: Delegate = call.body
    entry = _find(node, call, "delegate")
    certificate, secret = sessions.parse(_bearer(call))
    row = node.store.get(Table.VAULT, ids.key(entry.id) + certificate.terms.jti)
    if row is None:
        raise Problem(
            "misdirected",
            "only the home node at which this token was made can make another",
            homes=[str(ids.node_number(entry.id))],
        )
    seeds = node.vault.open_for_token(row, secret)
    scopes = list(call.actor.scopes) if body.scopes is None else body.scopes
    check_scopes(scopes, call.actor.scopes)
    return await _issue(node, entry.id, seeds, body.audience, body.ttl_s, scopes)


def _bearer(call: Call) -> bytes:
    """Return the token that the call is made with."""
    return (call.header(b"authorization") or b"").partition(b" ")[2].strip()


async def _rotate(node: "Node", call: Call) -> Answer:
    body: Rotate = call.body
    entry = _find(node, call, "rotate")
    seeds = await _open_vault(node, call, entry.id, body.password)
    fresh = Seeds(seeds.next_key, node.entropy.token_bytes(SEED_SIZE_BYTES))
    vault_row = await node.slowly(node.vault.seal, body.password, fresh)
    keypair = signing.Keypair.from_seed(fresh.key)
    next_key = signing.Keypair.from_seed(fresh.next_key)

    def change(transaction: Transaction) -> None:
        chain = node.registry.user(entry.id)
        if chain is None:
            raise not_found("user", str(entry.id))
        # Two rotations at once would both follow one epoch: the vault's row is what they race for.
        transaction.get(Table.VAULT, ids.key(entry.id))
        statement = facts.UserKey(
            entry.id,
            chain.epoch + 1,
            chain.current.name,
            keypair.public_key,
            facts.key_hash(next_key.public_key),
            chain.current.home,
            body.strict,
            node.timestamps.tick(),
        )
        seal = facts.sign(statement, keypair, node.identity.mesh)
        node.registry.add_fact(transaction, facts.assemble(statement, seal, node.identity.mesh))
        record = _sign_own(node, keypair, entry.place, chain.epoch + 1, entry.attributes)
        node.registry.write(transaction, record, born=True)
        transaction.put(*node.vault.put(entry.id, vault_row))
        _forget_tokens(transaction, entry.id)

    await node.transactions.run(change)
    return await _issue(node, entry.id, fresh, None, None, None)


async def _revoke(node: "Node", call: Call) -> Answer:
    body: Revoke = call.body
    entry = _find(node, call, "revoke")
    token = _bearer(call) if body.token is None else body.token.encode("utf-8", "replace")
    certificate = node.sessions.read(token)
    if certificate.terms.user != entry.id:
        raise Problem("forbidden", "this is another user's token", field="token")

    def change(transaction: Transaction) -> None:
        transaction.put(*node.sessions.revocation(certificate.terms))
        transaction.delete(Table.VAULT, ids.key(entry.id) + certificate.terms.jti)

    await node.transactions.run(change)
    node.sessions.revoke(certificate.terms)
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
        problems=("not_found", "wrong_credentials", "precondition_failed"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Delete yourself for ever",
        status=204,
        problems=("not_found", "conflict", "precondition_failed"),
    ),
    methods={
        "login": Operation(
            handler=_login,
            summary="Get a token for a password",
            body=Login,
            answer=TokenView,
            problems=("wrong_credentials", "rate_limited", "misdirected"),
            hides_unknown=True,
        ),
        "delegate": Operation(
            handler=_delegate,
            summary="Get another token, for other nodes or less scope",
            body=Delegate,
            answer=TokenView,
            problems=("wrong_credentials", "rate_limited"),
        ),
        "rotate": Operation(
            handler=_rotate,
            summary="Replace your key; tokens so far end",
            body=Rotate,
            answer=TokenView,
            problems=("wrong_credentials", "rate_limited"),
        ),
        "revoke": Operation(
            handler=_revoke,
            summary="Revoke a token",
            body=Revoke,
            status=204,
            problems=("forbidden",),
        ),
    },
    named=lambda node, text: node.find_user(text),
)
