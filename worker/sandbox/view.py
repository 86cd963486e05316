"""What a job sees of the machine: a root of its own, in which nothing else exists.

Read-only: the interpreter's libraries and packages, the system's shared libraries, time zones, the
processor's description, this package's own code; the null device and the kernel's random numbers.
Each stands where it stands on the machine, symbolic links included.  Of the node, its keys, its
users, `/proc` and `/etc` nothing is there.  Beside these: `JOBS` (what the agent shares, covered up
again by `NOTHING` before foreign code runs), `GIVEN` (what the job was given to read), `PACKAGES`
(what its program brings) and `SCRATCH`.
"""

import os
import sys
import sysconfig
from pathlib import Path
from typing import Final

from worker.sandbox import kernel

SCRATCH: Final = "/scratch"
"""The job's own directory, a file system in memory of a bounded size."""
GIVEN: Final = "/given"
"""Contents of blobs that the running job asked for."""
PACKAGES_NAME: Final = "packages"
"""In the agent's directory: what programs bring (`worker.packages`), one directory a set."""
PACKAGES: Final = f"/{PACKAGES_NAME}"
"""The one set of the job's own program, or an empty directory."""
JOBS: Final = "/jobs"
"""The agent's directory, with one for each child, and `PACKAGES_NAME`."""
NOTHING: Final = "/nothing"
"""A directory that is empty, and stays so."""
ROOT_SIZE: Final = "size=1m,nr_inodes=4096,mode=0755"
"""Bounds of the root itself, which holds only directories and links. Source: guess."""
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_SYSTEM: Final = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
)


def visible() -> tuple[str, ...]:
    """Return the paths that are shown, as they are named on this machine."""
    paths = sysconfig.get_paths()
    python = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    # Shared libraries of an interpreter that is not the system's stand beside its own.
    libraries = os.path.join(sys.base_exec_prefix, "lib")
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    wanted = [*_SYSTEM, libraries, *python, ours]
    return tuple(path for path in dict.fromkeys(wanted) if os.path.exists(path))


class Root:
    """A root under construction at `directory`, which becomes a mount."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._shown: list[str] = []
        kernel.mount("root", directory, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, ROOT_SIZE)
        for path in (SCRATCH, GIVEN, JOBS, PACKAGES, NOTHING):
            os.mkdir(directory + path)

    def show(self, path: str, attributes: int) -> None:
        """Show a file or directory of the machine, with these attributes on its mount."""
        path = self._lay(path)
        if any(path == shown or path.startswith(shown + "/") for shown in self._shown):
            return
        target = self._directory + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).touch()
        self.bind(path, path, attributes)
        self._shown.append(path)

    def bind(self, source: str, path: str, attributes: int) -> None:
        """Mount `source` of the machine at `path` of the root, which exists."""
        target = self._directory + path
        kernel.mount(source, target, flags=kernel.MS_BIND | kernel.MS_REC)
        kernel.set_mount(target, attributes, below=True)

    def close(self) -> None:
        """Let nothing more be changed in the root itself."""
        kernel.set_mount(self._directory, kernel.ATTRIBUTE_RDONLY)

    def _lay(self, path: str) -> str:
        """Make the symbolic links on the way to `path`; return it without any."""
        done = ""
        rest = [part for part in path.split("/") if part]
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = os.path.dirname(done)
                continue
            step = f"{done}/{part}"
            if not os.path.islink(step):
                done = step
                continue
            link = os.readlink(step)
            self._link(step, link)
            if link.startswith("/"):
                done = ""
            rest[:0] = [name for name in link.split("/") if name not in ("", ".")]
        return done or "/"

    def _link(self, step: str, link: str) -> None:
        inside = self._directory + step
        if not os.path.lexists(inside):
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            os.symlink(link, inside)


def build_root(directory: str, jobs: str) -> None:
    """Make the root at `directory` and enter it; `jobs` is the agent's directory."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    root = Root(directory)
    read_only = kernel.ATTRIBUTE_RDONLY | kernel.ATTRIBUTE_NOSUID
    # Short paths first: what stands in a shown directory is shown with it.
    for path in sorted(visible(), key=len):
        root.show(path, read_only | kernel.ATTRIBUTE_NODEV)
    for path in DEVICES:
        root.show(path, kernel.ATTRIBUTE_NOSUID | kernel.ATTRIBUTE_NOEXEC)
    quiet = kernel.ATTRIBUTE_NOSUID | kernel.ATTRIBUTE_NODEV | kernel.ATTRIBUTE_NOEXEC
    root.bind(jobs, JOBS, quiet | kernel.ATTRIBUTE_RDONLY)
    # Compiled packages are mapped to be executed.
    packages = os.path.join(jobs, PACKAGES_NAME)
    root.bind(packages, f"{JOBS}/{PACKAGES_NAME}", read_only | kernel.ATTRIBUTE_NODEV)
    root.close()
    kernel.enter_root(directory)
