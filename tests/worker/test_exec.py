"""Static executables as functions: what they are given, and what their worker keeps."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.executables import ECHO, SILENT, executable
from tests.worker.fake_node import FakeNode, open_worker
from tests.worker.levels import missing_sandbox
from tests.worker.processes import all_gone, named
from worker.protocol import Finished, Isolation, Limits

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20


async def run(
    node: FakeNode,
    body: str | bytes,
    input: Any = None,
    options: tuple[str, ...] = (),
    **fields: Any,
) -> Finished:
    code = body if isinstance(body, bytes) else executable(body, *options)
    return await node.run(code, input, runtime="exec", **fields)


async def test_what_is_read_and_printed_is_json(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        for value in (None, [1, "\u00fc"], {"a": 2.5}, "x" * 300_000):
            finished = await run(node, ECHO, value)
            assert (finished.error_code, json.loads(finished.payload)) == (None, value)
        assert (await run(node, SILENT, 7)).payload == b"null", "nothing printed, nothing read"
        finished = await run(node, ECHO, 1, options=("-static-pie", "-fpie"))
        assert finished.payload == b"1"


async def test_named_blobs_are_files(tmp_path: Path, level: Isolation) -> None:
    body = """
        word file = call(OPENAT, -100, (word)variable("PEERNODE_INPUT_my face"), 0, 0, 0, 0);
        copy(file);
        say(2, variable("PEERNODE_JOB")); say(2, " "); say(2, variable("PEERNODE_ATTEMPT"));
    """
    async with open_worker(tmp_path, level=level) as (node, _):
        node.blobs[7] = (b'{"stored": true}', "application/json")
        finished = await run(node, body, None, blobs={"my face": 7})
        assert json.loads(finished.payload) == {"stored": True}
        assert node.lines(finished.job) == [("stderr", f"{finished.job} 1")]
        finished = await run(node, ECHO, {"n": 1}, blobs={"my face": 7})
        assert json.loads(finished.payload) == {"n": 1, "my face": {"blob": "7"}}
        finished = await run(node, SILENT, None, blobs={"a=b": 7})
        assert (finished.error_code, b"'a=b'" in finished.payload) == ("function_error", True)
        finished = await run(node, ECHO, None, blobs={"gone": 8})
        assert (finished.error_code, b"not_found" in finished.payload) == ("function_error", True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_users_worker_runs_executables_too(open_path: Path) -> None:
    if missing := missing_sandbox():
        pytest.skip(missing)
    command = [sys.executable, "-m", "tests.worker.executables", "2077", str(open_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert json.loads(done.stdout or "null") == ["echoed"], done.stderr


async def test_a_large_program_comes_in_pieces(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await run(node, executable(ECHO) + bytes(5 * MEBIBYTE), [5])
        assert finished.payload == b"[5]"


BOMB = "for (;;) forked();"
FORKS = "for (;;) if (forked() == 0) halt();"
RESERVE = """
    word at = call(MMAP, 0, 1 << 30, 3, 0x22, -1, 0);
    if (at < 0 && at > -4096) { say(2, "no memory"); leave(9); }
"""
HOGS = """
    for (int n = 0; n < 4; n++) if (forked() == 0) {
        char *at = (char *)call(MMAP, 0, 80 << 20, 3, 0x22, -1, 0);
        for (int n = 0; n < 80 << 20; n += 4096) at[n] = 1;
        halt();
    }
    halt();
"""
DEAF = """
    word handler[4] = {1, 0, 0, 0};
    for (int n = 1; n < 65; n++) call(RT_SIGACTION, n, (word)handler, 0, 8, 0, 0);
    for (;;) ;
"""
LARGE_FILE = """
    word file = call(OPENAT, -100, (word)"a", 0101, 0600, 0, 0);
    for (int n = 0; n < 200; n++) call(WRITE, file, (word)buffer, sizeof buffer, 0, 0, 0);
"""
MANY_LINES = 'for (int n = 0; n < 500; n++) { number(2, n); say(2, "\\n"); } leave(3);'
SETTLED = """
    if (forked() == 0) { call(SETSID, 0, 0, 0, 0, 0, 0); if (forked() == 0) halt(); leave(0); }
    say(1, "1");
