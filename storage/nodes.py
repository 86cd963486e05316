"""Level 1 of authority: which node has which number, and which of them are members.

A node is admitted, and evicted, by a node with a *lower* number whose block contains its number.
The founder is node 1 and its block is all the others, so it may evict anyone.  Since every answer
about a number asks about lower numbers only, there are no cycles and no mutual evictions.

An admission is *known* when its grants lead back to the genesis; it *stands* (`is_member`) when
nothing on the way is revoked.  Evicting a node therefore also puts out whom it admitted, and undoes
its evictions; whoever evicts it admits again, with the same key and number, those that should stay.

Times are not compared here: whether a grant has begun or run out is for the caller, who has a
clock.
"""

from dataclasses import dataclass
from typing import Final

from storage.facts import FOUNDER_NUMBER, Fact, Genesis, NodeGrant, NodeRevoke
from storage.ids import NODE_NUMBERS

_FOR_EVER_MS: Final = (1 << 47) - 1


@dataclass(frozen=True, slots=True)
class Node:
    """A node whose admission is known. Times are ms since 1970."""

    number: int
    public_key: bytes
    block: tuple[int, int] | None
    """`[low, high)` of the numbers it may admit."""
    roles: tuple[str, ...]
    users_max: int | None
    """Most users it may make; `None`: no limit. Its own promise, not a condition of their being
    known: `peernode.records_in` says what others do about a node that breaks it."""
    not_before_ms: int
    expires_ms: int
    by: int
    is_member: bool
    """Its admission stands: nothing in the chain is revoked."""
    is_distrusted: bool
    """What it authored itself does not count."""

    def admits(self, number: int) -> bool:
        """Tell whether this number is in its block."""
        return self.block is not None and self.block[0] <= number < self.block[1]


class Nodes:
    """The facts about nodes, and what follows from them."""

    def __init__(self) -> None:
        self._genesis: Genesis | None = None
        self._grants: dict[int, list[tuple[NodeGrant, Fact]]] = {}
        self._revokes: dict[int, list[tuple[NodeRevoke, Fact]]] = {}
        self._numbers: dict[bytes, list[int]] = {}
        self._answers: dict[int, Node | None] = {}

    def add_genesis(self, genesis: Genesis) -> None:
        """Add the genesis of this mesh."""
        self._genesis = genesis
        self._answers.clear()

    def add_grant(self, grant: NodeGrant, fact: Fact) -> None:
        """Add an admission. Nodes are few and change rarely: all answers are forgotten."""
        self._grants.setdefault(grant.number, []).append((grant, fact))
        self._numbers.setdefault(grant.public_key, []).append(grant.number)
        self._answers.clear()

    def add_revoke(self, revoke: NodeRevoke, fact: Fact) -> None:
        """Add an eviction."""
        self._revokes.setdefault(revoke.number, []).append((revoke, fact))
        self._answers.clear()

    def find(self, number: int) -> Node | None:
        """Return the node of this number, or `None` if its admission is not known."""
        if number not in self._answers:
            self._answers[number] = self._find(number)
        return self._answers[number]

    def find_by_key(self, public_key: bytes) -> Node | None:
        """Return the node of this key, or `None`."""
        for number in (FOUNDER_NUMBER, *self._numbers.get(public_key, ())):
            node = self.find(number)
            if node is not None and node.public_key == public_key:
                return node
        return None

    def all(self) -> list[Node]:
        """Return all known nodes, also those that are members no more, by number."""
        numbers = (FOUNDER_NUMBER, *sorted(self._grants))
        return [node for number in numbers if (node := self.find(number)) is not None]

    def is_known_grant(self, grant: NodeGrant, fact: Fact) -> bool:
        """Tell whether the one who signed it could give that number and block, once at least."""
        admitter = self.find(grant.by)
        if admitter is None or admitter.public_key != fact.seal.public_key:
            return False
        if not admitter.admits(grant.number):
            return False
        return grant.block is None or (
            admitter.admits(grant.block[0]) and admitter.admits(grant.block[1] - 1)
        )

    def is_known_revoke(self, revoke: NodeRevoke, fact: Fact) -> bool:
        """Tell whether the one who signed it could evict that number, once at least."""
        evicter = self.find(revoke.by)
        return (
            evicter is not None
            and evicter.public_key == fact.seal.public_key
            and evicter.admits(revoke.number)
        )

    def _find(self, number: int) -> Node | None:
        if number == FOUNDER_NUMBER:
            return self._founder()
        known = [entry for entry in self._grants.get(number, ()) if self.is_known_grant(*entry)]
        if not known:
            return None
        # One number has one key; if not, the admitter nearest to the founder decides, then the id.
        key = min(known, key=lambda entry: (entry[0].by, entry[1].id))[0].public_key
        known = [entry for entry in known if entry[0].public_key == key]
        revokes = [
            revoke
            for revoke, fact in self._revokes.get(number, ())
            if revoke.public_key == key
            and self.is_known_revoke(revoke, fact)
            and self._is_member(revoke.by)
        ]
        standing = [] if revokes else [entry for entry in known if self._is_member(entry[0].by)]
        grant, _ = max(standing or known, key=lambda entry: (entry[0].expires_ms, entry[1].id))
        return Node(
            number,
            key,
            grant.block,
            grant.roles,
            grant.users_max,
            grant.not_before_ms,
            grant.expires_ms,
            grant.by,
            is_member=bool(standing),
            is_distrusted=any(revoke.distrust for revoke in revokes),
        )

    def _is_member(self, number: int) -> bool:
        node = self.find(number)
        return node is not None and node.is_member

    def _founder(self) -> Node | None:
        if self._genesis is None:
            return None
        return Node(
            FOUNDER_NUMBER,
            self._genesis.founder_key,
            (FOUNDER_NUMBER + 1, NODE_NUMBERS),
            (),
            None,
            0,
            _FOR_EVER_MS,
            FOUNDER_NUMBER,
            is_member=True,
            is_distrusted=False,
        )
