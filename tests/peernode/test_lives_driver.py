"""Whole nodes whose disk is put back as it was: what they hold back, find out, and never repeat."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from msgspec import structs

from gossip.errors import PeerError
from peernode import join_messages, life_statements
from peernode.join_messages import Greeting
from peernode.joining import JoinError
from peernode.life_statements import Life
from peernode.lives import State
from peernode.lives_driver import ASKING_S
from peernode.node import Node
from storage import ids
from storage.store import Table
from tests.peernode.meshes import (
    Ether,
    ask,
    invite,
    join,
    keypair,
    open_ether,
    open_mesh_node,
    peer_id,
    peers,
)
from tests.peernode.nodes import (
    ECHO,
    PASSWORD,
    START_MS,
    Caller,
    Disk,
    WallClock,
    Worker,
    settle,
    sign_up,
)

Clock = trio.testing.MockClock
INTERVAL_S = 30.0
RECOVERED_S = 2 * INTERVAL_S + 10
"""After this long a node that was put back goes on again."""


@dataclass
class World:
    """A home "a" with a user, a project, a function and a `cas` namespace; "b" is its peer."""

    ether: Ether
    clock: WallClock
    b: Node
    disk: Disk
    """What "a" had when it was copied."""
    token: str
    there: str
    """The user's token at "b"."""
    project: str
    echo: str
    space: str
    job: str
    """Was queued then."""

    def caller(self, node: Node) -> Caller:
        return Caller(node, self.there if node is self.b else self.token)

    @asynccontextmanager
    async def home(self, disk: Disk) -> AsyncIterator[Node]:
        """Run "a" on a disk; what is on that disk at its end stays there."""
        async with open_mesh_node(self.ether, "a", disk, self.clock) as node:
            self.ether.redial()
            await settle()
            yield node

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await trio.sleep(seconds)


async def make(caller: Caller, path: str, body: dict[str, Any]) -> str:
    return str((await caller.post(path, body, 201))["id"])


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    clock, disk = WallClock(), Disk()
    async with open_ether() as ether:
        async with open_mesh_node(ether, "a", disk, clock) as a:
            b_disk = await join(ether, a, "b")
            async with open_mesh_node(ether, "b", b_disk, clock):
                await settle()  # Now both know where the other is.
            ada = await sign_up(a, "ada")
            project = await make(ada, "/project", {"name": "lab"})
            function = {"project": project, "name": "echo", "runtime": "python", "source": ECHO}
            echo = await make(ada, "/function", function)
            space = {"owner": {"project": project}, "name": "exact", "scope": "global"}
            cas = await make(ada, "/kv", space | {"mode": "cas"})
            await ada.post(f"/kv/{cas}/put", {"key": "k", "value": "old"})
            job = (await ada.post("/job", {"function": echo, "input": 1}, 202))["id"]
            body = {"password": PASSWORD, "audience": ["2"]}
            there = (await Caller(a).post("/user/ada/login", body))["token"]
            copy = disk.copy()
        async with open_mesh_node(ether, "b", b_disk.copy(), clock) as b:
            yield World(ether, clock, b, copy, ada.token, there, project, echo, cas, job)


async def finish(node: Node, nursery: trio.Nursery, job: str, result: Any) -> None:
    """Have a worker come, run a job and go."""
    operator = Caller(node, node.identity.operator_token)
    worker = Worker(node, nursery, int((await operator.post("/worker", {}, 201))["id"]))
    await worker.attach()
    await settle()
    await worker.finish(worker.lease(job), result)
    await worker.detach()


async def live_on(world: World, nursery: trio.Nursery) -> dict[str, Any]:
    """Let the home do what its copy will know nothing of; return what it did."""
    done: dict[str, Any] = {}
    async with world.home(world.disk.copy()) as a:
        await trio.sleep(5)  # Reconciled.
        ada = world.caller(a)
        done["invite"], done["spare"] = await invite(a), await invite(a)
        done["number"] = (await ask(world.ether, done["invite"], "c")).number
        done["put"] = await ada.post(f"/kv/{world.space}/put", {"key": "k", "value": "new"})
        done["project"] = await make(ada, "/project", {"name": "made-since"})
        await finish(a, nursery, world.job, "told")
        # Somebody at "b" has asked for it.
        told = await world.caller(world.b).get(f"/job/{world.job}")
        assert (told["state"], told["result"]) == ("succeeded", "told")
        await world.later(1)
        done["id"], done["at"] = a.ids.next(), a.timestamps.tick()
        assert a.peering is not None
        await a.peering._greet(peer_id("b"))
    return done


