"""WebAssembly on this machine: compiling, and the interpreter that is built once.

The agent asks here what there is and where compiled code lies, without loading wasmtime; as a
program (`python -m worker.wasm`) this compiles a module or builds the interpreter, in a process of
its own with limits of its own.  What runs compiled code is `worker.runtimes.wasm_*`.

**Compiled code is machine code, and wasmtime trusts it.**  It is named by the hash of all it came
from (content, engine, processor), written only here and never by a process that runs functions,
and used only if it belongs to this user and nobody else may write it (`trusted`).  What runs as the
same user without a sandbox (level `process`) can write there as it can write anywhere; that level
is for one's own code.

**A module that is costly to compile** costs time and memory of the compiling process, which has
limits (`COMPILE_*`), no threads and low priority.  Compiling happens once a program, before its
jobs start, and is not counted into their run times.

**The interpreter** is CPython as a component (componentize-py), with `runtimes/wasm_guest.py` in
it, `edge`, and the modules of the standard library that the guest imports: at run time nothing else
can be imported, as there are no files.
"""

import ctypes
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from worker.runtimes.wasm_engine import CONFIGURATION, make_engine, trusted

__all__ = ["trusted"]

COMPILE_TIME_MAX_S: Final = 20
"""Most CPU seconds to compile a module. Source: Python's own interpreter, 18 MB, takes 8."""
COMPILE_MEMORY_MAX_BYTES: Final = 2 << 30
"""Most memory for it. Source: that interpreter takes 400 MB."""
MESSAGE_LENGTH_MAX: Final = 1024
"""Longest reason why there is no code. Source: guess."""
BUILD_TIME_MAX_S: Final = 300
"""Most CPU seconds to build the interpreter. Source: 18 measured, on a slow machine."""
COMPILED_MAX: Final = 256
"""Most compiled modules kept; the least recently used go. Source: guess, 30 KB to 40 MB each."""
INTERPRETERS_MAX: Final = 4
"""Most interpreters kept for a user: one for each version that is in use. Source: guess."""
COMPONENT: Final = b"\0asm\x0d\0\1\0"
"""How a component begins; a core module has version 1, layer 0."""
MODULE: Final = b"\0asm\1\0\0\0"
IMPORTS: Final = ("wasi_snapshot_preview1", "edge")
"""Modules that a core module may import from."""
PR_SET_PDEATHSIG: Final = 1
SIGKILL: Final = 9

WORLD: Final = """
package peernode:runner;
world runner {
  /// operation, arguments (JSON), name and value of the one argument of bytes
  /// -> problem, answer (JSON), name and value of its bytes
  import ask: func(operation: string, arguments: string, name: string, data: string)
    -> tuple<string, string, string, string>;
  /// name, entry and source -> compiled code, or a message and a traceback
  export compile: func(name: string, source: string) -> tuple<string, string, string>;
  /// order (JSON), compiled code, source, input -> error code, payload, traceback, writes (JSON)
  export run: func(order: string, code: string, source: string, text: string)
    -> tuple<string, string, string, string>;
}
"""
"""What the interpreter asks of its host and does for it. Bytes, source and code travel as text
(`runtimes/wasm_bytes.py`)."""
BUILDER: Final = f"""
import ctypes, sys
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {SIGKILL}, 0, 0, 0)
from componentize_py import script
sys.exit(script())
"""
BUILDER_ARGUMENTS: Final = (
    *("-d", "world.wit", "-w", "runner", "componentize", "wasm_guest"),
    *("-p", ".", "-o", "interpreter.wasm"),
)


class CompileError(Exception):
    """A module cannot be compiled, or not within its limits."""


# --- what is there ------------------------------------------------------------------------------


def installed(*names: str) -> list[str]:
    """Return the versions of packages, or nothing if one is not installed."""
    try:
        return [version(name) for name in names]
    except PackageNotFoundError:
        return []


