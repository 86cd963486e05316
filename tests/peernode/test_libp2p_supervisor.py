"""When a peer is dialled again: at once, soon, or after delays that double."""

import itertools
import random
from collections.abc import Sequence
from typing import cast

import trio
import trio.testing

from peernode.libp2p_address import Address
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_link import Link
from peernode.libp2p_supervisor import Supervisor
from storage import signing

CONFIG = Libp2pConfig()
PEER = signing.peer_id(signing.Keypair.from_seed(b"\1" * 32).public_key)
LONG_S = 600.0
SOON_S = 8 * CONFIG.retry_delay_min_s


class Ended:
    """A link that has been up for so long."""

    def __init__(self, was_up_s: float) -> None:
        self.was_up_s = was_up_s
        self.ended = trio.Event()
        self.ended.set()


async def delays_s(was_up_s: float | None) -> list[float]:
    """Return the delays before each dial, of a peer whose links are so long up; `None`: it is not
    there."""
    dialled_at: list[float] = []

    async def connect(_peer: str, _addresses: Sequence[Address]) -> Link | None:
        dialled_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        return None if was_up_s is None else cast("Link", Ended(was_up_s))

    async with trio.open_nursery() as nursery:
        chance = random.Random(1)
        supervisor = Supervisor("us", CONFIG, chance, nursery, lambda _: None, connect)
        supervisor.add(PEER, ["/ip4/127.0.0.1/tcp/1"])
        await trio.sleep(LONG_S)
        nursery.cancel_scope.cancel()
    return [later - at for at, later in itertools.pairwise(dialled_at)]


async def test_delays_double_for_who_is_not_there(autojump_clock: trio.testing.MockClock) -> None:
    found = await delays_s(None)
    assert found[0] <= CONFIG.retry_delay_min_s
    assert found[6] > SOON_S / 2
    assert all(delay_s >= CONFIG.retry_delay_max_s / 2 for delay_s in found[9:])
    assert len(found) < 60


async def test_who_refuses_us_is_dialled_as_seldom(autojump_clock: trio.testing.MockClock) -> None:
    found = await delays_s(0.0)
    assert all(delay_s >= CONFIG.retry_delay_max_s / 2 for delay_s in found[9:])


async def test_who_was_up_a_moment_is_dialled_again_soon_and_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    found = await delays_s(1.0)
    assert all(delay_s <= SOON_S for delay_s in found[: CONFIG.turns_max])
    assert all(delay_s >= CONFIG.retry_delay_max_s / 2 for delay_s in found[CONFIG.turns_max + 6 :])


async def test_who_was_up_for_long_is_dialled_again_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    found = await delays_s(CONFIG.stable_after_s)
    assert all(delay_s <= CONFIG.retry_delay_min_s for delay_s in found)
