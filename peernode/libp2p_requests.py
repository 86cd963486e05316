"""Requests and replies on one long-lived stream: many open at once, in any order of replies.

A frame from who asks is a number (varint) and the request; a frame back is that number, a byte that
says how it went, and the reply.  Numbers are the asking side's, each used once on a stream.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

import trio

from gossip.errors import PeerBusy, PeerClosed, PeerError, RemoteProtocolError
from gossip.memory_stream import require_frame
from gossip.network import RequestHandler
from gossip.wire_encode import varint
from peernode.libp2p_frames import take_number
from peernode.libp2p_stream import WRITE_SIZE_BYTES, FrameStream

HEAD_SIZE_MAX_BYTES: Final = 10
"""Most bytes before a request or reply: a number and how it went."""
WRITES_QUEUED_MAX: Final = 16
"""Most frames that wait to be written, a stream. Source: guess; each is in memory anyway."""
REPLIES_HELD_MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of replies that found no place among those, a stream, above which no further request is
read: who does not read what it asked for waits. Source: guess; a few blocks of a blob."""

Parts: TypeAlias = tuple[bytes, ...]
"""A frame that is not put together yet."""

_DONE: Final = 0
_FAILED: Final = 1
_BUSY: Final = 2


class _Open:
    """A request without a reply yet."""

    def __init__(self, reply_size_max_bytes: int) -> None:
        self.reply_size_max_bytes = reply_size_max_bytes
        self.ended = trio.Event()
        self.outcome: bytes | PeerError = PeerClosed("the stream is over")
        self.is_wanted = True


class RequestChannel:
    """The asking side of a stream. Runs in `run`."""

    def __init__(self, stream: FrameStream, open_max: int) -> None:
        """`open_max` is how many requests the other side takes at once."""
        self._stream = stream
        stream.frames.size_max_bytes = 0
        self._room = trio.Semaphore(open_max)
        self._given_up_max = open_max // 2
        self._given_up = 0
        self._wanted = 0
        self._last = 0
        self._open: dict[int, _Open] = {}
        self._writes, self._to_write = trio.open_memory_channel[Parts](WRITES_QUEUED_MAX)
        self._idle = trio.Event()
        self.is_over = False
        """No new requests: the stream has ended, or too many of its requests were given up."""

    async def request(self, frame: bytes, reply_size_max_bytes: int) -> bytes:
        """Return the reply. Raises `PeerClosed`, `PeerBusy` or `RemoteProtocolError`."""
        require_frame(frame)
        self._wanted += 1
        try:
            return await self._request(frame, reply_size_max_bytes)
        finally:
            self._wanted -= 1
            if self.is_over and self._wanted == 0:
                self._idle.set()

    async def _request(self, frame: bytes, reply_size_max_bytes: int) -> bytes:
        await self._room.acquire()
        self._last += 1
        number, waiting = self._last, _Open(reply_size_max_bytes)
        self._open[number] = waiting
        frames = self._stream.frames
        frames.size_max_bytes = max(
            frames.size_max_bytes, reply_size_max_bytes + HEAD_SIZE_MAX_BYTES
        )
        try:
            await self._writes.send((varint(number), frame))
        except BaseException as error:
            # Never written: no reply will come.
            del self._open[number]
            self._room.release()
            if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
                raise PeerClosed(f"the stream with {self._stream.peer} is over") from None
            raise
        try:
            await waiting.ended.wait()
        finally:
            if not waiting.ended.is_set():
                waiting.is_wanted = False
                self._given_up += 1
                # What never replies must not fill the stream for ever.
                self.is_over |= self._given_up > self._given_up_max
        if isinstance(waiting.outcome, PeerError):
            raise waiting.outcome
        return waiting.outcome

    async def run(self) -> None:
        """Carry requests and replies until the stream ends. Never raises `PeerError`."""
        reason: PeerError = PeerClosed(f"the stream with {self._stream.peer} is over")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._retire, nursery.cancel_scope)
                try:
                    while True:
                        self._take(await self._stream.receive())
                except PeerError as error:
                    if isinstance(error, RemoteProtocolError):
                        reason = error
                    nursery.cancel_scope.cancel()
        finally:
            self.is_over = True
            self._to_write.close()
            for waiting in self._open.values():
                waiting.outcome = reason
                waiting.ended.set()
                self._room.release()  # Whoever waits for room finds that it is over.
            self._open.clear()
            await self._stream.aclose()

    async def _write(self) -> None:
        with suppress(PeerError):  # The reader hears of it too.
            await _write_all(self._stream, self._to_write)

    async def _retire(self, scope: trio.CancelScope) -> None:
        await self._idle.wait()
        scope.cancel()

    def _take(self, frame: bytes) -> None:
        number, start = take_number(frame)
        waiting = self._open.pop(number, None)
        if waiting is None or len(frame) == start:
            raise RemoteProtocolError("a reply that nobody asked for")
        self._room.release()
        self._given_up -= not waiting.is_wanted
        how, reply = frame[start], frame[start + 1 :]
        if how == _BUSY:
            waiting.outcome = PeerBusy(f"{self._stream.peer} has enough to do")
        elif how != _DONE or not reply:
            waiting.outcome = PeerClosed(f"{self._stream.peer} failed at it")
        elif len(reply) > waiting.reply_size_max_bytes:
            waiting.outcome = RemoteProtocolError(f"a reply of {len(reply)} bytes")
        else:
            waiting.outcome = reply
        waiting.ended.set()


