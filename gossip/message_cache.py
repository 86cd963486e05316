"""What a node remembers of messages: those it can still send, and the ids of all it saw.

`MessageCache` is the specification's mcache: the messages of the last few heartbeats, to be told of
(IHAVE) for fewer heartbeats than they can be asked for (IWANT).  It is bounded by messages and by
bytes; the oldest go first.

`SeenCache` remembers ids by time, in two generations: an id lives for `seen_s` at least and twice
that at most, and no id needs a timer.  Replays older than that are new here; whoever must not be
fooled by them (nobody, where messages carry records) says IGNORE.
"""

from collections import deque
from collections.abc import Iterable

from gossip.wire import ID_SIZE_BYTES


class MessageCache:
    """The messages of the last heartbeats."""

    __slots__ = (
        "_entries",
        "_gossip",
        "_messages_max",
        "_sent",
        "_size_max_bytes",
        "_windows",
        "size_bytes",
    )

    def __init__(
        self, windows: int, gossip_windows: int, messages_max: int, size_max_bytes: int
    ) -> None:
        self._entries: dict[bytes, bytes] = {}
        """The messages by id, each as a field of an RPC."""
        self._sent: dict[bytes, dict[bytes, int]] = {}
        """How often each was sent to peers that asked for it."""
        # Newest first; in each, ids by topic in order of arrival.
        self._windows: deque[dict[str, list[bytes]]] = deque({} for _ in range(windows))
        self._gossip = gossip_windows
        self._messages_max = messages_max
        self._size_max_bytes = size_max_bytes
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, id: bytes, fragment: bytes, topic: str) -> None:
        """Remember a message; forget the oldest if there is no room."""
        if id in self._entries:
            return
        self._entries[id] = fragment
        self.size_bytes += len(fragment)
        window = self._windows[0]
        ids = window.get(topic)
        if ids is None:
            ids = window[topic] = []
        ids.append(id)
        while self.size_bytes > self._size_max_bytes or len(self._entries) > self._messages_max:
            # Entries are in order of arrival: the first is the oldest.
            oldest = next(iter(self._entries))
            self._forget(oldest)

    def get(self, id: bytes) -> bytes | None:
        """Return a message that can still be asked for, as a field of an RPC."""
        return self._entries.get(id)

    def sent(self, id: bytes) -> dict[bytes, int]:
        """Return how often a message that can be asked for was sent to whom, to be counted on."""
        return self._sent.setdefault(id, {})

    def gossip_ids(self, topic: str) -> list[bytes]:
        """Return the ids to tell of in a topic, newest heartbeat first."""
        entries = self._entries
        found: list[bytes] = []
        if not entries:
            return found
        for window in list(self._windows)[: self._gossip]:
            found += [key for key in window.get(topic, ()) if key in entries]
        return found

    def shift(self) -> None:
        """Begin the next heartbeat's window and forget the last one."""
        for ids in self._windows.pop().values():
            for key in ids:
                self._forget(key)
        self._windows.appendleft({})

    def check(self) -> None:
        """Assert that sizes are true and limits kept."""
        held = [key for window in self._windows for ids in window.values() for key in ids]
        assert len(held) == len(set(held)), "a message stands in two windows"
        assert self._entries.keys() <= set(held), "a message would never be forgotten"
        assert self._sent.keys() <= self._entries.keys()
        assert self.size_bytes == sum(map(len, self._entries.values()))
        assert self.size_bytes <= self._size_max_bytes
        assert len(self._entries) <= self._messages_max

    def _forget(self, id: bytes) -> None:
        fragment = self._entries.pop(id, None)
        if fragment is not None:
            self.size_bytes -= len(fragment)
            if self._sent:
                self._sent.pop(id, None)


NEW, VALID, COUNTED, INVALID, IGNORED, JUDGED = range(6)
"""What is known of a message: nothing; passed on; passed on, where copies count for a while (P3);
refused; neither; a verdict is awaited."""


class SeenCache:
    """The ids of messages of the last minutes, and what became of them."""

    __slots__ = ("_fresh", "_half_max", "_rotate_at", "_seen_s", "_stale")

    def __init__(self, seen_s: float, seen_max: int) -> None:
        self._fresh: dict[bytes, int] = {}
        self._stale: dict[bytes, int] = {}
        self._seen_s = seen_s
        self._half_max = max(1, seen_max // 2)
        self._rotate_at: float | None = None

    def __len__(self) -> int:
        return len(self._fresh) + len(self._stale)

    def get(self, id: bytes) -> int:
        """Return what is known of a message."""
        return self._fresh.get(id) or self._stale.get(id, NEW)

    def put(self, id: bytes, what: int) -> None:
        """Remember an id from now on, or what became of it."""
        if len(self._fresh) >= self._half_max and id not in self._fresh:
            self._stale, self._fresh = self._fresh, {}
        self._fresh[id] = what

    def unseen(self, written: Iterable[bytes]) -> list[bytes]:
        """Return those of some ids, in either length, that are not remembered."""
        fresh, stale = self._fresh, self._stale
        return [
            form
            for form in written
            if (key := form[-ID_SIZE_BYTES:]) not in fresh and key not in stale
        ]

    def expire(self, now: float) -> None:
        """Forget the older generation when the younger is old enough."""
        if self._rotate_at is None:
            self._rotate_at = now + self._seen_s
        elif now >= self._rotate_at:
            self._stale, self._fresh = self._fresh, {}
            self._rotate_at = now + self._seen_s

    def check(self) -> None:
        """Assert that limits are kept."""
        assert len(self._fresh) <= self._half_max
        assert len(self._stale) <= self._half_max
