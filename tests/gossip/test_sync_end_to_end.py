"""Two nodes with real facts and records reconcile over a network: all parts at once."""

from collections import deque
from collections.abc import Iterable
from itertools import count

import pytest
import trio
import trio.testing

from gossip.errors import PENALTY_FORGED, PeerError, RemoteProtocolError
from gossip.memory_network import Wire, open_wire
from gossip.network import Stream
from gossip.sync import Sync
from gossip.sync_events import (
    Accept,
    Applied,
    Apply,
    Closed,
    Done,
    Failed,
    Forged,
    Give,
    Given,
    Input,
    Insert,
    Open,
    Pause,
    Receive,
    Remove,
    Resume,
    Send,
    SyncConfig,
)
from gossip.sync_index import SHORT_ID_SIZE_BYTES, Item, item
from gossip.sync_messages import (
    FRAME_SIZE_MAX_BYTES,
    PAYLOAD_OVERHEAD_BYTES,
    PROTOCOL,
    Stratum,
)
from storage.authority import Authority, Unverifiable
from storage.errors import InvalidData
from storage.facts import Fact, decode_fact
from storage.merge import State
from storage.records import Record, decode_record
from tests.storage.builders import (
    ADMIN,
    DEVELOPER,
    MESH,
    OUTSIDER,
    SETTING,
    Class,
    Role,
    member,
    member_revoke,
    place,
    record,
    stamp,
)


class Node:
    """A node that knows things and reconciles: the smallest driver of `Sync` there is."""

    def __init__(
        self, wire: Wire, peer: str, facts: Iterable[Fact], records: Iterable[Record] = ()
    ) -> None:
        self.state = State(Authority(MESH, facts))
        self.network = wire.join(peer)
        self.network.serve_streams(PROTOCOL, self.answer, size_max_bytes=FRAME_SIZE_MAX_BYTES)
        self.sync = Sync(SyncConfig(), peer, MESH)
        self.offered: dict[tuple[Stratum, Item], bytes] = {}
        self.ended: list[Done | Failed] = []
        self.sessions = count(1)
        for one in records:
            self.state.apply(one)
        self.offer()

    def offer(self) -> None:
        """Tell the machine what has become known and admissible, or is so no longer."""
        authority = self.state.authority
        now = {
            (Stratum.FACTS, item(fact.signed_at, fact.id)): fact.encoded
            for fact in authority
            if authority.known(fact)
        } | {
            (Stratum.RECORDS, item(one.body.hlc, one.rid)): one.encoded
            for one in self.state.admissible_records()
        }
        for key in [key for key in self.offered if key not in now]:
            self.sync.handle(Remove(*key), trio.current_time())
        for key in [key for key in now if key not in self.offered]:
            self.sync.handle(Insert(*key), trio.current_time())
        self.offered = now

    async def open(self, peer: str) -> None:
        """Reconcile with a peer."""
        stream = await self.network.open_stream(
            peer, PROTOCOL, size_max_bytes=FRAME_SIZE_MAX_BYTES, timeout_s=10
        )
        session = next(self.sessions)
        await self.talk(stream, session, Open(session, peer, session.to_bytes(16, "big")))

    async def answer(self, stream: Stream) -> None:
        """Reconcile with a peer that asks for it."""
        session = next(self.sessions)
        await self.talk(stream, session, Accept(session, stream.peer, bytes(16)))

    async def talk(self, stream: Stream, session: int, first: Input) -> None:
        """Do what the machine says, until the session is over."""
        inputs = deque([first])
        try:
            while True:
                while inputs:
                    for effect in self.sync.handle(inputs.popleft(), trio.current_time()):
                        match effect:
                            case Send(_, _, frame):
                                await stream.send(frame)
                            case Pause():
                                await trio.lowlevel.checkpoint()
                                inputs.append(Resume(session))
                            case Give():
                                inputs.append(Given(session, self.read(effect)))
                            case Apply():
                                inputs.append(self.apply(effect))
                            case Done() | Failed():
                                self.ended.append(effect)
                                return
                try:
                    inputs.append(Receive(session, await stream.receive()))
                except PeerError as error:
                    inputs.append(Closed(session, error))
        finally:
            await stream.aclose()

    def read(self, give: Give) -> tuple[bytes | None, ...]:
        payloads: list[bytes | None] = []
        room = give.size_max_bytes
        for one in give.items:
            payload = self.offered.get((give.stratum, one))
            room -= len(payload or b"") + PAYLOAD_OVERHEAD_BYTES
            if room < 0:
                break
            payloads.append(payload)
        return tuple(payloads)

    def apply(self, apply: Apply) -> Input:
        taken: list[Fact | Record] = []
        for short, payload in apply.received:
            try:
                one: Fact | Record
                if apply.stratum is Stratum.FACTS:
                    one = decode_fact(payload, MESH)
                    name = one.id
                else:
                    one = decode_record(payload)
                    name = one.rid
                    one.verify(MESH)
                    self.state.authority.verify_keys(one)
            except Unverifiable:
                pass  # It waits for facts, or is offered again.
            except InvalidData as error:
                return Forged(apply.session, str(error))
            if name[:SHORT_ID_SIZE_BYTES] != short:
                return Forged(apply.session, "not what was asked for")
            taken.append(one)
        for one in taken:
            self.state.apply(one)
        self.offer()
        return Applied(apply.session)


