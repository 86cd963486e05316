"""Nodes of a swarm, the ways between them, and what a swarm asks of lines and watchers."""

from typing import Protocol

from gossip import wire
from gossip.mesh import Mesh
from gossip.mesh_events import Disconnect, Exchange, Reset
from gossip.wire import Message
from storage.signing import Keypair


class Lines(Protocol):
    """What links do to what is sent over them."""

    def arrival_s(self, source: int, target: int, size_bytes: int, now: float) -> float | None:
        """Return when so many bytes, sent now, have arrived; `None`: the link is reset instead.

        Infinity: they never do, which no stream does to bytes, but a test may.
        """

    def steady_s(self, source: int, target: int) -> float | None:
        """Return how long each message takes, if that never changes; `None`: ask each time."""

    def reset(self, one: int, other: int) -> None:
        """Forget what is under way between two nodes: their link broke."""


class Watcher(Protocol):
    """Who is told what becomes of links and messages."""

    def deliver(self, node: "Node", message: Message, source: "Node", awaited: bool) -> None:
        """A node was delivered a message that another brought."""

    def linked(self, dialler: "Node", listener: "Node") -> None:
        """There is a link."""

    def parted(self, one: "Node", other: "Node") -> None:
        """There is none any more."""

    def refused(self, node: "Node", effect: Reset | Exchange | Disconnect) -> None:
        """A machine resets a peer's stream or disconnects it, or is told of other peers."""


class Node:
    """A machine, and what its driver would know."""

    __slots__ = (
        "control_bytes",
        "id",
        "is_up",
        "keypair",
        "mesh",
        "number",
        "sent_bytes",
        "tick_at",
        "ways",
    )

    def __init__(self, number: int, keypair: Keypair) -> None:
        self.number = number
        self.keypair = keypair
        self.id = wire.PEER_ID_PREFIX + keypair.public_key
        self.mesh: Mesh
        self.is_up = True
        self.ways: dict[bytes, Way] = {}
        """By peer id: the way there."""
        self.tick_at = -1.0
        self.sent_bytes = 0
        self.control_bytes = 0
        """Of those: all but messages."""


class Way:
    """One direction of a link, from when the link comes up until it breaks."""

    __slots__ = (
        "is_mute",
        "is_open",
        "mark",
        "mesh",
        "source",
        "source_id",
        "steady_s",
        "target",
        "unwritten_bytes",
    )

    def __init__(self, source: Node, target: Node, steady_s: float | None) -> None:
        """`steady_s` is how long each message takes, if that is known."""
        self.source = source
        self.source_id = source.id
        self.target = target
        self.mesh = target.mesh
        """Of `target`: what arrives is said to it, and mostly that is all there is to do."""
        self.steady_s = steady_s
        self.is_open = True
        self.is_mute = False
        """What is sent goes nowhere, and nobody notices."""
        self.unwritten_bytes = 0
        """Arrived, and not yet told to the machine that sent them."""
        self.mark = (source.number << 16 | target.number) << 32


def messages_bytes(rpc: bytes) -> int:
    """Return how many bytes of an RPC of ours are messages."""
    found, place, size = 0, 0, len(rpc)
    while place < size and rpc[place] in (0x0A, 0x12):
        head, length, shift = place, 0, 0
        while True:
            place += 1
            length |= (rpc[place] & 127) << shift
            shift += 7
            if rpc[place] < 128:
                break
        place += 1 + length
        if rpc[head] == 0x12:
            found += place - head
    return found
