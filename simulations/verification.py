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

    __slots__ = ("_audit", "_fresh", "_half_max", "_stale", "_until_audit", "audits", "works")

    def __init__(self, audit: Callable[[K, V], bool], remembered_max: int = REMEMBERED_MAX) -> None:
        """Remember so many. `audit` tells whether an answer is the one that is worked out."""
        self._audit = audit
        self._half_max = max(1, remembered_max // 2)
        self._fresh: dict[K, V] = {}
        self._stale: dict[K, V] = {}
        self._until_audit = AUDIT_EACH
        self.works = 0
        """How often something was worked out."""
        self.audits = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._stale)

    def get(self, key: K) -> V | None:
        """Return what was worked out, if it is remembered. Raises `AuditError`."""
        found = self._fresh.get(key)
        if found is None:
            found = self._stale.get(key)
            if found is None:
                return None
            self._keep(key, found)
        self._until_audit -= 1
        if not self._until_audit:
            self._until_audit = AUDIT_EACH
            self.audits += 1
            if not self._audit(key, found):
                raise AuditError(f"remembered {found!r:.100} of {key!r:.200}")
        return found

    def put(self, key: K, value: V) -> None:
        """Remember what was worked out."""
        self.works += 1
        self._keep(key, value)

    def _keep(self, key: K, value: V) -> None:
        if len(self._fresh) >= self._half_max:
            self._stale, self._fresh = self._fresh, {}
        self._fresh[key] = value


class Verification:
    """Verifies signatures and reads frames, for all nodes of a simulation."""

    def __init__(self, *, remembering: bool = True, remembered_max: int = REMEMBERED_MAX) -> None:
        """`remembering` false: everything is worked out each time."""
        self._remembering = remembering
        self.signatures: Memory[tuple[bytes, bytes, bytes], bool] = Memory(
            lambda key, right: is_signed(*key) is right, remembered_max
        )
        self.frames: Memory[bytes, wire.Rpc] = Memory(_reads_the_same, remembered_max)

    def verify(self, public_key: bytes, signature: bytes, signed: bytes) -> bool:
        """Tell whether a signature is right: a `gossip.intake.Verifier`."""
        key = public_key, signature, signed
        found = self.signatures.get(key) if self._remembering else None
        if found is None:
            found = is_signed(public_key, signature, signed)
            self.signatures.put(key, found)
        return found

    def read(self, frame: bytes) -> wire.Rpc:
        """Return what an RPC says: a `gossip.mesh.Reader`. Raises `RemoteProtocolError`."""
        found = self.frames.get(frame) if self._remembering else None
        if found is None:
            found = wire.decode_rpc(frame)
            if found.publish:
                # What else is said is said once, and would only take room.
                self.frames.put(frame, found)
        return found


def _reads_the_same(frame: bytes, before: wire.Rpc) -> bool:
    return _said(wire.decode_rpc(frame)) == _said(before)


def _said(rpc: wire.Rpc) -> tuple[object, ...]:
    return rpc.subscriptions, [_name(draft) for draft in rpc.publish], repr(rpc.control)


def _name(draft: wire.Draft) -> bytes | str:
    try:
        return draft.id
    except RemoteProtocolError as error:
        return str(error)
