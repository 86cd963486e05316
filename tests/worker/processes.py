"""Processes of functions as the machine sees them, whatever number they have inside their walls."""

import os
from contextlib import suppress
from pathlib import Path

import trio

WITHIN_S = 2.0
"""After its limit a job must have ended by then."""


def call_it(name: str) -> str:
    """Return a line of a function that gives its process a name (15 bytes), to be found by.

    What it forks has that name too.
    """
    return f"__import__('ctypes').CDLL(None).prctl(15, {name.encode()!r})"


def named(name: str) -> list[int]:
    """Return the living processes of that name."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                head, _, rest = Path(entry.path, "stat").read_text().rpartition(")")
                if head.partition("(")[2] == name and rest.split()[0] not in "ZX":
                    found.append(int(entry.name))
    return found


async def gone(pid: int) -> None:
    """Wait until a process is gone; fail if it stays."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(WITHIN_S):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def all_gone(name: str) -> None:
    """Wait until no process of that name is left; fail if one stays."""
    # Looked for twice: one that forks and ends during the first look leaves one that it has passed.
    while found := named(name) or named(name):
        for pid in found:
            await gone(pid)
