"""A caller who comes and goes, or a worker that crashes, while something takes its time.

Both are the same mathematics: somebody is up for an exponential time with mean `up_s` (U), then
away for a time with mean `down_s` (D), by turns, and what was under way when he left is lost.
Because up times are memoryless it does not matter how long he had been up when the run began.

With a fixed run time S and theta = 1 / U (Ross, Introduction to Probability Models, chapter 5, for
memorylessness; the rest follows by conditioning on the first break):

* it ends before the break with probability exp(-theta S);
* until the break or the end it takes U (1 - exp(-theta S)) on average;
* begun anew until it succeeds, it takes exp(theta S) tries and (U + D) (exp(theta S) - 1) in all;
* one that was up at the start is away S later with probability
  D / (U + D) * (1 - exp(-(1 / U + 1 / D) S)), and then for D longer (down times exponential).
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
)


def transform(distribution: Distribution, rate_per_s: float) -> float:
    """Return E[exp(-rate X)], the Laplace-Stieltjes transform: what no break has hit.

    Raises `ValueError` for a distribution that has no closed form.
    """
    match distribution:
        case float() | int():
            return math.exp(-rate_per_s * distribution)
        case Exponential(mean=mean):
            return 1 / (1 + rate_per_s * mean)
        case Hyperexponential(mean_short=short, mean_long=long, share_long=share):
            return share / (1 + rate_per_s * long) + (1 - share) / (1 + rate_per_s * short)
        case Uniform(low=low, high=high):
            if rate_per_s * (high - low) < 1e-9:
                return math.exp(-rate_per_s * (low + high) / 2)
            over = math.exp(-rate_per_s * low) - math.exp(-rate_per_s * high)
            return over / (rate_per_s * (high - low))
        case Lognormal() | Pareto():
            raise ValueError("no closed form of its transform")
        case _:
            assert_never(distribution)


def unbroken(run: Distribution, up_s: float) -> float:
    """Return how likely it is that a run ends before its caller (or worker) goes."""
    return transform(run, 1 / up_s)


def unbroken_in_queue(arrivals_per_s: float, served_per_s: float, up_s: float) -> float:
    """Return the same for a run that waits first: one worker, Poisson arrivals, exponential runs.

    The time in such a queue (M/M/1, first come first served) is exponential with rate mu - lambda.
    Source: Kleinrock, Queueing Systems I, 5.7.
    """
    left = served_per_s - arrivals_per_s
    if left <= 0:
        raise ValueError("more arrives than can be served")
    return left / (left + 1 / up_s)


def held_s(run: Distribution, up_s: float) -> float:
    """Return how long a run and its connection last: to their end or to the break."""
    return up_s * (1 - unbroken(run, up_s))


def wasted_share(run_s: float, up_s: float) -> float:
    """Return the share of working time spent on runs that broke, if none is begun anew."""
    return 1 - run_s * unbroken(run_s, up_s) / held_s(run_s, up_s)


def tries(run_s: float, up_s: float) -> float:
    """Return how often a run is begun until it ends unbroken."""
    return math.exp(run_s / up_s)


def tries_exponential(run_mean_s: float, up_s: float) -> float:
    """Return the same over runs whose length is exponential, and the same at each try.

    Infinite where runs are as long as `up_s`: few are, and those are tried without end.
    """
    return math.inf if run_mean_s >= up_s else up_s / (up_s - run_mean_s)


def retry_total_s(run_s: float, up_s: float, down_s: float) -> float:
    """Return how long it takes until a run that is always begun anew has ended once."""
    return (up_s + down_s) * math.expm1(run_s / up_s)


def retry_wasted_share(run_s: float, up_s: float) -> float:
    """Return the share of working time spent on tries that broke, if there is always another."""
    return 1 - run_s / (up_s * math.expm1(run_s / up_s))


def away(run_s: float, up_s: float, down_s: float) -> float:
    """Return how likely it is that one who was there at the start is away `run_s` later."""
    rate_per_s = 1 / up_s + 1 / down_s
    return -down_s / (up_s + down_s) * math.expm1(-rate_per_s * run_s)


def away_s(run_s: float, up_s: float, down_s: float) -> float:
    """Return how long a result waits for its caller, on average over all callers."""
    return down_s * away(run_s, up_s, down_s)


def present_s(run_s: float, up_s: float, down_s: float) -> float:
    """Return for how much of a run its caller is there: the integral of 1 - `away`."""
    rate_per_s = 1 / up_s + 1 / down_s
    share = down_s / (up_s + down_s)
    return run_s * (1 - share) - share * math.expm1(-rate_per_s * run_s) / rate_per_s


def poisoned(run_s: float, up_s: float, workers: int) -> float:
    """Return how likely it is that so many workers are lost to a run, one after another.

    Such a job is given up: `worker.Config.poison_workers`.
    """
    return (1 - unbroken(run_s, up_s)) ** workers


def tries_until_poisoned(run_s: float, up_s: float, workers: int) -> float:
    """Return how often a job is begun if it is given up when so many workers are lost."""
    lost = 1 - unbroken(run_s, up_s)
    return math.fsum(lost**number for number in range(workers))


def poll_wait_s(run_mean_s: float, poll_s: float) -> float:
    """Return how long the result of an exponential run waits for the next poll.

    Polls are at `poll_s`, 2 `poll_s` and so on after it was handed in, and its caller stays.  The
    number of polls is geometric; their mean less the run's is the wait (about `poll_s` / 2).
    """
    return poll_s / -math.expm1(-poll_s / run_mean_s) - run_mean_s
