import subprocess
import sys
import threading
from typing import Any

import pytest
import trio

from gossip.fetch import Fetch
from gossip.mesh import Mesh
from gossip.sync import Sync
from peernode import daemon
from peernode.node import open_node
from simulations import clock, hosts
from simulations.errors import ScenarioError
from simulations.scenario import Costs, Link, Regular
from simulations.trace import Trace
from simulations.world import Caller, NodeDown, World
from storage.places import Class
from tests.simulations.worlds import LATENCY_S, open_test_world, run, scenario
from worker.scheduler import Scheduler

SILENCE_S = 15.0
"""How long a peer may say nothing (`peernode.libp2p_config`)."""


async def create(world: World, node: int, name: str, user: Caller) -> str:
    answer = await world.request(node, "POST", "/project", {"name": name}, token=user.tokens[node])
    assert answer.status == 201, answer.body
    return str(answer.json()["id"])


async def sign_up(world: World, home: int = 0) -> Caller:
    """Return a user that all nodes know."""
    ada = await world.sign_up("ada", home)
    await trio.sleep(3)
    return ada


def knows(world: World, node: int, project: str) -> bool:
    """Tell whether a node has heard of a project, without its asking anybody."""
    found = world.node(node)
    assert found is not None
    return found.registry.get(Class.PROJECT, int(project)) is not None


async def shows(world: World, node: int, project: str, user: Caller) -> bool:
    answer = await world.request(node, "GET", f"/project/{project}", token=user.tokens[node])
    assert answer.status in (200, 404), answer.body
    return answer.status == 200


def agree(world: World) -> bool:
    up = [number for number in range(world.size) if world.node(number) is not None]
    return len({world.view_digest(number) for number in up}) == 1


# --- what runs ---------------------------------------------------------------------------------


def test_nodes_are_opened_as_the_command_line_opens_them() -> None:
    assert hosts.open_node is daemon.open_node is open_node


def test_what_is_stepped_is_the_product_s_own() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            for node in world.nodes:
                assert node is not None
                assert node.federation is not None
                assert node.foreign is not None
                assert type(node.federation.gossip.mesh) is Mesh
                assert type(node.federation.sync.sync) is Sync
                assert type(node.foreign.driver._machine) is Fetch
                assert type(node.dispatch.scheduler) is Scheduler

    run(play)


def test_no_thread_is_started() -> None:
    before = set(threading.enumerate())

    async def play() -> set[threading.Thread]:
        async with open_test_world(scenario(3, store="lmdb")) as world:
            ada = await sign_up(world)
            await create(world, 1, "p", ada)
            await trio.sleep(60)
            return set(threading.enumerate())

    assert run(play) == before


def test_settings_that_no_node_has_are_the_scenario_s_fault() -> None:
    async def play(**node: Any) -> None:
        async with open_test_world(scenario(2, node=node)):
            pass

    async def unknown() -> None:
        await play(sync_intervall_s=3)

    async def wrong() -> None:
        await play(jobs_per_process=-1)

    for each in (unknown, wrong):
        with pytest.raises(ScenarioError, match="node: "):
            run(each)


def test_settings_reach_the_nodes() -> None:
    async def play() -> None:
        async with open_test_world(scenario(2, node={"sync_interval_s": 3.5})) as world:
            assert [node and node.config.sync_interval_s for node in world.nodes] == [3.5, 3.5]

    run(play)


# --- what users see ----------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "lmdb"])
def test_what_is_made_at_one_node_is_soon_seen_at_all(store: str) -> None:
    async def play() -> None:
        async with open_test_world(scenario(Regular(nodes=8, degree=3), store=store)) as world:
            ada = await sign_up(world)
            project = await create(world, 5, "p", ada)
            assert not agree(world)
            await trio.sleep(1)
            assert all(knows(world, number, project) for number in range(8))
            assert all([await shows(world, number, project, ada) for number in range(8)])
            assert agree(world)

    run(play)


def test_nothing_is_known_elsewhere_sooner_than_the_line_carries_it() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            project = await create(world, 0, "p", ada)
            await trio.sleep(LATENCY_S * 0.9)
            assert not knows(world, 1, project)
            await trio.sleep(LATENCY_S * 2)
            assert knows(world, 1, project)

    run(play)


