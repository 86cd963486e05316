"""Blobs in the hands of function code: what a job may read, and what it is writing.

A job reads the blobs of its project and those that its input names.  One of another node comes
from there, with the pass that its home gave out when the job was handed in, and is read through
this node's cache (`foreign_blobs`): fetched when the worker asks for it, and block by block.  What
is in the project but at another node has to be named in the input: nobody has shown its home there
a right.

A *draft* is a blob that an attempt is writing or has written; it is kept, if the job says so, in
the batch that makes the job succeeded (`keep`), and else forgotten with the attempt.
"""

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from peernode import access
from peernode.calls import Call
from peernode.content import BlobRow
from peernode.edge_arguments import BlobAppend, BlobBegin, BlobId, BlobRead, UploadId
from peernode.job_rows import Request
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage import cid, ids
from storage.blobs import Content, Release, Upload
from storage.cid import Cid
from storage.store import Table
from worker import protocol

if TYPE_CHECKING:
    from peernode.node import Node

UPLOADS_MAX: Final = 64
"""Uploads of one job at once, finished ones that are not kept yet included. Source: guess."""


@dataclass(slots=True)
class _Draft:
    """A blob that a job is writing, or has written and not kept yet."""

    blob: int
    upload: Upload
    media_type: str
    name: str
    finished: Content | None = None


@dataclass(slots=True)
class _Drafts:
    """The drafts of one attempt."""

    fence: int
    drafts: dict[int, _Draft] = field(default_factory=dict)


