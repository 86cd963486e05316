"""WebAssembly for tests, in text form, so that no compiler is needed; and the interpreter."""

import subprocess
import sys
from pathlib import Path

from worker import wasm

HEAD = """
(import "wasi_snapshot_preview1" "fd_read"
  (func $fd_read (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_write"
  (func $fd_write (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
"""
BODY = """
(memory (export "memory") 4)
(global $end (mut i32) (i32.const 1024))

;; Read all of standard input to 4096; return how many bytes.
(func $read (result i32) (local $size i32)
  (loop $more
    (i32.store (i32.const 0) (i32.add (i32.const 4096) (local.get $size)))
    (i32.store (i32.const 4) (i32.const 65536))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $size (i32.add (local.get $size) (i32.load (i32.const 8))))
    (br_if $more (i32.load (i32.const 8))))
  (local.get $size))

;; Write bytes to a stream.
(func $write (param $stream i32) (param $at i32) (param $size i32)
  (loop $more
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (local.get $stream) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
    (local.set $size (i32.sub (local.get $size) (i32.load (i32.const 8))))
    (br_if $more (local.get $size))))

;; Write the answer of the last call of `edge`.
(func $tell (param $status i32) (local $size i32)
  (if (i32.lt_s (local.get $status) (i32.const 0)) (then
    (call $write (i32.const 2) (i32.const 131072)
      (call $take (i32.const 131072) (i32.const 65536)))
    (call $proc_exit (i32.sub (i32.const 0) (local.get $status)))))
  (local.set $size (call $take (i32.const 131072) (i32.const 65536)))
  (if (local.get $size)
    (then (call $write (i32.const 1) (i32.const 131072) (local.get $size)))))
"""


def module(start: str, imports: str = "", more: str = "") -> str:
    """A command whose `_start` is `start`; `imports` name calls of `edge`."""
    lines = "".join(
        f'(import "edge" "{name}" (func ${name} (param {" ".join(types)}) (result i32)))\n'
        for name, *types in (line.split() for line in f"take i32 i32\n{imports}".splitlines())
    )
    return f'(module {HEAD} {lines} {BODY} {more} (func (export "_start") {start}))'


ECHO = module("(call $write (i32.const 1) (i32.const 4096) (call $read))")

COMPONENT = """
(component
  (core module $code
    (memory (export "memory") 4)
    (global $end (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $end)
      (global.set $end (i32.add (global.get $end) (local.get 3))))
    (func (export "handle") (param $at i32) (param $size i32) (result i32)
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get $at))
      (i32.store (i32.const 24) (local.get $size))
      (i32.const 16)))
  (core instance $made (instantiate $code))
  (func (export "handle") (param "input" string) (result (result string (error string)))
    (canon lift (core func $made "handle") (memory (core memory $made "memory"))
      (realloc (core func $made "realloc")))))
"""
"""A component that answers what it is given."""


def text(at: int, value: str) -> tuple[str, str]:
    """Return a data segment, and the pointer and length of it as arguments."""
    escaped = "".join(f"\\{byte:02x}" for byte in value.encode())
    return (
        f'(data (i32.const {at}) "{escaped}")',
        f"(i32.const {at}) (i32.const {len(value.encode())})",
    )


def calling(name: str, *values: str | int | float | bytes) -> str:
    """A command that makes one call of `edge` and prints its answer."""
    types, arguments, data = [name], [], []
    at = 16384
    for value in values:
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, str):
            segment, argument = text(at, value)
            at += 4096
            data.append(segment)
            arguments.append(argument)
            types += ["i32", "i32"]
        elif isinstance(value, int):
            types.append("i64")
            arguments.append(f"(i64.const {value})")
        else:
            types.append("f64")
            arguments.append(f"(f64.const {value})")
    call = f"(call $tell (call ${name} {' '.join(arguments)}))"
    return module(call, " ".join(types), "\n".join(data))


def interpreter() -> Path:
    """Return Python for level `wasm`, built if this user has none yet."""
    path = wasm.interpreter_path(wasm.user_cache())
    assert path is not None
    if not wasm.trusted(path):
        command = [sys.executable, "-m", "worker.wasm", "interpreter", str(path)]
        subprocess.run(command, check=True, timeout=300)
    return path
