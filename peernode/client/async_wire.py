"""Operations run over an `httpx.AsyncClient` on trio. Its blocking twin is `wire`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Self, assert_never

import httpx
import trio

from peernode.client import effects
from peernode.client.effects import Operation, Reply, Request, T, Upload
from peernode.client.proof import Wanted
from peernode.client.settings import Target
from peernode.client.transport import (
    UPLOAD_PIECE_BYTES,
    Transport,
    head,
    http_options,
    reply_of,
    translate,
)


class AsyncWire(Transport):
    """Runs operations over an `httpx.AsyncClient` on trio."""

    def __init__(
        self,
        target: Target,
        *,
        sleep: Callable[[float], Awaitable[None]] = trio.sleep,
        **options: Any,
    ) -> None:
        super().__init__(target, **options)
        self.sleep = sleep
        self.http = httpx.AsyncClient(**http_options(target))

    async def prove(self, wanted: Wanted | None) -> None:
        """Have the node prove something, if it is to. Raises `WrongNode`."""
        if wanted is not None:
            response = await self.http.request(**head(wanted.request, ""))
            self.take_proof(wanted, reply_of(response, response.content))

    async def prove_now(self, wanted: Wanted | None) -> None:
        """Do as `prove`, outside of an operation. Raises `ConnectionFailed` too."""
        try:
            await self.prove(wanted)
        except httpx.RequestError as error:
            raise translate(error, self.url) from error

    async def run(self, operation: Operation[T]) -> T:
        """Return what the operation returns."""
        async with AsyncStream[T](self, operation) as stream:
            async for _ in stream:
                pass
            return stream.result

    def iterate(self, operation: Operation[T]) -> "AsyncStream[T]":
        """Return what the operation emits, one by one."""
        return AsyncStream(self, operation)


class AsyncStream(Generic[T]):
    """The values an operation emits; `result` once it is exhausted."""

    def __init__(self, wire: AsyncWire, operation: Operation[T]) -> None:
        self._wire = wire
        self._course = wire.course(operation)
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    @property
    def result(self) -> T:
        """What the operation returned."""
        value: T = self._course.result
        return value

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            while (effect := self._course.advance()) is not None:
                if isinstance(effect, effects.Emit):
                    return self._course.hand_out(effect)
                try:
                    answer = await self._perform(effect)
                except httpx.RequestError as error:
                    self._wire.lost()
                    self._course.fail(translate(error, self._wire.url))
                else:
                    self._course.answer(answer)
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Abandon the rest."""
        self._course.close()
        await self._release()

    async def _release(self) -> None:
        response, self._response, self._pieces = self._response, None, None
        if response is not None:
            with trio.CancelScope(shield=True):
                await response.aclose()

    async def _perform(self, effect: effects.Effect) -> Any:
        match effect:
            case effects.Send(request):
                await self._wire.prove(self._wire.unproven())
                response = await self._wire.http.request(
                    **head(request, self._wire.token), content=_async_content(request)
                )
                return reply_of(response, response.content)
            case effects.Open(request):
                return await self._open(request)
            case effects.Read():
                return b"" if self._pieces is None else await anext(self._pieces, b"")
            case effects.Close():
                return await self._release()
            case effects.Wait(delay_s):
                return await self._wire.sleep(delay_s)
            case effects.Now() | effects.Draw() | effects.NewKey():
                return self._wire.at_once(effect)
            case effects.Emit():
                raise AssertionError("emitted values are handed out, not performed")
            case _:
                assert_never(effect)

    async def _open(self, request: Request) -> Reply:
        await self._release()
        await self._wire.prove(self._wire.unproven())
        http = self._wire.http
        built = http.build_request(
            **head(request, self._wire.token), content=_async_content(request)
        )
        self._response = await http.send(built, stream=True)
        if self._response.status_code >= 400:
            content = await self._response.aread()
            return reply_of(self._response, content)
        self._pieces = self._response.aiter_raw()
        return reply_of(self._response, b"")


def _async_content(request: Request) -> bytes | AsyncIterator[bytes]:
    content = request.content
    return _async_pieces(content) if isinstance(content, Upload) else content


async def _async_pieces(upload: Upload) -> AsyncIterator[bytes]:
    if upload.start is not None:
        upload.file.seek(upload.start)
    sent = 0
    while piece := await trio.to_thread.run_sync(upload.file.read, UPLOAD_PIECE_BYTES):
        yield piece
        sent += len(piece)
        if upload.progress is not None:
            upload.progress(sent, upload.size_bytes)
