"""Functions that are not native Python, through the whole of a node."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.blackbox.daemon import expect, refused
from tests.worker.executables import ECHO as ECHO_C, executable
from tests.worker.test_edge import make_model
from tests.worker.wasm_programs import COMPONENT, ECHO, calling, interpreter

pytestmark = pytest.mark.slow


def deploy(lab, name, runtime, source):
    body = {"project": lab.project, "name": name, "runtime": runtime}
    if isinstance(source, bytes):
        headers = {"content-type": "application/octet-stream"}
        path = f"/blob?project={lab.project}"
        body["blob"] = expect(lab.http.post(path, content=source, headers=headers), 201)["id"]
    else:
        body["source"] = source
    return expect(lab.http.post("/function", json=body), 201)["id"]


def test_a_module_runs_at_its_own_level(lab):
    job = lab.person.run(deploy(lab, "echo-wasm", "wasm", ECHO), {"a": [1, "\u00fc"]})
    assert (job["state"], job["result"]) == ("succeeded", {"a": [1, "\u00fc"]})
    assert job["isolation"] == "wasm"
    component = deploy(lab, "echo-component", "wasm", COMPONENT)
    assert lab.person.run(component, [7])["result"] == [7]


def test_a_module_as_a_blob_gets_versions_like_any_function(lab):
    import wasmtime

    function = deploy(lab, "versions", "wasm", bytes(wasmtime.wat2wasm(ECHO)))
    assert lab.person.run(function, 1)["result"] == 1
    failing = ECHO.replace("(call $write (i32.const 1)", "unreachable (call $write (i32.const 1)")
    second = expect(lab.http.post(f"/function/{function}", json={"source": failing}))
    assert (second["version"], second["runtime"]) == (2, "wasm")
    job = lab.person.run(function, 1)
    assert (job["state"], job["error"]["code"]) == ("failed", "function_error")
    assert "unreachable" in job["error"]["message"]
    assert lab.person.run(function, 1, function_version=1)["result"] == 1


def test_a_modules_writes_take_effect(lab):
    space = {"owner": {"project": lab.project}, "name": "state", "scope": "local"}
    expect(lab.http.post("/kv", json=space), 201)
    write = deploy(lab, "write", "wasm", calling("kv_put", "state", "k", "[1]", 0.0))
    assert lab.person.run(write)["state"] == "succeeded"
    read = deploy(lab, "read", "wasm", calling("kv_get", "state", "k"))
    assert lab.person.run(read)["result"] == [1]


def test_python_runs_unchanged_inside_webassembly(lab):
    interpreter()  # a worker that finds it offers it
    source = """
import edge
def handler(input):
    edge.kv("space")["seen"] = input
    try:
        open("/etc/passwd")
    except FileNotFoundError:
        return ["kept in", edge.kv("space")["seen"]]
"""
    space = {"owner": {"project": lab.project}, "name": "space", "scope": "local"}
    expect(lab.http.post("/kv", json=space), 201)
    function = lab.person.deploy(lab.project, "inside", source)
    job = lab.person.run(function, 3, isolation="wasm")
    assert (job["state"], job["result"]) == ("succeeded", ["kept in", 3]), job
    assert job["isolation"] == "wasm"


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_a_model_alone_is_a_function(lab):
    function = deploy(lab, "double", "onnx", make_model())
    job = lab.person.run(function, {"x": [1, 2.5]})
    assert job["result"] == {"y": [2.0, 5.0]}, job
    assert job["backend"]


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_a_large_model_reaches_its_worker_in_pieces(lab):
    size = 2 << 20
    model = make_model() + b"\x12" + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80])
    model += bytes([size >> 14 & 0x7F | 0x80, size >> 21]) + b"x" * size
    function = deploy(lab, "large", "onnx", model)
    assert lab.person.run(function, {"x": [3]})["result"] == {"y": [6.0]}


def test_a_static_executable_is_a_function_of_its_architecture(lab):
    function = deploy(lab, "double", "exec", executable(ECHO_C))
    shown = expect(lab.http.get(f"/function/{function}"))
    assert (shown["source"], shown["versions"][0]["arch"]) == (None, "x86_64")
    blob = lab.person.blob(b"content", project=lab.project)["id"]
    job = lab.person.run(function, {"n": [1]}, inputs={"face": {"blob": blob}})
    assert job["state"] == "succeeded", job
    assert job["result"] == {"n": [1], "face": {"blob": blob}}
    assert job["isolation"] in ("process", "sandbox")
    job = lab.person.run(function, 1, requires={"arch": "aarch64"})
    assert job["result"] == 1, "its own architecture counts"


def test_an_executable_for_another_machine_waits_and_says_what_for(lab):
    code = bytearray(executable(ECHO_C))
    code[18] = 183
    function = deploy(lab, "elsewhere", "exec", bytes(code))
    made = expect(lab.http.post(f"/function/{function}/call", json={"input": 1}), 202)
    shown = expect(lab.http.get(f"/job/{made['id']}"))
    reasons = [(one["code"], one["detail"]) for one in shown["pending_reasons"]]
    assert ("arch", "needs architecture aarch64, is x86_64") in reasons
    expect(lab.http.post(f"/job/{made['id']}/cancel"))


@pytest.mark.parametrize(
    ("runtime", "source", "code", "field"),
    [
        ("wasm", "def handler(x): pass", "invalid_source", "source"),
        ("wasm", b"\0asm\7\0\0\0", "invalid_source", "source"),
        ("wasm", b"", "invalid_source", "source"),
        ("onnx", "text", "invalid_source", "source"),
        ("onnx", b"\x08\x08", "invalid_source", "source"),
        ("exec", "#!/bin/sh", "invalid_source", "source"),
        ("exec", Path("/bin/true").read_bytes(), "invalid_source", "source"),
    ],
)
def test_what_has_not_the_form_of_a_program_is_refused(lab, runtime, source, code, field):
    body = {"project": lab.project, "name": "wrong", "runtime": runtime}
    if isinstance(source, bytes):
        path = f"/blob?project={lab.project}"
        body["blob"] = expect(lab.http.post(path, content=source), 201)["id"]
    else:
        body["source"] = source
    refused(lab.http.post("/function", json=body), 422, code, field=field)


def test_a_level_that_a_runtime_never_has_is_refused(lab):
    for runtime in ("onnx", "exec"):
        body = {"project": lab.project, "name": "no", "runtime": runtime, "isolation": "wasm"}
        refused(
            lab.http.post("/function", json=body | {"source": "x"}),
            422,
            "invalid_field",
            field="isolation",
        )


def test_a_worker_says_which_runtimes_it_runs_at_which_levels(lab, operator):
    lab.person.run(lab.echo)  # it is attached
    (local,) = (one for one in expect(operator.get("/worker"))["items"] if one["local"])
    levels = local["offer"]["levels"]
    assert levels["wasm"] == ["wasm"]
    assert levels["onnx"] == [level for level in levels["python"] if level != "wasm"]
    assert levels["exec"] == levels["onnx"]
