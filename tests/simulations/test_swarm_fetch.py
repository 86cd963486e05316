"""Blobs in a swarm: fetched once, from whoever has them, and checked."""

from simulations import chance, topology
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.scenario import Link, Ring
from simulations.swarm import Swarm
from simulations.swarm_fetch import Fetching
from simulations.swarm_population import Population
from tests.simulations.swarms import BLOBS, run

LATENCY_S = 0.02
BANDWIDTH = 1e6
LINK = Link(latency_s=LATENCY_S, bandwidth_bytes_per_s=BANDWIDTH)


def ring(nodes: int = 8) -> tuple[Population, Fetching]:
    graph = topology.build(Ring(nodes=nodes), LINK, chance.named(1, "topology"))
    swarm = Swarm(1, Lines(graph, LINK, chance.named(1, "lines")), checking=True)
    population = Population(swarm, graph, Metrics(), records=1)
    population.settle()
    return population, Fetching(population, population.metrics)


def last(population: Population, metric: str) -> float:
    return population.metrics.values(metric)[-1]


def test_a_read_takes_a_round_trip_and_the_bytes_at_the_bandwidth() -> None:
    population, fetching = ring()
    blob = fetching.make(0, bytes(500_000))
    fetching.read(1, blob)
    population.swarm.run(5.0)
    expected_s = 2 * LATENCY_S + 500_000 / BANDWIDTH
    assert expected_s <= last(population, "blob.read_s") < expected_s + 0.01
    assert 500_000 < last(population, "blob.fetched_bytes") < 500_100
    assert last(population, "blob.fetched") == 1.0


def test_the_second_read_asks_nobody_and_nor_does_the_home() -> None:
    population, fetching = ring()
    blob = fetching.make(0, b"x" * 1000)
    for reader in (1, 1, 0):
        fetching.read(reader, blob)
        population.swarm.run(1.0)
    assert population.metrics.values("blob.fetched") == [1.0, 0.0, 0.0]
    assert population.metrics.values("blob.read_s")[1:] == [0.0, 0.0]


def test_who_has_it_gives_it_when_its_home_is_down() -> None:
    population, fetching = ring()
    blob = fetching.make(0, b"x" * 1000)
    fetching.read(2, blob)
    population.swarm.run(1.0)
    population.crash(0)
    fetching.read(3, blob)
    population.swarm.run(1.0)
    assert population.metrics.values("blob.failed") == [0.0, 0.0]
    fetching.read(5, blob)
    population.swarm.run(5.0)
    assert last(population, "blob.failed") == 1.0, "its neighbours do not have it"


def test_blocks_that_are_not_what_they_should_be_are_not_taken() -> None:
    population, fetching = ring()
    blob = fetching.make(0, b"x" * 1000)
    held = fetching.member(0).held
    held[blob.cid] = b"y" * 1000
    fetching.read(1, blob)
    population.swarm.run(5.0)
    assert last(population, "blob.failed") == 1.0
    assert blob.cid not in fetching.member(1).held


def test_large_content_comes_block_by_block() -> None:
    population, fetching = ring()
    content = chance.named(1, "content").randbytes(2_500_000)
    blob = fetching.make(0, content)
    fetching.read(4, blob)
    population.swarm.run(20.0)
    assert last(population, "blob.failed") == 0.0
    held = fetching.member(4).held
    assert held == fetching.member(0).held
    assert len(held) == 4


def test_a_partition_stands_between_reader_and_home() -> None:
    population, fetching = ring()
    blob = fetching.make(0, b"x" * 1000)
    cut = [(1, 2), (6, 7)]
    for pair in cut:
        population.cut(*pair)
    fetching.read(4, blob)
    population.swarm.run(2.0)
    assert last(population, "blob.failed") == 1.0
    for pair in cut:
        population.heal(*pair)
    fetching.read(4, blob)
    population.swarm.run(2.0)
    assert last(population, "blob.failed") == 0.0


def test_demand_fetching_costs_less_than_a_copy_everywhere() -> None:
    metrics = run(BLOBS, checking=True).metrics
    reads = len(metrics.values("blob.read_s"))
    assert reads > 100
    assert sum(metrics.values("blob.failed")) == 0
    fetched = sum(metrics.values("blob.fetched"))
    assert 0 < fetched < reads
    made = 3 + 3
    assert sum(metrics.values("blob.fetched_bytes")) < made * 15 * 30_000
