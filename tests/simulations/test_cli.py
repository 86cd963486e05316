"""`peernode sim`, as somebody types it: what is printed, where, and the exit code."""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from simulations import cli
from tests.simulations import small

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sim(line: str, simulator: str = "steady") -> int:
    words = shlex.split(line)
    if words[0] in ("run", "verify", "sweep"):
        words += ["--jobs", "1"]  # each process takes half a second to start
    return cli.main(words, small.stand_in(simulator))


def test_a_run_that_passes_says_so_and_where_the_report_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(here, at_most=2.0)
    assert sim("run two-cities.toml --seed 3 --replications 2") == 0
    out = capsys.readouterr().out
    assert "pass" in out
    assert "2 of 2 replications" in out
    (where,) = [line.split()[1] for line in out.splitlines() if line.startswith("report")]
    assert where == "runs/two-cities-seed3/report.html"
    assert (here / where).is_file()
    manifest = json.loads((here / "runs/two-cities-seed3/manifest.json").read_text())
    assert f"trace hash   {manifest['trace_hash']} (seed 3)" in out


def test_a_condition_that_does_not_hold_is_code_1(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(here, at_most=0.001)
    assert sim("run two-cities.toml") == 1
    out = capsys.readouterr().out
    assert "FAIL         job.sojourn_s p95 ≤ 0.001:" in out
    assert "is more than 0.001" in out


def test_a_broken_invariant_is_code_3_and_its_line_repeats_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(here)
    assert sim("run two-cities.toml --seed 5 --replications 2", "breaking") == 3
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("repeat it")
    ]
    peernode, name, *words = shlex.split(line.removeprefix("repeat it"))
    assert (peernode, name) == ("peernode", "sim")
    assert "seed=6" in words[1]
    assert cli.main([*words, "--out", "events.jsonl"], small.stand_in("breaking")) == 3
    out = capsys.readouterr().out
    assert "at 12.5 s, node n3: I2: job 7 has two ends" in out
    assert out.count(" s  job ") == 20
    assert (here / "events.jsonl").stat().st_size > 1000


def test_a_replay_that_holds_says_why_it_may_be_another_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(here)
    assert sim("replay two-cities.toml seed=1 scenario=00000000 commit=12345678") == 0
    captured = capsys.readouterr()
    assert "all invariants held" in captured.out
    assert "the scenario was 00000000 and is now" in captured.err
    assert "the code was of commit 12345678" in captured.err


