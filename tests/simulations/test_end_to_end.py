"""From the command line to the files and back, with nothing stood in for: a world and a swarm."""

import json
import shlex
from pathlib import Path

import pytest

from simulations import cli

pytestmark = pytest.mark.slow

WORLD = """
name = "small-world"
duration_s = 20
drain_s = 10

[topology]
kind = "ring"
nodes = 3

[[workers]]

[[functions]]
name = "short"
duration_s = { kind = "exponential", mean = 0.5 }

[[load]]
function = "short"
arrivals = { kind = "poisson", rate_per_s = 1 }

[[updates]]
what = "kv"
arrivals = { kind = "periodic", interval_s = 5 }

[[faults]]
kind = "crash"
at_s = 8
for_s = 4
nodes = [1]

[[probes]]
metrics = ["queue.length", "node.up"]
each_s = 2

[[pass]]
metric = "job.lost"
statistic = "sum"
at_most = 0
"""
SWARM = """
name = "small-swarm"
driver = "swarm"
duration_s = 10
drain_s = 10

[topology]
kind = "regular"
nodes = 30
degree = 6

[[updates]]
what = "kv"
arrivals = { kind = "periodic", interval_s = 1 }

[[pass]]
metric = "record.covered"
statistic = "min"
at_least = 1
"""


@pytest.mark.parametrize(
    "text", [pytest.param(WORLD, marks=pytest.mark.torture), SWARM], ids=["world", "swarm"]
)
def test_a_run_repeats_from_what_its_directory_says(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scenario.toml").write_text(text)
    code = cli.main(["run", "scenario.toml", "--seed", "7", "--events", "--out", "run"])
    assert code == 0, capsys.readouterr()
    manifest = json.loads(Path("run/manifest.json").read_text())
    topology = json.loads(Path("run/topology.json").read_text())
    events = Path("run/events.jsonl").read_text().splitlines()
    assert events
    assert len(topology["nodes"]) in (3, 30)
    assert Path("run/replay.html").is_file()
    assert list(Path("run/plots").glob("*.svg"))
    # The same run once more, checked after each step, from the line in the manifest alone.
    capsys.readouterr()
    assert cli.main(["replay", manifest["replay"], "--out", "again.jsonl"]) == 0
    assert f"trace hash {manifest['trace_hash']}" in capsys.readouterr().out
    assert Path("again.jsonl").read_text().splitlines() == events


@pytest.mark.parametrize("text", [WORLD, SWARM], ids=["world", "swarm"])
def test_a_run_is_the_same_under_any_hash_seed(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    assert cli.main(shlex.split(f"verify {path} --runs 2")) == 0, capsys.readouterr()
