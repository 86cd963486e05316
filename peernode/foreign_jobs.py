"""Jobs of other nodes: asked of their home, kept when they are over, answered without it then.

A job that is not over is its home's business alone.  One that is over never changes: its request
and its home's signed snapshot are kept here, answered for a while without asking, and afterwards,
or by other nodes, whenever the home cannot be asked (`Stale`).  Who may read is judged by the home
when it is asked, and by the same table here when it is not.
"""

from collections.abc import AsyncGenerator
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from gossip.errors import PeerError
from gossip.fetch_events import Block, Found, Missing, TimedOut, Unreachable as NotReached
from gossip.fetch_messages import Kind, Thing
from peernode import access, foreign_messages as messages, job_snapshots
from peernode.calls import Answer, Call
from peernode.classes.job_bodies import JobView, ended_view
from peernode.fetch_driver import FetchDriver
from peernode.foreign_asking import Asking, Reply, Unreachable, headers, missing
from peernode.foreign_config import Config
from peernode.foreign_members import Members
from peernode.foreign_rows import Rows
from peernode.job_snapshots import Ended
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.recent_jobs import RecentJobs
from storage import codec, ids
from storage.errors import InvalidData
from storage.store import Store, Table

if TYPE_CHECKING:
    from peernode.node import Node

_CLASS: Final = "job"


class Held(NamedTuple):
    """A job that is kept: as it came, and when its home last said so."""

    request: bytes
    snapshot: bytes
    seen_ms: int


