"""System calls that Python has no function for, by their numbers: Linux on x86-64 and arm64.

Each raises `OSError` that names what was asked.  Nothing here decides anything, and nothing but the
standard library is imported: it runs in the zygote, before and after its forks.
"""

import ctypes
import os
import platform
import signal
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
_CLONE_PARENT: Final = 0x00008000
_CLONE_CHILD_SETTID: Final = 0x01000000
_CLONE_CHILD_CLEARTID: Final = 0x00200000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

ATTRIBUTE_RDONLY: Final = 1
ATTRIBUTE_NOSUID: Final = 2
ATTRIBUTE_NODEV: Final = 4
ATTRIBUTE_NOEXEC: Final = 8
_AT_RECURSIVE: Final = 0x8000
_AT_FDCWD: Final = -100

PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_TID_ADDRESS: Final = 40
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522

_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_MOUNT_SETATTR: Final = 442
_LANDLOCK_CREATE: Final = 444
_LANDLOCK_ADD: Final = 445
_LANDLOCK_RESTRICT: Final = 446

MACHINE: Final = platform.machine()
_library: Final = ctypes.CDLL(None, use_errno=True)
_holding: Final = ctypes.PyDLL(None, use_errno=True)
"""The same, but the interpreter's lock stays held: for what returns twice."""


# Classes of ctypes are made here and not where they are used, which is in every child.
_CapabilityHeader: Final = ctypes.c_uint32 * 2
_Capabilities: Final = ctypes.c_uint32 * 6


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("namespace", ctypes.c_uint64),
    )


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("directory", ctypes.c_int32))


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _call(what: str, number: int, *arguments: object) -> int:
    return _checked(_library.syscall(number, *arguments), what)


def _control(what: str, *arguments: object) -> None:
    padded = [*arguments, 0, 0, 0, 0][:5]
    _checked(_library.prctl(*padded), what)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new ones."""
    _checked(_library.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source`, or a new file system of a kind, at `target`."""
    arguments = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    _checked(_library.mount(*arguments), f"mount at {target}")


def set_mount(target: str, attributes: int, *, below: bool = False) -> None:
    """Add attributes to the mount at `target`, and with `below` to all mounts under it."""
    wanted = _MountAttributes(attributes, 0, 0, 0)
    _call(
        f"mount_setattr at {target}",
        _MOUNT_SETATTR,
        _AT_FDCWD,
        target.encode(),
        _AT_RECURSIVE if below else 0,
        ctypes.byref(wanted),
        ctypes.sizeof(wanted),
    )


def enter_root(directory: str) -> None:
    """Make `directory`, a mount, this process's root, and let go of the old one for good."""
    os.chdir(directory)
    _call("pivot_root", _PIVOT_ROOT[MACHINE], b".", b".")
    _checked(_library.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def fork_sibling(flags: int) -> int:
    """Fork a child of this process's *parent*, in the new namespaces that `flags` name.

    Returns as `os.fork` does. For a process with one thread: what the interpreter does at a fork is
    done here, by its own functions.
    """
    address = ctypes.c_void_p()
    flags |= _CLONE_PARENT | signal.SIGCHLD
    if _library.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) == 0:
        # As `fork` has it: the C library keeps the thread's number there.
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    where = address.value or 0
    pair = (where, 0) if MACHINE == "x86_64" else (0, where)
    words = [ctypes.c_long(word) for word in (flags, 0, 0, *pair)]
    ctypes.pythonapi.PyOS_BeforeFork()
    result: int = _holding.syscall(ctypes.c_long(_CLONE[MACHINE]), *words)
    code = ctypes.get_errno()
    if result == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if result < 0:
        raise OSError(code, f"clone: {os.strerror(code)}")
    return result


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends."""
    _control("prctl(PDEATHSIG)", PR_SET_PDEATHSIG, signal.SIGKILL)


def own_proc() -> None:
    """Own this process's files in `/proc`, which a change of user gave to root."""
    _control("prctl(DUMPABLE)", _PR_SET_DUMPABLE, 1)


def give_up_privileges() -> None:
    """Drop every capability, and gain none by running a program."""
    header, none = _CapabilityHeader(_CAPABILITY_VERSION_3, 0), _Capabilities()
    _call("capset", _CAPSET[MACHINE], ctypes.byref(header), ctypes.byref(none))
    _control("prctl(NO_NEW_PRIVS)", _PR_SET_NO_NEW_PRIVS, 1)


def install_filter(program: bytes) -> None:
    """Have every system call from now on judged by `program` (classic BPF)."""
    wanted = _Filter(len(program) // 8, ctypes.cast(ctypes.c_char_p(program), ctypes.c_void_p))
    _control("seccomp", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted))


def landlock_version() -> int:
    """Return the version of Landlock that this kernel has; 0: none that is switched on."""
    return max(0, int(_library.syscall(_LANDLOCK_CREATE, None, 0, 1)))


def landlock_create(files: int, network: int, scoped: int, version: int) -> int:
    """Return a descriptor of a set of rules that govern the accesses given."""
    ruleset = _Ruleset(files, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    return _call("landlock_create_ruleset", _LANDLOCK_CREATE, ctypes.byref(ruleset), size, 0)


def landlock_allow(ruleset: int, access: int, place: int) -> None:
    """Add a rule: `access` is allowed at and below `place`, a descriptor of it."""
    rule = _Rule(access, place)
    _call("landlock_add_rule", _LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0)


def landlock_enter(ruleset: int) -> None:
    """Keep this process, and all it starts, to the rules."""
    _call("landlock_restrict_self", _LANDLOCK_RESTRICT, ruleset, 0)
