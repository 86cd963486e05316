import itertools
from typing import Any

import msgspec
import pytest

from simulations.faults import Crash, Partition
from simulations.play import Play
from simulations.scenario import AtOnce, Complete, Link, Periodic, Probe, Ring, Scenario, Updates
from simulations.simulate import Result
from storage.store import Table
from tests.simulations.plays import events, played, scenario

NODES = 4


def changing(what: Any, **fields: Any) -> Scenario:
    """Return a scenario of ten changes, one a second."""
    stated = {
        "topology": Complete(nodes=NODES),
        "link": Link(latency_s=0.02),
        "duration_s": 10.0,
        "workers": [],
    }
    updates = {
        name: fields.pop(name) for name in ("keys", "reads", "zipf", "size_bytes") if name in fields
    }
    described = Updates(what=what, arrivals=Periodic(interval_s=1.0), **({"keys": 3} | updates))
    return scenario(updates=[described], **(stated | fields))


@pytest.mark.parametrize("what", ["kv", "function", "project", "user"])
def test_every_change_is_seen_everywhere_a_moment_later(what: str) -> None:
    result = played(changing(what))
    assert result.metrics.values("update.refused") == [0.0] * 10
    visible_s = result.metrics.values("record.visible_s", label=what)
    assert len(visible_s) == 10
    assert all(0.02 <= took_s < 0.5 for took_s in visible_s)
    assert len(result.metrics.values("record.seen_s", label=what)) == 10 * (NODES - 1)
    assert result.metrics.values("record.covered") == [1.0] * 10


def test_a_longer_way_takes_longer() -> None:
    near = played(changing("kv")).metrics.values("record.visible_s")
    far = played(changing("kv", topology=Ring(nodes=8))).metrics.values("record.visible_s")
    # One hop and four, after the same time in which a batch is gathered.
    assert min(far) - max(near) == pytest.approx(3 * 0.02)


def test_changes_are_made_at_each_node_in_turn() -> None:
    result = played(changing("kv"))
    makers = [row.node for row in result.metrics if row.metric == "record.visible_s"]
    assert makers == [str(node) for node in itertools.islice(itertools.cycle(range(NODES)), 10)]


def test_a_record_of_a_trace_is_made_once_and_then_seen() -> None:
    found = [event for event in events(changing("kv", keys=10), "record") if event["at_s"] >= 0.5]
    for _, group in itertools.groupby(found, lambda event: event["slot"]):
        what = [event["what"] for event in group]
        assert what == ["made"] + ["seen"] * (NODES - 1)


def test_a_node_that_is_down_is_not_waited_for_and_sees_it_later() -> None:
    described = changing("kv", faults=[Crash(at_s=0.5, nodes=[3], for_s=5.0)])
    result = played(described)
    assert result.metrics.values("record.covered") == [1.0] * 9  # one was refused: its node down
    assert max(result.metrics.values("record.visible_s")) < 1.0
    late = [row for row in result.metrics if row.metric == "record.seen_s" and row.node == "3"]
    assert max(row.value for row in late) > 1.0
    assert sum(result.metrics.values("update.refused")) == 1.0


def test_what_never_arrives_is_not_covered() -> None:
    parted = Partition(at_s=0.5, for_s=100.0, nodes=[3])
    # Faults end with `duration_s`, and so does this run.
    result = played(changing("kv", faults=[parted], drain_s=0.0))
    assert min(result.metrics.values("record.covered")) < 1.0
    assert 1.0 in result.metrics.values("write.lost")


def test_keys_are_read_as_they_were_acknowledged() -> None:
    result = played(changing("kv", reads=Periodic(interval_s=0.3), keys=1))
    stale = result.metrics.values("read.stale")
    assert len(stale) > 20
    assert sum(stale) < len(stale) / 4


