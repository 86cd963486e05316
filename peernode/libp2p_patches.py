"""py-libp2p 0.8.1 where it bites: what is done differently here, and why. Each has a test.

Only its parts are used: keys, multistream-select, Noise and Yamux.  Its host and swarm are not.
They hold an inbound slot for ever after each connection (after 250 in a node's life nobody gets
in), end the process when an exception leaves a handler, refuse a peer for a minute after one failed
dial, wait 250 ms in each, dial one address of several, share a port with whoever else wants it
(SO_REUSEPORT), and run tasks of their own outside all nurseries.

Of the parts:

* `read_exactly` gives up after 101 partial reads, and multistream-select believes any length that
  it is told, before anybody has said who he is.  So `TcpStream.read` returns all bytes or the end,
  `Negotiated` bounds what is asked of it.
* A write that is cancelled leaves half a Noise message on the line, which ends the connection for
  everybody.  So `GuardedYamux` writes under a shield; closing the socket is what ends it.
* A stream whose opening is cancelled is never given back, and a connection has 256: shielded too.
* A peer that ignores its window is logged and fed: the bytes that nobody has read are bounded.
* Writing gives up after 5 s without a window, as if the stream had broken: `write` waits.
* Every read is answered by a frame that opens the window by as much: `read` answers when a quarter
  of the window is read, and every mebibyte.
* It cuts what is written into frames of 64 KiB, each of which costs as much time as its encryption:
  `write` cuts at 256 KiB, and a frame is one system call (`libp2p_secured`).
* It keeps what nobody has read in one piece and moves it about: `Pieces` are put in its place.
* Its loggers write to the root's handlers, and make one where there is none: `silence_logs`.
"""

import logging
import socket
import struct
from typing import Final

import trio
from libp2p.abc import ISecureConn
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.utils import read_exactly
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    TYPE_DATA,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from peernode.libp2p_frames import Pieces
from peernode.traffic import Count

READ_SIZE_BYTES: Final = 256 * 1024
"""How much is asked of a socket at once. Source: four of the largest Noise messages."""
MESSAGE_SIZE_MAX_BYTES: Final = 65537
"""Most that anybody may ask of a socket at once. Source: a Noise message and its length."""
NEGOTIATION_SIZE_MAX_BYTES: Final = 1024
"""Longest message of multistream-select. Source: go-multistream."""
BUFFERED_MAX_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of a connection that nobody has read. Source: guess; twice the largest window."""
BODY_TIMEOUT_S: Final = 60.0
"""How long a frame that was announced may take. Source: the library's own."""
WINDOW_STEP_MAX_BYTES: Final = 1 << 20
"""The window is opened after so much at the latest. Source: measurement; four times as often costs
both sides together half a millisecond a mebibyte."""
FRAME_SIZE_MAX_BYTES: Final = 256 * 1024
"""Most bytes of one frame of Yamux. Source: its first window; rust-yamux takes four times as much.
Other streams of the connection wait behind it."""
WINDOW_POLL_MIN_S: Final = 0.002
WINDOW_POLL_MAX_S: Final = 0.05
"""How often a closed window is looked at. Source: py-libp2p has 0.01; nothing tells when."""


def silence_logs() -> None:
    """Keep the library from writing to stderr; what matters is raised, and reported here."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


class TcpStream(ReadWriteCloser):
    """A socket, for Noise. Knows when it last heard something."""

    def __init__(self, stream: trio.SocketStream, count: Count) -> None:
        self.stream = stream
        self._count = count
        self.heard_at = trio.current_time()
        self._buffer = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """Return `n` bytes; fewer only at the end."""
        if n is None or n > MESSAGE_SIZE_MAX_BYTES:
            raise IOException(f"{n} bytes asked for at once")
        buffer = self._buffer
        while len(buffer) < n:
            try:
                data = await self.stream.receive_some(READ_SIZE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError("the socket is closed") from error
            if not data:
                break
            self.heard_at = trio.current_time()
            self._count.received_bytes += len(data)
            buffer += data
        taken = bytes(memoryview(buffer)[:n])
        del buffer[:n]
        return taken

    async def more_comes(self) -> bool:
        """Return whether the other end says more, once it does that or ends; reads nothing."""
        if self._buffer:
            return True
        try:
            return bool(await self.stream.socket.recv(1, socket.MSG_PEEK))
        except (OSError, trio.ClosedResourceError):
            return False

    async def write(self, data: bytes) -> None:
        """Write all bytes."""
        self._count.sent_bytes += len(data)
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the socket is closed") from error

    async def close(self) -> None:
        """Close the socket at once."""
        self.break_off()
        await trio.lowlevel.checkpoint()

    def break_off(self) -> None:
        """Close the socket at once; wakes whoever reads or writes."""
        self.stream.socket.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the other end's host and port."""
        try:
            name = self.stream.socket.getpeername()
        except OSError:
            return None
        return str(name[0]), int(name[1])


