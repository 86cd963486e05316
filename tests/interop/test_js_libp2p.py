"""A node against js-libp2p: for GossipSub of another make it is a peer like any other.

`peer.mjs` runs in Node, with the packages of `package-lock.json`, which npm installs for this
session into a directory of its own.  Without Node or npm, or where npm cannot get the packages,
this is skipped.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from gossip.batcher import pack, unpack
from gossip.wire import PEER_ID_PREFIX, PROTOCOL as GOSSIP
from peernode.daemon import DoorKeeper
from peernode.federation import Federation
from peernode.gossip_driver import BATCH_SIZE_MAX_BYTES, decode_item, encode_item
from peernode.identity import enter_mesh
from peernode.libp2p_config import AGENT
from peernode.libp2p_network import Libp2pNetwork, open_libp2p_network
from peernode.node import Node, Seams, open_node
from peernode.records_in import Checker
from storage import signing
from tests.peernode.federated import genesis, grant
from tests.peernode.libp2p_world import ANYWHERE, QUICK, marks, until
from tests.peernode.meshes import keypair, peer_id, secrets
from tests.peernode.nodes import CONFIG, Disk, SeededEntropy, WallClock, inline, sign_up

pytestmark = marks

HERE = Path(__file__).parent
NODE_VERSION_MIN = 20
INSTALL_TIMEOUT_S = 120
TEST_TIMEOUT_S = 60
NPM = [
    *("npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"),
    *("--no-update-notifier", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"),
    "--loglevel=error",
]
JS, OTHER_JS, NEWCOMER, STRANGER = "b", "c", "d", "e"
"""Two members that are a js-libp2p, one that the node has not heard of, and somebody else."""


@pytest.fixture(scope="session")
def installed() -> Iterator[Path]:
    """Return where `peer.mjs` is and finds its packages."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").partition(".")[0]) < NODE_VERSION_MIN:
        pytest.skip(f"Node {NODE_VERSION_MIN} or later is needed, not {version.stdout.strip()}")
    with tempfile.TemporaryDirectory(prefix="peernode-js-", ignore_cleanup_errors=True) as made:
        for name in ("package.json", "package-lock.json", "node20.mjs", "peer.mjs"):
            shutil.copy(HERE / name, made)
        try:
            subprocess.run(
                NPM,
                cwd=made,
                timeout=INSTALL_TIMEOUT_S,
                capture_output=True,
                text=True,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install js-libp2p in {INSTALL_TIMEOUT_S} s")
        except subprocess.CalledProcessError as error:
            reason = error.stderr.partition("\n")[0]
            pytest.skip(f"npm could not install js-libp2p: {reason}")
        yield Path(made)


@dataclass
class JsPeer:
    """A js-libp2p in a process of its own, and all that it told of."""

    process: trio.Process
    events: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    peer: str = ""
    address: str = ""
    agent: str = ""
    _asked: int = 0

    async def listen(self) -> None:
        """Take in what it says, to its end."""
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in map(json.loads, lines):
                if "id" in line:
                    self.answers[line["id"]] = line
                else:
                    self.events.append(line)

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Return what it answers to a command."""
        assert self.process.stdin is not None
        self._asked += 1
        number = self._asked
        line = json.dumps({"id": number, "do": do, **arguments}) + "\n"
        await self.process.stdin.send_all(line.encode())
        await until(lambda: number in self.answers)
        answer = self.answers[number]
        assert "error" not in answer, (do, answer)
        return answer["ok"]

    def all(self, event: str, **wanted: Any) -> list[dict[str, Any]]:
        """Return its events of a kind, oldest first."""
        return [
            each
            for each in self.events
            if each["event"] == event and wanted.items() <= each.items()
        ]

    async def heard(self, event: str, **wanted: Any) -> dict[str, Any]:
        """Return the first event of a kind, once it has come."""
        await until(lambda: self.all(event, **wanted))
        return self.all(event, **wanted)[0]

    async def heartbeats(self, count: int) -> None:
        """Return when its GossipSub has looked after its mesh so often."""
        wanted = len(self.all("gossipsub:heartbeat")) + count
        await until(lambda: len(self.all("gossipsub:heartbeat")) >= wanted)


@asynccontextmanager
async def open_js(installed: Path, name: str, **options: Any) -> AsyncIterator[JsPeer]:
    """Own a js-libp2p, a member. `options`: GossipSub's, and the `topic` it keeps score of."""
    command = ["node", "peer.mjs", keypair(name).seed.hex(), json.dumps(options)]
    async with trio.open_nursery() as nursery:
        run = partial(
            trio.run_process,
            command,
            cwd=installed,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "NODE_OPTIONS": ""},
        )
        process: trio.Process = await nursery.start(run)
        js = JsPeer(process)
        nursery.start_soon(js.listen)
        ready = await js.heard("ready")
        js.peer, js.agent, [js.address] = ready["peer"], ready["agent"], ready["addresses"]
        assert js.peer == peer_id(name)
        try:
            yield js
        finally:
            nursery.cancel_scope.cancel()


