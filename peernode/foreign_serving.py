"""What this node gives to others: its own jobs and blobs, and what it holds of other nodes'.

Every question comes from a member of the mesh, known by its peer id, and for a user whose
certificate names that member's key.  From there on it is judged as if the user had called here:
the same handlers, the same table of rights.  What may not be read is not there.

What is fetched block by block (`/peernode/fetch/1`) is judged anew with each block; what is given
out of this node's cache is judged by what is known here, and only its home can say that a thing is
nowhere.  A job of another node shows a pass in the place of a certificate (`foreign_passes`).
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from gossip.fetch_messages import (
    PROTOCOL,
    REQUEST_SIZE_MAX_BYTES,
    VERSION,
    Data,
    Get,
    Kind,
    Missing,
    Refused,
    Reply as FetchReply,
    decode_request,
    encode as encode_fetch,
    path,
)
from gossip.network import Network, Stream
from peernode import access, foreign_messages as messages, job_snapshots
from peernode.attributes import FunctionAttributes
from peernode.calls import Answer, Call
from peernode.classes.blob import BLOB
from peernode.classes.job import JOB
from peernode.content import BlobRow
from peernode.foreign_blobs import ForeignBlobs
from peernode.foreign_config import Config
from peernode.foreign_jobs import ForeignJobs
from peernode.foreign_members import Members
from peernode.foreign_passes import Passes
from peernode.job_rows import encode_request
from peernode.permissions import Actor, Target
from peernode.problems import Problem, not_found
from storage import ids
from storage.cid import Cid, decode_node
from storage.errors import BlobError, InvalidData
from storage.nodes import Node as Member
from storage.places import Class

if TYPE_CHECKING:
    from peernode.node import Node

_encode = msgspec.json.Encoder().encode


class Serving:
    """Answers to other nodes."""

    def __init__(
        self,
        node: "Node",
        network: Network,
        members: Members,
        jobs: ForeignJobs,
        blobs: ForeignBlobs,
        passes: Passes,
        config: Config,
    ) -> None:
        self._node = node
        self._members = members
        self._jobs = jobs
        self._blobs = blobs
        self._passes = passes
        self._config = config
        self._at_work: dict[str, int] = {}
        """Peer -> its questions that are not answered yet."""
        self._trees: OrderedDict[Cid, list[tuple[Cid, int]]] = OrderedDict()
        """Nodes of trees whose blocks were asked for last, decoded."""
        network.serve_requests(PROTOCOL, self.give, size_max_bytes=REQUEST_SIZE_MAX_BYTES)
        network.serve_requests(
            messages.ASK, self.answer, size_max_bytes=messages.ASK_SIZE_MAX_BYTES
        )
        network.serve_streams(
            messages.FOLLOW, self.follow, size_max_bytes=messages.ASK_SIZE_MAX_BYTES
        )

    # --- questions --------------------------------------------------------------------------

    async def answer(self, peer: str, frame: bytes) -> bytes:
        """Return the reply to a question. Raises `PeerError` for one that nobody may ask so."""
        ask = messages.decode_ask(frame)
        member = self._members.require_member(peer)
        await self._node.lives.started.wait()
        with self.working(peer) as is_free:
            if not is_free:
                return messages.encode(_refusal(_too_many()))
            try:
                if ask.operation == "job.cancel":
                    self._node.lives.require()
                if ask.operation.startswith("blob."):
                    reply: messages.Reply = await self._blob(ask, member)
                else:
                    reply = await self._job(ask, self._call(ask, member))
            except Problem as problem:
                reply = _refusal(problem)
        return messages.encode(reply)

    async def follow(self, stream: Stream) -> None:
        """Answer a question with a view and what follows it."""
        ask = messages.decode_ask(await stream.receive())
        member = self._members.require_member(stream.peer)
        await self._node.lives.started.wait()
        with self.working(stream.peer) as is_free:
            try:
                if not is_free:
                    raise _too_many()
                call = self._call(ask, member)
                if ask.operation not in ("job.logs", "job.events"):
                    raise Problem("bad_request", "nothing follows that")
                answer = await JOB.reads[ask.operation.removeprefix("job.")].handler(
                    self._node, call
                )
            except Problem as problem:
                await stream.send(messages.encode(_refusal(problem)))
                return
            await stream.send(messages.encode(_view(answer, b"")))
            async with aclosing(_pieces(answer)) as pieces:
                async for piece in pieces:
                    await stream.send(messages.MORE + piece)
            await stream.send(messages.LAST)

    def _class(self, ask: messages.Ask) -> str:
        """Return the class that a question to this node is about. Raises `Problem`."""
        if ask.version != messages.VERSION:
            raise Problem("not_implemented", "another version of the nodes' language")
        class_name = ask.operation.partition(".")[0]
        if self._members.is_elsewhere(ask.id):
            raise not_found(class_name, str(ask.id))
        return class_name

    def _call(self, ask: messages.Ask, member: Member) -> Call:
        """Return the call that a question stands for. Raises `Problem`."""
        class_name = self._class(ask)
        try:
            actor = self._members.speaker(member, ask.auth)
        except Problem:
            raise not_found(class_name, str(ask.id)) from None
        query: dict[str, str] = {}
        if ask.wait_ms:
            wait_s = min(ask.wait_ms / 1000, self._node.config.wait_max_s)
            query["wait"] = f"{wait_s:.3f}"
        headers = [(b"accept", ask.accept)] if ask.accept else []
        if ask.after:
            headers.append((b"last-event-id", b"%d" % ask.after))
        return Call(actor, headers, query, object_id=ask.id)

    async def _job(self, ask: messages.Ask, call: Call) -> messages.Reply:
        if ask.operation == "job.cancel":
            return _view(await JOB.methods["cancel"].handler(self._node, call))
        if ask.operation != "job.get":
            raise Problem("bad_request", "that is asked over a stream")
        answer = await JOB.get.handler(self._node, call)
        if answer.value.finished_at is None:
            return _view(answer)
        ended = self._own_job(call.actor, ask.id)
        return _view(answer) if ended is None else messages.Ended(*ended)

    async def _blob(self, ask: messages.Ask, member: Member) -> messages.Reply:
        self._class(ask)
        is_passed = self._passes.read(ask.auth, ask.id, member) is not None
        call = None if is_passed else self._call(ask, member)
        if call is not None:
            await BLOB.get.handler(self._node, call)
        row = self._node.content.row(ask.id)
        if row is None:
            raise not_found("blob", str(ask.id))
        if call is not None:
            verb = "get" if ask.operation == "blob.get" else "content"
            access.require(call.actor, verb, self._blobs.target(call.actor, ask.id, row))
        passed = None
        if ask.operation == "blob.pass" and call is not None:
            passed = self._passes.issue(ask.id, row, member)
        return messages.Row(self._blobs.signed(ask.id, row), passed)

    @contextmanager
    def working(self, peer: str) -> Iterator[bool]:
        """Count a question while it is at work; yield whether the peer may have one more."""
        count = self._at_work.get(peer, 0)
        if count >= self._config.served_max:
            yield False
            return
        self._at_work[peer] = count + 1
        try:
            yield True
        finally:
            self._at_work[peer] -= 1
            if not self._at_work[peer]:
                del self._at_work[peer]

    # --- things -----------------------------------------------------------------------------

    async def give(self, peer: str, frame: bytes) -> bytes:
        """Return the reply to a request for a thing. Raises `PeerError` as `answer` does."""
        get = decode_request(frame)
        member = self._members.require_member(peer)
        with self.working(peer) as is_free:
            return encode_fetch(await self._give(get, member) if is_free else Refused("busy"))

    async def _give(self, get: Get, member: Member) -> FetchReply:
        if get.version != VERSION:
            return Refused("version")
        nothing = Missing(not self._members.is_elsewhere(get.id), [])
        if get.kind is Kind.BLOB and (self._is_source(get)):
            return await self._block(get) or nothing
        if get.kind is Kind.SNAPSHOT and ids.node_number(get.id) == member.number:
            # What it has signed itself: nobody's right is needed.
            held = self._jobs.held(get.id)
            return nothing if held is None else Data(held.snapshot)
        if get.kind is Kind.BLOB and self._passes.read(get.auth, get.id, member) is not None:
            row = self._blob_row(get.id)
            is_it = row is not None and row.cid == get.name
            return (await self._block(get) if is_it else None) or nothing
        try:
            actor = self._members.speaker(member, get.auth)
        except Problem:
            return Refused("right")
        match get.kind:
            case Kind.BLOB:
                row = self._blob_row(get.id)
                if row is None or row.cid != get.name:
                    return nothing
                if not access.may(actor, "content", self._blobs.target(actor, get.id, row)):
                    return nothing
                return await self._block(get) or nothing
            case Kind.ATTRIBUTES:
                return self._attributes(actor, get.id) or nothing
            case Kind.REQUEST | Kind.SNAPSHOT:
                ended = self._ended(actor, get.id)
                if ended is None:
                    return nothing
                return Data(ended[0] if get.kind is Kind.REQUEST else ended[1])
            case Kind.RECORD:
                return nothing
            case _:
                assert_never(get.kind)

    def _is_source(self, get: Get) -> bool:
        """Tell whether a function's source or wheel is asked for: every member may have it."""
        entry = self._node.registry.get(Class.FUNCTION, get.id)
        if entry is None:
            return False
        attributes: FunctionAttributes = entry.attributes
        sources = [version.cid for version in attributes.versions]
        return get.name in sources or any(wheel.cid == get.name for wheel in attributes.wheels)

    def _attributes(self, actor: Actor, blob: int) -> Data | None:
        """Return what a home said of a blob, if `actor` may see it and it is still good."""
        held = self._blobs.held(blob)
        if held is None or not access.may(
            actor, "get", self._blobs.target(actor, blob, held.attributes.row)
        ):
            return None
        return Data(held.signed)

    def _blob_row(self, blob: int) -> BlobRow | None:
        if not self._members.is_elsewhere(blob):
            return self._node.content.row(blob)
        held = self._blobs.held(blob)
        return None if held is None else held.attributes.row

    async def _block(self, get: Get) -> Data | None:
        try:
            at = Cid(get.name)
            for child in path(get.depth, get.index):
                at = (await self._children(at))[child][0]
            return Data(await self._read(at))
        except (BlobError, InvalidData, IndexError):
            return None  # It is not here, or no tree has it.

    async def _children(self, cid: Cid) -> list[tuple[Cid, int]]:
        found = self._trees.get(cid)
        if found is None:
            found = self._trees[cid] = decode_node(await self._read(cid))
            while len(self._trees) > self._config.nodes_read_max:
                self._trees.popitem(last=False)
        else:
            self._trees.move_to_end(cid)
        return found

    async def _read(self, cid: Cid) -> bytes:
        return await self._node.content.offload(self._node.blob_store.read_block, cid)

    def _ended(self, actor: Actor, job: int) -> tuple[bytes, bytes] | None:
        if not self._members.is_elsewhere(job):
            return self._own_job(actor, job)
        held = self._jobs.held(job)
        ended = None if held is None else self._jobs.read(job, held)
        if held is None or ended is None or not all(self._jobs.readable(actor, ended)):
            return None
        return held.request, held.snapshot

    def _own_job(self, actor: Actor, job: int) -> tuple[bytes, bytes] | None:
        """Return request and snapshot of a job of ours that is over, if `actor` may see all."""
        live = self._node.live
        request, outcome = live.request(job), live.outcome(job)
        if request is None or outcome is None:
            return None
        own = request.caller == actor.user
        target: Target = access.target(self._node, actor, "job", job, request.project, own=own)
        if not all(access.may(actor, verb, target) for verb in ("get", "read_content")):
            return None
        identity, row = self._node.identity, encode_request(request)
        snapshot = job_snapshots.sign(identity.keypair, identity.mesh, job, row, outcome)
        too_large = max(len(row), len(snapshot)) > job_snapshots.SIZE_MAX_BYTES
        return None if too_large else (row, snapshot)


def _view(answer: Answer, body: bytes | None = None) -> messages.View:
    value: Any = answer.value
    if body is None:
        body = _encode(value) if answer.content is None else answer.content
    revision = getattr(value, "revision", "")
    is_final = getattr(value, "finished_at", "") is not None
    return messages.View(revision, is_final, answer.media_type, body)


def _refusal(problem: Problem) -> messages.Refusal:
    return messages.Refusal(problem.code, problem.detail.encode(), problem.hint.encode())


def _too_many() -> Problem:
    return Problem("overloaded", "that node asks too much at once")


async def _pieces(answer: Answer) -> AsyncGenerator[bytes, None]:
    """Yield an answer's body in pieces that fit a frame."""
    if answer.stream is not None:
        async with aclosing(answer.stream) as pieces:
            async for piece in pieces:
                yield piece
        return
    content = answer.content if answer.content is not None else _encode(answer.value)
    for at in range(0, len(content), messages.PIECE_SIZE_MAX_BYTES):
        yield content[at : at + messages.PIECE_SIZE_MAX_BYTES]