"""
ENDS = {
    "status": ('say(2, "the reason\\n"); leave(3);', "function_error", "status 3:\nthe reason"),
    "long reason": (MANY_LINES, "function_error", "\n499"),
    "crash": ("*(volatile int *)0 = 1;", "exited", "SIGSEGV"),
    "own signal": ("call(KILL, 0, 9, 0, 0, 0, 0);", "exited", "SIGKILL"),
    "not JSON": ('say(1, "{1}");', "result_invalid", "not JSON"),
    "not text": ('say(1, "\\xff\\xfe");', "result_invalid", "not JSON"),
    "not a number": ('say(1, "NaN");', "result_invalid", ""),
    "deep": ('for (int n = 0; n < 99999; n++) say(1, "[");', "result_invalid", "not JSON"),
    "output": ("for (;;) call(WRITE, 1, (word)buffer, 65536, 0, 0, 0);", "output_limit", ""),
    "log": ("for (;;) call(WRITE, 2, (word)buffer, 65536, 0, 0, 0);", "output_limit", ""),
    "file": (LARGE_FILE, "output_limit", "file"),
    "forks": (FORKS, "process_limit", ""),
    "fork bomb": (BOMB, "process_limit", ""),
    "memory": (RESERVE, "function_error", "no memory"),
    "memory of many": (HOGS, "memory_limit", ""),
    "busy": ("for (;;) ;", "run_timeout", ""),
    "deaf to signals": (DEAF, "run_timeout", ""),
    "waiting": ("halt();", "run_timeout", ""),
    "leaves a process behind": (SETTLED, None, "1"),
}
"""What a program does -> the state it ends in, and what is said of it."""


@pytest.mark.parametrize(("body", "code", "says"), ENDS.values(), ids=ENDS.keys())
async def test_each_end_has_its_own_state_and_leaves_nothing(
    tmp_path: Path, level: Isolation, body: str, code: str | None, says: str
) -> None:
    limits = Limits(run_s=2.0, memory_bytes=128 * MEBIBYTE, output_bytes=4 * MEBIBYTE, processes=16)
    name = f"x{os.urandom(5).hex()}"
    body = f'call(157, 15, (word)"{name}", 0, 0, 0, 0); {body}'
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await run(node, body, limits=limits)
        assert finished.error_code == code, finished
        assert says in finished.payload.decode()
        await all_gone(name)
        assert named(name) == []
        assert (await run(node, ECHO, [1])).payload == b"[1]"


DYNAMIC = Path("/bin/true").read_bytes()


def patched(at: int, value: bytes) -> bytes:
    code = executable(ECHO)
    return code[:at] + value + code[at + len(value) :]


async def test_a_file_that_is_no_static_executable_of_this_machine_is_not_run(
    tmp_path: Path, level: Isolation
) -> None:
    wrong = {
        "begins with": b"#!/bin/sh\necho 1\n",
        "for aarch64, this worker is": patched(18, b"\xb7\0"),
        "ELF machine 8;": patched(18, b"\x08\0"),
        "-static": DYNAMIC,
        "table of ELF segments": patched(56, b"\xff\xff"),
    }
    async with open_worker(tmp_path, level=level) as (node, _):
        for says, code in wrong.items():
            finished = await run(node, code)
            assert finished.error_code == "setup_failed", finished
            assert says in finished.payload.decode()
        nowhere = await run(node, patched(64 + 8, b"\xff" * 8))
        assert nowhere.error_code == "exited", "the kernel saw it too late to refuse it"


async def test_each_job_has_a_process_and_a_directory_of_its_own(
    tmp_path: Path, level: Isolation
) -> None:
    body = """
        word file = call(OPENAT, -100, (word)"left", 0301, 0600, 0, 0);
        number(1, file < 0);
    """
    async with open_worker(tmp_path, level=level) as (node, _):
        assert [(await run(node, body)).payload for _ in range(3)] == [b"0"] * 3


WAYS = {
    "descriptors": "held()",
    "socket": "call(SOCKET, 2, 1, 0, 0, 0, 0)",
    "file outside": 'call(OPENAT, -100, (word)"/etc/passwd", 0, 0, 0, 0)',
    "process table": 'call(OPENAT, -100, (word)"/proc/self/exe", 0, 0, 0, 0)',
    "write a library": 'call(OPENAT, -100, (word)"/usr/lib/x", 0101, 0600, 0, 0)',
    "shell": 'call(EXECVE, (word)"/bin/sh", (word)none, (word)none, 0, 0, 0)',
    "linker": "call(EXECVEAT, -100, (word)LINKER, (word)none, (word)none, 0x1000, 0)",
    "linker by path": "call(EXECVEAT, -100, (word)LINKER, (word)none, (word)none, 0, 0)",
    "linker by descriptor": "call(EXECVEAT, call(OPENAT, -100, (word)LINKER, 010000000, 0, 0, 0),"
    ' (word)"", (word)none, (word)none, 0x1000, 0)',
    "linker opened": "call(EXECVEAT, call(OPENAT, -100, (word)LINKER, 0, 0, 0, 0),"
    ' (word)"", (word)none, (word)none, 0x1000, 0)',
    "own file": 'written() < 0 ? -1000 : call(EXECVEAT, -100, (word)"made", (word)none,'
    " (word)none, 0x1000, 0)",
    "memory file": 'call(MEMFD, (word)"x", 0, 0, 0, 0, 0)',
    "trace": "call(PTRACE, 16, 1, 0, 0, 0, 0)",
    "mount": 'call(MOUNT, (word)"x", (word)"/scratch", (word)"tmpfs", 0, 0, 0)',
}
"""Ways out -> an expression that is negative when they are closed."""


async def test_no_way_leads_out(tmp_path: Path) -> None:
    if missing := missing_sandbox():
        pytest.skip(missing)
    support = """
        #define LINKER "/lib64/ld-linux-x86-64.so.2"
        word none[1] = {0};
        word written(void) {
            word file = call(OPENAT, -100, (word)"made", 0101, 0700, 0, 0);
            call(WRITE, file, (word)"#!/bin/sh", 9, 0, 0, 0);
            return call(CLOSE, file, 0, 0, 0, 0, 0);
        }
        word held(void) {
            for (int n = 3; n < 1024; n++) if (call(FCNTL, n, 1, 0, 0, 0, 0) >= 0) return n;
            return -9;
        }
    """
    said = 'say(1, ","); '.join(f"number(1, {way}); " for way in WAYS.values())
    body = f'{support}\nsay(1, "["); {said} say(1, "]");'
    async with open_worker(tmp_path, level="sandbox") as (node, _):
        finished = await run(node, body)
        assert finished.error_code is None, finished
        found = dict(zip(WAYS, json.loads(finished.payload), strict=True))
        assert {way: number for way, number in found.items() if not -1000 < number < 0} == {}
    async with open_worker(tmp_path / "plain", level="process") as (node, _):
        finished = await run(
            node, 'say(1, "["); ' + "number(1, " + WAYS["socket"] + '); say(1, "]");'
        )
        assert json.loads(finished.payload)[0] >= 0, "else nothing was tried above"
