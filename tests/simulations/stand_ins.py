"""Simulators that are quick and well known, for tests of all that is around one."""

import errno
import os
import random
import signal
import tempfile
import time

from simulations import topology
from simulations.errors import ScenarioError
from simulations.metrics import Metrics
from simulations.scenario import Scenario
from simulations.simulate import Failure, Options, Result
from simulations.trace import Trace

HERE = "tests.simulations.stand_ins"


def steady(scenario: Scenario, seed: int, options: Options) -> Result:
    """Jobs that take exponential times, from a seed and nothing else."""
    rng = random.Random(f"{seed}")
    trace, metrics, at_s = Trace(options.keep), Metrics(), 0.0
    while at_s < scenario.duration_s:
        took_s = rng.expovariate(5)
        trace.record(at_s, "job", node="n0", job=f"j{trace.length}", state="succeeded", took=took_s)
        metrics.observe("job.sojourn_s", at_s, took_s, node="n0", label="short")
        metrics.observe("job.succeeded", at_s, 1.0, node="n0", label="short")
        metrics.observe("queue.length", at_s, 2.0, node="n0")
        at_s += rng.expovariate(1)
        if options.progress is not None:
            options.progress(at_s)
    return Result(
        seed=seed,
        trace_hash=trace.digest(),
        metrics=metrics,
        virtual_s=scenario.duration_s,
        cpu_s=0.25,
        events=trace.length,
        graph=topology.build(scenario.topology, scenario.link, random.Random(seed)),
    )


def breaking(scenario: Scenario, seed: int, options: Options) -> Result:
    """An invariant that does not hold where the seed is even."""
    result = steady(scenario, seed, options)
    if seed % 2:
        return result
    failure = Failure(at_s=12.5, node="n3", what="I2: job 7 has two ends")
    return Result(
        seed=seed,
        trace_hash=result.trace_hash,
        metrics=result.metrics,
        virtual_s=12.5,
        cpu_s=0.1,
        events=result.events,
        failure=failure,
    )


def leaking(scenario: Scenario, seed: int, options: Options) -> Result:
    """What a hash of texts can reach: the order of a set."""
    trace = Trace(options.keep)
    trace.record(0.0, "node", node="n0", state="up")
    for name in {f"n{number}" for number in range(1, 30)}:
        trace.record(1.0, "node", node=name, state="up")
    return Result(
        seed=seed,
        trace_hash=trace.digest(),
        metrics=Metrics(),
        virtual_s=1.0,
        cpu_s=0.1,
        events=trace.length,
    )


def refusing(scenario: Scenario, seed: int, options: Options) -> Result:
    """What cannot be run."""
    raise ScenarioError("topology.name", "no network 'atlantis'")


def killed(scenario: Scenario, seed: int, options: Options) -> Result:
    """A process that the system ends, as when memory is short, in the middle of its work."""
    tempfile.mkdtemp()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def faulty(scenario: Scenario, seed: int, options: Options) -> Result:
    """A fault of a simulator."""
    raise ZeroDivisionError("of the simulator")


def greedy(scenario: Scenario, seed: int, options: Options) -> Result:
    """More memory than there is, and not touched."""
    bytearray(1 << 46)
    raise AssertionError


def full(scenario: Scenario, seed: int, options: Options) -> Result:
    """A disk on which there is no room."""
    raise OSError(errno.ENOSPC, "No space left on device")


def endless(scenario: Scenario, seed: int, options: Options) -> Result:
    """One that somebody has to end."""
    while True:
        assert options.progress is not None
        options.progress(1.0)
        time.sleep(0.01)


def leaking_metrics(scenario: Scenario, seed: int, options: Options) -> Result:
    """What a hash of texts reaches in the metrics only."""
    metrics = Metrics()
    for name in {f"n{number}" for number in range(1, 30)}:
        metrics.observe("queue.length", 0.0, 1.0, node=name)
    trace = Trace(options.keep)
    return Result(
        seed=seed,
        trace_hash=trace.digest(),
        metrics=metrics,
        virtual_s=1.0,
        cpu_s=0.1,
        events=trace.length,
    )
