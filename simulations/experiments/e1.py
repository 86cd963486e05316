"""E1: what becomes of a call whose caller comes and goes.

The paper says that long computations die with the connection that asked for them, and that handing
a job in and leaving saves them.  The synchronous model is also given its best: trying again, and
resuming with an idempotency key.
"""

from functools import partial
from typing import Final, Literal, TypeAlias

from simulations.distributions import Exponential
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
    curve,
    measures,
    share,
)
from simulations.experiments.single_node import MEMORY_BYTES
from simulations.observations import Observations
from simulations.scenario import (
    Clients,
    Complete,
    Function,
    Link,
    Load,
    Poisson,
    Scenario,
    Workers,
)
from simulations.theory import calls

Model: TypeAlias = Literal["async", "sync", "sync-retry", "sync-resume"]
MODELS: Final[tuple[Model, ...]] = ("sync", "async", "sync-retry", "sync-resume")
JOBS: Final[dict[Model, float]] = {
    "sync": 150,
    "async": 60,
    "sync-retry": 100,
    "sync-resume": 60,
}
"""Of each length in a run. What always succeeds needs few."""
RUNS_S: Final = (1, 5, 20, 60, 180, 600)
UPS_S: Final = (10, 60, 600)
RETRIED_S: Final = (5, 20, 60, 120)
"""Beyond, trying again takes e^(S/U) tries: nobody would wait for the experiment."""
UP_S: Final = 60
DOWN_S: Final = 5.0
CLIENTS: Final = 200
ARRIVING_S: Final = 600.0
SLOTS: Final = 4096


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    points = [
        Point(f"u{up_s}", _scenario(size, up_s, ("sync", "async"), RUNS_S), _reduce)
        for up_s in UPS_S
    ]
    best = _scenario(size, UP_S, ("sync-retry", "sync-resume"), RETRIED_S, name="best")
    points.append(Point("best", best, _reduce))
    return Experiment(
        name="e1",
        title="Callers who come and go",
        question=(
            "How often does a call of length S end well, how long does it take, and how much work "
            "is wasted, if its caller is connected for U on average and then away? Synchronously, "
            "asynchronously, and synchronously at its best (trying again; resuming)."
        ),
        set_up=(
            f"One node with more workers than jobs, so that nothing waits. {CLIENTS} clients are "
            f"connected for an exponential time with mean U and then away for one with mean "
            f"{DOWN_S:g} s, by turns. Jobs take exactly S. A synchronous call holds a connection; "
            "when that breaks the job is cancelled. An asynchronous one hands in, leaves, and is "
            "told when it is back."
        ),
        points=tuple(points),
        plots=(_success(), _result(), _wasted(), _held()),
        meaning=_meaning,
        limits=(
            "Breaks are exponential and independent of the job; a network whose breaks come in "
            "bursts is another question. The node itself does not fail here (E9 is about that). "
            "Handing in and asking for the result are two short calls of their own; on links "
            "without latency they take no time, and so hold no connection."
        ),
    )


def _scenario(
    size: Size, up_s: float, models: tuple[Model, ...], runs_s: tuple[int, ...], name: str = ""
) -> Scenario:
    return Scenario(
        name=f"e1-{name or f'u{up_s:g}'}",
        duration_s=ARRIVING_S,
        # Until what takes e^(S/U) tries has ended too, and everybody has been back.
        drain_s=5000.0 if "sync-retry" in models else max(runs_s) + 20 * DOWN_S,
        topology=Complete(nodes=1),
        link=Link(latency_s=0.0),
        functions=[Function(name=f"run-{run_s}", duration_s=float(run_s)) for run_s in runs_s],
        workers=[Workers(slots=SLOTS, memory_bytes=MEMORY_BYTES)],
        clients=[
            Clients(
                name="callers",
                count=CLIENTS,
                up_s=Exponential(mean=up_s),
                down_s=Exponential(mean=DOWN_S),
            )
        ],
        load=[
            Load(
                function=f"run-{run_s}",
                arrivals=Poisson(rate_per_s=size.jobs(JOBS[model]) / ARRIVING_S),
                clients="callers",
                model=model,
                label=f"{model} {run_s}",
            )
            for model in models
            for run_s in runs_s
        ],
    )


def _reduce(run: Observations, seed: int) -> Measures:
    found: Measures = {}
    for label in dict.fromkeys(
        f"{model} {run_s}" for model in MODELS for run_s in (*RUNS_S, *RETRIED_S)
    ):
        worked = sum(run.values("job.run_s", label=label))
        wasted = sum(run.values("job.wasted_s", label=label))
        found |= {
            f"{label} {name}": value
            for name, value in measures(
                succeeded=average(run.values("job.succeeded", label=label)),
                result_s=average(run.values("job.result_s", label=label)),
                tries=average(run.values("job.tries", label=label)),
                connected_s=average(run.values("job.connected_s", label=label)),
                **({"wasted": wasted / worked} if worked else {}),
            ).items()
        }
    return found


