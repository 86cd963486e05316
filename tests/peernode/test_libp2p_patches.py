"""The library's traps, one test each: every one of them fails with the library's own code."""

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset

from peernode import libp2p_patches
from peernode.libp2p_patches import GuardedYamux, Negotiated, Substream, TcpStream
from peernode.traffic import Count

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
NOBODY = ID(b"x")


class Line:
    """One end of a connection in memory, in place of Noise."""

    is_initiator = True

    def __init__(self, stream: trio.testing.MemorySendStream) -> None:
        self.stream = stream

    async def read(self, n: int | None = None) -> bytes:
        try:
            return bytes(await self.stream.receive_some(n))
        except trio.ClosedResourceError as error:
            raise ConnectionClosedError("closed") from error

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def muxers() -> AsyncIterator[tuple[GuardedYamux, GuardedYamux, Line]]:
    """Two muxers over a line in memory, and the line of the first."""
    one, other = trio.testing.memory_stream_pair()
    line = Line(one)
    async with trio.open_nursery() as nursery:
        ours = GuardedYamux(line, NOBODY, Count(), is_initiator=True)
        theirs = GuardedYamux(Line(other), NOBODY, Count(), is_initiator=False)
        nursery.start_soon(ours.start)
        nursery.start_soon(theirs.start)
        await ours.event_started.wait()
        await theirs.event_started.wait()
        yield ours, theirs, line
        nursery.cancel_scope.cancel()


async def read_all(stream: Substream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.read(65536)
    return data


async def tcp_pair() -> tuple[trio.SocketStream, TcpStream]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    client = await trio.open_tcp_stream(*address)
    server = await listeners[0].accept()
    await listeners[0].aclose()
    return client, TcpStream(server, Count())


# --- sockets ------------------------------------------------------------------------------------


async def test_a_message_in_more_than_a_hundred_pieces_is_read() -> None:
    client, server = await tcp_pair()
    async with client, trio.open_nursery() as nursery:

        async def send() -> None:
            for number in range(250):
                await client.send_all(bytes([number]))
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(send)
        assert await server.read(250) == bytes(range(250))
    assert await server.read(1) == b""
    await server.close()


async def test_nobody_makes_us_read_without_end() -> None:
    client, server = await tcp_pair()
    async with client:
        with pytest.raises(IOException):
            await server.read(1 << 40)
    await server.close()


async def test_a_socket_that_is_closed_wakes_its_reader() -> None:
    client, server = await tcp_pair()
    async with client, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ConnectionClosedError):
                await server.read(1)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        server.break_off()
    with pytest.raises(ConnectionClosedError):
        await server.write(b"x")


async def test_the_name_of_a_protocol_is_short() -> None:
    one, other = trio.testing.memory_stream_pair()
    await other.send_all(b"\xff\xff\xff\xff\x7f" + bytes(1000))
    talk = MultiselectCommunicator(Negotiated(Line(one)))
    with trio.fail_after(5), pytest.raises(MultiselectError):
        await Multiselect({}).negotiate(talk, 30)


# --- Yamux --------------------------------------------------------------------------------------


async def test_a_writer_waits_as_long_as_nobody_reads(autojump_clock: trio.abc.Clock) -> None:
    async with muxers() as (ours, theirs, _):
        stream = Substream(await ours.open_stream())
        other = Substream(await theirs.accept_stream())
        data = bytes(1_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, data)
            await trio.sleep(60)
            assert await read_all(other, len(data)) == data


async def test_a_writer_that_is_cancelled_spares_the_other_streams() -> None:
    async with muxers() as (ours, theirs, line):
        held, go = trio.Event(), trio.Event()
        send_all = line.stream.send_stream.send_all

        async def slowly(data: bytes) -> None:
            # A socket takes a part, and the rest when it can.
            half = len(data) // 2
            await send_all(data[:half])
            if len(data) > 1000:
                held.set()
                await go.wait()
            await send_all(data[half:])

        victim = Substream(await ours.open_stream())
        spared = Substream(await ours.open_stream())
        await theirs.accept_stream()
        reader = Substream(await theirs.accept_stream())
        line.stream.send_all = slowly  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(victim.write, bytes(10_000))
                    await held.wait()
                    scope.cancel()
                    nursery.start_soon(spared.write, b"still here")
                    go.set()
        with trio.fail_after(5):
            assert await read_all(reader, 10) == b"still here"


