"""A swarm steps the product's machines, the same way each time, and keeps what theory says."""

import gc
import math
import random

import msgspec
import pytest

import gossip.fetch
import gossip.mesh
import gossip.sync
from gossip import wire_encode
from gossip.config import Config
from gossip.mesh_events import Publish, Subscribe
from simulations import chance, swarm_fetch, swarm_links, swarm_sync, topology
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.scenario import Link, Regular
from simulations.swarm import Swarm, quiet_collector, random_links
from simulations.swarm_links import messages_bytes
from simulations.swarm_population import Population
from simulations.swarm_runs import LINK, convergence, overhead
from simulations.trace import Trace
from simulations.verification import Verification

TOPIC = "t"
QUIET = Config(flood_publish=False)


class Steady:
    """Lines that take 10 ms."""

    def arrival_s(self, source: int, target: int, size_bytes: int, now: float) -> float | None:
        return now + 0.01

    def steady_s(self, source: int, target: int) -> float | None:
        return None

    def reset(self, one: int, other: int) -> None: ...


def small(count: int, seed: int = 1, **more: object) -> Swarm:
    swarm = Swarm(seed, Steady(), checking=True, **more)
    for _ in range(count):
        swarm.add()
    random_links(swarm, 4, random.Random(seed))
    swarm.subscribe_all(TOPIC)
    swarm.run(3.0)
    return swarm


def population(nodes: int, seed: int, **more: object) -> Population:
    graph = topology.build(Regular(nodes=nodes, degree=6), LINK, chance.named(seed, "topology"))
    swarm = Swarm(seed, Lines(graph, LINK, chance.named(seed, "lines")), **more)
    made = Population(swarm, graph, Metrics(), records=10)
    made.settle()
    return made


# --- what is stepped ----------------------------------------------------------------------------


def test_what_is_stepped_is_what_a_node_runs() -> None:
    """Not a model of it, nor a class derived from it."""
    made = population(10, 1)
    assert all(type(node.mesh) is gossip.mesh.Mesh for node in made.swarm.nodes)
    assert all(type(made.sync.machine(number)) is gossip.sync.Sync for number in range(10))
    fetching = swarm_fetch.Fetching(made, made.metrics)
    assert type(fetching.member(0).fetch) is gossip.fetch.Fetch
    assert swarm_sync.Sync is gossip.sync.Sync
    assert gossip.mesh.Mesh.__module__ == "gossip.mesh"


def test_a_message_is_signed_with_its_authors_key_and_refused_if_it_is_not() -> None:
    swarm = small(6)
    author, reader = swarm.nodes[0], next(iter(swarm.nodes[0].ways.values()))
    unsigned = wire_encode.message(author.id, 1 << 62, TOPIC, b"never said")
    swarm.inject(reader, wire_encode.publish(unsigned, bytes(64)))
    swarm.run(1.0)
    told = reader.target.mesh.statistics()
    assert (told.delivered, told.invalid) == (0, 1)


def test_the_cache_of_verification_changes_nothing() -> None:
    def traced(verification: Verification) -> str:
        made = population(20, 3, verification=verification)
        for number in range(5):
            made.make(number, "kv", 100)
            made.swarm.run(0.3)
        made.swarm.run(2.0)
        return made.swarm.trace.digest()

    with_it, without = Verification(), Verification(remembering=False)
    assert traced(with_it) == traced(without)
    assert with_it.signatures.works == 2 * 5, "each message and record once"
    assert without.signatures.works >= 5 * 19 + 5, "each message at each node"


# --- links, and nodes that come and go ----------------------------------------------------------


def test_what_is_under_way_on_a_link_that_breaks_is_lost() -> None:
    swarm = Swarm(1, Steady(), checking=True)
    swarm.add(), swarm.add()
    swarm.connect(0, 1)
    swarm.subscribe_all(TOPIC)
    swarm.run(2.0)
    swarm.publish(0, b"lost", TOPIC)
    swarm.disconnect(0, 1)
    swarm.connect(1, 0)
    swarm.run(0.5)
    assert swarm.nodes[1].mesh.statistics().received > 0
    swarm.check()
    assert swarm.nodes[1].mesh.statistics().delivered == 0, "until a heartbeat tells of it"


def test_a_link_that_is_reset_comes_again() -> None:
    class Fragile(Steady):
        broken = False

        def arrival_s(self, source: int, target: int, size_bytes: int, now: float) -> float | None:
            return None if self.broken else now + 0.01

    lines = Fragile()
    swarm = Swarm(1, lines, checking=True)
    swarm.add(), swarm.add()
    swarm.connect(0, 1)
    swarm.subscribe_all(TOPIC)
    swarm.run(2.0)
    lines.broken = True
    swarm.publish(0, b"resets", TOPIC)
    assert not swarm.links
    lines.broken = False
    swarm.run(3.0)
    assert len(swarm.links) == 2
    swarm.publish(0, b"arrives", TOPIC)
    swarm.run(1.0)
    assert swarm.nodes[1].mesh.statistics().delivered >= 1
    swarm.check()


def test_a_node_that_crashed_begins_anew_and_is_believed() -> None:
    swarm = small(8)
    peers = [way.target.number for way in swarm.nodes[0].ways.values()]
    swarm.publish(0, b"before", TOPIC)
    swarm.run(1.0)
    swarm.crash(0)
    assert not swarm.nodes[0].ways
    swarm.run(1.0)
    swarm.start(0)
    for peer in peers:
        swarm.connect(0, peer)
    swarm.say(0, Subscribe(TOPIC))
    swarm.run(3.0)
    swarm.say(0, Publish(TOPIC, b"after"))
    swarm.run(1.0)
    swarm.check()
    assert all(node.mesh.statistics().delivered == 2 for node in swarm.nodes[1:])