def test_a_blob_is_fetched_by_its_first_reader_at_each_node_and_then_read_there() -> None:
    reads = Periodic(interval_s=0.1)
    described = changing("blob", keys=1, reads=reads, size_bytes=5000, duration_s=1.0)
    result = played(described)
    metrics = result.metrics
    assert set(metrics.values("blob.failed")) == {0.0}
    fetched = metrics.values("blob.fetched")
    assert 0 < sum(fetched) <= 2 * (NODES - 1)  # what it was before, and after its change
    for row in metrics:
        if row.metric == "blob.read_s":
            assert row.value == 0.0 or row.value >= 0.04
    sizes = metrics.values("blob.fetched_bytes")
    assert {size for size in sizes if size} == {5000.0}


def test_some_things_change_more_often_than_others() -> None:
    described = changing("kv", keys=20, zipf=2.0)
    slots = [event["slot"] for event in events(described, "record") if event["what"] == "made"]
    assert len(set(slots)) < 8


def steps(what: Any, **fields: Any) -> Result:
    """Play changes, more of them than a thing has steps, with every invariant checked."""
    arrivals = Periodic(interval_s=0.25)
    described = changing(what, **fields)
    (updates,) = described.updates
    described = msgspec.structs.replace(
        described, updates=[msgspec.structs.replace(updates, arrivals=arrivals)]
    )
    return played(described, checking=True)


def test_counters_are_changed_in_all_ways_at_all_nodes() -> None:
    result = steps("counter", keys=2)
    refused = [row for row in result.metrics if row.metric == "update.refused"]
    assert len(refused) == 40
    # Only what another has changed since, and deleting what is not there.
    assert sum(row.value for row in refused) <= 8
    assert {row.node for row in refused} == {"0", "1", "2", "3"}


def test_counters_that_several_change_at_once_refuse_some_and_lose_none() -> None:
    changes = AtOnce(count=40, at_s=1.0)
    described = changing("counter", keys=1)
    described = msgspec.structs.replace(
        described, updates=[Updates(what="counter", arrivals=changes, keys=1)]
    )
    refused = played(described, checking=True).metrics.values("update.refused")
    assert 5 <= sum(refused) <= 20


def test_members_write_are_removed_come_back_and_have_their_key_replaced() -> None:
    result = steps("member", keys=2)
    refused = result.metrics.values("update.refused")
    assert len(refused) == 40
    # Who comes back is not known so at each node at once.
    assert sum(refused) <= 10


def test_a_blob_that_replaces_another_has_it_deleted() -> None:
    described = changing("blob", keys=2)
    (updates,) = described.updates
    kept = [
        len(blobs_at_the_end(described, msgspec.structs.replace(updates, replaces=replaces)))
        for replaces in (False, True)
    ]
    assert kept == [12, 2]


def blobs_at_the_end(described: Scenario, updates: Updates) -> list[bytes]:
    """Return the blobs that all nodes keep when the run is over."""
    found: list[bytes] = []

    def look(self: Play, players: Any) -> bool:
        nodes = self._world.nodes
        rows = [node.store.scan(Table.BLOBS) for node in nodes if node is not None]
        found.extend(key for each in rows for key, _ in each)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Play, "_is_at_rest", look)
        played(msgspec.structs.replace(described, updates=[updates]), checking=True)
    return found


def test_a_quota_refuses_what_is_over_it() -> None:
    described = changing("blob", keys=1, size_bytes=1000)
    (updates,) = described.updates
    limited = msgspec.structs.replace(updates, quota_bytes=1500)
    result = played(msgspec.structs.replace(described, updates=[limited]), checking=True)
    # One at each node, and no second one.
    assert result.metrics.values("update.refused") == [0.0] * NODES + [1.0] * (10 - NODES)


def test_what_probes_see() -> None:
    metrics = ["records.count", "digest.distinct", "link.sent_bytes", "node.up"]
    result = played(changing("kv", probes=[Probe(metrics=metrics, each_s=5.0)]))
    assert set(result.metrics.values("node.up")) == {1.0}
    assert result.metrics.values("digest.distinct")[-1] == 1.0
    assert max(result.metrics.values("link.sent_bytes")) > 0
    counts = result.metrics.values("records.count")
    assert counts[-1] == counts[-NODES] > 0
