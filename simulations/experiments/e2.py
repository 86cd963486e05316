"""E2: short jobs and long ones on the same workers.

Queues of one node against textbook formulas first: the scheduler is a queue, and it had better be
the queue that it looks like.  Then what the paper says of time limits (they keep long computations
out) and of load balancing (unpredictable execution times break it).
"""

from typing import Final

from simulations.distributions import Exponential, Hyperexponential, mean
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
from simulations.experiments.single_node import MEMORY_BYTES, poisson, single_node, times
from simulations.observations import Observations
from simulations.scenario import Function, Load, Poisson, Workers
from simulations.theory import queues

ALIKE: Final = 4
"""Slots in the first plot."""
RHOS: Final = {0.3: 300, 0.5: 600, 0.7: 1500}
"""How busy, and how many jobs in a run: the busier, the longer a queue remembers."""
MIX: Final = Hyperexponential(mean_short=0.5, mean_long=3.0, share_long=0.2)
"""Mean 1, and a variation of 3 where exponential has 1."""
MIX_RHOS: Final = {0.3: 2000, 0.5: 2500}
LONG: Final = Exponential(mean=60.0)
LIMITS_S: Final = (1, 10, 30, 60, 120, 240)
LONG_RATE_PER_S: Final = 0.5
SHORT: Final = Exponential(mean=1.0)
SLOW: Final = Exponential(mean=20.0)
SHORT_PER_S: Final = 2.0
SLOW_PER_S: Final = 0.2
RESERVED: Final = (3, 5)
"""Slots kept for short and for long jobs: 2/3 and 4/5 busy. Together 8, which are 3/4 busy."""
WARM_UP_S: Final = 30.0


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    points = [_queue(size, f"mmc-{rho}", rho, ALIKE, jobs) for rho, jobs in RHOS.items()]
    points += [_mixed(size, f"mg1-{rho}", rho, jobs) for rho, jobs in MIX_RHOS.items()]
    points += [_limited(size), _shared(size), _reserved(size)]
    return Experiment(
        name="e2",
        title="Short jobs and long ones",
        question=(
            "Is the scheduler the queue that theory knows? How many long computations does a time "
            "limit cut off, and what do long jobs cost the short ones?"
        ),
        set_up=(
            f"One node, Poisson arrivals. First {ALIKE} slots and exponential jobs (M/M/c); then "
            "one slot and a mix of short and long jobs (M/G/1: one job in five is six times as "
            f"long). Then jobs with a mean of {mean(LONG):g} s, called synchronously with a time "
            f"limit. Then short jobs (mean {mean(SHORT):g} s) beside long ones (mean "
            f"{mean(SLOW):g} s): on {sum(RESERVED)} slots for all, and on {RESERVED[0]} kept for "
            f"the short and {RESERVED[1]} for the long by a label."
        ),
        points=tuple(points),
        plots=(_waits(), _waited(), _mix(), _cut_off(), _connections(), _beside()),
        meaning=_meaning,
        limits=(
            "The wait of short jobs beside long ones on shared slots has no exact formula; its "
            "curve (Allen and Cunneen) is a guide and not judged. How a job is prepared and how "
            "long a message takes to a worker on the same machine is nothing in virtual time."
        ),
    )


def _queue(size: Size, name: str, rho: float, slots: int, jobs: float) -> Point:
    rate = rho * slots
    warm_up_s = WARM_UP_S / (1 - rho)
    scenario = single_node(
        f"e2-{name}",
        functions=[Function(name="job", duration_s=Exponential(mean=1.0))],
        workers=[Workers(slots=slots, memory_bytes=MEMORY_BYTES)],
        load=[poisson("job", rate)],
        warm_up_s=warm_up_s,
        duration_s=warm_up_s + size.jobs(jobs) / rate,
        drain_s=200.0,
    )
    return Point(name, scenario, lambda run, seed: times(run, "job", warm_up_s))


def _mixed(size: Size, name: str, rho: float, jobs: float) -> Point:
    rate = rho / mean(MIX)
    warm_up_s = WARM_UP_S / (1 - rho)
    scenario = single_node(
        f"e2-{name}",
        functions=[Function(name="job", duration_s=MIX)],
        workers=[Workers(slots=1, memory_bytes=MEMORY_BYTES)],
        load=[poisson("job", rate)],
        warm_up_s=warm_up_s,
        duration_s=warm_up_s + size.jobs(jobs) / rate,
        drain_s=500.0,
    )
    return Point(name, scenario, lambda run, seed: times(run, "job", warm_up_s))