def test_a_mute_way_loses_what_is_sent_and_the_other_does_not() -> None:
    swarm = Swarm(1, Steady(), checking=True)
    swarm.add(), swarm.add()
    swarm.connect(0, 1)
    swarm.subscribe_all(TOPIC)
    swarm.run(2.0)
    swarm.links[0, 1].is_mute = True
    swarm.publish(0, b"unheard", TOPIC)
    swarm.publish(1, b"heard", TOPIC)
    swarm.run(5.0)
    assert [node.mesh.statistics().delivered for node in swarm.nodes] == [1, 0]


# --- the trace, and what is counted -------------------------------------------------------------


def test_the_hash_of_a_trace_says_what_was_sent_whether_or_not_it_is_kept() -> None:
    kept: list[str] = []

    def traced(trace: Trace, data: bytes) -> str:
        swarm = small(6, trace=trace)
        swarm.publish(0, data, TOPIC)
        swarm.run(1.0)
        return trace.digest()

    assert traced(Trace(kept.append), b"x") == traced(Trace(), b"x") != traced(Trace(), b"y")
    assert any('"kind":"message"' in line for line in kept)


def test_messages_are_told_from_control() -> None:
    message = wire_encode.publish(b"x" * 300, bytes(64))
    hello = wire_encode.subscription(TOPIC, True)
    (control,) = wire_encode.pack([], [wire_encode.graft(TOPIC)], 1 << 20)
    assert messages_bytes(message) == len(message)
    assert messages_bytes(hello) == messages_bytes(control) == messages_bytes(b"") == 0
    assert messages_bytes(hello + message + message + control) == 2 * len(message)


def test_machines_leave_nothing_to_the_collector() -> None:
    """No cycles: what is over is freed at once, however seldom the collector looks."""
    made = population(30, 1)
    gc.collect()
    gc.disable()
    try:
        for number in range(10):
            made.make(number, "kv", 100)
            made.swarm.run(0.5)
        made.swarm.run(20.0)
        assert gc.collect() < 100
    finally:
        gc.enable()


def test_quiet_collecting_is_undone() -> None:
    before = gc.get_threshold()
    with quiet_collector():
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


# --- theory -------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2, 3])
def spreading(request: pytest.FixtureRequest) -> Population:
    made = population(150, request.param, config=QUIET)
    for number in range(5):
        made.make(number * 31 % 150, "kv", 100)
        made.swarm.run(2.0)
    made.swarm.run(3.0)
    made.close()
    return made


@pytest.mark.slow
def test_no_message_is_faster_than_the_shortest_way_and_all_are_reached(
    spreading: Population,
) -> None:
    slack = []
    for row in spreading.metrics:
        if row.metric != "record.seen_s":
            continue
        maker = _maker_at(spreading, row.at_s - row.value)
        bound_s = spreading.graph.distances_s(maker)[int(row.node)]
        assert row.value >= bound_s - 1e-9
        slack.append(row.value - bound_s)
    assert len(slack) == 5 * 149
    assert min(slack) < 1e-9, "a neighbour has it over the shortest way"
    assert [s.covered for s in map(spreading.spread.of, range(5))] == [1.0] * 5


@pytest.mark.slow
def test_there_are_no_fewer_hops_than_a_tree_of_that_degree_has(spreading: Population) -> None:
    for spread in map(spreading.spread.of, range(5)):
        assert spread.hops_max >= math.log(150) / math.log(6 - 1)


def _maker_at(made: Population, made_s: float) -> int:
    of = made.spread.of
    return min(map(of, range(5)), key=lambda spread: abs(spread.made_s - made_s)).maker


@pytest.mark.slow
def test_convergence_is_bounded_by_the_eccentricity() -> None:
    found = convergence(80, 1, updates=4)
    assert all(update.covered == 1.0 for update in found.updates)
    for update in found.updates:
        assert update.visible_s is not None
        assert 1 - 1e-9 <= update.visible_s / update.eccentricity_s < 1.5
    assert found == convergence(80, 1, updates=4)
    assert found.trace_hash != convergence(80, 2, updates=4).trace_hash


@pytest.mark.slow
def test_control_for_each_node_does_not_grow_with_their_number() -> None:
    few, many = overhead(20, 1, duration_s=10.0), overhead(80, 1, duration_s=10.0)
    assert few.covered == many.covered == 1.0
    assert many.control_bytes_per_s == pytest.approx(few.control_bytes_per_s, rel=0.15)
    assert many.copies == pytest.approx(few.copies, rel=0.2)


@pytest.mark.slow
def test_loss_delays_and_loses_nothing() -> None:
    lossy = replace_link(loss=0.1)
    found = convergence(60, 1, updates=3, link=lossy)
    assert all(update.covered == 1.0 for update in found.updates)


def replace_link(**changes: object) -> Link:
    return msgspec.structs.replace(LINK, **changes)


def test_a_way_knows_both_ends() -> None:
    swarm = small(3)
    for (one, other), way in swarm.links.items():
        assert isinstance(way, swarm_links.Way)
        assert (way.source.number, way.target.number) == (one, other)
        assert way.source_id == swarm.nodes[one].id
