"""Facts and records whose time has not come: what they rest on is not known, or they are early.

Neither is anybody's fault, and gossip brings things in any order.  So they wait here, found again
by the node, user or project that they rest on, until a fact about it comes; those with a timestamp
far ahead of our clock until that time.  What waits counts for nothing and is not on the disk.

Room is bounded, and shared by who sent it: over the bound a sender pushes out its own oldest first,
so a flood of what will never count takes nobody else's place.  What is pushed out, reconciliation
brings again.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias, TypeVar, assert_never

from storage import facts, ids
from storage.facts import Fact
from storage.records import Record

ITEMS_MAX: Final = 10_000
"""Most that waits. Source: as `storage.merge.DEFERRED_MAX`."""
SIZE_MAX_BYTES: Final = 16 << 20
"""Most bytes of it. Source: guess; 1.6 KiB an item."""

Item: TypeAlias = Fact | Record
K = TypeVar("K", int, str)


def name(item: Item) -> bytes:
    """Return the 32 bytes that name a fact or record."""
    return item.id if isinstance(item, Fact) else item.rid


def signed_at(item: Item) -> int:
    """Return the hybrid timestamp of signing."""
    return item.signed_at if isinstance(item, Fact) else item.body.signed_at


def subjects(item: Item) -> tuple[int, ...]:
    """Return the numbers and ids of the nodes, users and projects that an item rests on."""
    if isinstance(item, Record):
        place = item.body.place
        return place.home, item.body.author, place.owner
    match item.statement:
        case facts.Genesis():
            return ()
        case facts.NodeGrant(by=by) | facts.NodeRevoke(by=by):
            return (by,)
        case facts.UserKey(user=user):
            return ids.node_number(user), user
        case facts.ProjectOwner(project=project):
            return (ids.node_number(project),)
        case facts.Member() | facts.MemberRevoke() as member:
            return member.project, member.by, member.user
        case _:
            assert_never(item.statement)


def subject(fact: Fact) -> int:
    """Return whom or what a fact is about: others may rest on it through that."""
    match fact.statement:
        case facts.Genesis():
            return facts.FOUNDER_NUMBER
        case facts.NodeGrant(number=number) | facts.NodeRevoke(number=number):
            return number
        case facts.UserKey(user=user):
            return user
        case (
            facts.ProjectOwner(project=project)
            | facts.Member(project=project)
            | facts.MemberRevoke(project=project)
        ):
            return project
        case _:
            assert_never(fact.statement)


class Waiting:
    """What waits, and for whom."""

    def __init__(self, items_max: int = ITEMS_MAX, size_max_bytes: int = SIZE_MAX_BYTES) -> None:
        self._items_max = items_max
        self._size_max_bytes = size_max_bytes
        self._items: dict[bytes, tuple[Item, str]] = {}
        self._early: dict[bytes, None] = {}
        self._by_subject: dict[int, dict[bytes, None]] = {}
        self._by_sender: dict[str, dict[bytes, None]] = {}
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: Item) -> bool:
        return item.encoded in self._items

    def add(self, item: Item, sender: str, *, early: bool = False) -> None:
        """Have an item wait for a fact about what it rests on or, if it is `early`, for time."""
        # Not its name: a record in somebody else's envelope must not take the true one's place.
        key = item.encoded
        if key in self._items:
            return
        size_bytes = len(item.encoded)
        while self._items and (
            len(self._items) >= self._items_max
            or self._size_bytes + size_bytes > self._size_max_bytes
        ):
            own = self._by_sender.get(sender)
            self._remove(next(iter(own or self._items)))
        self._items[key] = item, sender
        self._size_bytes += size_bytes
        self._by_sender.setdefault(sender, {})[key] = None
        if early:
            self._early[key] = None
        else:
            for one in subjects(item):
                self._by_subject.setdefault(one, {})[key] = None

    def take(self, about: Iterable[int]) -> list[tuple[Item, str]]:
        """Remove and return what rests on these nodes, users and projects, oldest first."""
        found: dict[bytes, None] = {}
        for one in about:
            found.update(self._by_subject.get(one, {}))
        return [self._remove(key) for key in found]

    def take_early(self, is_due: Callable[[Item], bool]) -> dict[str, list[Item]]:
        """Remove and return what has waited for its time: by sender, what came first first."""
        due = [key for key in self._early if is_due(self._items[key][0])]
        found: dict[str, list[Item]] = {}
        for item, sender in map(self._remove, due):
            found.setdefault(sender, []).append(item)
        return found

    @property
    def early(self) -> int:
        """How many wait for their time."""
        return len(self._early)

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._items) <= self._items_max
        assert self._size_bytes == sum(len(item.encoded) for item, _ in self._items.values())
        assert sum(map(len, self._by_sender.values())) == len(self._items)
        assert all(key in self._items for key in self._early)
        for held in (*self._by_subject.values(), *self._by_sender.values()):
            assert held
            assert all(key in self._items for key in held)

    def _remove(self, key: bytes) -> tuple[Item, str]:
        item, sender = self._items.pop(key)
        self._size_bytes -= len(item.encoded)
        self._early.pop(key, None)
        _forget(self._by_sender, sender, key)
        for one in subjects(item):
            _forget(self._by_subject, one, key)
        return item, sender


def _forget(index: dict[K, dict[bytes, None]], at: K, key: bytes) -> None:
    held = index.get(at)
    if held is not None:
        held.pop(key, None)
        if not held:
            del index[at]
