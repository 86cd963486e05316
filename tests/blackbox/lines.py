"""Lines between nodes that a test can harm: a proxy in user space, in a thread of the test.

    with Lines() as lines:
        a, b = lines.node(place / "a"), lines.node(place / "b")
        ...
        lines.set(Line(Kind.CUT), ("a", "b"), ("b", "a"))

Each node listens at a port that nobody is told, and announces its *door*: a port of the proxy.
Whoever connects there is found by the process that holds the other end, so a connection is known to
be of two nodes, and each of its directions is the line of an ordered pair.  What is of no node (a
join before there is one) goes through.

A line does what is done to the bytes that the first sends to the second, whoever dialled:

* `UP` carries them, `delay_s` later and at most `rate_bytes_s` of them in a second;
* `CUT` resets the connections of both, and all new ones;
* `HOLD` keeps them, and whether the connection has ended, until the line is another: what TCP does
  while routers drop packets, but for its growing time-outs;
* `HOLE` swallows them and closes nothing.  What lost a byte so never carries that way again, even
  if the line is mended: a node has to find that out by itself, as it has when a router forgets.
"""

import enum
import math
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import psutil
import trio

from tests.blackbox.daemon import Daemon

Pair: TypeAlias = tuple[str, str]
"""From one node to another, by their names."""
PIECE_SIZE_BYTES = 64 * 1024
PIECES_ON_THE_WAY_MAX = 64


class Kind(enum.Enum):
    """What a line does."""

    UP = "up"
    CUT = "cut"
    HOLE = "hole"
    HOLD = "hold"


@dataclass(frozen=True)
class Line:
    """What is done to the bytes that one node sends to another."""

    kind: Kind = Kind.UP
    delay_s: float = 0.0
    rate_bytes_s: float = math.inf


UP, CUT, HOLE = Line(), Line(Kind.CUT), Line(Kind.HOLE)
Step: TypeAlias = tuple[float, Line, Sequence[Pair]]
"""Of a plan: seconds after the step before, and what becomes of which lines then."""


class Resident(Daemon):
    """A node whose links to others go over `Lines`."""

    def __init__(self, lines: "Lines", data: Path, **more: Any) -> None:
        self.name = data.name
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.announced = f"/ip4/127.0.0.1/tcp/{lines.door(self.name, port)}"
        arguments = ["--p2p", f"/ip4/127.0.0.1/tcp/{port}", "--announce", self.announced]
        super().__init__(data, arguments=arguments, **more)


