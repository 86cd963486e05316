"""Lines between real nodes break while all of them are used, and all becomes one again."""

from collections.abc import Iterator

import pytest

from tests.blackbox.daemon import expect
from tests.blackbox.lines import CUT, between
from tests.blackbox.partitions import ONE_MAX_S, Town, Trouble, open_town
from tests.blackbox.test_mesh import eventually, value

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


@pytest.mark.torture
def test_lines_that_swallow_all_and_close_nothing(town: Town) -> None:
    town.round(Trouble.HOLE, 2)


def test_lines_that_work_one_way(town: Town) -> None:
    town.round(Trouble.ONE_WAY, 3)


def test_lines_that_flap(town: Town) -> None:
    town.round(Trouble.FLAPPING, 4)


def test_a_node_that_is_killed_in_one_half(town: Town) -> None:
    town.round(Trouble.DEATH, 5)


def test_a_node_is_evicted_in_one_half_and_goes_on_in_the_other(town: Town) -> None:
    """The last of this town: C is none of it any more."""
    mark = "written by C"
    town.lines.set(CUT, *between("a", "bc"))
    for other in ("b", "c"):
        eventually(lambda other=other: town.state("a", other) == "down")
    with town.nodes["a"].operator() as operator:
        body = {"node": town.nodes["c"].node_id, "reason": "sold"}
        expect(operator.post("/mesh/evict", json=body))
    # B does not know, and takes what C says.
    body = {"key": "late", "value": mark}
    expect(town.client("c", "c").post(f"/kv/{town.space}/put", json=body))
    value(town.client("b", "b"), town.space, "late", mark)

    town.lines.mend()
    eventually(lambda: town.state("b", "c") == "evicted", ONE_MAX_S)
    town.part_with("c")
    shown = town.become_one()
    # What C had said before that was known, all have; what it says now, nobody.
    found = {one["key"]: one["value"] for one in shown[f"keys of {town.space}"]}
    assert found.get("late") == mark
    body = {"key": "late", "value": "too late"}
    expect(town.client("c", "c").post(f"/kv/{town.space}/put", json=body))
    # What B writes after it is at A: what C wrote before would be there as well.
    body = {"key": "later", "value": 1}
    expect(town.client("b", "b").post(f"/kv/{town.space}/put", json=body))
    value(town.client("a", "a"), town.space, "later", 1)
    town.become_one()
    value(town.client("a", "a"), town.space, "late", mark)
