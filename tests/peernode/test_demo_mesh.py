"""Three real nodes tell the story of a mesh, and none of them outlives it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DEMO_MAX_S = 60.0


def command(keep: Path) -> list[str]:
    return [sys.executable, "-m", "peernode", "demo", "--nodes", "3", "--keep", str(keep)]


def test_the_mesh_tells_its_story_in_a_minute(tmp_path):
    kept = tmp_path / "kept"
    started_s = time.monotonic()
    done = subprocess.run(command(kept), capture_output=True, text=True, timeout=DEMO_MAX_S * 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started_s < DEMO_MAX_S
    for told in (
        r"\$ peernode join pnm1\.\S+\.\.\. --data \S+/b\n",
        r"C reads the key: 'hello', after \d",
        r"job \d+ is B's\n +C says: {'words': 5}",
        r"blob \d+, the same bytes",
        r"A is switched off\n(.*\n)*.*B says: {'words': 2}",
        r"B says: {'words': 3}, Stale: as-of 20\S+Z, job of node 1",
        r"A reads the key: 'written while A was off', after \d",
        r"C still has what it knew, and learns nothing new",
    ):
        assert re.search(told, done.stdout), (told, done.stdout)
    assert [(kept / name / "node.json").exists() for name in "abc"] == [False] * 3  # all stopped


def test_a_demo_of_a_mesh_that_is_interrupted_stops_its_nodes(tmp_path):
    kept = tmp_path / "kept"
    with subprocess.Popen(command(kept), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as demo:
        for line in demo.stdout:
            if line.startswith(b"4. "):
                break
        running = [json.loads((kept / name / "node.json").read_text())["pid"] for name in "abc"]
        demo.send_signal(signal.SIGTERM)
        told = demo.stdout.read()
    assert demo.returncode == 130, told
    assert b"Traceback" not in told
    for process in running:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_there_is_no_story_for_two(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "peernode", "demo", "--nodes", "2"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "one for 3" in done.stderr