def _success() -> Plot:
    lines = [
        Line(
            f"synchronous, U = {up_s} s",
            tuple(
                Dot(s, f"u{up_s}", f"sync {s} succeeded", share(calls.unbroken(s, up_s)))
                for s in RUNS_S
            ),
            curve(partial(calls.unbroken, up_s=up_s), 1, 600, log=True),
        )
        for up_s in UPS_S
    ]
    lines.append(
        Line(
            "asynchronous, each U",
            tuple(
                Dot(s, f"u{up_s}", f"async {s} succeeded", share(1.0))
                for s in RUNS_S
                for up_s in UPS_S
            ),
        )
    )
    return Plot(
        name="e1-success",
        title="Calls that end well",
        x_label="run time S (s)",
        y_label="share of calls",
        lines=tuple(lines),
        log_x=True,
        y_from=0.0,
        y_to=1.05,
    )


def _result() -> Plot:
    def waited(s: float) -> float:
        return s + calls.away_s(s, UP_S, DOWN_S)

    def retried(s: float) -> float:
        return calls.retry_total_s(s, UP_S, DOWN_S)

    return Plot(
        name="e1-result",
        title=f"Time until the caller has the result, U = {UP_S} s",
        x_label="run time S (s)",
        y_label="time until the result (s)",
        lines=(
            Line(
                "asynchronous",
                tuple(Dot(s, f"u{UP_S}", f"async {s} result_s", Check(waited(s))) for s in RUNS_S),
                curve(waited, 1, 600, log=True),
            ),
            Line(
                "synchronous, resuming",
                tuple(
                    Dot(s, "best", f"sync-resume {s} result_s", Check(waited(s))) for s in RETRIED_S
                ),
            ),
            Line(
                "synchronous, trying again",
                tuple(
                    Dot(s, "best", f"sync-retry {s} result_s", Check(retried(s))) for s in RETRIED_S
                ),
                curve(retried, 1, 180, log=True),
            ),
        ),
        log_x=True,
        log_y=True,
    )


def _wasted() -> Plot:
    def once(s: float) -> float:
        return calls.wasted_share(s, UP_S)

    def again(s: float) -> float:
        return calls.retry_wasted_share(s, UP_S)

    return Plot(
        name="e1-wasted",
        title=f"Work that nobody gets anything of, U = {UP_S} s",
        x_label="run time S (s)",
        y_label="share of working time",
        lines=(
            Line(
                "synchronous",
                tuple(Dot(s, f"u{UP_S}", f"sync {s} wasted", share(once(s))) for s in RUNS_S),
                curve(once, 1, 600, log=True),
            ),
            Line(
                "synchronous, trying again",
                tuple(Dot(s, "best", f"sync-retry {s} wasted", share(again(s))) for s in RETRIED_S),
                curve(again, 1, 180, log=True),
            ),
            Line(
                "asynchronous",
                tuple(Dot(s, f"u{UP_S}", f"async {s} wasted", share(0.0)) for s in RUNS_S),
            ),
        ),
        log_x=True,
        y_from=-0.03,
        y_to=1.05,
    )


def _held() -> Plot:
    def once(s: float) -> float:
        return calls.held_s(s, UP_S)

    def resumed(s: float) -> float:
        return calls.present_s(s, UP_S, DOWN_S)

    return Plot(
        name="e1-held",
        title=f"How long a call holds a connection, U = {UP_S} s",
        x_label="run time S (s)",
        y_label="connected for a call (s)",
        lines=(
            Line(
                "synchronous",
                tuple(Dot(s, f"u{UP_S}", f"sync {s} connected_s", Check(once(s))) for s in RUNS_S),
                curve(once, 1, 600, log=True),
            ),
            Line(
                "synchronous, resuming",
                tuple(
                    Dot(s, "best", f"sync-resume {s} connected_s", Check(resumed(s)))
                    for s in RETRIED_S
                ),
                curve(resumed, 1, 180, log=True),
            ),
            Line(
                "asynchronous",
                tuple(
                    Dot(s, f"u{UP_S}", f"async {s} connected_s", Check(0.0, absolute_max=0.01))
                    for s in RUNS_S
                ),
            ),
        ),
        log_x=True,
    )


def _meaning(found: Findings) -> str:
    sync, kept = (found.mean(f"u{UP_S}", f"{model} 180 succeeded") for model in ("sync", "async"))
    again_s = found.mean("best", "sync-retry 120 result_s")
    left_s = found.mean("best", "sync-resume 120 result_s")
    tries = found.mean("best", "sync-retry 120 tries")
    return (
        f"With callers who stay for {UP_S} s on average, a synchronous call of 180 s ends well in "
        f"{sync:.1%} of all cases, an asynchronous one in {kept:.1%}: this is the paper's claim. "
        "It is a matter of S against U and nothing else. Trying again does "
        f"save the result, at a price that grows exponentially: a call of 120 s needs {tries:.1f} "
        f"tries and {again_s:.0f} s. A synchronous interface at its best, which resumes, is as "
        f"good as an asynchronous one ({left_s:.0f} s): it *is* one, a job that outlives its "
        "connection, and what is left of the difference is that it holds a connection all the "
        "while (last plot; by Little's law their number is that time times the rate of calls)."
    )
