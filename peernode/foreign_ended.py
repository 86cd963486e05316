"""Jobs that are over, asked back by their home, which has forgotten that.

A home whose data directory was put back as it was (`lives`) holds jobs as waiting whose end it has
told already.  Whoever asked it then has its signed snapshot.

    question  [after]        an id of 8 bytes, or 0
    reply     [[job, ...]]   those of the asker that are held here, above `after`, smallest first

The snapshots themselves are fetched as any thing is (`/peernode/fetch/1`); a home needs nobody's
right for what it has signed itself.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import trio

from gossip.errors import RemoteProtocolError
from gossip.fetch_events import Found, Provider
from gossip.fetch_messages import Kind, Thing
from gossip.network import Network
from peernode import job_snapshots
from peernode.fetch_driver import FetchDriver
from peernode.foreign_config import Config
from peernode.foreign_jobs import ForeignJobs
from peernode.foreign_members import Members
from peernode.peer_frames import read_frame
from storage import codec, ids
from storage.cid import raw_leaf
from storage.errors import StorageError
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

PROTOCOL: Final = "/peernode/ended/1"
ASK_SIZE_MAX_BYTES: Final = 16
PAGE_LENGTH: Final = 1024
"""Jobs named in one reply. Source: guess; 9 kB."""
REPLY_SIZE_MAX_BYTES: Final = 16 * PAGE_LENGTH
FETCHED_AT_ONCE: Final = 16
"""Snapshots asked of one peer at once. Source: guess; twice the window of a blob."""


class _Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    after: Annotated[int, msgspec.Meta(ge=0, le=ids.ID_END - 1)]


class _Held(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    jobs: Annotated[tuple[ids.Id, ...], msgspec.Meta(max_length=PAGE_LENGTH)]


class ForeignEnded:
    """Asks for this node's own jobs, and answers other homes that ask for theirs."""

    def __init__(
        self,
        node: "Node",
        network: Network,
        members: Members,
        jobs: ForeignJobs,
        driver: FetchDriver,
        config: Config,
    ) -> None:
        self._node = node
        self._network = network
        self._members = members
        self._jobs = jobs
        self._driver = driver
        self._config = config
        network.serve_requests(PROTOCOL, self.answer, size_max_bytes=ASK_SIZE_MAX_BYTES)

    async def answer(self, peer: str, frame: bytes) -> bytes:
        """Return which jobs of the asker are held here. Raises `PeerError`."""
        after = read_frame(frame, ASK_SIZE_MAX_BYTES, _Ask, "a question").after
        member = self._members.require_member(peer)
        found = self._jobs.of_home(member.number, after, PAGE_LENGTH)
        return codec.encode_struct(_Held(tuple(found)))

    async def collect(self, peer: str, wanted: Collection[int], found: dict[int, bytes]) -> None:
        """Put into `found` the outcomes' rows of those jobs that the peer knows to be over.

        Nothing is believed that this node has not signed.  What was found stays when this is
        cancelled.  Raises `PeerError`.
        """
        jobs = [job for job in await self._held_by(peer) if job in wanted]
        limiter = trio.CapacityLimiter(FETCHED_AT_ONCE)

        async def fetch(job: int) -> None:
            async with limiter:
                outcome = await self._outcome(peer, job)
            if outcome is not None:
                found[job] = outcome

        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(fetch, job)

    async def _held_by(self, peer: str) -> list[int]:
        found: list[int] = []
        while True:
            frame = await self._network.request(
                peer,
                PROTOCOL,
                codec.encode_struct(_Ask(found[-1] if found else 0)),
                reply_size_max_bytes=REPLY_SIZE_MAX_BYTES,
                timeout_s=self._config.ask_timeout_s,
            )
            page = read_frame(frame, REPLY_SIZE_MAX_BYTES, _Held, "a list of jobs").jobs
            if not page or len(found) + len(page) > self._config.jobs_max:
                return found
            if page[0] <= (found[-1] if found else 0):
                raise RemoteProtocolError("jobs that were named before")
            found += page

    async def _outcome(self, peer: str, job: int) -> bytes | None:
        identity = self._node.identity
        request = self._node.store.get(Table.JOBS, ids.key(job))
        thing, timeout_s = Thing(Kind.SNAPSHOT, job, b""), self._config.find_timeout_s
        try:
            outcome = await self._driver.fetch(thing, b"", [Provider(peer)], timeout_s)
        except StorageError:
            return None  # As if the peer had not had it.
        if request is None or not isinstance(outcome, Found):
            return None
        snapshot = job_snapshots.verify(
            outcome.data, identity.mesh, job, identity.keypair.public_key
        )
        return snapshot.outcome if snapshot.request_cid == bytes(raw_leaf(request)) else None
