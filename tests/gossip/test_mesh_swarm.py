"""Many machines on an event heap: coverage, repair, and the same run for the same seed."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gossip.mesh_events import Verdict
from simulations.swarm import Swarm, random_links
from tests.gossip.mesh_swarm import TOPIC, Diary, make_swarm, small

ROOT = Path(__file__).parent.parent.parent


def swarm_of(count: int, links: int, seed: int = 1, **config: object) -> Swarm:
    swarm = make_swarm(seed, small(**config), checking=False)
    for _ in range(count):
        swarm.add()
    random_links(swarm, links, random.Random(seed))
    swarm.subscribe_all(TOPIC)
    swarm.run(3.0)
    return swarm


def check(swarm: Swarm) -> None:
    swarm.check()
    diary = diary_of(swarm)
    assert not diary.resets
    for delivered in diary.delivered.values():
        assert len({message.id for message in delivered}) == len(delivered)
    for node in swarm.nodes:
        assert node.mesh.statistics().invalid == 0


def diary_of(swarm: Swarm) -> Diary:
    assert isinstance(swarm.watcher, Diary)
    return swarm.watcher


def receivers(swarm: Swarm, data: bytes) -> int:
    return diary_of(swarm).receivers(data)


def trace(seed: int) -> str:
    """Return a hash of all that happened in a small world. Also run by another process."""
    swarm = swarm_of(60, 6, seed)
    for number in range(20):
        swarm.publish(number, b"%d" % number, TOPIC)
        swarm.disconnect(*list(swarm.links)[number])
        swarm.run(0.2)
    swarm.run(5.0)
    return swarm.trace.digest()


@pytest.mark.slow
def test_two_hundred_nodes_are_all_reached() -> None:
    swarm, rng = swarm_of(200, 6), random.Random(1)
    for number in range(20):
        swarm.publish(rng.randrange(200), b"%d" % number, TOPIC)
        swarm.run(0.1)
    swarm.run(5.0)
    check(swarm)
    assert [receivers(swarm, b"%d" % number) for number in range(20)] == [199] * 20
    meshes = [node.mesh.statistics().mesh for node in swarm.nodes]
    assert max(meshes) <= 12
    assert all(
        mesh >= min(4, node.mesh.statistics().peers)
        for mesh, node in zip(meshes, swarm.nodes, strict=True)
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_in_any_process() -> None:
    command = "from tests.gossip.test_mesh_swarm import trace; print(trace(5))"
    found = {
        subprocess.run(
            [sys.executable, "-c", command],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {trace(5) + "\n"}
    assert trace(6) != trace(5)


def missed(**config: object) -> tuple[int, int]:
    """Return how many deliveries are missed, and how many were asked for, where much is lost."""
    sparse = {"degree": 3, "degree_low": 2, "degree_high": 4, "degree_score": 1}
    swarm = swarm_of(40, 8, flood_publish=False, degree_outbound=1, **sparse, **config)
    swarm.lines.loss = 0.25
    for number in range(30):
        swarm.publish(number, b"%d" % number, TOPIC)
        swarm.run(0.1)
    swarm.run(6.0)
    check(swarm)
    reached = sum(receivers(swarm, b"%d" % number) for number in range(30))
    return 30 * 39 - reached, sum(node.mesh.statistics().iwant_served for node in swarm.nodes)


@pytest.mark.slow
def test_what_is_lost_on_the_way_is_asked_for() -> None:
    without, served = missed(degree_lazy=0, gossip_factor=0.0)
    assert served == 0
    assert without > 30
    with_gossip, served = missed()
    assert with_gossip < without / 10
    assert served > without / 2


def test_two_halves_that_were_apart_are_one_again() -> None:
    swarm = swarm_of(12, 11)
    across = [(a, b) for a, b in swarm.links if a < 6 <= b]
    for one, other in across:
        swarm.disconnect(one, other)
    swarm.publish(0, b"while apart", TOPIC)
    swarm.run(10.0)
    assert receivers(swarm, b"while apart") == 5
    for one, other in across:
        swarm.connect(one, other)
    swarm.run(2.0)
    swarm.publish(0, b"together", TOPIC)
    swarm.publish(11, b"again", TOPIC)
    swarm.run(2.0)
    check(swarm)
    assert receivers(swarm, b"together") == receivers(swarm, b"again") == 11


def test_a_node_that_comes_late_is_told_what_was_lately_said() -> None:
    swarm = swarm_of(6, 5)
    swarm.publish(0, b"news", TOPIC)
    swarm.run(0.5)
    swarm.add()
    for number in range(6):
        swarm.connect(6, number)
    swarm.subscribe_all(TOPIC)
    swarm.run(4.0)
    assert swarm.nodes[6].mesh.statistics().mesh < 6, "who is in its mesh does not tell it"
    assert receivers(swarm, b"news") == 6


@pytest.mark.slow
def test_a_burst_of_ten_thousand_is_complete() -> None:
    swarm = swarm_of(4, 3)
    count = 10_000
    for number in range(count):
        swarm.publish(0, b"%d" % number, TOPIC)
    swarm.run(5.0)
    check(swarm)
    delivered = diary_of(swarm).delivered
    assert [len(delivered[number]) for number in range(4)] == [0, count, count, count]


def test_messages_that_are_judged_late_reach_everybody_and_wrong_ones_nobody() -> None:
    swarm = make_swarm(1)
    diary_of(swarm).judge_later = lambda message: (
        Verdict.REJECT if message.data == b"bad" else Verdict.ACCEPT
    )
    for _ in range(8):
        swarm.add(judge=lambda _: None)
    for number in range(1, 8):
        swarm.connect(number, number - 1)
    swarm.subscribe_all(TOPIC)
    swarm.run(2.0)
    swarm.publish(0, b"good", TOPIC)
    swarm.publish(0, b"bad", TOPIC)
    swarm.run(3.0)
    assert receivers(swarm, b"good") == 7
    assert receivers(swarm, b"bad") == 1, "the neighbour judged it, and nobody else saw it"
    assert swarm.nodes[1].mesh.score(swarm.nodes[0].id) < 0


def test_topics_do_not_mix() -> None:
    swarm = swarm_of(6, 5)
    swarm.publish(0, b"elsewhere", "elsewhere")
    swarm.publish(0, b"here", TOPIC)
    swarm.run(2.0)
    assert (receivers(swarm, b"elsewhere"), receivers(swarm, b"here")) == (0, 5)
