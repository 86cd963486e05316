"""E5: how soon all nodes know of a change.

Users, projects, functions and global keys are distributed when they change.  No way of telling is
faster than the fastest way through the graph; how near to that is ours?
"""

import math
from collections import Counter
from typing import Final

from simulations import chance, topology
from simulations.distributions import Exponential, Lognormal
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
    curve,
    measures,
    share,
)
from simulations.faults import Churn
from simulations.observations import Observations
from simulations.scenario import Link, Periodic, Regular, Scenario, Updates
from simulations.theory import spreading
from simulations.topology import Graph

NODES: Final = (50, 100, 200, 400)
DEGREES: Final = (4, 12)
"""With 4 all links are in the mesh, which wants no fewer; with 12 about half of them are.
Source: `gossip.config.Config.degree_low`, `degree`."""
UPDATES: Final = 20
INTERVAL_S: Final = 1.0
WARM_UP_S: Final = 5.0
CHURNING: Final = 60
CHURNING_DEGREE: Final = 6
UP_S: Final = 100.0
DOWNS_S: Final = (5, 20)
CHURNING_S: Final = 600.0
CHURNING_INTERVAL_S: Final = 5.0
LATE_S: Final = 0.2
"""Whoever has a record later was away when it was made. Source: above any way through the mesh
(some 0.1 s), and as long as it takes to catch up, so that hardly anybody is back sooner."""
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
            "graph. "
            f"Then {CHURNING} nodes with {CHURNING_DEGREE} links each that come and go, up for "
            f"{UP_S:g} s on average."
        ),
        points=(
            *(_point(size, nodes, degree) for degree in DEGREES for nodes in NODES),
            *(_churning(size, down_s) for down_s in DOWNS_S),
        ),
        plots=(_ratio(), _copies(), _times(), _away(), _late()),
        meaning=_meaning,
        limits=(
            "Processor time is none: on real machines each hop adds what it takes to check a "
            "signature and to pass a message on. How long catching up takes after being back has "
            "no formula here: it is what the dots of the last plot lie above the line."
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
            copies_ratio=_copies_received(run) / _copies_counted(run, graph, degree),
            hops=average(run.values("record.hops_max")),
        )

    return Point(f"{nodes}-{degree}", scenario, reduce)


def _churning(size: Size, down_s: int) -> Point:
    lasts_s = max(60.0, CHURNING_S * size.share)
    # Records of the last while are left out: at its end all nodes are back, whatever their luck.
    counts_until_s = WARM_UP_S + lasts_s
    scenario = Scenario(
        name=f"e5-churn-{down_s}",
        driver="swarm",
        topology=Regular(nodes=CHURNING, degree=CHURNING_DEGREE),
        link=Link(latency_s=LATENCY),
        updates=[Updates(what="kv", arrivals=Periodic(interval_s=CHURNING_INTERVAL_S))],
        faults=[Churn(up_s=Exponential(mean=UP_S), down_s=Exponential(mean=float(down_s)))],
        warm_up_s=WARM_UP_S,
        duration_s=counts_until_s + 5 * down_s,
        drain_s=20.0,
    )

    def reduce(run: Observations, seed: int) -> Measures:
        # By then as many are away as there will be.
        begins_s = WARM_UP_S + 2 * down_s
        seen_at_s, seen_s = run.series("record.seen_s")
        made_s = seen_at_s - seen_s
        seen_s = seen_s[(made_s >= begins_s) & (made_s <= counts_until_s)]
        return measures(
            late=average(seen_s > LATE_S),
            late_s=average(seen_s[seen_s > LATE_S]),
            covered=average(run.values("record.covered")),
        )

    return Point(f"churn-{down_s}", scenario, reduce)


def _away() -> Plot:
    def away(down_s: float) -> float:
        return down_s / (UP_S + down_s)

    return Plot(
        name="e5-away",
        title="Nodes that are away when a record is made, and have it in the end",
        x_label="mean time away (s)",
        y_label="share of nodes",
        lines=(
            Line(
                "have it only when they are back",
                tuple(Dot(d, f"churn-{d}", "late", share(away(d))) for d in DOWNS_S),
                curve(away, 1, 25),
            ),
            Line(
                "have it in the end",
                tuple(Dot(d, f"churn-{d}", "covered", share(1.0)) for d in DOWNS_S),
            ),
        ),
        y_from=0.0,
        y_to=1.05,
    )


def _late() -> Plot:
    return Plot(
        name="e5-late",
        title="When those have it that were away",
        x_label="mean time away (s)",
        y_label="after it was made (s)",
        lines=(
            Line(
                "nodes that were away",
                tuple(Dot(d, f"churn-{d}", "late_s") for d in DOWNS_S),
            ),
        ),
        curves=(
            Curve("until they are back (theory, without catching up)", ((0, 0.0), (25, 25.0))),
        ),
        y_from=0.0,
    )


def _copies_received(run: Observations) -> float:
    """Return the mean over nodes, weighted by what each was told: all but what it made itself."""
    made = Counter(row.node for row in run if row.metric == "update.refused" and not row.value)
    copies = [(row.value, row.node) for row in run if row.metric == "mesh.copies"]
    told = [made.total() - made[node] for _, node in copies]
    received = sum(each * count for (each, _), count in zip(copies, told, strict=True))
    return received / sum(told) if sum(told) else math.nan


def _copies_counted(run: Observations, graph: Graph, degree: int) -> float:
    """Return the same if all pass a record on to all but whom they had it from.

    What comes back to its maker, from neighbours that are reached sooner by another way, is no copy
    that anybody was told by.
    """
    makers = [int(row.node) for row in run if row.metric == "update.refused" and not row.value]
    others = graph.size - 1
    back = 0
    for maker in makers:
        soonest_s = graph.distances_s(maker)
        ways_s = graph.ways_s[maker].items()
        back += sum(soonest_s[neighbour] < way_s for neighbour, way_s in ways_s)
    if not makers:
        return math.nan
    return degree - 1 + (degree - back / len(makers)) / others


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
                tuple(Dot(n, f"{n}-4", "copies") for n in NODES),
                tuple((n, spreading.copies_received(n, 4)) for n in NODES),
            ),
            Line("12 links a node", tuple(Dot(n, f"{n}-12", "copies") for n in NODES)),
            Line(
                "4 links, over the count in that very graph",
                tuple(Dot(n, f"{n}-4", "copies_ratio", Check(1.0)) for n in NODES),
            ),
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
    late_s = found.mean(f"churn-{DOWNS_S[-1]}", "late_s")
    fast_s = found.mean(f"{least}-4", "visible_s")
    return (
        f"From {least} nodes to {most} the time until all know grows from {fast_s * 1000:.0f} ms "
        f"to {slow_s * 1000:.0f} ms, as the logarithm of their number does. Where all links are in "
        f"the mesh it takes {ratio:.3f} times the least possible; where only some are, {wide:.3f} "
        "times, at a smaller price in copies than telling all would have. A node that is away "
        f"has it {late_s:.1f} s later on average where being away takes {DOWNS_S[-1]} s: as soon "
        "as it is back, time away being without memory."
    )
