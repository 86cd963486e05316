"""Python inside WebAssembly: what it may do, what it tries, and what is left of it."""

import json
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.worker.fake_node import ECHO, FakeNode, Space, open_worker as open_any_worker
from worker.protocol import Finished, KvPut, Limits

pytestmark = pytest.mark.slow

WITHIN_S = 5.0
"""After its limit a job must have ended by then."""


open_worker = partial(open_any_worker, level="wasm")


async def value(node: FakeNode, source: str, input: object = None, **fields: object) -> object:
    finished = await node.run(source, input, **fields)
    assert finished.error_code is None, finished
    return json.loads(finished.payload)


async def still_works(node: FakeNode) -> None:
    with trio.fail_after(WITHIN_S):
        assert (await node.run(ECHO, ["still", "here"])).payload == b'["still","here"]'


async def test_a_function_runs_unchanged(tmp_path: Path) -> None:
    source = """
import dataclasses, datetime, decimal, hashlib, re, statistics, xml.etree.ElementTree as ET
@dataclasses.dataclass
class Point:
    x: int
def handler(input):
    print("one line")
    return {
        "point": dataclasses.asdict(Point(input["x"])),
        "sum": str(sum(map(decimal.Decimal, ["0.1", "0.2"]))),
        "hash": hashlib.sha256(b"x").hexdigest()[:8],
        "mean": statistics.mean([1, 2, 6]),
        "tag": ET.fromstring("<a><b/></a>")[0].tag,
        "day": datetime.date(2025, 1, 31).isoformat(),
        "found": re.findall("[a-z]+", "a bc"),
    }
"""
    async with open_worker(tmp_path) as (node, _):
        assert await value(node, source, {"x": 3}) == {
            "point": {"x": 3},
            "sum": "0.3",
            "hash": "2d711642",
            "mean": 3,
            "tag": "b",
            "day": "2025-01-31",
            "found": ["a", "bc"],
        }
        assert node.lines(node.number) == [("stdout", "one line")]


async def test_each_job_begins_anew(tmp_path: Path) -> None:
    source = """
import json, os, random
count = 0
def handler(input):
    global count
    count += 1
    json.loads = None
    return [count, random.random(), os.urandom(8).hex()]
"""
    async with open_worker(tmp_path) as (node, _):
        first, second = [await value(node, source) for _ in range(2)]
        assert first[0] == second[0] == 1  # type: ignore[index]
        assert first[1] != second[1], "a generator that all share would be a trap"  # type: ignore[index]
        assert first[2] != second[2]  # type: ignore[index]


async def test_any_text_can_be_printed(tmp_path: Path) -> None:
    source = """
import sys
def handler(input):
    print("\\ud800", "\\0", "\\u00fc")
    print("no line end", end="", file=sys.stderr)
"""
    async with open_worker(tmp_path) as (node, _):
        assert (await node.run(source)).error_code is None
        assert node.lines(node.number) == [
            ("stdout", "\\ud800 \0 \u00fc"),
            ("stderr", "no line end"),
        ]


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("open('/etc/passwd').read()", "FileNotFoundError"),
        ("open('/work', 'w')", "FileNotFoundError"),
        ("os.listdir('/')", "FileNotFoundError"),
        ("os.listdir('.')", "FileNotFoundError"),
        ("os.fork()", "AttributeError"),
        ("os.kill(1, 9)", "AttributeError"),
        ("os.execv('/bin/sh', [])", "AttributeError"),
        ("__import__('socket')", "ModuleNotFoundError"),
        ("__import__('ctypes')", "ModuleNotFoundError"),
        ("__import__('subprocess')", "ModuleNotFoundError"),
        ("__import__('threading').Thread(target=print).start()", "Error"),
        ("open(edge.blob(7).path(), 'rb')", "FileNotFoundError"),
    ],
)
async def test_there_is_nothing_to_reach(tmp_path: Path, expression: str, says: str) -> None:
    source = f"import edge, os\ndef handler(input):\n    return {expression}\n"
    async with open_worker(tmp_path) as (node, _):
        node.blobs[7] = (b"seven", "text/plain")
        finished = await node.run(source)
        assert finished.error_code == "function_error"
        assert says in finished.payload.decode()
        await still_works(node)


