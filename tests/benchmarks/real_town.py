"""A `simulations.trials.Town` of real processes: `peernode up`, libp2p, sockets of this machine.

Each node is a process; what they send each other goes through proxies (`tests.blackbox.lines`) that
hand it on `LATENCY_S` later.  The kernel's own delays (netem) would need a module that few machines
have, and rights.  What the proxies add shows in `echo`: a byte there and back through one.
"""

import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from simulations.trials import FUNCTION, LATENCY_S, NODES, SLOTS, Samples, Trial
from simulations.virtual_workers import SIMULATED
from tests.benchmarks.load import answer, decode, request
from tests.blackbox.lines import Kind, Line, Lines, Resident, between
from tests.blackbox.partitions import Town, let_in

NAMES = "abcdefgh"[:NODES]
FAR = Line(delay_s=LATENCY_S)
PARTED = Line(Kind.HOLD, delay_s=LATENCY_S)
PIECE_SIZE_BYTES = 65536
ECHOES = 200
SETTLES_S = 5.0
"""After the lines have become long."""
SETTINGS = {"PEERNODE_ISOLATION": "process"}


class RealTown:
    """Nodes of this machine. Called in `play`."""

    def __init__(self, town: Town, token: str, function: str) -> None:
        self.function = function
        self.space: str = town.space
        self._token = token
        self._lines = town.lines
        self._addresses = [
            ("127.0.0.1", int(town.nodes[name].url.rpartition(":")[2])) for name in NAMES
        ]
        self._idle: list[list[trio.SocketStream]] = [[] for _ in NAMES]

    def play(self, trial: Trial, seed: int) -> Samples:
        """Return what a trial measures."""
        return trio.run(self._play, trial, seed)

    async def _play(self, trial: Trial, seed: int) -> Samples:
        try:
            return await trial(self, seed)
        finally:
            for stream in itertools.chain(*self._idle):
                stream.socket.close()
            self._idle = [[] for _ in NAMES]

    def lengthen(self, line: Line) -> None:
        """Have all lines be so from now on."""
        self._lines.set(line, *between(NAMES, NAMES))

    def now(self) -> float:
        return time.perf_counter()

    async def call(self, node: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        idle = self._idle[node]
        stream = idle.pop() if idle else await trio.open_tcp_stream(*self._addresses[node])
        await stream.send_all(request(method, path, self._token, body))
        received = b""
        while (found := answer(received)) is None:
            piece = await stream.receive_some(PIECE_SIZE_BYTES)
            assert piece, "the node has closed the connection"
            received += piece
        status, content, _ = found
        idle.append(stream)
        return status, decode(content) if content else None

    async def part(self, nodes: Sequence[int]) -> None:
        ours = [NAMES[node] for node in nodes]
        pairs = between(ours, [name for name in NAMES if name not in ours])
        await trio.to_thread.run_sync(lambda: self._lines.set(PARTED, *pairs))

    async def mend(self) -> None:
        await trio.to_thread.run_sync(lambda: self._lines.set(FAR, *between(NAMES, NAMES)))


@contextmanager
def open_real_town(place: Path) -> Iterator[RealTown]:
    """Own a mesh of nodes, all linked with all, that know one user and what is theirs."""
    with Lines() as lines, ExitStack() as stack:
        nodes: dict[str, Resident] = {}
        for name in NAMES:
            workers = 0 if nodes else SLOTS
            node = lines.node(place / name, workers=workers, environment=SETTINGS)
            if nodes:
                let_in(nodes[NAMES[0]], node.data)  # who has numbers for all
            nodes[name] = stack.enter_context(node)
        town = Town(lines, nodes)
        town.settle()
        owner = town.people[town.first]
        function = owner.deploy(town.project, FUNCTION, SIMULATED.decode())
        town.become_one()
        lines.set(FAR, *between(NAMES, NAMES))
        time.sleep(SETTLES_S)
        yield RealTown(town, owner.token, function)


def echo(count: int = ECHOES) -> Samples:
    """Return how long a byte takes there and back through a proxy with the same delay."""
    took_s: list[float] = []
    with Lines() as lines, echoing() as port:
        lines.set(FAR, ("", "echo"), ("echo", ""))
        with socket.create_connection(("127.0.0.1", lines.door("echo", port))) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(count):
                begun_s = time.perf_counter()
                link.sendall(b"x")
                assert link.recv(1) == b"x"
                took_s.append(time.perf_counter() - begun_s)
    return {"line.echo_s": took_s}


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what comes."""

    def handle(self) -> None:
        with suppress(ConnectionResetError):
            while piece := self.request.recv(PIECE_SIZE_BYTES):
                self.request.sendall(piece)


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True  # It does not wait for clients to go.


@contextmanager
def echoing() -> Iterator[int]:
    """Own a server that sends back what comes; yield its port."""
    with _EchoServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