@pytest.mark.slow
def test_a_token_is_good_at_each_node() -> None:
    async def play() -> None:
        async with open_test_world(scenario(Regular(nodes=40, degree=3))) as world:
            ada = await sign_up(world, 7)
            for number in range(world.size):
                answer = await world.request(number, "GET", "/project", token=ada.tokens[number])
                assert answer.status == 200, (number, answer.body)

    run(play)


def test_a_call_may_wait_and_its_client_may_leave() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            project = await create(world, 0, "p", ada)
            path = f"/project/{project}?wait=30"
            began = world.now
            with trio.move_on_after(5) as scope:
                await world.request(0, "GET", path, token=ada.tokens[0])
            assert scope.cancelled_caught
            assert world.now == began + 5
            answer = await world.request(0, "GET", path, token=ada.tokens[0])
            assert (answer.status, world.now) == (200, began + 35)

    run(play)


def test_bodies_go_as_json_or_as_they_are_and_queries_and_headers_too() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            project = await create(world, 0, "p", ada)
            made = await world.request(
                0,
                "POST",
                f"/blob?project={project}",
                b"some bytes",
                token=ada.tokens[0],
                headers={"Content-Type": "text/plain"},
            )
            assert made.status == 201, made.body
            read = await world.request(
                0, "GET", f"/blob/{made.json()['id']}/content", token=ada.tokens[0]
            )
            again = await world.request(
                0, "POST", f"/blob/{made.json()['id']}/read", {}, token=ada.tokens[0]
            )
            found = read if read.status == 200 else again
            assert found.body == b"some bytes", (read, again)
            assert found.headers["content-type"] == "text/plain"

    run(play)


# --- nodes that come and go --------------------------------------------------------------------


def test_a_node_that_is_down_answers_nobody() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            lives: list[tuple[str, int]] = []
            world.started.append(lambda number, _: lives.append(("started", number)))
            world.ended.append(lambda number: lives.append(("ended", number)))
            errors: list[NodeDown] = []

            async def wait() -> None:
                try:
                    await world.request(0, "GET", f"/user/{ada.id}?wait=99", token=ada.tokens[0])
                except NodeDown as error:
                    errors.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(1)
                await world.crash(0)
            assert len(errors) == 1
            assert world.node(0) is None
            assert world.life(0) is None
            for ask in (
                world.request(0, "GET", "/project", token=ada.tokens[0]),
                world.request(0, "GET", "/health"),
            ):
                with pytest.raises(NodeDown):
                    await ask
            with pytest.raises(NodeDown):
                world.view_digest(0)
            await world.crash(0)
            await world.stop(0)
            assert lives == [("ended", 0)]
            await world.start(0)
            await world.until_up(0)
            await world.start(0)
            assert lives == [("ended", 0), ("started", 0)]

    run(play)


def test_whoever_starts_crashes_and_stops_a_node_at_one_moment_leaves_it_whole() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            rng = world.chance("test")
            calls = (world.start, world.start, world.crash, world.stop)
            for _ in range(60):
                async with trio.open_nursery() as nursery:
                    for _ in range(rng.randrange(1, 5)):
                        nursery.start_soon(rng.choice(calls), 1)
                        for _ in range(rng.randrange(8)):
                            await trio.lowlevel.checkpoint()
                await trio.sleep(rng.uniform(0, 2))
                assert (world.node(1) is None) == (world.life(1) is None)
            await world.start(1)
            await trio.sleep(40)
            assert peers(world, 0) == peers(world, 1) == 1

    run(play)


@pytest.mark.parametrize("how", ["crash", "stop"])
@pytest.mark.parametrize("store", ["memory", "lmdb"])
def test_what_was_acknowledged_is_there_when_a_node_is_back(how: str, store: str) -> None:
    async def play() -> None:
        async with open_test_world(scenario(2, store=store)) as world:
            ada = await sign_up(world, 1)
            project = await create(world, 1, "p", ada)
            await (world.crash(1) if how == "crash" else world.stop(1))
            await trio.sleep(1)
            await world.start(1)
            await trio.sleep(1)
            assert await shows(world, 1, project, ada)

    run(play)


