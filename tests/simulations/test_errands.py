"""The four ways to get a result, each with one client that is away at a known time."""

import pytest

from simulations.faults import Crash
from simulations.scenario import Clients, Function, Workers
from tests.simulations.plays import events, job, played, scenario, value

HERE_FIVE_OF_EIGHT = [Clients(name="people", count=1, up_s=5.0, down_s=3.0)]
"""One client: up from 0 to 5, down from 5 to 8, up from 8 to 13, ..."""


def test_an_async_job_goes_on_without_its_client_who_reads_the_result_when_back() -> None:
    # From 4 to 6; the client is away from 5 to 8.
    load = [job(at_s=4.0, clients="people")]
    described = scenario(
        clients=HERE_FIVE_OF_EIGHT,
        functions=[Function(name="short", duration_s=2.0)],
        load=load,
    )
    result = played(described)
    assert value(result, "job.succeeded") == 1.0
    assert value(result, "job.sojourn_s") == pytest.approx(2.0)
    assert value(result, "job.result_s") == pytest.approx(4.0)
    assert value(result, "job.extra_s") == pytest.approx(2.0)
    assert value(result, "job.wasted_s") == 0.0
    assert value(result, "job.connected_s") == 0.0


def test_a_sync_job_whose_client_leaves_is_cancelled_and_its_work_is_wasted() -> None:
    described = scenario(
        clients=HERE_FIVE_OF_EIGHT,
        functions=[Function(name="short", duration_s=2.0)],
        load=[job("sync", at_s=4.0, clients="people")],
    )
    result = played(described)
    assert value(result, "job.succeeded") == 0.0
    assert value(result, "job.wasted_s") == pytest.approx(1.0)
    assert value(result, "job.connected_s") == pytest.approx(1.0)
    states = [event["state"] for event in events(described, "job")]
    assert states[0] == "running"
    assert states[-1] == "cancelled"


def test_a_sync_job_that_ends_before_its_client_leaves_succeeds() -> None:
    load = [job("sync", at_s=3.5, clients="people")]
    result = played(scenario(clients=HERE_FIVE_OF_EIGHT, load=load))
    assert value(result, "job.succeeded") == 1.0
    assert value(result, "job.result_s") == value(result, "job.connected_s") == pytest.approx(1.0)


def test_a_retrying_client_begins_anew_when_it_is_back() -> None:
    described = scenario(
        clients=HERE_FIVE_OF_EIGHT,
        functions=[Function(name="short", duration_s=2.0)],
        load=[job("sync-retry", at_s=4.0, clients="people")],
    )
    result = played(described)
    assert value(result, "job.succeeded") == 1.0
    assert value(result, "job.tries") == 2.0
    assert value(result, "job.result_s") == pytest.approx(6.0)  # 1 wasted, 3 away, 2
    assert value(result, "job.wasted_s") == pytest.approx(1.0)
    assert value(result, "job.run_s") == pytest.approx(3.0)


def test_a_resuming_client_finds_the_job_that_it_left() -> None:
    described = scenario(
        clients=HERE_FIVE_OF_EIGHT,
        functions=[Function(name="short", duration_s=2.0)],
        load=[job("sync-resume", at_s=4.0, clients="people")],
    )
    result = played(described)
    assert value(result, "job.succeeded") == 1.0
    assert value(result, "job.attempts") == 1.0
    assert value(result, "job.tries") == 2.0
    assert value(result, "job.result_s") == pytest.approx(4.0)
    assert value(result, "job.connected_s") == pytest.approx(1.0)  # the second found it done


def test_a_sync_job_over_its_time_limit_is_cancelled() -> None:
    load = [job("sync", time_limit_s=0.25)]
    result = played(scenario(load=load))
    assert value(result, "job.succeeded") == 0.0
    assert value(result, "job.wasted_s") == pytest.approx(0.25)


def test_a_client_that_polls_learns_of_the_end_at_its_next_look() -> None:
    result = played(scenario(load=[job(poll_s=0.75)]))
    assert value(result, "job.sojourn_s") == pytest.approx(1.0)
    assert value(result, "job.result_s") == pytest.approx(1.5)


def test_the_way_to_the_node_and_back_counts() -> None:
    clients = [Clients(name="far", count=1, latency_s=0.1)]
    for model, result_s in (("async", 1.2), ("sync", 1.2)):
        result = played(scenario(clients=clients, load=[job(model, clients="far")]))
        assert value(result, "job.result_s") == pytest.approx(result_s)
        assert value(result, "request.latency_s") == pytest.approx(0.2)


def test_a_sync_job_breaks_with_its_node_and_an_async_one_is_there_again_with_it() -> None:
    crash = [Crash(at_s=0.5, nodes=[0], for_s=2.0)]
    load = [job("sync", label="sync"), job("async", label="async")]
    described = scenario(workers=[Workers(slots=2)], load=load, faults=crash)
    result = played(described)
    assert value(result, "job.succeeded", "sync") == 0.0
    assert value(result, "job.succeeded", "async") == 1.0
    assert value(result, "job.lost", "async") == 0.0
    assert value(result, "job.result_s", "async") >= 2.5


def test_an_async_client_hands_in_when_its_node_is_up() -> None:
    crash = [Crash(at_s=0.5, nodes=[0], for_s=3.0)]
    result = played(scenario(load=[job(at_s=1.0)], faults=crash))
    assert value(result, "job.succeeded") == 1.0
    assert value(result, "job.tries") > 1.0
    assert 1.0 in result.metrics.values("request.failed")


def test_what_is_open_when_the_run_ends_has_not_succeeded() -> None:
    functions = [Function(name="short", duration_s=500.0)]
    result = played(scenario(functions=functions, load=[job()]))
    assert value(result, "job.succeeded") == 0.0
    assert result.metrics.values("job.result_s") == []


def test_a_function_that_needs_what_no_worker_of_its_node_has_waits_for_ever() -> None:
    functions = [Function(name="short", requires={"labels": {"gpu": "yes"}})]
    workers = [Workers(nodes=[0]), Workers(nodes=[1], labels={"gpu": "yes"})]
    for node, succeeded in ((0, 0.0), (1, 1.0)):
        load = [job(nodes=[node])]
        result = played(scenario(nodes=2, functions=functions, load=load, workers=workers))
        assert value(result, "job.succeeded") == succeeded
