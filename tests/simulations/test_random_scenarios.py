"""Scenarios that are drawn: always the same of one number, always ones that can be run."""

from collections import Counter

from simulations import random_scenarios
from simulations.checking import check
from simulations.faults import Fault
from simulations.play import REST_S, RESTLESS_S
from simulations.random_scenarios import NODES_MAX, SWARM_NODES_MAX, draw
from simulations.scenario import Costs
from simulations.topology import count_nodes

SEEDS = range(1, 400)


def test_a_number_is_always_the_same_scenario() -> None:
    assert [draw(seed) for seed in range(20)] == [draw(seed) for seed in range(20)]
    assert draw(1) != draw(2)


def test_each_can_be_run_and_is_small() -> None:
    for seed in SEEDS:
        scenario = draw(seed)
        check(scenario)
        nodes = count_nodes(scenario.topology, ".")
        assert nodes <= (SWARM_NODES_MAX if scenario.driver == "swarm" else NODES_MAX)
        assert scenario.duration_s <= random_scenarios.DURATION_S[1]
        assert scenario.drain_s in (REST_S, RESTLESS_S)


def test_each_has_the_time_to_come_to_rest() -> None:
    assert all(draw(seed).drain_s >= REST_S for seed in SEEDS)


def test_each_kind_of_fault_load_and_update_comes_up() -> None:
    scenarios = [draw(seed) for seed in SEEDS]
    faults = Counter(type(fault) for scenario in scenarios for fault in scenario.faults)
    assert set(faults) == set(Fault.__args__)
    assert min(faults.values()) >= 10
    models = {load.model for scenario in scenarios for load in scenario.load}
    assert models == set(random_scenarios.MODELS)
    kinds = {update.what for scenario in scenarios for update in scenario.updates}
    assert kinds == set(random_scenarios.UPDATES)
    blobs = [u for scenario in scenarios for u in scenario.updates if u.what == "blob"]
    assert {blob.replaces for blob in blobs} == {True, False}
    assert None in (limits := {blob.quota_bytes for blob in blobs})
    assert len(limits) > 1
    assert {scenario.driver for scenario in scenarios} == {"swarm", "world"}
    assert {scenario.store for scenario in scenarios} == {"memory", "lmdb"}
    assert {scenario.costs == Costs() for scenario in scenarios} == {True, False}


def test_most_is_left_out_of_most() -> None:
    scenarios = [draw(seed) for seed in SEEDS]
    bare = [scenario for scenario in scenarios if not scenario.faults]
    assert 0.05 < len(bare) / len(scenarios) < 0.4
    assert sum(len(s.faults) for s in scenarios) / len(scenarios) < 4
