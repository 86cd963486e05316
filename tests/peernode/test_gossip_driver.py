"""What is made at one node reaches the others at once, in few messages, within bounds."""

from typing import Any

import pytest
import trio
import trio.testing

from gossip.errors import RemoteProtocolError
from gossip.sync_messages import Stratum
from peernode.gossip_driver import APPRAISE_S, GossipDriver, decode_item, encode_item, topic_of
from peernode.standing import HALF_LIFE_S
from peernode.waiting import Item
from tests.peernode.federated import Federated, open_federated
from tests.peernode.meshes import peer_id
from tests.storage.builders import MESH, SETTING, record

NEVER_S = 100_000.0
"""Reconciliation stays out of it."""


def driver(mesh: Federated, name: str) -> GossipDriver:
    federation = mesh.nodes[name].federation
    assert federation is not None
    return federation.gossip


async def make_space(mesh: Federated) -> str:
    ada = await mesh.sign_up("ada", "a")
    project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
    body = {"owner": {"project": project}, "name": "state", "scope": "global"}
    space = (await ada.post("/kv", body, 201))["id"]
    await trio.sleep(2)
    return str(space)


async def put_many(mesh: Federated, space: str, count: int, value: Any = 1) -> None:
    ada = mesh.caller("ada", "a")
    for number in range(count):
        await ada.post(f"/kv/{space}/put", {"key": f"k{number}", "value": value})


async def known(mesh: Federated, name: str, space: str) -> int:
    found = await mesh.caller("ada", name).post(f"/kv/{space}/list", {"limit": 1000})
    return len(found["items"])


@pytest.mark.slow
async def test_a_burst_arrives_whole_in_few_messages(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3, sync_interval_s=NEVER_S) as mesh:
        space = await make_space(mesh)
        before = driver(mesh, "a").mesh.statistics().published
        await put_many(mesh, space, 200)
        await trio.sleep(1)
        assert await known(mesh, "b", space) == await known(mesh, "c", space) == 200
        assert driver(mesh, "a").mesh.statistics().published - before < 20
        # What came from elsewhere is passed on, and never said anew.
        assert driver(mesh, "b").mesh.statistics().published == 0


async def test_a_change_arrives_within_the_delay_of_a_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, sync_interval_s=NEVER_S) as mesh:
        space = await make_space(mesh)
        await put_many(mesh, space, 1)
        # 20 ms until a batch is closed, and 5 on the line.
        await trio.sleep(0.018)
        assert await known(mesh, "b", space) == 0
        await trio.sleep(0.01)
        assert await known(mesh, "b", space) == 1


async def test_a_record_that_is_larger_than_a_batch_travels_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, sync_interval_s=NEVER_S) as mesh:
        space = await make_space(mesh)
        await put_many(mesh, space, 3, "x" * (64 * 1024 - 2))
        await trio.sleep(1)
        assert await known(mesh, "b", space) == 3


async def test_a_full_queue_delays_and_loses_nothing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_federated(2, sync_interval_s=NEVER_S) as mesh:
        space = await make_space(mesh)
        network = driver(mesh, "a")._network
        send = network.send
        monkeypatch.setattr(network, "send", lambda peer, frame: False, raising=False)
        await put_many(mesh, space, 50)
        await trio.sleep(0.5)
        assert await known(mesh, "b", space) == 0
        monkeypatch.setattr(network, "send", send, raising=False)
        await trio.sleep(0.5)
        assert await known(mesh, "b", space) == 50
        assert driver(mesh, "a").mesh.statistics().queued_bytes == 0


@pytest.mark.slow
async def test_publishing_waits_for_room_and_goes_on(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that takes nothing holds the others up for a second, once, and then no more."""
    async with open_federated(3, sync_interval_s=NEVER_S) as mesh:
        space = await make_space(mesh)
        network = driver(mesh, "a")._network
        send = network.send

        def stuck(peer: str, frame: bytes) -> bool:
            return peer != peer_id("b") and send(peer, frame)

        monkeypatch.setattr(network, "send", stuck, raising=False)
        await put_many(mesh, space, 60, "x" * 50_000)
        await trio.sleep(0.5)
        assert driver(mesh, "a")._outgoing
        await trio.sleep(5)
        assert not driver(mesh, "a")._outgoing
        assert await known(mesh, "c", space) == 60


async def test_names_of_messages_are_new_after_a_restart_though_the_clock_went_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, sync_interval_s=NEVER_S) as mesh:
        space = await make_space(mesh)
        await put_many(mesh, space, 5)
        seqno = driver(mesh, "a").mesh._seqno
        await mesh.stop("a")
        mesh.clock.advance(-3600)
        await mesh.start("a")
        assert driver(mesh, "a").mesh._seqno > seqno


@pytest.mark.slow
async def test_what_a_peer_is_to_blame_for_counts_in_gossip_and_is_forgiven(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2) as mesh:
        federation = mesh.nodes["a"].federation
        assert federation is not None
        me = bytes.fromhex("002408011220") + mesh.nodes["b"].identity.keypair.public_key
        before = federation.gossip.mesh.score(me)
        federation.standing.blame(peer_id("b"), 40, "something", trio.current_time())
        assert federation.gossip.mesh.score(me) == pytest.approx(before - 40, abs=1)
        await trio.sleep(HALF_LIFE_S + APPRAISE_S)
        assert federation.gossip.mesh.score(me) == pytest.approx(before - 19, abs=1.5)


@pytest.mark.slow
async def test_a_peer_that_is_cut_off_gets_nothing_until_it_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, sync_interval_s=NEVER_S) as mesh:
        space = await make_space(mesh)
        federation = mesh.nodes["a"].federation
        assert federation is not None
        federation.standing.blame(peer_id("b"), 170, "everything", trio.current_time())
        await put_many(mesh, space, 3)
        await trio.sleep(5)
        assert await known(mesh, "b", space) == 0
        mesh.part("a", "b")
        await trio.sleep(2 * HALF_LIFE_S)
        mesh.join("a", "b")
        await trio.sleep(5)
        assert await known(mesh, "b", space) == 3


async def test_what_has_no_room_is_counted_and_left_to_reconciliation(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_federated(2, sync_interval_s=10.0) as mesh:
        space = await make_space(mesh)
        monkeypatch.setattr("peernode.gossip_driver.INCOMING_MAX", 0)
        await put_many(mesh, space, 5)
        await trio.sleep(0.5)
        assert driver(mesh, "b").left_out == 5
        assert await known(mesh, "b", space) == 0
        await trio.sleep(60)
        assert await known(mesh, "b", space) == 5


def test_an_item_says_what_it_is() -> None:
    items: list[Item] = [*SETTING, record()]
    for one in items:
        stratum, data = decode_item(encode_item(one))
        assert data == one.encoded
        assert (stratum is Stratum.RECORDS) == (one == record())
    for wrong in (b"", b"\x00rest", b"\x03rest"):
        with pytest.raises(RemoteProtocolError):
            decode_item(wrong)


def test_a_topic_names_its_mesh() -> None:
    assert topic_of(MESH) == f"peernode/{MESH[:8].hex()}/records/1"
