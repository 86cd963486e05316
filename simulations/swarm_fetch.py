"""Fetching in a swarm: blobs that are made at one node and read at others, by `gossip.fetch.Fetch`.

Each node that reads has a machine of its own, and keeps the blocks that it was given: the second
read of the same content asks nobody, and who has it may give it on.  Asked are the blob's home and
then the reader's neighbours, as the daemon does.  Blocks are real, and each is checked against its
CID.  Requests go straight to whoever is asked, by the shortest way where there is no link.

Metrics, as in a World: `blob.read_s`, `blob.fetched` 0/1, `blob.fetched_bytes`, `blob.failed` 0/1.
"""

import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from gossip.errors import PeerError, PeerUnreachable
from gossip.fetch import Fetch
from gossip.fetch_events import (
    Answer,
    Ask,
    Bad,
    Effect,
    FetchConfig,
    Found,
    Input,
    LookedUp,
    LookUp,
    Provider,
    Replied,
    Request,
    Tick,
    Unanswered,
    Verified,
    Verify,
)
from gossip.fetch_messages import Data, Get, Kind, Missing, Thing, decode_request, encode, path
from simulations import chance
from simulations.arrivals import arrivals
from simulations.clients import which
from simulations.distributions import draw
from simulations.metrics import Metrics
from simulations.popularity import Zipf
from simulations.scenario import Updates
from simulations.swarm_population import Population
from storage import cid as cids
from storage.cid import Cid, TreeBuilder, decode_node, is_leaf, raw_leaf

READ_TIMEOUT_S: Final = 60.0
"""How long a reader waits. Source: as a daemon's caller does."""
LABEL: Final = "blob"


class Blob(NamedTuple):
    """What a key stands for now."""

    id: int
    home: int
    cid: Cid
    size_bytes: int


class _Member:
    """One node: its blocks, and its machine."""

    __slots__ = ("fetch", "held", "number", "readings", "received", "tick_at")

    def __init__(self, number: int) -> None:
        self.number = number
        self.held: dict[Cid, bytes] = {}
        self.fetch = Fetch(FetchConfig())
        self.readings: dict[int, float] = {}
        """Waiter -> since when."""
        self.received: dict[int, int] = {}
        """Fetch -> bytes of replies, until a reading is told."""
        self.tick_at: float | None = None