@dataclass
class Ours:
    """A node of the mesh "mesh", its founder."""

    node: Node
    network: Libp2pNetwork
    disk: Disk
    faults: list[Exception]

    @property
    def federation(self) -> Federation:
        assert self.node.federation is not None
        return self.node.federation

    @property
    def topic(self) -> str:
        return self.federation.gossip.topic

    def statistics(self) -> Any:
        return self.federation.gossip.mesh.statistics()


@asynccontextmanager
async def open_ours() -> AsyncIterator[Ours]:
    """Own a node that listens, whose mesh has the js-libp2p as a member."""
    disk, faults, door = Disk(), [], DoorKeeper()
    enter_mesh(disk, genesis(), 1, [grant(JS, 2), grant(OTHER_JS, 3)])
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
        async with open_node(msgspec.structs.replace(CONFIG), seams) as node:
            door.node = node
            await until(network.addresses)
            ours = Ours(node, network, disk, faults)
            yield ours
            ours.federation.gossip.mesh.check()
            disk.let_go()
    assert faults == []


async def js_dials(ours: Ours, js: JsPeer) -> None:
    assert await js.ask("dial", address=ours.network.addresses()[0]) == ours.network.peer
    await until(lambda: ours.network.peers() == [js.peer])
    # It is connected when it subscribes.
    await js.heard("subscription-change", peer=ours.network.peer, topics=[ours.topic])
    await js.ask("subscribe", topic=ours.topic)


async def we_dial(ours: Ours, js: JsPeer) -> None:
    await js.ask("subscribe", topic=ours.topic)
    ours.network.add_peer(js.peer, [js.address])
    await until(lambda: ours.network.peers() == [js.peer])
    await js.heard("subscription-change", peer=ours.network.peer, topics=[ours.topic])


def junk(item: bytes) -> bytes:
    """Return a record that is none."""
    return b"\x02" + b"garbage" * 20


def forged(item: bytes) -> bytes:
    """Return an item whose signature is wrong."""
    return item[:-1] + bytes([item[-1] ^ 1])


@pytest.mark.parametrize(("dial", "spoil"), [(js_dials, junk), (we_dial, forged)])
async def test_it_is_a_peer_like_any_other(
    dial: Callable[[Ours, JsPeer], Any], spoil: Callable[[bytes], bytes], installed: Path
) -> None:
    with trio.fail_after(TEST_TIMEOUT_S):
        async with open_ours() as ours, open_js(installed, JS, topic=ours.topic) as js:
            await dial(ours, js)
            await identifies_and_pings(ours, js)
            await is_in_our_mesh(ours, js)
            await gets_what_we_say(ours, js)
            await says_what_we_take(ours, js)
            assert await js.ask("mesh", topic=ours.topic) == [ours.network.peer]
            await finds_us_good(ours, js)

            await is_refused_what_is_wrong(ours, js, spoil)
            # Long enough for it to have held against us what came of that.
            await js.heartbeats(2)
            await finds_us_good(ours, js)
            assert js.all("peer:disconnect") == []
            assert ours.network.peers() == [js.peer]


async def test_one_outside_our_mesh_is_told_of_a_message_and_asks_for_it(installed: Path) -> None:
    """Told of it by an id of 46 bytes, as others want it, it would not see that it got it."""
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(TEST_TIMEOUT_S))
        ours = await stack.enter_async_context(open_ours())
        js = await stack.enter_async_context(open_js(installed, JS, topic=ours.topic))
        # It wants nobody in its mesh, and does not wait long for what it asked for.
        none = dict.fromkeys(("D", "Dlo", "Dhi", "Dscore", "Dout"), 0)
        wait = {"gossipsubIWantFollowupMs": 500, "heartbeatInterval": 300}
        other = await stack.enter_async_context(
            open_js(installed, OTHER_JS, topic=ours.topic, **none, **wait)
        )
        await js_dials(ours, js)
        await is_in_our_mesh(ours, js)
        await other.ask("subscribe", topic=ours.topic)
        ours.network.add_peer(other.peer, [other.address])
        await until(lambda: (ours.statistics().grafts, ours.statistics().mesh) == (2, 1))
        batch = pack([encode_item(grant(NEWCOMER, 4))]).hex()
        await js.ask("publish", topic=ours.topic, data=batch)
        message = await other.heard("message", topic=ours.topic)
        assert (message["from"], message["data"]) == (js.peer, batch)
        assert ours.statistics().iwant_served == 1
        await other.heartbeats(6)
        found = await other.ask("score", peer=ours.network.peer)
        assert found["misdeeds"] == 0
        assert found["score"] >= 0
        # And what it asked was legal.
        assert score(ours, other) >= 0
        assert ours.federation.standing.blamed() == []