def test_verify_compares_runs_of_processes_that_differ(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(here)
    assert sim("verify two-cities.toml --runs 2") == 0
    assert "the same: 2 runs" in capsys.readouterr().out
    assert sim("verify two-cities.toml --runs 2", "leaking") == 1
    out = capsys.readouterr().out
    assert "DIFFERENT with PYTHONHASHSEED=0 and 1" in out
    assert "the first event that differs is number 2:" in out


def test_a_sweep_shows_each_point(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write(here, at_most=0.5)
    assert sim("sweep two-cities.toml --set duration_s=60,80 --replications 2") == 1
    out = capsys.readouterr().out
    assert "job.succeeded" not in out  # no condition asks for it
    assert out.count("job.sojourn_s   short   ") == 2
    assert "FAIL  duration_s=60: job.sojourn_s p95" in out
    assert (here / "runs/two-cities-sweep/sweep.csv").is_file()


def test_a_broken_invariant_of_a_sweep_is_repeated_without_the_sweep(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(here)
    words = "sweep two-cities.toml --set duration_s=60 --seed 2 --replications 1"
    assert sim(words, "breaking") == 3
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("repeat it")
    ]
    (here / "two-cities.toml").unlink()
    assert cli.main(shlex.split(line)[4:], small.stand_in("breaking")) == 3


def test_the_gallery_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("list --json") == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert len(found) >= 10
    assert all(each["summary"] for each in found.values())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("run none.toml", "none.toml: is not there"),
        ("run first-stepz", "near it: first-steps"),
        ("run bad.toml", "bad.toml: no field 'topologie'; near it: topology"),
        ("run two-cities.toml --out full", "full is there"),
        ("run two-cities.toml --out full --replace", "is no run directory"),
        ("run two-cities.toml --out two-cities.toml/x", "two-cities.toml is no directory"),
        ("run huge.toml", "topology.nodes: 1000000000 is not 1 to"),
        ("sweep two-cities.toml --set x=1,2", "x=1: no field 'x'"),
        ("sweep two-cities.toml --set duration_s", "PLACE=VALUE"),
        ("replay nonsense", "is not `SCENARIO seed=N"),
        ("replay embedded:nonsense seed=1", "copy the whole line"),
        ("verify none", "no scenario 'none'"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    small.write(here)
    (here / "bad.toml").write_text(small.TEXT.replace("[topology]", "[topologie]"))
    (here / "huge.toml").write_text(small.TEXT.replace("nodes = 3", "nodes = 1_000_000_000"))
    (here / "full").mkdir()
    (here / "full" / "mine").write_text("")
    assert sim(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") <= 2
    assert not (here / "runs").exists() or not list((here / "runs").iterdir())


@pytest.mark.parametrize(
    ("simulator", "code", "says"),
    [
        ("refusing", 2, "topology.name: no network 'atlantis'"),
        ("killed", 4, "was killed: most likely the system ran out of memory"),
        ("greedy", 4, "needs more than"),
        ("faulty", 4, "ZeroDivisionError: of the simulator"),
    ],
)
def test_what_goes_wrong_on_the_way_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], simulator: str, code: int, says: str
) -> None:
    small.write(here)
    assert sim("run two-cities.toml --out run", simulator) == code
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["two-cities.toml"]


def test_a_full_disk_is_told_where_no_directory_is_made(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write(here)
    assert sim("replay 'two-cities.toml seed=1'", "full") == 4
    assert "No space left on device" in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_install(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "EXTRAS", ("numpy", "a_package_that_is_not_there"))
    assert sim("list") == 2
    assert capsys.readouterr().err == (
        "error: simulations need a_package_that_is_not_there\nhint: pip install 'peernode[sim]'\n"
    )


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from simulations import cli; cli.main(['--help']);"
        "print([name for name in ('matplotlib', 'numpy', 'pyarrow', 'scipy', 'trio', 'msgspec')"
        " if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == "[]\n"
    for command in ("run", "replay", "verify", "sweep", "list", "evaluate", "explore"):
        assert f" {command} " in done.stdout


WRITING = """
import os, signal, sys
from simulations import cli, runs

def write(run, directory):
    os.kill(os.getpid(), int(sys.argv[1]))

runs.write = write
sys.exit(cli.main(sys.argv[3:], sys.argv[2]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_files_are_written_leaves_nothing(
    here: Path, number: signal.Signals, code: int
) -> None:
    small.write(here)
    words = [str(int(number)), small.stand_in("steady"), "run", "two-cities.toml", "--jobs", "1"]
    command = [sys.executable, "-c", WRITING, *words, "--out", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=here, env=environment, check=False, capture_output=True)
    assert done.returncode == code
    assert b"interrupted" in done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["two-cities.toml"]


ENDLESS = "from simulations import cli; import sys; sys.exit(cli.main(sys.argv[2:], sys.argv[1]))"


def start(here: Path, *words: str, **pipes: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", ENDLESS, small.stand_in("endless"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=here, env=environment, **pipes)


def test_ctrl_c_ends_everything_and_leaves_nothing(here: Path) -> None:
    small.write(here)
    master, slave = pty.openpty()
    process = start(
        here, "run", "two-cities.toml", "--out", "run", "--replications", "2", stderr=slave
    )
    os.close(slave)
    shown = b""
    while b"1%" not in shown:
        shown += os.read(master, 4096)
    assert b"ends in" in shown
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert sorted(path.name for path in here.iterdir()) == ["two-cities.toml"]
    os.close(master)
