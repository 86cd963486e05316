"""A user's keys and tokens: passwords to keys, keys to tokens, and the end of both."""

import re
from typing import TYPE_CHECKING, Final

import trio

from peernode import access, sessions
from peernode.attributes import UserAttributes, encode_attributes
from peernode.calls import Answer, Call
from peernode.classes.user_bodies import (
    Delegate,
    Login,
    Revoke,
    Rotate,
    TokenView,
)
from peernode.permissions import EVERYTHING, Target, check_scopes
from peernode.problems import Problem, not_found
from peernode.registry import Entry
from peernode.sweeper import VAULT_EXPIRY_KIND
from peernode.timestamps import parse_rfc3339, rfc3339
from peernode.transactions import Transaction
from peernode.vault import Seeds
from storage import facts, ids, records, signing
from storage.places import Class, Place
from storage.store import Table
from storage.users import UserChain

if TYPE_CHECKING:
    from peernode.node import Node


SEED_SIZE_BYTES: Final = signing.SEED_SIZE_BYTES
_NODE: Final = re.compile(r"[0-9]{1,5}")


TOKENS_MAX: Final = 100_000
"""Tokens of one user whose rows are removed at once. Source: more than a user can make."""


def target(call: Call, user: int) -> Target:
    """Return what a user is to the caller."""
    return Target(
        class_name="user", id=user, own=call.actor.kind == "user" and call.actor.user == user
    )


def find(node: "Node", call: Call, verb: str) -> Entry:
    """Return the user of a call, if its caller may do `verb`; raises `Problem`."""
    access.require(call.actor, verb, target(call, call.object_id))
    entry = node.registry.get(Class.USER, call.object_id)
    if entry is None:
        raise not_found("user", str(call.object_id))
    return entry


def sign_own(
    node: "Node", keypair: signing.Keypair, place: Place, epoch: int, attributes: UserAttributes
) -> records.Record:
    """Return a user's record, signed with the user's own key."""
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


async def open_vault(node: "Node", call: Call, user: int, password: str) -> Seeds:
    """Return a user's seeds for its password; raises `Problem`, and counts tries."""
    if user and (home := ids.node_number(user)) != node.identity.number:
        raise Problem(
            "misdirected",
            "a password is good at the home node of its user only",
            hint="log in there, with this node in the audience",
            homes=[str(home)],
        )
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


def require_unchanged(transaction: Transaction, user: int, row: bytes | None) -> None:
    """Raise a `Problem` unless the user's vault is still `row`, which was opened before a wait.

    Two who change a vault at once would otherwise both start from the same key, and what the second
    writes would belong to a key that is no longer the user's.
    """
    if transaction.get(Table.VAULT, ids.key(user)) != row:
        raise Problem("conflict", "the user's key or password was changed meanwhile")


def require_current(chain: UserChain, keypair: signing.Keypair) -> None:
    """Raise a `Problem` unless a key from the vault is the user's now.

    It is not in a data directory that was put back from before the key was rotated.
    """
    if chain.public_key(chain.epoch) != keypair.public_key:
        raise Problem(
            "key_lost",
            "the key that this node keeps for the user was rotated since: its data directory is a "
            "copy from before, and what replaced the key is lost",
            hint="if it was rotated just now, log in again; else make another user",
        )


async def login(node: "Node", call: Call) -> Answer:
    """Answer with a token, for a password or for a certificate signed at home."""
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
    seeds = await open_vault(node, call, call.object_id, body.password)
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
    require_current(chain, keypair)
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


def forget_tokens(transaction: Transaction, user: int) -> None:
    """Have no token of `user` open its key any more."""
    prefix = ids.key(user)
    for row, _ in transaction.scan(Table.VAULT, prefix + b"\0", prefix + b"\xff" * 9, TOKENS_MAX):
        transaction.delete(Table.VAULT, row)


def _audience(node: "Node", audience: list[str] | None) -> list[bytes]:
    keys = []
    for text in [str(node.identity.number)] if audience is None else audience:
        known = node.registry.authority.node(int(text)) if _NODE.fullmatch(text) else None
        if known is None:
            raise Problem("invalid_field", f"audience: there is no node {text!r}", field="audience")
        keys.append(known.public_key)
    return keys


async def delegate(node: "Node", call: Call) -> Answer:
    """Answer with another token, for the one the call is made with."""
    body: Delegate = call.body
    entry = find(node, call, "delegate")
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


async def rotate(node: "Node", call: Call) -> Answer:
    """Replace a user's key and answer with a token by the new one."""
    body: Rotate = call.body
    entry = find(node, call, "rotate")
    since_ms = _since_ms(body)
    opened = node.vault.row(entry.id)
    seeds = await open_vault(node, call, entry.id, body.password)
    fresh = Seeds(seeds.next_key, node.entropy.token_bytes(SEED_SIZE_BYTES))
    vault_row = await node.slowly(node.vault.seal, body.password, fresh)
    keypair = signing.Keypair.from_seed(fresh.key)
    next_key = signing.Keypair.from_seed(fresh.next_key)
    carry = prepared = None
    if body.strict:
        carry = node.carrying.plan(entry.id, keypair, since_ms)
        prepared = await node.carrying.prepare(carry)

    def change(transaction: Transaction) -> None:
        chain = node.registry.user(entry.id)
        if chain is None:
            raise not_found("user", str(entry.id))
        require_current(chain, signing.Keypair.from_seed(seeds.key))
        require_unchanged(transaction, entry.id, opened)
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
        record = sign_own(node, keypair, entry.place, chain.epoch + 1, entry.attributes)
        node.registry.write(transaction, record, born=True)
        transaction.put(*node.vault.put(entry.id, vault_row))
        forget_tokens(transaction, entry.id)
        if carry is not None and prepared is not None:
            node.carrying.begin(transaction, carry, prepared)

    await node.transactions.run(change)
    await node.carrying.finished(entry.id)
    return await _issue(node, entry.id, fresh, None, None, None)


def _since_ms(body: Rotate) -> int | None:
    """Return since when nothing is carried over, in ms; raises a `Problem` that names the field."""
    if body.since is None:
        return None
    if not body.strict:
        raise Problem("invalid_field", "since: goes with strict", field="since")
    try:
        return parse_rfc3339(body.since)
    except ValueError:
        raise Problem(
            "invalid_field", "since: a time such as 2026-11-30T12:00:00Z", field="since"
        ) from None


async def revoke(node: "Node", call: Call) -> Answer:
    """Refuse a token from now on."""
    body: Revoke = call.body
    entry = find(node, call, "revoke")
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
