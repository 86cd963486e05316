"""Who is in the mesh: letting nodes in, shutting them out, and asking to be let in.

A node is a member while its `NodeGrant` stands (`storage.nodes`); nothing else is asked, neither
where a peer calls from nor who invited it.  Every connection and every handler asks `is_member`.

Letting in is the one thing that strangers may ask for, so:

* how often they may is limited for all of them together, since a stranger's key costs nothing; a
  wrong proof costs one MAC, compared in constant time, and all wrong ones get the same answer;
* one batch burns the invite and writes the grant, so that neither is ever there without the other,
  and nobody sees the grant before both are durable;
* a lost answer can be had again, with the same key only: the burnt row holds the key that came.

An admission does not run out by itself, since nothing would renew it: eviction ends it.  Who may
evict is who could have admitted: a node whose block holds the number, so the founder may evict all.

What it leaves out: connections (`peering`), and how facts travel.
"""

import hmac
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from peernode import join_messages, mesh_invites, node_numbers
from peernode.address_book import AddressBook
from peernode.join_messages import Admitted, Answer, Ask, Refused, Whereabouts
from peernode.libp2p_address import parse_address
from peernode.mesh_invites import Invite
from peernode.problems import Problem
from peernode.rate_limits import Buckets
from peernode.transactions import Transaction
from storage import facts, signing
from storage.authority import Authority
from storage.errors import InvalidData, StoreError
from storage.facts import Fact, NodeGrant, NodeRevoke
from storage.nodes import Node as Member
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

ASKED_RATE_PER_S: Final = 20.0
"""Requests to join from all strangers together. Source: guess; a rack switched on at once."""
ASKED_BURST: Final = 40
ADMITTING_MAX: Final = 16
"""Admissions that wait for one another. Source: guess; each takes one commit."""
USERS_MAX_DEFAULT: Final = 100_000
"""Most users that a new node may make. Source: guess; a tenth of the records a mesh is made for."""
FOR_EVER_MS: Final = (1 << 47) - 1
BURNT: Final = b"mesh-invite:"
"""Rows of `Table.META`: this + an invite's name -> the key (32) that it let in."""
FACTS_BUDGET_BYTES: Final = join_messages.ANSWER_SIZE_MAX_BYTES // 2
"""How much of an answer facts may take. Source: formula; the addresses of 128 nodes fit beside."""


