"""Workers that are not alike: some faster, some the only ones that will do.

A worker of speed s does a job of length X in X / s.  With Poisson arrivals and exponential lengths:

* no way of giving out jobs beats one worker of all speeds together (`pooled_sojourn_s`: it works
  at the full rate whenever there is anything to do, the others only when all have work);
* `split_sojourn_s` knows nothing of queues: each job goes to a worker by chance, as likely as the
  worker is fast.  Whoever looks which workers are free should do better;
* `ordered_sojourn_s` is exact for one queue whose first job goes to the free worker that is first
  in an order: a Markov chain over which workers are busy, with a geometric queue where all are.
  Source: Gumbel 1960 for the chain; the tail is Kleinrock I, 3.5.

What fits only some workers: nothing serves more than a maximal flow from kinds of jobs to kinds of
workers (Ford and Fulkerson 1956; Hall 1935 for one job a worker).
"""

import math
from collections.abc import Mapping, Sequence

import networkx
import numpy


def pooled_sojourn_s(arrivals_per_s: float, length_mean_s: float, speeds: Sequence[float]) -> float:
    """Return the mean time from arrival to end at one worker as fast as all: a lower bound."""
    return 1 / (_left_per_s(arrivals_per_s, length_mean_s, speeds))


def split_sojourn_s(arrivals_per_s: float, length_mean_s: float, speeds: Sequence[float]) -> float:
    """Return the same if jobs go to workers by chance, in proportion to their speeds.

    Each is an M/M/1 queue and equally busy; the mean over jobs comes to their number times the
    pooled one.
    """
    return len(speeds) / _left_per_s(arrivals_per_s, length_mean_s, speeds)


def ordered_sojourn_s(
    arrivals_per_s: float, length_mean_s: float, speeds: Sequence[float]
) -> float:
    """Return the same if a job takes the first free worker of `speeds`, and waits if none is.

    The order of `speeds` is the order of preference; its length is at most 12 (2^n states).
    """
    count = len(speeds)
    if count > 12:
        raise ValueError("too many workers for the exact chain")
    _left_per_s(arrivals_per_s, length_mean_s, speeds)
    rates = [speed / length_mean_s for speed in speeds]
    states = 1 << count
    flow = numpy.zeros((states, states))  # flow[i, j]: rate from i to j
    for state in range(states):
        free = [worker for worker in range(count) if not state >> worker & 1]
        if free:
            flow[state, state | 1 << free[0]] += arrivals_per_s
        for worker in range(count):
            if state >> worker & 1:
                flow[state, state & ~(1 << worker)] += rates[worker]
    # What leaves "all busy" for a queue comes back: in balance both cancel.
    balance = (flow - numpy.diag(flow.sum(axis=1))).T
    balance[0] = 1.0
    right = numpy.zeros(states)
    right[0] = 1.0
    shares = numpy.linalg.solve(balance, right)
    ratio = arrivals_per_s / sum(rates)
    waiting = shares[-1] * ratio / (1 - ratio)
    present = sum(shares[state] * state.bit_count() for state in range(states))
    present += shares[-1] * (count * ratio / (1 - ratio) + ratio / (1 - ratio) ** 2)
    return float(present / (1 + waiting) / arrivals_per_s)


def makespan_least_s(lengths_s: Sequence[float], speeds: Sequence[float]) -> float:
    """Return how long a batch takes at least: all work over all speed, the longest at the fastest.

    Between them, the k longest at the k fastest (Gonzalez, Ibarra and Sahni 1977).
    """
    longest = sorted(lengths_s, reverse=True)
    fastest = sorted(speeds, reverse=True)
    few = min(len(longest), len(fastest))
    return max(
        sum(longest) / sum(fastest),
        *(sum(longest[:count]) / sum(fastest[:count]) for count in range(1, few + 1)),
    )


def served_most_per_s(
    offered_per_s: Mapping[str, float],
    capacity_per_s: Mapping[str, float],
    fits: Mapping[str, Sequence[str]],
) -> float:
    """Return how many jobs a second can be served at most.

    Args:
        offered_per_s: For each kind of jobs, how many arrive.
        capacity_per_s: For each kind of workers, how many they can do.
        fits: For each kind of jobs, the kinds of workers that fit.
    """
    graph = networkx.DiGraph()
    for kind, rate in offered_per_s.items():
        graph.add_edge("from", ("job", kind), capacity=rate)
        for worker in fits[kind]:
            graph.add_edge(("job", kind), ("worker", worker))  # no capacity: without limit
    for worker, rate in capacity_per_s.items():
        graph.add_edge(("worker", worker), "to", capacity=rate)
    return float(networkx.maximum_flow_value(graph, "from", "to"))


def _left_per_s(arrivals_per_s: float, length_mean_s: float, speeds: Sequence[float]) -> float:
    left = math.fsum(speeds) / length_mean_s - arrivals_per_s
    if left <= 0:
        raise ValueError("more arrives than can be served")
    return left