class Fetching:
    """All machines that fetch."""

    def __init__(self, population: Population, metrics: Metrics) -> None:
        self._population = population
        self._swarm = population.swarm
        self._metrics = metrics
        self._members: dict[int, _Member] = {}
        self._made = 0
        self._waiters = 0

    def member(self, number: int) -> _Member:
        """Return a node's part."""
        member = self._members.get(number)
        if member is None:
            member = self._members[number] = _Member(number)
        return member

    def make(self, number: int, content: bytes) -> Blob:
        """Have content at a node."""
        self._made += 1
        held = self.member(number).held
        builder = TreeBuilder(held.__setitem__)
        for place in range(0, max(1, len(content)), cids.CHUNK_SIZE_BYTES):
            data = content[place : place + cids.CHUNK_SIZE_BYTES]
            leaf = raw_leaf(data)
            held[leaf] = data
            builder.add(leaf, len(data))
        return Blob(self._made, number, builder.finish().cid, len(content))

    def read(self, number: int, blob: Blob) -> None:
        """Read a blob at a node that is up, and observe what that takes."""
        if not self._swarm.nodes[number].is_up:
            return
        member = self.member(number)
        self._waiters += 1
        member.readings[self._waiters] = self._population.now
        graph = self._population.graph
        others = [n for n in graph.neighbours(number) if n != blob.home]
        providers = [] if number == blob.home else [Provider(name(blob.home), is_home=True)]
        providers += [Provider(name(other)) for other in others]
        thing = Thing(Kind.BLOB, blob.id, blob.cid)
        deadline = self._swarm.now + READ_TIMEOUT_S
        self._tell(member, Ask(self._waiters, thing, b"", tuple(providers), deadline))

    # --- machines -----------------------------------------------------------------------------

    def _tell(self, member: _Member, input: Input) -> None:
        effects = member.fetch.handle(input, self._swarm.now)
        if self._swarm.checking:
            member.fetch.check()
        for effect in effects:
            self._do(member, effect)
        deadline = member.fetch.deadline
        if deadline is not None and (member.tick_at is None or deadline < member.tick_at):
            self._arm(member, deadline)

    def _do(self, member: _Member, effect: Effect) -> None:
        match effect:
            case LookUp(fetch, look, _, blocks):
                here = [block.cid for block in blocks if block.cid in member.held]
                leaves = tuple(one for one in here if is_leaf(one))
                nodes = tuple((one, member.held[one]) for one in here if not is_leaf(one))
                self._tell(member, LookedUp(fetch, look, leaves, nodes))
            case Request():
                self._ask(member, effect)
            case Verify(request, _, _, _, block, data):
                if block is not None and cids.matches(block.cid, data):
                    member.held[block.cid] = data
                    self._tell(member, Verified(request))
                else:
                    self._tell(member, Bad(request, "not what its CID says"))
            case Answer():
                self._answered(member, effect)
            case _:
                pass  # Abandon, Penalise: nothing that a swarm has would take notice.

    def _answered(self, member: _Member, answer: Answer) -> None:
        begun_s, now = member.readings.pop(answer.waiter), self._population.now
        # Of readers that waited for one fetch, the first has the bytes to its account.
        size_bytes = member.received.pop(answer.fetch, 0)
        outcome = answer.outcome
        self._observe("blob.failed", float(not isinstance(outcome, Found)), member)
        if isinstance(outcome, Found):
            self._observe("blob.read_s", now - begun_s, member)
            self._observe("blob.fetched", float(bool(outcome.sources)), member)
            self._observe("blob.fetched_bytes", size_bytes, member)

    def _arm(self, member: _Member, deadline: float) -> None:
        member.tick_at = deadline

        def due() -> None:
            if member.tick_at == deadline:
                member.tick_at = None
                self._tell(member, Tick())

        self._swarm.at(deadline, due)

    # --- requests -----------------------------------------------------------------------------

    def _ask(self, member: _Member, asked: Request) -> None:
        provider, request, fetch = int(asked.peer[1:]), asked.request, asked.fetch

        def arrive() -> None:
            if not self._swarm.nodes[provider].is_up:
                unreachable(PeerUnreachable("it is down"))
                return
            reply = encode(self._reply(self.member(provider), decode_request(asked.frame)))
            self._carry(provider, member.number, len(reply), lambda: hear(reply), unreachable)

        def hear(reply: bytes) -> None:
            if not self._swarm.nodes[member.number].is_up:
                return  # Its deadline comes, and nobody has an answer.
            member.received[fetch] = member.received.get(fetch, 0) + len(reply)
            self._tell(member, Replied(request, reply))

        def unreachable(error: PeerError) -> None:
            self._tell(member, Unanswered(request, error))

        self._carry(member.number, provider, len(asked.frame), arrive, unreachable)

    def _carry(
        self,
        source: int,
        target: int,
        size_bytes: int,
        arrive: Callable[[], None],
        fail: Callable[[PeerError], None],
    ) -> None:
        """Have something arrive at another node, or its sender be told that it does not."""
        swarm = self._swarm
        at = None
        if self._population.reaches(source, target):
            swarm.nodes[source].sent_bytes += size_bytes
            at = swarm.lines.arrival_s(source, target, size_bytes, swarm.now)
        if at is None:
            swarm.at(swarm.now, lambda: fail(PeerUnreachable("no way there")))
        else:
            swarm.note(source, target, size_bytes, at)
            swarm.at(at, arrive)

    def _reply(self, member: _Member, get: Get) -> Data | Missing:
        """Return what a node says to a request: that it has none is final of none here."""
        at = cids.from_bytes(get.name)
        for child in path(get.depth, get.index):
            node = member.held.get(at)
            if node is None:
                return Missing(False, [])
            at = decode_node(node)[child][0]
        data = member.held.get(at)
        return Missing(False, []) if data is None else Data(data)

    def _observe(self, metric: str, value: float, member: _Member) -> None:
        now = self._population.now
        self._metrics.observe(metric, now, value, node=str(member.number), label=LABEL)


class BlobsPlayer:
    """One `[[updates]]` of blobs being played: changes of keys, and reads at nodes by lot."""

    def __init__(
        self,
        described: Updates,
        population: Population,
        metrics: Metrics,
        number: int,
        until_s: float,
    ) -> None:
        self._described = described
        self._population = population
        self._number = number
        self._until_s = until_s
        self._fetching = Fetching(population, metrics)
        self._nodes = which(described.nodes, population.size)
        self._zipf = Zipf(described.keys, described.zipf)
        self._changes = 0
        self._blobs = [self._make(key) for key in range(described.keys)]

    def plan(self) -> None:
        """Have keys change and be read, until it is time to end."""
        rng, reader = self._chance("change"), self._chance("reads")
        size = self._population.size
        self._each(
            arrivals(self._described.arrivals, self._chance("times")),
            lambda: self._change(self._zipf.draw(rng)),
        )
        if self._described.reads is not None:
            self._each(
                arrivals(self._described.reads, self._chance("reads", "times")),
                lambda: self._fetching.read(
                    reader.randrange(size), self._blobs[self._zipf.draw(reader)]
                ),
            )

    def _chance(self, *names: str) -> random.Random:
        return chance.named(self._population.swarm.seed, "blobs", self._number, *names)

    def _change(self, key: int) -> None:
        self._blobs[key] = self._make(key)

    def _make(self, key: int) -> Blob:
        node = self._nodes[self._changes % len(self._nodes)]
        self._changes += 1
        rng = self._chance("content", str(self._changes))
        size_bytes = max(1, round(draw(self._described.size_bytes, rng)))
        return self._fetching.make(node, rng.randbytes(size_bytes))

    def _each(self, times: Iterator[tuple[float, float | None]], act: Callable[[], None]) -> None:
        swarm = self._population.swarm

        def plan() -> None:
            at_s, _ = next(times, (self._until_s, None))
            if at_s < self._until_s:
                swarm.at(swarm.zero_s + at_s, happen)

        def happen() -> None:
            act()
            plan()

        plan()


def name(number: int) -> str:
    """Return what a node is called in requests."""
    return f"n{number}"
