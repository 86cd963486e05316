"""When things arrive: an iterator of times for each kind of `Arrivals`, in order.

    for at_s, duration_s in arrivals(load.arrivals, chance.named(seed, "load", 0)):
        if at_s >= scenario.duration_s:
            break

Times are virtual seconds since the start of the load, and go on for ever but where something ends
by itself: what is at once, and traces.  `duration_s` is given by traces only, `None` means that the
function's own is drawn.

Bursty is a Markov-modulated Poisson process of two states: Fischer and Meier-Hellstern, "The MMPP
cookbook", 1993.  It begins in a state chosen by how much time each takes, so that it is stationary
from the start.  Traces: Zhang et al., "Faster and cheaper serverless computing on harvested
resources", SOSP 2021, whose two weeks of Azure Functions have one row for each call.
"""

import csv
import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final, assert_never

from simulations.errors import ScenarioError
from simulations.scenario import Arrivals, AtOnce, AzureTrace, Bursty, Periodic, Poisson

Arrival = tuple[float, float | None]
"""When, and how long the job takes if that is known."""
AZURE_COLUMNS: Final = ("app", "func", "end_timestamp", "duration")
TRACE_DURATION_MAX_S: Final = 366 * 86_400.0
"""Source: guess; what is longer is a wrong unit."""


def arrivals(kind: Arrivals, rng: random.Random, directory: str | Path = ".") -> Iterator[Arrival]:
    """Return what arrives, in order. Raises `ScenarioError` for a trace that is none."""
    match kind:
        case Poisson(rate_per_s=rate_per_s):
            return _poisson(rate_per_s, rng)
        case Bursty():
            return _bursty(kind, rng)
        case Periodic(interval_s=interval_s):
            # Not a sum, whose error would grow.
            return ((number * interval_s, None) for number in itertools.count())
        case AtOnce(count=count, at_s=at_s):
            return iter([(at_s, None)] * count)
        case AzureTrace():
            return _traced(kind, directory)
        case _:
            assert_never(kind)


def expected(kind: Arrivals, duration_s: float) -> float:
    """Return how many arrive before `duration_s` on average; of a trace, at most."""
    match kind:
        case Poisson(rate_per_s=rate_per_s):
            return rate_per_s * duration_s
        case Bursty():
            return mean_rate_per_s(kind) * duration_s
        case Periodic(interval_s=interval_s):
            return duration_s / interval_s
        case AtOnce(count=count):
            return count
        case AzureTrace(jobs_max=jobs_max):
            return jobs_max
        case _:
            assert_never(kind)


def mean_rate_per_s(kind: Bursty) -> float:
    """Return how many arrive in a second, over a long time."""
    total_s = kind.low_mean_s + kind.high_mean_s
    return (kind.low_per_s * kind.low_mean_s + kind.high_per_s * kind.high_mean_s) / total_s


def _poisson(rate_per_s: float, rng: random.Random) -> Iterator[Arrival]:
    at_s = 0.0
    while True:
        at_s += rng.expovariate(rate_per_s)
        yield at_s, None


def _bursty(kind: Bursty, rng: random.Random) -> Iterator[Arrival]:
    rates_per_s = (kind.low_per_s, kind.high_per_s)
    means_s = (kind.low_mean_s, kind.high_mean_s)
    state = int(rng.random() * sum(means_s) >= means_s[0])
    begins_s = 0.0
    while True:
        ends_s = begins_s + rng.expovariate(1 / means_s[state])
        if rates_per_s[state] > 0:
            # Memoryless: what is under way at a change may be drawn anew.
            at_s = begins_s + rng.expovariate(rates_per_s[state])
            while at_s < ends_s:
                yield at_s, None
                at_s += rng.expovariate(rates_per_s[state])
        begins_s, state = ends_s, 1 - state


# --- traces ----------------------------------------------------------------------------------


def _traced(kind: AzureTrace, directory: str | Path) -> Iterator[Arrival]:
    """Return the calls of a trace, the first at 0, as many as there may be, speeded up."""
    calls = sorted(read_azure(Path(directory) / kind.path, kind.jobs_max))
    first_s = calls[0][0] if calls else 0.0
    return iter([((began_s - first_s) / kind.speed_up, took_s) for began_s, took_s in calls])


def read_azure(path: Path, rows_max: int) -> list[tuple[float, float]]:
    """Return begin and duration of each call in the first so many rows, in seconds.

    Raises `ScenarioError` with the line of what is wrong.
    """
    calls: list[tuple[float, float]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            if any(name not in header for name in AZURE_COLUMNS):
                raise ScenarioError(
                    f"{path}, line 1", f"columns must be {', '.join(AZURE_COLUMNS)}"
                )
            end, duration = header.index("end_timestamp"), header.index("duration")
            for row in rows:
                if len(calls) == rows_max:
                    break
                if row:
                    calls.append(_call(row, end, duration, f"{path}, line {rows.line_num}"))
    except (OSError, UnicodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScenarioError(str(path), str(reason)) from None
    return calls


def _call(row: list[str], end: int, duration: int, place: str) -> tuple[float, float]:
    if len(row) <= max(end, duration):
        raise ScenarioError(place, f"{len(row)} fields, must be {len(AZURE_COLUMNS)}")
    try:
        ended_s, took_s = float(row[end]), float(row[duration])
    except ValueError:
        ended_s = took_s = math.nan
    if not (math.isfinite(ended_s) and 0 <= took_s <= TRACE_DURATION_MAX_S):
        raise ScenarioError(
            place,
            f"end_timestamp {row[end][:40]!r}, duration {row[duration][:40]!r}: "
            f"must be seconds, the second 0 to {TRACE_DURATION_MAX_S:g}",
        )
    return ended_s - took_s, took_s
