"""One host or key costs so much and no more, and members find room where strangers crowd."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import trio
import trio.testing

from peernode.libp2p_arrivals import Arrivals
from peernode.libp2p_config import Libp2pConfig

SLOWLY = replace(Libp2pConfig(), handshakes_per_host_per_s=0.5, replacements_per_minute=6.0)


class Door:
    """Handshakes that never come to an end by themselves."""

    def __init__(self, arrivals: Arrivals, nursery: trio.Nursery) -> None:
        self.arrivals = arrivals
        self.ended: list[str] = []
        self.refused: list[str] = []
        self._nursery = nursery

    async def knock(self, *hosts: str) -> None:
        for host in hosts:
            self._nursery.start_soon(self._knock, host)
            await trio.testing.wait_all_tasks_blocked()
            self.arrivals.check()

    async def _knock(self, host: str) -> None:
        with self.arrivals.handshake(host) as may:
            if not may:
                self.refused.append(host)
                return
            await trio.sleep_forever()
        self.ended.append(host)


@asynccontextmanager
async def open_door(
    config: Libp2pConfig = SLOWLY, known: Callable[[], list[str]] = list
) -> AsyncIterator[Door]:
    async with trio.open_nursery() as nursery:
        yield Door(Arrivals(config, known), nursery)
        nursery.cancel_scope.cancel()


async def test_a_host_begins_so_many_and_then_few(autojump_clock: trio.testing.MockClock) -> None:
    config = replace(SLOWLY, handshakes_per_host_burst=5)
    async with open_door(config) as door:
        await door.knock(*["10.0.0.1"] * 400)
        assert (door.arrivals.begun, door.arrivals.refused) == (5, 395)
        await door.knock("10.0.0.2")
        assert door.arrivals.begun == 6
        await trio.sleep(10)
        await door.knock(*["10.0.0.1"] * 400)
        assert door.arrivals.begun == 11


async def test_who_says_nothing_ends_for_the_next_of_its_host_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = replace(SLOWLY, handshakes_per_host_max=3)
    async with open_door(config) as door:
        await door.knock("10.0.0.9", *["10.0.0.1"] * 10)
        assert door.ended == ["10.0.0.1"] * 7


async def test_addresses_of_one_network_are_one_host(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = replace(SLOWLY, handshakes_per_host_burst=2)
    async with open_door(config) as door:
        await door.knock(*[f"2001:db8::{number:x}" for number in range(10)])
        await door.knock("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.1")
        assert door.arrivals.begun == 4


async def test_where_members_are_there_is_room_when_strangers_take_every_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config = replace(SLOWLY, handshakes_max=6)
    async with open_door(config, lambda: ["10.9.9.9", "::ffff:10.9.9.8"]) as door:
        await door.knock("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.1", "10.0.0.4")
        await door.knock("10.9.9.9", "10.9.9.8")
        assert door.ended == ["10.0.0.1"] * 2, "of the host that has most of them"
        await door.knock(*["10.9.9.9"] * 4)
        assert len(door.ended) == 6
        assert door.refused == []
        await door.knock("10.0.0.5")
        assert door.refused == ["10.0.0.5"], "and members do not end for strangers"
        await door.knock("10.9.9.8")
        assert door.ended[-1] == "10.9.9.9"


async def test_a_peer_takes_the_place_of_its_link_a_few_times(
    autojump_clock: trio.testing.MockClock,
) -> None:
    arrivals = Arrivals(SLOWLY, list)
    taken = [arrivals.may_replace("a peer") for _ in range(10)]
    assert taken == [True] * SLOWLY.replacements_burst + [False] * 6
    assert arrivals.may_replace("another")
    await trio.sleep(10)
    assert [arrivals.may_replace("a peer") for _ in range(2)] == [True, False]


async def test_a_handshake_that_fails_leaves_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    arrivals = Arrivals(replace(SLOWLY, handshakes_max=1), list)
    for _ in range(3):
        with suppress(LookupError), arrivals.handshake("10.0.0.1") as may:
            assert may
            raise LookupError
    arrivals.check()