class ForeignJobs:
    """Answers for jobs of other nodes."""

    def __init__(
        self,
        node: "Node",
        store: Store,
        asking: Asking,
        members: Members,
        driver: FetchDriver,
        config: Config,
    ) -> None:
        self._node = node
        self._asking = asking
        self._members = members
        self._driver = driver
        self._config = config
        self._rows = Rows(store, Table.FOREIGN_JOBS, config.jobs_max, config.jobs_size_max_bytes)
        self._recent = RecentJobs()

    # --- calls ------------------------------------------------------------------------------

    async def get(self, call: Call, wait_s: float) -> Answer:
        """Answer `GET /job/:id`."""
        job, actor = call.object_id, call.actor
        home = self._asking.home_or_refuse(actor, _CLASS, job)
        held = self.held(job)
        is_up = home is not None and self._members.is_up(home)
        if held is not None and is_up and self._is_fresh(held):
            answer = self._answer_held(actor, job, held)
            if answer is not None:
                return answer
        try:
            reply = await self._asking.ask_until("job.get", job, actor, wait_s, _is_over)
        except Unreachable:
            return await self._answer_without_home(actor, job)
        except Problem as problem:
            if problem.code == "not_found":
                self._forget_deleted(job, actor)
            raise
        if isinstance(reply, messages.View):
            return _shown(job, reply)
        ended = self._keep(job, reply)
        return Answer(value=self._view(ended, with_content=True), headers=headers(job))

    async def cancel(self, call: Call) -> Answer:
        """Answer `POST /job/:id/cancel`."""
        job = call.object_id
        self._asking.home_or_refuse(call.actor, _CLASS, job)
        try:
            reply = await self._asking.ask("job.cancel", job, call.actor)
        except Unreachable:
            raise self._asking.unreachable(_CLASS, job) from None
        if not isinstance(reply, messages.View):
            raise self._asking.unreachable(_CLASS, job)
        return _shown(job, reply)

    async def follow(self, call: Call, operation: messages.Operation, after: int = 0) -> Answer:
        """Answer with a job's logs or events, as they come."""
        job = call.object_id
        self._asking.home_or_refuse(call.actor, _CLASS, job)
        accept = call.header(b"accept") or b""
        try:
            view, pieces = await self._asking.follow(operation, job, call.actor, accept, after)
        except Unreachable:
            raise self._asking.unreachable(_CLASS, job) from None
        stated = [*headers(job), (b"cache-control", b"no-store")]
        if operation == "job.events":
            return Answer(media_type=view.media_type, headers=stated, stream=_until_broken(pieces))
        try:
            content = b"".join([piece async for piece in pieces])
        except PeerError:
            raise self._asking.unreachable(_CLASS, job) from None
        return Answer(media_type=view.media_type, headers=stated, content=content)

    # --- what is kept -------------------------------------------------------------------------

    def held(self, job: int) -> Held | None:
        """Return what is kept of a job."""
        row = self._rows.get(job)
        return None if row is None else Held(*codec.load_row(row))

    def of_home(self, number: int, after: int, limit: int) -> list[int]:
        """Return up to `limit` jobs of a home that are kept, above `after`, in order."""
        found = (job for job in self._rows.ids() if job > after)
        return list(islice((job for job in found if ids.node_number(job) == number), limit))

    def read(self, job: int, held: Held) -> Ended | None:
        """Return a kept job, unless its home's word counts no more."""
        if self._members.home_key(job) is None:
            return None
        request, outcome = self._recent.request(job), self._recent.outcome(job)
        if request is not None and outcome is not None:
            return Ended(job, *request, outcome)
        try:
            ended = self._verified(job, held.request, held.snapshot)
        except InvalidData:
            self._rows.drop(job)
            return None
        self._remember(ended, held.request)
        return ended

    def readable(self, actor: Actor, ended: Ended) -> tuple[bool, bool]:
        """Return whether `actor` may see a kept job, and whether what is in it, as known here."""
        request = ended.request
        target = access.target(
            self._node,
            actor,
            _CLASS,
            ended.job,
            request.project,
            own=request.caller == actor.user,
        )
        return access.may(actor, "get", target), access.may(actor, "read_content", target)

    def check(self) -> None:
        """Assert the invariants."""
        self._rows.check()
        self._recent.check()

    def _is_fresh(self, held: Held) -> bool:
        age_ms = self._node.clock.wall_ms() - held.seen_ms
        return 0 <= age_ms <= self._config.fresh_s * 1000

    def _verified(self, job: int, request: bytes, snapshot: bytes) -> Ended:
        key = self._members.home_key(job)
        if key is None:
            raise InvalidData("the job's home is not known, or its word does not count")
        mesh = self._node.identity.mesh
        return job_snapshots.read(request, job_snapshots.verify(snapshot, mesh, job, key))

    def _keep(self, job: int, reply: messages.Ended | messages.Row) -> Ended:
        """Keep what the home says of a job that is over. Raises `unreachable` if that is no use."""
        try:
            if isinstance(reply, messages.Row):
                raise InvalidData("not a job")
            ended = self._verified(job, reply.request, reply.snapshot)
        except InvalidData as error:
            self._node.log.warning("a home's job is not good", job=str(job), error=str(error))
            raise self._asking.unreachable(_CLASS, job) from None
        self._hold(job, reply.request, reply.snapshot, self._node.clock.wall_ms())
        self._remember(ended, reply.request)
        return ended

    def _remember(self, ended: Ended, request: bytes) -> None:
        """Have a job ready that is kept, and was verified."""
        self._recent.keep_request(ended.job, ended.request, request)
        self._recent.keep_outcome(ended.job, ended.outcome)

    def _hold(self, job: int, request: bytes, snapshot: bytes, seen_ms: int) -> Held:
        held = Held(request, snapshot, seen_ms)
        for gone in self._rows.put(job, codec.dump_row([*held])):
            self._recent.forget(gone)
        return held

    def _forget_deleted(self, job: int, actor: Actor) -> None:
        """Forget a job that its home has no more: it said so to one who could have read it."""
        held = self.held(job)
        ended = None if held is None else self.read(job, held)
        if ended is not None and self.readable(actor, ended)[0]:
            self._rows.drop(job)
            self._recent.forget(job)

    # --- answers ------------------------------------------------------------------------------

    def _answer_held(
        self, actor: Actor, job: int, held: Held, stale_ms: int | None = None
    ) -> Answer | None:
        ended = self.read(job, held)
        if ended is None:
            return None
        may_get, with_content = self.readable(actor, ended)
        if not may_get:
            return None
        value = self._view(ended, with_content=with_content)
        return Answer(value=value, headers=headers(job, stale_ms))

    async def _answer_without_home(self, actor: Actor, job: int) -> Answer:
        """Answer from here or from a neighbour; raises `unreachable` if nobody has it."""
        held = self.held(job)
        if held is None and actor.certificate:
            held = await self._find(actor, job)
        if held is not None:
            answer = self._answer_held(actor, job, held, held.seen_ms)
            if answer is None:
                raise missing(_CLASS, job, [self._node.identity.number])
            return answer
        if not actor.certificate:
            raise missing(_CLASS, job, [])
        raise self._asking.unreachable(_CLASS, job)

    async def _find(self, actor: Actor, job: int) -> Held | None:
        """Return what a neighbour holds of a job whose home cannot be asked."""
        home = self._members.home_peer(job)
        providers = self._members.neighbours(*([home] if home else ()))
        timeout_s = self._config.find_timeout_s
        found: list[bytes] = []
        name = b""
        for kind in (Kind.SNAPSHOT, Kind.REQUEST):
            thing = Thing(kind, job, name)
            outcome = await self._driver.fetch(thing, actor.certificate, providers, timeout_s)
            match outcome:
                case Found(data):
                    found.append(data)
                case NotReached(unreached, _) | TimedOut(unreached, _):
                    numbers = self._members.numbers(unreached)
                    raise self._asking.unreachable(_CLASS, job, numbers)
                case Missing():
                    return None
                case _:
                    return None
            if kind is Kind.SNAPSHOT:
                name = self._snapshot(job, found[0]).request_cid
        # When the neighbour heard it is not known; the home said it when the job ended, at least.
        snapshot = self._snapshot(job, found[0])
        seen_ms = job_snapshots.read_outcome(snapshot.outcome).finished_ms
        return self._hold(job, found[1], found[0], seen_ms)

    def _snapshot(self, job: int, data: bytes) -> job_snapshots.Snapshot:
        key = self._members.home_key(job)
        if key is None:
            raise InvalidData("the job's home is not known, or its word does not count")
        return job_snapshots.verify(data, self._node.identity.mesh, job, key)

    def verify(self, thing: Thing, block: Block | None, data: bytes) -> str:
        """Return "" if this is the request or snapshot that `thing` names, or what is wrong."""
        assert block is None
        try:
            if thing.kind is Kind.SNAPSHOT:
                self._snapshot(thing.id, data)
            elif thing.kind is Kind.REQUEST:
                job_snapshots.check_request(data, thing.name)
            else:
                return "not asked for"
        except InvalidData as error:
            return str(error)
        return ""

    def _view(self, ended: Ended, *, with_content: bool) -> JobView:
        return ended_view(
            ended.job,
            ended.request,
            ended.outcome,
            request_cid=ended.request_cid,
            with_content=with_content,
        )


def _is_over(reply: Reply) -> bool:
    return not isinstance(reply, messages.View) or reply.is_final


def _shown(job: int, view: messages.View) -> Answer:
    stated = headers(job)
    if view.revision:
        stated.append((b"etag", b'"%b"' % view.revision.encode()))
    return Answer(content=view.body, media_type=view.media_type, headers=stated)


async def _until_broken(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield pieces; who reads events goes on after the last one it saw, if they were broken off."""
    try:
        async for piece in pieces:
            yield piece
    except PeerError:
        return
    finally:
        await pieces.aclose()