async def test_a_node_that_was_put_back_holds_back_and_says_so(autojump_clock: Clock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        await live_on(world, nursery)
        async with world.home(world.disk) as a:
            assert a.lives.state is State.RECOVERING
            ada, operator = world.caller(a), Caller(a, a.identity.operator_token)
            for path, body in (
                ("/project", {"name": "x"}),
                ("/job", {"function": world.echo, "input": 1}),
                (f"/kv/{world.space}/put", {"key": "k", "value": 1}),
                (f"/kv/{world.space}/get", {"key": "k"}),
                (f"/kv/{world.space}/list", {}),
                ("/user/ada/login", {"password": PASSWORD}),
            ):
                problem = await ada.post(path, body, 503)
                assert (problem["code"], problem["retryable"]) == ("recovering", True)
            refused = await operator.http.post("/mesh/invite", json={})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            unknown = ids.pack(START_MS, 1, 0)
            for path in (
                f"/job/{world.job}",
                "/job",
                f"/job/{unknown}",
                f"/job/{world.job}/events",
            ):
                assert (await ada.get(path, 503))["code"] == "recovering"
            # What others know as well, or nobody else does, is still to be read.
            assert (await ada.get(f"/project/{world.project}"))["name"] == "lab"
            health = await ada.get("/health", 503)
            assert (health["status"], health["code"]) == ("recovering", "recovering")
            assert (await peers(a))["1"]["state"] == "recovering"
            assert "peernode_held_back 1.0" in (await ada.http.get("/metrics")).text
            with pytest.raises(Exception, match="old copy"):
                a.ids.next()
            with pytest.raises(Exception, match="old copy"):
                a.timestamps.tick()
            assert len(a.live) == 0


async def test_it_goes_on_with_all_that_others_know_and_repeats_nothing(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        done = await live_on(world, nursery)
        async with world.home(world.disk) as a:
            await world.later(RECOVERED_S)
            assert a.lives.state is State.FREE
            ada = world.caller(a)
            assert (await peers(a))["1"]["state"] == "self"
            # The key has the value and the version that were told.
            held = await ada.post(f"/kv/{world.space}/get", {"key": "k"})
            assert (held["value"], held["version"]) == ("new", done["put"]["version"])
            put = {"key": "k", "value": "newer", "if_version": held["version"]}
            after = await ada.post(f"/kv/{world.space}/put", put)
            assert int(after["version"]) > done["at"]
            # The job has the one outcome.
            job = await ada.get(f"/job/{world.job}")
            assert (job["state"], job["result"]) == ("succeeded", "told")
            assert len(a.live) == 0
            # Invites from before are void, used or not; a new one gives a new number.
            for text in (done["invite"], done["spare"]):
                with pytest.raises(JoinError, match="not an invite"):
                    await ask(world.ether, text, "d")
            assert (await ask(world.ether, await invite(a), "d")).number > done["number"]
            # The name is taken by what was made since.
            assert (await ada.get(f"/project/{done['project']}"))["name"] == "made-since"
            taken = await ada.post("/project", {"name": "made-since"}, 409)
            assert taken["code"] == "name_taken"
            assert a.ids.next() > done["id"]
            boot, disk = a.lives._lives.boot, world.disk.copy()
            assert a.dispatch.scheduler._boot == boot
        # It is an ordinary node again.
        async with world.home(disk) as a:
            assert a.lives.state is State.FREE
            assert a.identity.boot == boot + 1
            assert await invite(a)


async def test_ids_and_timestamps_go_on_above_though_the_clock_was_put_back_too(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        done = await live_on(world, nursery)
        world.clock.now_ms -= 3600_000
        async with world.home(world.disk) as a:
            await world.later(RECOVERED_S)
            assert a.ids.next() > done["id"]
            assert a.timestamps.tick() > done["at"]
            again = world.disk.copy()
        async with world.home(again) as a:
            assert a.ids.next() > done["id"]
            assert a.timestamps.tick() > done["at"]


async def test_a_cas_key_is_not_read_through_a_peer_either(autojump_clock: Clock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        await live_on(world, nursery)
        there = world.caller(world.b)
        async with world.home(world.disk):
            refused = await there.post(f"/kv/{world.space}/get", {"key": "k"}, 503)
            assert refused["code"] == "recovering"
            job = await there.get(f"/job/{world.job}")
            assert (job["state"], job["result"]) == ("succeeded", "told")
            await world.later(RECOVERED_S)
            held = await there.post(f"/kv/{world.space}/get", {"key": "k"})
            assert held["value"] == "new"


async def test_the_operator_may_say_that_it_goes_on_at_once(autojump_clock: Clock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        await live_on(world, nursery)
        async with world.home(world.disk) as a:
            await world.caller(a).post("/mesh/resolve", {}, 403)
            operator = Caller(a, a.identity.operator_token)
            started_s = trio.current_time()
            assert (await operator.post("/mesh/resolve"))["state"] == "self"
            assert trio.current_time() - started_s < 10
            await world.caller(a).post("/project", {"name": "x"}, 201)
            assert (await operator.post("/mesh/resolve"))["state"] == "self"


async def test_a_copy_of_a_directory_in_use_is_held_back_too(autojump_clock: Clock) -> None:
    async with open_world() as world:
        disk = world.disk.copy()
        async with world.home(disk) as a:
            await trio.sleep(5)
            backup = disk.copy()
            await world.later(INTERVAL_S + 1)
            await world.caller(a).post("/project", {"name": "since"}, 201)
            await trio.sleep(1)
        async with world.home(backup) as a:
            assert a.lives.state is State.RECOVERING
            await world.later(RECOVERED_S)
            await world.caller(a).post("/project", {"name": "since"}, 409)


async def test_an_ordinary_restart_and_a_power_cut_hold_nothing_back(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world:
        disk = world.disk
        for n in range(12):
            async with world.home(disk) as a:
                await world.caller(a).post("/project", {"name": f"p{n}"}, 201)
                assert a.lives.state is State.FREE
                await world.later(INTERVAL_S)
                assert a.lives.state is State.FREE
                if n % 2:
                    disk = disk.copy()
            disk = disk if n % 2 else disk.copy()


async def test_a_start_waits_for_its_peers_a_moment_and_no_longer(autojump_clock: Clock) -> None:
    async with open_world() as world:
        disk = Disk()
        async with world.home(world.disk) as a:
            disk = await join(world.ether, a, "c")
        world.ether.networks[peer_id("b")].is_listening = False
        world.ether.networks[peer_id("b")].let_in = lambda key: False
        started_s = trio.current_time()
        async with open_mesh_node(world.ether, "c", disk, world.clock) as c:
            assert c.lives.state is State.ASKING
            health = await Caller(c).get("/health")
            assert health["status"] == "starting"
            assert trio.current_time() == started_s
            await sign_up(c, "cyd")
            assert trio.current_time() == pytest.approx(started_s + ASKING_S)
        async with open_mesh_node(world.ether, "z", Disk(), world.clock) as z:
            assert z.lives.state is State.FREE


async def test_a_peer_shows_only_what_the_node_has_signed(autojump_clock: Clock) -> None:
    """A life of somebody else's key, shown as ours, is no greeting and holds nothing back."""
    async with open_world() as world, world.home(world.disk) as a:
        assert a.peering is not None
        b_life = await world.b.lives.statement()
        for life, shown in ((b_life, (b_life,)), (b"", ()), (await a.lives.statement(), ())):
            frame = join_messages.encode(Greeting((), life, shown))
            with pytest.raises(PeerError):
                await a.peering._answer_greeting(peer_id("b"), frame)
        assert a.lives.state is State.FREE
        # Nobody's greeting makes the disk busy: what was signed just now is good enough.
        before = world.disk.get(Table.META, b"boot"), len(world.disk.submitted)
        lives = {await a.lives.statement() for _ in range(100)}
        assert len(lives) == 1
        assert (world.disk.get(Table.META, b"boot"), len(world.disk.submitted)) == before


async def test_a_large_source_that_came_in_since_is_fetched_from_a_neighbour(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world:
        async with world.home(world.disk.copy()) as a:
            await trio.sleep(5)
            source = ECHO + "# " + "x" * (1 << 17)
            function = {"project": world.project, "runtime": "python", "source": source}
            large = await make(world.caller(a), "/function", {**function, "name": "large"})
            await world.later(INTERVAL_S + 1)
            await world.caller(world.b).post("/job", {"function": large, "input": 1}, 202)
        async with world.home(world.disk) as a:
            await world.later(RECOVERED_S)
            await world.caller(a).post("/job", {"function": large, "input": 1}, 202)
            version = a.programs.get(int(large), None)
            assert version is not None
            assert version.source == source.encode()


async def test_a_key_that_was_rotated_since_is_lost_and_login_says_so(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world:
        async with world.home(world.disk.copy()) as a:
            await trio.sleep(5)
            await world.caller(a).post("/user/ada/rotate", {"password": PASSWORD})
            await world.later(INTERVAL_S + 1)
        async with world.home(world.disk) as a:
            await world.later(RECOVERED_S)
            assert a.lives.state is State.FREE
            lost = await Caller(a).post("/user/ada/login", {"password": PASSWORD}, 409)
            assert lost["code"] == "key_lost"
            assert "copy" in lost["detail"]


async def greet(a: Node, b: Node, *lives: Life) -> None:
    """Have "b" show "a" lives that are signed by its key."""
    signed = [life_statements.sign(keypair("a"), a.identity.mesh, life) for life in lives]
    frame = join_messages.encode(Greeting((), await b.lives.statement(), tuple(signed)))
    assert a.peering is not None
    await a.peering._answer_greeting(peer_id("b"), frame)


async def test_the_instance_that_was_there_first_stops_its_work_and_takes_it_up_again(
    autojump_clock: Clock,
) -> None:
    async with (
        open_world() as world,
        trio.open_nursery() as nursery,
        world.home(world.disk) as a,
    ):
        await trio.sleep(5)
        ada, operator = world.caller(a), Caller(a, a.identity.operator_token)
        worker = Worker(a, nursery, int((await operator.post("/worker", {}, 201))["id"]))
        await worker.attach()
        await settle()
        lease = worker.lease(world.job)
        short = {"function": world.echo, "input": 2, "limits": {"queue_s": 60}}
        late = (await ada.post("/job", short, 202))["id"]
        twin = Life(1, 2, b"twin" * 4, world.clock.now_ms, ())
        for seconds in (0, 10, 20):
            await greet(a, world.b, structs.replace(twin, at_ms=twin.at_ms + seconds))
        assert a.lives.state is State.CLONED
        await settle()
        assert len(worker.ended) == 1
        refused = await ada.post("/job", {"function": world.echo, "input": 1}, 503)
        assert (refused["code"], refused["retryable"]) == ("cloned", False)
        assert "peernode resolve" in refused["hint"]
        assert (await ada.get(f"/job/{world.job}", 503))["code"] == "cloned"
        await operator.post(f"/job/{world.job}/cancel", {}, 503)
        assert (await peers(a))["1"]["state"] == "cloned"
        # Whatever is decided meanwhile is not written.
        await world.later(300)
        assert a.lives.state is State.CLONED
        assert a.dispatch.scheduler.statistics().settling == 1
        assert world.disk.get(Table.OUTCOMES, ids.key(int(late))) is None
        await operator.post("/mesh/resolve")
        await settle()
        assert (await ada.get(f"/job/{late}"))["state"] == "expired"
        await worker.attach()
        await settle()
        again = worker.lease(world.job)
        assert again.fence > lease.fence
        assert again.fence >> 32 == a.lives._lives.boot
        await worker.finish(again, "once")
        assert (await ada.get(f"/job/{world.job}"))["result"] == "once"
        await worker.detach()


async def test_it_takes_the_outcome_that_the_other_one_has_told(autojump_clock: Clock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        first = world.disk.copy()
        await live_on(world, nursery)
        async with world.home(first) as a:
            # As if it had been running all the time, with the job in its queue.
            a.jobs.restore(a.workers.local)
            assert len(a.live) == 1
            waiting = trio.Event()

            async def wait() -> None:
                await a.live.wait_ended(int(world.job), 3600)
                waiting.set()

            nursery.start_soon(wait)
            await world.later(RECOVERED_S)
            assert waiting.is_set()
            assert len(a.live) == 0
            a.dispatch.scheduler.check()
            job = await world.caller(a).get(f"/job/{world.job}")
            assert (job["state"], job["result"]) == ("succeeded", "told")
