"""Who gives what is wrong is scored, cut off from everything, still so after a restart, and taken
back by itself: whole nodes in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from gossip import wire_encode
from gossip.batcher import pack
from gossip.errors import PeerError
from gossip.memory_network import MemoryNetwork
from gossip.sync import Sync
from gossip.sync_events import SyncConfig
from gossip.sync_index import item
from gossip.sync_messages import FRAME_SIZE_MAX_BYTES, PROTOCOL
from gossip.wire import PEER_ID_PREFIX
from peernode import join_messages
from peernode.federation import STANDING_SAVE_S, Federation
from peernode.gossip_driver import encode_item, topic_of
from peernode.node import Node
from peernode.offering import item_of
from peernode.standing import CUT_AT, CUT_MIN_S
from storage.places import Class
from storage.records import decode_record
from tests.peernode.federated import Federated, genesis, grant, open_federated
from tests.peernode.meshes import (
    Ether,
    invite,
    join,
    keypair,
    open_ether,
    open_mesh_node,
    peer_id,
    peers,
)
from tests.peernode.nodes import Disk, WallClock, settle
from tests.peernode.test_mesh_nodes import lie, signed_by

GARBAGE = b"\xff\x00garbage"


def federation(node: Node) -> Federation:
    assert node.federation is not None
    return node.federation


def cut(node: Node, name: str) -> None:
    federation(node).standing.blame(peer_id(name), CUT_AT, "everything", trio.current_time())


def penalty(node: Node, name: str) -> float:
    return federation(node).standing.penalty(peer_id(name), trio.current_time())


class Member:
    """A member that says what it likes to node "a"."""

    def __init__(self, mesh: Federated, name: str) -> None:
        self.mesh = mesh
        self.name = name
        self.network = mesh.wire.join(peer_id(name))
        self.keys = keypair(name)
        self._seqno = 1 << 60
        assert mesh.wire.connect(self.network.peer, peer_id("a"))

    def say(self, data: bytes, author: str = "") -> None:
        """Send node "a" a message of this or another author."""
        keys = keypair(author or self.name)
        self._seqno += 1
        me = PEER_ID_PREFIX + keys.public_key
        unsigned = wire_encode.message(me, self._seqno, topic_of(genesis().id), data)
        signature = keys.sign_bytes(b"libp2p-pubsub:" + unsigned)
        (rpc,) = wire_encode.pack([wire_encode.publish(unsigned, signature)], [], 1 << 20)
        self.network.send(peer_id("a"), rpc)

    async def ask(self, protocol: str, frame: bytes) -> None:
        """Ask node "a" something that it will not answer."""
        with pytest.raises(PeerError):
            await self.network.request(
                peer_id("a"), protocol, frame, reply_size_max_bytes=1 << 20, timeout_s=5
            )


@asynccontextmanager
async def open_besieged() -> AsyncIterator[tuple[Federated, Member]]:
    async with open_federated(2, also=("h",)) as mesh:
        yield mesh, Member(mesh, "h")


def served(mesh: Federated) -> MemoryNetwork:
    return mesh.wire._nodes[peer_id("a")]


# --- scored -------------------------------------------------------------------------------------


async def test_garbage_on_any_protocol_costs_its_sender(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_besieged() as (mesh, hostile):
        protocols = [each for each in served(mesh).requests if each != join_messages.JOIN_PROTOCOL]
        assert join_messages.PEERS_PROTOCOL in protocols
        assert len(protocols) >= 4
        for protocol in protocols:
            before = penalty(mesh.nodes["a"], "h")
            await hostile.ask(protocol, GARBAGE)
            assert penalty(mesh.nodes["a"], "h") > before, protocol
        for protocol in served(mesh).streams:
            before = penalty(mesh.nodes["a"], "h")
            stream = await hostile.network.open_stream(
                peer_id("a"), protocol, size_max_bytes=1 << 20, timeout_s=5
            )
            await stream.send(GARBAGE)
            with pytest.raises(PeerError):
                await stream.receive()
            assert penalty(mesh.nodes["a"], "h") > before, protocol


async def test_a_wrong_answer_to_a_greeting_costs_who_gave_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(1, also=("h",)) as mesh:
        network = mesh.wire.join(peer_id("h"))

        async def answer(_: str, __: bytes) -> bytes:
            return GARBAGE

        network.serve_requests(join_messages.PEERS_PROTOCOL, answer, size_max_bytes=1 << 16)
        mesh.wire.connect(peer_id("a"), peer_id("h"))
        await trio.sleep(1)
        assert penalty(mesh.nodes["a"], "h") > 0


async def test_a_wrong_batch_costs_its_author_everywhere_and_who_brings_it_in_gossip_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, also=("h", "i")) as mesh:
        author, bringer = Member(mesh, "h"), Member(mesh, "i")
        forged = encode_item(grant("z", 9))
        forged = forged[:-1] + bytes([forged[-1] ^ 1])
        bringer.say(pack([forged]), author="h")
        await settle()
        await trio.sleep(0.1)
        node = mesh.nodes["a"]
        assert penalty(node, "h") > penalty(node, "i") == 0
        machine = federation(node).gossip.mesh
        assert machine.score(PEER_ID_PREFIX + keypair("i").public_key) < -10
        assert author.network.peers() == [peer_id("a")]


async def test_what_an_author_says_that_is_no_member_ends_here_and_costs_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_besieged() as (mesh, hostile):
        good = pack([encode_item(grant("z", 9))])
        hostile.say(good, author="y")
        hostile.say(GARBAGE, author="y")
        await trio.sleep(5)
        assert penalty(mesh.nodes["a"], "h") == 0
        assert federation(mesh.nodes["a"]).standing.blamed() == []
        assert federation(mesh.nodes["b"]).ingestion.kept == 0
        assert [good in frame for frame in mesh.frames].count(True) == 1


async def test_a_flood_of_wrong_batches_is_told_a_few_times_and_cut_off(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_besieged() as (mesh, hostile):
        capsys.readouterr()
        for number in range(1000):
            hostile.say(GARBAGE + number.to_bytes(2, "big"))
        await trio.sleep(1)
        assert federation(mesh.nodes["a"]).standing.is_cut(peer_id("h"), trio.current_time())
        assert hostile.network.peers() == []
        assert 0 < len(capsys.readouterr().err.splitlines()) < 20


async def test_who_gives_what_is_forged_in_reconciliation_is_cut_off_after_a_few(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It offers in good form and gives other bytes, again and again."""
    async with open_besieged() as (mesh, hostile):
        ada = await mesh.sign_up("ada", "a")
        await ada.post("/project", {"name": "lab"}, 201)
        forged = signed_by(mesh, hostile.keys, class_=Class.PROJECT)[1:]
        one = item_of(decode_record(forged))
        tries = 0
        while hostile.network.peers():
            known = [item(f.signed_at, f.id) for f in mesh.nodes["a"].registry.authority]
            liar = Sync(SyncConfig(), hostile.network.peer, genesis().id, known, [one])
            with suppress(PeerError):
                stream = await hostile.network.open_stream(
                    peer_id("a"), PROTOCOL, size_max_bytes=FRAME_SIZE_MAX_BYTES, timeout_s=1
                )
                await lie(stream, liar, forged)
            tries += 1
            await trio.sleep(1)
        assert tries <= 5
        assert federation(mesh.nodes["a"]).standing.is_cut(peer_id("h"), trio.current_time())
        assert federation(mesh.nodes["b"]).ingestion.kept > 0


