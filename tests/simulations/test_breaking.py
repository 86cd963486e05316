"""Each kind of fault, in one short run, by what can be seen of it."""

from typing import Any

import pytest

from simulations.distributions import Exponential
from simulations.faults import (
    Byzantine,
    Churn,
    ClockSkew,
    ClockStep,
    Crash,
    DiskFull,
    Fault,
    Flapping,
    Partition,
    SlowDisk,
)
from simulations.scenario import Costs, Periodic, Probe, Scenario, Updates
from simulations.simulate import Result
from tests.simulations.plays import events, job, played, scenario

LINKED = 3
CHANGES = [Updates(what="kv", arrivals=Periodic(interval_s=1.0), keys=3)]
EACH_SECOND = [Probe(metrics=["node.up", "digest.distinct"], each_s=1.0)]


def broken(*faults: Fault, **fields: Any) -> Scenario:
    stated = {"updates": CHANGES, "probes": EACH_SECOND, "faults": list(faults)}
    return scenario(nodes=LINKED, **(stated | fields))


def up(result: Result, node: int) -> list[tuple[float, float]]:
    """Return when a node was up, looked at each second."""
    return [
        (row.at_s, row.value)
        for row in result.metrics
        if row.metric == "node.up" and row.node == str(node)
    ]


def views(result: Result) -> list[float]:
    return result.metrics.values("digest.distinct")


def test_a_crashed_node_is_down_and_comes_back_and_catches_up() -> None:
    result = played(broken(Crash(at_s=2.5, nodes=[1], for_s=4.0)))
    down = [at_s for at_s, is_up in up(result, 1) if not is_up]
    assert down == pytest.approx([3.0, 4.0, 5.0, 6.0])
    assert result.metrics.values("heal.converged_s")
    assert result.metrics.values("write.lost") == [0.0] * 3
    assert views(result)[-1] == 1.0


def test_a_node_that_crashes_for_ever_stays_away() -> None:
    result = played(broken(Crash(at_s=2.5, nodes=[1])))
    assert up(result, 1)[-1][1] == 0.0
    assert up(result, 0)[-1][1] == 1.0


def test_under_churn_nodes_come_and_go_until_faults_end() -> None:
    result = played(broken(Churn(up_s=3.0, down_s=2.0, nodes=[0, 2])))
    assert 0.0 in {is_up for _, is_up in up(result, 0)}
    assert {is_up for _, is_up in up(result, 1)} == {1.0}
    after = [is_up for at_s, is_up in up(result, 0) if at_s > 20.0]
    assert set(after) == {1.0}
    assert result.metrics.values("write.lost") == [0.0] * 3


def test_faults_that_hold_a_node_down_add_up() -> None:
    faults = (Crash(at_s=2.5, nodes=[1], for_s=6.0), Crash(at_s=3.5, nodes=[1], for_s=1.0))
    down = [at_s for at_s, is_up in up(played(broken(*faults)), 1) if not is_up]
    assert down == pytest.approx([3.0, 4.0, 5.0, 6.0, 7.0, 8.0])


@pytest.mark.parametrize("one_way", [False, True])
def test_parted_nodes_show_something_else_until_it_heals(one_way: bool) -> None:
    fault = Partition(at_s=3.2, for_s=10.0, nodes=[0], one_way=one_way)
    result = played(broken(fault))
    assert max(views(result)[4:12]) > 1.0
    assert views(result)[-1] == 1.0
    (healed_s,) = result.metrics.values("heal.converged_s", label="partition")
    assert 0.0 < healed_s < 60.0
    assert result.metrics.values("record.covered") == [1.0] * 20
    assert max(result.metrics.values("record.visible_s")) > 3.0


def test_flapping_links_break_and_come_back() -> None:
    fault = Flapping(at_s=1.0, for_s=15.0, nodes=[0], up_s=1.0, down_s=1.0)
    links = events(broken(fault), "link")
    flapped = [event for event in links if 1.0 < event["at_s"] < 16.0]
    assert {0} <= {event["one"] for event in flapped} | {event["other"] for event in flapped}
    assert {event["state"] for event in flapped} == {"up", "down"}
    assert views(played(broken(fault)))[-1] == 1.0