class EdgeBlobs:
    """Answers function code's calls about blobs, and keeps what it has written."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._drafts: dict[int, _Drafts] = {}
        """Job -> what its present attempt has begun."""

    def forget(self, job: int, fence: int) -> None:
        """Drop what the attempt began and did not keep."""
        held = self._drafts.get(job)
        if held is not None and held.fence == fence:
            del self._drafts[job]
            for draft in held.drafts.values():
                draft.upload.close()

    # --- buffered writes --------------------------------------------------------------------

    def finished(self, job: int, blob: int) -> bool:
        """Tell whether the job has written all of this blob."""
        return self._finished(job, blob) is not None

    def _finished(self, job: int, blob: int) -> Content | None:
        held = self._drafts.get(job)
        draft = held.drafts.get(blob) if held else None
        return None if draft is None else draft.finished

    def keep(self, transaction: Transaction, job: int, request: Request, blob: int) -> None:
        """Make a blob that the job has written one of its project; raises `Problem`."""
        held = self._drafts.get(job)
        draft = held.drafts.get(blob) if held else None
        if draft is None or draft.finished is None:
            raise Problem("not_found", f"the job has written no blob {blob}")
        if transaction.get(Table.BLOBS, ids.key(blob)) is not None:
            return  # Said twice: its bytes are referred to once.
        row = BlobRow(
            cid=bytes(draft.finished.cid),
            size_bytes=draft.finished.size_bytes,
            media_type=draft.media_type,
            name=draft.name,
            project=request.project,
            owner=request.caller,
            created_ms=self._node.clock.wall_ms(),
        )
        self._node.content.check_quota(row.project, row.size_bytes, transaction)
        self._node.content.put(transaction, blob, row, draft.finished)

    def delete(self, transaction: Transaction, actor: Actor, request: Request, blob: int) -> None:
        """Delete a blob of the project; raises `Problem`."""
        self._own_row(actor, request, blob, "delete")
        release: Release | None = self._node.content.delete(transaction, blob)
        transaction.after.append(lambda: self._node.spawn(self._node.content.sweep, release))

    # --- reading ----------------------------------------------------------------------------

    def _own_row(self, actor: Actor, request: Request, blob: int, verb: str) -> BlobRow:
        row = self._node.content.row(blob) if 0 < blob < ids.ID_END else None
        granted = blob in request.granted
        if row is None or not access.may(
            actor,
            verb,
            self._node.content.target(self._node, actor, row, blob, granted=granted),
        ):
            raise Problem("not_found", f"there is no blob {blob} that this job may {verb}")
        return row

    def _is_elsewhere(self, request: Request, blob: int) -> bool:
        foreign = self._node.foreign
        if foreign is None or not 0 < blob < ids.ID_END or not foreign.is_elsewhere(blob):
            return False
        if not request.pass_for(blob):
            home = ids.node_number(blob)
            raise Problem(
                "not_found",
                f"there is no blob {blob} that this job may read: it would be at node {home}, "
                "and a job reads blobs of other nodes only if its input names them",
            )
        return True

    async def stat(self, actor: Actor, request: Request, fence: int, arguments: BlobId) -> object:
        """Return a blob's attributes."""
        blob = arguments.blob
        if self._is_elsewhere(request, blob):
            row = await self._foreign_row(_with_pass(actor, request, blob), blob)
        else:
            row = self._own_row(actor, request, blob, "get")
        return {
            "cid": cid.text(Cid(row.cid)),
            "size_bytes": row.size_bytes,
            "media_type": row.media_type,
            "name": row.name,
        }

    async def _foreign_row(self, actor: Actor, blob: int) -> BlobRow:
        assert self._node.foreign is not None
        call = Call(actor, [], {}, object_id=blob)
        return (await self._node.foreign.blobs.find(call, "content")).row

    async def read(self, actor: Actor, request: Request, fence: int, arguments: BlobRead) -> object:
        """Return some bytes of a blob."""
        blob, offset, length = arguments.blob, arguments.offset, arguments.length
        elsewhere = self._is_elsewhere(request, blob)
        row = None if elsewhere else self._own_row(actor, request, blob, "content")
        if not 0 <= length <= protocol.CHUNK_SIZE_MAX_BYTES or offset < 0:
            raise Problem(
                "invalid_field",
                "blob.read: too many bytes at once",
                limit=protocol.CHUNK_SIZE_MAX_BYTES,
            )
        if row is not None:
            return await self._node.content.read_piece(row.cid, offset, length)
        assert self._node.foreign is not None
        blobs, actor = self._node.foreign.blobs, _with_pass(actor, request, blob)
        held = blobs.held(blob)  # The home judges each block that is not here yet.
        row = held.attributes.row if held is not None else await self._foreign_row(actor, blob)
        length = max(0, min(length, row.size_bytes - offset))
        async with aclosing(blobs.stream(actor, blob, row, offset, length)) as pieces:
            return b"".join([piece async for piece in pieces])

    # --- writing ----------------------------------------------------------------------------

    def _draft(self, job: int, fence: int, upload: int) -> _Draft:
        held = self._drafts.get(job)
        draft = held.drafts.get(upload) if held and held.fence == fence else None
        if draft is None or draft.finished is not None:
            raise Problem("not_found", f"there is no upload {upload}")
        return draft

    async def begin(
        self, actor: Actor, request: Request, fence: int, arguments: BlobBegin
    ) -> object:
        """Begin a blob."""
        held = self._drafts.get(actor.job)
        if held is None or held.fence != fence:
            if held is not None:
                self.forget(actor.job, held.fence)
            held = self._drafts[actor.job] = _Drafts(fence)
        if len(held.drafts) >= UPLOADS_MAX:
            raise Problem("too_large", "too many blobs in one job", limit=UPLOADS_MAX)
        blob = self._node.ids.next()
        held.drafts[blob] = _Draft(
            blob, self._node.content.begin(), arguments.media_type, arguments.name
        )
        return {"upload": blob}

    async def append(
        self, actor: Actor, request: Request, fence: int, arguments: BlobAppend
    ) -> object:
        """Write more of a blob."""
        draft = self._draft(actor.job, fence, arguments.upload)
        try:
            await self._node.content.offload(draft.upload.write, arguments.data)
        except ValueError:  # It failed before, or the attempt is over.
            raise _upload_over(arguments.upload) from None
        return {}

    async def finish(
        self, actor: Actor, request: Request, fence: int, arguments: UploadId
    ) -> object:
        """End a blob; return what it is called."""
        draft = self._draft(actor.job, fence, arguments.upload)
        try:
            draft.finished = await self._node.content.offload(draft.upload.finish)
        except ValueError:
            raise _upload_over(arguments.upload) from None
        return {
            "blob": draft.blob,
            "cid": cid.text(draft.finished.cid),
            "size_bytes": draft.finished.size_bytes,
        }


def _with_pass(actor: Actor, request: Request, blob: int) -> Actor:
    """Return the job as it speaks to other nodes about one blob."""
    return replace(actor, certificate=request.pass_for(blob))


def _upload_over(upload: int) -> Problem:
    return Problem("not_found", f"the upload {upload} is over")
