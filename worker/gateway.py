"""What functions ask of the world: each request of `edge` answered here or by the node.

Contents of blobs are served from the worker's cache and `edge.http` is done here; all else becomes
a `Call` over the link.  A call outlives the link: it is made again on the next one, so a job need
not notice that the link broke.  Uploads are the exception, as the node forgets a half one: they
fail with `link_lost`, and `edge` begins them again.

A secret goes from the link to the child's socket and lies nowhere between; what the child says from
then on is looked through for it (`worker.redaction`).
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio

from worker import frames
from worker.blob_cache import BlobCache, CacheError, is_cid
from worker.child import Attempt
from worker.egress import Egress, EgressError
from worker.protocol import Call, Reply

UNREPEATABLE: Final = frozenset({"blob.append", "blob.finish"})
"""Calls about an upload that began on the same link."""
LINK_LOST: Final = "link_lost"


class CallError(Exception):
    """The node refused a call; the arguments are the problem code and what the node says of it."""


class Content(msgspec.Struct, frozen=True):
    """The node's answer to `blob.stat`."""

    cid: str
    size_bytes: int
    media_type: str
    name: str | None = None


class Secret(msgspec.Struct, frozen=True):
    """The node's answer to `secret.get`."""

    value: str

    def __repr__(self) -> str:
        """Say nothing of it."""
        return "Secret()"


class Upload(msgspec.Struct, frozen=True):
    """The node's answer to `blob.begin`."""

    upload: int


class _Pending:
    __slots__ = ("call", "done", "reply")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.done = trio.Event()
        self.reply: Reply | None = None


class Calls:
    """Calls to the node that wait for their answers."""

    def __init__(self, send: Callable[[Call], None]) -> None:
        """`send` takes a call for the node; it may drop it while the link is down."""
        self._send = send
        self._number = 0
        self._pending: dict[int, _Pending] = {}
        self._uploads: set[int] = set()
        """Uploads that began on this link; one whose process ends is forgotten with the link."""

    async def ask(self, attempt: Attempt, operation: str, arguments: dict[str, Any]) -> Any:
        """Return the node's answer. Raises `CallError`."""
        if operation in UNREPEATABLE and arguments["upload"] not in self._uploads:
            raise CallError(LINK_LOST)
        self._number += 1
        lease = attempt.lease
        call = Call(self._number, lease.job, lease.fence, operation, arguments)
        pending = self._pending[self._number] = _Pending(call)
        self._send(call)
        try:
            await pending.done.wait()
        finally:
            del self._pending[call.call]
        if pending.reply is None:
            raise CallError(LINK_LOST)
        if pending.reply.error:
            said = pending.reply.answer
            raise CallError(pending.reply.error, said if isinstance(said, str) else None)
        answer = pending.reply.answer
        if operation == "blob.begin":
            self._uploads.add(msgspec.convert(answer, Upload).upload)
        elif operation == "blob.finish":
            self._uploads.discard(arguments["upload"])
        return answer

    def take(self, reply: Reply) -> None:
        """Take an answer; one that nobody waits for any more is dropped."""
        pending = self._pending.get(reply.call)
        if pending is not None:
            pending.reply = reply
            pending.done.set()

    def lost(self) -> None:
        """The link is over: fail what cannot be repeated."""
        self._uploads.clear()
        for pending in self._pending.values():
            if pending.call.operation in UNREPEATABLE:
                pending.done.set()

    def unanswered(self) -> list[Call]:
        """Return what must be asked again on a new link."""
        return [
            pending.call
            for pending in self._pending.values()
            if pending.reply is None and pending.call.operation not in UNREPEATABLE
        ]


class Gateway:
    """Answers the requests of all children."""

    def __init__(self, calls: Calls, cache: BlobCache, egress: Egress) -> None:
        self._calls = calls
        self._cache = cache
        self._egress = egress

    async def answer(self, attempt: Attempt, request: frames.Request) -> frames.Reply:
        """Answer one request; what goes wrong is a problem code in the answer."""
        try:
            answer = await self._do(attempt, request.operation, request.arguments)
            return frames.Reply(request.number, "", answer)
        except CallError as error:
            return frames.Reply(request.number, str(error.args[0]), *error.args[1:2] or (None,))
        except (CacheError, EgressError) as error:
            return frames.Reply(request.number, str(error.args[0]), None)
        except msgspec.ValidationError:
            return frames.Reply(request.number, "internal_error", None)

    async def _do(self, attempt: Attempt, operation: str, arguments: dict[str, Any]) -> Any:
        match operation:
            case "http":
                return await self._egress.request(arguments, attempt.program.program.egress)
            case "blob.path":
                return await self._path(attempt, arguments["blob"])
            case "secret.get":
                answer = await self._calls.ask(attempt, operation, arguments)
                # Before the child has it: from then on it may say it.
                attempt.output.redaction.add(msgspec.convert(answer, Secret).value)
                return answer
            case _:
                return await self._calls.ask(attempt, operation, arguments)

    async def _path(self, attempt: Attempt, blob: int) -> dict[str, Any]:
        facts = msgspec.convert(
            await self._calls.ask(attempt, "blob.stat", {"blob": blob}), Content
        )
        if not is_cid(facts.cid):  # it becomes a file's name
            raise CacheError("internal_error")

        async def read(offset: int, length: int) -> bytes:
            arguments = {"blob": blob, "offset": offset, "length": length}
            data = await self._calls.ask(attempt, "blob.read", arguments)
            return msgspec.convert(data, bytes, builtin_types=(bytes,))

        path = await self._cache.fetch(facts.cid, facts.size_bytes, read)
        attempt.pinned.append(facts.cid)
        return {
            "path": str(path),
            "cid": facts.cid,
            "size_bytes": facts.size_bytes,
            "media_type": facts.media_type,
            "name": facts.name,
        }

    def release(self, attempt: Attempt) -> None:
        """An attempt is over: let go of the contents it used."""
        for cid in attempt.pinned:
            self._cache.release(cid)
        attempt.pinned.clear()
