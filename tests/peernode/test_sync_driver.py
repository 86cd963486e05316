"""When nodes reconcile, with whom, and what ends it: over real streams, between whole nodes."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from gossip.errors import PeerClosed
from gossip.network import Stream
from gossip.sync_events import SyncConfig
from gossip.sync_messages import (
    FRAME_SIZE_MAX_BYTES,
    PROTOCOL,
    VERSION,
    Hello,
    Stratum,
    decode,
    encode,
)
from peernode.sync_driver import SyncDriver
from peernode.waiting import Item
from tests.peernode.federated import Federated, genesis, open_federated
from tests.peernode.meshes import peer_id
from tests.peernode.nodes import START_MS, WallClock

IDLE_S = SyncConfig().idle_s


def driver(mesh: Federated, name: str) -> SyncDriver:
    federation = mesh.nodes[name].federation
    assert federation is not None
    return federation.sync


async def open_to(mesh: Federated, name: str, by: str = "h") -> Stream:
    network = mesh.wire.join(peer_id(by))
    mesh.wire.connect(peer_id(name), peer_id(by))
    return await network.open_stream(
        peer_id(name), PROTOCOL, size_max_bytes=FRAME_SIZE_MAX_BYTES, timeout_s=1
    )


async def read_to_the_end(stream: Stream) -> None:
    while True:
        decode(await stream.receive())


async def test_two_that_meet_reconcile_once_and_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        await mesh.sign_up("ada", "a")
        mesh.join("a", "b")
        await trio.sleep(1)
        assert driver(mesh, "a").sessions == driver(mesh, "b").sessions == 1
        assert mesh.nodes["b"].registry.user(int(mesh.ids["ada"])) is not None
        for name in "ab":
            status = mesh.nodes[name].mesh_status()
            assert status is not None
            (peer,) = status.peers
            assert peer.synced_s is not None
            assert peer.synced_s < 1
            assert status.facts == 3
            assert status.is_loaded


async def test_they_reconcile_now_and_then_though_nothing_happens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3, sync_interval_s=10.0) as mesh:
        await trio.sleep(1)
        before = driver(mesh, "a").sessions
        await trio.sleep(100)
        sessions = driver(mesh, "a").sessions - before
        # Three nodes of ten lots each, and each session has two ends: two thirds have one at A.
        assert 10 <= sessions <= 30


async def test_what_came_over_one_line_goes_on_over_the_others_without_waiting_for_a_lot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(5, connected=False, sync_interval_s=100_000.0) as mesh:
        for one, other in ("bc", "cd", "de"):
            mesh.join(one, other)
        await mesh.sign_up("ada", "a")
        mesh.clock.advance(3600)
        await trio.sleep(15)
        mesh.join("a", "b")
        await trio.sleep(10)
        for node in mesh.nodes.values():
            assert node.registry.user(int(mesh.ids["ada"])) is not None


async def test_what_loses_here_each_time_is_no_news_that_others_must_hear_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Found by the simulation "clock-trouble": each of six nodes held three sessions a second."""
    async with open_federated(3, sync_interval_s=10.0) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = (await ada.post("/project", {"name": "clocks"}, 201))["id"]
        await trio.sleep(2)
        await mesh.stop("b")
        await mesh.start("b", clock=WallClock(START_MS + 300_000))
        mesh.join("a", "b", "c")
        await trio.sleep(5)
        there = mesh.caller("ada", "b")
        await there.post(f"/project/{project}", {"display_name": "early"})
        await ada.post(f"/project/{project}", {"display_name": "late"})
        await trio.sleep(20)
        before = driver(mesh, "b").sessions
        await trio.sleep(100)
        # Three nodes of ten lots each, and each session has two ends: two thirds have one at B.
        assert 10 <= driver(mesh, "b").sessions - before <= 30


