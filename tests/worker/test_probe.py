"""Which levels a machine has: found by trying, offered only if nothing is missing."""

import json
from pathlib import Path

import pytest

from tests.worker.levels import missing_sandbox
from worker.sandbox import native, probe
from worker.sandbox.plain import PlainSandbox
from worker.sandbox.probe import (
    LEVELS_FILE,
    look_for_holes,
    measure_levels,
    offered,
    try_sandbox,
)

pytestmark = pytest.mark.slow


def test_a_level_that_leaks_is_not_there(tmp_path: Path) -> None:
    assert look_for_holes(PlainSandbox(), tmp_path).startswith("it leaks: files, sockets, programs")


def test_a_level_that_cannot_be_started_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "zygote.py"
    broken.write_text(
        "import socket, sys\n"
        "socket.socket(fileno=int(sys.argv[1])).send(b'error Landlock 2 is needed, found 0')\n"
    )
    monkeypatch.setattr(native, "ZYGOTE_PATH", broken)
    levels = measure_levels(tmp_path / "worker")
    assert levels == {
        "process": "",
        "sandbox": "level sandbox: Landlock 2 is needed, found 0",
    }
    assert offered(levels, None) == [], "and nothing weaker in its place"
    assert offered(levels, "process") == ["process"]
    assert offered(levels, "wasm") == []
    assert not (tmp_path / "worker" / LEVELS_FILE).exists(), "it is looked at again"


def test_what_was_found_once_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing := missing_sandbox():
        pytest.skip(missing)
    assert try_sandbox(tmp_path) == ""
    first = measure_levels(tmp_path)
    assert offered(first, None) == ["sandbox"]
    assert offered(first, "process") == ["process", "sandbox"]
    monkeypatch.setattr(probe, "try_sandbox", lambda directory: "asked again")
    assert measure_levels(tmp_path) == first
    kept = json.loads((tmp_path / LEVELS_FILE).read_text())
    (tmp_path / LEVELS_FILE).write_text(json.dumps(["another version", *kept[1:]]))
    assert measure_levels(tmp_path)["sandbox"] == "asked again"
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEVELS_FILE]
