"""Jobs that arrive by chance and wait for one of several workers that are alike.

Notation of the field: lambda arrivals a second, S the run time, c workers, rho = lambda E[S] / c
how busy they are.  Sources: Kleinrock, Queueing Systems I (M/M/c: 3.5; M/G/1: 5.6); Allen,
Probability, Statistics and Queueing Theory, 5.3 (M/G/c, an approximation); Little 1961.
"""

import math
from typing import assert_never

from simulations.distributions import (
    Distribution,
    Exponential,
    Hyperexponential,
    Lognormal,
    Pareto,
    Uniform,
    mean,
)


def second_moment(distribution: Distribution) -> float:
    """Return E[X^2]; without regard to a `maximum`, infinite where there is none."""
    match distribution:
        case float() | int():
            return float(distribution) ** 2
        case Uniform(low=low, high=high):
            return (low * low + low * high + high * high) / 3
        case Exponential(mean=expected):
            return 2 * expected**2
        case Lognormal(median=median, sigma=sigma):
            return median**2 * math.exp(2 * sigma**2)
        case Pareto(minimum=minimum, shape=shape):
            return math.inf if shape <= 2 else minimum**2 * shape / (shape - 2)
        case Hyperexponential(mean_short=short, mean_long=long, share_long=share):
            return 2 * (share * long**2 + (1 - share) * short**2)
        case _:
            assert_never(distribution)


def longer_than(distribution: Distribution, limit_s: float) -> float:
    """Return P(X > limit): what a time limit cuts off. Raises `ValueError` if not known here."""
    match distribution:
        case float() | int():
            return float(distribution > limit_s)
        case Exponential(mean=expected):
            return math.exp(-limit_s / expected)
        case Hyperexponential(mean_short=short, mean_long=long, share_long=share):
            return share * math.exp(-limit_s / long) + (1 - share) * math.exp(-limit_s / short)
        case Uniform(low=low, high=high):
            return min(1.0, max(0.0, (high - limit_s) / (high - low)))
        case Pareto(minimum=minimum, shape=shape):
            return 1.0 if limit_s < minimum else (minimum / limit_s) ** shape
        case Lognormal(median=median, sigma=sigma):
            return math.erfc(math.log(limit_s / median) / (sigma * math.sqrt(2))) / 2
        case _:
            assert_never(distribution)


def load(arrivals_per_s: float, run: Distribution, workers: int = 1) -> float:
    """Return rho. Raises `ValueError` from 1 on: then the queue grows without end."""
    rho = arrivals_per_s * mean(run) / workers
    if rho >= 1:
        raise ValueError(f"more arrives than can be served: {rho:.3g}")
    return rho


def erlang_b(offered: float, workers: int) -> float:
    """Return the share of jobs that find all workers busy where none may wait.

    `offered` is lambda E[S].  By the recursion in the number of workers, which is stable.
    """
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def erlang_c(offered: float, workers: int) -> float:
    """Return the share of jobs that have to wait (M/M/c)."""
    if offered >= workers:
        raise ValueError("more arrives than can be served")
    blocked = erlang_b(offered, workers)
    return workers * blocked / (workers - offered * (1 - blocked))


def mmc_wait_s(arrivals_per_s: float, run_mean_s: float, workers: int) -> float:
    """Return the mean wait before the run, M/M/c, over all jobs."""
    offered = arrivals_per_s * run_mean_s
    return erlang_c(offered, workers) * run_mean_s / (workers - offered)


def mmc_waits_longer(
    arrivals_per_s: float, run_mean_s: float, workers: int, limit_s: float
) -> float:
    """Return P(wait > limit), M/M/c, first come first served."""
    offered = arrivals_per_s * run_mean_s
    return erlang_c(offered, workers) * math.exp(-(workers - offered) * limit_s / run_mean_s)


def mg1_wait_s(arrivals_per_s: float, run: Distribution) -> float:
    """Return the mean wait before the run, one worker, any run times (Pollaczek and Khinchin)."""
    rho = load(arrivals_per_s, run)
    return arrivals_per_s * second_moment(run) / (2 * (1 - rho))


def mgc_wait_about_s(arrivals_per_s: float, run: Distribution, workers: int) -> float:
    """Return about the mean wait, several workers, any run times (Allen and Cunneen).

    A guide and no verdict: exact only for one worker, or for exponential runs.
    """
    load(arrivals_per_s, run, workers)
    variation = second_moment(run) / mean(run) ** 2 - 1
    return mmc_wait_s(arrivals_per_s, mean(run), workers) * (1 + variation) / 2


def at_a_time(arrivals_per_s: float, stay_s: float) -> float:
    """Return how many are there on average (Little): connections held, jobs in a node."""
    return arrivals_per_s * stay_s