def _limited(size: Size) -> Point:
    """All limits in one run: with enough slots they do not see one another."""
    names = [f"limit {limit_s}" for limit_s in LIMITS_S]
    scenario = single_node(
        "e2-limits",
        functions=[Function(name="long", duration_s=LONG)],
        workers=[Workers(slots=4096, memory_bytes=MEMORY_BYTES)],
        load=[
            Load(
                function="long",
                arrivals=Poisson(rate_per_s=LONG_RATE_PER_S),
                model="sync",
                time_limit_s=float(limit_s),
                label=f"limit {limit_s}",
            )
            for limit_s in LIMITS_S
        ]
        + [poisson("long", LONG_RATE_PER_S, "async")],
        duration_s=size.jobs(150) / LONG_RATE_PER_S,
        drain_s=1000.0,
    )

    def reduce(run: Observations, seed: int) -> Measures:
        found: Measures = {}
        for label in (*names, "async"):
            for name, value in measures(
                succeeded=average(run.values("job.succeeded", label=label)),
                connected_s=average(run.values("job.connected_s", label=label)),
            ).items():
                found[f"{label} {name}"] = value
        return found

    return Point("limits", scenario, reduce)


def _shared(size: Size) -> Point:
    return _beside_point(size, "shared", [Workers(slots=sum(RESERVED), memory_bytes=MEMORY_BYTES)])


def _reserved(size: Size) -> Point:
    kept = [
        Workers(slots=slots, memory_bytes=MEMORY_BYTES, labels={"for": kind})
        for slots, kind in zip(RESERVED, ("short", "long"), strict=True)
    ]
    return _beside_point(size, "reserved", kept)


def _beside_point(size: Size, name: str, workers: list[Workers]) -> Point:
    apart = len(workers) > 1
    warm_up_s = 10 * mean(SLOW)
    scenario = single_node(
        f"e2-{name}",
        functions=[
            Function(
                name=kind,
                duration_s=duration_s,
                requires={"labels": {"for": kind}} if apart else {},
            )
            for kind, duration_s in (("short", SHORT), ("long", SLOW))
        ],
        workers=workers,
        load=[poisson("short", SHORT_PER_S), poisson("long", SLOW_PER_S)],
        warm_up_s=warm_up_s,
        duration_s=warm_up_s + size.jobs(1500) / SHORT_PER_S,
        drain_s=600.0,
    )

    def reduce(run: Observations, seed: int) -> Measures:
        return {
            f"{kind} {measure}": value
            for kind in ("short", "long")
            for measure, value in times(run, kind, warm_up_s).items()
        }

    return Point(name, scenario, reduce)


def _waits() -> Plot:
    def stay_s(rho: float) -> float:
        return 1 + queues.mmc_wait_s(rho * ALIKE, 1.0, ALIKE)

    return Plot(
        name="e2-mmc",
        title=f"{ALIKE} slots, exponential jobs of mean 1 s (M/M/{ALIKE})",
        x_label="how busy the slots are",
        y_label="time in the node (s)",
        lines=(
            Line(
                "time in the node",
                tuple(Dot(rho, f"mmc-{rho}", "sojourn_s", Check(stay_s(rho))) for rho in RHOS),
                curve(stay_s, 0.05, 0.9),
            ),
        ),
        y_from=0.0,
    )


def _waited() -> Plot:
    def waits(rho: float) -> float:
        return queues.erlang_c(rho * ALIKE, ALIKE)

    return Plot(
        name="e2-waited",
        title=f"Jobs that have to wait (Erlang's C, {ALIKE} slots)",
        x_label="how busy the slots are",
        y_label="share of jobs",
        lines=(
            Line(
                "jobs that waited",
                tuple(Dot(rho, f"mmc-{rho}", "waited", share(waits(rho))) for rho in RHOS),
                curve(waits, 0.05, 0.9),
            ),
        ),
        y_from=0.0,
        y_to=1.0,
    )


def _mix() -> Plot:
    def stay_s(rho: float) -> float:
        return mean(MIX) + queues.mg1_wait_s(rho / mean(MIX), MIX)

    def memoryless_s(rho: float) -> float:
        return mean(MIX) + queues.mmc_wait_s(rho / mean(MIX), mean(MIX), 1)

    return Plot(
        name="e2-mg1",
        title="One slot, a mix of short and long jobs (M/G/1)",
        x_label="how busy the slot is",
        y_label="time in the node (s)",
        lines=(
            Line(
                "the mix",
                tuple(Dot(rho, f"mg1-{rho}", "sojourn_s", Check(stay_s(rho))) for rho in MIX_RHOS),
                curve(stay_s, 0.05, 0.75),
            ),
        ),
        curves=(Curve("if all jobs were alike (M/M/1)", curve(memoryless_s, 0.05, 0.75)),),
        y_from=0.0,
    )