class Membership:
    """The mesh as this node's operator, its peers and strangers ask about it."""

    def __init__(self, node: "Node") -> None:
        self.book = AddressBook(node.store)
        self._node = node
        self._asked = Buckets(ASKED_RATE_PER_S, ASKED_BURST, 1)
        self._turn = trio.Lock()

    def is_member(self, public_key: bytes) -> bool:
        """Tell whether the node of this key is in the mesh, as far as is known here and now."""
        found = self._authority.node_by_key(public_key)
        return found is not None and self._stands(found)

    def find(self, text: str) -> Member:
        """Return the node whose number or peer id is `text`, or raise the `Problem`."""
        found = None
        if text.isascii() and text.isdigit() and len(text) < 6:
            found = self._authority.node(int(text))
        elif not text.isdigit():
            with suppress(InvalidData):
                found = self._authority.node_by_key(signing.parse_peer_id(text))
        if found is None:
            raise Problem(
                "not_found",
                f"node: there is no node {text[:80]!r} in this mesh",
                hint="`peernode peers` shows numbers and peer ids",
                field="node",
            )
        return found

    def members(self) -> list[Member]:
        """Return the nodes in the mesh, this one too, by number."""
        return [node for node in self._authority.nodes() if self._stands(node)]

    def knows_others(self) -> bool:
        """Tell whether there are other members, and addresses to look for them at."""
        own = self._node.identity.keypair.public_key
        return any(
            node.public_key != own and self.book.find(node.public_key) for node in self.members()
        )

    # --- inviting -------------------------------------------------------------------------

    def invite(self, addresses: tuple[str, ...], ttl_s: float) -> Invite:
        """Return a new invite that names these addresses of this node.

        Raises a `Problem`, or `InvalidData` for an address that is none.
        """
        self._next_number()
        for address in addresses:
            parse_address(address)
        if not addresses:
            raise Problem(
                "conflict",
                "other nodes cannot reach this one",
                hint="start it with --p2p /ip4/ADDRESS/tcp/PORT",
            )
        node = self._node
        return mesh_invites.make(
            node.identity.operator_token,
            node.identity.mesh,
            node.identity.keypair.public_key,
            addresses[: mesh_invites.ADDRESSES_MAX],
            node.entropy,
            node.clock,
            ttl_s,
            mesh_invites.generation(node.store),
        )

    async def answer_join(self, peer: str, frame: bytes) -> bytes:
        """Return the answer to a stranger's request to join; `peer` has proved its key."""
        await self._node.lives.started.wait()
        if self._asked.take("", trio.current_time()):
            answer: Answer = Refused("too many ask to join; try again in a moment", again=True)
        elif not self._node.lives.opened.is_set():
            answer = Refused("the inviting node finds out what it has done; try again", again=True)
        elif self._turn.statistics().tasks_waiting >= ADMITTING_MAX:
            answer = Refused("others are being let in; try again in a moment", again=True)
        else:
            answer = await self._answer_join(peer, frame)
        if isinstance(answer, Refused) and not answer.again:
            self._node.log.warning("join refused", peer_id=peer, detail=answer.detail)
        return join_messages.encode(answer)

    async def _answer_join(self, peer: str, frame: bytes) -> Answer:
        try:
            ask = join_messages.decode_ask(frame)
            joiner = signing.parse_peer_id(peer)
        except InvalidData:
            return Refused("this is not a request to join", again=False)
        if not self._is_proved(ask, joiner):
            return Refused("this is not an invite of this node", again=False)
        try:
            async with self._turn:
                number = await self._node.transactions.run(lambda t: self._admit(t, ask, joiner))
        except Problem as problem:
            return Refused(problem.detail[: join_messages.DETAIL_LENGTH_MAX], again=False)
        except StoreError:
            return Refused("the inviting node cannot write now", again=True)
        if number is not None:
            self._node.log.info("node admitted", node_id=number, peer_id=peer)
        genesis, found = self._facts_for(joiner)
        return Admitted(genesis, found, self.whereabouts(joiner))

    def _is_proved(self, ask: Ask, joiner: bytes) -> bool:
        identity = self._node.identity
        secret = mesh_invites.secret_of(
            identity.operator_token,
            ask.invite_name,
            ask.expires_ms,
            mesh_invites.generation(self._node.store),
        )
        key = identity.keypair.public_key
        return hmac.compare_digest(
            mesh_invites.proof(secret, identity.mesh, key, joiner), ask.proof
        )

    def _admit(self, transaction: Transaction, ask: Ask, joiner: bytes) -> int | None:
        """Burn the invite and admit the node; return its number, or `None` if that was done before.

        Raises a `Problem`.
        """
        row = BURNT + ask.invite_name
        burnt = transaction.get(Table.META, row)
        if burnt is not None and burnt != joiner:
            raise Problem("forbidden", "the invite was used before")
        if burnt is None and ask.expires_ms < self._node.clock.wall_ms():
            raise Problem("forbidden", "the invite has expired")
        known = self._authority.node_by_key(joiner)
        if known is not None and not self._stands(known):
            raise Problem("forbidden", "this node was evicted; a fresh --data has a new key")
        if burnt is not None:
            return None
        if known is not None:
            raise Problem("conflict", f"this node is in the mesh already, as node {known.number}")
        number, block = self._next_number()
        grant = NodeGrant(
            number,
            joiner,
            block,
            (),
            USERS_MAX_DEFAULT,
            0,
            FOR_EVER_MS,
            self._node.identity.number,
            self._node.timestamps.tick(),
        )
        transaction.put(Table.META, row, joiner)
        self._node.registry.add_fact(transaction, self._node.seal(grant))
        return number

    def _next_number(self) -> tuple[int, tuple[int, int] | None]:
        own = self._authority.node(self._node.identity.number)
        if own is None or not self._stands(own):
            raise Problem("forbidden", "this node was evicted, and admits nobody")
        found = node_numbers.next_number(own.block, self._authority) if own.block else None
        if found is None:
            raise Problem(
                "forbidden",
                "this node has no node numbers left to give",
                hint="ask at another node of the mesh: most hold numbers of their own",
            )
        return found

    def _facts_for(self, joiner: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        """Return the genesis and facts of nodes: the chain to `joiner`, then others as they fit."""
        chain: dict[bytes, Fact] = {}
        others: list[Fact] = []
        above = {node.number for node in self._chain(joiner)}
        for fact in self._authority:
            match fact.statement:
                case NodeGrant(number=number) if number in above:
                    chain[fact.id] = fact
                case NodeGrant() | NodeRevoke():
                    others.append(fact)
                case _:
                    pass
        return self._node.identity.genesis.encoded, _fitting([*chain.values(), *others])

    def _chain(self, public_key: bytes) -> Iterator[Member]:
        node = self._authority.node_by_key(public_key)
        while node is not None:
            yield node
            node = self._authority.node(node.by) if node.by < node.number else None

    def whereabouts(self, but: bytes) -> tuple[Whereabouts, ...]:
        """Return where members may be reached, all but one, in the order of their numbers."""
        found = [
            Whereabouts(node.public_key, addresses)
            for node in self.members()
            if node.public_key != but and (addresses := self.book.find(node.public_key))
        ]
        return tuple(found[: join_messages.KNOWN_MAX])

    # --- evicting -------------------------------------------------------------------------

    async def evict(self, text: str, reason: str, *, distrust: bool) -> Member:
        """Shut a node out of the mesh, wherever that becomes known; raises a `Problem`."""
        found = self.find(text)
        own = self._authority.node(self._node.identity.number)
        if own is None or not self._stands(own) or not own.admits(found.number):
            raise Problem(
                "forbidden",
                f"node: node {found.number} is evicted by the node that admitted it, or the "
                "founder, and this is neither",
                hint=f"run this at node {found.by} or node {facts.FOUNDER_NUMBER}",
                field="node",
            )
        statement = NodeRevoke(
            found.number,
            found.public_key,
            distrust,
            reason,
            own.number,
            self._node.timestamps.tick(),
        )
        fact = self._node.seal(statement)
        if found.is_member or (distrust and not found.is_distrusted):
            await self._node.transactions.run(
                lambda transaction: self._node.registry.add_fact(transaction, fact)
            )
            self._node.log.info("node evicted", node_id=found.number, reason=reason)
        self.book.forget(found.public_key)
        return self.find(str(found.number))

    @property
    def _authority(self) -> Authority:
        return self._node.registry.authority

    def _stands(self, node: Member) -> bool:
        return node.is_member and self._node.clock.wall_ms() < node.expires_ms


def _fitting(found: Iterable[Fact]) -> tuple[bytes, ...]:
    size, kept = 0, []
    for fact in found:
        size += len(fact.encoded) + 8
        if size > FACTS_BUDGET_BYTES:
            break
        kept.append(fact.encoded)
    return tuple(kept)
