"""WebAssembly modules and components as functions, in text form: well-behaved and hostile."""

import json
import os
from pathlib import Path

import pytest
import trio

from tests.worker.fake_node import FakeNode, Space, open_worker
from tests.worker.wasm_programs import COMPONENT, ECHO, calling, module
from worker.protocol import (
    BlobDelete,
    BlobKeep,
    Finished,
    KvDelete,
    KvIncrement,
    KvPut,
    Limits,
    Program,
    Progress,
    Returned,
)

pytestmark = pytest.mark.slow

WITHIN_S = 10.0


async def run(
    node: FakeNode, source: str | bytes, input: object = None, **fields: object
) -> Finished:
    return await node.run(source, input, runtime="wasm", **fields)


async def still_works(node: FakeNode) -> None:
    with trio.fail_after(WITHIN_S):
        assert (await run(node, ECHO, ["still", "here"])).payload == b'["still","here"]'


# --- what is well ------------------------------------------------------------------------------


async def test_a_command_reads_its_input_and_prints_its_result(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        value = {"a": [1, 2.5, None, True, "\u00fc \U0001f600"], "large": "x" * 20_000}
        finished = await run(node, ECHO, value)
        assert finished.error_code is None
        assert json.loads(finished.payload) == value
        small = await run(node, ECHO, 1)
        assert small.payload == b"1", "nothing of the last input is left"


async def test_a_module_in_binary_form_is_the_same(tmp_path: Path) -> None:
    wasmtime = pytest.importorskip("wasmtime")
    async with open_worker(tmp_path) as (node, _):
        assert (await run(node, bytes(wasmtime.wat2wasm(ECHO)), [7])).payload == b"[7]"


async def test_no_output_is_null_and_standard_error_is_log(tmp_path: Path) -> None:
    source = module(
        "(call $write (i32.const 2) (i32.const 8000) (i32.const 5))",
        more='(data (i32.const 8000) "hello")',
    )
    async with open_worker(tmp_path) as (node, _):
        assert (await run(node, source)).payload == b"null"
        assert node.lines(node.number) == [("stderr", "hello")]


async def test_named_blobs_join_the_input(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        finished = await run(node, ECHO, {"a": 1}, blobs={"image": 7})
        assert json.loads(finished.payload) == {"a": 1, "image": {"blob": "7"}}


async def test_each_job_has_a_new_instance(tmp_path: Path) -> None:
    source = module(
        """(i32.store8 (i32.const 3000) (i32.add (i32.load8_u (i32.const 3000)) (i32.const 1)))
           (call $write (i32.const 1) (i32.const 3000) (i32.const 1))""",
        more='(data (i32.const 3000) "0")',
    )
    async with open_worker(tmp_path) as (node, _):
        assert [(await run(node, source)).payload for _ in range(3)] == [b"1"] * 3


async def test_a_component_handles_text(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        for _ in range(2):
            finished = await run(node, COMPONENT, {"a": [1]})
            assert (finished.error_code, finished.payload) == (None, b'{"a":[1]}')


# --- the calls of `edge` ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "answer"),
    [
        ("kv_get", ("a", "k"), 5),
        ("kv_keys", ("a", "k"), ["k", "k2"]),
        ("kv_increment_now", ("a", "k", 3), 8),
        ("blob_read", ("7", 1, 3), 345),
        ("blob_read", ("7", 100, 3), None),
        ("secret", ("TOKEN",), "kept-quiet"),
        ("job", (), {"id": "101", "attempt": 1, "deadline": None}),
        ("call", ("other", "[1]"), 102),
        ("log", ("hello",), None),
    ],
)
async def test_a_call_is_answered(
    tmp_path: Path, name: str, values: tuple[str | int, ...], answer: object
) -> None:
    async with open_worker(tmp_path) as (node, _):
        node.spaces["a"] = Space(values={"k": b"5", "k2": b"1"})
        node.blobs[7] = (b"23456", "text/plain")
        node.secrets["TOKEN"] = '"kept-quiet"'
        finished = await run(node, calling(name, *values))
        assert finished.error_code is None, finished
        assert json.loads(finished.payload) == answer


@pytest.mark.parametrize(
    ("name", "values", "write"),
    [
        ("kv_put", ("a", "k", "[1]", 0.0), KvPut(0, "k", b"[1]", None)),
        ("kv_put", ("a", "k", "[1]", 60.0), KvPut(0, "k", b"[1]", 60.0)),
        ("kv_delete", ("a", "k"), KvDelete(0, "k")),
        ("kv_increment", ("a", "k", -3), KvIncrement(0, "k", -3)),
        ("blob_put", (b"\xff\x00", "text/plain", "n"), BlobKeep(103)),
        ("blob_delete", ("7",), BlobDelete(7)),
    ],
)
async def test_writes_wait_for_success(
    tmp_path: Path, name: str, values: tuple[str | bytes | float, ...], write: object
) -> None:
    async with open_worker(tmp_path) as (node, _):
        node.spaces["a"] = Space(values={"k": b"5"})
        node.blobs[7] = (b"seven", "text/plain")
        finished = await run(node, calling(name, *values))
        assert finished.error_code is None, finished
        assert finished.writes == [write]
        assert node.spaces["a"].values == {"k": b"5"}


@pytest.mark.parametrize(
    ("name", "values", "status", "says"),
    [
        ("kv_get", ("a", "z"), 1, "edge.kv('a') has no 'z'"),
        ("kv_get", ("nowhere", "z"), 1, "edge.kv('nowhere'): not_found"),
        ("http", ('{"method": "GET", "url": "http://example.org/"}',), 2, "forbidden"),
        ("http", ("[]",), 4, "AttributeError"),
        ("kv_put", ("a", "k", "{", 0.0), 4, "JSONDecodeError"),
        ("kv_put", ("a", "k" * 300, "1", 0.0), 4, "1 to 256 bytes"),
        ("blob_read", ("7", -1, 3), 4, "must not be negative"),
        ("blob_read", ("999", 0, 3), 1, "not_found"),
        ("blob_read", ("7", 2**63 - 1, 3), 4, "Error"),
        ("kv_put", ("a", "k", "[" * 4000, 0.0), 4, "Error"),
        ("progress", (2.0, "m"), 4, "between 0 and 1"),
        ("infer", ("nonsense",), 4, "JSONDecodeError"),
    ],
)
async def test_a_refused_call_says_why(
    tmp_path: Path, name: str, values: tuple[str | int | float, ...], status: int, says: str
) -> None:
    async with open_worker(tmp_path) as (node, _):
        node.spaces["a"] = Space()
        node.blobs[7] = (b"seven", "text/plain")
        finished = await run(node, calling(name, *values))
        assert finished.error_code == "function_error"
        assert finished.payload == f"it exited with status {status}".encode()
        assert says in node.lines(node.number)[0][1]


async def test_progress_is_told(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        await run(node, calling("progress", 0.5, "half"))
        assert node.said(Progress, node.number)[-1].fraction == 0.5


async def test_a_model_runs_for_a_module(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tests.worker.test_edge import make_model

    async with open_worker(tmp_path, backends=["CPUExecutionProvider"]) as (node, _):
        node.blobs[7] = (make_model(), "application/onnx")
        request = '{"model": "7", "inputs": {"x": [1, 2.5]}}'
        limits = Limits(memory_bytes=4 << 30)
        finished = await run(node, calling("infer", request), limits=limits)
        assert finished.payload == b'{"y":[2.0,5.0]}'
        assert finished.backend == "CPUExecutionProvider"


# --- what is hostile ----------------------------------------------------------------------------

GROW = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable"
TOUCH = """(local $at i32) (loop $l
  (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
  (memory.fill (i32.mul (i32.sub (memory.size) (i32.const 16)) (i32.const 65536))
    (i32.const 1) (i32.const 1048576))
  (br $l))"""
DEEP = (
    "(func $deep (param i64 i64 i64 i64) (call $deep (local.get 0) (local.get 1) "
    "(local.get 2) (local.get 3)))"
)
ZEROS = "(i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (module("unreachable"), "function_error"),
        (module("(loop $l (br $l))"), "run_timeout"),
        (module(GROW), "memory_limit"),
        (module(TOUCH), "memory_limit"),
        (module(f"(call $deep {ZEROS})", more=DEEP), "function_error"),
        (module("(drop (i32.load (i32.const -4)))"), "function_error"),
        (module("(drop (i32.div_s (i32.const 1) (i32.const 0)))"), "function_error"),
        (module("(call $proc_exit (i32.const 3))"), "function_error"),
        (
            module(
                "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000))"
                "(i32.const -1)))) unreachable",
                more="(table $t 1 funcref)",
            ),
            "function_error",
        ),
        (module("", more="(table 10000000 funcref)"), "setup_failed"),
        (module("", more="(table 1 funcref)" * 99), "setup_failed"),
        (module("", more="(memory 1)"), "setup_failed"),
        (module("").replace('(export "memory") 4', '(export "memory") 60000'), "memory_limit"),
        (module("", "nonsense i32"), "setup_failed"),
        (module("", "kv_get i64"), "setup_failed"),
        (
            module("(loop $l (call $write (i32.const 2) (i32.const 0) (i32.const 4096)) (br $l))"),
            "output_limit",
        ),
        (
            module("(loop $l (call $write (i32.const 1) (i32.const 0) (i32.const 60000)) (br $l))"),
            "output_limit",
        ),
        (module("(call $write (i32.const 1) (i32.const 0) (i32.const 9))"), "result_invalid"),
        (
            module(
                f"(drop (call $kv_get (i32.const -9) (i32.const 99) {ZEROS[:12]} "
                "(i32.const 0) (i32.const 0)))".replace(ZEROS[:12], ""),
                "kv_get i32 i32 i32 i32",
            ),
            "function_error",
        ),
        (
            module("(drop (call $log (i32.const 0) (i32.const -1)))", "log i32 i32"),
            "function_error",
        ),
        (module("(drop (call $take (i32.const -1) (i32.const -1)))"), "function_error"),
        (
            module("(drop (call $job)) (drop (call $take (i32.const -1) (i32.const -1)))", "job"),
            "function_error",
        ),
        (
            module(
                "(loop $l (drop (call $log (i32.const 0) (i32.const 60000))) (br $l))",
                "log i32 i32",
            ),
            "output_limit",
        ),
    ],
)
async def test_what_breaks_a_limit_ends_in_a_named_state(
    tmp_path: Path, source: str, code: str
) -> None:
    run_s = 1.0 if code == "run_timeout" else 20.0
    limits = Limits(run_s=run_s, memory_bytes=64 << 20, output_bytes=1 << 20)
    async with open_worker(tmp_path, slots=2) as (node, _):
        await node.say(
            *node.lease("import time\ndef handler(x):\n    time.sleep(0.2)\n    return 1\n")
        )
        neighbour = node.number
        with trio.fail_after(run_s + WITHIN_S):
            finished = await run(node, source, limits=limits)
        assert finished.error_code == code, finished
        assert (await node.finished(neighbour)).error_code is None
        await still_works(node)


def many(count: int, body: str) -> bytes:
    """A module of `count` equal functions, in text."""
    return module("", more=f"(func {body})" * count).encode()


def leb(number: int) -> bytes:
    found = bytearray()
    while True:
        found.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(found)


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + leb(len(content)) + content


def huge_function(size: int) -> bytes:
    """One function of `size` branches among a thousand locals: much to allocate."""
    steps = []
    for n in range(size):
        one, two, three = (leb(n * factor % 1000) for factor in (7, 11, 13))
        steps.append(b"\x02\x40\x20" + one + b"\x0d\x00\x20" + two + b"\x20" + one)
        steps.append(b"\x6a\x21" + three + b"\x0b")
    body = b"\x01" + leb(1000) + b"\x7f" + b"".join(steps) + b"\x0b"
    code = leb(1) + leb(len(body)) + body
    return (
        b"\0asm\1\0\0\0"
        + section(1, b"\x01\x60\0\0")
        + section(3, b"\x01\x00")
        + section(5, b"\x01\x00\x01")
        + section(7, b"\x02\x06memory\x02\x00\x06_start\x00\x00")
        + section(10, code)
    )


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"nonsense",
        b"\0asm\1\0\0\0" + b"\xff" * 64,
        b"\0asm\x0d\0\1\0" + b"\xff" * 64,
        b"(module",
        b"(" * 100_000,
        b'(module (import "env" "x" (func)))',
        b'(module (import "edge" "log" (func (param i32 i32) (result i32))))',
        b"(module (memory 1) (func))",
        b"(component)",
        b'(module (memory (export "memory") 1) (func (export "_start") (param i32)))',
        b"".join([b"(module ", b'(import "edge" "log" (func))' * 20_000, b")"]),
    ],
    ids=range(12),
)
async def test_what_is_no_program_is_refused_before_it_runs(tmp_path: Path, source: bytes) -> None:
    async with open_worker(tmp_path) as (node, _):
        if not source:
            source = b" "
        finished = await run(node, source)
        assert finished.error_code in ("setup_failed", "function_error"), finished
        assert len(finished.payload) < 8192
        await still_works(node)


