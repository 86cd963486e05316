"""How the nodes of a World reach one another: the network in memory, over a scenario's lines.

Frames go by `gossip.memory_network`; when they arrive, and whether their link breaks, a scenario's
`Lines` say.  Each frame is an event of the trace when it is sent, and each link when it comes and
goes.

Nodes dial whom the topology links them with, by the supervisor that a real node has
(`peernode.libp2p_supervisor`): a link that broke is dialled again by both ends, after delays that
double.  A dial takes its round trips; one into the dark (a direction that is cut, a machine without
power) goes on when there is light again, until its time is out.  Nothing that is sent over a link
is lost while that lives: it waits for a cut to end.

What it leaves out: sockets, Noise and Yamux, so their bytes and the processor time they take; and
strangers but for joining.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from gossip.errors import PeerTimeout, PeerUnreachable
from gossip.memory_network import Link, PerfectLine, Wire
from gossip.memory_node import MemoryNetwork
from gossip.network import RequestHandler
from peernode.libp2p_address import Address
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_supervisor import Supervisor
from simulations.errors import ScenarioError
from simulations.journal import Journal
from simulations.processor import Processor
from storage import signing

GOSSIP: Final = "gossip"
"""What a frame of `send` is called in a trace."""
HANDSHAKE_ROUND_TRIPS: Final = 4
"""Before two nodes are up for each other. Source: TCP, Noise XX, Yamux' and identify's streams."""


class Graph(Protocol):
    """Who is linked with whom. See `simulations.topology`."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each node."""
        ...

    @property
    def positions_km(self) -> Sequence[tuple[float, float]] | None:
        """Where each is."""
        ...

    def neighbours(self, node: int) -> Sequence[int]:
        """Return the nodes that a node is linked with, ascending."""
        ...


class Lines(Protocol):
    """When a message arrives. See `simulations.links`."""

    def arrival_s(self, source: int, target: int, size_bytes: int, now: float) -> float | None:
        """Return when a message that leaves now arrives; `None`: the link breaks of it."""
        ...

    def latency_s(self, source: int, target: int) -> float:
        """Return how long the way is, without anything that changes."""
        ...

    def reset(self, one: int, other: int) -> None:
        """Forget what is under way between two nodes."""
        ...


def require_short(graph: Graph, lines: Lines) -> None:
    """Raise `ScenarioError` for a link so long that nodes give up before they have dialled it."""
    patience_s = Libp2pConfig().dial_timeout_s
    for one in range(len(graph.names)):
        for other in graph.neighbours(one):
            trip_s = lines.latency_s(one, other) + lines.latency_s(other, one)
            if trip_s * HANDSHAKE_ROUND_TRIPS > patience_s:
                raise ScenarioError(
                    "link.latency_s",
                    f"from {graph.names[one]} to {graph.names[other]} and back are {trip_s:.2f} s; "
                    f"a dial is {HANDSHAKE_ROUND_TRIPS} times that, and nodes give up after "
                    f"{patience_s:g} s",
                )


