"""Native Python functions in real processes: what they may do, and what they try to do."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.worker.fake_node import ECHO, FakeNode, open_worker
from tests.worker.processes import WITHIN_S, all_gone, call_it, gone
from worker.process_tree import become_subreaper
from worker.protocol import Finished, Isolation, Limits, Log, Started


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    """As in a worker's own process: orphans come to us."""
    import ctypes

    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


def text(finished: Finished) -> str:
    return finished.payload.decode()


async def still_works(node: FakeNode) -> None:
    with trio.fail_after(WITHIN_S):
        assert (await node.run(ECHO, ["still", "here"])).payload == b'["still","here"]'


# --- what is well ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_function_gets_json_and_returns_json(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        value = {"a": [1, 2.5, None, True, "\u00fc \U0001f600 \u0000"], "": {"b": {}}}
        finished = await node.run(ECHO, value)
        assert finished.error_code is None
        assert json.loads(finished.payload) == value
        assert finished.usage.wall_s > 0
        assert finished.usage.rss_max_bytes > 1 << 20


@pytest.mark.slow
async def test_jobs_of_one_program_share_a_warm_process(tmp_path: Path, level: Isolation) -> None:
    source = """
import os
me = os.urandom(8).hex()
count = 0
def handler(input):
    global count
    count += 1
    return [me, count]
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        first = json.loads((await node.run(source)).payload)
        second = json.loads((await node.run(source)).payload)
        other = json.loads((await node.run(source, limits=Limits(processes=3))).payload)
        assert second == [first[0], 2]
        assert other[1] == 1, "other limits, another process"


@pytest.mark.slow
async def test_an_entry_may_have_any_name(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run("def work(x):\n    return x + 1\n", 1, entry="work")
        assert finished.payload == b"2"


@pytest.mark.slow
async def test_output_arrives_in_order_and_with_its_stream(
    tmp_path: Path, level: Isolation
) -> None:
    source = """
import edge, os, sys
def handler(input):
    print("one")
    edge.log("two", n=2)
    print("three", file=sys.stderr)
    print("no line end", end="")
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        await node.run(source)
        assert node.lines(node.number) == [
            ("stdout", "one"),
            ("log", 'two {"n": 2}'),
            ("stderr", "three"),
            ("stdout", "no line end"),
        ]


@pytest.mark.slow
async def test_output_of_programs_it_starts_is_captured_too(tmp_path: Path) -> None:
    source = """
import os, subprocess, sys
def handler(input):
    subprocess.run(["/bin/echo", "from outside"], check=True)
    os.write(2, b"raw\\n")
    subprocess.run(["/bin/echo", "through fileno"], stdout=sys.stderr, check=True)
"""
    async with open_worker(tmp_path) as (node, _):
        assert (await node.run(source)).error_code is None
        assert sorted(node.lines(node.number)) == [
            ("stderr", "raw"),
            ("stderr", "through fileno"),
            ("stdout", "from outside"),
        ]


@pytest.mark.slow
async def test_a_short_job_says_nothing_of_its_start_and_a_long_one_does(
    tmp_path: Path, level: Isolation
) -> None:
    source = "import time\ndef handler(s):\n    time.sleep(s)\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        await node.run(source, 0.3)
        long = node.number
        await node.run(source, 0)
        assert len(node.said(Started, long)) == 1
        assert node.said(Started, node.number) == []


@pytest.mark.slow
async def test_each_job_begins_in_an_empty_directory(tmp_path: Path, level: Isolation) -> None:
    source = """
import os
def handler(input):
    before = os.listdir(".")
    os.makedirs("a/b/c")
    open("a/b/file", "w").write("x")
    os.symlink("/", "a/link")
    here = os.getcwd()
    if input == "leave":
        os.chdir("/")
    return [before, here, os.environ["HOME"] == os.environ["TMPDIR"] == here]
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        first = json.loads((await node.run(source, "leave")).payload)
        second = json.loads((await node.run(source)).payload)
        assert first == second
        assert first[0] == []
        assert first[2] is True


@pytest.mark.slow
async def test_a_function_sees_nothing_of_the_workers_environment(
    tmp_path: Path, level: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERNODE_SECRET", "hush")
    source = "import os\ndef handler(input):\n    return sorted(os.environ)\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        assert json.loads((await node.run(source)).payload) == ["HOME", "LANG", "PATH", "TMPDIR"]


# --- results that are none ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "expression",
    [
        "float('nan')",
        "{1, 2}",
        "object()",
        "cycle()",
        "nested(33)",
        "'\\ud800'",
        "{(1, 2): 3}",
        "10 ** 5000",
        "(lambda: (yield))()",
    ],
)
async def test_a_result_that_is_not_json_is_named_so(
    tmp_path: Path, level: Isolation, expression: str
) -> None:
    source = f"""