class Negotiated(ReadWriteCloser):
    """What multistream-select reads from and writes to: nothing long."""

    def __init__(self, inner: ReadWriteCloser) -> None:
        self._inner = inner

    async def read(self, n: int | None = None) -> bytes:
        """Read up to `n` bytes. Raises `IOException` if that is more than anybody needs."""
        if n is None or n > NEGOTIATION_SIZE_MAX_BYTES:
            raise IOException(f"a protocol's name of {n} bytes")
        return await self._inner.read(n)

    async def write(self, data: bytes) -> None:
        """Write all bytes."""
        await self._inner.write(data)

    async def close(self) -> None:
        """Close the inner one."""
        await self._inner.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the inner one's."""
        return self._inner.get_remote_address()


class _Buffers(dict[int, Pieces]):
    """What nobody has read yet, by stream. The library puts a new buffer in for each stream."""

    def __setitem__(self, stream: int, _: object) -> None:
        super().__setitem__(stream, Pieces())


class GuardedYamux(Yamux):
    """Yamux that survives cancelled writers and peers that ignore their window."""

    def __init__(self, line: ISecureConn, peer: ID, pings: Count, *, is_initiator: bool) -> None:
        super().__init__(line, peer, is_initiator=is_initiator)
        self._pings = pings
        self.stream_buffers = _Buffers()  # type: ignore[assignment]

    async def _write_frame(self, data: bytes) -> None:
        if data[1] == TYPE_PING:
            self._pings.sent_bytes += len(data)
        async with self._write_lock:
            with trio.CancelScope(shield=True):
                await self.secured_conn.write(data)
        await trio.lowlevel.checkpoint()

    async def open_stream(self) -> YamuxStream:
        """Open a stream. Raises `MuxedStreamError` if there are as many as may be."""
        await trio.lowlevel.checkpoint()
        if self.stream_backlog_semaphore.value == 0:
            raise MuxedStreamError("too many streams are open")
        with trio.CancelScope(shield=True):
            return await super().open_stream()

    async def _read_data_body(self, length: int) -> bytes:
        if length + sum(map(len, self.stream_buffers.values())) > BUFFERED_MAX_BYTES:
            # The one exception that the caller takes for the end of the connection.
            raise trio.TooSlowError
        with trio.fail_after(BODY_TIMEOUT_S):
            data = await self.secured_conn.read(length)
            if len(data) < length:
                data += await read_exactly(self.secured_conn, length - len(data))
            return data

    async def _measure_rtt_loop(self) -> None:
        """Nothing: `ping` is called from outside, where silence has consequences."""

    async def ping(self) -> None:
        """Ask for a sign of life, from which `rtt` is measured."""
        self._ping_id = (self._ping_id + 1) % (1 << 32)
        frame = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id)
        await self._write_frame(frame)
        self._ping_sent_time = trio.current_time()


class Substream(ReadWriteCloser):
    """A stream of Yamux. Raises the library's exceptions."""

    def __init__(self, stream: YamuxStream) -> None:
        self.inner = stream
        self._unanswered_bytes = 0

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, at least one; opens the window now and then."""
        if n is None:
            raise IOException("a read without a size")
        stream = self.inner
        data = await stream.conn.read_stream(stream.stream_id, n)
        self._unanswered_bytes += len(data)
        if self._unanswered_bytes >= min(stream.target_recv_window // 4, WINDOW_STEP_MAX_BYTES):
            taken, self._unanswered_bytes = self._unanswered_bytes, 0
            await stream._auto_tune_and_send_window_update(bytes_read=taken)  # noqa: SLF001
        return data

    async def write(self, data: bytes) -> None:
        """Write all bytes, however long the other end does not read."""
        stream, view = self.inner, memoryview(data)
        sent = 0
        while sent < len(data):
            poll_s = WINDOW_POLL_MIN_S
            while stream.send_window <= 0:
                if stream.closed or stream.send_closed:
                    raise MuxedStreamReset("the stream is over")
                await trio.sleep(poll_s)
                poll_s = min(poll_s * 1.5, WINDOW_POLL_MAX_S)
            if stream.closed or stream.send_closed:
                raise MuxedStreamReset("the stream is over")
            size = min(stream.send_window, len(data) - sent, FRAME_SIZE_MAX_BYTES)
            stream.send_window -= size
            head = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream.stream_id, size)
            await stream.conn._write_frame(head + view[sent : sent + size])  # noqa: SLF001
            sent += size

    async def finish(self) -> None:
        """Say that this was all, and wait until the other end is done as well.

        A reset, which `close` sends too, may reach a js-libp2p before it has read what came first,
        and that is lost then.  What comes is dropped; raises what `read` does at the end.
        """
        await self.inner.close()
        while True:
            await self.read(READ_SIZE_BYTES)

    async def close(self) -> None:
        """Let what was written arrive, and end both directions."""
        await self.inner.close()
        await self.inner.reset()

    async def reset(self) -> None:
        """End both directions at once."""
        await self.inner.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the connection's."""
        return self.inner.get_remote_address()
