"""The process that sandboxed jobs are forked from: a blank interpreter behind walls.

Run as `python -I zygote.py CONTROL JOBS`: a descriptor of a socket to the agent, and the agent's
directory, in which `root` is an empty one.  It enters namespaces of its own (user, mount, IPC, UTS,
network) and a root that holds what `worker.sandbox.view` says, then answers `ready`, or why not.
Each request, the name of a directory in it with four descriptors (socket, tickets, stdout, stderr),
has it fork one child, whose process number it answers.

An agent that is root becomes nobody (`NOBODY`) here, by `setuid`, once the mounts are made; any
other stays who it is, which outside is all that the kernel ever knows it as.  Inside both are
`NOBODY`.  A child gets a process, a user and a mount namespace of its own besides; it is the first
in its process namespace, so that killing it kills all that it started, at once and by the kernel.
It is a child of the agent (`CLONE_PARENT`), like those that the agent starts itself.

`harden` closes the walls around a child before foreign code is there: `worker.runtimes` calls it
when it is handed its program.
"""

import gc
import os
import resource
import select
import socket
import sys

if __name__ == "__main__":  # `-I` leaves no way to our own packages; functions need none
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from worker.runtimes import python_child
from worker.sandbox import kernel, landlock, seccomp, view

if __name__ == "__main__":
    sys.path.pop()

NOBODY = 65534
"""User and group inside, and outside too where the agent is root. Source: Linux' overflow id."""
DESCRIPTORS = 4
CHANNEL_AT, TICKETS_AT, STATUS_AT, MARKS_AT = range(60, 64)
"""Descriptors of a child, all that it has beside the standard ones. Source: above the zygote's."""
FILES_OPEN_MAX = 1 << 20
"""Source: the kernel's usual limit."""
REQUEST_SIZE_MAX_BYTES = 64
FILES_MAX = 256
"""Open files of one process. Source: guess; bounds what socket buffers and pipes can hold."""
TASKS_SLACK = 256
"""How many processes and threads there may be beside `processes`. Source: guess, a thread pool for
each of some libraries; what is over `processes` is also counted, by name."""
FILES_IN_SCRATCH_MAX = 16384
"""Most files and directories of a job. Source: guess; 1 KiB of kernel memory each."""
_SHARED = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET


