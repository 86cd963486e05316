"""One peer in one fetch: what it was asked, and what its answers say about it."""

from gossip.fetch_events import Block, FetchConfig, Provider


class Standing:
    """A provider and what is known of it. Times are seconds."""

    def __init__(self, provider: Provider) -> None:
        self.peer = provider.peer
        self.is_home = provider.is_home
        self.requests: dict[int, None] = {}
        """Requests that it owes an answer to, or whose answer is being verified."""
        self.lacks: dict[Block | None, None] = {}
        self.has_given = False
        """Whether anything from it was good."""
        self.has_answered = False
        self.is_late = False
        """Whether another peer was faster with what it had been asked for before."""
        self.is_out = False
        """It is asked no more."""
        self._misses = 0
        self._heard_at = 0.0

    def may_take(self, block: Block | None, window: int) -> bool:
        """Tell whether it may be asked for a block now.

        One that has given nothing yet is asked for one thing at a time: most have nothing.
        """
        room = window if self.has_given else 1
        return self.may_have(block) and len(self.requests) < room

    def may_have(self, block: Block | None) -> bool:
        """Tell whether it may be asked for a block at some time."""
        return not self.is_out and block not in self.lacks

    def silent_at(self, config: FetchConfig) -> float:
        """Return when it is given up, unless it answers."""
        return self._heard_at + config.silence_s if self.requests else float("inf")

    def ask(self, request: int, now: float) -> None:
        """Note that it owes an answer."""
        if not self.requests:
            self._heard_at = now
        self.requests[request] = None

    def hear(self, now: float) -> None:
        """Note that it answered, whatever it said."""
        self._heard_at = now
        self.has_answered = True

    def give(self) -> None:
        """Note that something it gave was good."""
        self.has_given = True
        self._misses = 0

    def miss(self, block: Block | None, config: FetchConfig) -> None:
        """Note that it lacks a block; without the root, or after many, it is out."""
        self.lacks[block] = None
        self._misses += 1
        if block is None or not block.depth or self._misses >= config.misses_max:
            self.is_out = True
