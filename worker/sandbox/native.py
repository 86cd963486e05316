"""Level `sandbox`: native functions of strangers, in cells that a zygote forks.

The zygote (`worker.sandbox.zygote`) is started with the first child, and anew when it has died.
Asking it for a child blocks for the time of a fork, about a millisecond: shorter than starting a
program takes, and then the child's number is known, so nothing can be lost between the two.

A file is given to a job by a second name for it (a hard link) in the child's own directory, of
which the child has a read-only view; the name is removed when the job is over.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.protocol import Limits
from worker.sandbox import view
from worker.sandbox.cell import Cell, Descriptors, Start
from worker.sandbox.errors import SandboxBroken

ZYGOTE_PATH: Final = Path(__file__).parent / "zygote.py"
PYTHON_CHILD_PATH: Final = Path(__file__).parents[1] / "runtimes" / "python_child.py"
ANSWER_TIMEOUT_S: Final = 20.0
"""Longest wait for a zygote. Source: guess; it starts in 0.1 s and forks in 1 ms."""
ANSWER_SIZE_MAX_BYTES: Final = 4096


class NativeCell:
    """A child in namespaces of its own."""

    scratch = view.SCRATCH

    def __init__(self, pid: int, directory: Path) -> None:
        self.pid = pid
        self._directory = directory
        self._given: list[Path] = []

    def limit(self, limits: Limits) -> None:
        """Do nothing: it limits itself when it closes its walls; root may not be allowed to."""

    def admit(self, path: str) -> str:
        """Link a file into the child's directory; return the link as the child sees it."""
        name = os.path.basename(path)
        place = self._directory / name
        if place not in self._given:
            try:
                os.link(path, place)
            except OSError:  # on another disk, or not ours
                shutil.copyfile(path, place)
                place.chmod(0o444)
            self._given.append(place)
        return f"{view.GIVEN}/{name}"

    def packages(self, path: str) -> str:
        """Return the place of one of the directories that all children see at first."""
        return f"{view.JOBS}/{view.PACKAGES_NAME}/{os.path.basename(path)}"

    def clear(self) -> None:
        """Remove the links."""
        for place in self._given:
            with suppress(OSError):
                place.unlink()
        self._given.clear()

    def kill(self) -> None:
        """Kill it; the kernel then kills what is in its process namespace."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for it and return its exit status."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def remove(self) -> bool:
        """Remove its directory, in which only we wrote."""
        self.clear()
        with suppress(OSError):
            self._directory.rmdir()
        return True


class NativeSandbox:
    """Starts native Python children, and no other program."""

    def __init__(self, directory: Path) -> None:
        """`directory` holds those of all children, of every level."""
        self._directory = directory
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the zygote's process number."""
        return () if self._zygote is None else (self._zygote.pid,)

    def start(self, start: Start, directory: Path, descriptors: Descriptors) -> Cell:
        """Have a child forked. Raises `OSError`."""
        if start.argv[-1] != str(PYTHON_CHILD_PATH):
            raise ValueError(f"level sandbox runs {PYTHON_CHILD_PATH.name} only, not {start.argv}")
        if self._control is None:
            self._control = self._open(start)
        directory.mkdir()
        directory.chmod(0o755)  # who it is inside may be another user than we
        sent = [descriptors.socket, descriptors.tickets, descriptors.stdout, descriptors.stderr]
        try:
            socket.send_fds(self._control, [directory.name.encode()], sent)
            return NativeCell(int(self._answer(self._control)), directory)
        except OSError:
            self.close()
            directory.rmdir()
            raise

    def close(self) -> None:
        """End the zygote."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            self._zygote = None

    def _open(self, start: Start) -> socket.socket:
        try:
            (self._directory / "root").mkdir(exist_ok=True)
            (self._directory / view.PACKAGES_NAME).mkdir(exist_ok=True)
        except OSError as error:
            raise SandboxBroken(f"level sandbox: {error}") from error
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.settimeout(ANSWER_TIMEOUT_S)
        with there:
            # In this thread: the zygote and its children die with the thread that starts it.
            self._zygote = subprocess.Popen(
                [sys.executable, "-I", ZYGOTE_PATH, str(there.fileno()), self._directory],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(there.fileno(),),
                cwd="/",
                env={**start.environment, "HOME": view.SCRATCH, "TMPDIR": view.SCRATCH},
                start_new_session=True,
            )
        try:
            self._answer(here)
        except OSError as error:
            here.close()
            self.close()
            raise SandboxBroken(f"level sandbox: {error}") from error
        return here

    def _answer(self, control: socket.socket) -> str:
        """Return what the zygote answers. Raises `OSError` if that is an error, or nothing."""
        answer = control.recv(ANSWER_SIZE_MAX_BYTES).decode("utf-8", "replace")
        if not answer or answer.startswith("error"):
            raise OSError(answer.removeprefix("error ") or "the sandbox's zygote has ended")
        return answer
