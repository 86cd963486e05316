"""Operations run over a blocking `httpx.Client`. Its twin on trio is `async_wire`."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, assert_never

import httpx

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


class Wire(Transport):
    """Runs operations over a blocking `httpx.Client`."""

    def __init__(
        self, target: Target, *, sleep: Callable[[float], None] = time.sleep, **options: Any
    ) -> None:
        super().__init__(target, **options)
        self.sleep = sleep
        self.http = httpx.Client(**http_options(target))

    def prove(self, wanted: Wanted | None) -> None:
        """Have the node prove something, if it is to. Raises `WrongNode`."""
        if wanted is not None:
            response = self.http.request(**head(wanted.request, ""))
            self.take_proof(wanted, reply_of(response, response.content))

    def prove_now(self, wanted: Wanted | None) -> None:
        """Do as `prove`, outside of an operation. Raises `ConnectionFailed` too."""
        try:
            self.prove(wanted)
        except httpx.RequestError as error:
            raise translate(error, self.url) from error

    def run(self, operation: Operation[T]) -> T:
        """Return what the operation returns."""
        with Stream[T](self, operation) as stream:
            for _ in stream:
                pass
            return stream.result

    def iterate(self, operation: Operation[T]) -> "Stream[T]":
        """Return what the operation emits, one by one."""
        return Stream(self, operation)


class Stream(Generic[T]):
    """The values an operation emits; `result` once it is exhausted."""

    def __init__(self, wire: Wire, operation: Operation[T]) -> None:
        self._wire = wire
        self._course = wire.course(operation)
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    @property
    def result(self) -> T:
        """What the operation returned."""
        value: T = self._course.result
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            while (effect := self._course.advance()) is not None:
                if isinstance(effect, effects.Emit):
                    return self._course.hand_out(effect)
                try:
                    answer = self._perform(effect)
                except httpx.RequestError as error:
                    self._wire.lost()
                    self._course.fail(translate(error, self._wire.url))
                else:
                    self._course.answer(answer)
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Abandon the rest."""
        self._course.close()
        self._release()

    def _release(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response, self._pieces = None, iter(())

    def _perform(self, effect: effects.Effect) -> Any:
        match effect:
            case effects.Send(request):
                self._wire.prove(self._wire.unproven())
                response = self._wire.http.request(
                    **head(request, self._wire.token), content=_content(request)
                )
                return reply_of(response, response.content)
            case effects.Open(request):
                return self._open(request)
            case effects.Read():
                return next(self._pieces, b"")
            case effects.Close():
                return self._release()
            case effects.Wait(delay_s):
                return self._wire.sleep(delay_s)
            case effects.Now() | effects.Draw() | effects.NewKey():
                return self._wire.at_once(effect)
            case effects.Emit():
                raise AssertionError("emitted values are handed out, not performed")
            case _:
                assert_never(effect)

    def _open(self, request: Request) -> Reply:
        self._release()
        self._wire.prove(self._wire.unproven())
        http = self._wire.http
        built = http.build_request(**head(request, self._wire.token), content=_content(request))
        self._response = http.send(built, stream=True)
        if self._response.status_code >= 400:
            content = self._response.read()
            return reply_of(self._response, content)
        self._pieces = self._response.iter_raw()
        return reply_of(self._response, b"")


def _content(request: Request) -> bytes | Iterator[bytes]:
    content = request.content
    return _pieces(content) if isinstance(content, Upload) else content


def _pieces(upload: Upload) -> Iterator[bytes]:
    if upload.start is not None:
        upload.file.seek(upload.start)
    sent = 0
    while piece := upload.file.read(UPLOAD_PIECE_BYTES):
        yield piece
        sent += len(piece)
        if upload.progress is not None:
            upload.progress(sent, upload.size_bytes)
