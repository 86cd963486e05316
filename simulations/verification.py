"""Work that many nodes of one process would do over, done once: signatures, and frames taken apart.

A message that reaches ten thousand nodes is verified by each of them, with the same answer each
time.  Here the answer is remembered, so that each message is verified for real, once.  What keeps
that honest:

* the key is all that the answer depends on: the exact bytes of public key, signature and message.
  One bit that differs is another question;
* "no" is remembered like "yes";
* one in `AUDIT_EACH` remembered answers is worked out again, and another answer ends the run;
* a test runs without remembering and finds the same trace.

Frames are taken apart (`gossip.wire.decode_rpc`) the same way: that, too, depends on bytes alone.
Virtual time passes for neither, remembered or not.
"""

import operator
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from gossip import wire
from gossip.errors import RemoteProtocolError
from storage.signing import is_signed

REMEMBERED_MAX: Final = 65_536
"""Most answers remembered of each kind; the oldest half goes. Source: guess; 100 MB of messages
of a KiB, and many times what is on its way at one time."""
AUDIT_EACH: Final = 1000
"""One in so many remembered answers is worked out again. Source: costs 40 us in 1000 x 0.2 us."""

K = TypeVar("K")
V = TypeVar("V")


class AuditError(AssertionError):
    """A remembered answer was not the one that is worked out."""


class Memory(Generic[K, V]):
    """What was worked out, by what it was worked out from. Bounded, and audited."""

    __slots__ = (
        "_fresh",
        "_half_max",
        "_is_kept",
        "_is_same",
        "_stale",
        "_until_audit",
        "_work",
        "audits",
        "works",
    )

    def __init__(
        self,
        work: Callable[[K], V],
        *,
        is_same: Callable[[V, V], bool] = operator.eq,
        is_kept: Callable[[V], bool] = lambda _: True,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        """Remember so many answers of `work`, which depends on its argument only.

        `is_kept` tells which are worth it, `is_same` whether two of them say the same.
        """
        self._work = work
        self._is_same = is_same
        self._is_kept = is_kept
        self._half_max = max(1, remembered_max // 2)
        self._fresh: dict[K, V] = {}
        self._stale: dict[K, V] = {}
        self._until_audit = AUDIT_EACH
        self.works = 0
        """How often something was worked out, audits apart."""
        self.audits = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._stale)

    def recall(self, key: K) -> V:
        """Return what is worked out from `key`. Raises `AuditError`, and what `work` raises."""
        found = self._fresh.get(key)
        if found is None:
            return self._look_further(key)
        self._until_audit -= 1
        if not self._until_audit:
            self._audit(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Remember an answer."""
        if len(self._fresh) >= self._half_max:
            self._stale, self._fresh = self._fresh, {}
        self._fresh[key] = value

    def _look_further(self, key: K) -> V:
        found = self._stale.get(key)
        if found is None:
            self.works += 1
            found = self._work(key)
            if not self._is_kept(found):
                return found
        self.put(key, found)
        return found

    def _audit(self, key: K, found: V) -> None:
        self._until_audit = AUDIT_EACH
        self.audits += 1
        if not self._is_same(self._work(key), found):
            raise AuditError(f"remembered {found!r:.100} of {key!r:.200}")


class Verification:
    """Verifies signatures and reads frames, for all nodes of a simulation."""

    def __init__(self, *, remembering: bool = True) -> None:
        """`remembering` false: everything is worked out each time."""
        self.signatures: Memory[tuple[bytes, bytes, bytes], bool] = Memory(
            lambda key: is_signed(*key), is_kept=lambda _: remembering
        )
        # What else is said than messages is said once, and would only take room.
        self.frames: Memory[bytes, wire.Rpc] = Memory(
            wire.decode_rpc,
            is_same=_say_the_same,
            is_kept=lambda rpc: remembering and bool(rpc.publish),
        )
        self.read = self.frames.recall
        """Returns what an RPC says: a `gossip.mesh.Reader`. Raises `RemoteProtocolError`."""

    def verify(self, public_key: bytes, signature: bytes, signed: bytes) -> bool:
        """Tell whether a signature is right: a `gossip.intake.Verifier`."""
        return self.signatures.recall((public_key, signature, signed))


def _say_the_same(one: wire.Rpc, other: wire.Rpc) -> bool:
    return _said(one) == _said(other)


def _said(rpc: wire.Rpc) -> tuple[object, ...]:
    return rpc.subscriptions, [_name(draft) for draft in rpc.publish], repr(rpc.control)


def _name(draft: wire.Draft) -> bytes | str:
    try:
        return draft.id
    except RemoteProtocolError as error:
        return str(error)
