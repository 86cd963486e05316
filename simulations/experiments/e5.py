"""E5: how soon all nodes know of a change.

Users, projects, functions and global keys are distributed when they change.  No way of telling is
faster than the fastest way through the graph; how near to that is ours?
"""

import math
from collections import Counter
from typing import Final

from simulations import chance, topology
from simulations.distributions import Lognormal
from simulations.experiments.experiment import (
    Check,
    Curve,
    Dot,
    Experiment,
    Findings,
    Line,
    Measures,
    Plot,
    Point,
    Size,
    average,
    measures,
    share,
)
from simulations.observations import Observations
from simulations.scenario import Link, Periodic, Regular, Scenario, Updates
from simulations.theory import spreading

NODES: Final = (50, 100, 200, 400)
DEGREES: Final = (4, 12)
"""With 4 all links are in the mesh, which wants no fewer; with 12 about half of them are.
Source: `gossip.config.Config.degree_low`, `degree`."""
UPDATES: Final = 20
INTERVAL_S: Final = 1.0
WARM_UP_S: Final = 5.0
LATENCY: Final = Lognormal(median=0.02, sigma=0.5)


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    return Experiment(
        name="e5",
        title="How soon all nodes know of a change",
        question="How long until the last node has a change, and how much longer than it must be?",
        set_up=(
            "A swarm of gossip machines on random regular graphs, another graph for each "
            f"replication. Links take {LATENCY.median * 1000:g} ms in the median, log-normally. "
            f"A record each {INTERVAL_S:g} s, made at one node after another. Its time is divided "
            "by the eccentricity of its maker: the longest of all shortest ways in that very "
            "graph."
        ),
        points=tuple(_point(size, nodes, degree) for degree in DEGREES for nodes in NODES),
        plots=(_ratio(), _copies(), _times()),
        meaning=_meaning,
        limits=(
            "Processor time is none: on real machines each hop adds what it takes to check a "
            "signature and to pass a message on. All nodes are up; nodes that are away hear of it "
            "when they are back (E7 is about that)."
        ),
    )


def _point(size: Size, nodes: int, degree: int) -> Point:
    scenario = Scenario(
        name=f"e5-{nodes}-{degree}",
        driver="swarm",
        topology=Regular(nodes=nodes, degree=degree),
        link=Link(latency_s=LATENCY),
        updates=[Updates(what="kv", arrivals=Periodic(interval_s=INTERVAL_S))],
        warm_up_s=WARM_UP_S,
        duration_s=WARM_UP_S + max(3.0, UPDATES * size.share) * INTERVAL_S,
        drain_s=10.0,
    )

    def reduce(run: Observations, seed: int) -> Measures:
        graph = topology.build(scenario.topology, scenario.link, chance.named(seed, "topology"))
        ways = [
            way
            for edge in graph.edges
            for way in (
                (edge.one, edge.other, edge.forth_s),
                (edge.other, edge.one, edge.back_s),
            )
        ]
        seen = [
            (row.value, spreading.eccentricity_s(ways, int(row.node)))
            for row in run
            if row.metric == "record.visible_s" and row.at_s - row.value >= WARM_UP_S
        ]
        return measures(
            visible_s=average(visible_s for visible_s, _ in seen),
            ratio=average(visible_s / least_s for visible_s, least_s in seen),
            least_ratio=min((visible_s / least_s for visible_s, least_s in seen), default=0.0),
            covered=average(run.values("record.covered")),
            copies=_copies_received(run),
            hops=average(run.values("record.hops_max")),
        )

    return Point(f"{nodes}-{degree}", scenario, reduce)


def _copies_received(run: Observations) -> float:
    """Return the mean over nodes, weighted by what each was told: all but what it made itself."""
    made = Counter(row.node for row in run if row.metric == "update.refused" and not row.value)
    copies = [(row.value, row.node) for row in run if row.metric == "mesh.copies"]
    told = [made.total() - made[node] for _, node in copies]
    received = sum(each * count for (each, _), count in zip(copies, told, strict=True))
    return received / sum(told) if sum(told) else math.nan


def _ratio() -> Plot:
    return Plot(
        name="e5-ratio",
        title="Time until all have it, over the least possible",
        x_label="nodes",
        y_label="time / eccentricity",
        lines=(
            Line(
                "4 links a node",
                tuple(Dot(n, f"{n}-4", "ratio", Check(1.0)) for n in NODES),
            ),
            Line(
                "12 links a node",
                tuple(Dot(n, f"{n}-12", "ratio", Check(1.0, "at least")) for n in NODES),
            ),
            Line(
                "the fastest of all records, 12 links",
                tuple(
                    Dot(n, f"{n}-12", "least_ratio", Check(1.0, "always at least")) for n in NODES
                ),
            ),
        ),
        curves=(Curve("the least possible", ((NODES[0], 1.0), (NODES[-1], 1.0))),),
        log_x=True,
        y_from=0.9,
    )


def _copies() -> Plot:
    return Plot(
        name="e5-copies",
        title="Copies of a record that a node receives",
        x_label="nodes",
        y_label="copies",
        lines=(
            Line(
                "4 links a node",
                tuple(
                    Dot(n, f"{n}-4", "copies", Check(spreading.copies_received(n, 4)))
                    for n in NODES
                ),
            ),
            Line("12 links a node", tuple(Dot(n, f"{n}-12", "copies") for n in NODES)),
        ),
        log_x=True,
        y_from=0.0,
    )


def _times() -> Plot:
    return Plot(
        name="e5-times",
        title="Nodes that have a record in the end, and the hops it took at most",
        x_label="nodes",
        y_label="share of nodes; hops",
        lines=(
            Line(
                "nodes that have it (share), 12 links",
                tuple(Dot(n, f"{n}-12", "covered", share(1.0)) for n in NODES),
            ),
            Line(
                "hops, 4 links (at least Moore's bound)",
                tuple(
                    Dot(n, f"{n}-4", "hops", Check(spreading.hops_least(n, 4), "always at least"))
                    for n in NODES
                ),
            ),
        ),
        curves=(
            Curve(
                "Moore's bound, 4 links",
                tuple((n, float(spreading.hops_least(n, 4))) for n in NODES),
            ),
        ),
        log_x=True,
        y_from=0.0,
    )


def _meaning(found: Findings) -> str:
    most, least = NODES[-1], NODES[0]
    ratio = found.mean(f"{most}-4", "ratio")
    wide = found.mean(f"{most}-12", "ratio")
    slow_s = found.mean(f"{most}-4", "visible_s")
    fast_s = found.mean(f"{least}-4", "visible_s")
    return (
        f"From {least} nodes to {most} the time until all know grows from {fast_s * 1000:.0f} ms "
        f"to {slow_s * 1000:.0f} ms, as the logarithm of their number does. Where all links are in "
        f"the mesh it takes {ratio:.3f} times the least possible; where only some are, {wide:.3f} "
        "times, at a smaller price in copies than telling all would have."
    )
