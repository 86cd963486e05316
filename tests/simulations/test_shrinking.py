"""From a scenario that fails to a smaller one that fails in the same way."""

import msgspec
from hypothesis import given, settings, strategies as st

from simulations.checking import check
from simulations.errors import ScenarioError
from simulations.faults import Crash
from simulations.random_scenarios import draw
from simulations.scenario import Complete, Link, Scenario
from simulations.shrinking import shrink
from simulations.topology import count_nodes


def runs(scenario: Scenario) -> bool:
    try:
        check(scenario)
    except ScenarioError:
        return False
    return True


def has_crash(scenario: Scenario) -> bool:
    return runs(scenario) and any(isinstance(fault, Crash) for fault in scenario.faults)


def first_with_crash() -> Scenario:
    return next(draw(seed) for seed in range(1000) if has_crash(draw(seed)) and draw(seed).load)


def test_what_does_not_matter_goes() -> None:
    found = shrink(first_with_crash(), has_crash, tries_max=500)
    assert [type(fault) for fault in found.faults] == [Crash]
    (node,) = found.faults[0].nodes
    assert (found.load, found.updates, found.workers, found.functions) == ([], [], [], [])
    assert (found.topology, found.link) == (Complete(nodes=node + 1), Link())
    assert found.drain_s == 0


def test_what_matters_stays() -> None:
    scenario = first_with_crash()
    nodes = count_nodes(scenario.topology, ".")

    def fails(candidate: Scenario) -> bool:
        return has_crash(candidate) and bool(candidate.load) and candidate.link == scenario.link

    found = shrink(scenario, fails, tries_max=500)
    assert fails(found)
    assert count_nodes(found.topology, ".") <= nodes


def test_it_gives_up_after_so_many_tries() -> None:
    asked: list[Scenario] = []

    def fails(candidate: Scenario) -> bool:
        asked.append(candidate)
        return runs(candidate)

    shrink(first_with_crash(), fails, tries_max=7)
    assert len(asked) == 7


def test_where_nothing_smaller_fails_it_stays_as_it_was() -> None:
    scenario = first_with_crash()
    assert shrink(scenario, lambda candidate: False) is scenario


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), wanted=st.sampled_from(["faults", "load", "updates"]))
def test_the_result_always_fails_and_nothing_is_asked_twice(seed: int, wanted: str) -> None:
    scenario = draw(seed)
    asked: list[bytes] = []

    def fails(candidate: Scenario) -> bool:
        asked.append(msgspec.json.encode(candidate))
        return runs(candidate) and len(getattr(candidate, wanted)) == len(getattr(scenario, wanted))

    found = shrink(scenario, fails, tries_max=60)
    assert len(asked) == len(set(asked)) <= 60
    assert found is scenario or fails(found)