async def is_in_our_mesh(ours: Ours, js: JsPeer) -> None:
    """Wait until both have each other in their mesh."""
    await until(lambda: ours.statistics().mesh == 1)
    await js.heard("gossipsub:graft", peer=ours.network.peer, topic=ours.topic)
    assert await js.ask("mesh", topic=ours.topic) == [ours.network.peer]


async def identifies_and_pings(ours: Ours, js: JsPeer) -> None:
    identity = await js.heard("peer:identify", peer=ours.network.peer)
    assert identity["agent"] == AGENT
    assert GOSSIP in identity["protocols"]
    assert [f"{each}/p2p/{ours.network.peer}" for each in identity["addresses"]] == (
        ours.network.addresses()
    )
    for _ in range(3):
        assert 0 <= await js.ask("ping", peer=ours.network.peer) < TEST_TIMEOUT_S * 1000


async def gets_what_we_say(ours: Ours, js: JsPeer) -> None:
    await sign_up(ours.node, "ada")
    message = await js.heard("message", topic=ours.topic)
    assert (message["type"], message["from"]) == ("signed", ours.network.peer)
    items = unpack(bytes.fromhex(message["data"]), BATCH_SIZE_MAX_BYTES, 1024)
    known = Checker(genesis().id).check_all(map(decode_item, items))
    assert known
    assert not any(map(ours.federation.ingestion.is_news, known))


async def says_what_we_take(ours: Ours, js: JsPeer) -> None:
    newcomer = keypair(NEWCOMER).public_key
    assert not ours.node.membership.is_member(newcomer)
    batch = pack([encode_item(grant(NEWCOMER, 4))]).hex()
    before = ours.statistics()
    assert await js.ask("publish", topic=ours.topic, data=batch) == [ours.network.peer]
    await until(lambda: ours.node.membership.is_member(newcomer))
    assert ours.statistics().delivered == before.delivered + 1
    assert ours.federation.ingestion.kept == 1

    # Said again in a new message it is no news, and nobody is to blame.
    seen = ours.statistics().seen
    assert await js.ask("publish", topic=ours.topic, data=batch) == [ours.network.peer]
    await until(lambda: ours.statistics().seen == seen + 1)
    now = ours.statistics()
    assert (now.delivered, now.invalid) == (before.delivered + 1, before.invalid)
    await until(lambda: score(ours, js) > 0)


async def is_refused_what_is_wrong(ours: Ours, js: JsPeer, spoil: Callable[[bytes], bytes]) -> None:
    before, disk = ours.statistics(), ours.disk.snapshot()
    batch = pack([spoil(encode_item(grant(STRANGER, 5)))]).hex()
    assert await js.ask("publish", topic=ours.topic, data=batch) == [ours.network.peer]
    await until(lambda: ours.statistics().invalid == before.invalid + 1)
    assert ours.statistics().delivered == before.delivered
    assert not ours.node.membership.is_member(keypair(STRANGER).public_key)
    assert ours.disk.snapshot() == disk
    assert ours.federation.ingestion.kept == 1
    # It costs the place in our mesh, which it is told.
    await until(lambda: score(ours, js) < 0)
    await js.heard("gossipsub:prune", peer=ours.network.peer, topic=ours.topic)
    assert await js.ask("mesh", topic=ours.topic) == []


async def finds_us_good(ours: Ours, js: JsPeer) -> None:
    found = await js.ask("score", peer=ours.network.peer)
    assert found["score"] >= 0
    assert (found["misdeeds"], found["invalid"]) == (0, 0)
    now = ours.statistics()
    assert (now.malformed, now.promises_broken, now.dropped) == (0, 0, 0)


def score(ours: Ours, js: JsPeer) -> float:
    """Return what we think of it."""
    return ours.federation.gossip.mesh.score(PEER_ID_PREFIX + signing.parse_peer_id(js.peer))