def test_a_slow_disk_makes_each_hand_in_wait_for_its_commit() -> None:
    fault = SlowDisk(at_s=1.0, for_s=10.0, nodes="all", commit_s=0.25)
    load = [job(at_s=2.0, nodes=1), job(at_s=15.0, nodes=1)]
    result = played(broken(fault, load=load, updates=[]))
    slow_s, quick_s = result.metrics.values("request.latency_s")
    assert slow_s == pytest.approx(0.25)
    assert quick_s == 0.0


def test_a_disk_that_is_slow_no_more_takes_what_its_commits_cost() -> None:
    fault = SlowDisk(at_s=1.0, for_s=10.0, nodes="all", commit_s=0.25)
    load = [job(at_s=2.0, nodes=1), job(at_s=15.0, nodes=1)]
    costs = Costs(commit_s=0.0625)
    result = played(broken(fault, load=load, updates=[], costs=costs))
    slow_s, quick_s = result.metrics.values("request.latency_s")
    assert slow_s == pytest.approx(0.25)
    assert quick_s == pytest.approx(0.0625)


def test_on_a_full_disk_nothing_is_accepted_until_there_is_room() -> None:
    fault = DiskFull(at_s=1.0, for_s=5.0, nodes=[0])
    result = played(broken(fault, load=[job(at_s=2.0, nodes=[0])], updates=[]))
    assert set(result.metrics.values("request.failed")[:-1]) == {1.0}
    assert result.metrics.values("request.failed")[-1] == 0.0
    assert result.metrics.values("job.succeeded") == [1.0]


def test_clocks_that_jump_or_run_fast_stop_nobody() -> None:
    faults = (
        ClockStep(at_s=2.0, nodes=[0], step_s=40.0),
        ClockStep(at_s=4.0, nodes=[1], step_s=-40.0),
        ClockSkew(at_s=1.0, nodes=[2], drift_ppm=500.0),
    )
    result = played(broken(*faults, load=[job(at_s=5.0, count=6)]))
    assert result.metrics.values("job.succeeded") == [1.0] * 6
    assert result.metrics.values("write.lost") == [0.0] * 3
    assert views(result)[-1] == 1.0


@pytest.mark.parametrize("behaviour", ["garbage", "replay", "forge"])
def test_honest_nodes_agree_in_spite_of_one_that_misbehaves(behaviour: Any) -> None:
    fault = Byzantine(nodes=[2], rate_per_s=5.0, behaviours=(behaviour,))
    described = broken(
        fault, updates=[Updates(what="kv", arrivals=Periodic(interval_s=1.0), keys=3, nodes=[0, 1])]
    )
    result = played(described)
    assert views(result)[-1] == 1.0
    assert result.metrics.values("record.covered") == [1.0] * 20
    assert result.metrics.values("write.lost") == [0.0] * 3


def test_who_sends_garbage_is_cut_off() -> None:
    fault = Byzantine(nodes=[2], rate_per_s=20.0, behaviours=("garbage",))
    links = events(broken(fault), "link")
    assert any(event["state"] == "down" and 2 in (event["one"], event["other"]) for event in links)


def test_a_trace_says_when_each_fault_begins_and_ends() -> None:
    faults = (Partition(at_s=3.0, for_s=4.0, nodes=[0, 2]), ClockSkew(nodes="all", drift_ppm=1.0))
    found = [
        (event["at_s"], event["what"], event["nodes"], event["state"])
        for event in events(broken(*faults), "fault")
    ]
    assert found == [
        (0.0, "clock_skew", "all", "begins"),
        (0.0, "clock_skew", "all", "ends"),
        (3.0, "partition", "0,2", "begins"),
        (7.0, "partition", "0,2", "ends"),
    ]


def test_a_fault_draws_from_generators_of_its_own() -> None:
    churn = Churn(nodes=[1], up_s=Exponential(mean=3.0), down_s=Exponential(mean=2.0))

    def turns(*faults: Fault) -> list[tuple[float, str]]:
        found = events(broken(*faults, duration_s=19.0), "node")
        return [(e["at_s"], e["state"]) for e in found if e["node"] == 1]

    skewed = (churn, ClockSkew(nodes=[0], drift_ppm=5.0))
    assert len(turns(churn)) > 3
    assert turns(churn) == turns(*skewed)
