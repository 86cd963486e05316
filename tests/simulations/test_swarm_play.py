"""Scenarios of the driver "swarm": what is measured, breaks and heals, the same each time."""

import json
import os
import subprocess
import sys

import pytest

from simulations.errors import ScenarioError
from simulations.metrics import METRICS
from simulations.simulate import Options, simulate
from tests.simulations.swarms import (
    BLOBS,
    ROOT,
    TROUBLE,
    UPDATES,
    run,
    scenario,
    trouble_hash,
)

PARTITION = """
[[faults]]
kind = "partition"
at_s = 5
for_s = 20
nodes = 8
"""
PROBE = """
[[probes]]
metrics = ["digest.distinct", "records.count", "link.sent_bytes", "node.up"]
each_s = 5
"""


def test_a_calm_swarm_has_every_record_everywhere() -> None:
    metrics = run(UPDATES + PROBE, checking=True).metrics
    assert metrics.values("record.covered") == [1.0] * 30
    assert len(metrics.values("record.visible_s")) == 30
    assert len(metrics.values("record.seen_s")) == 30 * 15
    assert max(metrics.values("record.seen_s")) == max(metrics.values("record.visible_s")) < 1.0
    assert max(metrics.values("record.hops")) == max(metrics.values("record.hops_max"))
    assert metrics.values("digest.distinct")[-1] == 1
    assert metrics.values("records.count")[-16:] == [30.0] * 16
    assert len(metrics.values("mesh.copies")) == 16
    assert min(metrics.values("mesh.copies")) >= 1
    assert sum(metrics.values("link.sent_bytes", label="message")) > 0
    assert set(metrics.names()) <= set(METRICS)


def test_halves_that_were_apart_agree_soon_after() -> None:
    metrics = run(UPDATES + PARTITION + PROBE, checking=True).metrics
    views = {row.at_s: row.value for row in metrics if row.metric == "digest.distinct"}
    assert views[15.0] >= 2, "no record is on its way then"
    (healed_s,) = metrics.values("heal.converged_s")
    assert healed_s < 45.0, "at the latest when its turn to compare comes"
    assert metrics.values("record.covered") == [1.0] * 30
    assert metrics.values("digest.distinct")[-1] == 1
    assert max(metrics.values("record.visible_s")) > 10.0, "made while apart"


def test_what_one_side_says_may_be_all_that_is_lost() -> None:
    one_way = PARTITION + "one_way = true\n"
    metrics = run(UPDATES + one_way + PROBE, checking=True).metrics
    assert max(metrics.values("digest.distinct")) >= 2
    assert metrics.values("digest.distinct")[-1] == 1
    assert metrics.values("record.covered") == [1.0] * 30


def test_who_was_down_is_told_by_reconciliation() -> None:
    crash = '[[faults]]\nkind = "crash"\nat_s = 5\nfor_s = 30\nnodes = [0, 1, 2]\n'
    metrics = run(UPDATES + "nodes = [0, 3]\n" + crash + PROBE, checking=True).metrics
    assert 0 < sum(metrics.values("update.refused")) < 15
    late = [row for row in metrics if row.metric == "record.seen_s" and row.node in ("0", "1", "2")]
    assert max(row.value for row in late) > 10
    assert metrics.values("digest.distinct")[-1] == 1
    assert min(metrics.values("node.up")) == 0.0
    assert max(metrics.values("sync.session_bytes")) > min(metrics.values("sync.session_bytes"))


def test_a_byzantine_node_is_thrown_out_and_changes_nothing() -> None:
    liar = '[[faults]]\nkind = "byzantine"\nat_s = 0\nnodes = [5]\nrate_per_s = 5\n'
    updates = UPDATES + "nodes = [0, 1, 2, 3]\n"
    events: list[str] = []
    options = Options(checking=True, keep=events.append)
    result = simulate(scenario(updates + liar + PROBE), 1, options)
    assert result.failure is None
    assert result.metrics.values("record.covered") == [1.0] * 30
    assert result.metrics.values("digest.distinct")[-1] == 1
    lost = [event for event in map(json.loads, events) if event["kind"] == "link"]
    assert {5} <= {end for event in lost for end in (event["one"], event["other"])}
    assert all(5 in (event["one"], event["other"]) for event in lost)


def test_everything_at_once_comes_right_in_the_end() -> None:
    result = run(UPDATES + BLOBS + TROUBLE + PROBE, checking=True)
    assert result.metrics.values("digest.distinct")[-1] == 1
    assert result.graph is not None
    assert result.virtual_s == 90
    assert result.events > 1000


def test_looking_and_checking_and_keeping_change_nothing() -> None:
    plain = run(UPDATES + TROUBLE)
    kept: list[str] = []
    told: list[float] = []
    looked = simulate(
        scenario(UPDATES + TROUBLE + PROBE),
        1,
        Options(checking=True, keep=kept.append, progress=told.append),
    )
    assert looked.trace_hash == plain.trace_hash
    assert kept
    assert told == sorted(told)
    assert told[-1] == 90
    assert run(UPDATES + TROUBLE, seed=2).trace_hash != plain.trace_hash


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    command = "from tests.simulations.swarms import trouble_hash; print(trouble_hash(7))"
    found = {
        subprocess.run(
            [sys.executable, "-c", command],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "random")
    }
    assert found == {trouble_hash(7) + "\n"}


def test_a_broken_invariant_ends_the_run_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from gossip.mesh import Mesh

    real = Mesh.check

    def check_late(mesh: Mesh) -> None:
        real(mesh)
        assert mesh.statistics().delivered < 3, "three are too many"

    monkeypatch.setattr(Mesh, "check", check_late)
    failure = simulate(scenario(), 1, Options(checking=True)).failure
    assert failure is not None
    assert "three are too many" in failure.what
    assert 4 <= failure.at_s < 6


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[[workers]]\n", "workers"),
        ('[[functions]]\nname = "f"\n', "functions"),
        ('[[clients]]\nname = "c"\ncount = 1\n', "clients"),
        ("[node]\nsync_interval_s = 5\n", "node"),
        ('[[faults]]\nkind = "disk_full"\nat_s = 1\nfor_s = 1\nnodes = 1\n', "faults[0]"),
        ('[[probes]]\nmetrics = ["queue.length"]\n', "probes[0].metrics"),
        (UPDATES + 'reads = { kind = "periodic", interval_s = 1 }\n', "updates[0].reads"),
    ],
)
def test_what_needs_a_world_is_refused_with_its_place(text: str, place: str) -> None:
    asked = scenario(text)
    with pytest.raises(ScenarioError) as refused:
        simulate(asked, 1)
    assert refused.value.place == place
