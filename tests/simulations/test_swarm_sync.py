"""Reconciliation in a swarm: who was apart knows the same soon after, whatever breaks meanwhile."""

import pytest

from gossip.sync_index import short_id
from simulations import chance, swarm_records, topology
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.scenario import Link, Ring
from simulations.swarm import Swarm
from simulations.swarm_population import Population
from simulations.swarm_records import Archive, Reader, Views
from simulations.swarm_sync import name
from simulations.verification import Verification
from storage.signing import Keypair

LINK = Link(latency_s=0.02)
KEYPAIR = Keypair.from_seed(bytes(32))


def ring(nodes: int = 4, interval_s: float = 1e9) -> Population:
    graph = topology.build(Ring(nodes=nodes), LINK, chance.named(1, "topology"))
    swarm = Swarm(1, Lines(graph, LINK, chance.named(1, "lines")), checking=True)
    population = Population(swarm, graph, Metrics(), records=10, interval_s=interval_s)
    population.settle()
    return population


def counts(population: Population) -> list[int]:
    return [len(archive) for archive in population.archives]


def test_nodes_that_are_linked_anew_compare_at_once() -> None:
    population = ring()
    population.cut(0, 1), population.cut(0, 3)
    for _ in range(5):
        population.make(0, "kv", 50)
    population.swarm.run(20.0)
    assert counts(population) == [5, 0, 0, 0]
    population.heal(0, 1)
    population.swarm.run(0.5)
    assert counts(population)[1] == 5
    population.swarm.run(3.0)
    assert counts(population) == [5] * 4, "who was brought old things tells its other neighbours"
    assert population.views.distinct == 1
    population.check()


def test_what_gossip_missed_comes_by_lot() -> None:
    population = ring(interval_s=10.0)
    record = swarm_records.make(KEYPAIR, chance.START_MS, b"nobody published it")
    population.take_aside(2, record)
    population.swarm.run(60.0)
    assert counts(population) == [1] * 4
    population.check()


def test_a_session_whose_link_breaks_is_made_up_for() -> None:
    population = ring()
    population.cut(0, 1), population.cut(0, 3)
    for _ in range(50):
        population.make(0, "kv", 500)
    population.swarm.run(20.0)
    population.heal(0, 1)
    population.swarm.run(0.09)
    population.cut(0, 1)
    population.swarm.run(1.0)
    population.heal(0, 1)
    population.swarm.run(3.0)
    assert counts(population) == [50] * 4
    population.check()


def test_a_node_that_was_down_has_its_records_and_gets_the_others() -> None:
    population = ring()
    population.make(2, "kv", 50)
    population.swarm.run(1.0)
    population.crash(2)
    for _ in range(3):
        population.make(0, "kv", 50)
    population.swarm.run(30.0)
    assert counts(population) == [4, 4, 1, 4]
    population.start(2)
    population.swarm.run(2.0)
    assert counts(population) == [4] * 4
    population.check()


def test_what_a_session_takes_is_observed() -> None:
    population = ring()
    population.cut(0, 1), population.heal(0, 1)
    population.swarm.run(1.0)
    assert population.metrics.values("sync.frames") == [6.0]
    (size_bytes,) = population.metrics.values("sync.session_bytes")
    assert 50 < size_bytes < 200, "two nodes that know the same say so in a few bytes"


# --- records ------------------------------------------------------------------------------------


def test_a_record_is_signed_by_its_maker_and_nothing_else_is_one() -> None:
    reader = Reader(Verification())
    record = swarm_records.make(KEYPAIR, 5, b"content")
    one = reader.read(record)
    assert one is not None
    assert one[:8] == (5).to_bytes(8, "big")
    for bit in range(0, 8 * len(record), 97):
        forged = bytearray(record)
        forged[bit // 8] ^= 1 << bit % 8
        assert reader.read(bytes(forged)) is None
    assert reader.read(b"") is None
    assert reader.read(record[:-1]) is None


def test_equal_sets_have_equal_digests_in_any_order() -> None:
    reader = Reader(Verification())
    records = [swarm_records.make(KEYPAIR, number, b"") for number in range(4)]
    items = [reader.read(record) for record in records]
    one, other = Archive(), Archive()
    for place in range(4):
        one.keep(items[place], records[place])
        other.keep(items[3 - place], records[3 - place])
        assert (one.digest == other.digest) == (place == 3)
    assert list(one) == items
    assert short_id(items[0]) != short_id(items[1])


def test_views_count_what_differs() -> None:
    views = Views()
    for digest in (1, 1, 2):
        views.add(digest)
    assert views.distinct == 2
    views.drop(2)
    assert views.distinct == 1
    views.drop(1)
    assert views.distinct == 1


@pytest.mark.parametrize("number", [0, 10])
def test_nodes_have_names(number: int) -> None:
    population = ring(12)
    assert name(population.swarm.nodes[number]) == f"n{number}"