def cycle():
    value = []
    value.append(value)
    return value
def nested(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value
def handler(input):
    return {expression}
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(source)
        assert finished.error_code == "result_invalid"
        assert text(finished).startswith("the result is not JSON: ")


@pytest.mark.slow
async def test_thirty_two_levels_are_not_too_deep(tmp_path: Path, level: Isolation) -> None:
    source = "def handler(input):\n v = '[[[[' * 20\n for _ in range(32): v = [v]\n return v\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        assert (await node.run(source)).error_code is None


@pytest.mark.slow
async def test_a_large_result_becomes_a_blob(tmp_path: Path, level: Isolation) -> None:
    source = "def handler(input):\n    return 'x' * 2000\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(source, limits=Limits(result_bytes=1000))
        blob = int(json.loads(finished.payload)["blob"])
        assert node.blobs[blob] == (b'"' + b"x" * 2000 + b'"', "application/json")
        assert [write.blob for write in finished.writes] == [blob]


@pytest.mark.slow
async def test_a_result_over_output_bytes_is_refused(tmp_path: Path, level: Isolation) -> None:
    source = "def handler(input):\n    return 'x' * 2000\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(source, limits=Limits(output_bytes=1000))
        assert finished.error_code == "output_limit"


# --- programs that are none --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def handler(:", "SyntaxError"),
        ("import nonsense_that_is_nowhere", "ModuleNotFoundError"),
        ("x = 1", "the program has no function 'handler'"),
        ("handler = 3", "the program has no function 'handler'"),
        ("raise BaseException('no')", "BaseException: no"),
    ],
)
async def test_a_program_that_cannot_be_loaded_fails_its_jobs(
    tmp_path: Path, level: Isolation, source: str, message: str
) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(source)
        assert finished.error_code == "setup_failed"
        assert message in text(finished)
        await still_works(node)


# --- exceptions --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_an_error_comes_with_the_functions_own_traceback(
    tmp_path: Path, level: Isolation
) -> None:
    source = "def inner():\n    raise ValueError('seven')\ndef handler(input):\n    inner()\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(source)
        assert (finished.error_code, text(finished)) == ("function_error", "ValueError: seven")
        assert "in inner\n    raise ValueError('seven')" in finished.traceback
        assert "python_child" not in finished.traceback
        assert finished.writes == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "class Odd(Exception):\n        def __str__(self): raise SystemExit\n    raise Odd",
        "class Odd(BaseException):\n        def __reduce__(self): 1/0\n    raise Odd('x')",
        "e = ValueError('loop'); e.__cause__ = e; raise e",
        "raise ValueError('x' * 10_000_000)",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "raise ExceptionGroup('many', [ValueError(str(n)) for n in range(1000)])",
        "raise ValueError('\\ud800\\x00\\uffff')",
        "handler(input)",
    ],
)
async def test_any_exception_becomes_bounded_text(
    tmp_path: Path, level: Isolation, body: str
) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(f"def handler(input):\n    {body}\n")
        assert finished.error_code == "function_error"
        assert 0 < len(text(finished)) <= 4096 * 10
        assert len(finished.traceback) <= 40_000
        await still_works(node)


