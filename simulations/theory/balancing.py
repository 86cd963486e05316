"""Which of many nodes takes a job: what knowing their queues is worth.

N nodes with a worker each, Poisson arrivals N rho a second, exponential runs of mean 1 (times scale
with the mean).  Chosen at random, each node is an M/M/1 queue.  The shorter of two queues looked at
by chance: the share of nodes with at least k jobs falls as rho^(2^k - 1) where there are many nodes
(Vvedenskaya, Dobrushin and Karpelevich 1996; Mitzenmacher 2001).  A few nodes do somewhat worse;
the correction of order 1 / N is Gast and Van Houdt, A Refined Mean Field Approximation (2017),
theorem 1, for two different nodes.  The shortest of all is at best a single queue (M/M/N).

Old news misleads: if all look at one board that is written anew each `stale_s`, everybody runs to
the same few nodes (Mitzenmacher, How Useful Is Old Information?, 2000).  That has no closed form,
nor has the shortest of all: `played_sojourn_s` plays such queues, without nodes or jobs.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy
from numpy.typing import NDArray
from scipy import linalg

from simulations.theory.queues import mmc_wait_s

Policy: TypeAlias = Literal["random", "two-choices", "shortest", "stale"]
"""Who takes a job: any node, the shorter of two, the shortest of all, or by an old board."""

_Vector: TypeAlias = NDArray[numpy.float64]
_TAIL = 1e-12
"""Shares of nodes below are 0."""


def random_at_least(rho: float, length: int) -> float:
    """Return the share of nodes with at least so many jobs, if any node takes a job."""
    return rho**length


def two_choices_at_least(rho: float, length: int) -> float:
    """Return the same if the shorter of two queues does, for very many nodes."""
    return float(rho ** (2.0**length - 1))


def random_sojourn_s(rho: float, run_mean_s: float = 1.0) -> float:
    """Return the mean time from arrival to end, if any node takes a job (M/M/1)."""
    return run_mean_s / (1 - rho)


def two_choices_sojourn_s(rho: float, nodes: int | None = None, run_mean_s: float = 1.0) -> float:
    """Return the same if the shorter of two queues does.

    `nodes` is how many there are, corrected to order 1 / N; `None`: very many.
    """
    shares = _shares(rho)
    jobs = float(shares.sum())
    if nodes is not None:
        jobs += float(_correction(rho, shares).sum()) / nodes
    return jobs / rho * run_mean_s


def shortest_sojourn_least_s(rho: float, nodes: int, run_mean_s: float = 1.0) -> float:
    """Return the least that the shortest of all queues can do: all nodes work off one queue."""
    return run_mean_s + mmc_wait_s(rho * nodes / run_mean_s, run_mean_s, nodes)


def played_sojourn_s(
    policy: Policy,
    rho: float,
    nodes: int,
    rng: random.Random,
    *,
    stale_s: float = 0.0,
    jobs: int = 100_000,
) -> float:
    """Return the mean time from arrival to end by playing queues and nothing else; runs of mean 1.

    For what has no closed form: "shortest" (of all, ties by lot), and "stale": the same by a board
    on which all lengths were written at each multiple of `stale_s`.  "random" and "two-choices" are
    there so that this can be compared with what is known.  The first tenth is dropped.
    """
    queues: list[deque[float]] = [deque() for _ in range(nodes)]  # when each job there ends
    now_s, total_s, board_s = 0.0, 0.0, 0.0
    board = list(range(nodes))
    for number in range(jobs):
        now_s += rng.expovariate(nodes * rho)
        if policy == "random":
            chosen = rng.randrange(nodes)
        elif policy == "two-choices":
            chosen = rng.choice(_least(queues, rng.sample(range(nodes), 2), now_s))
        elif policy == "shortest":
            chosen = rng.choice(_least(queues, range(nodes), now_s))
        else:
            if now_s >= board_s:
                board_s = now_s // stale_s * stale_s
                board = _least(queues, range(nodes), board_s)
                board_s += stale_s
            chosen = rng.choice(board)
        queue = queues[chosen]
        start_s = max(now_s, queue[-1]) if queue else now_s
        queue.append(start_s + rng.expovariate(1.0))
        if number >= jobs // 10:
            total_s += queue[-1] - now_s
    return total_s / (jobs - jobs // 10)


def _least(queues: Sequence[deque[float]], among: Sequence[int], now_s: float) -> list[int]:
    """Return the nodes with the fewest jobs."""
    for node in among:
        queue = queues[node]
        while queue and queue[0] <= now_s:
            queue.popleft()
    least = min(len(queues[node]) for node in among)
    return [node for node in among if len(queues[node]) == least]


def _shares(rho: float) -> _Vector:
    if not 0 < rho < 1:
        raise ValueError("rho must be between 0 and 1")
    most = 1
    while two_choices_at_least(rho, most) > _TAIL:
        most += 1
    return numpy.array([two_choices_at_least(rho, length) for length in range(1, most + 1)])


def _correction(rho: float, shares: _Vector) -> _Vector:
    """Return N times the difference that a finite N makes to each share.

    x_k moves by rho (x_{k-1}^2 - x_k^2) - (x_k - x_{k+1}); `drift` is its Jacobian at the fixed
    point, `noise` the rates of its jumps, `spread` the covariance that follows, and `curved` what
    the second derivative makes of that, with the term of looking at two different nodes.
    """
    count = len(shares)
    before = numpy.concatenate(([1.0], shares[:-1]))
    after = numpy.concatenate((shares[1:], [0.0]))
    drift = numpy.zeros((count, count))
    for k in range(count):
        drift[k, k] = -2 * rho * shares[k] - 1
        if k > 0:
            drift[k, k - 1] = 2 * rho * shares[k - 1]
        if k + 1 < count:
            drift[k, k + 1] = 1
    noise = numpy.diag(rho * (before**2 - shares**2) + (shares - after))
    spread = linalg.solve_continuous_lyapunov(drift, -noise)
    variances = numpy.diag(spread)
    variances_before = numpy.concatenate(([0.0], variances[:-1]))
    curved = rho * (variances_before - variances)
    curved -= rho * ((before - before**2) - (shares - shares**2))
    return numpy.asarray(-numpy.linalg.solve(drift, curved), dtype=numpy.float64)
