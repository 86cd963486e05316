"""A whole node over libp2p, and members and strangers that break every rule: real frames, and what
became of who sent them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import pytest
import trio

from gossip import fetch_messages, sync_messages, wire_encode
from gossip.errors import PeerError, PeerUnreachable
from gossip.wire import PEER_ID_PREFIX, PROTOCOL as GOSSIP
from peernode import join_messages
from peernode.daemon import DoorKeeper
from peernode.federation import Federation
from peernode.identity import enter_mesh
from peernode.libp2p_network import Libp2pNetwork, open_libp2p_network
from peernode.node import Node, Seams, open_node
from tests.peernode.federated import genesis, grant
from tests.peernode.libp2p_world import ANYWHERE, QUICK, marks, until
from tests.peernode.meshes import keypair, peer_id, secrets
from tests.peernode.nodes import CONFIG, Disk, SeededEntropy, WallClock, inline
from tests.peernode.test_libp2p_hostile import attached

pytestmark = marks

HONEST, HOSTILE = "b", "h"
STRANGER = 66
IDS = [PEER_ID_PREFIX[2:] + bytes(32) + number.to_bytes(8, "big") for number in range(500)]


@dataclass
class Besieged:
    """A node, its founder's, and what it makes of its peers."""

    node: Node
    network: Libp2pNetwork
    faults: list[Exception] = field(default_factory=list)

    @property
    def federation(self) -> Federation:
        assert self.node.federation is not None
        return self.node.federation

    @property
    def topic(self) -> str:
        return self.federation.gossip.topic

    def score(self, name: str) -> float:
        return self.federation.gossip.mesh.score(PEER_ID_PREFIX + keypair(name).public_key)

    def is_cut(self, name: str) -> bool:
        return self.federation.standing.is_cut(peer_id(name), trio.current_time())


@asynccontextmanager
async def open_besieged() -> AsyncIterator[Besieged]:
    disk, faults, door = Disk(), [], DoorKeeper()
    enter_mesh(disk, genesis(), 1, [grant(HONEST, 2), grant(HOSTILE, 3)])
    async with open_libp2p_network(
        secrets("a").seed,
        ANYWHERE,
        door.allowed,
        Random(1),
        report=lambda _, error: faults.append(error),
        config=QUICK,
    ) as network:
        seams = Seams(
            clock=WallClock(),
            entropy=SeededEntropy("a"),
            offload=inline,
            store=disk,
            secrets=secrets("a"),
            network=network,
            chance=Random(2),
        )
        async with open_node(CONFIG, seams) as node:
            door.node = node
            await until(network.addresses)
            yield Besieged(node, network, faults)
            node.federation.gossip.mesh.check()  # type: ignore[union-attr]
            network.arrivals.check()
            disk.let_go()
    assert faults == []


@asynccontextmanager
async def open_member(name: str, besieged: Besieged) -> AsyncIterator[Libp2pNetwork]:
    """Own a member's network, connected to the node, that does nothing by itself."""
    async with open_libp2p_network(
        secrets(name).seed,
        ANYWHERE,
        lambda _: True,
        Random(name),
        report=lambda _, error: None,
        config=QUICK,
    ) as network:
        network.serve_frames(lambda *_: None, size_max_bytes=1 << 20)
        await network.listen()
        network.add_peer(besieged.network.peer, besieged.network.addresses())
        await until(lambda: besieged.network.peer in network.peers())
        await until(lambda: network.peer in besieged.network.peers())
        yield network


async def assert_put_out(besieged: Besieged, hostile: Libp2pNetwork) -> None:
    """Assert that the hostile one is cut off and stays so, and that others are served."""
    await until(lambda: besieged.is_cut(HOSTILE))
    await until(lambda: hostile.peer not in besieged.network.peers())
    begun = besieged.network.arrivals.begun
    # It dials again by itself, proves its key, and that is all.
    await until(lambda: besieged.network.arrivals.begun >= begun + 2)
    assert hostile.peer not in besieged.network.peers()
    with pytest.raises(PeerError):
        await ask(hostile, besieged)
    async with open_member(HONEST, besieged) as honest:
        assert await ask(honest, besieged)
        assert not besieged.is_cut(HONEST)


async def ask(network: Libp2pNetwork, besieged: Besieged) -> fetch_messages.Reply:
    """Return what the node says to a question of a member, about a blob that is not there."""
    get = fetch_messages.Get(fetch_messages.VERSION, fetch_messages.Kind.BLOB, 1, b"", 0, 0, b"")
    frame = await network.request(
        besieged.network.peer,
        fetch_messages.PROTOCOL,
        fetch_messages.encode(get),
        reply_size_max_bytes=1000,
        timeout_s=10,
    )
    return fetch_messages.decode_reply(frame)


def rpc(*controls: bytes) -> bytes:
    (frame,) = wire_encode.pack([], controls, 1 << 20)
    return frame


# --- strangers ----------------------------------------------------------------------------------


async def test_who_was_not_let_in_reaches_no_protocol_of_a_node_but_one() -> None:
    async with open_besieged() as besieged:
        protocols = besieged.network._services.protocols()
        assert {GOSSIP, sync_messages.PROTOCOL, join_messages.PEERS_PROTOCOL} < set(protocols)
        assert len(protocols) >= 9
        for protocol in protocols:
            if protocol == join_messages.JOIN_PROTOCOL:
                continue
            async with attached(STRANGER, besieged.network) as stranger:
                with pytest.raises(PeerUnreachable):
                    await stranger.open_stream(protocol, 10)
        assert besieged.network.peers() == []
        assert besieged.federation.standing.blamed() == []