async def test_there_is_no_environment_and_no_argument(tmp_path: Path) -> None:
    source = "import os, sys\ndef handler(input):\n    return [dict(os.environ), sys.argv[1:]]\n"
    async with open_worker(tmp_path) as (node, _):
        environment, arguments = await value(node, source)  # type: ignore[misc]
        assert not {name for name in environment if "TOKEN" in name or name in ("HOME", "PATH")}
        assert arguments == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("while True: pass", "run_timeout"),
        ("import re\n    re.match('(a*)*b', 'a' * 40)", "run_timeout"),
        ("sum(range(10 ** 15))", "run_timeout"),
        ("return bytearray(1 << 30)", "memory_limit"),
        ("kept = []\n    while True: kept.append(bytearray(1 << 20))", "memory_limit"),
        ("kept = []\n    while True: kept.append([kept] * 100)", "memory_limit"),
        ("handler(input)", "function_error"),
        ("import edge\n    edge.encode(eval('[' * 90 + ']' * 90))", "function_error"),
        ("raise SystemExit(3)", "exited"),
        ("import os\n    os._exit(3)", "function_error"),
        ("import os\n    os.abort()", "function_error"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("return 'x' * (3 << 20)", "output_limit"),
        ("import edge\n    edge.put_blob(bytes(3 << 20))", "output_limit"),
        ("return {1, 2}", "result_invalid"),
        ("return float('nan')", "result_invalid"),
    ],
)
async def test_what_breaks_a_limit_ends_in_a_named_state(
    tmp_path: Path, body: str, code: str
) -> None:
    source = f"def handler(input):\n    {body}\n"
    run_s = 1.0 if code == "run_timeout" else 10.0
    limits = Limits(run_s=run_s, memory_bytes=128 << 20, output_bytes=2 << 20)
    async with open_worker(tmp_path, slots=2) as (node, _):
        neighbour = node.lease("import time\ndef handler(x):\n    time.sleep(0.2)\n    return 1\n")
        job = node.number
        await node.say(*neighbour)
        with trio.fail_after(run_s + WITHIN_S):
            finished = await node.run(source, limits=limits)
        assert finished.error_code == code, finished
        assert (await node.finished(job)).error_code is None
        await still_works(node)


async def test_a_job_without_a_sign_of_life_is_ended(tmp_path: Path) -> None:
    source = """
import edge, time
def handler(input):
    for n in range(20):
        time.sleep(0.1)
        edge.progress(n / 20)
    time.sleep(60)
"""
    async with open_worker(tmp_path) as (node, _):
        finished = await node.run(source, limits=Limits(heartbeat_s=1.2))
        assert finished.error_code == "heartbeat_timeout"
        assert finished.usage.wall_s > 2.0


@pytest.mark.parametrize(
    "source", ["def handler(:\n", "def other(x): pass\n", "raise ValueError('no')\n", "x" * 100_000]
)
async def test_a_program_that_cannot_be_loaded_fails_its_jobs(tmp_path: Path, source: str) -> None:
    async with open_worker(tmp_path) as (node, _):
        for _ in range(2):
            finished = await node.run(source)
            assert finished.error_code == "setup_failed", finished
        await still_works(node)


async def test_an_error_comes_with_the_functions_own_traceback(tmp_path: Path) -> None:
    source = "def handler(input):\n    return inner(input)\ndef inner(x):\n    return 1 / x\n"
    async with open_worker(tmp_path) as (node, _):
        finished = await node.run(source, 0)
        assert finished.payload == b"ZeroDivisionError: division by zero"
        assert finished.traceback.startswith('Traceback (most recent call last):\n  File "<func')
        assert "return 1 / x" in finished.traceback
        assert "wasm_guest" not in finished.traceback