def key(*contents: bytes) -> str:
    """Return the name of what is compiled from `contents` by this engine for this processor."""
    digest = hashlib.sha256()
    features = ""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        features = next((line for line in file if line.startswith(("flags", "Features"))), "")
    engine = [CONFIGURATION, *installed("wasmtime"), platform.machine(), sys.platform, features]
    for part in (json.dumps(engine).encode(), *contents):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def make_directory(path: Path) -> None:
    """Make a directory for compiled code. Raises `OSError`, also if it is somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.lstat().st_uid != os.geteuid() or path.is_symlink():
        raise PermissionError(f"{path} does not belong to this user")
    path.chmod(0o700)


def make_room(directory: Path, most: int) -> None:
    """Remove the least recently used files over `most`."""
    with suppress(OSError):
        found = [
            entry
            for entry in os.scandir(directory)
            if entry.is_file(follow_symlinks=False) and not entry.name.endswith(".lock")
        ]
        found.sort(key=lambda entry: entry.stat().st_mtime_ns, reverse=True)
        for entry in found[most:]:
            os.unlink(entry.path)


def interpreter_path(cache: Path) -> Path | None:
    """Return where the compiled interpreter lies or will lie; `None` if it cannot be built here."""
    versions = installed("wasmtime", "componentize-py")
    if not versions:
        return None
    sources = [file.read_bytes() for file in _interpreter_sources()]
    return cache / "wasm" / f"python-{key(json.dumps(versions).encode(), WORLD.encode(), *sources)}"


def user_cache() -> Path:
    """Return this user's directory for what takes long to make and can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base).absolute() / "peernode"


# --- compiling ------------------------------------------------------------------------------------


def compile_module(content: bytes) -> bytes:
    """Return the machine code of a module, or component, in binary or text form.

    Raises `CompileError`.
    """
    import wasmtime
    from wasmtime import component

    engine = make_engine()
    try:
        if not content.startswith(b"\0asm"):
            content = bytes(wasmtime.wat2wasm(content.decode()))
        if content.startswith(COMPONENT):
            return bytes(component.Component(engine, content).serialize())
        module = wasmtime.Module(engine, content)
    except (wasmtime.WasmtimeError, UnicodeDecodeError) as error:
        raise CompileError(f"not a module: {error}") from None
    unknown = sorted({f"{i.module}.{i.name}" for i in module.imports if i.module not in IMPORTS})
    if unknown:
        shown = ", ".join(name[:80] for name in unknown[:5])
        raise CompileError(
            f"it imports {shown}{', ...' if len(unknown) > 5 else ''}; "
            f"there is only {' and '.join(IMPORTS)}"
        )
    exports = {export.name: export.type for export in module.exports}
    if not isinstance(exports.get("memory"), wasmtime.MemoryType):
        raise CompileError("it exports no memory")
    if not isinstance(exports.get("_start"), wasmtime.FuncType):
        raise CompileError("it exports no _start: build it as a WASI command")
    return bytes(module.serialize())


# --- in a process of its own ----------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Make a file: `compile TARGET SECONDS` (a module by standard input), `interpreter TARGET`.

    Without arguments: the interpreter, where this user's workers look for it.  A line of text on
    standard output says why there is none.
    """
    if not arguments:
        path = interpreter_path(user_cache())
        if path is None:
            sys.stdout.write("the extra 'wasm' is not installed\n")
            return 1
        arguments = ("interpreter", str(path))
    what, target = arguments[0], Path(arguments[1])
    if what == "interpreter" and trusted(target):
        return 0
    if "--die-with-parent" in arguments:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    os.nice(10)
    seconds = int(arguments[2]) if what == "compile" else BUILD_TIME_MAX_S
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (COMPILE_MEMORY_MAX_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        make_directory(target.parent)
        if what == "compile":
            _write(target, compile_module(sys.stdin.buffer.read()))
        else:
            with open(target.with_suffix(".lock"), "wb") as lock:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)  # another worker of this user may be at it
                if not trusted(target):
                    _write(target, compile_module(_build_interpreter()))
                    make_room(target.parent, INTERPRETERS_MAX)
    except (CompileError, OSError, subprocess.SubprocessError, MemoryError) as error:
        # Not more than a pipe takes: nobody reads it before the end.
        sys.stdout.write((str(error) or type(error).__name__)[:MESSAGE_LENGTH_MAX])
        return 1
    return 0


def _write(target: Path, code: bytes) -> None:
    part = target.with_suffix(f".part{os.getpid()}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(code)
        os.rename(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _interpreter_sources() -> list[Path]:
    here = Path(__file__).parent
    return [
        here / "edge.py",
        *(here / "runtimes" / name for name in ("handling.py", "wasm_bytes.py", "wasm_guest.py")),
    ]


def _build_interpreter() -> bytes:
    """Return the interpreter as a component. Raises `CompileError`."""
    with tempfile.TemporaryDirectory(prefix="peernode-") as name:
        directory = Path(name)
        for source in _interpreter_sources():
            shutil.copy(source, directory)
        (directory / "world.wit").write_text(WORLD)
        done = subprocess.run(
            [sys.executable, "-I", "-c", BUILDER, *BUILDER_ARGUMENTS],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise CompileError(done.stdout.decode("utf-8", "replace")[-2000:])
        return (directory / "interpreter.wasm").read_bytes()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
