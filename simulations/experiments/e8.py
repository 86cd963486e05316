"""E8: what belonging to a mesh costs a node, as the mesh grows.

The paper leaves open whether the system holds at a large scale.  What a node sends to keep the mesh
together must not depend on how many nodes there are.
"""

from typing import Final

from simulations.distributions import Lognormal
from simulations.experiments.experiment import (
    Check,
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
)
from simulations.observations import Observations
from simulations.scenario import Link, Periodic, Regular, Scenario, Updates

NODES: Final = (50, 100, 200, 400)
DEGREE: Final = 12
RATE_PER_S: Final = 1.0
WARM_UP_S: Final = 10.0
LASTS_S: Final = 20.0
GROWS: Final = 1.05
"""What still counts as constant: as near as theory is to be. Source: `statistics.RELATIVE_MAX`."""


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    first = f"{NODES[0]}"
    return Experiment(
        name="e8",
        title="What belonging to a mesh costs",
        question="How many bytes does a node send to keep the mesh together, and to pass news on?",
        set_up=(
            f"A swarm of gossip machines on random graphs with {DEGREE} links a node; one record "
            f"a second in the whole mesh. Bytes of control (who has what, who wants what) after "
            f"{WARM_UP_S:g} s, and copies of each record."
        ),
        points=tuple(_point(size, nodes) for nodes in NODES),
        plots=(
            Plot(
                name="e8-control",
                title="Control that a node sends",
                x_label="nodes",
                y_label="control (bytes/s)",
                lines=(
                    Line(
                        f"at most {GROWS:g} times what it is with {first} nodes",
                        tuple(
                            Dot(
                                n,
                                f"{n}",
                                "control_bytes_per_s",
                                Check(GROWS, "at most", as_of=first),
                            )
                            for n in NODES[1:]
                        ),
                    ),
                ),
                log_x=True,
                y_from=0.0,
            ),
            Plot(
                name="e8-copies",
                title="Copies of a record that a node receives",
                x_label="nodes",
                y_label="copies",
                lines=(
                    Line(
                        "at most one from each neighbour",
                        tuple(
                            Dot(n, f"{n}", "copies", Check(float(DEGREE), "at most")) for n in NODES
                        ),
                    ),
                ),
                log_x=True,
                y_from=0.0,
            ),
        ),
        meaning=_meaning,
        limits=(
            "Bytes are those of the messages, without what encryption and TCP add. Keeping links "
            "alive (pings) is not in it; it depends on the number of neighbours alone. Theory says "
            "no more here than that it does not grow: each point is compared with the first."
        ),
    )


def _point(size: Size, nodes: int) -> Point:
    scenario = Scenario(
        name=f"e8-{nodes}",
        driver="swarm",
        topology=Regular(nodes=nodes, degree=DEGREE),
        link=Link(latency_s=Lognormal(median=0.02, sigma=0.5)),
        updates=[Updates(what="kv", arrivals=Periodic(interval_s=1 / RATE_PER_S))],
        warm_up_s=WARM_UP_S,
        duration_s=WARM_UP_S + max(5.0, LASTS_S * size.share),
        drain_s=5.0,
    )
    return Point(f"{nodes}", scenario, _reduce)


def _reduce(run: Observations, seed: int) -> Measures:
    return measures(
        control_bytes_per_s=average(run.values("link.control_bytes")),
        copies=average(run.values("mesh.copies")),
    )


def _meaning(found: Findings) -> str:
    few, many = NODES[0], NODES[-1]
    least = found.mean(f"{few}", "control_bytes_per_s")
    most = found.mean(f"{many}", "control_bytes_per_s")
    copies = found.mean(f"{many}", "copies")
    return (
        f"A node sends {least:.0f} bytes of control a second among {few} nodes and {most:.0f} "
        f"among {many}: it tells its neighbours, and their number does not grow. A record reaches "
        f"a node {copies:.1f} times, of at most {DEGREE}; that is what it costs that no single "
        "node has to be trusted to pass it on."
    )
