import random
from collections import Counter
from typing import Any

import pytest

from simulations.clients import Client, Group
from simulations.load import DOWN, Board, choose_node, simulated_input
from simulations.scenario import Clients, Function, Load, Periodic, Poisson, Workers
from simulations.virtual_workers import Work
from tests.simulations.plays import job, played, scenario

AT_TWO = Client("client", 2)


class Seen(Board):
    """A board with these loads."""

    def __init__(self, *loads: int) -> None:
        self._loads = loads

    def load(self, node: int) -> int:
        return self._loads[node]


def chosen(balance: str, *loads: int, draws: int = 300) -> Counter[int]:
    chance = random.Random(1)
    board, size = Seen(*loads), len(loads)
    return Counter(choose_node(balance, AT_TWO, board, size, chance) for _ in range(draws))


def test_a_client_asks_its_own_node_up_or_down() -> None:
    assert chosen("home", 0, 0, DOWN) == {2: 300}


def test_random_is_any_node_that_is_up() -> None:
    found = chosen("random", 5, DOWN, 1)
    assert sorted(found) == [0, 2]
    assert found[0] == pytest.approx(150, abs=40)


def test_the_better_of_two_is_never_the_worst_of_all() -> None:
    found = chosen("two-choices", 1, 2, 9)
    assert sorted(found) == [0, 1]
    assert found[0] == pytest.approx(200, abs=40)  # two pairs of three have it


def test_the_shortest_queue_wins_and_among_equals_any() -> None:
    assert sorted(chosen("shortest", 3, 1, 1)) == [1, 2]
    assert sorted(chosen("stale", 0, 1, 1)) == [0]


def test_when_all_are_down_one_is_asked_all_the_same() -> None:
    for balance in ("random", "two-choices", "shortest"):
        assert sum(chosen(balance, DOWN, DOWN).values()) == 300


def test_balanced_jobs_end_sooner_than_those_that_crowd_at_one_node() -> None:
    clients = [Clients(name="crowd", count=3, nodes=[0])]
    ends = []
    for balance in ("home", "shortest"):
        load = [job(count=8, clients="crowd", balance=balance)]
        result = played(scenario(nodes=4, clients=clients, load=load))
        ends.append(max(result.metrics.values("job.sojourn_s")))
    assert ends == pytest.approx([8.0, 2.0])


def test_a_stale_board_sends_all_to_the_same_nodes_until_the_next_look() -> None:
    arrivals = Poisson(rate_per_s=20.0)
    waits: dict[str, float] = {}
    for balance, stale_s in (("shortest", 0.0), ("stale", 5.0)):
        load = [Load(function="short", arrivals=arrivals, balance=balance, stale_s=stale_s)]
        described = scenario(nodes=4, functions=[Function(name="short", duration_s=0.1)], load=load)
        result = played(described)
        found = result.metrics.values("job.wait_s")
        waits[balance] = sum(found) / len(found)
    assert waits["stale"] > 5 * waits["shortest"]


def test_what_arrives_and_how_long_it_takes_does_not_depend_on_who_works() -> None:
    def handed_in(**fields: Any) -> list[tuple[float, ...]]:
        load = [Load(function="short", arrivals=Poisson(rate_per_s=2.0), balance="random")]
        result = played(scenario(nodes=2, load=load, **fields))
        return [(round(row.at_s, 9),) for row in result.metrics if row.metric == "request.failed"]

    assert handed_in() == handed_in(workers=[Workers(slots=7, speed=3.0)])


def test_nothing_arrives_at_or_after_the_end() -> None:
    load = [Load(function="short", arrivals=Periodic(interval_s=10.0))]
    assert len(played(scenario(duration_s=20.0, load=load)).metrics.values("job.succeeded")) == 2


def test_a_load_without_anybody_to_hand_it_in_is_dropped_and_said_so() -> None:
    clients = [Clients(name="gone", count=1, up_s=1.0, down_s=100.0)]
    result = played(scenario(clients=clients, load=[job(at_s=2.0, clients="gone")]))
    assert result.metrics.values("load.dropped") == [1.0]
    assert result.metrics.values("job.succeeded") == []


async def test_an_input_is_what_the_simulated_function_reads() -> None:
    import msgspec

    text = await simulated_input(0, 0.1234567890123, 7)
    assert msgspec.json.decode(text, type=Work) == Work(0.1234567890123, 7)


def test_a_group_chooses_among_those_that_are_up() -> None:
    clients = [Client(f"client-{number}", 0) for number in range(4)]
    group, chance = Group(clients), random.Random(2)
    for number in (1, 3):
        clients[number].is_up = False
        group.note(clients[number])
    names = {client.name for _ in range(50) if (client := group.choose(chance)) is not None}
    assert names == {"client-0", "client-2"}
    clients[1].is_up = True
    group.note(clients[1])
    names = {client.name for _ in range(50) if (client := group.choose(chance)) is not None}
    assert names == {"client-0", "client-1", "client-2"}
