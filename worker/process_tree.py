"""Ending processes: all of a tree, whatever it does to escape.

A function may fork without end, start new sessions, fork twice to lose its parent, ignore signals.
What holds a tree together nevertheless:

* Each child is made a *subreaper* before it runs foreign code: an orphan below it becomes its own
  child, not `init`'s, so all that a function starts stays below its child while that lives.  When
  the child dies its orphans become the agent's, which is a subreaper too; a direct child that the
  agent did not start is such an orphan, and is killed with all below it.
* A tree is killed to a *fix-point*: its root is stopped, and stays as the one that inherits, what
  is below is killed on sight, again and again until a look finds nothing new, and then the root.
  A process group is killed by one atomic call, which no fork can race.

Linux only (`/proc`, `prctl`).  What it leaves out: namespaces, which level `sandbox` has, where one
signal does all this (`worker.sandbox`); control groups, which need privileges; and children of an
agent that is itself killed: the child dies with its agent (`PR_SET_PDEATHSIG`), what the child
started does not.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

ROUNDS_MAX: Final = 64
"""Looks at all processes in one kill. Source: guess; a fork bomb of one session needs 2."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One row of the process table."""

    pid: int
    parent: int
    group: int
    session: int
    zombie: bool
    cpu_s: float
    rss_bytes: int


def process_table() -> dict[int, Process]:
    """Return every process of this machine (of this PID namespace)."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := read_process(int(name))) is not None:
            table[process.pid] = process
    return table


def read_process(pid: int) -> Process | None:
    """Return one process, or `None` if there is none of that number."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        row = os.read(descriptor, 4096)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    # The name, in parentheses, may hold anything, parentheses and blanks too.
    fields = row[row.rfind(b")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        zombie=fields[0] in (b"Z", b"X"),
        cpu_s=sum(map(int, fields[11:15])) / _TICKS_PER_S,
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def forked_processes() -> int:
    """Return a number that grows with each fork on this machine, and may begin anew.

    It is the last process number given out: far cheaper than the table.
    """
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[4])


def descendants(table: dict[int, Process], root: int) -> list[Process]:
    """Return all below `root` in `table`, without `root`, parents before their children."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    level = [root]
    while level:
        below = [child for pid in level for child in children.pop(pid, ())]
        found += below
        level = [child.pid for child in below]
    return found


@contextmanager
def urgent() -> Iterator[None]:
    """Go before all ordinary processes, where that is allowed.

    Against a thousand forking processes a fair share of the processor is no chance at all.  Where
    it is not allowed (not root), the kernel's own limit keeps their number small.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def kill_tree(root: int) -> None:
    """Kill `root`, a direct child not yet waited for, and everything below it.

    `root` leads its own session.  It is stopped first and killed last: as a subreaper it inherits
    whatever loses its parent meanwhile.
    """
    _signal_group(root, signal.SIGSTOP)
    _signal(root, signal.SIGSTOP)
    members = {root}
    with urgent():
        # Should the root be no subreaper any more, the first look still knows who was below.
        seen = {process.pid for process in descendants(process_table(), root)}

        def is_below(process: Process) -> bool:
            return process.parent in members or process.pid in seen

        for _ in range(ROUNDS_MAX):
            if not _kill_round(members, is_below):
                break
    _signal(root, signal.SIGKILL)


def kill_orphans(known: Iterable[int]) -> bool:
    """Kill and reap every child of this process that is not in `known`; say if there were any.

    Only for a process whose children are all its own work: the agent's.
    """
    here = os.getpid()
    ours = set(known)
    found = False
    members: set[int] = set()

    def is_orphan(process: Process) -> bool:
        if process.parent == here and process.pid not in ours:
            return True
        return process.parent in members

    with urgent():
        for _ in range(ROUNDS_MAX):
            fresh = _kill_round(members, is_orphan)
            for process in process_table().values():
                if process.zombie and process.parent == here and process.pid not in ours:
                    found = True
                    with suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
            if not fresh:
                break
            found = True
    return found


def _kill_round(members: set[int], belongs: Callable[[Process], bool]) -> bool:
    """Kill every process that belongs, add it to `members`, and say whether there was one.

    Newest first, and each at once: one that forks and exits all the time is gone when a whole
    table has been read.
    """
    ours = os.getsid(0)
    fresh = False
    for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc"))), reverse=True):
        if pid in members:
            continue
        process = read_process(pid)
        if process is None or process.zombie or not belongs(process):
            continue
        _signal(pid, signal.SIGKILL)
        members.add(pid)
        fresh = True
        if process.session != ours and process.group not in members:
            # All of its group at once, which no fork can escape.
            _signal_group(process.group, signal.SIGKILL)
    return fresh


def become_subreaper() -> None:
    """Adopt every orphan below this process, from now on. Raises `OSError`."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
