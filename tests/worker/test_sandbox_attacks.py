"""Functions of an enemy at level `sandbox`: each fails, or ends in its own named state."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.attacks import HARMLESS, WAYS, attack
from tests.worker.fake_node import Space, open_worker
from tests.worker.levels import missing_sandbox
from tests.worker.processes import all_gone, call_it
from tests.worker.test_agent import GATE, open_gate
from tests.worker.test_python_runtime import still_works
from worker.protocol import Limits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the ways name calls by number"),
]


@pytest.fixture(autouse=True)
def sandbox() -> None:
    """Skip where the level is not there."""
    if missing := missing_sandbox():
        pytest.skip(missing)


async def test_no_way_leads_out(tmp_path: Path) -> None:
    found = await attack(tmp_path, "sandbox", WAYS)
    assert found.keys() == WAYS.keys()
    assert [name for name, outcome in found.items() if not outcome.startswith("E")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_way_leads_out_of_an_ordinary_users_worker_either(open_path: Path) -> None:
    command = [sys.executable, "-m", "tests.worker.attacks", "2077", str(open_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == WAYS.keys()
    assert [name for name, outcome in found.items() if not outcome.startswith("E")] == []


async def test_the_ways_lead_out_of_a_plain_process(tmp_path: Path) -> None:
    found = await attack(tmp_path, "process", {name: WAYS[name] for name in HARMLESS})
    assert found == dict.fromkeys(HARMLESS, "open"), "else nothing was tried above"


MEBIBYTE = 1 << 20
IGNORE_ALL = """for n in range(1, 65):
        try: signal.signal(n, signal.SIG_IGN)
        except (OSError, ValueError): pass
    while True: time.sleep(1)"""
EIGHT_HOGS = """for _ in range(8):
        if os.fork() == 0:
            x = bytearray(b"x" * (40 << 20))
            time.sleep(60)
    time.sleep(60)"""
FORK_BOMB = """while True:
        try: os.fork()
        except OSError: pass"""
INT_80 = """code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex("b814000000cd80c3"))
    at = ctypes.addressof(ctypes.c_char.from_buffer(code))
    ctypes.CFUNCTYPE(ctypes.c_long)(at)()"""
OUTCOME = "forge(1, {}, None, b'1', '', 0.0, 0.0, 0, '', [], False)"
ENDS = {
    "memory": ("x = bytearray(900 << 20)", "memory_limit"),
    "memory of many": (EIGHT_HOGS, "memory_limit"),
    "pipes": ("keep = [os.pipe() for _ in range(9999)]", "function_error"),
    "forks": ("while True:\n        if os.fork() == 0: time.sleep(60)", "process_limit"),
    "fork bomb": (FORK_BOMB, "process_limit"),
    "threads": (
        "while True: threading.Thread(target=time.sleep, args=(60,)).start()",
        "function_error",
    ),
    "one large file": ("open('a', 'wb').write(bytes(9 << 20))", "output_limit"),
    "many files": (
        "for n in range(99): open(str(n), 'wb').write(bytes(1 << 20))",
        "output_limit",
    ),
    "empty files": ("for n in range(99999): open(str(n), 'wb').close()", "output_limit"),
    "log": ("while True: edge.log('x' * 65536)", "output_limit"),
    "standard output": ("while True: os.write(1, b'x' * 65536)", "output_limit"),
    "descriptors": ("keep = [open('/dev/null') for _ in range(99999)]", "function_error"),
    "deaf to signals": (IGNORE_ALL, "run_timeout"),
    "busy": ("while True: pass", "run_timeout"),
    "busy in one call": ("9 ** 9 ** 9", "run_timeout"),
    "calls of another machine": (INT_80, "exited"),
    "crash": ("ctypes.string_at(0)", "exited"),
    "outcome of another job": (f"{OUTCOME.format(2)}; time.sleep(60)", "exited"),
    "its own outcome twice": (f"[{OUTCOME.format(1)} for _ in 'ab']", None),
    "requests without end": (
        "[forge(4, n, 'job.call', {'function': 'f', 'input': b'1'}) for n in range(99)]"
        "\n    time.sleep(60)",
        "exited",
    ),
}
"""What a function does to its worker, and the state that it ends in."""


@pytest.mark.parametrize(("body", "code"), ENDS.values(), ids=ENDS.keys())
async def test_each_harm_ends_in_its_own_state(tmp_path: Path, body: str, code: str | None) -> None:
    source = f"""