# --- cut off ------------------------------------------------------------------------------------


async def test_nobody_talks_with_who_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        cut(mesh.nodes["a"], "b")
        await trio.sleep(1)
        assert peer_id("b") not in mesh.wire.peers(peer_id("a"))
        for one, other in (("a", "b"), ("b", "a")):
            assert not mesh.wire.connect(peer_id(one), peer_id(other))
        await ada.post(f"/user/{ada.id}", {"display_name": "Ada"})
        await trio.sleep(5)
        # What it may know it still learns, from who has nothing against it.
        assert (await mesh.caller("ada", "b").get(f"/user/{ada.id}"))["display_name"] == "Ada"


async def test_who_was_cut_off_is_cut_off_after_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3) as mesh:
        cut(mesh.nodes["a"], "b")
        await trio.sleep(STANDING_SAVE_S + 1)
        await mesh.stop("a")
        mesh.clock.advance(100)
        await mesh.start("a")
        assert not mesh.wire.connect(peer_id("a"), peer_id("b"))
        assert mesh.wire.connect(peer_id("a"), peer_id("c"))
        await trio.sleep(CUT_MIN_S - 100 - 60)
        assert not mesh.wire.connect(peer_id("a"), peer_id("b"))
        await trio.sleep(60)
        assert mesh.wire.connect(peer_id("a"), peer_id("b"))
        assert 0 < penalty(mesh.nodes["a"], "b") <= CUT_AT / 2


async def test_what_gossip_holds_against_a_peer_outlives_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_besieged() as (mesh, hostile):
        hostile.say(GARBAGE)
        await trio.sleep(STANDING_SAVE_S + 1)
        me = PEER_ID_PREFIX + keypair("h").public_key
        before = federation(mesh.nodes["a"]).gossip.mesh.score(me)
        assert before < -10
        await mesh.stop("a")
        await mesh.start("a")
        mesh.wire.connect(peer_id("h"), peer_id("a"))
        await trio.sleep(1)
        assert federation(mesh.nodes["a"]).gossip.mesh.score(me) == pytest.approx(before, abs=2)


# --- taken back ---------------------------------------------------------------------------------


async def test_whom_gossip_put_out_begins_anew_with_half_of_what_it_had(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_besieged() as (mesh, hostile):
        for number in range(1000):
            hostile.say(GARBAGE + number.to_bytes(2, "big"))
        await trio.sleep(CUT_MIN_S + 5)
        machine = federation(mesh.nodes["a"]).gossip.mesh
        assert mesh.wire.connect(hostile.network.peer, peer_id("a"))
        await trio.sleep(1)
        assert -CUT_AT / 2 - 1 < machine.score(PEER_ID_PREFIX + hostile.keys.public_key) < -30
        await trio.sleep(300)
        assert hostile.network.peers() == [peer_id("a")]


@asynccontextmanager
async def open_pair(ether: Ether, clock: WallClock) -> AsyncIterator[tuple[Node, Node]]:
    disk = Disk()
    async with open_mesh_node(ether, "a", disk, clock) as one:
        other_disk = await join(ether, one, "b")
        async with open_mesh_node(ether, "b", other_disk, clock) as other:
            ether.redial()
            yield one, other


async def test_who_is_cut_off_is_taken_back_and_dialled_by_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_ether() as ether, open_pair(ether, WallClock()) as (one, other):
        assert (await peers(one))["2"]["state"] == "up"
        for times in (1, 2):
            cut(one, "b")
            await trio.sleep(1)
            ether.redial()
            assert (await peers(one))["2"]["state"] == "cut_off"
            assert (await peers(other))["1"]["state"] == "down"
            assert ether.networks[peer_id("a")].added == {}
            await trio.sleep(CUT_MIN_S * times - 5)
            ether.redial()
            assert (await peers(one))["2"]["state"] == "cut_off"
            await trio.sleep(5)
            assert (await peers(one))["2"]["state"] == "up"
        assert await invite(other)
