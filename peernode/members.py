"""Membership as facts: what a user is in a project, granted and revoked."""

from typing import TYPE_CHECKING

from peernode.permissions import Actor
from peernode.transactions import Transaction
from storage import facts
from storage.certificates import decode_certificate
from storage.facts import Role

if TYPE_CHECKING:
    from peernode.node import Node


def grant(
    node: "Node", transaction: Transaction, actor: Actor, project: int, user: int, role: Role
) -> None:
    """Write that `actor` gives `user` a role."""
    certificate = decode_certificate(actor.certificate)
    authority = node.registry.authority
    own = authority.role(project, actor.user)
    statement = facts.Member(
        project,
        user,
        role,
        authority.last_grant_n(project, user) + 1,
        actor.user,
        certificate.terms.epoch,
        own[1] if own else 0,
        node.timestamps.tick(),
    )
    node.registry.add_fact(transaction, node.seal(statement, certificate))


def revoke(node: "Node", transaction: Transaction, actor: Actor, project: int, user: int) -> None:
    """Write that `user`'s membership is over."""
    certificate = decode_certificate(actor.certificate)
    authority = node.registry.authority
    own = authority.role(project, actor.user)
    statement = facts.MemberRevoke(
        project,
        user,
        authority.last_grant_n(project, user),
        actor.user,
        certificate.terms.epoch,
        own[1] if own else 0,
        node.timestamps.tick(),
    )
    node.registry.add_fact(transaction, node.seal(statement, certificate))
