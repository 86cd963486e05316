"""The driver of fetching: tickets end once, whatever peers and the keeper do."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from gossip.errors import PeerError
from gossip.fetch_events import Block, FetchConfig, Found, Missing, Provider, TimedOut, Unreachable
from gossip.fetch_messages import (
    PROTOCOL,
    REQUEST_SIZE_MAX_BYTES,
    Data,
    Kind,
    Missing as MissingReply,
    Thing,
    encode,
)
from gossip.memory_network import MemoryNetwork, Wire, open_wire
from peernode.fetch_driver import FetchDriver
from storage import cid as cids
from storage.cid import Cid
from storage.errors import StoreFull

Clock = trio.testing.MockClock
SMALL = Thing(Kind.SNAPSHOT, 1 << 40, b"")
HOME = [Provider("home", is_home=True)]


class Keeper:
    """Keeps blocks in memory; has no room when it is full."""

    def __init__(self) -> None:
        self.kept: dict[Cid, bytes] = {}
        self.is_full = False

    async def look_up(
        self, thing: Thing, blocks: Sequence[Block]
    ) -> tuple[list[Cid], list[tuple[Cid, bytes]]]:
        return [block.cid for block in blocks if block.cid in self.kept], []

    async def keep(self, thing: Thing, block: Block | None, data: bytes) -> str:
        if self.is_full:
            raise StoreFull("no room")
        if block is not None:
            if not cids.matches(block.cid, data):
                return "another block"
            self.kept[block.cid] = data
        return "" if data != b"bad" else "bad"


class Bench:
    """A driver, its keeper, and one home that answers as it is told."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.keeper = Keeper()
        self.penalised: list[str] = []
        self.reply: bytes | None = encode(Data(b"good"))
        """`None`: no answer, ever."""
        self.asked = 0
        network: MemoryNetwork = wire.join("me")
        self.driver = FetchDriver(network, self.keeper, FetchConfig(), self._penalise)
        wire.join("home").serve_requests(
            PROTOCOL, self._serve, size_max_bytes=REQUEST_SIZE_MAX_BYTES
        )
        wire.connect("me", "home")

    def _penalise(self, peer: str, error: PeerError) -> None:
        self.penalised.append(peer)

    async def _serve(self, peer: str, frame: bytes) -> bytes:
        self.asked += 1
        if self.reply is None:
            await trio.sleep_forever()
            raise AssertionError("unreachable")
        return self.reply


@asynccontextmanager
async def open_bench() -> AsyncIterator[Bench]:
    async with open_wire() as wire, trio.open_nursery() as nursery:
        bench = Bench(wire)
        nursery.start_soon(bench.driver.run)
        yield bench
        bench.driver.check()
        nursery.cancel_scope.cancel()


async def test_a_thing_is_found(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        assert await bench.driver.fetch(SMALL, b"", HOME, 5) == Found(b"good", ("home",))


async def test_it_is_missing_and_says_who_was_asked(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        bench.reply = encode(MissingReply(True, []))
        assert await bench.driver.fetch(SMALL, b"", HOME, 5) == Missing(("home",))


async def test_nobody_to_ask(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        assert await bench.driver.fetch(SMALL, b"", [], 5) == Missing(())
        bench.wire.disconnect("me", "home")
        assert await bench.driver.fetch(SMALL, b"", HOME, 5) == Unreachable(("home",), ())


async def test_a_silent_peer_costs_the_time_that_was_given(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        bench.reply = None
        began = trio.current_time()
        outcome = await bench.driver.fetch(SMALL, b"", HOME, 5)
        assert isinstance(outcome, TimedOut | Unreachable)
        assert outcome.unreached == ("home",)
        assert trio.current_time() - began == 5


async def test_a_lie_is_penalised(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        bench.reply = encode(Data(b"bad"))
        assert await bench.driver.fetch(SMALL, b"", HOME, 5) == Missing(("home",))
        assert bench.penalised == ["home"]


async def test_many_who_wait_are_one_request(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        found = []

        async def wait() -> None:
            found.append(await bench.driver.fetch(SMALL, b"", HOME, 5))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(wait)
        assert found == [Found(b"good", ("home",))] * 10
        assert bench.asked == 1


async def test_who_leaves_is_forgotten_and_twice_is_once(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        bench.reply = None
        ended: list[bool] = []
        ticket = bench.driver.ask(SMALL, b"", HOME, 5, lambda: ended.append(True))
        await trio.testing.wait_all_tasks_blocked()
        bench.driver.withdraw(ticket)
        bench.driver.withdraw(ticket)
        await trio.sleep(60)
        assert not ticket.is_over
        assert ended == []
        with trio.move_on_after(1):
            await bench.driver.fetch(SMALL, b"", HOME, 5)
        bench.driver.check()


async def test_what_cannot_be_kept_ends_the_wait_with_the_reason(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        bench.keeper.is_full = True
        with pytest.raises(StoreFull):
            await bench.driver.fetch(SMALL, b"", HOME, 5)
        bench.keeper.is_full = False
        assert isinstance(await bench.driver.fetch(SMALL, b"", HOME, 5), Found)


async def test_one_block_is_asked_for_by_its_place(autojump_clock: Clock) -> None:
    async with open_bench() as bench:
        leaf = cids.raw_leaf(b"good")
        thing, block = Thing(Kind.BLOB, 1 << 40, leaf), Block(leaf, 0, 0, 4)
        reply = await bench.driver.fetch_block(thing, block, b"", "home", 5)
        assert reply == Data(b"good")
        assert bench.keeper.kept == {leaf: b"good"}
        bench.reply = encode(Data(b"else"))
        with pytest.raises(PeerError):
            await bench.driver.fetch_block(thing, block, b"", "home", 5)
        assert bench.penalised == ["home"]