# --- ends of processes -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os; os._exit(7)", "its process exited with status 7"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "its process was ended by SIG"),
        ("import os; os.closerange(0, 256)", "its process"),
        (
            "import os\n    for n in range(3, 256):\n        try: os.write(n, b'nonsense' * 99)\n"
            "        except OSError: pass\n    import time; time.sleep(60)",
            "its process broke into",
        ),
        (
            "import os\n    for n in range(3, 256):\n        try: os.write(n, bytes([127] * 4))\n"
            "        except OSError: pass\n    import time; time.sleep(60)",
            "a frame of",
        ),
    ],
)
async def test_a_process_that_ends_is_reported_with_its_reason(
    tmp_path: Path, level: Isolation, body: str, message: str
) -> None:
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        with trio.fail_after(WITHIN_S):
            finished = await node.run(f"def handler(input):\n    {body}\n")
        assert finished.error_code == "exited"
        assert message in text(finished)
        await still_works(node)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import os; os.execv('/bin/true', ['true'])", "its process exited with status 0"),
    ],
)
async def test_what_only_a_plain_process_can_do_ends_it_too(
    tmp_path: Path, body: str, message: str
) -> None:
    async with open_worker(tmp_path, adopts_orphans=True) as (node, _):
        finished = await node.run(f"def handler(input):\n    {body}\n")
        assert finished.error_code == "exited"
        assert message in text(finished)
        await still_works(node)


FRAMES = """
import os, cbor2
def frame(*fields):
    body = cbor2.dumps(list(fields))
    data = len(body).to_bytes(4, "big") + body
    for number in range(3, 64):
        try: os.write(number, data)
        except OSError: pass
def handler(input):
    {forgery}
    import time; time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "forgery",
    [
        "frame(1, 999, None, b'1', '', 0.0, 0.0, 0, '', [], False)",
        "frame(1, 1, None, b'{', '', 0.0, 0.0, 0, '', [], False)",
        "frame(1, 1, None, b'1', '', float('nan'), 0.0, 0, '', [], False)",
        "frame(1, 1, None, b'1', '', 0.0, 0.0, 0, '', [[3, 1, 'k', 2 ** 70]], False)",
        "frame(1, 1, 'no_such_code', b'1', '', 0.0, 0.0, 0, '', [], False)",
        "frame(1, 1, None, b'1' * 3_000_000, '', 0.0, 0.0, 0, '', [], False)",
        "frame(2, 3, b'x')",
        "frame(3, 2.0, '')",
        "frame(4, 1, 'blob.read', {'blob': 1, 'offset': 0, 'length': 1})",
        "frame(4, 1, 'kv.get', {'space': 2 ** 64, 'key': 'k'})",
        "frame(4, 1, 'kv.get', {'space': 1, 'key': [1]})",
        "[frame(4, n, 'job.call', {'function': 'f', 'input': b'1'}) for n in range(99)]",
        "frame(9)",
        "frame()",
        "frame(cbor2.CBORTag(35, '(a+)+'))",
    ],
)
async def test_forged_frames_cost_the_function_its_process(
    tmp_path: Path, level: Isolation, forgery: str
) -> None:
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        node.answers = False
        with trio.fail_after(WITHIN_S):
            finished = await node.run(FRAMES.format(forgery=forgery))
        assert finished.error_code == "exited"
        assert "its process broke into its connection" in text(finished)
        await still_works(node)


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import signal, time\n    for n in range(1, 65):\n"
        "        try: signal.signal(n, signal.SIG_IGN)\n"
        "        except (OSError, ValueError): pass\n    while True: time.sleep(1)",
        "import os, signal, time; os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)",
        "import threading\n    while True:\n        try: threading.Event().wait()\n"
        "        except BaseException: pass",
        "import os, time\n    if os.fork() == 0: os.setsid()\n    while True: time.sleep(1)",
        "import re; re.match('(a+)+$', 'a' * 64 + 'b')",
    ],
)
async def test_a_job_that_never_ends_is_ended(tmp_path: Path, level: Isolation, body: str) -> None:
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        with trio.fail_after(0.3 + WITHIN_S):
            finished = await node.run(
                f"def handler(input):\n    {body}\n", limits=Limits(run_s=0.3)
            )
        assert finished.error_code == "run_timeout"
        assert text(finished) == "it ran for more than 0.3 s"
        assert 0.3 <= finished.usage.wall_s < 0.3 + WITHIN_S
        await still_works(node)


@pytest.mark.slow
async def test_a_program_that_never_loads_is_ended(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run("while True: pass", limits=Limits(run_s=0.2))
        assert finished.error_code == "run_timeout"


@pytest.mark.slow
async def test_a_job_without_a_sign_of_life_is_ended(tmp_path: Path, level: Isolation) -> None:
    source = """
