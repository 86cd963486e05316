"""Peers found on the same network."""

from dataclasses import replace

import pytest
import trio
from hypothesis import given, strategies as st

from peernode.libp2p_mdns import read_strings, write_strings
from storage import signing
from tests.peernode.libp2p_world import QUICK, join, open_node, until

ONE, OTHER = (
    signing.peer_id(signing.Keypair.from_seed(bytes([number]) * 32).public_key) for number in (1, 2)
)
LOCAL = replace(QUICK, mdns=True, mdns_interfaces=("127.0.0.1",))


def test_addresses_are_read_as_they_were_written() -> None:
    addresses = [f"/ip4/192.0.2.1/tcp/1/p2p/{ONE}", f"/ip6/::1/tcp/2/p2p/{ONE}"]
    other = f"/ip4/192.0.2.2/tcp/3/p2p/{OTHER}"
    assert read_strings(write_strings([*addresses, other])) == {ONE: addresses, OTHER: [other]}


def test_what_is_no_address_of_a_peer_is_left_out() -> None:
    good = f"/ip4/192.0.2.1/tcp/1/p2p/{ONE}"
    strings = ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/udp/1/quic-v1", "", good]
    assert read_strings(b"\x03a=b\x00" + write_strings(strings) + b"\xffhalf") == {ONE: [good]}


@given(st.binary())
def test_any_bytes_are_read(text: bytes) -> None:
    for peer, addresses in read_strings(text).items():
        assert signing.parse_peer_id(peer)
        assert addresses


async def found_each_other(*, allowed: bool) -> bool:
    def members(_: bytes) -> bool:
        return allowed

    async with (
        open_node(1, config=LOCAL, allowed=members) as one,
        open_node(2, config=LOCAL, allowed=members) as other,
    ):
        with trio.move_on_after(2 if not allowed else 20):
            await until(lambda: one.peers() and other.peers())
            return True
    return False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
async def test_members_on_one_network_find_each_other() -> None:
    assert await found_each_other(allowed=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
async def test_a_node_goes_on_where_it_is_not_possible() -> None:
    reported: list[tuple[str, Exception]] = []
    nowhere = replace(LOCAL, mdns_interfaces=("192.0.2.1",))
    async with (
        open_node(1, config=nowhere, reported=reported) as one,
        open_node(2, reported=reported) as other,
    ):
        await until(lambda: reported)
        await join(one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
async def test_strangers_on_it_are_not_dialled() -> None:
    assert not await found_each_other(allowed=False)