class WorldWire(Wire):
    """What connects the nodes of a World. Everything on it happens in calls of the clock."""

    def __init__(
        self,
        nursery: trio.Nursery,
        journal: Journal,
        lines: Lines,
        numbers: dict[str, int],
        processors: Sequence[Processor],
        report: Callable[[str, Exception], None],
    ) -> None:
        """`numbers` are those of the scenario, by peer id, and `processors` are in their order."""
        self.config = Libp2pConfig()
        super().__init__(nursery, PerfectLine(), self.config.silence_max_s, report)
        self.lines = lines
        self.sent_bytes = [0] * len(numbers)
        """By node, frames alone."""
        self.sent_frames = [0] * len(numbers)
        self.networks: dict[str, WorldNetwork] = {}
        """Nodes that are there, or that others still take for being there."""
        self.tap: Callable[[int, int, str, bytes], object] | None = None
        """Is told of each frame that is sent: from which node, to which, of what, and its bytes."""
        self._clock = journal.clock
        self._journal = journal
        self._who = numbers
        self._processors = processors
        self._mended = trio.Event()

    def number(self, peer: str) -> int:
        """Return which node a peer is."""
        return self._who[peer]

    def let_in(self, network: "WorldNetwork") -> None:
        """Let a node in, for one life of it."""
        self.admit(network)
        self.networks[network.peer] = network
        self._mend()

    def has(self, network: "WorldNetwork") -> bool:
        """Tell whether a node is there, in this life of it."""
        return self.networks.get(network.peer) is network and not network.is_gone

    def leave(self, peer: str) -> None:
        """Take a node away, and all its links."""
        super().leave(peer)
        del self.networks[peer]

    def schedule(self, at: float, act: Callable[..., object], *args: object) -> None:
        """Have the clock call `act(*args)`."""
        self._clock.call_at(at, act, *args)

    def hand_over(
        self, target: MemoryNetwork, size_bytes: int, deliver: Callable[..., object], *args: object
    ) -> None:
        """Have the node do what a frame brings when it has time for that."""
        processor = self._processors[self._who[target.peer]]
        handle = processor.frame if size_bytes else processor.after_all
        handle(deliver, *args)

    def carry(
        self,
        link: Link,
        source: str,
        size_bytes: int,
        what: str,
        deliver: Callable[..., object],
        *args: object,
    ) -> None:
        """Call `deliver` when a frame of a stream or request has arrived."""
        is_held = link.is_silent or (source, link.target(source).peer) in self._cuts
        if self.tap is not None and not is_held and args and isinstance(args[-1], bytes):
            self.tap(self._who[source], self._who[link.target(source).peer], what, args[-1])
        super().carry(link, source, size_bytes, what, deliver, *args)

    def post(self, link: Link, source: str, frame: bytes) -> None:
        """Have a frame of `send` arrive: gossip is on a stream, too, and waits for a cut to end."""
        link.queued[source] = link.queued.get(source, 0) + 1
        arrived = link.ends[source].arrived
        self.carry(link, source, len(frame), GOSSIP, arrived, link, link.target(source), frame)

    def arrival(
        self, link: Link, source: str, size_bytes: int, what: str, *, is_lost: bool = False
    ) -> float | None:
        """Return when a frame arrives, and have it in the trace; streams lose nothing."""
        one, other = self._who[source], self._who[link.target(source).peer]
        now = self._clock.now
        at = self.lines.arrival_s(one, other, size_bytes, now)
        self.sent_bytes[one] += size_bytes
        self.sent_frames[one] += 1
        self._journal.record(
            "message",
            source=one,
            target=other,
            what=what,
            size_bytes=size_bytes,
            arrives_at_s=None if at is None else self._journal.now + at - now,
            lost=at is None,
        )
        return at

    def end_link(self, link: Link) -> None:
        """Break a link."""
        if not link.ended.is_set():
            one, other = sorted(self._who[peer] for peer in link.ends)
            self.lines.reset(one, other)
            self._journal.record("link", one=one, other=other, state="down")
        super().end_link(link)

    def connect(self, one: str, other: str) -> bool:
        """Have one node dial another."""
        before = self._find(one, other)
        is_up = super().connect(one, other)
        if is_up and self._find(one, other) is not before:
            low, high = sorted((self._who[one], self._who[other]))
            self._journal.record("link", one=low, other=high, state="up")
        return is_up

    def heal(self, source: str, target: str) -> None:
        """Let frames through again."""
        super().heal(source, target)
        self._mend()

    async def until_mended(self) -> None:
        """Return when a cut has ended or a node is back."""
        await self._mended.wait()

    def _mend(self) -> None:
        mended, self._mended = self._mended, trio.Event()
        mended.set()

    def is_cut(self, one: str, other: str) -> bool:
        """Tell whether a direction between two nodes is cut."""
        return (one, other) in self._cuts or (other, one) in self._cuts


