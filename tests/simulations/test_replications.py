"""Replications in processes: the same anywhere, and whatever is lost is told in words."""

import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from simulations import replications
from simulations.errors import ScenarioError
from simulations.replica import Task
from simulations.replications import DiskFull, MemoryShort, ProcessLost, perform
from tests.simulations import stand_ins
from tests.simulations.small import scenario, stand_in

pytestmark = pytest.mark.slow


def tasks(name: str, seeds: range, **words: object) -> list[Task]:
    return [
        Task(scenario=scenario(), seed=seed, simulator=stand_in(name), **words) for seed in seeds
    ]


def test_outcomes_are_those_of_this_process_in_the_order_of_the_tasks() -> None:
    outcomes = perform(tasks("steady", range(5)), jobs=2)
    for seed, outcome in enumerate(outcomes):
        alone = stand_ins.steady(scenario(), seed, replications_options())
        assert outcome.seed == seed
        assert outcome.trace_hash == alone.trace_hash
        assert list(outcome.observations) == list(alone.metrics)
        assert outcome.events == alone.events
        assert outcome.memory_peak_bytes > 1 << 20


def replications_options():
    from simulations.simulate import Options

    return Options()


def test_each_process_has_the_hash_seed_of_its_task() -> None:
    given = [
        *tasks("leaking", range(1), hash_seed="0"),
        *tasks("leaking", range(1), hash_seed="1"),
        *tasks("leaking", range(1), hash_seed="0", fresh=True),
    ]
    one, other, again = perform(given, jobs=1)
    assert one.trace_hash == again.trace_hash != other.trace_hash


def test_progress_is_told_and_the_end_of_each_task_once() -> None:
    told: list[tuple[int, float]] = []
    perform(tasks("steady", range(3)), jobs=1, watch=lambda index, at_s: told.append((index, at_s)))
    assert sorted(index for index, at_s in told if math.isinf(at_s)) == [0, 1, 2]
    assert any(not math.isinf(at_s) for _, at_s in told)


def test_an_invariant_that_does_not_hold_is_an_outcome_and_stops_the_rest_if_asked() -> None:
    every = perform(tasks("breaking", range(6)), jobs=1)
    assert [outcome.failure is not None for outcome in every] == [True, False] * 3
    some = perform(tasks("breaking", range(6)), jobs=1, stop_on_failure=True)
    assert [outcome.seed for outcome in some] == [0]


def test_events_go_to_a_file_and_the_last_ones_into_the_outcome(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    (outcome,) = perform(tasks("steady", range(1), events_path=str(path), events_last=3))
    lines = path.read_text().splitlines()
    assert len(lines) == outcome.events
    assert lines[-3:] == list(outcome.last)


def test_a_scenario_that_cannot_be_run_is_refused_with_its_place() -> None:
    with pytest.raises(ScenarioError, match="no network 'atlantis'") as caught:
        perform(tasks("refusing", range(3)), jobs=1)
    assert caught.value.place == "topology.name"


def test_a_process_that_the_system_ends_is_told_as_such() -> None:
    with pytest.raises(ProcessLost, match=r"was killed.*out of memory") as caught:
        perform(tasks("killed", range(3)), jobs=1)
    assert "--jobs 1" in caught.value.hint


def test_a_fault_of_the_simulator_comes_with_its_traceback() -> None:
    with pytest.raises(ProcessLost, match=r"(?s)status 1.*ZeroDivisionError: of the simulator"):
        perform(tasks("faulty", range(1)))


def test_a_replication_that_needs_too_much_memory_ends_alone() -> None:
    with pytest.raises(MemoryShort, match=r"seed 0 needs more than the \d+\.\d GB"):
        perform(tasks("greedy", range(1)))


def test_a_full_disk_is_told() -> None:
    with pytest.raises(DiskFull, match="No space left"):
        perform(tasks("full", range(1)))
    if Path("/dev/full").exists():
        with pytest.raises(DiskFull, match="No space left"):
            perform(tasks("steady", range(1), events_path="/dev/full"))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ProcessLost):
        perform([*tasks("steady", range(2)), *tasks("killed", range(1))], jobs=1, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import sys
from simulations.replications import Interrupted, perform
from simulations.replica import Task
from tests.simulations.small import scenario, stand_in

task = Task(scenario=scenario(), seed=1, simulator=stand_in("endless"))
try:
    perform([task, task], watch=lambda index, at_s: print("on", flush=True))
except Interrupted as error:
    sys.exit(100 + error.number)
"""


def test_a_signal_ends_the_processes_first() -> None:
    number = signal.SIGTERM
    parent = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    children = psutil.Process(parent.pid).children()
    assert children
    parent.send_signal(number)
    assert parent.wait(timeout=30) == 100 + number
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_processes_end_when_nobody_reads_their_answers(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    children = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait(timeout=30)
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "a process outlived the one that started it"


def test_what_memory_there_is_is_known_on_this_system() -> None:
    available = replications.memory_available_bytes()
    assert available is None or available > 1 << 20
