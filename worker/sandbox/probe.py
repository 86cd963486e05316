"""Which isolation levels this machine has, found by trying: a function that looks for holes.

A sandboxed child is started as for a job, and runs a function that tries to leave.  The level is
there if it could not.  That it is there is kept until the machine is started again or another
interpreter, user or version of this package asks; that it is not is looked at again each time.
"""

import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from worker import frames
from worker.capabilities import LEVELS
from worker.child import Child, LoadedProgram, make_attempt, start_python
from worker.protocol import Isolation, Lease, Limits, Program
from worker.sandbox.cell import Sandbox
from worker.sandbox.native import NativeSandbox

LEVELS_FILE: Final = "levels.json"
"""Under which circumstances level `sandbox` was found, in the worker's directory."""
PROBE_TIMEOUT_S: Final = 20.0
"""Longest time for a probe. Source: guess; it takes 0.2 s."""
READ_SIZE_BYTES: Final = 64 * 1024

HOLES: Final = """
import os, _socket

def handler(secret):
    ways = {
        "files": lambda: open(secret).close(),
        "sockets": lambda: _socket.socket().close(),
        "programs": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "writing": lambda: open(os.path.dirname(os.__file__) + "/probe", "x").close(),
        "processes": lambda: os.kill(os.getppid(), 0) if os.getppid() else 1 / 0,
        "identity": lambda: os.setuid(0),
    }
    found = []
    for name, way in ways.items():
        try:
            way()
        except (OSError, ZeroDivisionError):
            continue
        found.append(name)
    return found
"""
"""Answers which ways out it found; `secret` is a file that its worker can read."""


def measure_levels(directory: Path) -> dict[Isolation, str]:
    """Return the levels that native functions can have -> what is missing, empty where nothing is.

    Blocks for up to a second the first time; `directory` keeps what was found.
    """
    key = _circumstances()
    path = directory / LEVELS_FILE
    with suppress(OSError, ValueError):
        kept = json.loads(path.read_text())
        if kept == key:
            return {"process": "", "sandbox": ""}
    missing = try_sandbox(directory)
    if not missing:
        with suppress(OSError):
            path.write_text(json.dumps(key))
    return {"process": "", "sandbox": missing}


def offered(levels: Mapping[Isolation, str], least: Isolation | None) -> list[Isolation]:
    """Return the levels that a worker gives, weakest first: those not weaker than `least`.

    `None`: only what strangers' code may run at.
    """
    strong = LEVELS[LEVELS.index(least or "sandbox") :]
    return [level for level in strong if levels.get(level) == ""]


def try_sandbox(directory: Path) -> str:
    """Run a function at level `sandbox`; return why that does not work, or nothing."""
    try:
        directory = directory.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix="probe-") as made:
            Path(made).chmod(0o711)
            sandbox = NativeSandbox(Path(made))
            try:
                return look_for_holes(sandbox, Path(made))
            finally:
                sandbox.close()
    except OSError as error:
        return error.strerror or str(error)


def look_for_holes(sandbox: Sandbox, directory: Path) -> str:
    """Return which ways lead out of a child of `sandbox`, or why none was tried, or nothing."""
    secret = directory / "secret"
    secret.write_text("readable for who is out")
    program = LoadedProgram(Program("0.0", "python", "handler", HOLES.encode(), []))
    text = json.dumps(str(secret)).encode()
    attempt = make_attempt(Lease(0, 0, 1, "0.0", text, {}, Limits(), "sandbox", None), program)
    child = Child(start_python("sandbox"), sandbox, directory / "1")
    try:
        child.assign(attempt, [])
        child.run(attempt, 0.0)
        child.flush()
        done = _outcome(child)
    finally:
        child.kill()
        printed = os.read(child.pipes[1], READ_SIZE_BYTES) if child.piped() else b""
        child.reap()
        child.remove()
    if done is None:
        return printed.decode("utf-8", "replace").strip() or "a child in it ends at once"
    if done.error_code is not None:
        return done.payload.decode("utf-8", "replace")
    holes = json.loads(done.payload)
    return f"it leaks: {', '.join(holes)}" if holes else ""


def _outcome(child: Child) -> frames.Done | None:
    """Return how the child's only job ended; `None` if the child did before."""
    unread = bytearray()
    deadline_s = time.monotonic() + PROBE_TIMEOUT_S
    socket = select.poll()
    socket.register(child.socket, select.POLLIN)
    while (left_s := deadline_s - time.monotonic()) > 0:
        if not socket.poll(left_s * 1000):
            break
        with suppress(OSError, frames.FrameError):
            if not (data := child.socket.recv(READ_SIZE_BYTES)):
                return None
            unread += data
            for frame in frames.take_frames(unread):
                if isinstance(frame, frames.Done):
                    return frame
    return None


def _circumstances() -> list[object]:
    """Return what a kept finding depends on."""
    try:
        ours = version("peernode")
    except PackageNotFoundError:
        ours = ""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return [
        ours,
        sys.executable,
        sys.version,
        os.geteuid(),
        os.uname().release,
        boot.read_text().strip() if boot.exists() else "",
    ]