async def answer_requests(
    stream: FrameStream,
    handler: RequestHandler,
    size_max_bytes: int,
    report: Callable[[Exception], None],
    fault: Callable[[PeerError], None],
    take: Callable[[], bool],
    give_back: Callable[[], None],
) -> None:
    """Answer what comes on a stream until it ends. Never raises `PeerError`.

    `report` is told of faults of the handler, `fault` of those of the peer; `take` tells whether
    one more request may be open, and `give_back` ends it.
    """
    stream.frames.size_max_bytes = size_max_bytes + HEAD_SIZE_MAX_BYTES
    writes, to_write = trio.open_memory_channel[Parts](WRITES_QUEUED_MAX)

    async def write() -> None:
        try:
            await _write_all(stream, to_write)
        except PeerError:
            nursery.cancel_scope.cancel()

    held_bytes = 0
    fell = trio.Event()

    async def answer(number: bytes, request: bytes) -> None:
        nonlocal held_bytes
        try:
            reply = await _reply(handler, stream.peer, request, report, fault)
            size_bytes = sum(map(len, reply))
            held_bytes += size_bytes
            try:
                await writes.send((number, *reply))
            finally:
                held_bytes -= size_bytes
                fell.set()
        finally:
            give_back()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            try:
                while True:
                    while held_bytes > REPLIES_HELD_MAX_BYTES:
                        fell = trio.Event()
                        await fell.wait()
                    frame = await stream.receive()
                    _, start = take_number(frame)
                    if not 0 < len(frame) - start <= size_max_bytes:
                        raise RemoteProtocolError(f"a request of {len(frame) - start} bytes")
                    if take():
                        nursery.start_soon(answer, frame[:start], frame[start:])
                    else:
                        await writes.send((frame[:start], bytes([_BUSY])))
            except PeerError as error:
                fault(error)
                nursery.cancel_scope.cancel()
    finally:
        await stream.aclose()


async def _write_all(stream: FrameStream, frames: trio.MemoryReceiveChannel[Parts]) -> None:
    """Write frames as they come, and together those that are there already."""
    async for frame in frames:
        together = [frame]
        size_bytes = sum(map(len, frame))
        while size_bytes < WRITE_SIZE_BYTES:
            try:
                together.append(frames.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            size_bytes += sum(map(len, together[-1]))
        await stream.send_all(together)


async def _reply(
    handler: Callable[[str, bytes], Awaitable[bytes]],
    peer: str,
    request: bytes,
    report: Callable[[Exception], None],
    fault: Callable[[PeerError], None],
) -> Parts:
    """Return how the request went and the reply."""
    try:
        reply = await handler(peer, request)
        require_frame(reply)
    except PeerError as error:
        fault(error)
        return (bytes([_FAILED]),)
    except Exception as error:  # noqa: BLE001  (boundary: a fault of the handler)
        report(error)
        return (bytes([_FAILED]),)
    return bytes([_DONE]), reply
