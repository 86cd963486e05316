"""Level 2 of authority: users and their keys. Rests on `nodes`.

A user begins with the key of epoch 0, sealed by the home node that the user's id names.  Each later
epoch's key is the one whose hash the epoch before announced.  A *strict* epoch disowns what was
signed under earlier ones; any other leaves it good, so that an ordinary rotation costs nothing.
"""

from dataclasses import dataclass

from storage import ids
from storage.certificates import Certificate
from storage.facts import Fact, UserKey, key_hash
from storage.nodes import Nodes
from storage.signing import Seal


@dataclass(frozen=True, slots=True)
class UserChain:
    """A user's keys, from epoch 0 to the current one."""

    epochs: tuple[UserKey, ...]

    @property
    def current(self) -> UserKey:
        """The key in force."""
        return self.epochs[-1]

    @property
    def epoch(self) -> int:
        """Number of the current epoch."""
        return len(self.epochs) - 1

    @property
    def floor(self) -> int:
        """The last strict epoch: what was signed before it does not count."""
        return max((key.epoch for key in self.epochs if key.strict), default=0)

    def public_key(self, epoch: int) -> bytes | None:
        """Return the key of an epoch, or `None` if it is not known."""
        return self.epochs[epoch].public_key if epoch < len(self.epochs) else None

    def signed(self, epoch: int, certificate: Certificate | None, seal: Seal) -> bool:
        """Tell whether the key of `epoch` vouches: in the certificate, or else in the seal."""
        vouching = certificate.seal if certificate is not None else seal
        return self.public_key(epoch) == vouching.public_key


class Users:
    """The facts about users, and what follows from them."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._keys: dict[int, dict[int, list[tuple[UserKey, Fact]]]] = {}
        self._answers: dict[int, UserChain | None] = {}
        self._made: dict[int, int] = {}
        """Number of a node -> first keys of users with that number in their ids."""

    def add(self, key: UserKey, fact: Fact) -> None:
        """Add a key."""
        self._keys.setdefault(key.user, {}).setdefault(key.epoch, []).append((key, fact))
        if key.epoch == 0:
            home = ids.node_number(key.user)
            self._made[home] = self._made.get(home, 0) + 1
        self._answers.pop(key.user, None)

    def forget(self) -> None:
        """Forget all answers: the nodes have changed."""
        self._answers.clear()

    def find(self, user: int) -> UserChain | None:
        """Return the user's keys, or `None` if the user is not known."""
        if user not in self._answers:
            self._answers[user] = self._find(user)
        return self._answers[user]

    def all(self) -> list[int]:
        """Return the ids of all known users, in order."""
        return [user for user in sorted(self._keys) if self.find(user) is not None]

    def made_at(self, number: int) -> int:
        """Return how many users a node has made, counting one twice that it gave two first keys."""
        return self._made.get(number, 0)

    def about(self, user: int) -> list[Fact]:
        """Return all facts about a user's keys, by epoch."""
        found = self._keys.get(user, {})
        return [fact for epoch in sorted(found) for _, fact in found[epoch]]

    def is_known(self, key: UserKey, fact: Fact) -> bool:
        """Tell whether the key is, or could be, the next one of the user's chain at its epoch."""
        if key.epoch == 0:
            return self._begins(key, fact)
        chain = self.find(key.user)
        if chain is None or key.epoch > len(chain.epochs):
            return False
        return _follows(chain.epochs[key.epoch - 1], key)

    def _find(self, user: int) -> UserChain | None:
        epochs: list[UserKey] = []
        while True:
            known = [
                (fact.id, key)
                for key, fact in self._keys.get(user, {}).get(len(epochs), ())
                if (_follows(epochs[-1], key) if epochs else self._begins(key, fact))
            ]
            if not known:
                return UserChain(tuple(epochs)) if epochs else None
            epochs.append(min(known, key=lambda entry: entry[0])[1])

    def _begins(self, key: UserKey, fact: Fact) -> bool:
        home = self._nodes.find(ids.node_number(key.user))
        return (
            home is not None
            and fact.home is not None
            and fact.home.public_key == home.public_key
        )  # fmt: skip


def _follows(before: UserKey, key: UserKey) -> bool:
    return key_hash(key.public_key) == before.next_key_hash