@pytest.mark.parametrize("source", [many(120_000, "(drop (i32.const 1))"), huge_function(10_000)])
async def test_a_compile_bomb_costs_its_own_jobs_only(tmp_path: Path, source: bytes) -> None:
    async with open_worker(tmp_path, compile_time_max_s=1) as (node, _):
        await node.say(*node.lease(source, runtime="wasm"))
        bomb = node.number
        assert (await node.run()).payload == b"null", "others run meanwhile"
        with trio.fail_after(60):
            finished = await node.finished(bomb)
        assert finished.error_code == "setup_failed", finished
        assert b"too much time or memory" in finished.payload
        await still_works(node)


# --- preparing ----------------------------------------------------------------------------------


async def test_a_module_is_compiled_once_and_kept(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, connector):
        await run(node, ECHO, 1)
        (compiled,) = (tmp_path / "compiled").iterdir()
        before = compiled.stat()
        hellos = node.hellos
        await connector.cut()
        await node.until(lambda: node.hellos > hellos)
        assert (await run(node, ECHO, 2)).payload == b"2"
        after = compiled.stat()
        assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
        assert after.st_mode & 0o777 == 0o400


async def test_compiled_code_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        await run(node, ECHO, 1)
        (compiled,) = (tmp_path / "compiled").iterdir()
    code = compiled.read_bytes()
    for spoil in ("writable", "directory", "link"):
        compiled.unlink()
        if spoil == "link":
            (tmp_path / "elsewhere").write_bytes(b"evil")
            compiled.symlink_to(tmp_path / "elsewhere")
        else:
            compiled.write_bytes(b"evil" if spoil == "writable" else code)
            compiled.chmod(0o666 if spoil == "writable" else 0o400)
            compiled.parent.chmod(0o777 if spoil == "directory" else 0o700)
        async with open_worker(tmp_path) as (node, _):
            assert (await run(node, ECHO, 2)).payload == b"2"
        assert not compiled.is_symlink()
        assert compiled.read_bytes() == code
        assert compiled.stat().st_mode & 0o777 == 0o400


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_compiled_code_of_another_user_is_not_used(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        await run(node, ECHO, 1)
        (compiled,) = (tmp_path / "compiled").iterdir()
        code = compiled.read_bytes()
    compiled.chmod(0o600)
    compiled.write_bytes(b"evil")
    os.chown(compiled, 2077, 2077)
    async with open_worker(tmp_path) as (node, _):
        assert (await run(node, ECHO, 2)).payload == b"2"
    assert compiled.stat().st_uid == 0
    assert compiled.read_bytes() == code


async def test_a_large_program_is_fetched_and_checked(tmp_path: Path) -> None:
    source = ECHO.encode() + b";; padding\n" * 200_000
    async with open_worker(tmp_path) as (node, _):
        finished = await run(node, source, [1])
        assert finished.payload == b"[1]", finished
        reads = [call for call in node.calls if call.operation == "program.read"]
        assert [call.arguments["offset"] for call in reads] == [0, 1 << 20, 2 << 20]
    async with open_worker(tmp_path / "other") as (node, _):
        node._program_read = lambda job, offset, length: b"x" * length  # type: ignore[method-assign]
        finished = await run(node, source, [1])
        assert finished.error_code == "setup_failed"
        assert b"content_corrupt" in finished.payload


async def test_jobs_that_wait_for_their_program_can_be_taken_back(tmp_path: Path) -> None:
    from worker.protocol import Drain, Kill, Recall

    async with open_worker(tmp_path) as (node, _):
        jobs = []
        for _ in range(4):
            await node.say(*node.lease(many(20_000, "(drop (i32.const 1))"), runtime="wasm"))
            jobs.append(node.number)
        kill, recall, drain, other = jobs
        await node.say(Kill(kill, kill, "test"), Recall(recall, recall))
        assert await node.until_said(Returned, recall)
        await node.say(Drain())
        assert await node.until_said(Returned, drain)
        assert await node.until_said(Returned, other)
        assert node.said(Finished) == []
        assert not node.said(Program)
