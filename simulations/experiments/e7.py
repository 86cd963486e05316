"""E7: a mesh that was two for a while.

Both halves go on working, and being written to.  When the partition ends, how soon do all nodes
show the same, and is everything there that was acknowledged?
"""

from typing import Final

from peernode.config import Config
from peernode.libp2p_config import Libp2pConfig
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
)
from simulations.faults import Partition
from simulations.observations import Observations
from simulations.scenario import Link, Poisson, Regular, Scenario, Updates
from simulations.theory import spreading

NODES: Final = 8
DEGREE: Final = 4
LATENCY_S: Final = 0.03
LASTS_S: Final = (5, 10, 30, 60, 180)
BEGINS_S: Final = 20.0
WRITES_PER_S: Final = 1.0
KEYS: Final = 40
DRAIN_S: Final = 90.0
ROUNDS: Final = 8
"""Round trips of a handshake and a reconciliation. Source: four for TCP, Noise, Yamux and identify;
as many to compare some dozen records."""
FAR_S: Final = NODES * LATENCY_S
"""No node is farther than over all others."""


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    del size  # A partition cannot be shorter than it is.
    return Experiment(
        name="e7",
        title="Two halves that find together",
        question=(
            "After a partition, how long until all nodes show the same, and is anything lost that "
            "was acknowledged?"
        ),
        set_up=(
            f"{NODES} nodes with {DEGREE} links each ({LATENCY_S * 1000:g} ms one way), cut into "
            f"two halves; {WRITES_PER_S:g} write a second goes on to {KEYS} global keys, at all "
            "nodes in turn, until the partition ends. Then the time until all nodes have the same "
            "view, looked at each 50 ms."
        ),
        points=tuple(_point(lasts_s) for lasts_s in LASTS_S),
        plots=(_heals(), _kept()),
        meaning=_meaning,
        limits=(
            "Two bounds and no equality: who dials first is chance. A short partition leaves the "
            f"links standing (they are given up after {Libp2pConfig().silence_max_s:g} s of "
            "silence); then what was missed comes with the next reconciliation, whose partner is "
            "chosen by lot, so that its upper bound is one for the mean only."
        ),
    )


def _point(lasts_s: int) -> Point:
    scenario = Scenario(
        name=f"e7-{lasts_s}",
        topology=Regular(nodes=NODES, degree=DEGREE),
        link=Link(latency_s=LATENCY_S),
        updates=[Updates(what="kv", arrivals=Poisson(rate_per_s=WRITES_PER_S), keys=KEYS)],
        faults=[Partition(at_s=BEGINS_S, for_s=float(lasts_s), nodes=NODES // 2)],
        duration_s=BEGINS_S + lasts_s,
        drain_s=DRAIN_S,
    )
    return Point(f"cut-{lasts_s}", scenario, _reduce)


def _reduce(run: Observations, seed: int) -> Measures:
    healed = run.values("heal.converged_s")
    return measures(
        # One that never heals in the time there is counts as all of it.
        heals_s=float(healed[0]) if len(healed) else DRAIN_S,
        healed=float(len(healed) > 0),
        lost=average(run.values("write.lost")),
        refused=average(run.values("update.refused")),
    )


def _most_s(lasts_s: float) -> float:
    """Return the longest it may take: the longest pause of whatever has to come next."""
    links, node = Libp2pConfig(), Config()
    if lasts_s < links.silence_max_s:
        return spreading.heal_most_s(0.0, 1.5 * node.sync_interval_s, FAR_S, ROUNDS)
    redial_s = links.retry_delay_max_s + links.dial_timeout_s
    return spreading.heal_most_s(redial_s, 0.0, FAR_S, ROUNDS)


def _below(lasts_s: int) -> Dot:
    """Return the upper bound: of each run, where a link that comes back begins by comparing."""
    certain = lasts_s >= Libp2pConfig().silence_max_s
    check = Check(_most_s(lasts_s), "always at most" if certain else "at most")
    return Dot(lasts_s, f"cut-{lasts_s}", "heals_s", check)


def _heals() -> Plot:
    # Of the links of a node a share of N / 2 / (N - 1) leads to the other half; both ends dial.
    across = NODES / 2 / (NODES - 1)
    links, node = Libp2pConfig(), Config()
    dials = round(NODES * DEGREE * across)
    redials_s = spreading.first_of_phases_s(
        0.75 * links.retry_delay_max_s + links.dial_timeout_s, dials
    )
    looks_s = spreading.first_of_phases_s(node.sync_interval_s, round(NODES * across))
    return Plot(
        name="e7-heal",
        title="After a partition, until all nodes show the same",
        x_label="length of the partition (s)",
        y_label="time to heal (s)",
        lines=(
            Line(
                "at least the way across",
                tuple(
                    Dot(s, f"cut-{s}", "heals_s", Check(LATENCY_S, "always at least"))
                    for s in LASTS_S
                ),
            ),
            Line(
                "at most the longest pause",
                tuple(_below(s) for s in LASTS_S),
            ),
        ),
        curves=(
            Curve("the longest pause (bound)", tuple((s, _most_s(s)) for s in LASTS_S)),
            Curve(
                "first reconciliation by lot (guide)",
                tuple((s, looks_s) for s in LASTS_S if s < links.silence_max_s),
            ),
            Curve(
                "first dial at the longest pauses (guide)",
                tuple((s, redials_s) for s in LASTS_S if s >= links.silence_max_s),
            ),
        ),
        log_x=True,
        y_from=0.0,
    )


def _kept() -> Plot:
    return Plot(
        name="e7-kept",
        title="Acknowledged writes that are not everywhere in the end",
        x_label="length of the partition (s)",
        y_label="share",
        lines=(
            Line(
                "acknowledged and lost",
                tuple(Dot(s, f"cut-{s}", "lost", Check(0.0, absolute_max=1e-9)) for s in LASTS_S),
            ),
            Line(
                "writes refused",
                tuple(
                    Dot(s, f"cut-{s}", "refused", Check(0.0, absolute_max=1e-9)) for s in LASTS_S
                ),
            ),
            Line(
                "healed in the time there was",
                tuple(Dot(s, f"cut-{s}", "healed", Check(1.0)) for s in LASTS_S),
            ),
        ),
        log_x=True,
        y_from=-0.05,
        y_to=1.05,
    )


def _meaning(found: Findings) -> str:
    short_s = found.mean(f"cut-{LASTS_S[1]}", "heals_s")
    long_s = found.mean(f"cut-{LASTS_S[-1]}", "heals_s")
    lost = found.mean(f"cut-{LASTS_S[-1]}", "lost")
    return (
        f"Both halves take writes while they are apart. After {LASTS_S[1]} s apart all nodes agree "
        f"{short_s:.1f} s later, after {LASTS_S[-1]} s apart {long_s:.1f} s later: what takes the "
        "time is that somebody looks or dials again, not what has to be told. Of the writes that "
        f"were acknowledged, {lost:.0%} are missing anywhere afterwards."
    )
