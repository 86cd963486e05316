import statistics
from pathlib import Path

import pytest

from simulations import virtual_workers
from simulations.distributions import Exponential
from simulations.faults import Crash
from simulations.scenario import Function, Load, Poisson, Probe, Workers
from tests.simulations.plays import events, job, played, scenario, value
from worker import agent


def test_the_agent_is_the_one_that_real_workers_have() -> None:
    assert virtual_workers.run_agent is agent.run_agent


def test_a_job_takes_its_duration_divided_by_the_speed_of_its_worker() -> None:
    result = played(scenario(workers=[Workers(speed=4.0)], load=[job()]))
    assert value(result, "job.run_s") == pytest.approx(0.25)


def test_each_slot_runs_one_job_at_a_time() -> None:
    result = played(scenario(workers=[Workers(slots=2)], load=[job(count=5)]))
    ended = sorted(result.metrics.values("job.sojourn_s"))
    assert ended == pytest.approx([1.0, 1.0, 2.0, 2.0, 3.0])


def test_a_busy_worker_counts_its_busy_slots() -> None:
    probes = [Probe(metrics=["worker.busy", "queue.length"], each_s=0.3)]
    described = scenario(workers=[Workers(slots=4)], load=[job(count=6)], probes=probes)
    result = played(described)
    assert result.metrics.values("worker.busy")[:7] == [1.0] * 3 + [0.5] * 3 + [0.0]
    assert result.metrics.values("queue.length")[:4] == [2.0, 2.0, 2.0, 0.0]


def test_a_lost_worker_comes_back_as_itself_and_its_job_runs_again() -> None:
    workers = [Workers(crash_mean_s=5.0, back_s=1.0)]
    functions = [Function(name="short", duration_s=4.0, retries_max=99)]
    described = scenario(workers=workers, functions=functions, load=[job(count=5)], drain_s=150.0)
    result = played(described)
    assert result.metrics.values("job.lost") == [0.0] * 5
    assert sum(result.metrics.values("job.reexecutions")) > 0
    assert sum(result.metrics.values("job.wasted_s")) > 0
    workers_seen = {event.get("worker") for event in events(described, "job")} - {None}
    assert workers_seen == {"worker-0-0-0"}


def test_a_job_that_is_lost_too_often_is_not_tried_for_ever() -> None:
    workers = [Workers(crash_mean_s=1.0, back_s=0.5)]
    functions = [Function(name="short", duration_s=100.0, retries_max=2)]
    described = scenario(workers=workers, functions=functions, load=[job()])
    result = played(described)
    assert value(result, "job.succeeded") == 0.0
    assert value(result, "job.attempts") <= 3.0


def test_a_worker_keeps_its_job_while_its_node_is_down() -> None:
    functions = [Function(name="short", duration_s=10.0)]
    faults = [Crash(at_s=2.0, nodes=[0], for_s=3.0)]
    result = played(scenario(functions=functions, load=[job()], faults=faults))
    assert value(result, "job.attempts") == 1.0
    assert value(result, "job.run_s") == pytest.approx(10.0)


def test_results_of_any_size_come_back() -> None:
    for result_bytes in (0, 10_000, 2_000_000):
        functions = [Function(name="short", duration_s=1.0, result_bytes=result_bytes)]
        result = played(scenario(functions=functions, load=[job()]))
        assert value(result, "job.succeeded") == 1.0


def test_one_worker_with_poisson_arrivals_is_an_m_m_1_queue() -> None:
    # Utilisation 0.5: the mean time in the system is 1 / (mu - lambda) = 0.2 s.
    described = scenario(
        duration_s=300.0,
        functions=[Function(name="short", duration_s=Exponential(mean=0.1))],
        load=[Load(function="short", arrivals=Poisson(rate_per_s=5.0))],
    )
    result = played(described, seed=7)
    sojourn_s = result.metrics.values("job.sojourn_s")
    assert len(sojourn_s) == pytest.approx(1_500, rel=0.1)
    assert statistics.fmean(sojourn_s) == pytest.approx(0.2, rel=0.15)


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    played(scenario(load=[job()]))
    assert list(tmp_path.iterdir()) == []