import edge, time
def handler(beats):
    for _ in range(beats):
        edge.progress(0.5)
        time.sleep(0.05)
    time.sleep(60)
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(source, 30, limits=Limits(heartbeat_s=1.0))
        assert finished.error_code == "heartbeat_timeout"
        assert finished.usage.wall_s > 2.0, "it lived as long as it beat"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "while True: held.append(bytearray(1 << 20))",
        "held.append(bytearray(1 << 40))",
        "import ctypes; held.append(ctypes.create_string_buffer(1 << 30))",
        # Each process stays within, all together do not.
        "import os, time\n    for _ in range(4):\n        if os.fork() == 0: break\n"
        "    held.append(bytearray(os.urandom(1 << 20)) * 48)\n    time.sleep(60)",
    ],
)
async def test_memory_without_end_is_ended(tmp_path: Path, level: Isolation, body: str) -> None:
    limits = Limits(memory_bytes=96 << 20)
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        with trio.fail_after(WITHIN_S):
            finished = await node.run(
                f"held = []\ndef handler(input):\n    {body}\n", limits=limits
            )
        assert finished.error_code == "memory_limit"
        await still_works(node)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "codes"),
    [
        ("os.fork()", {"process_limit"}),
        ("if os.fork() == 0: os.setsid()", {"process_limit"}),
        # Each forks and is gone: hardly any is ever there to be counted.
        (
            "if os.fork() == 0: os.setsid()\n            elif os.getpid() != first: os._exit(0)",
            {"process_limit", "run_timeout"},
        ),
    ],
    ids=["plain", "new sessions", "fleeing"],
)
async def test_a_fork_bomb_is_defused(
    tmp_path: Path, level: Isolation, body: str, codes: set[str]
) -> None:
    source = f"""
import os
def handler(input):
    {call_it("bomb")}
    first = os.getpid()
    while True:
        try:
            {body}
        except OSError:
            pass
"""
    # The time limit is for those that cannot be counted; on a busy machine counting takes a while.
    limits = Limits(processes=64, run_s=1.0 if "run_timeout" in codes else 15.0)
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        with trio.fail_after(limits.run_s + WITHIN_S):
            finished = await node.run(source, limits=limits)
        assert finished.error_code in codes
        await still_works(node)
    await all_gone("bomb")  # killed, and perhaps not yet all the way dead


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "while True: print('x' * 65536)",
        "while True: os.write(1, b'x' * 65536)",
        "while True: os.write(2, b'\\n' * 65536)",
        "while True: edge.log('x' * 65536)",
        "os.fork()\n    while True: os.write(1, b'x' * 65536)",
        "file = open('large', 'wb')\n    while True: file.write(b'x' * 65536)",
        "edge.put_blob(bytes(8 << 20))",
        "return bytes(8 << 20)",
    ],
)
async def test_output_without_end_is_ended(tmp_path: Path, level: Isolation, body: str) -> None:
    source = f"import edge, os, subprocess\ndef handler(input):\n    {body}\n"
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        with trio.fail_after(1 + WITHIN_S):
            finished = await node.run(source, limits=Limits(output_bytes=4 << 20))
        assert finished.error_code == "output_limit"
        logged = sum(len(line) for _, line in node.lines(node.number))
        assert logged <= 1 << 20
        await still_works(node)


@pytest.mark.slow
async def test_much_output_is_cut_and_says_so(tmp_path: Path, level: Isolation) -> None:
    source = "def handler(n):\n    for i in range(n): print(i, 'x' * 1000)\n    return 'done'\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await node.run(source, 3000)
        assert finished.payload == b'"done"'
        lines = node.lines(node.number)
        assert lines[0] == ("stdout", "0 " + "x" * 1000)
        assert lines[-1] == ("log", "the rest is dropped: over 1048576 bytes of output")
        assert 900 < len(lines) < 1100


