"""The node's side of the `edge` library: what function code may do to this node's objects.

A job acts with the right of its function's project, on that project's namespaces, blobs and
functions, and may read the blobs that its input names; it never acts with the other rights of
whoever handed it in.  Writes come in two kinds: those that must not wait are done when they are
called for (`call`); all others travel with the result and become part of the batch that makes the
job succeeded (`prepare`), so that an attempt that fails, or is replaced, leaves nothing behind.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec

from peernode import access
from peernode.content import BlobRow
from peernode.edge_arguments import (
    BlobAppend,
    BlobBegin,
    BlobId,
    BlobRead,
    JobCall,
    KvIncrement,
    KvKey,
    KvList,
    KvOpen,
    KvPut,
    ProgramRead,
    UploadId,
)
from peernode.job_rows import Request
from peernode.json_bodies import BODY_SIZE_MAX_BYTES
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.schemas import check_input
from peernode.space_limits import check_json, check_key, check_ttl, check_value
from peernode.spaces import Space
from peernode.transactions import Transaction
from storage import cid, ids
from storage.blobs import Content, Release, Upload
from storage.errors import BlobError, BlobTooLarge
from storage.places import Class
from storage.store import Table
from worker import protocol

if TYPE_CHECKING:
    from peernode.node import Node

UPLOADS_MAX: Final = 64
"""Uploads of one job at once, finished ones that are not kept yet included. Source: guess."""
CHAIN_LENGTH_MAX: Final = 8
"""Jobs that hand in jobs, counted from the first. Source: guess; it ends runaway recursion."""
KEYS_MAX: Final = 1000
"""Keys in one answer."""


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


def _actor(job: int, request: Request) -> Actor:
    return Actor(kind="job", user=request.caller, job=job, project=request.project)


class EdgeCalls:
    """Answers function code's calls, and turns its buffered writes into transactions."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._drafts: dict[int, _Drafts] = {}
        """Job -> what its present attempt has begun."""
        self._operations: Mapping[
            str, tuple[type[Any], Callable[[Actor, Request, int, Any], Awaitable[object]]]
        ] = {
            "kv.open": (KvOpen, self._kv_open),
            "kv.get": (KvKey, self._kv_get),
            "kv.list": (KvList, self._kv_list),
            "kv.put": (KvPut, self._kv_put),
            "kv.delete": (KvKey, self._kv_delete),
            "kv.increment": (KvIncrement, self._kv_increment),
            "blob.stat": (BlobId, self._blob_stat),
            "blob.read": (BlobRead, self._blob_read),
            "program.read": (ProgramRead, self._program_read),
            "blob.begin": (BlobBegin, self._blob_begin),
            "blob.append": (BlobAppend, self._blob_append),
            "blob.finish": (UploadId, self._blob_finish),
            "job.call": (JobCall, self._job_call),
        }

    async def call(self, job: int, request: Request, call: protocol.Call) -> object:
        """Return the answer to `call`; raises `Problem`."""
        known = self._operations.get(call.operation)
        if known is None:
            raise Problem("unknown_method", f"edge has no {call.operation!r}")
        kind, handler = known
        try:
            arguments = msgspec.convert(call.arguments, kind, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise Problem("invalid_field", f"{call.operation}: {error}") from None
        try:
            return await handler(_actor(job, request), request, call.fence, arguments)
        except BlobTooLarge as error:
            raise Problem("too_large", str(error)) from None
        except BlobError as error:
            raise Problem("internal", f"the blob cannot be read: {error}") from None

    def forget(self, job: int, fence: int) -> None:
        """Drop what the attempt began and did not keep."""
        held = self._drafts.get(job)
        if held is not None and held.fence == fence:
            del self._drafts[job]
            for draft in held.drafts.values():
                draft.upload.close()

    # --- buffered writes --------------------------------------------------------------------

    def prepare(self, job: int, request: Request, writes: Sequence[protocol.Write]) -> Transaction:
        """Return what `writes` come to now; raises `Problem` when one is refused."""
        actor, spaces = _actor(job, request), self._node.spaces
        transaction = Transaction(self._node.store)
        dropped = {write.blob for write in writes if isinstance(write, protocol.BlobDelete)}
        for write in writes:
            match write:
                case protocol.KvPut(space, key, value, ttl_s):
                    check_json(value)
                    spaces.write(
                        transaction,
                        actor,
                        self._space(actor, space, "key_put"),
                        check_key(key),
                        check_value(value),
                        check_ttl(ttl_s),
                    )
                case protocol.KvDelete(space, key):
                    spaces.write(
                        transaction,
                        actor,
                        self._space(actor, space, "key_delete"),
                        check_key(key),
                        None,
                    )
                case protocol.KvIncrement(space, key, by):
                    spaces.increment(
                        transaction,
                        actor,
                        self._space(actor, space, "key_increment"),
                        check_key(key),
                        by,
                    )
                case protocol.BlobKeep(blob):
                    if blob not in dropped:
                        self._keep(transaction, job, request, blob)
                case protocol.BlobDelete(blob):
                    if self._finished(job, blob) is None:
                        self._delete(transaction, actor, request, blob)
                case _:
                    assert_never(write)
        return transaction

    def _finished(self, job: int, blob: int) -> _Draft | None:
        held = self._drafts.get(job)
        draft = held.drafts.get(blob) if held else None
        return None if draft is None or draft.finished is None else draft

    def _keep(self, transaction: Transaction, job: int, request: Request, blob: int) -> None:
        draft = self._finished(job, blob)
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

    def _delete(self, transaction: Transaction, actor: Actor, request: Request, blob: int) -> None:
        row = self._row(actor, request, blob, "delete")
        release: Release | None = self._node.content.delete(transaction, blob)
        assert row is not None
        transaction.after.append(lambda: self._node.spawn(self._node.content.sweep, release))

    # --- calls ------------------------------------------------------------------------------

    def _space(self, actor: Actor, space: int, verb: str) -> Space:
        found = self._node.spaces.get(space)
        target = access.target(self._node, actor, "kv", space, found.project if found else 0)
        if found is None or not access.may(actor, verb, target):
            raise Problem("not_found", f"there is no namespace {space}")
        if self._node.spaces.is_elsewhere(found):
            home, name = ids.node_number(space), found.name
            # A job has no certificate to show there, and its writes are one batch with its end.
            raise Problem(
                "misdirected",
                f"namespace {name!r} is cas and kept by node {home}: only jobs of that node use it",
                hint="run the job there, or use a namespace that is local or global without cas",
            )
        return found

    async def _kv_open(
        self, actor: Actor, request: Request, fence: int, arguments: KvOpen
    ) -> object:
        found = self._node.spaces.named(arguments.name, request.project, request.function)
        if found is None:
            raise Problem(
                "not_found", f"there is no namespace {arguments.name!r} of this function or project"
            )
        return {"space": found.id, "scope": found.scope, "mode": found.mode}

    async def _kv_get(self, actor: Actor, request: Request, fence: int, arguments: KvKey) -> object:
        space = self._space(actor, arguments.space, "key_get")
        held = self._node.spaces.read(space, check_key(arguments.key))
        return None if held is None else {"value": held.value, "version": held.version}

    async def _kv_list(
        self, actor: Actor, request: Request, fence: int, arguments: KvList
    ) -> object:
        space = self._space(actor, arguments.space, "key_list")
        prefix = check_key(arguments.prefix) if arguments.prefix else b""
        after = check_key(arguments.cursor) if arguments.cursor else b""
        keys, more = self._node.spaces.keys(space, prefix, after, KEYS_MAX)
        texts = [key.decode("utf-8", "replace") for key in keys]
        return {"keys": texts, "cursor": texts[-1] if more else None}

    async def _kv_put(self, actor: Actor, request: Request, fence: int, arguments: KvPut) -> object:
        check_json(arguments.value)
        value, key = check_value(arguments.value), check_key(arguments.key)
        ttl_s = check_ttl(arguments.ttl_s)

        def body(transaction: Transaction) -> int:
            space = self._space(actor, arguments.space, "key_put")
            return self._node.spaces.write(transaction, actor, space, key, value, ttl_s)

        return {"version": await self._node.transactions.run(body)}

    async def _kv_delete(
        self, actor: Actor, request: Request, fence: int, arguments: KvKey
    ) -> object:
        key = check_key(arguments.key)

        def body(transaction: Transaction) -> None:
            space = self._space(actor, arguments.space, "key_delete")
            self._node.spaces.write(transaction, actor, space, key, None)

        await self._node.transactions.run(body)
        return {}

    async def _kv_increment(
        self, actor: Actor, request: Request, fence: int, arguments: KvIncrement
    ) -> object:
        key = check_key(arguments.key)

        def body(transaction: Transaction) -> int:
            space = self._space(actor, arguments.space, "key_increment")
            return self._node.spaces.increment(transaction, actor, space, key, arguments.by)[0]

        return {"value": await self._node.transactions.run(body)}

    def _row(self, actor: Actor, request: Request, blob: int, verb: str) -> BlobRow:
        row = self._node.content.row(blob) if 0 < blob < ids.ID_END else None
        granted = blob in request.granted
        if row is None or not access.may(
            actor,
            verb,
            self._node.content.target(self._node, actor, row, blob, granted=granted),
        ):
            raise Problem("not_found", f"there is no blob {blob} that this job may {verb}")
        return row

    async def _blob_stat(
        self, actor: Actor, request: Request, fence: int, arguments: BlobId
    ) -> object:
        row = self._row(actor, request, arguments.blob, "get")
        return {
            "cid": cid.text(cid.Cid(row.cid)),
            "size_bytes": row.size_bytes,
            "media_type": row.media_type,
            "name": row.name,
        }

    async def _blob_read(
        self, actor: Actor, request: Request, fence: int, arguments: BlobRead
    ) -> object:
        row = self._row(actor, request, arguments.blob, "content")
        return await self._node.content.read_piece(row.cid, arguments.offset, arguments.length)

    async def _program_read(
        self, actor: Actor, request: Request, fence: int, arguments: ProgramRead
    ) -> object:
        root = self._node.programs.cid(request.function, request.version)
        return await self._node.content.read_piece(root, arguments.offset, arguments.length)

    def _draft(self, job: int, fence: int, upload: int) -> _Draft:
        held = self._drafts.get(job)
        draft = held.drafts.get(upload) if held and held.fence == fence else None
        if draft is None or draft.finished is not None:
            raise Problem("not_found", f"there is no upload {upload}")
        return draft

    async def _blob_begin(
        self, actor: Actor, request: Request, fence: int, arguments: BlobBegin
    ) -> object:
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

    async def _blob_append(
        self, actor: Actor, request: Request, fence: int, arguments: BlobAppend
    ) -> object:
        draft = self._draft(actor.job, fence, arguments.upload)
        try:
            await self._node.content.offload(draft.upload.write, arguments.data)
        except ValueError:  # It failed before, or the attempt is over.
            raise _upload_over(arguments.upload) from None
        return {}

    async def _blob_finish(
        self, actor: Actor, request: Request, fence: int, arguments: UploadId
    ) -> object:
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

    async def _job_call(
        self, actor: Actor, request: Request, fence: int, arguments: JobCall
    ) -> object:
        if len(arguments.input) > BODY_SIZE_MAX_BYTES:
            raise Problem("too_large", "input: too large", limit=BODY_SIZE_MAX_BYTES)
        check_json(arguments.input)
        length, parent = 1, actor.job
        while (above := self._node.live.request(parent)) is not None and above.parent:
            length, parent = length + 1, above.parent
        if length >= CHAIN_LENGTH_MAX:
            raise Problem("conflict", "too many jobs that hand in jobs", limit=CHAIN_LENGTH_MAX)
        function = arguments.function
        if not function.isdigit():
            own = [
                entry
                for owned in self._node.registry.owned(Class.FUNCTION, request.project)
                if (entry := self._node.registry.get(Class.FUNCTION, owned)) is not None
                and entry.attributes.name == function.rpartition("/")[2]
            ]
            if not own:
                raise Problem("not_found", f"there is no function {function!r} in this project")
            function = str(own[0].id)
        version = access.callable_version(self._node, actor, function, None)
        if version.input_schema is not None:
            check_input(version.input_schema, arguments.input)
        job, _ = await self._node.jobs.hand_in(
            version,
            request.caller,
            arguments.input,
            blobs=[],
            granted=request.granted,
            terms=b"{}",
            parent=actor.job,
        )
        return {"job": str(job)}


def _upload_over(upload: int) -> Problem:
    return Problem("not_found", f"the upload {upload} is over")