def _cut_off() -> Plot:
    def ends(limit_s: float) -> float:
        return 1 - queues.longer_than(LONG, limit_s)

    return Plot(
        name="e2-limits",
        title=f"Jobs of {mean(LONG):g} s on average, under a time limit",
        x_label="time limit of a synchronous call (s)",
        y_label="share that ends well",
        lines=(
            Line(
                "synchronous",
                tuple(
                    Dot(limit_s, "limits", f"limit {limit_s} succeeded", share(ends(limit_s)))
                    for limit_s in LIMITS_S
                ),
                curve(ends, 1, 300, log=True),
            ),
            Line(
                "asynchronous, no limit",
                tuple(
                    Dot(limit_s, "limits", "async succeeded", share(1.0))
                    for limit_s in (LIMITS_S[0], LIMITS_S[-1])
                ),
            ),
        ),
        log_x=True,
        y_from=0.0,
        y_to=1.05,
    )


def _connections() -> Plot:
    """Connections that are open at a time, by Little's law from how long each is."""

    def least(limit_s: float) -> float:
        # E[min(S, limit)] of an exponential S: as a caller who leaves after exactly the limit.
        return mean(LONG) * (1 - queues.longer_than(LONG, limit_s))

    return Plot(
        name="e2-connections",
        title="How long a call holds its connection",
        x_label="time limit of a synchronous call (s)",
        y_label="connected for a call (s)",
        lines=(
            Line(
                "synchronous",
                tuple(
                    Dot(limit_s, "limits", f"limit {limit_s} connected_s", Check(least(limit_s)))
                    for limit_s in LIMITS_S
                ),
                curve(least, 1, 300, log=True),
            ),
            Line(
                "asynchronous, no limit",
                tuple(
                    Dot(limit_s, "limits", "async connected_s", Check(0.0, absolute_max=0.01))
                    for limit_s in (LIMITS_S[0], LIMITS_S[-1])
                ),
            ),
        ),
        log_x=True,
        y_from=-1.0,
    )


def _beside() -> Plot:
    both = SHORT_PER_S + SLOW_PER_S
    all_jobs = Hyperexponential(
        mean_short=mean(SHORT), mean_long=mean(SLOW), share_long=SLOW_PER_S / both
    )
    about_s = queues.mgc_wait_about_s(both, all_jobs, sum(RESERVED))
    alone = [
        queues.mmc_wait_s(rate, mean(run), slots)
        for rate, run, slots in zip((SHORT_PER_S, SLOW_PER_S), (SHORT, SLOW), RESERVED, strict=True)
    ]
    return Plot(
        name="e2-beside",
        title="What short jobs wait (1) and long ones (2)",
        x_label="1: short jobs, 2: long jobs",
        y_label="wait (s)",
        lines=(
            Line(
                "slots for all",
                (Dot(1, "shared", "short wait_s"), Dot(2, "shared", "long wait_s")),
            ),
            Line(
                "slots kept apart",
                (
                    Dot(1, "reserved", "short wait_s", Check(alone[0])),
                    Dot(2, "reserved", "long wait_s"),
                ),
            ),
        ),
        curves=(Curve("slots for all, about (M/G/c)", ((1, about_s), (2, about_s))),),
        y_from=0.0,
    )


def _meaning(found: Findings) -> str:
    cut = found.mean("limits", "limit 30 succeeded")
    shared_s = found.mean("shared", "short wait_s")
    kept_s = found.mean("reserved", "short wait_s")
    slow_s = found.mean("reserved", "long wait_s")
    slow_shared_s = found.mean("shared", "long wait_s")
    return (
        f"A time limit of 30 s lets {cut:.1%} of computations through that take {mean(LONG):g} s "
        "on average; that is what keeps inference off synchronous platforms. Without a limit long "
        "jobs share workers with short ones, and theory says what that costs: with the same mean, "
        "more variation means a longer wait (third plot). Kept apart by a label, short jobs wait "
        f"{kept_s:.2f} s instead of {shared_s:.2f} s here, and long ones {slow_s:.1f} s instead "
        f"of {slow_shared_s:.1f} s: keeping slots free for somebody makes others wait. A "
        "connection is held for as long as its job, up to the limit; a job that is handed in "
        "holds none."
    )