@dataclass(eq=False)
class _Connection:
    """Between two nodes, or from nobody to one."""

    ways: tuple[Pair, Pair]
    """There and back."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lost: set[Pair] = field(default_factory=set)
    """Where bytes were swallowed."""


class Lines:
    """All lines of a test. They are up at first."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        """Directory of a node -> its name."""
        self.carried: Counter[Pair] = Counter()
        """Bytes that arrived."""
        self.swallowed: Counter[Pair] = Counter()
        self.opened: Counter[Pair] = Counter()
        """Connections that were let through, by who dialled whom."""
        self.broken: Counter[Pair] = Counter()
        """Connections that were reset, or not let through, by who dialled whom."""
        self._lines: dict[Pair, Line] = {}
        self._connections: list[_Connection] = []
        self._changed = trio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._nursery.cancel_scope.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()

    # --- what a test does -------------------------------------------------------------------

    def node(self, data: Path, **more: Any) -> Resident:
        """Return a node, not started yet, named as its directory."""
        self.names[str(data)] = data.name
        return Resident(self, data, **more)

    def door(self, name: str, port: int) -> int:
        """Return the port at which others reach the node that listens at `port`."""
        door = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._do(lambda: self._nursery.start_soon(self._keep, name, port, door))
        return int(door.getsockname()[1])

    def set(self, line: Line, *pairs: Pair) -> None:
        """Have these lines be so from now on."""
        self._do(lambda: self._set(line, pairs))

    def mend(self) -> None:
        """Have all lines up."""
        self._do(lambda: self._set(UP, list(self._lines)))

    def play(self, plan: Sequence[Step]) -> threading.Event:
        """Do what is planned, step by step; what is returned is set when all is done."""
        done = threading.Event()
        self._do(lambda: self._nursery.start_soon(self._play, plan, done))
        return done

    def _do(self, action: Callable[[], Any]) -> None:
        trio.from_thread.run_sync(action, trio_token=self._token)

    # --- in the thread ----------------------------------------------------------------------

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await trio.sleep_forever()

    async def _play(self, plan: Sequence[Step], done: threading.Event) -> None:
        for after_s, line, pairs in plan:
            await trio.sleep(after_s)
            self._set(line, pairs)
        done.set()

    def _set(self, line: Line, pairs: Sequence[Pair]) -> None:
        for pair in pairs:
            self._lines[pair] = line
        self._changed.set()
        self._changed = trio.Event()
        if line.kind is Kind.CUT:
            for connection in self._connections:
                if not set(pairs).isdisjoint(connection.ways):
                    self.broken[connection.ways[0]] += 1
                    connection.scope.cancel()

    def _line(self, pair: Pair) -> Line:
        return self._lines.get(pair, UP)

    async def _keep(self, name: str, port: int, door: socket.socket) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(door))

        async def serve(client: trio.SocketStream) -> None:
            await self._connect(client, name, port)

        await trio.serve_listeners(serve, [listener])

    async def _connect(self, client: trio.SocketStream, name: str, port: int) -> None:
        """Carry a connection from its beginning to its end."""
        try:
            other_end = client.socket.getpeername()
        except OSError:  # It has gone again.
            client.socket.close()
            return
        dialler = await trio.to_thread.run_sync(self._owner, other_end)
        ways = (dialler, name), (name, dialler)
        connection = _Connection(ways)
        ends = [client]
        try:
            with connection.scope:
                if any(self._line(way).kind is Kind.CUT for way in ways):
                    self.broken[ways[0]] += 1
                    return
                self._connections.append(connection)
                ends.append(await trio.open_tcp_stream("127.0.0.1", port))
                self.opened[ways[0]] += 1
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, connection, ways[0], client, ends[1])
                    nursery.start_soon(self._carry, connection, ways[1], ends[1], client)
        except OSError:
            pass  # Nobody listens there now.
        finally:
            if connection in self._connections:
                self._connections.remove(connection)
            for end in ends:
                _reset(end)

    def _owner(self, end: tuple[str, int]) -> str:
        """Return the name of the node that holds this end of a connection, or ""."""
        for process in psutil.Process().children():
            with suppress(psutil.Error):
                written = process.cmdline()
                name = next((self.names[part] for part in written if part in self.names), "")
                if name and "join" not in written:
                    found = process.net_connections("tcp")
                    if any(one.laddr and tuple(one.laddr) == end for one in found):
                        return name
        return ""

    async def _carry(
        self,
        connection: _Connection,
        way: Pair,
        source: trio.SocketStream,
        target: trio.SocketStream,
    ) -> None:
        """Carry one direction, as its line says."""
        into, out_of = trio.open_memory_channel[tuple[float, bytes]](PIECES_ON_THE_WAY_MAX)

        async def read() -> None:
            async with into:
                try:
                    while piece := await source.receive_some(PIECE_SIZE_BYTES):
                        due = trio.current_time() + self._line(way).delay_s
                        await into.send((due, piece))
                except trio.BrokenResourceError:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async for due, piece in out_of:
                await trio.sleep_until(due)
                await self._hand_over(connection, way, target, piece)
        await self._let_go(way)
        if way not in connection.lost and self._line(way).kind is Kind.UP:
            connection.scope.cancel()  # The end is heard of; else nobody is told.

    async def _let_go(self, way: Pair) -> None:
        """Return when a line does not hold any more."""
        while self._line(way).kind is Kind.HOLD:
            await self._changed.wait()

    async def _hand_over(
        self, connection: _Connection, way: Pair, target: trio.SocketStream, piece: bytes
    ) -> None:
        if self._line(way).kind is Kind.HOLD:
            await self._let_go(way)
            await trio.sleep(self._line(way).delay_s)  # It is sent again, all the way.
        line = self._line(way)
        if line.kind is Kind.HOLE or way in connection.lost:
            connection.lost.add(way)
            self.swallowed[way] += len(piece)
            return
        try:
            await target.send_all(piece)
        except trio.BrokenResourceError:
            connection.lost.add(way)
            return
        self.carried[way] += len(piece)
        if line.rate_bytes_s != math.inf:
            await trio.sleep(len(piece) / line.rate_bytes_s)


def _reset(end: trio.SocketStream) -> None:
    """Close a connection as a reset, so that nothing is left of it."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.socket.close()


def between(names: Sequence[str], others: Sequence[str]) -> list[Pair]:
    """Return the lines from each of `names` to each of `others`, and back."""
    return [pair for a in names for b in others if a != b for pair in ((a, b), (b, a))]
