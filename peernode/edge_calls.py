"""The node's side of the `edge` library: what function code may do to this node's objects.

A job acts with the right of its function's project, on that project's namespaces, blobs and
functions, and may read the blobs that its input names; it never acts with the other rights of
whoever handed it in.  Writes come in two kinds: those that must not wait are done when they are
called for (`call`); all others travel with the result and become part of the batch that makes the
job succeeded (`prepare`), so that an attempt that fails, or is replaced, leaves nothing behind.

What blobs are to a job is in `edge_blobs`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec

from peernode import access, sealed_secrets
from peernode.calls import Body, Call
from peernode.classes import kv_bodies as kv
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
    SecretGet,
    UploadId,
)
from peernode.edge_blobs import EdgeBlobs
from peernode.job_rows import Request
from peernode.json_bodies import BODY_SIZE_MAX_BYTES
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.schemas import check_input
from peernode.space_limits import check_json, check_key, check_ttl, check_value
from peernode.spaces import Space
from peernode.transactions import Transaction
from storage import ids
from storage.errors import BlobError, BlobTooLarge, InvalidData
from storage.places import Class
from worker import protocol

if TYPE_CHECKING:
    from peernode.foreign_kv import Method
    from peernode.node import Node

UPLOADS_MAX: Final = 64
"""Uploads of one job at once, finished ones that are not kept yet included. Source: guess."""
CHAIN_LENGTH_MAX: Final = 8
"""Jobs that hand in jobs, counted from the first. Source: guess; it ends runaway recursion."""
KEYS_MAX: Final = 1000
"""Keys in one answer."""


def _actor(job: int, request: Request) -> Actor:
    return Actor(kind="job", user=request.caller, job=job, project=request.project)


class EdgeCalls:
    """Answers function code's calls, and turns its buffered writes into transactions."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._blobs = blobs = EdgeBlobs(node)
        self._operations: Mapping[
            str, tuple[type[Any], Callable[[Actor, Request, int, Any], Awaitable[object]]]
        ] = {
            "kv.open": (KvOpen, self._kv_open),
            "kv.get": (KvKey, self._kv_get),
            "kv.list": (KvList, self._kv_list),
            "kv.put": (KvPut, self._kv_put),
            "kv.delete": (KvKey, self._kv_delete),
            "kv.increment": (KvIncrement, self._kv_increment),
            "blob.stat": (BlobId, blobs.stat),
            "blob.read": (BlobRead, blobs.read),
            "program.read": (ProgramRead, self._program_read),
            "blob.begin": (BlobBegin, blobs.begin),
            "blob.append": (BlobAppend, blobs.append),
            "blob.finish": (UploadId, blobs.finish),
            "secret.get": (SecretGet, self._secret_get),
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
        self._blobs.forget(job, fence)

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
                        self._buffered(actor, space, "key_put"),
                        check_key(key),
                        check_value(value),
                        check_ttl(ttl_s),
                    )
                case protocol.KvDelete(space, key):
                    spaces.write(
                        transaction,
                        actor,
                        self._buffered(actor, space, "key_delete"),
                        check_key(key),
                        None,
                    )
                case protocol.KvIncrement(space, key, by):
                    spaces.increment(
                        transaction,
                        actor,
                        self._buffered(actor, space, "key_increment"),
                        check_key(key),
                        by,
                    )
                case protocol.BlobKeep(blob):
                    if blob not in dropped:
                        self._blobs.keep(transaction, job, request, blob)
                case protocol.BlobDelete(blob):
                    if not self._blobs.finished(job, blob):
                        self._blobs.delete(transaction, actor, request, blob)
                case _:
                    assert_never(write)
        return transaction

    # --- calls ------------------------------------------------------------------------------

    def _space(self, actor: Actor, space: int, verb: str) -> Space:
        """Return a namespace in which the job may do `verb`; raises `Problem`."""
        found = self._node.spaces.get(space)
        target = access.target(self._node, actor, "kv", space, found.project if found else 0)
        if found is None or not access.may(actor, verb, target):
            raise Problem("not_found", f"there is no namespace {space}")
        return found

    def _buffered(self, actor: Actor, space: int, verb: str) -> Space:
        """Return a namespace to which a job may write with its end; raises `Problem`."""
        found = self._space(actor, space, verb)
        if self._node.spaces.is_elsewhere(found):
            raise Problem(
                "misdirected",
                f"namespace {found.name!r} is cas and kept by node {ids.node_number(space)}, "
                "which cannot write in one batch with the end of a job here",
                hint="write at once, with edge.kv(NAME).now, or run the job there",
            )
        return found

    async def _at_home(self, actor: Actor, method: "Method", space: Space, body: Body) -> Any:
        """Return what the home of a `cas` namespace answers to a call about a key there."""
        assert self._node.foreign is not None
        call = Call(actor, [], {}, object_id=space.id)
        call.body = body
        return (await self._node.foreign.kv.ask(call, method, space)).value

    async def _kv_open(
        self, actor: Actor, request: Request, fence: int, arguments: KvOpen
    ) -> object:
        found = self._node.spaces.named(arguments.name, request.project, request.function)
        if found is None:
            raise Problem(
                "not_found", f"there is no namespace {arguments.name!r} of this function or project"
            )
        opened: dict[str, object] = {"space": found.id, "scope": found.scope, "mode": found.mode}
        if self._node.spaces.is_elsewhere(found):
            opened["home"] = ids.node_number(found.id)
        return opened

    async def _kv_get(self, actor: Actor, request: Request, fence: int, arguments: KvKey) -> object:
        space, key = self._space(actor, arguments.space, "key_get"), check_key(arguments.key)
        if self._node.spaces.is_elsewhere(space):
            try:
                found = await self._at_home(actor, "get", space, kv.Get(key=arguments.key))
            except Problem as problem:
                if _is_missing_key(problem):
                    return None
                raise
            return {"value": bytes(found.value), "version": int(found.version)}
        held = self._node.spaces.read(space, key)
        return None if held is None else {"value": held.value, "version": held.version}

    async def _kv_list(
        self, actor: Actor, request: Request, fence: int, arguments: KvList
    ) -> object:
        space = self._space(actor, arguments.space, "key_list")
        prefix = check_key(arguments.prefix) if arguments.prefix else b""
        after = check_key(arguments.cursor) if arguments.cursor else b""
        if self._node.spaces.is_elsewhere(space):
            page = kv.ListKeys(prefix=arguments.prefix, limit=KEYS_MAX, cursor=arguments.cursor)
            found = await self._at_home(actor, "list", space, page)
            return {"keys": found.items, "cursor": found.next}
        keys, last = await self._node.spaces.keys(space, prefix, after, KEYS_MAX)
        texts = [key.decode("utf-8", "replace") for key in keys]
        return {"keys": texts, "cursor": None if last is None else last.decode("utf-8", "replace")}

    async def _kv_put(self, actor: Actor, request: Request, fence: int, arguments: KvPut) -> object:
        check_json(arguments.value)
        value, key = check_value(arguments.value), check_key(arguments.key)
        ttl_s, if_version = check_ttl(arguments.ttl_s), arguments.if_version
        space = self._space(actor, arguments.space, "key_put")
        if self._node.spaces.is_elsewhere(space):
            put = kv.Put(
                key=arguments.key, value=msgspec.Raw(value), if_version=if_version, ttl_s=ttl_s
            )
            return {"version": int((await self._at_home(actor, "put", space, put)).version)}

        def body(transaction: Transaction) -> int:
            space = self._space(actor, arguments.space, "key_put")
            return self._node.spaces.put(
                transaction, actor, space, key, value, if_version=if_version, ttl_s=ttl_s
            )

        return {"version": await self._node.transactions.run(body)}

    async def _kv_delete(
        self, actor: Actor, request: Request, fence: int, arguments: KvKey
    ) -> object:
        key = check_key(arguments.key)
        space = self._space(actor, arguments.space, "key_delete")
        if self._node.spaces.is_elsewhere(space):
            try:
                await self._at_home(actor, "delete", space, kv.Delete(key=arguments.key))
            except Problem as problem:
                if not _is_missing_key(problem):
                    raise
            return {}

        def body(transaction: Transaction) -> None:
            space = self._space(actor, arguments.space, "key_delete")
            self._node.spaces.write(transaction, actor, space, key, None)

        await self._node.transactions.run(body)
        return {}

    async def _kv_increment(
        self, actor: Actor, request: Request, fence: int, arguments: KvIncrement
    ) -> object:
        key = check_key(arguments.key)
        space = self._space(actor, arguments.space, "key_increment")
        if self._node.spaces.is_elsewhere(space):
            step = kv.Increment(key=arguments.key, by=arguments.by)
            return {"value": (await self._at_home(actor, "increment", space, step)).value}

        def body(transaction: Transaction) -> int:
            space = self._space(actor, arguments.space, "key_increment")
            return self._node.spaces.increment(transaction, actor, space, key, arguments.by)[0]

        return {"value": await self._node.transactions.run(body)}

    async def _program_read(
        self, actor: Actor, request: Request, fence: int, arguments: ProgramRead
    ) -> object:
        root = self._node.programs.cid(request.function, request.version, arguments.wheel)
        return await self._node.content.read_piece(root, arguments.offset, arguments.length)

    async def _secret_get(
        self, actor: Actor, request: Request, fence: int, arguments: SecretGet
    ) -> object:
        entry, name = self._node.registry.get(Class.PROJECT, request.project), arguments.name
        held = () if entry is None else entry.attributes.secrets
        found = sealed_secrets.find(held, name)
        if entry is None or found is None:
            raise Problem("not_found", f"the project has no secret {name!r}")
        access.require(actor, "use_secret", access.entry_target(self._node, actor, entry))
        own = self._node.identity
        if own.number not in found.nodes:
            nodes = ", ".join(str(number) for number in found.nodes)
            raise Problem(
                "not_found", f"secret {name!r} is for node {nodes}, and this is node {own.number}"
            )
        try:
            value = sealed_secrets.reveal(found, own.mesh, entry.id, own.number, own.keypair)
        except InvalidData as error:
            raise Problem("not_found", f"secret {name!r} cannot be opened: {error}") from None
        return {"value": value}

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
            passes=request.passes,
            certificate=request.certificate,
            terms=b"{}",
            parent=actor.job,
        )
        return {"job": str(job)}


def _is_missing_key(problem: Problem) -> bool:
    return (problem.code, problem.field) == ("not_found", "key")
