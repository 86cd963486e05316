"""A run directory: whole or not there, and the same bytes each time."""

import errno
import json
from pathlib import Path

import pyarrow.parquet
import pytest

from simulations import references, runs
from simulations.replications import DiskFull, ProcessLost
from simulations.runs import CannotWrite, Request, Run
from tests.simulations import small, stand_ins

pytestmark = pytest.mark.slow


def request_of(directory: Path, name: str = "steady", **words: object) -> Request:
    source = references.find(str(small.write(directory, at_most=2.0)))
    words = {"seed": 3, "replications": 3, "jobs": 1} | words
    return Request(source=source, simulator=small.stand_in(name), **words)


def make(path: Path, request: Request, *, replace: bool = False) -> Run:
    with runs.new_directory(path, replace=replace) as partial:
        run = runs.execute(request, partial)
        runs.write(run, partial)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    directory = tmp_path_factory.mktemp("made")
    path = directory / "run"
    return path, make(path, request_of(directory, events=True))


def test_it_has_all_files_and_nothing_else(made: tuple[Path, Run]) -> None:
    path, _ = made
    found = sorted(each.relative_to(path).as_posix() for each in path.rglob("*"))
    assert found == sorted(
        [
            "manifest.json",
            "metrics.csv",
            "metrics.parquet",
            "events.jsonl",
            "report.html",
            "replay.html",
            "topology.json",
            "plots",
            "plots/job.sojourn_s.png",
            "plots/job.sojourn_s.svg",
        ]
    )
    assert not list(path.parent.glob(".*"))


def test_the_manifest_says_how_to_make_it_again(made: tuple[Path, Run]) -> None:
    path, run = made
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["trace_hash"] == run.outcomes[0].trace_hash
    assert [each["seed"] for each in manifest["replications"]] == [3, 4, 5]
    assert manifest["scenario"] == run.request.source.text
    assert manifest["versions"]["python"]
    assert manifest["versions"]["trio"]
    assert manifest["PYTHONHASHSEED"] == "0"
    line = references.parse_line(manifest["replay"])
    assert (line.seed, line.scenario) == (3, run.request.source.digest)
    assert manifest["passed"] is True
    (condition,) = manifest["conditions"]
    low, high = condition["interval"]["low"], condition["interval"]["high"]
    assert low < condition["value"] < high


def test_metrics_have_every_observation_of_every_replication(made: tuple[Path, Run]) -> None:
    path, run = made
    rows = pyarrow.parquet.read_table(path / "metrics.parquet").to_pylist()
    assert len(rows) == sum(map(len, run.observations))
    second = [row for row in rows if row.pop("replication") == 1]
    assert second == [row._asdict() for row in run.observations[1]]


def test_the_topology_has_each_node_and_link_once(made: tuple[Path, Run]) -> None:
    path, _ = made
    topology = json.loads((path / "topology.json").read_text())
    assert topology["format"] == 1
    assert [node["name"] for node in topology["nodes"]] == ["n0", "n1", "n2"]
    pairs = [(link["one"], link["other"]) for link in topology["links"]]
    assert pairs == [(0, 1), (0, 2), (1, 2)]
    assert topology["links"][0] == {"one": 0, "other": 1, "latency_s": 0.02, "back_s": 0.02}


def test_the_events_are_those_of_the_first_replication(made: tuple[Path, Run]) -> None:
    path, run = made
    assert len((path / "events.jsonl").read_text().splitlines()) == run.outcomes[0].events


def test_the_same_run_gives_the_same_bytes_but_for_how_long_it_took(
    made: tuple[Path, Run], tmp_path: Path
) -> None:
    path, run = made
    make(tmp_path / "again", run.request)
    for each in sorted(path.rglob("*")):
        name = each.relative_to(path).as_posix()
        if each.is_dir() or name in ("manifest.json", "report.html", "replay.html", "events.jsonl"):
            continue
        assert each.read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_nothing_in_it_says_when_it_was_made(made: tuple[Path, Run]) -> None:
    import datetime

    path, _ = made
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d").encode()
    assert not [each for each in path.rglob("*") if each.is_file() and today in each.read_bytes()]


def test_what_is_there_is_not_touched(made: tuple[Path, Run], tmp_path: Path) -> None:
    path, run = made
    before = (path / "manifest.json").read_bytes()
    with pytest.raises(CannotWrite, match="is there"):
        make(path, run.request)
    assert (path / "manifest.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(CannotWrite, match="no run directory"):
        make(tmp_path / "mine", run.request, replace=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_run_directory_is_replaced_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make(path, request_of(tmp_path, replications=1))
    (path / "note.txt").write_text("of the old one")
    make(path, request_of(tmp_path, replications=2), replace=True)
    assert len(json.loads((path / "manifest.json").read_text())["replications"]) == 2
    assert not (path / "note.txt").exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run", "two-cities.toml"]


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (ProcessLost("lost"), ProcessLost),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
def test_a_block_that_ends_badly_leaves_nothing(
    tmp_path: Path, error: BaseException, becomes: type[BaseException]
) -> None:
    def fail() -> None:
        with runs.new_directory(tmp_path / "run") as partial:
            (partial / "half").write_text("half")
            raise error

    with pytest.raises(becomes):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CannotWrite, match="file is no directory"),
        runs.new_directory(tmp_path / "file" / "run"),
    ):
        raise AssertionError
    with pytest.raises(CannotWrite), runs.new_directory(Path("/proc/run")):
        raise AssertionError


def test_a_directory_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def race() -> None:
        with runs.new_directory(tmp_path / "run") as partial:
            (partial / "ours").write_text("")
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "theirs").write_text("")

    with pytest.raises(CannotWrite, match="is there"):
        race()
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["theirs"]


def test_a_broken_invariant_is_written_down_with_its_line(tmp_path: Path) -> None:
    run = make(tmp_path / "run", request_of(tmp_path, "breaking", seed=2, replications=3))
    assert [outcome.seed for outcome in run.failures][:1] == [2]
    assert not run.passed
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["replications"][0]["failure"]["what"] == "I2: job 7 has two ends"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "I2: job 7 has two ends" in page
    assert "peernode sim replay" in page


def test_a_run_that_measured_nothing_has_a_report_all_the_same(tmp_path: Path) -> None:
    run = make(tmp_path / "run", request_of(tmp_path, "leaking", replications=1))
    assert not run.passed
    assert "nobody observed job.sojourn_s" in (tmp_path / "run" / "report.html").read_text()


def test_a_name_is_free_and_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.free_name("a b/../c") == Path("runs/a-b-..-c")
    assert runs.free_name("..") == Path("runs/run")
    Path("runs/x").mkdir(parents=True)
    assert runs.free_name("x") == Path("runs/x.2")


def test_stand_ins_are_simulators() -> None:
    assert stand_ins.HERE == "tests.simulations.stand_ins"
