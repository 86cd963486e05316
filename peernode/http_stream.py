"""Bytes in and out of one socket, with deadlines that cost nothing on the fast path.

A stream is a plain non-blocking socket and trio's `wait_readable` and `wait_writable`; trio's own
socket and stream classes cost several times as much a call.  TLS is the same over an
`ssl.SSLSocket` in non-blocking mode, so that OpenSSL reads and writes the socket itself.

Two rules.  *Every read waits first*, even when bytes are there: that wait is where other
connections get their turn, and without it one busy client starves the rest (measured: p99 250 ms
against 5 ms at 32 connections).  *A deadline is a number, not a cancel scope*: whoever waits writes
`read_deadline` or `write_deadline`, one task of the server compares them all now and then, and a
deadline that has passed shuts the socket down, which wakes the waiter with an end of file.  Nothing
is cancelled, so an application never loses control in the middle of its own work.

What it leaves out: concurrent writers (one at a time, the caller sees to it) and half-close by the
peer, which is taken as its end.
"""

import contextlib
import math
import socket
import ssl
import struct

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable, wait_writable


class Disconnected(OSError):
    """The peer is gone, or a deadline shut the stream. ASGI wants an `OSError` from `send`."""


def is_disconnect(error: BaseException) -> bool:
    """Tell whether `error`, or what it was raised from, is the peer's leaving and no more."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_disconnect, error.exceptions))
    if isinstance(error, Disconnected):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_disconnect(cause)


class Stream:
    """A connected stream socket, TCP or Unix."""

    __slots__ = ("_fd", "_socket", "broken", "expired", "read_deadline", "write_deadline")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._fd = connected.fileno()
        self.broken = False
        """A send failed or was given up half way: nothing can follow it."""
        self.expired = False
        """A read deadline has passed: the end of file that follows is ours."""
        self.read_deadline = math.inf
        self.write_deadline = math.inf

    async def handshake(self, timeout_s: float) -> None:
        """Make the stream ready. Raise `Disconnected` if that fails or takes too long."""

    async def receive(self, size_max_bytes: int) -> bytes:
        """Return 1 to `size_max_bytes` bytes, or b"" when no more will come.

        Raise `trio.ClosedResourceError` when woken by `wake_reader`.
        """
        connected = self._socket
        while not self.expired:
            await wait_readable(self._fd)
            # What arrived while a deadline passed still counts: the loop itself may have been late.
            try:
                return connected.recv(size_max_bytes)
            except BlockingIOError:
                continue
            except OSError:
                return b""
        return b""

    def receive_nowait(self, size_max_bytes: int) -> bytes | None:
        """Return what is there as `receive` would, or None for nothing yet."""
        try:
            return self._socket.recv(size_max_bytes)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError:
            return b""

    async def send_all(self, data: bytes, stall_timeout_s: float) -> None:
        """Send all of `data`; not a checkpoint if the kernel takes it at once.

        Raise `Disconnected`, also ever after a send that was cancelled half way.
        """
        if self.broken:
            raise Disconnected
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.broken = True
            raise Disconnected from error
        if sent != len(data):
            await self._send_rest(memoryview(data)[sent:], stall_timeout_s)

    async def _send_rest(self, rest: memoryview, stall_timeout_s: float) -> None:
        self.broken = True
        try:
            while rest:
                self.write_deadline = trio.current_time() + stall_timeout_s
                await wait_writable(self._fd)
                with contextlib.suppress(BlockingIOError):
                    rest = rest[self._socket.send(rest) :]
        except (OSError, trio.ClosedResourceError) as error:
            raise Disconnected from error
        finally:
            self.write_deadline = math.inf
        self.broken = False

    def expire_if_due(self, now: float) -> None:
        """Shut down what is past its deadline at `now`, in trio's time."""
        if now >= self.write_deadline:
            self.abort()
        elif now >= self.read_deadline:
            self.expire()

    def expire(self) -> None:
        """Let the waiting reader, and every later one, see the end of file."""
        self.expired = True
        self.stop_reading()

    def stop_reading(self) -> None:
        """Let the reader see the end of file once it has read what has already arrived."""
        self._shut(socket.SHUT_RD)

    def _shut(self, how: int) -> None:
        # Not `SSLSocket.shutdown`: that drops TLS, and what is sent after it goes out in clear.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, how)

    def abort(self) -> None:
        """End the stream at once and forget what the peer has not taken."""
        self.expired = True
        self.broken = True
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._shut(socket.SHUT_RDWR)

    def wake_reader(self) -> None:
        """Make the task that waits in `receive` raise `trio.ClosedResourceError`."""
        notify_closing(self._fd)

    def end_writing(self) -> None:
        """Tell the peer that no more will come; a later send raises `Disconnected`."""
        self.broken = True
        self._shut(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket.fileno() >= 0:
            notify_closing(self._fd)
        self._socket.close()


class TlsStream(Stream):
    """A stream under TLS, server side."""

    __slots__ = ("_context", "_secure")

    def __init__(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(connected)
        self._context = context

    async def handshake(self, timeout_s: float) -> None:
        """Shake hands. Raise `Disconnected` on failure: the peer's fault, always."""
        self.read_deadline = trio.current_time() + timeout_s
        try:
            self._secure = self._context.wrap_socket(
                self._socket,
                server_side=True,
                do_handshake_on_connect=False,
            )
            self._socket = self._secure
            while not self.expired:
                try:
                    self._secure.do_handshake()
                except ssl.SSLWantReadError:
                    await wait_readable(self._fd)
                except ssl.SSLWantWriteError:
                    await wait_writable(self._fd)
                else:
                    return
        except (OSError, ValueError) as error:
            raise Disconnected from error
        finally:
            self.read_deadline = math.inf
        raise Disconnected

    async def receive(self, size_max_bytes: int) -> bytes:
        """See `Stream.receive`."""
        secure = self._secure
        if secure.pending():
            await checkpoint()
        else:
            await wait_readable(self._fd)
        while not self.expired:
            try:
                return secure.recv(size_max_bytes)
            except ssl.SSLWantReadError:
                await wait_readable(self._fd)
            except ssl.SSLWantWriteError:
                await wait_writable(self._fd)
            except OSError:
                return b""
        return b""

    async def send_all(self, data: bytes, stall_timeout_s: float) -> None:
        """See `Stream.send_all`."""
        if self.broken:
            raise Disconnected
        self.broken = True
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[self._secure.send(rest) :]
                except ssl.SSLWantWriteError:
                    self.write_deadline = trio.current_time() + stall_timeout_s
                    await wait_writable(self._fd)
        except (OSError, trio.ClosedResourceError) as error:
            raise Disconnected from error
        finally:
            self.write_deadline = math.inf
        self.broken = False

    def end_writing(self) -> None:
        """Send close_notify if there is room for it, and the end of file."""
        if self._socket.fileno() >= 0:
            # The call sends our half and then asks to wait for the peer's, which nobody needs.
            with contextlib.suppress(OSError, ValueError):
                self._secure.unwrap()
        super().end_writing()

    def close(self) -> None:
        """See `Stream.close`."""
        if isinstance(self._socket, ssl.SSLSocket) and not self.broken:
            self.end_writing()
        super().close()
