"""Programs that are not Python, looked at before they are kept: by their form, never run.

Only what a glance at the bytes shows is refused here; whether a module compiles or a model loads
shows at the worker (`setup_failed`), which has limits for that.
"""

import re
from typing import Final

from peernode.problems import Problem
from worker import elf

PROGRAM_SIZE_MAX_BYTES: Final = 64 << 20
"""Largest program other than Python. Source: guess; a larger model is a blob for `edge.infer`."""
WASM_HEADS: Final = (b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0")
"""A module, a component."""
WASM_TEXT: Final = re.compile(rb"(\s|;;[^\n]*\n)*\((;|module\b|component\b)")
"""How the text form begins, comments before it included."""
ONNX_GRAPH: Final = 7
"""Field of a model's protocol buffer that holds its graph."""
STRONGEST: Final = {"python": "wasm", "wasm": "wasm", "onnx": "sandbox", "exec": "sandbox"}
"""The strongest level at which any worker runs programs of a runtime."""


def check_program(runtime: str, code: bytes) -> None:
    """Raise a `Problem` unless `code` has the form of a program for `runtime`."""
    if runtime == "wasm":
        if not code.startswith(WASM_HEADS) and not WASM_TEXT.match(code):
            raise _invalid("a WebAssembly module begins with \\0asm, its text form with (module")
    elif runtime == "onnx" and not _is_model(code):
        raise _invalid("not an ONNX model")
    else:
        architecture(runtime, code)


def architecture(runtime: str, code: bytes) -> str:
    """Return the only architecture that runs a program, empty where any does.

    Raises a `Problem` for an executable that none runs.
    """
    if runtime != "exec":
        return ""
    try:
        return elf.machine(code)
    except ValueError as error:
        raise _invalid(str(error)) from None


def check_level(runtime: str, isolation: str | None) -> None:
    """Raise a `Problem` for a level at which no worker ever runs programs of `runtime`."""
    if isolation == "wasm" and STRONGEST[runtime] != "wasm":
        raise Problem(
            "invalid_field",
            f"isolation: {runtime} is native code, its strongest level is {STRONGEST[runtime]}",
            field="isolation",
        )


def _invalid(detail: str) -> Problem:
    return Problem("invalid_source", f"source: {detail}", field="source")


def _is_model(code: bytes) -> bool:
    """Return whether the fields of a protocol buffer fill `code`, and a graph is one of them."""
    at, found = 0, False
    try:
        while at < len(code):
            key, at = _varint(code, at)
            kind = key & 7
            if kind == 0:
                _, at = _varint(code, at)
            elif kind == 1:
                at += 8
            elif kind == 2:
                size, at = _varint(code, at)
                at += size
            elif kind == 5:
                at += 4
            else:
                return False
            found = found or key == ONNX_GRAPH << 3 | 2
    except IndexError:
        return False
    return found and at == len(code)


def _varint(code: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = code[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError
