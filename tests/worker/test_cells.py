"""The contract of `Sandbox` and `Cell`, over every level."""

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
import trio
import trio.lowlevel

from tests.worker.fake_node import ECHO, open_worker
from tests.worker.levels import missing_sandbox
from tests.worker.processes import WITHIN_S, all_gone, call_it, named
from worker.child import Child, LoadedProgram, make_attempt, start_python
from worker.protocol import Isolation, Lease, Limits, Program
from worker.sandbox.cell import Descriptors, Sandbox, Start
from worker.sandbox.errors import SandboxBroken
from worker.sandbox.native import NativeSandbox
from worker.sandbox.plain import PlainSandbox

pytestmark = pytest.mark.slow


@pytest.fixture
def sandbox(level: Isolation, tmp_path: Path) -> Iterator[Sandbox]:
    made = PlainSandbox() if level == "process" else NativeSandbox(tmp_path)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o711)
    with closing(made):
        yield made


def blank(sandbox: Sandbox, level: Isolation, directory: Path) -> Child:
    return Child(start_python(level), sandbox, directory)


def give(child: Child, body: str, value: str = "") -> None:
    """Hand a child its only job, which runs `body`."""
    source = f"import os, time\ndef handler(path):\n    {body}\n"
    program = LoadedProgram(Program("1.1", "python", "handler", source.encode(), []))
    level = child.start.level
    lease = Lease(1, 1, 1, "1.1", f'"{value}"'.encode(), {}, Limits(), level, None)
    attempt = make_attempt(lease, program)
    child.assign(attempt, [])
    child.run(attempt, 0.0)
    child.flush()


async def ended(child: Child) -> int:
    """Return the exit status of a child when it has one, with all of it removed."""
    with trio.fail_after(WITHIN_S):
        await trio.lowlevel.wait_readable(child.exit_descriptor)
    assert child.is_over()
    return child.reap()


async def test_a_child_ends_with_its_own_status(
    sandbox: Sandbox, level: Isolation, tmp_path: Path
) -> None:
    child = blank(sandbox, level, tmp_path / "1")
    give(child, "os._exit(7)")
    assert await ended(child) == 7


async def test_a_killed_child_takes_with_it_all_that_it_started(
    sandbox: Sandbox, level: Isolation, tmp_path: Path
) -> None:
    child = blank(sandbox, level, tmp_path / "1")
    give(child, f"{call_it('in a cell')}\n    if os.fork() == 0: os.setsid()\n    time.sleep(600)")
    with trio.fail_after(WITHIN_S):
        while len(named("in a cell")) < 2:
            await trio.lowlevel.checkpoint()
    child.kill()
    assert await ended(child) == -signal.SIGKILL
    await all_gone("in a cell")


async def test_a_file_that_was_admitted_can_be_read_until_the_job_is_over(
    sandbox: Sandbox, level: Isolation, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("admitted")
    for over, status in ((False, 0), (True, 0 if level == "process" else 1)):
        child = blank(sandbox, level, tmp_path / f"{over}")
        seen = child.admit(str(file))
        assert child.admit(str(file)) == seen, "twice is once"
        if over:
            child.over()
        give(
            child,
            "os._exit(int(not os.path.exists(path) or open(path).read() != 'admitted'))",
            seen,
        )
        assert await ended(child) == status
        child.remove()
    assert file.stat().st_nlink == 1


async def test_nothing_stays_on_the_disk(
    sandbox: Sandbox, level: Isolation, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("admitted")
    child = blank(sandbox, level, tmp_path / "1")
    child.admit(str(tmp_path / "file"))
    give(child, "open('left', 'w').close(); os._exit(0)")
    await ended(child)
    if child.remove():
        assert not (tmp_path / "1").exists()
    else:  # it may take long, and is done elsewhere
        assert os.listdir(tmp_path / "1") == ["left"]


async def test_a_worker_of_many_slots_has_descriptors_beyond_a_thousand(
    level: Isolation, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 1100:
            taken.append(os.dup(0))
        assert missing_sandbox.__wrapped__() == missing_sandbox()
        async with open_worker(tmp_path, level=level) as (node, _):
            for _ in range(2):
                finished = await node.run(ECHO, 1, limits=Limits(jobs_per_process=1))
                assert finished.payload == b"1"
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_start_that_fails_leaves_nothing_open(level: Isolation, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    missing = tmp_path / "missing"
    sandbox = PlainSandbox() if level == "process" else NativeSandbox(missing)
    with pytest.raises(OSError, match="missing"):
        Child(start_python(level), sandbox, missing / "1")
    assert os.listdir("/proc/self/fd") == before


async def test_what_every_job_needs_is_made_before_it_comes(tmp_path: Path) -> None:
    """A class costs ten microseconds, and the first compilation of a process makes 119 of them."""
    if missing := missing_sandbox():
        pytest.skip(missing)
    source = """
        import gc
        made = [each for each in gc.get_objects() if isinstance(each, type)]  # not in the zygote
        def handler(input):
            return [each.__name__ for each in made]
    """
    async with open_worker(tmp_path, level="sandbox") as (node, _):
        assert (await node.run(dedent(source))).payload == b"[]"


def test_a_zygote_that_cannot_start_says_why(tmp_path: Path) -> None:
    sandbox = NativeSandbox(tmp_path)
    one, other = socket.socketpair()
    begin = Start(start_python("sandbox").argv, {"LD_PRELOAD": ""}, "sandbox")
    (tmp_path / "root").write_text("in the way")
    with one, other, pytest.raises(SandboxBroken, match="root"):
        sandbox.start(begin, tmp_path / "1", Descriptors(*[one.fileno()] * 4))
    assert sandbox.pids == ()


async def test_a_zygote_that_was_killed_is_started_anew(tmp_path: Path) -> None:
    sandbox = NativeSandbox(tmp_path)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o711)
    with closing(sandbox):
        first = blank(sandbox, "sandbox", tmp_path / "1")
        (zygote,) = sandbox.pids
        os.kill(zygote, signal.SIGKILL)
        give(first, "os._exit(3)")
        assert await ended(first) == 3, "its children live on"
        with pytest.raises(OSError, match=r"zygote|pipe|reset"):
            blank(sandbox, "sandbox", tmp_path / "2")
        assert not (tmp_path / "2").exists()
        again = blank(sandbox, "sandbox", tmp_path / "3")
        give(again, "os._exit(4)")
        assert await ended(again) == 4
        first.remove(), again.remove()