class SlowLine:
    """50 ms each way."""

    def delay_s(self, source: str, target: str, size_bytes: int) -> float:
        return 0.05

    def is_lost(self, source: str, target: str, size_bytes: int) -> bool:
        return False


def entry(number: int, author: int = DEVELOPER, time: int = 10) -> Record:
    """Return an entry of a global space."""
    return record(place(Class.KV_ENTRY, key=b"%d" % number), author=author, hlc=stamp(time, number))


async def reconcile(wire: Wire, one: Node, other: Node) -> tuple[Done, Done]:
    wire.connect(one.network.peer, other.network.peer)
    await one.open(other.network.peer)
    await trio.sleep(1)
    mine, theirs = one.ended[-1], other.ended[-1]
    assert isinstance(mine, Done), mine
    assert isinstance(theirs, Done), theirs
    assert one.state.view() == other.state.view()
    assert set(one.state.authority) == set(other.state.authority)
    assert one.offered == other.offered
    return mine, theirs


async def test_what_two_nodes_wrote_apart_is_known_to_both(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(SlowLine()) as wire:
        common = [entry(number) for number in range(30)]
        ours = [entry(number, time=20) for number in range(20, 50)]
        theirs = [entry(number, ADMIN, time=30) for number in range(5)]
        one = Node(wire, "one", SETTING, [*common, *ours])
        other = Node(wire, "other", SETTING, [*common, *theirs])
        began = trio.current_time()
        mine, _ = await reconcile(wire, one, other)
        # Ten of those that came are the ones that ours have overwritten: they travel once more.
        assert (mine.sent, mine.received, mine.are_facts_equal) == (30, 5 + 10, True)
        # A second of it is the test's own.
        assert trio.current_time() - began < 2


async def test_a_new_node_learns_everything(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wire(SlowLine()) as wire:
        records = [entry(number) for number in range(40)]
        full = Node(wire, "full", SETTING, records)
        # All that it knows of the mesh is its genesis.
        new = Node(wire, "new", SETTING[:1])
        mine, _ = await reconcile(wire, new, full)
        assert mine.received == len(SETTING) - 1 + 40
        assert len(new.state.view()) == 40


async def test_a_revocation_comes_before_what_it_concerns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire(SlowLine()) as wire:
        common = [entry(number, ADMIN) for number in range(5)]
        late = [entry(number, time=99) for number in range(10)]
        one = Node(wire, "one", [*SETTING, member_revoke()], common)
        other = Node(wire, "other", SETTING, [*common, *late])
        mine, _ = await reconcile(wire, one, other)
        # The facts told the other side that its late entries do not count: they never travelled.
        assert (mine.sent, mine.received) == (1, 0)
        assert len(other.state.view()) == 5


async def test_a_grant_shows_what_was_hidden(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wire(SlowLine()) as wire:
        grant = member(OUTSIDER, Role.DEVELOPER)
        records = [entry(number, OUTSIDER) for number in range(10)]
        one = Node(wire, "one", [*SETTING, grant], records)
        other = Node(wire, "other", SETTING)
        mine, _ = await reconcile(wire, one, other)
        assert (mine.sent, mine.received) == (11, 0)


async def test_a_forged_record_ends_the_session_and_changes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Liar(Node):
        def read(self, give: Give) -> tuple[bytes | None, ...]:
            payloads = super().read(give)
            return tuple((payload or b"")[:-1] + b"\0" for payload in payloads)

    async with open_wire(SlowLine()) as wire:
        honest = Node(wire, "honest", SETTING, [entry(1)])
        Liar(wire, "liar", SETTING, [entry(1), entry(2)])
        before = honest.offered
        wire.connect("honest", "liar")
        await honest.open("liar")
        await trio.sleep(1)
        (failed,) = honest.ended
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, RemoteProtocolError)
        assert failed.error.penalty == PENALTY_FORGED
        assert honest.offered == before


@pytest.mark.parametrize("after_s", [0.01, 0.16, 0.27, 0.38, 0.49])
async def test_a_session_that_a_partition_broke_is_done_again(
    autojump_clock: trio.testing.MockClock, after_s: float
) -> None:
    async with open_wire(SlowLine()) as wire:
        one = Node(wire, "one", SETTING, [entry(number) for number in range(60)])
        other = Node(wire, "other", SETTING[:4], [])
        wire.connect("one", "other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.open, "other")
            await trio.sleep(after_s)
            wire.disconnect("one", "other")
        assert not isinstance(other.ended[-1], Done)
        await reconcile(wire, one, other)
        assert len(other.state.view()) == 60