# --- gossip -------------------------------------------------------------------------------------


def again_and_again(topic: str) -> list[bytes]:
    """Return what grafts as soon as it is pruned."""
    return [rpc(wire_encode.prune(topic, 60), wire_encode.graft(topic))] * 10


def without_number(topic: str) -> list[bytes]:
    """Return offers of what nobody has."""
    return [rpc(wire_encode.ihave(topic, [each])) for each in IDS[:10]]


def wrong(topic: str) -> list[bytes]:
    return [b"\x0a" + b"\xff" * 10]


def wrong_batches(topic: str) -> list[bytes]:
    keys, found = keypair(HOSTILE), []
    for number in range(3):
        unsigned = wire_encode.message(PEER_ID_PREFIX + keys.public_key, 1 + number, topic, b"no")
        signature = keys.sign_bytes(b"libp2p-pubsub:" + unsigned)
        found += wire_encode.pack([wire_encode.publish(unsigned, signature)], [], 1 << 20)
    return found


@pytest.mark.parametrize("flood", [again_and_again, without_number, wrong, wrong_batches])
async def test_who_floods_gossip_loses_its_score_and_then_everything(
    flood: Callable[[str], list[bytes]],
) -> None:
    async with open_besieged() as besieged, open_member(HOSTILE, besieged) as hostile:
        scores = [besieged.score(HOSTILE)]
        (subscribe,) = wire_encode.pack([wire_encode.subscription(besieged.topic, True)], [], 99)
        frames = [subscribe, *flood(besieged.topic)]
        while not besieged.is_cut(HOSTILE):
            for frame in frames * 20:
                hostile.send(besieged.network.peer, frame)
            await trio.sleep(0.05)
            if hostile.peer in besieged.network.peers():
                scores.append(besieged.score(HOSTILE))
        assert scores[-1] <= scores[0]
        await assert_put_out(besieged, hostile)


async def test_who_asks_for_a_message_again_and_again_gets_it_a_few_times() -> None:
    async with open_besieged() as besieged, open_member(HOSTILE, besieged) as hostile:
        besieged.federation.gossip.publish(grant("z", 9))
        machine = besieged.federation.gossip.mesh
        await until(lambda: machine.statistics().cached == 1)
        (known,) = machine._cache._entries
        for _ in range(100):
            assert hostile.send(besieged.network.peer, rpc(wire_encode.iwant([known, *IDS])))
        await until(lambda: machine.statistics().received >= 100)
        assert machine.statistics().iwant_served <= 3
        assert besieged.score(HOSTILE) >= 0, "all of that is legal"
        assert hostile.peer in besieged.network.peers()


# --- everything else ----------------------------------------------------------------------------


async def test_who_asks_garbage_is_cut_off_after_a_few() -> None:
    async with open_besieged() as besieged, open_member(HOSTILE, besieged) as hostile:
        asked = 0
        while not besieged.is_cut(HOSTILE):
            for protocol in besieged.network._services.requests:
                if protocol in besieged.network._services.strangers:
                    continue
                with pytest.raises(PeerError):
                    await hostile.request(
                        besieged.network.peer,
                        protocol,
                        b"\xffgarbage",
                        reply_size_max_bytes=1000,
                        timeout_s=10,
                    )
                asked += 1
        assert asked < 100
        await assert_put_out(besieged, hostile)


async def test_who_lies_in_reconciliation_is_cut_off() -> None:
    async with open_besieged() as besieged, open_member(HOSTILE, besieged) as hostile:
        told = 0
        while not besieged.is_cut(HOSTILE):
            with suppress(PeerError):
                stream = await hostile.open_stream(
                    besieged.network.peer,
                    sync_messages.PROTOCOL,
                    size_max_bytes=sync_messages.FRAME_SIZE_MAX_BYTES,
                    timeout_s=10,
                )
                await stream.send(b"\xff" * 50)
                while True:
                    await stream.receive()
            told += 1
            assert told < 100
        await assert_put_out(besieged, hostile)


async def test_frames_over_every_limit_are_held_against_their_sender() -> None:
    async with open_besieged() as besieged, open_member(HOSTILE, besieged) as hostile:
        while not besieged.is_cut(HOSTILE):
            with pytest.raises(PeerError):
                await hostile.request(
                    besieged.network.peer,
                    join_messages.PEERS_PROTOCOL,
                    bytes(join_messages.GREETING_SIZE_MAX_BYTES + 1),
                    reply_size_max_bytes=1000,
                    timeout_s=10,
                )
        await assert_put_out(besieged, hostile)


async def test_who_comes_and_goes_without_end_is_let_in_a_few_times() -> None:
    async with open_besieged() as besieged, open_member(HONEST, besieged) as honest:
        for _ in range(100):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(knock, besieged)
        assert besieged.network.arrivals.refused > 300
        assert await ask(honest, besieged)


async def knock(besieged: Besieged) -> None:
    try:
        async with attached(STRANGER, besieged.network):
            pass
    except* PeerError:
        pass