import cbor2, ctypes, edge, mmap, os, signal, threading, time
def forge(*fields):
    body = cbor2.dumps(list(fields))
    for number in range(3, 64):
        try: os.write(number, len(body).to_bytes(4, "big") + body)
        except OSError: pass
def handler(input):
    {body}
"""
    limits = Limits(memory_bytes=256 * MEBIBYTE, output_bytes=8 * MEBIBYTE, processes=8, run_s=3.0)
    async with open_worker(tmp_path, slots=2, level="sandbox", adopts_orphans=True) as (node, _):
        node.spaces["gate"] = Space()
        node.answers = False
        messages = node.lease(GATE)
        neighbour = node.number
        await node.say(*messages)
        await node.until(lambda: node.unanswered)
        finished = await node.run(source, limits=limits)
        assert finished.error_code == code, finished
        await still_works(node)
        await open_gate(node)
        outcome = await node.finished(neighbour)
        assert outcome.error_code is None, "its neighbour did not notice"


async def test_nobody_who_keeps_the_socket_open_outlives_or_speaks_for_a_job(
    tmp_path: Path,
) -> None:
    source = f"""
import os, signal, time
def handler(input):
    copies = []
    for n in range(3, 16):
        try: copies.append(os.dup(n))
        except OSError: pass
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        {call_it("kept socket")}
        while True:
            for n in copies:
                try: os.write(n, (9).to_bytes(4, "big") + b"not cbor!")
                except OSError: pass
            time.sleep(0.001)
    return "over"
"""
    async with open_worker(tmp_path, level="sandbox", adopts_orphans=True) as (node, _):
        for _ in range(5):
            finished = await node.run(source)
            assert finished.error_code in (None, "exited")
            await all_gone("kept socket")
        await still_works(node)


async def test_a_fresh_process_finds_nothing_of_the_job_before(tmp_path: Path) -> None:
    source = """
import builtins, os
def handler(blob):
    found = [getattr(builtins, "left", None), os.listdir("."), os.listdir("/given")]
    builtins.left = "here"
    open("left", "w").close()
    blob.bytes()
    return found
"""
    async with open_worker(tmp_path, level="sandbox") as (node, _):
        for number in range(3):
            node.blobs[number + 1] = (b"x%d" % number, "text/plain")
            given = {"blob": str(number + 1)}
            done = await node.run(source, given, limits=Limits(jobs_per_process=1))
            assert json.loads(done.payload) == [None, [], []]


async def test_a_warm_process_cannot_read_what_the_job_before_was_given(tmp_path: Path) -> None:
    source = """
import os
def handler(blob):
    before = os.listdir("/given")
    return [before, blob.bytes().decode(), os.listdir("/given"), blob.path()]
"""
    async with open_worker(tmp_path, level="sandbox") as (node, _):
        for number in range(2):
            node.blobs[number + 1] = (b"x%d" % number, "text/plain")
            done = await node.run(source, {"blob": str(number + 1)})
            before, content, during, path = json.loads(done.payload)
            assert (before, content) == ([], f"x{number}")
            assert [f"/given/{name}" for name in during] == [path]
        cached = list((tmp_path / "blobs").iterdir())
        assert [path.stat().st_nlink for path in cached] == [1, 1], "no name is left"


async def test_a_crash_is_nobody_elses_affair_and_scratch_has_an_end(tmp_path: Path) -> None:
    source = """
import os, resource
def handler(input):
    place = os.statvfs(".")
    return [resource.getrlimit(resource.RLIMIT_CORE), place.f_blocks * place.f_frsize]
"""
    limits = Limits(memory_bytes=128 * MEBIBYTE, output_bytes=1 << 50)
    async with open_worker(tmp_path, level="sandbox") as (node, _):
        core, size_bytes = json.loads((await node.run(source, limits=limits)).payload)
        assert core == [1, 1], "which no handler of cores takes, while it would take 0"
        assert size_bytes == 128 * MEBIBYTE
