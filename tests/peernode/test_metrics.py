"""A node's figures, by names that dashboards rely on."""

import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from peernode.api import Api
from peernode.traffic import LINE
from tests.peernode.federated import open_federated
from tests.peernode.nodes import Lab, exchange, settle

NAMES = {
    "peernode_api_answers": "counter",
    "peernode_api_shed": "counter",
    "peernode_held_back": "gauge",
    "peernode_jobs_accepted": "counter",
    "peernode_jobs_ended": "counter",
    "peernode_jobs_live": "gauge",
    "peernode_store_batches": "counter",
    "peernode_store_capacity_bytes": "gauge",
    "peernode_store_commits": "counter",
    "peernode_store_used_bytes": "gauge",
    "peernode_workers_attached": "gauge",
}
"""Names and kinds. Removing or renaming one breaks somebody's dashboard."""

MESH_NAMES = {
    "peernode_mesh_bytes": "counter",
    "peernode_mesh_facts": "gauge",
    "peernode_mesh_kept": "counter",
    "peernode_mesh_peers": "gauge",
    "peernode_mesh_records": "gauge",
    "peernode_mesh_sessions": "counter",
    "peernode_mesh_waiting": "gauge",
}
"""Those of a node that others reach."""


async def figures(lab: Lab) -> dict[str, float]:
    return await shown(lab.node.api, NAMES)


async def shown(api: Api, names: dict[str, str]) -> dict[str, float]:
    text = (await exchange(api, "GET", "/metrics")).body.decode()
    families = list(text_string_to_metric_families(text))
    kinds = {family.name: family.type for family in families}
    assert {name: kinds.get(name) for name in names} == names
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


async def test_figures_tell_what_the_node_does(lab: Lab) -> None:
    before = await figures(lab)
    worker = await lab.worker()
    jobs = [await lab.job(), await lab.job()]
    await settle()
    await worker.finish(worker.lease(jobs[0]))
    await lab.ada.get("/job/12345", 404)
    after = await figures(lab)
    assert after["peernode_jobs_accepted_total"] - before["peernode_jobs_accepted_total"] == 2
    assert after["peernode_jobs_ended_total"] == 1
    assert after["peernode_jobs_live"] == 1
    assert after["peernode_workers_attached"] == 1
    assert after["peernode_api_answers_total/job/create/202"] == 2
    assert after["peernode_api_answers_total/job/get/404"] == 1
    assert after["peernode_store_commits_total"] > before["peernode_store_commits_total"]
    assert after["peernode_store_used_bytes"] > before["peernode_store_used_bytes"]


async def test_labels_are_of_a_closed_list(lab: Lab) -> None:
    for path in ("/a", "/b", "/job/x/y/z", "/job/1/evil", "/job/<script>"):
        await lab.ada.http.get(path)
    names = {name for name in await figures(lab) if name.startswith("peernode_api_answers")}
    assert not any("evil" in name or "script" in name or "/a/" in name for name in names)


async def test_figures_tell_what_a_node_has_to_do_with_others(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    assert not any("mesh" in name for name in await figures(lab))
    async with open_federated(2) as mesh:
        await mesh.sign_up("ada", "a")
        await trio.sleep(1)
        mesh.nodes["b"].traffic.of(LINE).sent_bytes = 7
        found = await shown(mesh.nodes["b"].api, NAMES | MESH_NAMES)
        assert found["peernode_mesh_peers"] == 1
        assert (found["peernode_mesh_facts"], found["peernode_mesh_records"]) == (3, 0)
        assert found["peernode_mesh_kept_total"] == 1
        assert found["peernode_mesh_sessions_total"] == 1
        assert found["peernode_mesh_waiting"] == 0
        assert found["peernode_mesh_bytes_total/sent/line"] == 7