def test_what_was_not_committed_when_the_power_went_is_lost_and_was_not_acknowledged() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            world.disk(0).commit_s = 2.0
            answers: list[int] = []

            async def make() -> None:
                with pytest.raises(NodeDown):
                    await create(world, 0, "late", ada)
                answers.append(0)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(make)
                await trio.sleep(1)
                await world.crash(0)
            world.disk(0).commit_s = 0.0
            await world.start(0)
            await trio.sleep(1)
            listed = await world.request(0, "GET", "/project", token=ada.tokens[0])
            assert listed.json()["items"] == []
            assert answers == [0]

    run(play)


def test_a_slow_disk_makes_its_node_slow_and_no_other() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            world.disk(0).commit_s = 3.0
            # What it writes now and then is out of the way.
            began = world.now
            await create(world, 1, "quick", ada)
            assert world.now == began
            await create(world, 0, "slow", ada)
            assert 3.0 <= world.now - began <= 6.0

    run(play)


def test_what_work_costs_is_virtual_time_at_each_end() -> None:
    async def play() -> None:
        described = scenario(2, costs=Costs(call_s=0.25, frame_s=0.5, commit_s=0.125))
        async with open_test_world(described) as world:
            began = world.now
            ada = await sign_up(world)
            # Three calls, and a commit in two of them; frames of gossip may be before them.
            assert world.now - began >= 1.0
            await trio.sleep(10)
            began = world.now
            await create(world, 0, "p", ada)
            assert world.now - began == pytest.approx(0.375)

    run(play)


def test_a_link_too_long_to_be_dialled_is_refused_and_named() -> None:
    async def play() -> None:
        with pytest.raises(ScenarioError) as error:
            async with open_test_world(scenario(2, link=Link(latency_s=0.7))):
                pass
        assert error.value.place == "link.latency_s"
        assert "1.40 s; a dial is 4 times that, and nodes give up after 5 s" in str(error.value)

    run(play)


def test_a_full_disk_takes_nothing_and_its_node_goes_on() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            project = await create(world, 0, "kept", ada)
            world.disk(0).full = True
            refused = await world.request(0, "POST", "/project", {"name": "p"}, token=ada.tokens[0])
            assert refused.status == 507
            assert await shows(world, 0, project, ada)
            await trio.sleep(60)
            world.disk(0).full = False
            await create(world, 0, "p", ada)

    run(play)


def test_a_clock_that_jumps_back_makes_no_id_twice() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            ada = await sign_up(world)
            made = [await create(world, 0, "a", ada)]
            world.wall(0).step(-3600.0)
            made += [await create(world, 0, f"b{number}", ada) for number in range(50)]
            world.wall(0).step(7200.0)
            made.append(await create(world, 0, "c", ada))
            assert len(set(made)) == len(made)

    run(play)


# --- links -------------------------------------------------------------------------------------


def peers(world: World, number: int) -> int:
    network = world.network(number)
    assert network is not None
    return len(network.peers())


def test_links_are_those_of_the_topology_and_no_others() -> None:
    async def play() -> None:
        async with open_test_world(scenario(Regular(nodes=10, degree=3))) as world:
            await trio.sleep(60)
            for number in range(10):
                network = world.network(number)
                assert network is not None
                neighbours = world.graph.neighbours(number)
                assert sorted(map(world.wire.number, network.peers())) == list(neighbours)

    run(play)


def test_peers_miss_a_node_without_power_after_a_silence_and_have_it_back() -> None:
    async def play() -> None:
        async with open_test_world(3) as world:
            await world.crash(2)
            await trio.sleep(SILENCE_S - 1)
            assert peers(world, 0) == 2
            await trio.sleep(2)
            assert peers(world, 0) == 1
            await world.start(2)
            # It dials at once; the others wait, twice as long each time.
            await trio.sleep(1)
            assert peers(world, 0) == peers(world, 2) == 2

    run(play)


def test_a_node_that_stops_says_so() -> None:
    async def play() -> None:
        async with open_test_world(3) as world:
            await world.stop(2)
            assert peers(world, 0) == peers(world, 1) == 1

    run(play)


