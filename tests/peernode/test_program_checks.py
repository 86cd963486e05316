"""Programs that are not Python, by their form."""

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from peernode.problems import Problem
from peernode.program_checks import architecture, check_level, check_program
from tests.worker.test_edge import make_model
from tests.worker.test_elf import executable_file


@pytest.mark.parametrize(
    "code",
    [
        b"\0asm\1\0\0\0rest",
        b"\0asm\x0d\0\1\0rest",
        b"(module)",
        b" ;; a comment\n (component)",
        b"(; a comment ;) (module)",
    ],
)
def test_modules_pass(code: bytes) -> None:
    check_program("wasm", code)


@pytest.mark.parametrize(
    "code", [b"", b"\0asm\2\0\0\0", b"def handler(x):", b"(moduled)", b"\x7fELF"]
)
def test_what_is_no_module_does_not(code: bytes) -> None:
    with pytest.raises(Problem, match="WebAssembly") as caught:
        check_program("wasm", code)
    assert caught.value.code == "invalid_source"


def test_executables_say_which_architecture_runs_them() -> None:
    for number, name in ((62, "x86_64"), (183, "aarch64")):
        code = executable_file(number)
        check_program("exec", code)
        assert architecture("exec", code) == name
        assert architecture("wasm", code) == ""


@pytest.mark.parametrize(
    "code", [b"", b"#!/bin/sh", executable_file(8), executable_file(segments=(1, 3))]
)
def test_what_is_no_static_executable_is_refused(code: bytes) -> None:
    with pytest.raises(Problem) as caught:
        check_program("exec", code)
    assert (caught.value.code, caught.value.field) == ("invalid_source", "source")


def test_models_pass() -> None:
    check_program("onnx", make_model())


@pytest.mark.parametrize(
    "code", [b"", b"def handler(x):", b"\x08\x08", make_model()[:-1], b"\xff" * 40]
)
def test_what_is_no_model_does_not(code: bytes) -> None:
    with pytest.raises(Problem, match="not an ONNX model"):
        check_program("onnx", code)


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(code: bytes) -> None:
    for runtime in ("wasm", "onnx"):
        with suppress(Problem):
            check_program(runtime, code)


def test_native_code_has_no_level_above_the_sandbox() -> None:
    check_level("onnx", "sandbox")
    check_level("python", "wasm")
    check_level("wasm", "process")
    with pytest.raises(Problem, match="its strongest level is sandbox"):
        check_level("onnx", "wasm")