async def finish(stream: Substream, finished: trio.Event) -> None:
    with pytest.raises((MuxedStreamEOF, MuxedStreamReset)):
        await stream.finish()
    finished.set()


async def test_who_finishes_a_stream_resets_nothing_and_waits_for_the_other_end() -> None:
    """`close` sends a reset behind the end, which may overtake what came first in its reader."""
    async with muxers() as (ours, theirs, _), trio.open_nursery() as nursery:
        stream = Substream(await ours.open_stream())
        other = Substream(await theirs.accept_stream())
        finished = trio.Event()
        await stream.write(b"all there is")
        nursery.start_soon(finish, stream, finished)
        await trio.testing.wait_all_tasks_blocked()
        assert not finished.is_set()
        assert not other.inner.reset_received
        assert await read_all(other, 12) == b"all there is"
        with pytest.raises(MuxedStreamEOF):
            await other.read(1)
        # What the other end still says is nobody's, however much it is.
        await other.write(bytes(1_000_000))
        assert not finished.is_set()
        await other.close()
        with trio.fail_after(5):
            await finished.wait()


async def test_who_finishes_a_stream_that_the_other_end_never_ends_may_be_cancelled() -> None:
    async with muxers() as (ours, theirs, _):
        stream = Substream(await ours.open_stream())
        other = Substream(await theirs.accept_stream())
        with trio.move_on_after(0.05) as scope:
            await stream.finish()
        assert scope.cancelled_caught
        with pytest.raises(MuxedStreamEOF):
            await other.read(1)
        # The connection is none the worse.
        spare = Substream(await ours.open_stream())
        await spare.write(b"still here")
        assert await read_all(Substream(await theirs.accept_stream()), 10) == b"still here"


async def test_streams_whose_opening_was_cancelled_are_given_back() -> None:
    async with muxers() as (ours, _, line):
        slots = ours.stream_backlog_semaphore.value
        send_all = line.stream.send_stream.send_all
        scope = trio.CancelScope()

        async def cancelled(data: bytes) -> None:
            scope.cancel()
            await send_all(data)

        line.stream.send_all = cancelled  # type: ignore[method-assign]
        with scope:
            stream = await ours.open_stream()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await stream.reset()
        assert scope.cancelled_caught
        assert ours.stream_backlog_semaphore.value == slots


async def test_too_many_streams_are_an_error_and_not_a_wait() -> None:
    async with muxers() as (ours, theirs, _), trio.open_nursery() as nursery:

        async def accept() -> None:
            while True:
                await theirs.accept_stream()

        nursery.start_soon(accept)
        for _ in range(256):
            await ours.open_stream()
        with trio.fail_after(5), pytest.raises(MuxedStreamError):
            await ours.open_stream()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_ignores_its_window_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_patches, "BUFFERED_MAX_BYTES", 1_000_000)
    async with muxers() as (ours, theirs, _):
        stream = await ours.open_stream()
        await theirs.accept_stream()
        stream.send_window = 1 << 30
        with trio.fail_after(10), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    await stream.write(bytes(64_000_000))

                nursery.start_soon(quietly, flood)
                await theirs.event_closed.wait()
                scope.cancel()
        assert theirs.is_closed


async def quietly(act: Callable[[], Awaitable[None]]) -> None:
    with suppress(Exception):  # The line is cut under it.
        await act()


async def test_small_reads_are_not_answered_one_by_one() -> None:
    async with muxers() as (ours, theirs, _):
        stream = Substream(await ours.open_stream())
        other = Substream(await theirs.accept_stream())
        written: list[int] = []
        write_frame = theirs._write_frame

        async def count(data: bytes) -> None:
            written.append(len(data))
            await write_frame(data)

        theirs._write_frame = count  # type: ignore[method-assign]
        for _ in range(200):
            await stream.write(bytes(1000))
            assert await read_all(other, 1000) == bytes(1000)
        assert len(written) <= 4


async def test_a_ping_tells_how_far_the_other_is() -> None:
    async with muxers() as (ours, _, __):
        assert ours.rtt() == 0
        await ours.ping()
        await ours._ping_event.wait()
        assert ours.rtt() > 0


def test_its_logs_stay_silent() -> None:
    program = (
        "import logging; from peernode.libp2p_patches import silence_logs; silence_logs();"
        "logging.getLogger('libp2p.transport').error('nobody'); logging.error('wants to know')"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, check=True
    )
    assert ran.stderr == b""
