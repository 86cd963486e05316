"""Addresses as text."""

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from peernode.libp2p_address import Address, parse_address, reachable
from storage import signing
from storage.errors import InvalidData

PEER = signing.peer_id(signing.Keypair.from_seed(bytes(32)).public_key)


@pytest.mark.parametrize(
    "written",
    [
        "/ip4/192.0.2.1/tcp/4001",
        "/ip6/2001:db8::1/tcp/0",
        "/dns/node.example/tcp/65535",
        "/dns4/node.example/tcp/1",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}",
    ],
)
def test_an_address_is_written_as_it_was_read(written: str) -> None:
    assert str(parse_address(written)) == written


@pytest.mark.parametrize(
    "written",
    [
        "",
        "192.0.2.1:4001",
        "/ip4/192.0.2.1/udp/4001",
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        "/ip4/192.0.2.1/tcp/65536",
        "/ip4/192.0.2.1/tcp/-1",
        "/ip4/192.0.2.1/tcp/٣",
        "/ip4/2001:db8::1/tcp/1",
        "/ip6/192.0.2.1/tcp/1",
        "/ip4/node.example/tcp/1",
        "/unix/x/tcp/1",
        "/dns//tcp/1",
        f"/dns/{'x' * 254}/tcp/1",
        "/ip4/192.0.2.1/tcp/4001/p2p/nobody",
        "/ip4/192.0.2.1/tcp/4001/ws",
        f"/ip4/192.0.2.1/tcp/4001/ws/{PEER}",
    ],
)
def test_what_is_no_address_of_ours(written: str) -> None:
    with pytest.raises(InvalidData):
        parse_address(written)


@given(st.text())
def test_any_text_is_an_address_or_invalid(written: str) -> None:
    with suppress(InvalidData):
        parse_address(written)


def test_any_address_of_this_machine_becomes_one_that_others_can_use() -> None:
    for kind, host in (("ip4", "0.0.0.0"), ("ip6", "::")):
        found = reachable(Address(kind, host, 4001, None))
        assert parse_address(str(found)) == found
        assert found.kind == kind
        assert found.host != host
        assert found.port == 4001


def test_a_certain_address_is_left_alone() -> None:
    address = Address("ip4", "127.0.0.1", 4001, PEER)
    assert reachable(address) is address