@pytest.mark.slow
async def test_binary_output_becomes_valid_text(tmp_path: Path, level: Isolation) -> None:
    source = """
import os, sys
def handler(input):
    sys.stdout.buffer.write(bytes(range(256)) + b"\\n")
    sys.stdout.flush()
    os.write(1, b"\\xff\\xfe raw\\n")
    print("\\ud800 lone")
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        assert (await node.run(source)).error_code is None
        joined = "".join(line for _, line in node.lines(node.number))
        joined.encode()
        assert "\ufffd" in joined
        assert "raw" in joined
        assert "\\ud800 lone" in joined


@pytest.mark.slow
async def test_lines_have_a_largest_length(tmp_path: Path, level: Isolation) -> None:
    source = "def handler(input):\n    print('y' * 20000)\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        await node.run(source)
        assert [len(line) for _, line in node.lines(node.number)] == [8192, 8192, 3616]
        assert all(len(log.lines) <= 512 for log in node.said(Log))


# --- what is left behind -----------------------------------------------------------------------


LEFT = "left behind"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "if os.fork() == 0: time.sleep(600)",
        "if os.fork() == 0:\n        os.setsid()\n        time.sleep(600)",
        # Twice forked, in a session of its own: a daemon by the book.
        "if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n"
        "        os._exit(0)",
        "if os.fork() == 0:\n        os.closerange(0, 256)\n        time.sleep(600)",
        "threading.Thread(target=time.sleep, args=(600,)).start()",
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    ],
    ids=["child", "session", "daemon", "closed", "thread", "daemon thread"],
)
async def test_nothing_outlives_its_job(tmp_path: Path, level: Isolation, body: str) -> None:
    source = f"""
import os, threading, time
ME = os.urandom(8).hex()
def handler(input):
    {call_it(LEFT)}
    {body}
    return ME
"""
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        finished = await node.run(source)
        assert finished.error_code is None, finished
        await all_gone(LEFT)
        assert (await node.run(source)).payload != finished.payload, "another process"


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", ", start_new_session=True, env={}"])
async def test_a_program_that_a_function_started_dies_with_its_job(
    tmp_path: Path, options: str
) -> None:
    source = "import subprocess\ndef handler(input):\n"
    source += f"    return subprocess.Popen(['/bin/sleep', '600']{options}).pid\n"
    async with open_worker(tmp_path, adopts_orphans=True) as (node, _):
        await gone(json.loads((await node.run(source)).payload))


@pytest.mark.slow
async def test_what_a_crashing_function_started_dies_too(tmp_path: Path, level: Isolation) -> None:
    source = f"""
import os, time
def handler(input):
    {call_it(LEFT)}
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os._exit(1)
"""
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        assert (await node.run(source)).error_code == "exited"
        await all_gone(LEFT)
        await still_works(node)


@pytest.mark.slow
async def test_a_forked_process_that_comes_back_does_not_speak_for_the_job(
    tmp_path: Path, level: Isolation
) -> None:
    source = """
import os
def handler(input):
    child = os.fork()
    if child == 0:
        print("child prints")
        return "child"
    os.waitpid(child, 0)
    return "parent"
"""
    async with open_worker(tmp_path, level=level, adopts_orphans=True) as (node, _):
        finished = await node.run(source)
        assert finished.payload == b'"parent"'
        assert ("stdout", "child prints") in node.lines(node.number)


@pytest.mark.slow
async def test_a_directory_of_any_depth_is_emptied(tmp_path: Path, level: Isolation) -> None:
    source = """
import os
def handler(input):
    before = os.listdir(".")
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    return before
"""
    async with open_worker(tmp_path, level=level) as (node, _):
        assert (await node.run(source)).payload == b"[]"
        assert (await node.run(source)).payload == b"[]"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
async def test_a_directory_that_is_gone_ends_the_process(tmp_path: Path) -> None:
    source = """
import os
def handler(input):
    os.rmdir(os.environ["HOME"])
    return os.getpid()
"""
    async with open_worker(tmp_path) as (node, _):
        first = await node.run(source)
        second = await node.run(source)
        assert first.error_code is second.error_code is None
        assert first.payload != second.payload


@pytest.mark.slow
async def test_a_function_that_closes_standard_output_does_no_harm(
    tmp_path: Path, level: Isolation
) -> None:
    source = "import sys\ndef handler(x):\n    print(x)\n    sys.stdout.close()\n    return x\n"
    async with open_worker(tmp_path, level=level) as (node, _):
        assert (await node.run(source, 1)).payload == b"1"
        assert (await node.run(source, 2)).payload == b"2"
        assert node.lines(node.number) == [("stdout", "2")]
