"""Lines between real nodes break while all of them are used, and all becomes one again."""

from collections.abc import Iterator

import pytest

from tests.blackbox.partitions import Town, Trouble, open_town

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with open_town(tmp_path_factory.mktemp("town"), 3) as town:
        yield town


def test_nodes_are_known_by_the_address_that_they_announce(town: Town) -> None:
    for node in town.nodes.values():
        with node.operator() as operator:
            for peer in operator.get("/mesh/peers").json()["items"]:
                (address,) = peer["addresses"]
                other = next(n for n in town.nodes.values() if n.node_id == peer["node_id"])
                assert address == other.announced
                assert address not in other.command[other.command.index("--p2p") + 1]


def test_two_halves_become_one(town: Town) -> None:
    town.round(Trouble.HALVES, 1, admits=True)


def test_lines_that_swallow_all_and_close_nothing(town: Town) -> None:
    town.round(Trouble.HOLE, 2)


def test_lines_that_work_one_way(town: Town) -> None:
    town.round(Trouble.ONE_WAY, 3)


def test_lines_that_flap(town: Town) -> None:
    town.round(Trouble.FLAPPING, 4)