@pytest.mark.parametrize(
    ("operation", "arguments", "name", "data"),
    [
        ("blob.begin", "{}", "", ""),
        ("nonsense", "[]", "x", "\u0100"),
        ("kv.get", '{"space": 1e999, "key": 3}', "", ""),
        ("read", '{"path": "/etc/passwd", "offset": 0, "length": 9}', "", ""),
        ("read", '{"path": "x", "offset": -1, "length": -1}', "", ""),
        ("infer", '{"path": "/etc/passwd", "inputs": []}', "", ""),
        ("progress", '{"fraction": [], "message": 1}', "", ""),
        ("program.read", '{"offset": 0, "length": 9}', "", ""),
        ("log", "[" * 100000, "", ""),
        ("log", "{}", "#text", "no digits"),
        ("blob.append", '{"upload": 1}', "#data", "123"),
    ],
)
async def test_a_forged_request_is_refused_and_nothing_more(
    tmp_path: Path, operation: str, arguments: str, name: str, data: str
) -> None:
    call = f"wit_world.ask({operation!r}, {arguments!r}, {name!r}, {data!r})"
    source = f"import wit_world\ndef handler(input):\n    return {call}[0]\n"
    async with open_worker(tmp_path) as (node, _):
        before = await value(node, ECHO, 1)
        assert before == 1
        assert await value(node, source) == "invalid_field"
        await still_works(node)


@pytest.mark.parametrize(
    ("payload", "writes"),
    [
        ("{", "['', []]"),
        ("1", "['', [[1, 0, 3, 'x', None]]]"),
        ("1", "['', [[2, True, 'k']]]"),
        ("1", "['', [[9]]]"),
        ("1", "None"),
        ("'x' * (2 << 20)", "['', []]"),
    ],
)
async def test_a_forged_outcome_is_an_error_of_the_function(
    tmp_path: Path, payload: str, writes: str
) -> None:
    source = f"""
import json, sys
encode = json.dumps
class Payload(bytes):
    def decode(self, *arguments):
        return {payload if "*" in payload else repr(payload)}
def handler(input):
    frame = sys._getframe()
    while frame.f_code.co_name != "outcome":
        frame = frame.f_back
    frame.f_locals["edge"].encode = lambda value: Payload(b"1")
    json.dumps = lambda value: encode({writes})
"""
    async with open_worker(tmp_path) as (node, _):
        finished = await node.run(source)
        assert finished.error_code == "function_error", finished
        assert finished.payload == b"the function broke its interpreter"
        assert finished.writes == []
        await still_works(node)


@pytest.mark.parametrize(
    "arguments",
    [
        '{"path": PATH, "offset": 1e400, "length": 9}',
        '{"path": PATH, "offset": -1, "length": 9}',
        '{"path": PATH, "offset": 1180591620717411303424, "length": 9}',
        '{"path": PATH, "offset": 0, "length": -9}',
        '{"path": PATH, "offset": null, "length": []}',
        '{"path": PATH, "strict": 0, "inputs": [["x", "float32", [1e9], 0, 4]]}',
        '{"path": PATH, "strict": 0, "inputs": [["x", "object", [1], 0, 4]]}',
        '{"path": PATH, "strict": 0, "inputs": [1]}',
    ],
)
async def test_a_content_is_read_within_its_bounds(tmp_path: Path, arguments: str) -> None:
    operation = "infer" if "inputs" in arguments else "read"
    source = f"""
import edge, wit_world
def handler(input):
    arguments = {arguments!r}.replace("PATH", chr(34) + edge.blob(7).path() + chr(34))
    return wit_world.ask({operation!r}, arguments, "data", "")[0]
"""
    async with open_worker(tmp_path) as (node, _):
        node.blobs[7] = (b"seven", "text/plain")
        assert await value(node, source) == "invalid_field"
        await still_works(node)


async def test_writes_arrive_once_and_only_of_what_succeeds(tmp_path: Path) -> None:
    source = """
import edge
def handler(input):
    edge.kv("a")["k"] = input
    assert input < 2
"""
    async with open_worker(tmp_path) as (node, _):
        node.spaces["a"] = Space()
        assert (await node.run(source, 1)).writes == [KvPut(0, "k", b"1", None)]
        assert (await node.run(source, 2)).writes == []
        assert (await node.run(source, 0)).writes == [KvPut(0, "k", b"0", None)]


async def test_too_little_memory_for_the_interpreter_is_said(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        finished: Finished = await node.run(ECHO, limits=Limits(memory_bytes=8 << 20))
        assert finished.error_code in ("memory_limit", "setup_failed")
        assert b"memory" in finished.payload