def test_an_isolated_node_is_out_and_catches_up_when_it_is_back() -> None:
    async def play() -> None:
        async with open_test_world(4) as world:
            ada = await sign_up(world)
            world.isolate(3)
            await trio.sleep(SILENCE_S + 1)
            assert peers(world, 3) == 0
            made = [await create(world, 0, "there", ada), await create(world, 3, "here", ada)]
            await trio.sleep(10)
            assert not agree(world)
            world.rejoin(3)
            await trio.sleep(40)
            assert peers(world, 3) == 3
            for number in range(4):
                assert [await shows(world, number, project, ada) for project in made] == [True] * 2
            assert agree(world)

    run(play)


def test_a_cut_of_one_direction_breaks_a_link_after_a_silence() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            world.cut(0, 1)
            await trio.sleep(SILENCE_S - 1)
            assert peers(world, 0) == peers(world, 1) == 1
            await trio.sleep(2)
            assert peers(world, 0) == peers(world, 1) == 0
            world.heal(0, 1)
            await trio.sleep(40)
            assert peers(world, 0) == peers(world, 1) == 1

    run(play)


def test_a_link_that_is_reset_is_dialled_again_soon() -> None:
    async def play() -> None:
        async with open_test_world(2) as world:
            await trio.sleep(20)
            world.reset(0, 1)
            assert peers(world, 0) == 0
            await trio.sleep(1)
            assert peers(world, 0) == 1

    run(play)


def test_what_reaches_a_node_can_be_overheard() -> None:
    async def play() -> None:
        async with open_test_world(3) as world:
            world.overhear(1, 5)
            ada = await sign_up(world)
            for number in range(9):
                await create(world, 0, f"p{number}", ada)
                await trio.sleep(1)
            frames = world.overheard(1)
            assert len(frames) == 5
            assert all(isinstance(frame, bytes) for frame in frames)
            assert world.overheard(0) == ()
            assert world.sent_bytes(0) > sum(map(len, frames))

    run(play)


# --- what is told of it ------------------------------------------------------------------------


async def eventful(trace: Trace) -> None:
    """Play a bit of everything."""
    async with open_test_world(scenario(Regular(nodes=12, degree=3)), seed=5, trace=trace) as world:
        ada = await sign_up(world)
        rng = world.chance("test")
        for number in range(10):
            node = rng.randrange(12)
            try:
                await create(world, node, f"p{number}", ada)
            except NodeDown:
                await world.start(node)
            if number % 5 == 1:
                await world.crash(rng.randrange(12))
            if number % 5 == 2:
                world.isolate(rng.randrange(12))
            if number % 5 == 4:
                world.wall(rng.randrange(12)).step(rng.uniform(-5, 5))
            await trio.sleep(rng.expovariate(0.5))
        for number in range(12):
            trace.add(b"" if world.node(number) is None else world.view_digest(number))


def eventful_hash(seed: int = 5) -> str:
    trace = Trace()
    clock.run(eventful, trace, seed=seed)
    return trace.digest()


@pytest.mark.slow
def test_a_run_is_the_same_in_every_process() -> None:
    program = "from tests.simulations.test_world import *; print(eventful_hash())"
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    ]
    assert said == [eventful_hash()] * 2


@pytest.mark.slow
def test_runs_of_one_process_are_the_same_too_and_other_seeds_are_others() -> None:
    first, again, other = eventful_hash(), eventful_hash(), eventful_hash(6)
    assert first == again != other


def test_the_trace_tells_of_nodes_links_and_messages() -> None:
    lines: list[str] = []

    async def play() -> None:
        async with open_test_world(3, trace=Trace(lines.append)) as world:
            await trio.sleep(1)
            await world.crash(2)
            await trio.sleep(SILENCE_S + 1)

    run(play)
    text = "\n".join(lines)
    assert '"kind":"node","node":2,"state":"up"' in text
    assert '"kind":"node","node":2,"state":"down"' in text
    assert '"state":"up"' in text.split('"kind":"link"')[1]
    assert '"kind":"link","one":0,"other":2,"state":"down"' in text
    assert '"what":"gossip"' in text
    assert '"what":"/peernode/' in text
