import hashlib
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import trio

from simulations import chance, clock, topology
from simulations.calls import Unexpected, ask
from simulations.distributions import Exponential
from simulations.errands import decode_job
from simulations.errors import ScenarioError
from simulations.faults import Churn
from simulations.inline_functions import Models
from simulations.links import Lines
from simulations.metrics import Metrics
from simulations.play import Play
from simulations.scenario import (
    Clients,
    Function,
    Load,
    Poisson,
    Probe,
    Scenario,
    Updates,
    Workers,
)
from simulations.simulate import Options, Result, simulate
from simulations.stage import Stage, set_up
from simulations.trace import Trace
from simulations.world import World, open_world
from tests.simulations.plays import job, played, scenario

LASTS_S = 15.0
DRAINS_S = 120.0


def mixed() -> Scenario:
    """Return a bit of everything."""
    return scenario(
        nodes=3,
        duration_s=LASTS_S,
        clients=[Clients(name="people", count=5, up_s=Exponential(mean=10.0), down_s=2.0)],
        workers=[Workers(crash_mean_s=20.0)],
        functions=[Function(name="short", duration_s=Exponential(mean=0.5))],
        load=[
            Load(function="short", arrivals=Poisson(rate_per_s=0.5), model=model, clients="people")
            for model in ("async", "sync", "sync-retry", "sync-resume")
        ],
        updates=[Updates(what="kv", arrivals=Poisson(rate_per_s=1.0), keys=5)],
        faults=[Churn(up_s=Exponential(mean=20.0), down_s=Exponential(mean=3.0))],
        probes=[Probe(metrics=["digest.distinct", "worker.busy"], each_s=5.0)],
        drain_s=DRAINS_S,
    )


@pytest.fixture(scope="module")
def first() -> Result:
    return played(mixed())


def test_a_run_repeats_and_another_seed_is_another_run(first: Result) -> None:
    again, other = played(mixed()), played(mixed(), seed=2)
    assert first.trace_hash == again.trace_hash != other.trace_hash
    assert list(first.metrics) == list(again.metrics)
    assert first.events == again.events > 100
    assert first.virtual_s == LASTS_S + DRAINS_S


def test_a_run_is_the_same_in_another_process(first: Result) -> None:
    code = (
        "from tests.simulations.test_simulate import mixed; from simulations.simulate import "
        "simulate; print(simulate(mixed(), 1).trace_hash)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == first.trace_hash


def test_how_a_run_is_watched_changes_nothing(first: Result) -> None:
    lines: list[str] = []
    times: list[float] = []
    watched = played(mixed(), keep=lines.append, progress=times.append, checking=True)
    assert watched.trace_hash == first.trace_hash
    data = "".join(line + "\n" for line in lines).encode()
    assert len(lines) == watched.events
    assert hashlib.sha256(data).hexdigest() == watched.trace_hash
    assert times == sorted(times)
    assert 150 < len(times) < 250


def test_a_result_knows_its_graph() -> None:
    result = played(scenario(nodes=3))
    assert result.graph is not None
    assert result.graph.size == 3


def test_a_scenario_that_cannot_be_run_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"load\[0\].function"):
        simulate(scenario(load=[Load(function="shrot", arrivals=Poisson(rate_per_s=1.0))]), 1)


def test_what_a_watcher_raises_is_passed_on() -> None:
    class Full(OSError):
        pass

    def keep(line: str) -> None:
        if '"job"' in line:
            raise Full

    with pytest.raises(Full):
        simulate(scenario(load=[job(at_s=2.0)]), 1, Options(keep=keep))


def test_what_nobody_expected_is_a_failure_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes) -> None:
        raise Unexpected(0, "a node answered 418: teapot")

    monkeypatch.setattr("simulations.errands.decode_job", refuse)
    result = simulate(scenario(load=[job(at_s=2.0)]), 1)
    assert result.failure is not None
    assert result.failure.at_s == pytest.approx(2.0)
    assert result.failure.node == "0"
    assert "teapot" in result.failure.what
    assert "decode_job" in result.failure.traceback
    assert result.metrics.values("request.failed") == [0.0]


def test_work_thrown_away_and_work_that_counts_add_up(first: Result) -> None:
    total_s = sum(first.metrics.values("job.run_s"))
    wasted_s = sum(first.metrics.values("job.wasted_s"))
    assert 0 < wasted_s < total_s
    assert set(first.metrics.values("job.lost")) == {0.0}
    for name in first.metrics.names():
        assert all(value >= 0 for value in first.metrics.values(name)), name


# --- the shipped examples ---------------------------------------------------------------------


def performed(described: Scenario, directory: Path, check: Any) -> Any:
    """Set a scenario's stage, and return what `check(world, stage)` returns."""
    graph = topology.build(described.topology, described.link, chance.named(1, "topology"))
    lines = Lines(graph, described.link, chance.named(1, "lines"))
    trace, metrics = Trace(), Metrics()

    async def main() -> Any:
        async with (
            open_world(described, 1, trace, metrics, graph=graph, lines=lines) as world,
            trio.open_nursery() as nursery,
        ):
            play = Play(world, described, trace, metrics)
            stage = await set_up(
                world, described, play.ledger, Models(), directory, nursery, play._prepare
            )
            world.begin()
            result = await check(world, stage)
            nursery.cancel_scope.cancel()
            return result

    return clock.run(main, seed=1)


async def results(world: World, stage: Stage, name: str, node: int) -> list[Any]:
    """Return the results of two jobs of a function, handed in at a node."""
    token, staged = stage.caller.tokens[node], stage.functions[name]
    found = []
    for _ in range(2):
        text = await staged.inputs(node, 0.5, 0)
        body = b'{"function":"%b","input":%b}' % (staged.id.encode(), text)
        made = await ask(world, node, "POST /job", body, token=token, status=202)
        number = decode_job(made.body).id
        answer = await ask(world, node, f"GET /job/{number}?wait=60", token=token)
        assert answer.json()["state"] == "succeeded", answer.json()["error"]
        found.append(answer.json()["result"])
    return found


def test_the_shipped_examples_run_as_they_are_and_find_what_they_find(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    functions = [
        Function(name="faces", example="detect_faces"),
        Function(name="watch", example="preprocess"),
    ]
    described = scenario(nodes=2, functions=functions)

    async def check(world: World, stage: Stage) -> list[list[Any]]:
        node = world.node(1)
        assert node is not None
        source = node.programs.get(int(stage.functions["faces"].id), 1)
        shipped = files("peernode.examples").joinpath("functions", "detect_faces.py")
        assert source is not None
        assert source.source == shipped.read_bytes()
        return [await results(world, stage, name, 1) for name in ("faces", "watch")]

    for coffee, astronaut in performed(described, tmp_path, check):
        assert coffee["faces"] == []
        (face,) = astronaut["faces"]
        assert face["score"] > 0.9
        assert astronaut["picture"]["width"] == 512