async def test_what_two_bring_at_once_is_checked_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_federated(3, connected=False) as mesh:
        mesh.join("a", "b")
        ada = await mesh.sign_up("ada", "a")
        for number in range(20):
            await ada.post("/project", {"name": f"project{number}"}, 201)
        await trio.sleep(20)
        checked: list[bytes] = []
        ingestion = driver(mesh, "c")._ingestion
        check = ingestion.check

        async def counted(wanted: Sequence[tuple[Stratum, bytes]]) -> list[Item]:
            checked.extend(each for stratum, each in wanted if stratum is Stratum.RECORDS)
            return await check(wanted)

        monkeypatch.setattr(ingestion, "check", counted)
        mesh.join("a", "c")
        mesh.join("b", "c")
        await trio.sleep(20)
        known = list(mesh.nodes["c"].registry.records())
        assert {record.encoded for record in known} >= set(checked)
        assert checked
        assert len(checked) == len(set(checked))


async def test_a_peer_that_stops_reading_is_given_up_and_holds_nobody_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3, also=("h",), connected=False) as mesh:
        await mesh.sign_up("ada", "a")
        stream = await open_to(mesh, "a")
        await stream.send(encode(Hello(VERSION, genesis().id[:8], bytes(16))))
        await trio.sleep(1)
        assert driver(mesh, "a").sync.peers == [peer_id("h")]
        mesh.join("a", "b", "c")
        await trio.sleep(2)
        assert mesh.nodes["c"].registry.user(int(mesh.ids["ada"])) is not None
        await trio.sleep(IDLE_S)
        assert driver(mesh, "a").sync.peers == []
        mesh.check()


@pytest.mark.slow
async def test_a_peer_that_opens_many_sessions_has_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, also=("h",), connected=False) as mesh:
        await mesh.sign_up("ada", "a")
        network = mesh.wire.join(peer_id("h"))
        mesh.wire.connect(peer_id("a"), peer_id("h"))
        streams = [
            await network.open_stream(
                peer_id("a"), PROTOCOL, size_max_bytes=FRAME_SIZE_MAX_BYTES, timeout_s=1
            )
            for _ in range(400)
        ]
        await trio.sleep(1)
        mesh.check()
        mesh.join("a", "b")
        await trio.sleep(2)
        assert mesh.nodes["b"].registry.user(int(mesh.ids["ada"])) is not None
        await trio.sleep(IDLE_S + 1)
        for stream in streams:
            with pytest.raises(PeerClosed):
                await read_to_the_end(stream)


async def test_who_is_of_another_mesh_is_told_so_and_not_blamed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, also=("h",)) as mesh:
        stream = await open_to(mesh, "a")
        await stream.send(encode(Hello(VERSION, b"another!", bytes(16))))
        assert "mesh" in str(decode(await stream.receive()))
        federation = mesh.nodes["a"].federation
        assert federation is not None
        assert federation.standing.penalty(peer_id("h"), trio.current_time()) == 0


async def test_a_full_disk_ends_the_session_and_nobody_is_blamed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False, sync_interval_s=10.0) as mesh:
        await mesh.sign_up("ada", "a")
        mesh.disks["b"].fill()
        mesh.join("a", "b")
        await trio.sleep(5)
        status = mesh.nodes["b"].mesh_status()
        assert status is not None
        assert status.peers[0].penalty == 0
        assert status.sessions == 0
        mesh.disks["b"].make_room()
        await trio.sleep(60)
        assert mesh.nodes["b"].registry.user(int(mesh.ids["ada"])) is not None


async def test_a_node_may_end_in_the_middle_of_a_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False) as mesh:
        ada = await mesh.sign_up("ada", "a")
        for number in range(20):
            await ada.post("/project", {"name": f"p{number}"}, 201)
        mesh.join("a", "b")
        await trio.sleep(0.032)
        assert driver(mesh, "b").sync.peers
        await mesh.stop("b")
        await trio.sleep(5)
        assert driver(mesh, "a").sync.peers == []
        await mesh.start("b")
        mesh.join("a", "b")
        await trio.sleep(5)
        assert len(mesh.nodes["b"].registry.projects_of(int(mesh.ids["ada"]))) == 20
