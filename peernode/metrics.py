"""A node's figures for Prometheus, read when they are asked for.

Nothing is counted twice: the parts keep plain integers, and this page reads them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from peernode.lives import State

if TYPE_CHECKING:
    from peernode.node import Node

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST


class _Collector:
    def __init__(self, node: "Node") -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node = self._node
        calls = CounterMetricFamily(
            "peernode_api_answers", "Answers of the API", labels=["class", "operation", "status"]
        )
        for (class_name, operation, status), count in node.api.answered.items():
            calls.add_metric([class_name, operation, str(status)], count)
        yield calls
        yield CounterMetricFamily(
            "peernode_api_shed", "Calls refused before their body was read", node.api.shed
        )
        yield CounterMetricFamily("peernode_jobs_accepted", "Jobs accepted", node.jobs.accepted)
        yield CounterMetricFamily("peernode_jobs_ended", "Jobs that ended", node.dispatch.ended)
        yield GaugeMetricFamily("peernode_jobs_live", "Jobs that are not over", len(node.live))
        yield GaugeMetricFamily(
            "peernode_workers_attached", "Workers with a link", len(node.dispatch.links)
        )
        yield GaugeMetricFamily(
            "peernode_held_back",
            "1 while the node does not know what it has done, and does nothing",
            int(node.lives.state in (State.RECOVERING, State.CLONED)),
        )
        store = node.store.statistics()
        yield GaugeMetricFamily("peernode_store_used_bytes", "Bytes used", store.used_bytes)
        yield GaugeMetricFamily(
            "peernode_store_capacity_bytes", "Bytes it may grow to", store.capacity_bytes
        )
        yield CounterMetricFamily("peernode_store_commits", "Transactions", store.commits)
        yield CounterMetricFamily(
            "peernode_store_batches", "Batches committed", store.committed_batches
        )
        yield from _mesh(node)


def _mesh(node: "Node") -> Iterator[Metric]:
    """Yield what this node has to do with others; nothing if it knows of none."""
    status = node.mesh_status()
    if status is None:
        return
    yield GaugeMetricFamily("peernode_mesh_peers", "Peers that are up", len(status.peers))
    yield GaugeMetricFamily("peernode_mesh_facts", "Facts offered to others", status.facts)
    yield GaugeMetricFamily("peernode_mesh_records", "Records offered to others", status.records)
    yield GaugeMetricFamily(
        "peernode_mesh_waiting", "What waits for facts or for its time", status.waiting
    )
    yield CounterMetricFamily(
        "peernode_mesh_kept", "Facts and records of others that were kept", status.kept
    )
    yield CounterMetricFamily(
        "peernode_mesh_sessions", "Reconciliations that ended well", status.sessions
    )
    traffic = CounterMetricFamily(
        "peernode_mesh_bytes",
        "Bytes said to other nodes and heard; `line` is all of it, encrypted",
        labels=["kind", "direction"],
    )
    for kind, count in node.traffic.counts.items():
        traffic.add_metric([kind, "sent"], count.sent_bytes)
        traffic.add_metric([kind, "received"], count.received_bytes)
    yield traffic


def render(node: "Node") -> bytes:
    """Return the figures of `node` in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(node))
    return generate_latest(registry)
