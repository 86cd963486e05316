"""Killing trees of real processes."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from worker.process_tree import descendants, kill_tree, process_table, read_process

pytestmark = pytest.mark.slow

TREE = """
import os, sys, time
for depth in range(3):
    if os.fork() == 0:
        if depth == 1:
            os.setsid()
        continue
    break
print(os.getpid(), flush=True)
time.sleep(600)
"""


def start_tree() -> tuple["subprocess.Popen[bytes]", list[int]]:
    """Start a chain of four processes, one of them in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", TREE], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(4)]


def test_a_tree_is_found_and_killed() -> None:
    process, pids = start_tree()
    with process:
        below = {found.pid for found in descendants(process_table(), process.pid)}
        assert below | {process.pid} == set(pids)
        descriptors = [os.pidfd_open(pid) for pid in pids]
        kill_tree(process.pid)
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], 2)[0], "it is dead"
            os.close(descriptor)


def test_a_process_is_read() -> None:
    own = read_process(os.getpid())
    assert own is not None
    assert own.parent == os.getppid()
    assert own.session == os.getsid(0)
    assert own.rss_bytes > 1 << 20
    assert not own.zombie
    assert read_process(2**22 + 1) is None


def test_a_name_may_look_like_anything(tmp_path: Path) -> None:
    odd = tmp_path / "x) R 1 1 (y"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "600"]) as process:
        found = read_process(process.pid)
        process.kill()
    assert found is not None
    assert found.parent == os.getpid()
