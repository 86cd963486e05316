"""Small scenarios of swarms, and runs of them."""

import tomllib
from pathlib import Path

import msgspec

from simulations.scenario import Scenario
from simulations.simulate import Options, Result, simulate

ROOT = Path(__file__).parent.parent.parent
HEAD = """
name = "swarm"
driver = "swarm"
duration_s = 60
drain_s = 30

[topology]
kind = "regular"
nodes = 16
degree = 4

[link]
latency_s = { kind = "lognormal", median = 0.04, sigma = 0.35 }
"""
UPDATES = """
[[updates]]
what = "kv"
arrivals = { kind = "periodic", interval_s = 2 }
size_bytes = 300
"""
BLOBS = """
[[updates]]
what = "blob"
keys = 3
arrivals = { kind = "periodic", interval_s = 25 }
size_bytes = 30000
reads = { kind = "poisson", rate_per_s = 4 }
"""
TROUBLE = """
[[faults]]
kind = "partition"
at_s = 5
for_s = 10
nodes = 8

[[faults]]
kind = "crash"
at_s = 20
for_s = 5
nodes = [0, 1, 2]

[[faults]]
kind = "byzantine"
at_s = 30
nodes = [5]

[[faults]]
kind = "churn"
at_s = 35
nodes = [8, 9]
up_s = 4
down_s = { kind = "exponential", mean = 4 }

[[faults]]
kind = "flapping"
at_s = 40
for_s = 10
nodes = [14]
up_s = 2
down_s = 2
"""


def scenario(text: str = UPDATES, head: str = HEAD) -> Scenario:
    return msgspec.convert(tomllib.loads(head + text), Scenario)


def run(text: str = UPDATES, seed: int = 1, *, checking: bool = False, head: str = HEAD) -> Result:
    result = simulate(scenario(text, head), seed, Options(checking=checking))
    assert result.failure is None, result.failure.traceback
    return result


def trouble_hash(seed: int) -> str:
    """Return the trace hash of a run with everything in it. Also run by other processes."""
    return run(UPDATES + BLOBS + TROUBLE, seed).trace_hash
