"""The seam to other nodes: frames, in three manners, between peers that know each other by id.

| | for | promises |
|---|---|---|
| `send` | gossip | nothing: frames are lost when a queue is full or a link breaks; never waits |
| `request` | fetching | one reply, or an error, by the deadline |
| `open_stream` | reconciliation | frames in order, both ways, until either side closes |

A *peer* is the text of a libp2p peer id.  A *frame* is at least one byte; the protocol that a
handler is given for says how long one may be, and a longer one from outside ends its stream and
never reaches a handler.  Two implementations: libp2p (in the node) and memory (`memory_network`).
Rules that both keep, and one contract suite checks:

1. Frames that `send` takes for one peer arrive in that order, if they arrive.
2. A peer is *up* while frames can go both ways.  Every watcher hears of each change, in order: up
   and down in turn, beginning with up.  A link that breaks and is made again is down and up, even
   if nothing was lost: whatever is told once at the start of a link is to be told again.
3. A stream that breaks raises `PeerClosed` at both ends; what was not received yet may be lost.
4. Whoever does not read makes the other side's `send` wait, on streams, and lose, on gossip.
5. An exception that leaves a handler ends that handler's stream or request, is reported, and
   touches nothing else.  A `PeerError` is no fault of ours and is not reported.
6. What a peer does against the rules of a protocol (a frame over the limit, a `PeerError` with a
   penalty that leaves the handler that was answering it) is told to whoever watches faults.
   Whoever asks or opens a stream hears of the other side's faults by exceptions instead.
7. With a peer that is `cut_off` there is nothing, whoever of the two connects, until `take_back`.

Handlers are registered once for each protocol, before anything is connected.  Everything happens
in the loop's thread.  Who may be a peer at all, how they are found, connected and known by their
keys, is the implementation's.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from gossip.errors import PeerError


@dataclass(frozen=True, slots=True)
class PeerUp:
    """Frames can go to the peer, and come from it. Equal if they are about the same peer."""

    peer: str
    is_outbound: bool = field(default=False, compare=False)
    """Whether this node dialled."""
    agent: str = field(default="", compare=False)
    """What software the peer says it is; empty if it does not say."""


@dataclass(frozen=True, slots=True)
class PeerDown:
    """They cannot any more."""

    peer: str


PeerEvent: TypeAlias = PeerUp | PeerDown


class Stream(Protocol):
    """A conversation with one peer. One sender and one receiver at a time, at each end."""

    @property
    def peer(self) -> str:
        """The other end."""
        ...

    async def send(self, frame: bytes) -> None:
        """Send a frame; returns when there is room for another.

        Raises `PeerClosed`, and `ValueError` for an empty frame.
        """
        ...

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises `PeerClosed` at the end, and `RemoteProtocolError` if the frame is over the limit;
        the stream is over then.
        """
        ...

    async def aclose(self) -> None:
        """End the stream at both ends. Never raises; closing twice is fine."""
        ...


FrameHandler: TypeAlias = Callable[[str, bytes], None]
"""Called with the peer and its frame; does not wait."""

RequestHandler: TypeAlias = Callable[[str, bytes], Awaitable[bytes]]
"""Returns the reply to a peer's request."""

StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]
"""Talks over a stream that a peer opened, which is closed when it returns."""

Watcher: TypeAlias = Callable[[PeerEvent], None]
"""Told of each peer that comes or goes; does not wait."""

FaultWatcher: TypeAlias = Callable[[str, PeerError], None]
"""Told of a peer and the rule that it broke; does not wait."""


class Network(Protocol):
    """What a node says to others, and hears. See the module's rules."""

    @property
    def peer(self) -> str:
        """This node's own id."""
        ...

    def peers(self) -> list[str]:
        """Return the peers that are up, in the order they came."""
        ...

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of each peer that comes or goes from now on."""
        ...

    def watch_faults(self, watcher: FaultWatcher) -> None:
        """Tell `watcher` of each rule that a peer breaks from now on."""
        ...

    def cut_off(self, peer: str) -> None:
        """Break the link to a peer, and have none with it until it is taken back."""
        ...

    def take_back(self, peer: str) -> None:
        """Let a peer that was cut off connect again; nothing if it was not."""
        ...

    def serve_frames(self, handler: FrameHandler, *, size_max_bytes: int) -> None:
        """Give `handler` what peers `send`. Raises `ValueError` if somebody has it already."""
        ...

    def serve_requests(
        self, protocol: str, handler: RequestHandler, *, size_max_bytes: int
    ) -> None:
        """Let `handler` reply to requests. Raises `ValueError` as above."""
        ...

    def serve_streams(self, protocol: str, handler: StreamHandler, *, size_max_bytes: int) -> None:
        """Let `handler` talk over streams that peers open. Raises `ValueError` as above."""
        ...

    def send(self, peer: str, frame: bytes) -> bool:
        """Hand a frame to the peer's queue; tell whether it was taken. It may be lost all the same.

        `False` if the peer is not up or its queue is full.  Raises `ValueError` for an empty frame.
        """
        ...

    async def request(
        self, peer: str, protocol: str, frame: bytes, *, reply_size_max_bytes: int, timeout_s: float
    ) -> bytes:
        """Return the peer's reply; many may be open at once, and none waits for another's reply.

        Raises `PeerUnreachable` if there is no way or nobody serves the protocol there,
        `PeerClosed` if the link or the handler broke, `PeerTimeout`, `RemoteProtocolError` for a
        reply over the limit, and `ValueError` for an empty frame.  Cancelling it is safe: a reply
        that still comes is thrown away.
        """
        ...

    async def open_stream(
        self, peer: str, protocol: str, *, size_max_bytes: int, timeout_s: float
    ) -> Stream:
        """Open a stream to the peer. Raises `PeerUnreachable` or `PeerTimeout`.

        `size_max_bytes` bounds the frames that come from there.
        """
        ...