def main() -> None:
    """Prepare, say so, and fork until the agent is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        walls = Walls(sys.argv[2])
    except OSError as error:
        control.send(f"error {error}".encode())
        return
    proc = STATUS_AT, MARKS_AT
    runtime = python_child.Runtime(CHANNEL_AT, TICKETS_AT, walls.harden, proc)
    gc.collect()
    gc.freeze()  # Children share these pages as long as nobody writes to them.
    kernel.die_with_parent()
    control.send(b"ready")
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, REQUEST_SIZE_MAX_BYTES, DESCRIPTORS)
        if not request:
            return
        try:
            process = walls.fork()
        except OSError as error:
            control.send(f"error {error}".encode())
            process = -1
        if process == 0:
            be_child(runtime, walls, request.decode(), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if process > 0:
            control.send(b"%d" % process)


class Walls:
    """What stands around every job of this zygote, and what each gets of its own."""

    def __init__(self, jobs: str) -> None:
        """Enter the shared namespaces and the new root. Raises `OSError`."""
        if kernel.MACHINE not in seccomp.ARCHITECTURES:
            raise OSError(f"there is no table of system calls for {kernel.MACHINE}")
        self.filter = seccomp.filter_program(kernel.MACHINE)
        self.filter_running = seccomp.filter_program(kernel.MACHINE, runs_program=True)
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        root = os.path.join(jobs, "root")
        if os.geteuid() == 0:
            kernel.unshare(_SHARED)
            view.build_root(root, jobs)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            kernel.own_proc()
            outside = NOBODY, NOBODY
            kernel.unshare(kernel.CLONE_NEWUSER)
            self._map(outside)
        else:
            outside = os.geteuid(), os.getegid()
            kernel.unshare(kernel.CLONE_NEWUSER | _SHARED)
            self._map(outside)
            view.build_root(root, jobs)
        self._rules = landlock.Rules([*view.visible(), *view.DEVICES], ["/dev/null"])

    def fork(self) -> int:
        """Fork a child in namespaces of its own; return as `os.fork` does. Raises `OSError`."""
        return kernel.fork_sibling(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)

    def enter(self, name: str) -> tuple[int, int]:
        """Take a new child's place inside; return descriptors of its status and memory marks."""
        self._map((NOBODY, NOBODY))
        status = self._open("status", os.O_RDONLY)
        marks = self._open("clear_refs", os.O_WRONLY)
        kernel.mount(f"{view.JOBS}/{name}", view.GIVEN, flags=kernel.MS_BIND)
        return status, marks

    def harden(
        self, packages: str, image: int, memory_bytes: int, output_bytes: int, processes: int
    ) -> str:
        """Close all walls: after this the process may be given foreign code. Raises `OSError`.

        `image`: the open program that it will run, and nothing else; -1: it runs none.  Returns
        where the packages of `packages` now are; empty: there are none.
        """
        for name, value in (
            (resource.RLIMIT_DATA, memory_bytes),
            (resource.RLIMIT_FSIZE, output_bytes),
            # Of 0 a program that the machine has take its cores would not hear; of 1 it does.
            (resource.RLIMIT_CORE, 1),
            (resource.RLIMIT_NOFILE, FILES_MAX),
            # It is a user of its own, so the kernel counts its tasks and nobody else's.
            (resource.RLIMIT_NPROC, processes + TASKS_SLACK),
        ):
            _, hard = resource.getrlimit(name)
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(name, (most, most))
        quiet = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        # It takes memory, so whoever may have little of that has little of it too.
        size_bytes = min(output_bytes, memory_bytes)
        options = f"size={size_bytes},nr_inodes={FILES_IN_SCRATCH_MAX},mode=0700"
        kernel.mount("scratch", view.SCRATCH, "tmpfs", quiet, options)
        if packages:
            kernel.mount(packages, view.PACKAGES, flags=kernel.MS_BIND)
        # What is another's goes out of sight: a second view costs less than a new file system.
        kernel.mount(view.NOTHING, view.JOBS, flags=kernel.MS_BIND)
        readable = [view.GIVEN, view.PACKAGES] if packages else [view.GIVEN]
        self._rules.confine(readable, view.SCRATCH)
        kernel.give_up_privileges()
        kernel.install_filter(self.filter if image < 0 else self.filter_running)
        # Whatever else came from the zygote.
        begin = 3
        for kept in sorted({max(image, 2), CHANNEL_AT, TICKETS_AT, STATUS_AT, MARKS_AT}):
            os.closerange(begin, kept)
            begin = kept + 1
        os.closerange(begin, FILES_OPEN_MAX)
        return view.PACKAGES if packages else ""

    def _map(self, outside: tuple[int, int]) -> None:
        """Say who `NOBODY` of this process's new user namespace is outside of it."""
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{NOBODY} {outside[0]} 1"),
            ("gid_map", f"{NOBODY} {outside[1]} 1"),
        ):
            descriptor = self._open(name, os.O_WRONLY)
            os.write(descriptor, text.encode())
            os.close(descriptor)

    def _open(self, name: str, flags: int) -> int:
        return os.open(f"self/{name}", flags | os.O_CLOEXEC, dir_fd=self._proc)


def be_child(
    runtime: python_child.Runtime, walls: Walls, name: str, descriptors: list[int]
) -> None:
    """Be one child, from its fork to its end. Does not return."""
    try:
        kernel.die_with_parent()
        os.setsid()  # or it could signal its process group, which is the zygote's
        for descriptor, place in zip(descriptors, (CHANNEL_AT, TICKETS_AT, 1, 2), strict=True):
            os.dup2(descriptor, place, inheritable=False)
        agent = select.poll()
        agent.register(CHANNEL_AT, 0)
        if agent.poll(0):  # it ended before its death would have been ours
            os._exit(0)
        for descriptor, place in zip(walls.enter(name), (STATUS_AT, MARKS_AT), strict=True):
            os.dup2(descriptor, place, inheritable=False)
        runtime.run()
    except OSError as error:
        os.write(2, f"the sandbox cannot be closed: {error}\n".encode())
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
