import pytest

from simulations.clients import always_up, which
from simulations.distributions import Exponential
from simulations.scenario import Clients
from tests.simulations.plays import events, scenario


def test_nodes_are_named_in_three_ways_and_those_that_are_not_there_are_left_out() -> None:
    assert which("all", 3) == [0, 1, 2]
    assert which(2, 3) == [0, 1]
    assert which(9, 3) == [0, 1, 2]
    assert which([2, 0, 7], 3) == [2, 0]


def test_without_a_group_there_is_one_client_at_each_node() -> None:
    assert [client.home for client in always_up([0, 2], 3).clients] == [0, 2]


def test_clients_are_up_and_down_by_turns() -> None:
    clients = [Clients(name="people", count=1, up_s=4.0, down_s=1.0)]
    turns = events(scenario(duration_s=12.0, drain_s=0.0, clients=clients), "client")
    assert [event["at_s"] for event in turns] == pytest.approx([4.0, 5.0, 9.0, 10.0])
    assert [event["state"] for event in turns] == ["down", "up", "down", "up"]


def test_when_a_client_is_up_follows_from_the_seed_and_its_name_alone() -> None:
    group = Clients(name="people", count=3, up_s=Exponential(mean=3.0))
    other = Clients(name="others", count=5, up_s=Exponential(mean=2.0))

    def of_people(*clients: Clients, seed: int = 1) -> list[tuple[float, str]]:
        described = scenario(clients=list(clients))
        found = events(described, "client", seed)
        return [(e["at_s"], e["client"]) for e in found if e["client"].startswith("people")]

    assert of_people(group) == of_people(other, group)
    assert of_people(group) != of_people(group, seed=2)