class WorldNetwork(MemoryNetwork):
    """One node's `peernode.peering.PeerNetwork`, for one life of it."""

    def __init__(
        self,
        wire: WorldWire,
        peer: str,
        neighbours: Iterable[str],
        chance: random.Random,
        nursery: trio.Nursery,
    ) -> None:
        """`neighbours` are whom it can reach; handlers and dialling run in `nursery`."""
        super().__init__(wire, peer, nursery)
        self.allowed: Callable[[bytes], bool] = lambda _: False
        """Whether the owner of a key may be a peer; set once there is a node."""
        self.is_listening = False
        self.overheard: deque[bytes] | None = None
        """Where frames of gossip that arrive are kept, if anywhere."""
        self._world = wire
        self._neighbours = dict.fromkeys(neighbours)
        self._supervisor = Supervisor(
            peer, wire.config, chance, nursery, self.links.get, self._connect
        )
        self.for_strangers: dict[str, RequestHandler] = {}

    # --- the seam of peering --------------------------------------------------------------

    def serve_requests(
        self,
        protocol: str,
        handler: RequestHandler,
        *,
        size_max_bytes: int,
        open_to_strangers: bool = False,
    ) -> None:
        """Let `handler` reply to requests."""
        super().serve_requests(protocol, handler, size_max_bytes=size_max_bytes)
        if open_to_strangers:
            self.for_strangers[protocol] = handler

    async def listen(self) -> None:
        """Let others connect."""
        await trio.lowlevel.checkpoint()
        self.is_listening = True

    def addresses(self) -> list[str]:
        """Return where others find this node."""
        name = f"/dns4/n{self._world.number(self.peer)}/tcp/1/p2p/{self.peer}"
        return [name] if self.is_listening else []

    def add_peer(self, peer: str, addresses: Sequence[str]) -> None:
        """Be connected to a peer from now on, if the topology has a link to it."""
        if peer in self._neighbours:
            self._supervisor.add(peer, [])

    def forget_peer(self, peer: str) -> None:
        """Break the link to a peer and do not dial it any more."""
        self._supervisor.forget(peer)
        self._world.disconnect(self.peer, peer)

    def cut_off(self, peer: str) -> None:
        """Break the link to a peer, and have none with it until it is taken back."""
        self._supervisor.forget(peer)
        super().cut_off(peer)

    def review(self) -> None:
        """Break the links to peers that may not be peers any more."""
        for peer in self.peers():
            if not self.allowed(signing.parse_peer_id(peer)):
                self._world.disconnect(self.peer, peer)

    async def request_as_stranger(
        self,
        peer: str,
        addresses: Sequence[str],
        protocol: str,
        frame: bytes,
        *,
        reply_size_max_bytes: int,
        timeout_s: float,
    ) -> bytes:
        """Ask somebody who does not know us yet."""
        with trio.move_on_after(timeout_s):
            found = await self._shake_hands(peer)
            handler = None if found is None else found.for_strangers.get(protocol)
            if handler is None:
                raise PeerUnreachable(f"nobody is at {addresses}")
            return await handler(self.peer, frame)
        raise PeerTimeout(f"{peer} did not reply in {timeout_s} s")

    def take_frame(self, peer: str, frame: bytes) -> None:
        """Hand over a frame that has arrived."""
        if self.overheard is not None:
            self.overheard.append(frame)
        super().take_frame(peer, frame)

    # --- dialling -------------------------------------------------------------------------

    async def _connect(self, peer: str, _: Sequence[Address]) -> Link | None:
        """Return a link to a peer that has been dialled, if it came about."""
        if self.has_cut_off(peer) or not self.allowed(signing.parse_peer_id(peer)):
            return None
        found = await self._shake_hands(peer)
        if found is None or not found.allowed(signing.parse_peer_id(self.peer)):
            return None
        self._world.connect(self.peer, peer)
        return self.links.get(peer)

    async def _shake_hands(self, peer: str) -> "WorldNetwork | None":
        """Return the other end, once it is known to be there; `None`: it is not, or silent."""
        world = self._world
        one, other = world.number(self.peer), world.number(peer)
        there_s, back_s = world.lines.latency_s(one, other), world.lines.latency_s(other, one)
        with trio.move_on_after(world.config.dial_timeout_s):
            while self._is_dark(peer):
                await world.until_mended()
            found = world.networks.get(peer)
            if found is None or not found.is_listening:
                await trio.sleep(there_s + back_s)
                return None
            await trio.sleep((there_s + back_s) * HANDSHAKE_ROUND_TRIPS)
            while self._is_dark(peer):
                await world.until_mended()
            return found if world.networks.get(peer) is found else None
        return None

    def _is_dark(self, peer: str) -> bool:
        """Tell whether nothing at all comes back from there; what is sent is sent again."""
        found = self._world.networks.get(peer)
        return self._world.is_cut(self.peer, peer) or (found is not None and found.is_gone)
